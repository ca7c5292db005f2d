"""A picture of a lattice put right, feature by feature, by what it leaves of the image.

A filter that knows periodic matter alone draws columns onto the lattice. Where it put a feature at
the wrong place or gave it the wrong brightness, the image minus the picture has the shape of the
picture's slopes or of its contrast. So in a window about every pixel these three shapes are fitted
to the residual by least squares, with normal priors on displacement and brightness that white noise
of the known variance has to beat, and added. No weights; a closed form.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from emjax.smoothing import gaussian_matrix

WINDOW = 3.0
"""Standard deviation of the window in pixels: about a column."""
DISPLACEMENT = 0.5
"""Prior standard deviation of displacements, in pixels."""
CONTRAST = 0.1
"""The same of relative changes of the local contrast."""


def refitted(
    image: jax.Array,
    picture: jax.Array,
    noise: jax.Array,
    *,
    window: float = WINDOW,
    displacement: float = DISPLACEMENT,
    contrast: float = CONTRAST,
) -> jax.Array:
    """The picture [b, y, x] with its features where the image [b, y, x] has them.

    Parameters
    ----------
    noise : [b], variance of the image's white noise in a pixel.
    window : standard deviation of the fit's Gaussian window in pixels.
    displacement : prior standard deviation in pixels.
    contrast : prior standard deviation of the relative change.
    """
    ny, nx = image.shape[1:]
    rows, columns = (jnp.asarray(gaussian_matrix(n, window)) for n in (ny, nx))

    def blurred(field: jax.Array) -> jax.Array:
        return jnp.einsum("yv,bvu,xu->byx", rows, field, columns)

    size = jnp.asarray(
        gaussian_matrix(ny, window).sum(1)[:, None] * gaussian_matrix(nx, window).sum(1)
    )
    shapes = [slope(picture, 1), slope(picture, 2), picture - blurred(picture) / size[None]]
    priors = (displacement, displacement, contrast)
    # white noise in a sum over the window has this variance per unit of the shape's own square
    white = noise[:, None, None] / (4 * np.pi * window**2) + 1e-12
    # the priors' units put into the shapes: then all unknowns are of the same size
    shapes = [s * p for s, p in zip(shapes, priors, strict=True)]
    residual = image - picture
    seen = [blurred(shape * residual) for shape in shapes]
    a, b, c = (blurred(shapes[i] * shapes[i]) + white for i in range(3))
    d, e, f = (blurred(shapes[i] * shapes[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    # the inverse of a symmetric 3 × 3 matrix by its cofactors
    m00, m11, m22 = b * c - f * f, a * c - e * e, a * b - d * d
    m01, m02, m12 = e * f - d * c, d * f - b * e, d * e - a * f
    determinant = a * m00 + d * m01 + e * m02
    cofactors = ((m00, m01, m02), (m01, m11, m12), (m02, m12, m22))
    change = sum(
        shape * sum(m * s for m, s in zip(row, seen, strict=True))
        for shape, row in zip(shapes, cofactors, strict=True)
    )
    return picture + change / jnp.maximum(determinant, 1e-30)


def slope(image: jax.Array, axis: int) -> jax.Array:
    """Half the difference of the two neighbours; 0 at the border."""
    inner = np.zeros(image.shape[axis], np.float32)
    inner[1:-1] = 0.5
    shape = [1, 1, 1]
    shape[axis] = -1
    return (jnp.roll(image, -1, axis) - jnp.roll(image, 1, axis)) * inner.reshape(shape)
