"""A camera: from electrons that arrive to whole numbers in a file.

    rate ─ √(DQE/DQE(0)) ─▶ Poisson ─ NTF ─▶ + hot pixels ─▶ gain map, read-out, offset map ─▶ ADC

The order is that of Vulović et al., J. Struct. Biol. 183, 19 (2013): the first filter takes signal
away before the electrons are counted and the second, NTF = MTF √(DQE(0)/DQE), blurs signal and
noise together, so that MTF and DQE come out as asked.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from simulators.counting import Poisson, PoissonGaussian, digitised, poisson_log
from simulators.mtf import filtered
from simulators.tree import pytree, static

FAINTEST = 0.02
"""NTF below this is not undone in the likelihood: there is only read-out noise."""


@pytree
class Camera:
    """What a camera makes of a rate [..., ny, nx] of electrons per pixel.

    Attributes
    ----------
    mtf : curve, optional
        Modulation transfer function of q (`mtf.Falloff`, `mtf.Table`); none: 1.
    dqe : curve, optional
        Detective quantum efficiency of q. None: MTF², a counting camera, where every electron is
        counted once but not always in its pixel, and pixels are independent. `Falloff(zero=1,
        floor=1, half=1)` (1 everywhere) is an integrating camera that blurs its own noise.
    gain : float
        Grey values per electron.
    offset : float
        Grey value of no electrons.
    readout : float
        Standard deviation of the read-out noise in electrons.
    gain_map : float [ny, nx], optional
        Relative gain of the pixels, mean 1 (fixed pattern).
    offset_map : float [ny, nx], optional
        Grey values added to `offset`.
    dead : [ny, nx], optional
        1 where a pixel sees no electrons (read-out and offset remain).
    hot : float [ny, nx], optional
        Extra electrons of a hot pixel (dark current), mean.
    bits : int, static
        Of the converter: whole numbers 0 … 2^bits - 1. None: real numbers.
    """

    mtf: Any = None
    dqe: Any = None
    gain: Any = 1.0
    offset: Any = 0.0
    readout: Any = 0.0
    gain_map: Any = None
    offset_map: Any = None
    dead: Any = None
    hot: Any = None
    bits: int | None = static(None)

    def __post_init__(self) -> None:
        if self.dqe is not None and self.mtf is None:
            raise ValueError("a DQE needs an MTF beside it: mtf=..., for instance Falloff(0.5)")
        if self.bits is not None and not 1 <= self.bits <= 24:
            raise ValueError(f"a converter has 1 to 24 bits, got {self.bits}")

    def sample(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """Grey values like `rate`; one exposure per image of the leading axes."""
        k_shot, k_hot, k_read = jax.random.split(key, 3)
        zero = self._efficiency(rate)
        electrons = Poisson().sample(k_shot, self._counted(rate)) / zero
        if self.dqe is not None:
            electrons = filtered(electrons, self._ntf)
        if self.hot is not None:
            electrons = electrons + Poisson().sample(k_hot, _over(self.hot, rate))
        if self.dead is not None:
            electrons = electrons * (1 - _over(self.dead, rate))
        electrons = electrons + self.readout * jax.random.normal(k_read, rate.shape, rate.dtype)
        grey = self._offset(rate) + self._gain(rate) * electrons
        return digitised(grey, self.bits).astype(rate.dtype)

    def expected(self, rate: jax.Array) -> jax.Array:
        """Mean grey values before the converter."""
        electrons = rate if self.mtf is None else filtered(rate, self.mtf)
        if self.hot is not None:
            electrons = electrons + _over(self.hot, rate)
        if self.dead is not None:
            electrons = electrons * (1 - _over(self.dead, rate))
        return self._offset(rate) + self._gain(rate) * electrons

    def log_likelihood(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """Log likelihood of all pixels; a scalar. Dead pixels say nothing.

        Exact where pixels are independent (no MTF, or a counting camera with dqe=None): Poisson,
        read-out and converter as in `PoissonGaussian`. With a DQE the NTF is undone first, which
        gives back the independent counts; read-out and rounding noise, which the NTF did not blur,
        enter by their mean variance (shifted-Poisson form), and hot pixels are left out as well.
        """
        if self.dqe is None:
            electrons = self._counted(rate)
            if self.hot is not None:
                electrons = electrons + _over(self.hot, rate)
            pixel = PoissonGaussian(self.readout, self._gain(rate), self._offset(rate), self.bits)
            log = pixel.log_density(counts, electrons)
            return (log if self.dead is None else log * (1 - _over(self.dead, rate))).sum()

        def undo(q: jax.Array) -> jax.Array:
            ntf = self._ntf(q)
            return jnp.where(ntf < FAINTEST, 0.0, 1 / jnp.maximum(ntf, FAINTEST))

        # pixels that tell nothing are filled in as expected, for the filter mixes neighbours
        bad = jnp.zeros(rate.shape, bool)
        for pattern in (self.dead, self.hot):
            bad = bad if pattern is None else bad | (_over(pattern, rate) > 0)
        blurred = jax.lax.stop_gradient(filtered(rate, self.mtf))
        electrons = jnp.where(bad, blurred, (counts - self._offset(rate)) / self._gain(rate))
        zero = self._efficiency(rate)
        count = zero * filtered(electrons, undo)
        # power of white noise behind the filter: its impulse response, squared and summed
        impulse = jnp.zeros(rate.shape[-2:], rate.dtype).at[0, 0].set(1.0)
        rounding = 0.0 if self.bits is None else 1 / (12 * self.gain**2)
        variance = zero**2 * (filtered(impulse, undo) ** 2).sum() * (self.readout**2 + rounding)
        shifted = jnp.maximum(count + variance, 0.0)
        log = poisson_log(shifted, self._counted(rate) + variance)
        # a density of grey values: counts are grey values over the gain, filtered
        scale = jnp.log(zero) - jnp.log(self._gain(rate)) + jnp.zeros_like(log)
        return jnp.where(bad, 0.0, log + scale).sum() + self._log_undone(rate)

    def _log_undone(self, rate: jax.Array) -> jax.Array:
        """Logarithm of the determinant of the filter that undoes the NTF."""
        ny, nx = rate.shape[-2:]
        q = 2 * jnp.hypot(jnp.fft.fftfreq(ny)[:, None], jnp.fft.fftfreq(nx)[None, :])
        ntf = self._ntf(q.astype(jnp.promote_types(rate.dtype, jnp.float32)))
        one = -jnp.where(ntf < FAINTEST, 0.0, jnp.log(jnp.maximum(ntf, FAINTEST))).sum()
        return one * (rate.size // (ny * nx))

    def _counted(self, rate: jax.Array) -> jax.Array:
        """Mean number of independent detections per pixel."""
        if self.mtf is None:
            return rate
        if self.dqe is None:
            return jnp.maximum(filtered(rate, self.mtf), 0.0)
        zero = self._efficiency(rate)

        def kept(q: jax.Array) -> jax.Array:
            return jnp.sqrt(self.dqe(q) / zero)

        return jnp.maximum(zero * filtered(rate, kept), 0.0)

    def _efficiency(self, rate: jax.Array) -> Any:
        """DQE(0): the fraction of the electrons that count."""
        kind = jnp.promote_types(rate.dtype, jnp.float32)
        return 1.0 if self.dqe is None else self.dqe(jnp.zeros((1,), kind))[0]

    def _ntf(self, q: jax.Array) -> jax.Array:
        """Transfer function of the noise: NTF² rate / DQE(0) is its power."""
        zero = self.dqe(jnp.zeros((1,), q.dtype))[0]
        return self.mtf(q) * jnp.sqrt(zero / self.dqe(q))

    def _gain(self, rate: jax.Array) -> Any:
        return self.gain if self.gain_map is None else self.gain * _over(self.gain_map, rate)

    def _offset(self, rate: jax.Array) -> Any:
        if self.offset_map is None:
            return self.offset
        return self.offset + _over(self.offset_map, rate)


def draw_camera(
    key: jax.Array,
    shape: tuple[int, int],
    *,
    gain_spread: Any = 0.02,
    column_spread: Any = 0.0,
    offset_spread: Any = 0.0,
    dead: Any = 0.0,
    hot: Any = 0.0,
    hot_electrons: Any = 100.0,
    **settings: Any,
) -> Camera:
    """One particular camera: its fixed pattern and its bad pixels, the same in all its exposures.

    Parameters
    ----------
    key : random key
        Of the camera, not of an exposure.
    shape : (ny, nx)
    gain_spread : float
        Standard deviation of the relative gain from pixel to pixel.
    column_spread : float
        Standard deviation of the relative gain from column to column (one amplifier each).
    offset_spread : float
        Standard deviation of the offsets in grey values.
    dead, hot : float
        Fractions of dead and of hot pixels.
    hot_electrons : float
        Mean extra signal of the hot pixels; exponentially distributed among them.
    **settings
        The other fields of `Camera`.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"a camera has a shape (ny, nx) of at least one pixel, got {shape}")
    k_gain, k_column, k_offset, k_dead, k_hot, k_heat = jax.random.split(key, 6)
    pixels = jax.random.normal(k_gain, shape)
    columns = jnp.broadcast_to(jax.random.normal(k_column, (1, shape[1])), shape)
    gain_map = jnp.maximum(1 + gain_spread * pixels + column_spread * columns, 0.05)
    glowing = jax.random.bernoulli(k_hot, hot, shape)
    heat = hot_electrons * jax.random.exponential(k_heat, shape)
    return Camera(
        gain_map=gain_map,
        offset_map=offset_spread * jax.random.normal(k_offset, shape),
        dead=jax.random.bernoulli(k_dead, dead, shape).astype(gain_map.dtype),
        hot=jnp.where(glowing, heat, 0.0),
        **settings,
    )


def _over(pattern: Any, rate: jax.Array) -> jax.Array:
    """A map [ny, nx] for every image of rate [..., ny, nx]."""
    pattern = jnp.asarray(pattern, rate.dtype)
    if pattern.shape != rate.shape[-2:]:
        raise ValueError(
            f"the camera has {pattern.shape} pixels but the image is {rate.shape[-2:]}: "
            "draw_camera(key, shape) for this shape, or crop"
        )
    return jnp.broadcast_to(pattern, rate.shape)
