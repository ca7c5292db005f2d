"""Scan positions, and how a real scan departs from them: drift, line jitter, row gain.

A scan is slow from line to line and fast along a line, so its errors are one displacement (x, y)
per line. `linear.sample_lines` puts them into an image exactly.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.tree import pytree


def raster(
    shape: tuple[int, int],
    sampling: float | tuple[float, float],
    *,
    origin: tuple[float, float] = (0.0, 0.0),
    rotation: float = 0.0,
) -> np.ndarray:
    """Positions (x, y) [ny, nx, 2] in Å of a rectangular scan.

    Parameters
    ----------
    shape : (ny, nx)
    sampling : float or (y, x)
        Å per pixel.
    origin : (x, y)
        Position of pixel (0, 0) in Å.
    rotation : float
        Of the scan about its origin, rad, from +x towards +y.
    """
    if min(shape) < 1:
        raise ValueError(f"a scan needs at least one pixel in y and x, got {shape}")
    dy, dx = np.broadcast_to(sampling, (2,))
    if dy <= 0 or dx <= 0:
        raise ValueError(f"sampling must be positive Å per pixel, got {sampling}")
    y, x = np.meshgrid(np.arange(shape[0]) * dy, np.arange(shape[1]) * dx, indexing="ij")
    c, s = np.cos(rotation), np.sin(rotation)
    return np.stack([origin[0] + c * x - s * y, origin[1] + s * x + c * y], axis=-1)


@pytree
class ScanDistortion:
    """Statistics of a scan's errors.

    Attributes
    ----------
    jitter : (x, y)
        Standard deviation of a line's displacement in Å.
    correlation : float
        Between neighbouring lines (an autoregressive process of first order), 0 to below 1.
    drift : (x, y)
        Å over the whole frame, linear in time.
    gain : float
        Standard deviation of the brightness of a line (beam current), relative.
    """

    jitter: Any = (0.0, 0.0)
    correlation: Any = 0.0
    drift: Any = (0.0, 0.0)
    gain: Any = 0.0

    def sample(self, key: jax.Array, lines: int) -> tuple[jax.Array, jax.Array]:
        """Displacements (x, y) [lines, 2] in Å and brightness [lines] of one frame."""
        shift_key, gain_key = jax.random.split(key)
        white = jax.random.normal(shift_key, (lines, 2))
        rho = jnp.asarray(self.correlation, white.dtype)

        def step(previous: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
            now = rho * previous + jnp.sqrt(1 - rho**2) * noise
            return now, now

        walk = jax.lax.scan(step, white[0], white)[1]
        time = jnp.linspace(-0.5, 0.5, lines)[:, None]
        shift = walk * jnp.stack([*map(jnp.asarray, self.jitter)])[None]
        shift = shift + time * jnp.stack([*map(jnp.asarray, self.drift)])[None]
        return shift, 1 + self.gain * jax.random.normal(gain_key, (lines,))
