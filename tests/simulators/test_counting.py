"""Exact and variance-stabilised read-out likelihoods, the converter, X-rays, salt and pepper."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from simulators.counting import Anscombe, Poisson, PoissonGaussian, PoissonReadout
from simulators.impulses import SaltPepper, XRays
from simulators.tree import replace

DRAWS = 1_000_000
MODELS = {
    "poisson_gaussian": PoissonGaussian(sigma=1.3, gain=2.5, offset=11.0),
    "converter": PoissonGaussian(sigma=1.3, gain=2.5, offset=11.0, bits=10),
    "anscombe": Anscombe(sigma=1.3, gain=2.5, offset=11.0),
    "x_rays": XRays(probability=0.02, height=400.0),
    "salt_pepper": SaltPepper(salt=0.02, pepper=0.01),
}
every_model = pytest.mark.parametrize("name", MODELS)


def moments(values, mean, cumulants):
    """First four sample moments against theory, each within three of its standard errors.

    cumulants: of orders 2 to 8, from which the errors of the moments follow.
    """
    k = dict(zip(range(2, 9), cumulants, strict=True))
    m = {1: 0.0, 2: k[2], 3: k[3], 4: k[4] + 3 * k[2] ** 2}
    m[6] = k[6] + 15 * k[4] * k[2] + 10 * k[3] ** 2 + 15 * k[2] ** 3
    m[8] = (
        k[8] + 28 * k[6] * k[2] + 56 * k[5] * k[3] + 35 * k[4] ** 2
        + 210 * k[4] * k[2] ** 2 + 280 * k[3] ** 2 * k[2] + 105 * k[2] ** 4
    )  # fmt: skip
    data = np.asarray(values, float) - mean
    for order in (1, 2, 3, 4):
        error = np.sqrt((m[2 * order] - m[order] ** 2) / data.size)
        assert abs((data**order).mean() - m[order]) <= 3 * error, f"moment {order}"


@pytest.mark.parametrize("rate", [0.3, 6.0, 80.0])
def test_four_moments_of_counts_and_read_out(rate):
    counts = Poisson().sample(jax.random.key(1), jnp.full(DRAWS, rate))
    moments(counts, rate, [rate] * 7)
    grey = PoissonGaussian(1.3, 2.5, 11.0).sample(jax.random.key(11), jnp.full(DRAWS, rate))
    moments((np.asarray(grey, float) - 11.0) / 2.5, rate, [rate + 1.3**2, *[rate] * 6])
    for kind in (PoissonReadout, Anscombe):
        same = kind(1.3, 2.5, 11.0).sample(jax.random.key(11), jnp.full(99, rate))
        other = PoissonGaussian(1.3, 2.5, 11.0).sample(jax.random.key(11), jnp.full(99, rate))
        np.testing.assert_array_equal(same, other)


def test_four_moments_of_the_converter():
    # steps of 1.25 standard deviations: rounding adds a variance of 1/12 and little else
    camera = PoissonGaussian(sigma=4.0, gain=0.2, offset=100.0, bits=8)
    grey = camera.sample(jax.random.key(3), jnp.full(DRAWS, 50.0))
    np.testing.assert_array_equal(grey, np.round(grey))
    k = [0.2**n * (50.0 + (16.0 if n == 2 else 0)) for n in range(2, 9)]
    k[0], k[2] = k[0] + 1 / 12, k[2] - 1 / 120
    moments(grey, 110.0, k)


def test_the_converter_saturates():
    camera = PoissonGaussian(sigma=1.0, gain=1.0, offset=3.0, bits=6)
    grey = np.asarray(camera.sample(jax.random.key(4), jnp.full(20_000, 60.0)))
    assert grey.max() == 63
    assert (grey == 63).mean() == pytest.approx(stats.norm.sf(62.5, 63, np.sqrt(61)), abs=0.02)
    dark = camera.sample(jax.random.key(4), jnp.zeros(20_000))
    assert dark.min() == 0


def test_four_moments_of_gaussian_noise_and_x_rays():
    from simulators.counting import Gaussian

    moments(
        Gaussian(sigma=1.7).sample(jax.random.key(5), jnp.full(DRAWS, 4.0)),
        4.0,
        [1.7**2, *[0.0] * 6],
    )
    # a hit is geometric with the mean 1/(1 - e^(-1/h)); central moments of rare compound hits
    p, h, rate = 0.03, 20.0, 5.0
    sample = np.asarray(XRays(p, h).sample(jax.random.key(6), jnp.full(DRAWS, rate)), float)
    n = np.arange(0, 3000)
    law = stats.geom.pmf(n, -np.expm1(-1 / h)) * p
    law[0] += 1 - p
    law = np.convolve(law, stats.poisson.pmf(np.arange(60), rate))
    n = np.arange(len(law))
    mean = (n * law).sum()
    assert mean == pytest.approx(rate + p * 20.5, rel=1e-3)
    central = {order: ((n - mean) ** order * law).sum() for order in range(1, 9)}
    for order in (1, 2, 3, 4):
        error = np.sqrt((central[2 * order] - central[order] ** 2) / DRAWS)
        assert abs(((sample - mean) ** order).mean() - central[order]) <= 3 * error


def test_four_moments_of_salt_and_pepper():
    noise, rate = SaltPepper(salt=0.02, pepper=0.05, high=40.0, low=0.0), 9.0
    sample = np.asarray(noise.sample(jax.random.key(7), jnp.full(DRAWS, rate)), float)
    n = np.arange(60)
    law = 0.93 * stats.poisson.pmf(n, rate)
    law[40] += 0.02
    law[0] += 0.05
    mean = (n * law).sum()
    central = {order: ((n - mean) ** order * law).sum() for order in range(1, 9)}
    for order in (1, 2, 3, 4):
        error = np.sqrt((central[2 * order] - central[order] ** 2) / DRAWS)
        assert abs(((sample - mean) ** order).mean() - central[order]) <= 3 * error


@pytest.mark.parametrize(("rate", "sigma"), [(0.4, 0.5), (3.0, 1.7), (30.0, 0.2), (400.0, 15.0)])
def test_the_exact_density_is_the_convolution(rate, sigma, x64):
    model, n = PoissonGaussian(sigma=sigma, gain=2.0, offset=5.0), np.arange(1000)
    width = np.sqrt(rate + sigma**2)
    x = np.linspace(rate - 6 * width, rate + 8 * width, 301)
    exact = (stats.poisson.pmf(n, rate) * stats.norm.pdf(x[:, None], n, sigma)).sum(1) / 2.0
    mine = model.log_density(jnp.asarray(5.0 + 2.0 * x), jnp.full(301, rate))
    np.testing.assert_allclose(np.exp(mine), exact, rtol=1e-8, atol=1e-13 * exact.max())


@pytest.mark.parametrize("name", ["poisson_gaussian", "anscombe"])
def test_densities_integrate_to_one(name, x64):
    model = MODELS[name]
    # below its lowest value the Anscombe form is constant: it is a density above
    low = 11.0 - 2.5 * (1.3**2 + 0.25) if name == "anscombe" else -30.0
    grey = jnp.linspace(low, 300.0, 6001)
    for rate, off in ((0.5, 1e-8), (12.0, 1e-8), (60.0, 1e-8)):
        density = np.exp(model.log_density(grey, jnp.full(grey.shape, rate)))
        if name == "anscombe":
            off = 0.1 if rate < 1 else 3e-3  # an approximation: the better, the brighter
        assert np.trapezoid(density, np.asarray(grey)) == pytest.approx(1.0, abs=off)


@pytest.mark.parametrize(
    ("rate", "gain", "off"),
    [(0.0, 2.5, 1e-9), (0.7, 2.5, 1e-9), (20.0, 0.3, 1e-9), (95.0, 2.5, 2e-3)],
)
def test_probabilities_of_the_converter_sum_to_one(rate, gain, off, x64):
    model = PoissonGaussian(sigma=1.3, gain=gain, offset=11.0, bits=8)
    codes = jnp.arange(256.0)
    assert float(jnp.exp(model.log_density(codes, jnp.full(256, rate))).sum()) == pytest.approx(
        1.0, abs=off
    )


def test_the_converter_sees_what_it_draws(x64):
    model = PoissonGaussian(sigma=0.8, gain=1.6, offset=4.0, bits=6)
    drawn = np.asarray(model.sample(jax.random.key(8), jnp.full(200_000, 30.0, jnp.float32)))
    drawn = drawn.astype(int)
    seen = np.bincount(drawn, minlength=64)
    expected = 200_000 * np.exp(model.log_density(jnp.arange(64.0), jnp.full(64, 30.0)))
    often = expected > 20
    assert often[63], "some pixels are saturated"
    chi2 = ((seen - expected)[often][:-1] ** 2 / expected[often][:-1]).sum()
    assert stats.chi2.sf(chi2, often.sum() - 2) > 1e-3
    assert seen[63] == pytest.approx(expected[63], rel=0.03), "shifted-Poisson tail"


@pytest.mark.parametrize("base", [Poisson(), PoissonGaussian(1.0, bits=10)])
def test_impulses_sum_to_one(base, x64):
    codes = jnp.arange(1024.0)
    rate = jnp.full(1024, 13.0)
    exact = SaltPepper(salt=0.02, pepper=0.01, high=1023.0, noise=base)
    total = jnp.exp(exact.log_density(codes, rate)).sum()
    assert float(total) == pytest.approx(1.0, abs=1e-9)
    rays = XRays(probability=0.02, height=80.0, noise=base)
    assert float(jnp.exp(rays.log_density(codes, rate)).sum()) == pytest.approx(1.0, abs=2e-4)


@every_model
def test_gradient_to_the_rate_and_the_parameters(name, x64):
    model = MODELS[name]
    rate = jnp.asarray(np.random.default_rng(0).uniform(0.5, 60.0, (5, 7)))
    counts = model.sample(jax.random.key(9), rate)
    start, direction = rate * 1.1 + 0.3, jnp.asarray(np.random.default_rng(1).normal(size=(5, 7)))
    leaves = ("sigma", "gain", "probability", "height", "salt", "pepper")
    leaves = [leaf for leaf in leaves if hasattr(model, leaf)]

    @jax.jit
    def objective(step):
        scaled = {
            leaf: getattr(model, leaf) * (1 + s) for leaf, s in zip(leaves, step[1:], strict=True)
        }
        return replace(model, **scaled).log_likelihood(counts, start + step[0] * direction)

    gradient, h = jax.grad(objective)(jnp.zeros(1 + len(leaves))), 1e-5
    for i, slope in enumerate(gradient):
        step = jnp.zeros(1 + len(leaves)).at[i].set(h)
        numeric = (objective(step) - objective(-step)) / (2 * h)
        assert float(slope) == pytest.approx(float(numeric), rel=1e-6, abs=1e-6)


@every_model
@pytest.mark.parametrize("rate", [7.0, 40.0])
def test_the_score_vanishes_at_the_truth(name, rate):
    model, n = MODELS[name], 8_000
    values = model.sample(jax.random.key(10), jnp.full(n, rate))

    @jax.jit
    def total(r):
        return model.log_likelihood(values, jnp.full(n, r)) / n

    score = jax.grad(total)(rate)
    noise = np.sqrt((rate + getattr(model, "sigma", 0.0) ** 2) * n) / n / rate
    assert abs(score) <= 4 * noise + 2e-3 * (name == "anscombe")
    assert float(total(rate)) > max(float(total(0.9 * rate)), float(total(1.1 * rate)))


def test_at_a_rate_of_zero_the_exact_gradient_is_right(x64):
    model, x = PoissonGaussian(sigma=0.8), jnp.asarray([0.9])
    slope = jax.grad(lambda r: model.log_likelihood(x, r))(jnp.zeros(1))
    expected = stats.norm.pdf(0.9, 1, 0.8) / stats.norm.pdf(0.9, 0, 0.8) - 1
    assert float(slope[0]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rate", [1e3, 3e4])
def test_float32_is_enough_for_bright_pixels(rate):
    model = PoissonGaussian(sigma=2.0)
    x = rate + np.sqrt(rate) * np.linspace(-3, 3, 13)
    slope = jax.vmap(jax.grad(lambda r, v: model.log_density(v, r)))(
        jnp.full(13, rate, jnp.float32), jnp.asarray(x, jnp.float32)
    )
    expected = (x - rate) / (rate + 4.0)
    np.testing.assert_allclose(slope, expected, atol=0.02 / np.sqrt(rate))


def test_a_robust_likelihood_forgives_a_hit():
    rate, hit = jnp.full(100, 20.0), jnp.full(100, 20.0).at[3].set(5000.0)

    def best(model):
        scales = jnp.linspace(0.8, 4.0, 161)
        values = jax.vmap(lambda s: model.log_likelihood(hit, s * rate))(scales)
        return float(scales[int(jnp.argmax(values))])

    assert best(Poisson()) > 3.0
    assert best(XRays(probability=0.01, height=1000.0)) == pytest.approx(1.0, abs=0.03)
