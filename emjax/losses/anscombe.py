"""Counts to constant variance, and back without bias.

2 √(n + 3/8) of Poisson counts n has a variance of about 1 for every rate above some 4 (Anscombe
1948), so that a network for Gaussian noise can be used. The obvious way back is biased at low dose
because the root of a mean is not the mean of a root; the exact unbiased inverse maps the *expected*
value E[2 √(n + 3/8)] to the rate (Mäkitalo & Foi, IEEE TIP 2011). For counts with Gaussian
read-out noise: Starck, Murtagh & Bijaoui 1998, and Mäkitalo & Foi, IEEE TIP 2013.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from emjax.losses.basics import wide

LARGEST = 100.0
"""Rates up to this come from the table; beyond, the asymptotic series is as good."""
NODES = 2048


def anscombe(
    x: jax.Array, *, gain: float = 1.0, offset: float = 0.0, sigma: float = 0.0
) -> jax.Array:
    """(2/g) √(g x + 3/8 g² + σ² - g m), with variance of about 1 for x = g·Poisson(λ) + N(m, σ²).

    Parameters
    ----------
    x : recorded values; with the defaults, counts.
    gain : g, recorded units per count.
    offset : m, mean of the dark signal in recorded units.
    sigma : σ, standard deviation of the read-out noise in recorded units.

    Returns
    -------
    jax.Array : of the shape of x; values so low that the root would not exist give 0.
    """
    inside = gain * x + 0.375 * gain**2 + sigma**2 - gain * offset
    none = inside <= 0  # not of NaN, which stays NaN
    return jnp.where(none, 0.0, 2 / gain * jnp.sqrt(jnp.where(none, 1.0, inside)))


def inverse_anscombe(
    d: jax.Array,
    *,
    gain: float = 1.0,
    offset: float = 0.0,
    sigma: float = 0.0,
    method: str = "exact",
) -> jax.Array:
    """From the expected value of `anscombe` to the expected recorded value g λ + m.

    Parameters
    ----------
    d : denoised image of an image that `anscombe` transformed with the same parameters.
    gain, offset, sigma : of `anscombe`.
    method
        "exact": the exact unbiased inverse, by a table of E[2 √(n + 3/8)] of rates 0 to 100
        (interpolated, error below 1e-4 counts) and its asymptotic series beyond.
        "closed": its closed form D²/4 + √(3/2)/(4 D) - 11/(8 D²) + 5 √(3/2)/(8 D³) - 1/8
        (Mäkitalo & Foi 2011b, error below 0.02 counts).
        "algebraic": D²/4 - 3/8, biased: for a comparison, or a `d` that was not denoised.
        With read-out noise, σ²/g² is subtracted (Mäkitalo & Foi 2013); for the first two an
        approximation then.

    Returns
    -------
    jax.Array : of the shape of d. The two unbiased ones give a rate of at least 0.
    """
    d = wide(d)
    if method == "exact":
        rate = _exact(d)
    elif method == "closed":
        rate = _closed(d)
    elif method == "algebraic":
        rate = jnp.square(d) / 4 - 0.375
    else:
        raise ValueError(f"there is no inverse {method!r}: choose exact, closed or algebraic")
    rate = rate - (sigma / gain) ** 2
    if method != "algebraic":
        rate = jnp.maximum(rate, 0)
    return gain * rate + offset


def _closed(d: jax.Array) -> jax.Array:
    least = 2 * math.sqrt(0.375)  # the transform of no counts at all: rate 0
    d = jnp.maximum(d, least)
    root = math.sqrt(1.5)
    return jnp.square(d) / 4 + root / 4 / d - 1.375 / d**2 + 0.625 * root / d**3 - 0.125


def _exact(d: jax.Array) -> jax.Array:
    rates, means = _table()
    rates, means = jnp.asarray(rates, d.dtype), jnp.asarray(means, d.dtype)
    # E[2 √(n + 3/8)]² / 4 = λ + 1/8 + O(λ⁻²): with 3/8 the term in 1/λ is 0
    beyond = jnp.square(jnp.maximum(d, means[-1])) / 4 - 0.125
    return jnp.where(d < means[-1], jnp.interp(d, means, rates), beyond)


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Rates (equally spaced in their roots, as the transform is) and E[2 √(n + 3/8)]."""
    from scipy.stats import poisson

    rates = np.linspace(0, math.sqrt(LARGEST), NODES) ** 2
    counts = np.arange(int(LARGEST + 20 * math.sqrt(LARGEST)))
    means = poisson.pmf(counts, rates[:, None]) @ (2 * np.sqrt(counts + 0.375))
    return rates, means
