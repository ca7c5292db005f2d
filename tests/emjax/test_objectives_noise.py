"""Closed forms of counting against sums and integrals; noise models out of the data themselves."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from emjax.objectives import build
from emjax.objectives.noise import (
    fit_scaled_mixture,
    gamma_posterior,
    gaussian_posterior,
    poisson_readout,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
RATES = np.geomspace(0.02, 900.0, 40)
SLOPE = jax.jit(jax.grad(lambda rate, x, sigma: poisson_readout(x, rate, sigma).sum()))


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Everything runs once here: to compile takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def density(x, rate, sigma):
    """Σ_n Poisson(n; rate) N(x - n; σ²) in float64."""
    n = np.arange(max(0, int(x - 9 * sigma) - 1), int(x + 9 * sigma) + 3)  # the rest is nothing
    return stats.poisson.pmf(n, np.asarray(rate)[..., None]) @ stats.norm.pdf(x - n, scale=sigma)


def constant(*outputs):
    """The weights of the network `same`."""
    return jnp.float32(outputs).reshape(1, 1, 1, -1)


def same(params, x):
    """A network that says the same everywhere."""
    return params + 0 * x


@pytest.mark.parametrize("sigma", [0.1, 0.35, 0.7, 1.5])
def test_likelihood_of_counts_with_readout(sigma):
    for x in (-1.0, 0.0, 2.0, 17.0, 300.0):
        exact = density(x, RATES, sigma)
        near = exact > 1e-4 * exact.max()
        found = np.asarray(poisson_readout(x, jnp.float32(RATES), sigma))
        np.testing.assert_allclose(found[near], np.log(exact[near]), atol=6e-3, rtol=2e-5)
        assert np.isfinite(found).all()
        assert np.isfinite(SLOPE(jnp.float32(RATES), x, sigma)).all()


def test_wide_readout_in_the_shifted_form():
    sigma, x = 4.0, 25.0
    grid = np.linspace(5.0, 60.0, 400)
    exact, found = density(x, grid, sigma), np.asarray(poisson_readout(x, jnp.float32(grid), sigma))
    means = [(grid * w).sum() / w.sum() for w in (exact, np.exp(found))]
    assert means[1] == pytest.approx(means[0], rel=0.01)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.2])
@pytest.mark.parametrize(("mean", "variance"), [(0.3, 0.2), (4.0, 1.0), (4.0, 12.0), (80.0, 30.0)])
def test_gamma_posterior_is_the_integral(mean, variance, sigma):
    """Rate and counts integrated out by brute force."""
    prior = stats.gamma(mean**2 / variance, scale=variance / mean)
    root = (np.arange(4000) + 0.5) / 4000 * np.sqrt(mean + 15 * np.sqrt(variance) + 5)
    rate, weight = root**2, prior.pdf(root**2) * root  # the density may be infinite at 0
    weight /= weight.sum()
    for x in np.round(mean) + np.array([-1.0, 0.0, 3.0]):
        x = x + 0.3 * (sigma > 0)
        if x < 0 and sigma == 0:
            continue
        like = stats.poisson.pmf(x, rate) if sigma == 0 else density(x, rate, sigma)
        like = weight * like
        total = like.sum()
        middle = (like * rate).sum() / total
        spread = (like * (rate - middle) ** 2).sum() / total
        log, found, width = gamma_posterior(*map(jnp.float32, (x, mean, variance, sigma)))
        assert float(found) == pytest.approx(middle, rel=2e-3)
        assert float(width) == pytest.approx(spread, rel=2e-2)
        if sigma:
            assert float(log) == pytest.approx(np.log(total), abs=5e-3)


def test_posteriors_at_their_limits():
    counts = jnp.float32([0.0, 3.0, 40.0])
    _, sure, width = gamma_posterior(counts, 5.0, 1e-9, 0.0)
    np.testing.assert_allclose(sure, 5.0, rtol=1e-3), "a prior without doubt stays"
    assert width.max() < 1e-3
    _, open_, width = gamma_posterior(counts, 5.0, 1e6, 0.0)
    np.testing.assert_allclose(open_[1:], counts[1:], rtol=1e-2), "one that knows nothing goes"
    _, gauss, width = gaussian_posterior(counts, 5.0, 2.0, 1.0)
    np.testing.assert_allclose(gauss, (5.0 * 6.0 + counts * 2.0) / 8.0, rtol=1e-6)
    np.testing.assert_allclose(width, 12.0 / 8.0, rtol=1e-6)
    same = [form(counts, 5.0, 2.0, 0.0)[1] for form in (gamma_posterior, gaussian_posterior)]
    np.testing.assert_allclose(*same, rtol=1e-5), "conjugate: the mean of two Gaussians"
    _, wide, _ = gamma_posterior(counts, 5.0, 2.0, 3.0)
    np.testing.assert_allclose(wide, (5.0 * 14.0 + counts * 2.0) / 16.0, rtol=1e-5)


def test_blindspot_posterior_through_the_network():
    """A network that says 4 ± 3 for the rate, whatever it sees."""
    spread = np.log(np.expm1(3.0)) + 1.0
    mean = np.log(np.expm1(4.0))
    objective = build("blindspot", same, scaling="none")
    counts = jnp.float32(RNG.poisson(4.0, (1, 4, 4, 1)))
    image, variance = objective.posterior(constant(mean, spread), counts)
    np.testing.assert_allclose(image, (16.0 + 9.0 * counts) / 13.0, rtol=1e-4)
    np.testing.assert_allclose(variance, image * 9.0 / 13.0, rtol=1e-4)


@pytest.mark.parametrize("prior", ["gamma", "gaussian"])
def test_blindspot_learns_mean_and_spread_of_the_rates(prior):
    """Rates from a Gamma law, nothing to learn but the law itself, from the counts alone."""
    rate = RNG.gamma(9.0, 1.0, (2, 50, 50, 1))
    counts = jnp.float32(RNG.poisson(rate) + 0.5 * RNG.normal(size=rate.shape))
    batch = {"counts": counts, "readout": jnp.full(2, 0.5)}
    objective = build("blindspot", same, scaling="none", prior=prior)
    slope = jax.jit(jax.grad(lambda p: objective.loss(p, batch)[0]))
    params = constant(5.0, 3.0)
    for _ in range(60):
        params = params - 3.0 * slope(params)
    assert float(params[0, 0, 0, 0]) == pytest.approx(9.0, abs=0.15)
    assert float(jax.nn.softplus(params[0, 0, 0, 1] - 1)) == pytest.approx(3.0, abs=0.25)
    restored = objective.restore(params, counts, 0.5)
    error, noisy = (float(np.mean((a - rate) ** 2)) for a in (restored, counts))
    best = 9.0 * 9.25 / 18.25
    assert error == pytest.approx(best, rel=0.06)
    assert noisy > 1.8 * error


@pytest.mark.parametrize("readout", [0.0, 0.6])
def test_pn2v_mmse_is_the_integral(readout):
    """A network whose samples are the quantiles of a known prior: the posterior is an integral."""
    prior = stats.gamma(4.0, scale=1.5)
    grid = prior.ppf((np.arange(400) + 0.5) / 400)
    objective = build("pn2v", same, samples=400, scaling="none", readout=readout)
    inverse = constant(*np.log(np.expm1(grid)))  # of the softplus that makes rates positive
    counts = jnp.float32([0.0, 2.0, 5.0, 14.0]).reshape(1, 2, 2, 1)
    image, variance = jax.jit(objective.posterior)(inverse, counts)
    fine = prior.ppf((np.arange(4_000) + 0.5) / 4_000)
    for x, mean, spread in zip(
        *(np.asarray(a).ravel() for a in (counts, image, variance)), strict=True
    ):
        like = density(x, fine, max(readout, 0.1))
        expected = (like * fine).mean() / like.mean()
        assert mean == pytest.approx(expected, rel=0.01)
        width = (like * (fine - expected) ** 2).mean() / like.mean()
        assert spread == pytest.approx(width, rel=0.06)
    batch = {"counts": jnp.full((1, 8, 8, 1), 5.0)}
    value = jax.jit(objective.loss)(inverse, batch, KEY)[0]
    evidence = density(5.0, fine, max(readout, 0.1)).mean()
    assert float(value) == pytest.approx(-np.log(evidence), abs=0.01)


def test_pn2v_takes_a_noise_model_of_ones_own():
    objective = build(
        "pn2v",
        same,
        samples=3,
        scaling="none",
        noise=lambda observed, rate: -0.5 * (observed - rate) ** 2,
    )
    params = constant(1.0, 4.0, 8.0)
    rate = np.log1p(np.exp(np.ravel(params)))
    share = np.exp(-0.5 * (4.0 - rate) ** 2)
    image = objective.restore(params, jnp.full((1, 2, 2, 1), 4.0))
    np.testing.assert_allclose(image, (share * rate).sum() / share.sum(), rtol=1e-5)


def test_noise_model_out_of_pairs():
    """Gain and floor are found, densities sum to 1 with the right mean and variance at any dose."""
    signal = np.exp(RNG.uniform(np.log(0.5), np.log(60.0), 20_000))
    observed = 1.3 * RNG.poisson(signal / 1.3) + 0.8 * RNG.normal(size=signal.size)
    model = fit_scaled_mixture(KEY, signal, observed, steps=150, batch=1024)
    assert float(model.gain) == pytest.approx(1.3, abs=0.08)
    assert float(model.floor) == pytest.approx(0.64, abs=0.15)
    x = jnp.linspace(-15.0, 140.0, 6000)
    for s in (1.0, 6.0, 50.0):
        p = np.exp(np.asarray(model(x, jnp.full_like(x, s)))) * (155.0 / 5999)
        assert p.sum() == pytest.approx(1.0, abs=5e-3)
        assert (p * x).sum() == pytest.approx(s, abs=0.03 * s + 0.02)
        spread = (p * (np.asarray(x) - s) ** 2).sum()
        assert spread == pytest.approx(1.3 * s + 0.64, rel=0.15)


@pytest.mark.parametrize(
    ("signal", "observed", "text"),
    [
        (np.ones(200), np.ones(200), "one brightness"),
        (np.arange(200.0), np.full(200, np.nan), "finite"),
        (np.arange(5.0), np.arange(5.0), "at least 100"),
    ],
)
def test_pairs_that_teach_nothing(signal, observed, text):
    with pytest.raises(ValueError, match=text):
        fit_scaled_mixture(KEY, signal, observed)


@pytest.mark.parametrize("model", ["mixture", "histogram"])
def test_bootstrap_goes_on_with_a_fitted_noise_model(model):
    """The first stage restores with the samples' mean, the second weighs them with the noise."""
    fit = {"steps": 40, "batch": 256} if model == "mixture" else {"bins": (8, 32)}
    rate = np.repeat(np.linspace(3.0, 30.0, 64), 32).reshape(1, 64, 32, 1)
    counts = jnp.float32(RNG.poisson(rate))
    params = jnp.float32([-0.6, -0.3, 0.0, 0.3, 0.6]).reshape(1, 1, 1, 5)

    def smooth(params, x):  # a network that knows the rows
        return x.mean(2, keepdims=True) + 0 * x + params

    first = build("pn2v_bootstrap", smooth, samples=5, model=model, fit=fit)
    assert first.noise is None
    start, none = jax.jit(first.posterior)(params, counts)
    assert none is None
    second = first.advance(KEY, params, counts)
    assert second.noise is not None
    assert second.advance is None
    image, variance = jax.jit(second.posterior)(params, counts)
    assert float(variance.min()) >= 0
    assert np.isfinite(jax.jit(second.loss)(params, {"counts": counts}, KEY)[0])
    pulled = np.corrcoef(np.ravel(image - start), np.ravel(counts - start))[0, 1]
    assert pulled > 0.5, "the pixel's own counts speak now"
    again = build("pn2v_bootstrap", smooth, samples=5, noise=second.noise)
    assert again.noise is second.noise
    assert again.advance is None
