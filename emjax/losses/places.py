"""How far an image's features are from where they should be, in the loss.

A restorer that pulls a column a few picometres onto the lattice hardly changes a mean square: the
error is a faint dipole. Near a feature of the truth t that was moved by δ the error is -δ · ∇t, so
least squares over a window G gives δ from the error e, and its square weighted with how much there
is to see is Σ (G * e ∂t)² / (G * (∂t)²) / Σ G * (∂t)², in pixels².
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from emjax.smoothing import gaussian_matrix

WINDOW = 3.0
"""Standard deviation of the window in pixels, about a column: a smaller one takes a wrong
brightness for a displacement, a larger one has several columns in it."""


def misplaced(
    difference: jax.Array, truth: jax.Array, *, window: float = WINDOW, floor: float = 1e-6
) -> jax.Array:
    """Mean square displacement of features [b] in pixels², along y and x together.

    Parameters
    ----------
    difference, truth : [b, y, x, 1]
        Restored minus true image, and the true one, in the same unit.
    floor : squared slope of the truth, in its unit per pixel, below which there is no feature.
    """
    error, true = difference[..., 0], truth[..., 0]
    ny, nx = (jnp.asarray(gaussian_matrix(n, window)) for n in error.shape[1:])

    def blurred(image: jax.Array) -> jax.Array:
        return jnp.einsum("yv,bvu,xu->byx", ny, image, nx)

    above = below = 0.0
    for axis in (1, 2):
        slope = 0.5 * (jnp.roll(true, -1, axis) - jnp.roll(true, 1, axis))
        inner = jnp.asarray(_inner(true.shape[axis]))  # the border has no neighbours
        slope *= jnp.expand_dims(inner, (0, 2) if axis == 1 else (0, 1))
        seen = blurred(jnp.square(slope))
        above += (jnp.square(blurred(error * slope)) / (seen + floor)).sum((1, 2))
        below += seen.sum((1, 2))
    return above / (below + floor * error.shape[1] * error.shape[2])


def _inner(n: int) -> np.ndarray:
    return ((np.arange(n) > 0) & (np.arange(n) < n - 1)).astype(np.float32)
