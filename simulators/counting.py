"""Noise of single pixels: counting statistics, read-out and the converter, without correlations.

`sample(key, rate)` draws data; `log_density(counts, rate)` is the logarithm of each pixel's
probability (of a count) or probability density (of a grey value) and `log_likelihood` its sum.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammainc, gammaln, log_ndtr, logsumexp

from simulators.tree import pytree, static

TINY = 1e-20
"""Added to a rate in front of a logarithm: values stay, gradients at a rate of 0 become finite."""

QUIET = 0.01
"""Read-out noise [electrons] below which the exact likelihood cannot tell it from none."""

STIRLING = np.array([n * math.log(max(n, 1)) - n - math.lgamma(n + 1) for n in range(20)])
"""n ln n - n - ln n! of small n, where Stirling's series is not yet good."""

HALF_WIDTH = 32
"""The exact likelihood sums over this many electrons (or strides) on either side."""


@pytree
class Poisson:
    """Counting statistics of electrons."""

    def sample(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """Counts like `rate`, as floats."""
        return jax.random.poisson(key, rate).astype(rate.dtype)

    def log_density(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """counts ln rate - rate - ln counts! of every pixel."""
        return poisson_log(counts, rate)

    def log_likelihood(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """Σ counts ln rate - rate - ln counts!; a scalar. Rates of 0 need counts of 0."""
        return self.log_density(counts, rate).sum()


@pytree
class Gaussian:
    """Additive white noise of standard deviation `sigma` (in counts): read-out alone."""

    sigma: Any

    def sample(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """`rate` plus noise."""
        return rate + self.sigma * jax.random.normal(key, rate.shape, rate.dtype)

    def log_density(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """Log density of every pixel."""
        z = (counts - rate) / self.sigma
        return -0.5 * z**2 - 0.5 * jnp.log(2 * jnp.pi * self.sigma**2)

    def log_likelihood(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """Log density of all pixels; a scalar."""
        return self.log_density(counts, rate).sum()


@pytree
class PoissonReadout:
    """A camera or an ADF chain: gain · Poisson(rate) + offset + Gaussian read-out.

    Attributes
    ----------
    sigma : float
        Read-out noise in detected electrons (before the gain), standard deviation.
    gain : float
        Grey values per electron.
    offset : float
        Grey value of no electrons.
    """

    sigma: Any
    gain: Any = 1.0
    offset: Any = 0.0

    def sample(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """Grey values like `rate`."""
        return _grey(key, rate, self.sigma, self.gain, self.offset)

    def log_density(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """Log likelihood of every pixel in the shifted-Poisson form.

        x + σ² is taken as Poisson with mean rate + σ², which has the right mean and variance for
        every rate and is exact for σ = 0 (Snyder et al., J. Opt. Soc. Am. A 12, 272 (1995)).
        Values below -σ² count as -σ².
        """
        electrons = (counts - self.offset) / self.gain
        shifted = jnp.maximum(electrons + self.sigma**2, 0.0)
        return poisson_log(shifted, rate + self.sigma**2) - jnp.log(self.gain)

    def log_likelihood(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """Sum of `log_density`; a scalar."""
        return self.log_density(counts, rate).sum()


@pytree
class Anscombe:
    """The data of `PoissonReadout`, with a likelihood that is least squares of square roots.

    z = 2 √(x + 3/8 + σ²) has a variance of 1 to order 1/rate² and a mean of 2 √(rate + 1/8 + σ²)
    to order rate^(-3/2) (Anscombe, Biometrika 35, 246 (1948); Mäkitalo & Foi, IEEE Trans. Image
    Process. 22, 91 (2013)). From about 4 electrons a pixel it is as good as the exact law, and
    its curvature does not depend on the data: what Gauss–Newton solvers want.
    """

    sigma: Any = 0.0
    gain: Any = 1.0
    offset: Any = 0.0

    def sample(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """Grey values like `rate`."""
        return _grey(key, rate, self.sigma, self.gain, self.offset)

    def log_density(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """Normal log density of z, as a density of the grey values. x below 1/8 - 3/8 - σ² counts
        as that."""
        electrons = (counts - self.offset) / self.gain
        inside = jnp.maximum(electrons + 3 / 8 + self.sigma**2, 1 / 8)
        z = 2 * jnp.sqrt(inside) - 2 * jnp.sqrt(rate + 1 / 8 + self.sigma**2)
        return -0.5 * z**2 - 0.5 * jnp.log(2 * jnp.pi * inside) - jnp.log(self.gain)

    def log_likelihood(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """Sum of `log_density`; a scalar."""
        return self.log_density(counts, rate).sum()


@pytree
class PoissonGaussian:
    """The data of `PoissonReadout` with the exact likelihood, and a converter to whole numbers.

    Attributes
    ----------
    sigma : float
        Read-out noise in detected electrons, standard deviation; below 0.01 it counts as 0.01 in
        the likelihood.
    gain : float
        Grey values per electron.
    offset : float
        Grey value of no electrons.
    bits : int, static
        Grey values are rounded and held within 0 … 2^bits - 1; None: real numbers.
    """

    sigma: Any
    gain: Any = 1.0
    offset: Any = 0.0
    bits: int | None = static(None)

    def sample(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """Grey values like `rate`."""
        return digitised(_grey(key, rate, self.sigma, self.gain, self.offset), self.bits)

    @jax.jit  # a hundred small operations: not one by one
    def log_density(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """ln Σ_n Poisson(n; rate) · p(counts | n) of every pixel.

        The sum runs over the 65 electrons about the most likely number; where the read-out is
        wider than 4 electrons, over every second, third … one, which is as good (the sum of a
        smooth function). With `bits` it is the probability of the whole number, to rounding for
        steps of up to about 20 electrons; that of the saturated value is taken from the
        shifted-Poisson form (2e-3).
        """
        leaves = (counts, rate, self.sigma, self.gain, self.offset)
        counts, rate, sigma, gain, offset = jnp.broadcast_arrays(*leaves)
        sigma = jnp.maximum(sigma, QUIET)
        electrons = (counts - offset) / gain
        if self.bits is None:

            def kernel(n: jax.Array) -> jax.Array:
                z = (electrons[..., None] - n) / sigma[..., None]
                return -0.5 * z**2 - jnp.log(sigma * gain)[..., None] - 0.5 * jnp.log(2 * jnp.pi)

            return _sum_over_electrons(electrons, rate, sigma, kernel)

        top = 2.0**self.bits - 1
        # the ends take in all that lies beyond; 1e4 σ is as good as infinite, and finite
        low = jnp.where(counts <= 0, -1e4, (electrons - 0.5 / gain) / sigma)
        high = (electrons + 0.5 / gain) / sigma

        def between(n: jax.Array) -> jax.Array:
            shift = n / sigma[..., None]
            return _log_between(low[..., None] - shift, high[..., None] - shift)

        wide = jnp.sqrt(sigma**2 + 1 / (12 * gain**2))
        log = _sum_over_electrons(electrons, rate, wide, between, stride=sigma)
        threshold = jnp.maximum((top - 0.5 - offset) / gain, 0.0)
        tail = gammainc(threshold + 0.5 + sigma**2, rate + sigma**2)
        return jnp.where(counts >= top, jnp.log(tail + TINY), log)

    def log_likelihood(self, counts: jax.Array, rate: jax.Array) -> jax.Array:
        """Sum of `log_density`; a scalar."""
        return self.log_density(counts, rate).sum()


def digitised(values: jax.Array, bits: int | None) -> jax.Array:
    """Grey values as an analogue-to-digital converter gives them: whole, 0 … 2^bits - 1."""
    return values if bits is None else jnp.clip(jnp.round(values), 0.0, 2.0**bits - 1)


def poisson_log(counts: jax.Array, rate: jax.Array) -> jax.Array:
    """Logarithm of the Poisson law of every pixel; counts need not be whole."""
    # 0 ln 0 = 0, with a finite gradient there: an empty pixel says only exp(-rate)
    safe = jnp.where(counts > 0, rate, 1.0)
    return jnp.where(counts > 0, counts * jnp.log(safe), 0.0) - rate - gammaln(counts + 1)


def fast_poisson(key: jax.Array, rate: jax.Array) -> jax.Array:
    """Poisson counts from one random number a pixel, for training: 4 times as fast on a CPU.

    Below a rate of 12 by inversion of the distribution, which is exact to the 2⁻²⁴ of a float32;
    above by the Cornish–Fisher expansion of its quantiles to order 1/rate (Johnson, Kemp & Kotz,
    Univariate Discrete Distributions, 4.5), whose distribution function is right to 1e-3.
    `Poisson.sample` is exact everywhere.
    """
    u = jax.random.uniform(key, rate.shape, rate.dtype, minval=2.0**-25, maxval=1 - 2.0**-24)
    low = jnp.minimum(rate, FAST_LIMIT)

    def term(i: int, carry: tuple) -> tuple:
        p, total, count = carry
        count = count + (u > total)
        p = p * low / (i + 1)
        return p, total + p, count

    p = jnp.exp(-low)
    count = jax.lax.fori_loop(0, 40, term, (p, p, jnp.zeros_like(rate)))[2]
    z = jax.scipy.special.ndtri(u)
    large = jnp.maximum(rate, FAST_LIMIT)
    root = jnp.sqrt(large - 1 / 12)  # rounding adds a variance of 1/12
    quantile = large + root * z + (z**2 - 1) / 6 + (z - z**3) / (72 * root)
    return jnp.where(rate < FAST_LIMIT, count, jnp.maximum(jnp.ceil(quantile - 0.5), 0))


FAST_LIMIT = 12.0
"""Rate above which `fast_poisson` expands the quantiles."""


def _grey(key: jax.Array, rate: jax.Array, sigma: Any, gain: Any, offset: Any) -> jax.Array:
    """offset + gain · (Poisson(rate) + σ · normal)."""
    shot, readout = jax.random.split(key)
    counts = Poisson().sample(shot, rate)
    counts = counts + sigma * jax.random.normal(readout, rate.shape, rate.dtype)
    return offset + gain * counts


def _sum_over_electrons(x: jax.Array, rate: jax.Array, sigma: jax.Array, kernel: Any, *,
                        stride: Any = None) -> jax.Array:  # fmt: skip
    """ln Σ_n Poisson(n; rate) exp(kernel(n)), about the most likely n for a kernel of width σ."""
    rate = rate + TINY
    centre = jax.lax.stop_gradient(_most_likely(x, rate, sigma))
    spread = jax.lax.rsqrt(1 / (centre + 1) + 1 / sigma**2)
    spread = spread if stride is None else jnp.minimum(spread, stride)
    step = jax.lax.stop_gradient(jnp.maximum(jnp.floor(spread / 2), 1.0))
    n = jnp.round(centre)[..., None] + step[..., None] * jnp.arange(-HALF_WIDTH, HALF_WIDTH + 1.0)[
        (None,) * centre.ndim
    ].astype(x.dtype)
    known = jnp.maximum(n, 0.0)
    terms = _log_poisson(known, rate[..., None]) + kernel(known)
    return logsumexp(jnp.where(n >= 0, terms, -jnp.inf), axis=-1) + jnp.log(step)


def _most_likely(x: jax.Array, rate: jax.Array, sigma: jax.Array) -> jax.Array:
    """n with ln n + (n - x)/σ² = ln rate, by Newton's method in ln n (from above: monotonic)."""
    log_rate = jnp.log(rate)
    u = jnp.log(jnp.maximum(x, rate))

    def newton(_: int, u: jax.Array) -> jax.Array:
        curve = jnp.exp(u) / sigma**2
        return jnp.maximum(u - (u - log_rate + curve - x / sigma**2) / (1 + curve), -40.0)

    return jnp.exp(jax.lax.fori_loop(0, 20, newton, u))


def _log_poisson(n: jax.Array, rate: jax.Array) -> jax.Array:
    """The Poisson law for whole n, arranged so that large numbers do not cancel in float32."""
    safe = jnp.maximum(n, 1.0)
    near = jnp.log1p(jnp.maximum((rate - safe) / safe, -0.5))
    ratio = jnp.where(rate < 0.5 * safe, jnp.log(rate) - jnp.log(safe), near)
    series = -0.5 * jnp.log(2 * jnp.pi * safe) - 1 / (12 * safe) + 1 / (360 * safe**3)
    few = jnp.asarray(STIRLING, n.dtype)[jnp.minimum(n, 19.0).astype(int)]
    stirling = jnp.where(n < 20, few, series)
    return jnp.where(n > 0, safe * ratio + (safe - rate) + stirling, -rate)


def _log_between(a: jax.Array, b: jax.Array) -> jax.Array:
    """ln(Φ(b) - Φ(a)) for a < b, also far in either tail."""
    flip = a > 0
    a, b = jnp.where(flip, -b, a), jnp.where(flip, -a, b)
    upper = log_ndtr(b)
    gap = jnp.minimum(log_ndtr(a) - upper, -1e-7)
    return upper + jnp.log(-jnp.expm1(gap))
