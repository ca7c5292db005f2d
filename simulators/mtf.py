"""Resolution and noise spectrum of a camera: MTF, NTF, DQE, and how to measure them.

Spatial frequencies q are fractions of the camera's Nyquist frequency (1 = one cycle in two
pixels; the corners of a square pattern lie at √2). A curve is any callable pytree q -> value.

    mean signal  = MTF(q) · rate(q)
    noise power  = rate · MTF²(q) / DQE(q)         [electrons² a pixel]
    DQE(q)       = MTF²(q) / (NNPS(q) · rate),     NNPS = noise power / rate²

(Meyer & Kirkland, Microsc. Res. Tech. 49, 269 (2000); Vulović et al., J. Struct. Biol. 183, 19
(2013), whose order of operations is that of `Camera`.)
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.tree import pytree


@pytree
class Falloff:
    """value(q) = zero · ((1 - floor) / (1 + (q/half)^power) + floor), the usual fit of an MTF.

    Attributes
    ----------
    half : float
        Frequency of half height, in Nyquist frequencies.
    power : float
        Steepness; 2 is a Lorentzian (exponential tails of the point spread).
    floor : float
        Value at infinity, relative to `zero`.
    zero : float
        Value at q = 0: 1 for an MTF, DQE(0) for a DQE.
    """

    half: Any
    power: Any = 2.0
    floor: Any = 0.0
    zero: Any = 1.0

    def __call__(self, q: jax.Array) -> jax.Array:
        """Values like q."""
        safe = jnp.where(q > 0, q, 1.0)  # 0^power has no gradient to the power
        rise = jnp.where(q > 0, (safe / self.half) ** self.power, 0.0)
        return self.zero * ((1 - self.floor) / (1 + rise) + self.floor)


@pytree
class Table:
    """A measured curve, linear between its points and constant beyond them.

    Attributes
    ----------
    q : float [m]
        Increasing, in Nyquist frequencies.
    values : float [m]
    """

    q: Any
    values: Any

    def __post_init__(self) -> None:
        q, values = np.shape(self.q), np.shape(self.values)
        if len(q) != 1 or q != values:
            raise ValueError(f"a table needs as many values as q, both [m]; got {values} and {q}")
        if isinstance(self.q, (np.ndarray, list, tuple)) and (np.diff(self.q) <= 0).any():
            raise ValueError("the frequencies q of a table must increase")

    def __call__(self, q: jax.Array) -> jax.Array:
        """Values like q."""
        return jnp.interp(q, jnp.asarray(self.q, q.dtype), jnp.asarray(self.values, q.dtype))


def frequencies(shape: tuple[int, int], dtype: Any = np.float32) -> np.ndarray:
    """|q| [ny, nx // 2 + 1] in Nyquist frequencies, in the layout of `rfft2`."""
    y, x = np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])
    return 2 * np.hypot(y[:, None], x[None, :]).astype(dtype)


def filtered(image: jax.Array, transfer: Any) -> jax.Array:
    """An image [..., ny, nx] (periodic) times a transfer function of q.

    Parameters
    ----------
    transfer : callable
        From q [ny, nx // 2 + 1] in Nyquist frequencies to factors of that shape.
    """
    if image.ndim < 2:
        raise ValueError(f"an MTF acts on images [..., ny, nx], got shape {image.shape}")
    kind = jnp.promote_types(image.dtype, jnp.float32)
    factor = transfer(jnp.asarray(frequencies(image.shape[-2:], kind)))
    factor = jnp.expand_dims(factor, tuple(range(image.ndim - 2)))
    spectrum = jnp.fft.rfft2(image.astype(kind)) * factor
    return jnp.fft.irfft2(spectrum, s=image.shape[-2:]).astype(image.dtype)


def noise_power(frames: jax.Array) -> jax.Array:
    """Noise power spectrum [ny, nx // 2 + 1] of frames [n, ny, nx] of one scene.

    White noise of variance v has the power v everywhere. The mean of the frames is taken out
    (n - 1 degrees of freedom), so that a fixed pattern does not count.
    """
    if frames.ndim != 3 or frames.shape[0] < 2:
        raise ValueError(f"give at least two frames [n, ny, nx], got shape {frames.shape}")
    n, ny, nx = frames.shape
    power = jnp.abs(jnp.fft.rfft2(frames - frames.mean(axis=0, keepdims=True))) ** 2
    return power.sum(axis=0) / ((n - 1) * ny * nx)


def radial(power: Any, width: int, bins: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a spectrum [ny, nx // 2 + 1] over rings: (q [bins], mean [bins]), q from 0 to 1.

    Parameters
    ----------
    width : int
        nx of the image; each coefficient counts as often as it occurs in the full spectrum.
    """
    power = np.asarray(power, float)
    q = frequencies((power.shape[0], width), float)
    twice = np.full(power.shape[1], 2.0)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    weight = np.broadcast_to(twice, power.shape)
    ring = np.floor(q * bins).astype(int)
    inside = (ring < bins) & (q > 0)
    total = np.bincount(ring[inside], weight[inside], bins)
    if (total == 0).any():
        raise ValueError(f"{bins} rings are too many for a spectrum of {power.shape}: ask for less")
    sums = (np.bincount(ring[inside], (weight * v)[inside], bins) for v in (q, power))
    at, mean = (s / total for s in sums)
    return at, mean


def dqe(mtf: Any, power: Any, rate: Any) -> Any:
    """Detective quantum efficiency MTF² rate / power, of a noise power in electrons²."""
    return mtf**2 * rate / power
