"""The beam current flickers: brightness from line to line and from frame to frame.

A cold field emitter has 1/f noise of a few per cent between two flashes (its tip collects gas), a
Schottky emitter white noise below one per cent. Both multiply the rate before electrons are
counted.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.tree import pytree


@pytree
class BeamCurrent:
    """Multiplicative brightness of lines and frames, with power spectra f^-exponent.

    Attributes
    ----------
    line : float
        Standard deviation of the relative current from line to line.
    frame : float
        The same from frame to frame.
    line_exponent, frame_exponent : float
        0: white; 1: 1/f; 2: Brownian.
    """

    line: Any = 0.0
    frame: Any = 0.0
    line_exponent: Any = 1.0
    frame_exponent: Any = 0.0

    def current(self, key: jax.Array, frames: int, lines: int) -> jax.Array:
        """Relative currents [frames, lines], mean 1; lines go on from one frame to the next."""
        k_line, k_frame = jax.random.split(key)
        fast = coloured(k_line, frames * lines, self.line_exponent).reshape(frames, lines)
        slow = coloured(k_frame, frames, self.frame_exponent)[:, None]
        return jnp.maximum(1 + self.line * fast + self.frame * slow, 0.0)

    def sample(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """A rate [..., frames, lines, pixels] as the flickering beam gives it (not yet counted)."""
        *lead, lines = (1, *rate.shape[:-1]) if rate.ndim else (1, 1)
        current = self.current(key, math.prod(lead), lines)
        shape = (*rate.shape[:-1], 1) if rate.ndim else ()
        return (rate * current.reshape(shape)).astype(rate.dtype)


def coloured(key: jax.Array, n: int, exponent: Any) -> jax.Array:
    """Gaussian noise [n] of variance 1 with the power spectrum f^-exponent.

    Cut from twice its length, so that the end does not go on into the beginning. Below the lowest
    frequency, 1/(2n), the spectrum is flat.
    """
    if n == 0:
        return jnp.zeros(0)
    white = jax.random.normal(key, (2 * n,))
    return jnp.fft.irfft(jnp.fft.rfft(white) * jnp.sqrt(_power(n, exponent)), n=2 * n)[:n]


def coloured_log_density(series: jax.Array, exponent: Any) -> jax.Array:
    """Log density of a series [n] of `coloured`; a scalar: the prior of a current to be fitted."""
    n = series.shape[0]
    correlation = jnp.fft.irfft(_power(n, exponent), n=2 * n)[:n]
    lag = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :])
    factor = jnp.linalg.cholesky(correlation[lag])
    z = jax.scipy.linalg.solve_triangular(factor, series, lower=True)
    return -0.5 * (z @ z) - jnp.log(jnp.diagonal(factor)).sum() - 0.5 * n * math.log(2 * math.pi)


def _power(n: int, exponent: Any) -> jax.Array:
    """Power [n + 1] of the frequencies of 2n points, mean 1 over both signs of frequency."""
    f = np.maximum(np.arange(n + 1), 1).astype(float)
    power = jnp.exp(-exponent * jnp.asarray(np.log(f)))
    return power * (2 * n) / (2 * power.sum() - power[0] - power[-1])
