"""Learning from noise alone: what is hidden is hidden, what is split is independent; PN2V; PU."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom, norm

from emjax.losses import (
    fit_histogram,
    fit_mixture,
    ge_binomial,
    mse,
    noise2noise_batch,
    noise2self_batch,
    noise2self_denoise,
    noise2void_batch,
    nonnegative_pu,
    positive_negative,
    posterior_mean,
    probabilistic_noise2void,
    split_counts,
    supervised,
)


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Losses run once here: to compile them takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


KEY = jax.random.key(0)
BLIND = jax.jit(noise2void_batch, static_argnames=("spacing", "radius", "line", "extent"))
BINOMIAL = jax.jit(ge_binomial, static_argnames=("prior", "slack"))
NOISY = np.random.default_rng(0).normal(size=(3, 21, 18, 2)).astype(np.float32)


# ---------------------------------------------------------------- pairs


def test_pairs_both_ways():
    batch = noise2noise_batch(NOISY, 2 * NOISY)
    np.testing.assert_array_equal(batch["image"][3:], 2 * NOISY)
    np.testing.assert_array_equal(batch["target"][3:], NOISY)
    assert noise2noise_batch(NOISY, NOISY, both_ways=False)["image"].shape == NOISY.shape
    with pytest.raises(ValueError, match="differ in shape"):
        noise2noise_batch(NOISY, NOISY[:1])


def test_halves_of_counts_are_independent():
    counts = np.random.default_rng(1).poisson(6.0, 40_000)
    first, second = map(np.asarray, jax.jit(split_counts)(KEY, counts, 0.3))
    np.testing.assert_array_equal(first + second, counts)
    assert first.min() >= 0
    for part, rate in ((first, 1.8), (second, 4.2)):
        assert part.mean() == pytest.approx(rate, abs=0.04)
        assert part.var() == pytest.approx(rate, abs=0.1), "Poisson"
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


# ---------------------------------------------------------------- blind spots


def test_one_pixel_in_each_box_is_hidden():
    batch = BLIND(KEY, NOISY, spacing=6)
    mask = np.asarray(batch["weight"])
    assert mask.shape == (3, 21, 18)
    boxes = mask[:, :18].reshape(3, 3, 6, 3, 6).sum((2, 4))
    np.testing.assert_array_equal(boxes, 1)
    same = np.asarray(batch["image"]) == NOISY
    np.testing.assert_array_equal(same.all(-1), mask == 0), "hidden, and nothing else"
    np.testing.assert_array_equal(batch["target"], NOISY)
    other = BLIND(jax.random.key(1), NOISY, spacing=6)
    assert (np.asarray(other["weight"]) != mask).any()


@pytest.mark.parametrize("line", [None, "x", "y"])
def test_hidden_pixels_show_a_neighbour_never_themselves(line):
    """Every pixel holds its own index; up to the edges of the image."""
    h, w, radius = 9, 7, 2
    index = jnp.arange(h * w, dtype=jnp.float32).reshape(1, h, w, 1)
    images = jnp.broadcast_to(index, (200, h, w, 1))
    batch = BLIND(KEY, images, spacing=2, radius=radius, line=line, extent=1)
    b, y, x = np.nonzero(np.asarray(batch["weight"]))
    shown = np.asarray(batch["image"])[b, y, x, 0].astype(int)
    dy, dx = shown // w - y, shown % w - x
    assert np.abs(dy).max() == radius
    assert np.abs(dx).max() == radius
    if line is None:
        assert ((dy != 0) | (dx != 0)).all()
        inner = (y > 1) & (y < h - 2) & (x > 1) & (x < w - 2)
        table = np.histogram2d(dy[inner], dx[inner], bins=np.arange(-2.5, 3))[0]
        expected = inner.sum() / 24
        assert np.abs(table.ravel()[np.arange(25) != 12] - expected).max() < 6 * expected**0.5
    else:
        assert ({"x": dy, "y": dx}[line] != 0).all(), "not from the same line"


def test_the_line_is_hidden_too():
    batch = BLIND(KEY, NOISY, spacing=8, line="x", extent=2)
    changed = (np.asarray(batch["image"]) != NOISY).any(-1)
    mask = np.asarray(batch["weight"]) > 0
    expected = np.zeros_like(mask)
    for b, y, x in np.argwhere(mask):
        expected[b, y, max(x - 2, 0) : x + 3] = True
    np.testing.assert_array_equal(changed, expected)


def test_the_best_answer_behind_the_blind_spot_is_the_mean():
    """A constant network; the value of the pixel itself (the identity) is no way out."""
    batch = BLIND(KEY, 3 + NOISY)
    loss = supervised(lambda p, x: p["a"] * x + p["b"], mse)

    def total(a, b):
        return float(loss({"a": a, "b": b}, batch)[0])

    assert total(0.0, 3.0) < total(1.0, 0.0) * 0.7, "identity: twice the variance"


@pytest.mark.parametrize("bad", [{"line": "z"}, {"spacing": 1}], ids=str)
def test_bad_blind_spots(bad):
    with pytest.raises(ValueError, match=r"choose x, y|at least 2"):
        noise2void_batch(KEY, NOISY, **bad)


def test_self_supervised_output_does_not_depend_on_its_own_pixel():
    """The gradient of any network's output by the same input pixel is exactly 0."""
    kernel = jax.random.normal(KEY, (3, 3, 1, 1))

    def apply(kernel, x):
        dims = ("NHWC", "HWIO", "NHWC")
        return jnp.tanh(
            jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)
        )

    denoise = noise2self_denoise(apply, width=3)
    x = jnp.asarray(NOISY[:1, :7, :8, :1])
    jacobian = jax.jit(jax.jacrev(lambda x: denoise(kernel, x).ravel()))(x)
    jacobian = np.asarray(jacobian).reshape(56, 56)
    np.testing.assert_array_equal(np.diag(jacobian), 0)
    assert (np.abs(jacobian) > 1e-3).sum() > 56
    batch = noise2self_batch(KEY, NOISY, width=3)
    mask = np.asarray(batch["weight"]) > 0
    assert mask.mean() == pytest.approx(1 / 9, rel=0.2)
    np.testing.assert_array_equal((np.asarray(batch["image"]) != NOISY).any(-1), mask)
    flat = noise2self_batch(KEY, jnp.full((1, 8, 8, 1), 2.0))
    np.testing.assert_allclose(flat["image"], 2, rtol=1e-6)
    with pytest.raises(ValueError, match="at least 2"):
        noise2self_batch(KEY, NOISY, width=1)


# ---------------------------------------------------------------- noise models


def pairs(n):
    rng = np.random.default_rng(2)
    signal = rng.uniform(10, 50, n)
    return signal, signal + rng.normal(size=n) * np.sqrt(4 + 0.5 * signal)


def true_log_p(observed, signal):
    return norm.logpdf(observed, signal, np.sqrt(4 + 0.5 * signal))


@pytest.mark.parametrize("kind", ["histogram", "mixture"])
def test_noise_models_find_the_noise(kind):
    signal, observed = pairs(100_000)
    if kind == "histogram":
        model = fit_histogram(signal, observed)
    else:
        model = fit_mixture(KEY, signal, observed, components=2, degree=1, steps=150, batch=1024)
    log_p = jax.jit(lambda observed, signal: model(observed, signal))
    s, o = (jnp.asarray(a[:5000], jnp.float32) for a in pairs(200_000))
    excess = (true_log_p(np.asarray(o), np.asarray(s)) - np.asarray(log_p(o, s))).mean()
    assert -0.02 < excess < 0.03, "Kullback-Leibler divergence from the true noise"
    values = jnp.linspace(-40, 120, 4001)
    p = np.exp(np.asarray(log_p(values, jnp.full_like(values, 30.0))))
    if kind == "mixture":
        assert np.trapezoid(p, values) == pytest.approx(1, abs=1e-3)
        assert np.trapezoid(p * values, values) == pytest.approx(30, abs=0.02), "unbiased"
    slope = jax.grad(lambda s: log_p(jnp.float32(24.0), s))(jnp.float32(30.0))
    expected = (true_log_p(24.0, 30.5) - true_log_p(24.0, 29.5)) / 1
    assert float(slope) == pytest.approx(expected, abs=0.12)
    assert np.isfinite(log_p(jnp.array([-500.0, 500.0]), jnp.array([0.0, 90.0]))).all()


def test_noise_models_need_varied_pairs():
    with pytest.raises(ValueError, match="different brightness"):
        fit_histogram(np.ones(1000), np.arange(1000.0))
    with pytest.raises(ValueError, match="NaN"):
        fit_mixture(KEY, np.full(200, np.nan), np.ones(200))


def gaussian(observed, signal):
    return -0.5 * jnp.square(observed - signal)


def test_the_posterior_mean_of_gaussians():
    """Samples of a prior N(1, 4), noise N(0, 1): the mean is (4 x + 1) / 5."""
    samples = 1 + 2 * jax.random.normal(KEY, (1, 1, 3, 20_000))
    observed = jnp.array([-1.0, 1.0, 3.0]).reshape(1, 1, 3, 1)
    mean = jax.jit(lambda s, x: posterior_mean(s, x, gaussian))(samples, observed)
    np.testing.assert_allclose(mean, (4 * observed + 1) / 5, atol=0.06)
    with pytest.raises(ValueError, match="belong to an image of shape"):
        posterior_mean(samples, observed[..., 0], gaussian)


def test_probabilistic_loss_by_hand():
    batch = BLIND(KEY, NOISY[..., :1])
    samples = jax.random.normal(jax.random.key(3), (3, 21, 18, 5))
    loss = jax.jit(probabilistic_noise2void(lambda p, x: p, gaussian))
    value, metrics = loss(samples, batch)
    p = np.exp(-0.5 * (np.asarray(samples) - NOISY[..., :1]) ** 2).mean(-1)
    w = np.asarray(batch["weight"])
    assert float(value) == pytest.approx((-np.log(p) * w).sum() / w.sum(), rel=1e-4)
    assert metrics["prior_mse"] > 0
    far = jax.grad(lambda s: loss(s, batch)[0])
    assert np.isfinite(far(samples + 1e3)).all(), "no underflow"


# ---------------------------------------------------------------- positive and unlabelled


def test_ge_binomial_by_hand():
    rng = np.random.default_rng(4)
    logits = rng.normal(size=30)
    labels = np.r_[np.ones(5), np.zeros(20), -np.ones(5)].astype(int)
    p = 1 / (1 + np.exp(-logits))
    mean, var = p[5:25].sum(), (p * (1 - p))[5:25].sum()
    k = np.arange(21)
    q = np.exp(-0.5 * (k - mean) ** 2 / var)
    penalty = -(q / q.sum() * binom.logpmf(k, 20, 0.2)).sum()
    expected = -np.log(p[:5]).mean() + 0.7 * penalty
    value = BINOMIAL(jnp.asarray(logits, jnp.float32), labels, prior=0.2, slack=0.7)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    all_marked = ge_binomial(jnp.zeros(4), jnp.ones(4), prior=0.2)
    assert float(all_marked) == pytest.approx(np.log(2), rel=1e-6)


def test_bad_priors():
    with pytest.raises(ValueError, match="between 0 and 1"):
        ge_binomial(jnp.zeros(4), jnp.zeros(4), prior=1.0)
    with pytest.raises(ValueError, match="must be the same"):
        nonnegative_pu(jnp.zeros((4, 2)), jnp.zeros(4), prior=0.5)


def test_nonnegative_pu():
    logits = jnp.array([2.0, -1.0, 0.5, -3.0])
    labels = jnp.array([1, 1, 0, 0])
    plus, minus = np.log1p(np.exp(-np.asarray(logits))), np.log1p(np.exp(np.asarray(logits)))
    negative = minus[2:].mean() - 0.3 * minus[:2].mean()
    assert negative > 0
    value = nonnegative_pu(logits, labels, prior=0.3)
    assert float(value) == pytest.approx(0.3 * plus[:2].mean() + negative, rel=1e-5)
    over = jnp.array([5.0, 5.0, -9.0, -9.0])
    value, slope = jax.jit(jax.value_and_grad(lambda x: nonnegative_pu(x, labels, prior=0.3)))(over)
    assert float(value) == pytest.approx(0.3 * np.log1p(np.exp(-5)), rel=1e-4)
    assert (np.asarray(slope[2:]) <= 0).all(), "the unlabelled come back up"
    assert float(positive_negative(over, labels)) < 0.01


def test_particles_are_found_from_a_few_marks():
    """Two overlapping Gaussians, 40 of 600 particles marked: the naive loss calls few positive."""
    rng = np.random.default_rng(5)
    truth = np.r_[np.ones(600), np.zeros(1400)].astype(bool)
    x = jnp.asarray(rng.normal(size=2000) + 2.5 * truth, jnp.float32)
    marks = jnp.asarray(np.r_[np.ones(40), np.zeros(1960)])
    prior = 560 / 1960

    def share(loss):
        @jax.jit
        def train(w):
            slope = jax.grad(lambda w: loss(w[0] * x + w[1], marks))
            return jax.lax.scan(lambda w, _: (w - 0.2 * slope(w), None), w, length=400)[0]

        w = train(jnp.array([0.5, 0.0]))
        return float((w[0] * x + w[1] > 0).mean())

    naive = share(positive_negative)
    assert naive < 0.02
    assert share(lambda z, y: ge_binomial(z, y, prior=prior, slack=0.05)) == pytest.approx(
        0.3, abs=0.06
    )
    assert share(lambda z, y: nonnegative_pu(z, y, prior=0.3)) == pytest.approx(0.3, abs=0.08)
