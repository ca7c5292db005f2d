"""Pixels that say nothing of the specimen: X-rays and dead or saturated readings (outliers).

Each wraps the noise of the other pixels, so that its likelihood is a mixture: a pixel far from its
rate then costs a constant instead of pulling the fit (a robust loss).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from simulators.counting import TINY, Poisson
from simulators.tree import pytree


@pytree
class XRays:
    """A few pixels receive a strong extra signal, exponentially distributed.

    Attributes
    ----------
    probability : float
        Of a hit, per pixel.
    height : float
        Mean of the extra signal, in the units of the data; large beside the other noise.
    noise : pytree
        The noise of all pixels.
    """

    probability: Any
    height: Any
    noise: Any = Poisson()

    def sample(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """Data like `rate`; the extra signal is rounded to whole units."""
        k_noise, k_hit, k_height = jax.random.split(key, 3)
        hit = jax.random.bernoulli(k_hit, self.probability, rate.shape)
        extra = jnp.ceil(self.height * jax.random.exponential(k_height, rate.shape, rate.dtype))
        return self.noise.sample(k_noise, rate) + jnp.where(hit, extra, 0.0).astype(rate.dtype)

    def log_density(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """ln((1 - p) noise + p exp(-(x - rate)/height)/height), the second part for x > rate."""
        excess = counts - rate
        hit = jnp.where(excess > 0, -excess / self.height - jnp.log(self.height), -jnp.inf)
        clean = self.noise.log_density(counts, rate + TINY)
        return jnp.logaddexp(jnp.log1p(-self.probability) + clean, jnp.log(self.probability) + hit)

    def log_likelihood(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """Sum of `log_density`; a scalar."""
        return self.log_density(counts, rate).sum()


@pytree
class SaltPepper:
    """Pixels that read the highest or the lowest value whatever falls on them.

    Attributes
    ----------
    salt, pepper : float
        Probability per pixel of the highest and of the lowest value.
    high, low : float
        These values.
    noise : pytree
        The noise of the other pixels; of whole numbers, so that probabilities can be compared.
    """

    salt: Any = 0.0
    pepper: Any = 0.0
    high: Any = 255.0
    low: Any = 0.0
    noise: Any = Poisson()

    def sample(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """Data like `rate`."""
        k_noise, k_where = jax.random.split(key)
        draw = jax.random.uniform(k_where, rate.shape, jnp.float32)
        seen = self.noise.sample(k_noise, rate)
        seen = jnp.where(draw < self.salt, jnp.asarray(self.high, rate.dtype), seen)
        return jnp.where(draw > 1 - self.pepper, jnp.asarray(self.low, rate.dtype), seen)

    def log_density(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """ln((1 - s - p) noise + s [x = high] + p [x = low])."""
        clean = jnp.log1p(-(self.salt + self.pepper)) + self.noise.log_density(counts, rate + TINY)
        ends = jnp.where(counts == self.high, self.salt, 0.0)
        ends = ends + jnp.where(counts == self.low, self.pepper, 0.0)
        safe = jnp.log(jnp.where(ends > 0, ends, 1.0))
        return jnp.logaddexp(clean, jnp.where(ends > 0, safe, -jnp.inf))

    def log_likelihood(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """Sum of `log_density`; a scalar."""
        return self.log_density(counts, rate).sum()
