"""Closed forms of counting with read-out noise: likelihoods, and posteriors of the rate.

The recorded value is x = n + σ·normal with n ~ Poisson(λ). Sums over n run over the 2·`REACH` + 1
whole numbers about x, which is exact while `REACH` is some four σ; wider read-out is taken in the
shifted-Poisson form (x + σ² is Poisson with mean λ + σ²; Snyder et al., J. Opt. Soc. Am. A 12, 272
(1995)), which is good there. As elsewhere in training, everything is elementwise, and arrays
broadcast: `observed` [b, y, x, 1], `rate` [b, y, x, k], `sigma` [b, 1, 1, 1].
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, logsumexp

from emjax.losses.probabilistic import MixtureNoise, fit_mixture

REACH = 6
"""Electrons on either side of the recorded value that the sums run over."""
WIDE = 1.5
"""Read-out noise above which the shifted-Poisson form is taken."""
NARROW = 0.1
"""Smaller read-out noise counts as this; whole numbers cannot tell it from none."""
TINY = 1e-30


@jax.jit  # a hundred small operations: not one by one
def poisson_readout(observed: jax.Array, rate: jax.Array, sigma: jax.Array | float) -> jax.Array:
    """ln p(observed | rate), the exact density up to σ = 1.5 electrons.

    Σ_n λⁿ/n! exp(-(x - n)²/2σ²) is a polynomial in λ with coefficients that depend on x alone:
    13 multiplications for each of many rates that one pixel is compared with.
    """
    sigma = jnp.asarray(sigma, jnp.float32)
    narrow = jnp.clip(sigma, NARROW, WIDE)
    rate = jnp.maximum(rate, 1e-6)
    low, steps = _window(observed)
    centre = low + (REACH + 1.0)  # rates in units of this: powers stay within float32
    logs = jnp.stack(
        [
            -0.5 * ((observed - low - j) / narrow) ** 2 + j * jnp.log(centre) - gap
            for j, gap in enumerate(steps)
        ]
    )
    most = logs.max(0)
    share = jnp.exp(logs - most[None])
    u = jnp.minimum(rate / centre, 50.0)  # beyond, exp(-rate) has long decided
    total = share[-1]
    for coefficient in share[-2::-1]:
        total = total * u + coefficient
    exact = low * jnp.log(rate) - rate - gammaln(low + 1) + most + jnp.log(total + TINY)
    exact = exact - jnp.log(narrow) - 0.5 * math.log(2 * math.pi)
    shifted, moved = jnp.maximum(observed + sigma**2, 0), rate + sigma**2
    wide = shifted * jnp.log(moved) - moved - gammaln(shifted + 1)
    return jnp.where(sigma > WIDE, wide, exact)


@jax.jit  # a hundred small operations: not one by one
def gamma_posterior(
    observed: jax.Array, mean: jax.Array, variance: jax.Array, sigma: jax.Array | float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The rate has a Gamma prior of this mean and variance: evidence, posterior mean and variance.

    Gamma is conjugate to Poisson: n counts have a negative binomial probability and make the prior
    mean μ into (μ² + n v)/(μ + v), which is what two Gaussians would give with shot noise μ (Laine
    et al., 2019). Read-out noise mixes the n about the recorded value.

    Returns
    -------
    ln p(observed), E[rate | observed], Var[rate | observed].
    """
    sigma = jnp.asarray(sigma, jnp.float32)
    narrow = jnp.clip(sigma, NARROW, WIDE)
    low, _ = _window(observed)
    mean, alpha, variance = _gamma(mean, variance)
    log = _negative_binomial(low, mean, alpha, variance)
    rising = jnp.log((mean + variance) / variance)
    logs, numbers = [], []
    for j in range(2 * REACH + 1):
        n = low + j
        logs.append(log - 0.5 * ((observed - n) / narrow) ** 2)
        numbers.append(jnp.broadcast_to(n, log.shape))
        log = log + jnp.log(alpha + n) - jnp.log(n + 1) - rising
    logs, n = jnp.stack(logs), jnp.stack(numbers)
    evidence = logsumexp(logs, axis=0)
    share = jnp.exp(logs - evidence[None])
    # of n counts the posterior mean is a + b n
    middle = (share * n).sum(0)
    spread = (share * jnp.square(n - middle[None])).sum(0)
    part = variance / (mean + variance)
    middle, spread = (1 - part) * mean + part * middle, jnp.square(part) * spread
    spread = spread + part * middle
    evidence = evidence - jnp.log(narrow) - 0.5 * math.log(2 * math.pi)

    shifted = jnp.maximum(observed + sigma**2, 0)
    moved, alpha, variance = _gamma(mean + sigma**2, variance)
    wide = _negative_binomial(shifted, moved, alpha, variance)
    whole = (moved**2 + shifted * variance) / (moved + variance)
    far = sigma > WIDE
    return (
        jnp.where(far, wide, evidence),
        jnp.where(far, jnp.maximum(whole - sigma**2, 0), middle),
        jnp.where(far, whole * variance / (moved + variance), spread),
    )


@jax.jit
def gaussian_posterior(
    observed: jax.Array, mean: jax.Array, variance: jax.Array, sigma: jax.Array | float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same with Gaussians all along: a prior N(μ, v), noise of variance μ + σ²."""
    noise = mean + jnp.square(jnp.asarray(sigma, jnp.float32))
    total = jnp.maximum(variance + noise, 1e-8)
    log = -0.5 * (jnp.square(observed - mean) / total + jnp.log(2 * math.pi * total))
    return log, (mean * noise + observed * variance) / total, variance * noise / total


POSTERIORS = {"gamma": gamma_posterior, "gaussian": gaussian_posterior}


def _window(observed: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """The first whole number of a sum, and ln (low + j)!/low! for each of its terms."""
    low = jnp.maximum(jnp.round(observed) - REACH, 0.0)
    steps = [jnp.zeros_like(low)]
    for j in range(2 * REACH):
        steps.append(steps[-1] + jnp.log(low + (j + 1)))
    return low, steps


def _gamma(mean: jax.Array, variance: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, shape α = μ²/v within what float32 bears, and the variance that belongs to it."""
    mean = jnp.maximum(mean, 1e-4)
    alpha = jnp.clip(jnp.square(mean) / jnp.maximum(variance, 1e-12), 1e-3, 1e6)
    return mean, alpha, jnp.square(mean) / alpha


def _negative_binomial(
    n: jax.Array, mean: jax.Array, alpha: jax.Array, variance: jax.Array
) -> jax.Array:
    """ln of the probability of n counts whose rate is Gamma; n need not be whole.

    Γ(α + n)/Γ(α) by Stirling's series where α is large, arranged so that nothing cancels.
    """
    rate = (mean**2 + n * variance) / (mean + variance)
    large = jnp.maximum(alpha, 3.0)
    first, last = 1 / large, 1 / (large + n)
    series = (large - 0.5) * jnp.log1p(n / large) - n
    series = series + (last - first) / 12 - (last**3 - first**3) / 360
    series = series + n * jnp.log(jnp.maximum(rate, TINY))
    direct = gammaln(alpha + n) - gammaln(alpha) - n * jnp.log((mean + variance) / variance)
    ratio = jnp.where(alpha > 3, series, direct)
    return ratio - gammaln(n + 1) - alpha * jnp.log1p(variance / mean)


# ---------------------------------------------------------------- fitted to the data themselves


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("gain", "floor", "mixture"),
    meta_fields=(),
)
@dataclass(frozen=True)
class ScaledMixture:
    """p(observed | signal): noise of variance gain · signal + floor, shaped as a Gaussian mixture.

    A mixture alone (Prakash et al., ISBI 2020) serves one dose: its parameters are polynomials of
    the signal, and the noise of 1 and of 100 electrons differ too much. So its noise is measured in
    its own standard deviation, and its polynomials are of the signal's root.
    """

    gain: jax.Array
    floor: jax.Array
    mixture: MixtureNoise

    def __call__(self, observed: jax.Array, signal: jax.Array) -> jax.Array:
        """ln p; the mean over the observed values is the signal itself."""
        spread = jnp.sqrt(jnp.maximum(self.gain * signal + self.floor, 1e-6))
        place = jnp.sqrt(jnp.maximum(signal, 1e-6))
        return self.mixture(place + (observed - signal) / spread, place) - jnp.log(spread)


def fit_scaled_mixture(
    key: jax.Array, signal: np.ndarray, observed: np.ndarray, **options: int
) -> ScaledMixture:
    """Fit a `ScaledMixture` to pairs of signal (or its estimate) and observed value.

    Gain and floor by least squares of the squared residual, weighted by its expected size, the
    rest by `emjax.losses.fit_mixture`, which takes the `options`.

    Raises
    ------
    ValueError : too few pairs, NaN, or signals that are all the same.
    """
    signal, observed = np.asarray(signal, float).ravel(), np.asarray(observed, float).ravel()
    if signal.shape != observed.shape or not np.isfinite([signal.sum(), observed.sum()]).all():
        raise ValueError(
            f"pairs for a noise model are finite and as many of each: signal {signal.shape}, "
            f"observed {observed.shape}"
        )
    if signal.size < 100 or np.ptp(signal) == 0:
        raise ValueError(
            f"{signal.size} pairs of one brightness do not tell how noise depends on the signal: "
            "give at least 100 of different brightness"
        )
    squares = np.square(observed - signal)
    columns = np.stack([np.maximum(signal, 0), np.ones_like(signal)], 1)
    expected = np.full(signal.size, max(squares.mean(), 1e-12))
    least = 1e-3 * expected[0]
    gain, floor = 1.0, 0.0
    for _ in range(5):
        weight = 1 / expected
        (gain, floor), *_ = np.linalg.lstsq(columns * weight[:, None], squares * weight, rcond=None)
        gain = max(gain, 0.0)
        floor = max(floor, least)
        expected = np.maximum(gain * columns[:, 0] + floor, least)
    place = np.sqrt(np.maximum(signal, 1e-6))
    mixture = fit_mixture(key, place, place + (observed - signal) / np.sqrt(expected), **options)
    return ScaledMixture(jnp.float32(gain), jnp.float32(floor), mixture)
