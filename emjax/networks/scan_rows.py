"""Rows of a scanned image put back to where a smooth copy of it has them.

The beam misses its row by a different distance in each (Jones & Nellist, Microsc. Microanal. 19,
1050 (2013)). In the Fourier plane of a lattice that makes streaks; a strong Wiener filter removes
the streaks with the noise and so gives a picture of the lattice without jitter. Each row is
compared with its own row there: the likelihood of every shift, times a normal distribution whose
width is found from all rows (so an image without jitter is left nearly alone), gives the mean
shift.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

REACH, STEP = 3.0, 0.125
"""Shifts that are tried: the largest, and what lies between two of them, in pixels."""
ROUNDS = 4
"""Expectation–maximisation of the width."""


def row_shifts(image: jax.Array, reference: jax.Array, noise: jax.Array) -> jax.Array:
    """How far [b, y] each row of [b, y, x] is to the right of the reference's, in pixels.

    Parameters
    ----------
    image, reference : [b, y, x].
    noise : [b] variance of the image's white noise, in a pixel.
    """
    n = image.shape[-1]
    tried = np.arange(-REACH, REACH + STEP / 2, STEP, dtype=np.float32)
    k = np.arange(n // 2 + 1)
    weight = np.where((k == 0) | (2 * k == n), 1.0, 2.0) / n
    phase = 2 * np.pi / n * np.outer(k, tried)
    cos, sin = ((f(phase) * weight[:, None]).astype(np.float32) for f in (np.cos, np.sin))
    centred = [x - x.mean((1, 2), keepdims=True) for x in (image, reference)]
    rows, wanted = (jnp.fft.rfft(x, axis=-1) for x in centred)
    product = jnp.conj(wanted) * rows
    exact = jax.lax.Precision.HIGHEST
    alike = jnp.matmul(product.real, cos, precision=exact)
    alike -= jnp.matmul(product.imag, sin, precision=exact)
    # what the reference lacks is noise, too
    misfit = jnp.square(centred[0] - centred[1]).mean((1, 2))
    likely = alike / (jnp.maximum(noise, misfit) + 1e-12)[:, None, None]

    square = np.square(tried)[None, None]

    def widen(variance: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        prior = -square / (2 * variance[:, None, None])
        chance = jax.nn.softmax(likely + prior, axis=-1)
        mean = chance @ tried
        spread = (chance @ square[0, 0]).mean(-1) - jnp.square(mean.mean(-1))
        return jnp.maximum(spread, 1e-3), mean

    return jax.lax.scan(widen, jnp.ones(image.shape[0]), None, length=ROUNDS)[1][-1]


def move_rows(image: jax.Array, shifts: jax.Array) -> jax.Array:
    """[b, y, x] with each row moved to the left by its shift [b, y] (periodic; exact)."""
    n = image.shape[-1]
    k = np.arange(n // 2 + 1, dtype=np.float32)[None, None]
    ramp = 2 * jnp.pi / n * shifts[..., None] * k
    rows = jnp.fft.rfft(image, axis=-1) * jax.lax.complex(jnp.cos(ramp), jnp.sin(ramp))
    return jnp.fft.irfft(rows, n=n, axis=-1)
