"""Grey values that a network can rely on: the same for any gain and offset of the detector.

Two channels: contrast against the whole image (which knows how bright a column is among all), and
against the neighbourhood (which sees through thickness, contamination and uneven background).
Training and prediction call this one function.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SMOOTH = 1.5
"""Standard deviation [px] of the smoothing before contrast is judged: noise is not contrast."""
WINDOW = 20.0
"""Standard deviation [px] of the neighbourhood."""
LOW, HIGH = 0.02, 0.995
"""Quantiles of the smoothed image that become 0 and 1."""


def normalise(image: Any) -> jax.Array:
    """Two channels of an image, independent of its gain and offset.

    Parameters
    ----------
    image : float [y, x], on the network's pixel size.

    Returns
    -------
    float32 [y, x, 2] : asinh of the contrast in units of a fifth of the image's range; deviation
        from the neighbourhood's mean in units of its standard deviation. A constant image gives 0.
    """
    x = jnp.asarray(image, jnp.float32)
    # from the minimum: a constant image must be exactly 0, without rounding errors to enlarge
    x = x - jax.lax.stop_gradient(x.min())
    x = x - x.mean()
    size = jax.lax.stop_gradient(jnp.abs(x).max())
    varied = size > 0
    x = x / jnp.where(varied, size, 1)
    x = x * jax.lax.rsqrt(jnp.where(varied, jnp.square(x).mean(), 1))
    smooth = _gaussian(x, SMOOTH)
    # quantiles of every fourth pixel are those of all, at a sixteenth of the sorting
    ordered = jnp.sort((smooth[::4, ::4] if min(x.shape) > 256 else smooth[::2, ::2]).ravel())
    low, high = (ordered[round(q * (ordered.size - 1))] for q in (LOW, HIGH))
    wide = (x - low) / (high - low + 1e-3)
    mean = _gaussian(smooth, WINDOW)
    variance = _gaussian(jnp.square(smooth - mean), WINDOW)
    # where there is next to nothing (vacuum), what little there is must not be blown up
    local = (x - mean) * jax.lax.rsqrt(variance + 0.02 * variance.max() + 1e-6)
    # close to a logarithm for bright places, so that ratios of columns become differences
    return jnp.stack([jnp.arcsinh(5 * wide), local / 2], axis=-1)


def _gaussian(x: jax.Array, sigma: float) -> jax.Array:
    """Smoothed by a Gaussian that is renormalised at the edges."""
    rows, columns = (_matrix(n, sigma) for n in x.shape)
    return rows @ x @ columns.T


def _matrix(n: int, sigma: float) -> np.ndarray:
    """[n, n] float32, rows sum to 1: for pictures, products of matrices beat convolutions."""
    gap = np.arange(n)[:, None] - np.arange(n)[None, :]
    weights = np.exp(-0.5 * (gap / sigma) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
