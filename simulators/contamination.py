"""Carbon contamination: an amorphous layer that grows where the beam dwells.

Hydrocarbons wander over the surface and are cracked under the beam, so the layer grows with the
dose, reaches beyond the field by the distance that they wander, and scatters: a background that
rises from frame to frame, with the grainy texture of an amorphous film.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.tree import pytree


@pytree
class Contamination:
    """A growing amorphous background in a series of frames.

    Attributes
    ----------
    growth : float
        Brightness that the layer gains per unit of dose, in units of the rate. One frame is one
        unit of dose in every pixel.
    spread : float
        Standard deviation, in pixels, of the blur between dose and layer (surface diffusion).
    texture : float
        Relative standard deviation of the layer's thickness by its texture.
    grain : float
        Standard deviation, in pixels, of the Gaussian that correlates the texture.
    absorption : float
        Fraction of the specimen's own signal that is lost per unit of brightness of the layer.
    """

    growth: Any = 0.0
    spread: Any = 0.0
    texture: Any = 0.0
    grain: Any = 1.0
    absorption: Any = 0.0

    def layer(self, key: jax.Array, dose: jax.Array) -> jax.Array:
        """Brightness [..., ny, nx] of the layer after a dose [..., ny, nx], one texture for all.

        The same key gives the same film, thicker for more dose.
        """
        kind = jnp.promote_types(dose.dtype, jnp.float32)
        shape = dose.shape[-2:]
        film = 1 + self.texture * film_texture(key, shape, self.grain).astype(kind)
        grown = self.growth * blurred(dose.astype(kind), self.spread)
        film = jnp.broadcast_to(jnp.maximum(film, 0.0), grown.shape)
        return (jnp.maximum(grown, 0.0) * film).astype(dose.dtype)

    def sample(self, key: jax.Array, rate: jax.Array, before: jax.Array | None = None) -> jax.Array:
        """A series of frames [..., frames, ny, nx] (or one, [ny, nx]) with the growing layer.

        Parameters
        ----------
        before : float [ny, nx], optional
            Dose before the first frame, in frames: a square of earlier scans, a spot where the
            beam was parked. The image takes half of its own frame's dose.
        """
        if rate.ndim < 2:  # a line or a single pixel has no neighbours
            flat = self.sample(key, rate.reshape(1, -1))
            return flat.reshape(rate.shape)
        frames = rate.shape[-3] if rate.ndim > 2 else 1
        time = jnp.arange(frames, dtype=rate.dtype) + 0.5
        dose = jnp.broadcast_to(time[:, None, None], (frames, *rate.shape[-2:]))
        if before is not None:
            dose = dose + jnp.broadcast_to(jnp.asarray(before, rate.dtype), dose.shape)
        layer = self.layer(key, dose)
        layer = layer[0] if rate.ndim == 2 else jnp.broadcast_to(layer, rate.shape)
        return (rate * jnp.exp(-self.absorption * layer) + layer).astype(rate.dtype)


def film_texture(key: jax.Array, shape: tuple[int, int], grain: Any) -> jax.Array:
    """A random field [ny, nx] of mean 0 and variance 1 with a Gaussian correlation (periodic).

    Parameters
    ----------
    grain : float
        Standard deviation, in pixels, of the Gaussian that white noise is convolved with.
    """
    if math.prod(shape) == 0:
        return jnp.zeros(shape)
    gain_y, gain_x = (_gaussian(n, grain, half=i == 1) for i, n in enumerate(shape))
    whole = _gaussian(shape[1], grain)
    power = (gain_y**2).mean() * (whole**2).mean()
    spectrum = jnp.fft.rfft2(jax.random.normal(key, shape)) * gain_y[:, None] * gain_x[None, :]
    return jnp.fft.irfft2(spectrum, s=shape) / jnp.sqrt(power)


def blurred(image: jax.Array, sigma: Any) -> jax.Array:
    """An image [..., ny, nx] convolved with a Gaussian of `sigma` pixels, weights 1 in total.

    Separable, by two small matrices, so that σ may be traced and 0; nothing wraps around.
    """
    if math.prod(image.shape) == 0:
        return image
    rows, columns = (_blur_matrix(n, sigma, image.dtype) for n in image.shape[-2:])
    half = jnp.einsum("ij,...jk->...ik", rows, image, precision="highest")
    return jnp.einsum("...jk,lk->...jl", half, columns, precision="highest")


def _blur_matrix(n: int, sigma: Any, dtype: Any) -> jax.Array:
    gap = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :])
    weights = jnp.exp(-0.5 * (jnp.asarray(gap, dtype) / jnp.maximum(sigma, 1e-3)) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)


def _gaussian(n: int, sigma: Any, half: bool = False) -> jax.Array:
    """Transfer function of a Gaussian of `sigma` pixels."""
    f = np.fft.rfftfreq(n) if half else np.fft.fftfreq(n)
    return jnp.exp(-2 * np.pi**2 * sigma**2 * jnp.asarray(f**2))
