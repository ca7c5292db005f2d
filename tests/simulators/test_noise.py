"""Noise models: moments against the law, likelihoods against SciPy, one battery for every entry."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln

from simulators.noise import FAST_LIMIT, NOISE, Gaussian, Poisson, PoissonReadout, fast_poisson

MODELS = {
    "poisson": Poisson(),
    "gaussian": Gaussian(sigma=1.7),
    "poisson_readout": PoissonReadout(sigma=1.7, gain=2.5, offset=11.0),
}
DRAWS = 1_000_000
BOUND = 4.0
"""Standard errors that a moment may be off; the draws are fixed by the key."""

every_model = pytest.mark.parametrize("name", sorted(MODELS))


def law(name: str, rate: float) -> tuple[float, float, float]:
    """Mean, variance and fourth cumulant of the data at a rate."""
    model = MODELS[name]
    if name == "poisson":
        return rate, rate, rate
    if name == "gaussian":
        return rate, model.sigma**2, 0.0
    return (
        model.offset + model.gain * rate,
        model.gain**2 * (rate + model.sigma**2),
        model.gain**4 * rate,
    )


def information(name: str, rate: float) -> float:
    """Fisher information of one pixel about the rate, as the model's likelihood has it."""
    sigma = getattr(MODELS[name], "sigma", 0.0)
    return 1 / sigma**2 if name == "gaussian" else 1 / (rate + sigma**2)


def some_rates(shape: tuple[int, ...] = (5, 7)) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).uniform(0.5, 60.0, shape))


def assert_moments(values: jax.Array, mean: float, variance: float, fourth: float) -> None:
    data = np.asarray(values, float)
    mean_error = np.sqrt(variance / data.size)
    variance_error = np.sqrt((fourth + 2 * variance**2) / data.size)
    assert abs(data.mean() - mean) <= BOUND * mean_error
    assert abs(((data - mean) ** 2).mean() - variance) <= BOUND * variance_error


def test_the_registry_knows_these_models():
    for name, model in MODELS.items():
        assert isinstance(model, NOISE[name])


@every_model
@pytest.mark.parametrize("rate", [0.04, 3.2, 47.0, 2000.0])
def test_mean_and_variance(name, rate):
    values = MODELS[name].sample(jax.random.key(1), jnp.full(DRAWS, rate))
    assert values.dtype == jnp.float32
    assert_moments(values, *law(name, rate))


def test_the_read_out_part_alone():
    model = MODELS["poisson_readout"]
    dark = model.sample(jax.random.key(2), jnp.zeros(DRAWS))
    assert_moments(dark, model.offset, (model.gain * model.sigma) ** 2, 0.0)
    assert stats.kurtosis(np.asarray(dark)) == pytest.approx(0, abs=BOUND * np.sqrt(24 / DRAWS))
    silent = PoissonReadout(sigma=0.0, gain=2.5, offset=11.0)
    electrons = (silent.sample(jax.random.key(2), jnp.full(DRAWS, 8.0)) - 11.0) / 2.5
    np.testing.assert_array_equal(electrons, np.round(electrons))
    assert electrons.max() > 8


def test_shot_and_read_out_noise_are_independent():
    key, rate = jax.random.key(3), jnp.full(DRAWS, 9.0)
    total = PoissonReadout(sigma=2.0).sample(key, rate)
    shot = PoissonReadout(sigma=0.0).sample(key, rate)
    correlation = np.corrcoef(np.asarray(shot), np.asarray(total - shot))[0, 1]
    assert abs(correlation) <= BOUND / np.sqrt(DRAWS)


def test_poisson_draws_follow_the_whole_distribution():
    for rate in (0.7, 14.0):
        counts = np.asarray(Poisson().sample(jax.random.key(4), jnp.full(DRAWS, rate))).astype(int)
        expected = DRAWS * stats.poisson.pmf(np.arange(counts.max() + 1), rate)
        seen = np.bincount(counts)
        often = expected > 20
        chi2 = ((seen - expected)[often] ** 2 / expected[often]).sum()
        assert stats.chi2.sf(chi2, often.sum() - 1) > 1e-4


@every_model
def test_the_key_decides(name):
    model, rate = MODELS[name], some_rates()
    one, same = (model.sample(jax.random.key(5), rate) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, model.sample(jax.random.key(6), rate))
    assert one.shape == rate.shape
    pixels = model.sample(jax.random.key(5), jnp.full(rate.shape, 20.0))
    assert len(np.unique(pixels)) > 8, "pixels of one image differ"


def test_poisson_likelihood_is_scipys(x64):
    rate = some_rates()
    counts = Poisson().sample(jax.random.key(7), rate)
    mine = float(Poisson().log_likelihood(counts, rate))
    assert mine == pytest.approx(stats.poisson.logpmf(counts, rate).sum(), rel=1e-12)


def test_gaussian_likelihood_is_scipys(x64):
    rate, model = some_rates(), MODELS["gaussian"]
    values = model.sample(jax.random.key(8), rate)
    mine = float(model.log_likelihood(values, rate))
    assert mine == pytest.approx(stats.norm.logpdf(values, rate, model.sigma).sum(), rel=1e-12)


def test_readout_likelihood_without_read_out_is_the_poisson_law(x64):
    rate, model = some_rates(), PoissonReadout(sigma=0.0, gain=2.5, offset=11.0)
    values = model.sample(jax.random.key(9), rate)
    expected = stats.poisson.logpmf(np.round((values - 11.0) / 2.5), rate).sum()
    expected -= rate.size * np.log(2.5)  # a density in grey values
    assert float(model.log_likelihood(values, rate)) == pytest.approx(expected, rel=1e-12)


def test_readout_likelihood_is_the_shifted_poisson_form(x64):
    rate, model = some_rates(), MODELS["poisson_readout"]
    values = np.asarray(model.sample(jax.random.key(10), rate))
    shifted = (values - model.offset) / model.gain + model.sigma**2
    mean = np.asarray(rate) + model.sigma**2
    assert (shifted > 0).all()
    expected = shifted * np.log(mean) - mean - gammaln(shifted + 1) - np.log(model.gain)
    mine = float(model.log_likelihood(jnp.asarray(values), rate))
    assert mine == pytest.approx(expected.sum(), rel=1e-12)


@pytest.mark.parametrize(("rate", "allowed"), [(2.0, 0.01), (10.0, 1e-3), (100.0, 2e-6)])
def test_the_shifted_form_is_near_the_exact_convolution(rate, allowed, x64):
    # Kullback-Leibler distance per pixel, in nats, from the Poisson law blurred by the read-out
    # (below zero at 2 electrons: the form is a density only at large rates)
    model, n = PoissonReadout(sigma=1.7), np.arange(400)
    x = np.linspace(rate - 8 * np.sqrt(rate + 3), rate + 9 * np.sqrt(rate + 3), 600)
    exact = (stats.poisson.pmf(n, rate) * stats.norm.pdf(x[:, None], n, 1.7)).sum(1)
    mine = np.array([model.log_likelihood(jnp.asarray([v]), jnp.asarray([rate])) for v in x])
    divergence = np.trapezoid(exact * (np.log(np.maximum(exact, 1e-300)) - mine), x)
    assert abs(divergence) < allowed


@every_model
def test_gradient_to_the_rate(name, x64):
    model, rate = MODELS[name], some_rates()
    values = model.sample(jax.random.key(11), rate)
    start = rate * 1.1 + 0.3
    direction = jnp.asarray(np.random.default_rng(1).normal(size=rate.shape))

    def objective(step):
        return model.log_likelihood(values, start + step * direction)

    h = 1e-5
    numeric = (objective(h) - objective(-h)) / (2 * h)
    assert float(jax.grad(objective)(0.0)) == pytest.approx(float(numeric), rel=1e-7)


@pytest.mark.parametrize(
    ("name", "leaf"),
    [
        ("gaussian", "sigma"),
        ("poisson_readout", "sigma"),
        ("poisson_readout", "gain"),
        ("poisson_readout", "offset"),
    ],
)
def test_gradient_to_the_models_parameters(name, leaf, x64):
    from simulators.tree import replace

    model, rate = MODELS[name], some_rates()
    values = model.sample(jax.random.key(12), rate)

    def objective(scale):
        changed = replace(model, **{leaf: getattr(model, leaf) * scale})
        return changed.log_likelihood(values, rate)

    h = 1e-6
    numeric = (objective(1 + h) - objective(1 - h)) / (2 * h)
    assert float(jax.grad(objective)(1.0)) == pytest.approx(float(numeric), rel=1e-6)


@every_model
@pytest.mark.parametrize("rate", [5.0, 40.0])
def test_the_likelihood_is_largest_at_the_truth(name, rate, x64):
    model, n = MODELS[name], 100_000
    values = model.sample(jax.random.key(13), jnp.full(n, rate))

    def total(r):
        return model.log_likelihood(values, jnp.full(n, r))

    score = float(jax.grad(total)(rate))
    assert abs(score) <= BOUND * np.sqrt(n * information(name, rate))
    assert total(rate) > max(total(0.97 * rate), total(1.03 * rate))
    assert total(0.97 * rate) > total(0.8 * rate)
    assert total(1.03 * rate) > total(1.2 * rate)


def test_empty_pixels(x64):
    zero = jnp.zeros((5, 7))
    assert not Poisson().sample(jax.random.key(14), zero).any()
    assert float(Poisson().log_likelihood(zero, zero)) == 0.0
    gradient = jax.grad(lambda r: Poisson().log_likelihood(zero, r))(zero)
    np.testing.assert_array_equal(gradient, -1.0)
    impossible = Poisson().log_likelihood(zero.at[2, 3].set(1.0), zero)
    assert float(impossible) == -np.inf, "an electron where none can be"


def test_read_out_models_at_rate_0_stay_finite():
    for name in ("gaussian", "poisson_readout"):
        model, zero = MODELS[name], jnp.zeros((5, 7))
        values = model.sample(jax.random.key(15), zero)
        value, gradient = jax.value_and_grad(lambda r, m=model, v=values: m.log_likelihood(v, r))(
            zero
        )
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_values_below_the_read_out_noise_count_as_its_floor():
    model, rate = PoissonReadout(sigma=1.0), jnp.array([3.0])
    floor, below = (model.log_likelihood(jnp.array([v]), rate) for v in (-1.0, -7.0))
    assert float(floor) == float(below) == pytest.approx(-4.0)


@every_model
def test_compiled_is_eager(name):
    model, rate, key = MODELS[name], some_rates(), jax.random.key(16)
    values = model.sample(key, rate)
    np.testing.assert_allclose(jax.jit(type(model).sample)(model, key, rate), values, rtol=1e-6)
    compiled = jax.jit(type(model).log_likelihood)(model, values, rate)
    np.testing.assert_allclose(compiled, model.log_likelihood(values, rate), rtol=2e-6)


def test_a_model_is_a_pytree_whose_parameters_can_be_drawn():
    sigmas = jnp.array([0.5, 4.0])
    draws = jax.jit(
        jax.vmap(lambda s: Gaussian(sigma=s).sample(jax.random.key(17), jnp.zeros(20_000)))
    )(sigmas)
    np.testing.assert_allclose(draws.std(axis=1), sigmas, rtol=0.02)


FAST_DRAWS = 400_000
FAST_RATES = (0.0, 0.05, 1.0, 5.0, 11.9, 12.1, 40.0, 300.0)


@pytest.fixture(scope="module")
def fast_counts() -> dict[float, np.ndarray]:
    """Draws of `fast_poisson` at each rate, all from one picture: neighbours have other rates."""
    rates = jnp.asarray(np.tile(FAST_RATES, (FAST_DRAWS, 1)), jnp.float32)
    counts = np.asarray(jax.jit(fast_poisson)(jax.random.key(18), rates))
    assert counts.dtype == np.float32
    return dict(zip(FAST_RATES, counts.T, strict=True))


@pytest.mark.parametrize("rate", FAST_RATES)
def test_fast_counts_follow_the_distribution(fast_counts, rate):
    counts = fast_counts[rate]
    np.testing.assert_array_equal(counts, np.round(counts))
    assert counts.min() >= 0
    below = np.cumsum(np.bincount(counts.astype(int))) / FAST_DRAWS
    error = np.abs(below - stats.poisson.cdf(np.arange(len(below)), rate)).max()
    assert error < 2e-3, "the scatter of the draws alone is 0.8e-3"


@pytest.mark.parametrize("rate", FAST_RATES)
def test_fast_counts_have_the_moments(fast_counts, rate):
    if rate == 0:
        assert not fast_counts[rate].any()
    else:
        assert_moments(fast_counts[rate], rate, rate, rate)


@pytest.mark.parametrize("rate", [FAST_LIMIT, 20.0, 1000.0])
def test_the_expansion_is_right_to_1e_3(rate):
    counts = np.asarray(fast_poisson(jax.random.key(19), jnp.full(4 * DRAWS, rate))).astype(int)
    below = np.cumsum(np.bincount(counts)) / counts.size
    assert np.abs(below - stats.poisson.cdf(np.arange(len(below)), rate)).max() < 1e-3
    assert counts.var() == pytest.approx(rate, rel=3e-3)
    assert stats.skew(counts) == pytest.approx(rate**-0.5, abs=0.01)


def test_the_key_decides_fast_counts():
    rate = some_rates()
    one, same, other = (fast_poisson(jax.random.key(k), rate) for k in (20, 20, 21))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.shape == rate.shape
    assert one.dtype == rate.dtype
