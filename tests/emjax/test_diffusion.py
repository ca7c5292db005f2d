"""Sampling where all is known: a normal prior, whose denoiser is a matrix, and its posterior."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from emjax.diffusion import (
    Schedule,
    amplitudes,
    clean_estimate,
    diffusion_loss,
    sample,
)
from emjax.diffusion_guidance import posterior_step
from emjax.networks import count, pure
from emjax.networks.diffusion import Attention, DiffusionUNet, waves_of


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """To compile takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# ---------------------------------------------------------------- noise levels


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_levels_fall_from_picture_to_noise(kind):
    level = Schedule(kind).level(jnp.linspace(0, 1, 101))
    assert (np.diff(level) < 0).all()
    alpha, sigma = amplitudes(level)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-6)
    np.testing.assert_allclose(np.log(alpha / sigma), level, atol=1e-3)
    assert alpha[0] > 0.999
    assert alpha[-1] < 0.01


def test_schedules_in_closed_form():
    np.testing.assert_allclose(amplitudes(Schedule().level(0.5))[0], np.sqrt(0.5), rtol=1e-5)
    t = 0.001 + 0.998 * 0.3
    expected = np.exp(-0.5 * (0.1 * t + 0.5 * 19.9 * t**2))
    np.testing.assert_allclose(amplitudes(Schedule("linear").level(0.3))[0], expected, rtol=1e-4)
    with pytest.raises(ValueError, match="schedule 'square': choose cosine or linear"):
        Schedule("square")
    with pytest.raises(ValueError, match="margin 0 must lie"):
        Schedule(margin=0)


# ---------------------------------------------------------------- a normal prior: all is known

N = 4
"""Pixels in a row."""
MEAN = np.array([0.5, -0.3, 0.0, 0.2])
PLACE = np.arange(N)
COVARIANCE = 0.8 * np.exp(-0.5 * np.abs(PLACE[:, None] - PLACE[None]))


def exact(params, x):
    """The mean of the pictures hidden in a noisy one: α Σ (α² Σ + σ²)⁻¹ (x - α μ) + μ."""
    level = x[0, 0, 0, -1]
    alpha, sigma = amplitudes(level)
    mean = params["mean"].reshape(1, N)
    prior = params["covariance"]
    noisy = x[..., 0].reshape(-1, N) - alpha * mean
    total = alpha**2 * prior + sigma**2 * jnp.eye(N)
    return (mean + alpha * noisy @ jnp.linalg.solve(total, prior)).reshape(-1, 1, N, 1)


PARAMS = {
    "mean": jnp.array(MEAN, jnp.float32),
    "covariance": jnp.array(COVARIANCE, jnp.float32),
}
COUNT = 1500
SHAPE = (COUNT, 1, N, 1)
STEPS = 40


def moments(x):
    x = np.asarray(x, np.float64).reshape(-1, N)
    return x.mean(0), np.cov(x.T)


def drawn(seed=0, shape=SHAPE, **more):
    return sample(
        jax.random.key(seed), exact, PARAMS, shape, predicts="clean", **{"steps": STEPS, **more}
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_have_the_priors_mean_and_covariance(eta):
    mean, covariance = moments(drawn(eta=eta))
    np.testing.assert_allclose(mean, MEAN, atol=0.08)  # 3.4 standard errors
    np.testing.assert_allclose(covariance, COVARIANCE, atol=0.11)


def measurement():
    """y = A x + noise of 0.2, with one pixel blurred away; posterior mean and covariance."""
    a = np.array([[0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    y, noise = np.array([1.5, -1.0]), 0.2
    gain = COVARIANCE @ a.T @ np.linalg.inv(a @ COVARIANCE @ a.T + noise**2 * np.eye(2))
    mean = MEAN + gain @ (y - a @ MEAN)
    matrix, data = jnp.array(a, jnp.float32), jnp.array(y, jnp.float32)

    def log_likelihood(clean):
        difference = (clean.reshape(-1, N) @ matrix.T - data[None]) / noise
        return -0.5 * jnp.square(difference).sum(-1)

    return log_likelihood, mean, COVARIANCE - gain @ a @ COVARIANCE


def test_samples_given_a_measurement_are_of_the_posterior():
    log_likelihood, mean, covariance = measurement()
    x = drawn(log_likelihood=log_likelihood)
    found, spread = moments(x)
    np.testing.assert_allclose(found, mean, atol=0.07)
    np.testing.assert_allclose(spread, covariance, atol=0.08)
    assert np.abs(found - MEAN).max() > 0.8, "the measurement matters"
    # without the covariance (diffusion posterior sampling) the measurement counts too much
    close = drawn(log_likelihood=lambda x: 0.1 * log_likelihood(x), solves=0)
    assert np.abs(moments(close)[0] - mean).max() > 0.1


def test_one_step_in_closed_form():
    """N(x̂, C) times the likelihood, at one noise level."""
    log_likelihood, _, _ = measurement()
    a = np.array([[0.6, 0.4, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    alpha, sigma = amplitudes(jnp.float32(-0.5))
    x = jax.random.normal(jax.random.key(1), (3, 1, N, 1))
    level = jnp.full(3, -0.5)
    denoise = lambda x: clean_estimate(exact, PARAMS, x, level, predicts="clean")  # noqa: E731
    total = lambda x: log_likelihood(x).sum()  # noqa: E731
    estimate = np.asarray(denoise(x)).reshape(3, N)
    hidden = np.linalg.inv(np.linalg.inv(COVARIANCE) + (alpha / sigma) ** 2 * np.eye(N))
    for covariance, c in (("tweedie", hidden), ("isotropic", float(sigma) ** 2 * np.eye(N))):
        gain = c @ a.T @ np.linalg.inv(a @ c @ a.T + 0.2**2 * np.eye(2))
        expected = estimate + (np.array([1.5, -1.0]) - estimate @ a.T) @ gain.T
        result = posterior_step(denoise, total, x, alpha, sigma, covariance=covariance, solves=2)
        np.testing.assert_allclose(result.reshape(3, N), expected, atol=2e-3)
    # two measured values: two iterations are enough, and more of them do no harm
    more = posterior_step(denoise, total, x, alpha, sigma, covariance="isotropic", solves=6)
    np.testing.assert_allclose(more, result, atol=2e-3)
    plain = posterior_step(denoise, total, x, alpha, sigma, covariance="isotropic", solves=0)
    slope = jax.grad(total)(denoise(x))
    np.testing.assert_allclose(plain, denoise(x) + sigma**2 * slope, rtol=1e-4, atol=1e-4)


def test_a_likelihood_that_curves_upwards_does_not_explode():
    x = jnp.ones((2, 1, N, 1))
    step = posterior_step(
        lambda x: x, lambda x: 50 * jnp.square(x).sum(), x, 0.6, 0.8, covariance="isotropic"
    )
    assert np.isfinite(step).all()


def test_counted_electrons_guide():
    """A likelihood that is not normal, of a forward model with a custom gradient."""

    @jax.custom_vjp
    def rate(x):
        return 30 * jax.nn.softplus(x)

    rate.defvjp(lambda x: (rate(x), x), lambda x, g: (30 * jax.nn.sigmoid(x) * g,))
    truth = jnp.array([1.0, 0.5, -0.5, 0.0]).reshape(1, 1, N, 1)
    counts = jnp.round(rate(truth))

    def log_likelihood(clean):
        expected = rate(clean)
        return (counts * jnp.log(expected) - expected).sum((1, 2, 3))

    x = drawn(shape=(200, 1, N, 1), steps=30, log_likelihood=log_likelihood)
    mean, covariance = moments(x)
    np.testing.assert_allclose(mean, truth.reshape(N), atol=0.3)
    assert (np.sqrt(np.diag(covariance)) < 0.4).all()
    assert (np.sqrt(np.diag(covariance)) > 0.1).all()


def test_more_guidance_follows_the_measurement_more():
    log_likelihood, _, _ = measurement()
    spread = [
        np.trace(
            moments(
                drawn(shape=(200, 1, N, 1), steps=20, guidance=g, log_likelihood=log_likelihood)
            )[1]
        )
        for g in (0.05, 1.0)
    ]
    assert spread[1] < 0.8 * spread[0]


def test_compiled_in_a_loop_or_step_by_step():
    log_likelihood, _, _ = measurement()
    like = jax.tree_util.Partial(log_likelihood)
    results = [
        drawn(shape=(3, 1, N, 1), steps=4, log_likelihood=like, loop=loop)
        for loop in ("host", "scan")
    ]
    np.testing.assert_allclose(results[0], results[1], atol=1e-4)
    inside = jax.jit(
        lambda key: sample(key, exact, PARAMS, (3, 1, N, 1), predicts="clean", steps=4)
    )
    np.testing.assert_allclose(
        inside(jax.random.key(0)), drawn(shape=(3, 1, N, 1), steps=4), atol=1e-4
    )
    # without noise in between, the same start gives the same picture
    few, many = (drawn(shape=(3, 1, N, 1), steps=n, eta=0.0) for n in (50, 100))
    np.testing.assert_allclose(few, many, atol=0.06)


def test_what_the_network_predicts_does_not_matter():
    x = jax.random.normal(jax.random.key(0), (2, 1, N, 1))
    level = jnp.full(2, 0.3)
    alpha, sigma = amplitudes(level[0])
    clean = clean_estimate(exact, PARAMS, x, level, predicts="clean")

    def noise(params, x):
        return (x[..., :1] - alpha * exact(params, x)) / sigma

    def velocity(params, x):
        return alpha * noise(params, x) - sigma * exact(params, x)

    for predicts, apply in (("noise", noise), ("velocity", velocity)):
        value = clean_estimate(apply, PARAMS, x, level, predicts=predicts)
        np.testing.assert_allclose(value, clean, atol=1e-5)


def test_conditions_are_shown_to_the_network():
    def copy(params, x):
        assert x.shape[-1] == 1 + 2 + 1
        return x[..., 1:2]

    condition = jax.random.normal(jax.random.key(0), (2, 3, 3, 2))
    x = sample(
        jax.random.key(1), copy, {}, (2, 3, 3, 1), predicts="clean", steps=2, condition=condition
    )
    np.testing.assert_allclose(x, condition[..., :1], atol=1e-6)
    low = sample(
        jax.random.key(1),
        copy,
        {},
        (2, 3, 3, 1),
        predicts="clean",
        steps=2,
        condition=condition,
        clip=(-0.1, 0.1),
    )
    assert np.abs(low).max() <= 0.1 + 1e-6


def test_settings():
    run = functools.partial(sample, jax.random.key(0), exact, PARAMS, (1, 1, N, 1))
    for more, message in [
        ({"steps": 0}, r"steps \(0\)"),
        ({"predicts": "score"}, "predicts 'score': choose one of velocity"),
        ({"covariance": "full"}, "covariance 'full': choose tweedie"),
        ({"loop": "while"}, "loop 'while'"),
        ({"clip": (-1.0, 1.0), "log_likelihood": jnp.sum}, "clip would move pictures"),
        ({"steps": 2, "predicts": "clean", "log_likelihood": jnp.sqrt}, "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(**more)
    with pytest.raises(ValueError, match="predicts 'x'"):
        diffusion_loss(exact, predicts="x")
    two = lambda params, x: x  # noqa: E731
    with pytest.raises(ValueError, match=r"network gives \(1, 1, 4, 2\) for pictures"):
        sample(jax.random.key(0), two, {}, (1, 1, N, 1), steps=1)


# ---------------------------------------------------------------- training


def test_the_loss_of_a_network_that_knows_nothing_and_of_one_that_knows_all():
    x = jax.random.normal(jax.random.key(0), (4000, 1, N, 1))
    batch = {"image": x, "key": jax.random.key(1)}
    nothing = lambda params, x: jnp.zeros_like(x[..., :1])  # noqa: E731
    # for pixels of variance 1 the velocity cannot be known: 0 is best, with error 1
    for predicts in ("velocity", "noise", "clean"):
        value, _ = diffusion_loss(nothing, predicts=predicts)({}, batch)
        assert float(value) == pytest.approx(1.0, abs=0.04)
    _, metrics = diffusion_loss(nothing, predicts="velocity")({}, batch)
    # the mean of σ² over the cosine's times
    assert float(metrics["clean_rmse"]) == pytest.approx(np.sqrt(0.5), abs=0.02)
    worse, _ = diffusion_loss(lambda p, x: 0.3 + nothing(p, x))({}, batch)
    assert float(worse) == pytest.approx(1.09, abs=0.04)


@functools.cache
def small():
    apply, params = pure(DiffusionUNet, jax.random.key(0), widths=(4,), inputs=3)
    return jax.jit(apply), jax.tree.map(
        # what starts at 0 hides everything else
        lambda p: p + np.random.default_rng(p.size).normal(0, 0.05, p.shape).astype(np.float32),
        params,
    )


def test_the_network_sees_the_noise_level():
    apply, params = small()
    x = jax.random.normal(jax.random.key(1), (1, 8, 8, 3))
    told = [apply(params, x.at[..., -1].set(level)) for level in (-2.0, 2.0)]
    assert np.abs(told[0] - told[1]).max() > 1e-3
    # only its mean counts
    uneven = x.at[..., -1].set(jnp.linspace(-4, 0, 64).reshape(1, 8, 8))
    np.testing.assert_allclose(apply(params, uneven), told[0], atol=1e-5)
    waves = waves_of(jnp.array([0.0, 0.5, 100.0]), 5)
    assert waves.shape == (3, 5)
    np.testing.assert_allclose(waves[0], [0, 0, 1, 1, 0])
    np.testing.assert_allclose(waves[1, 0], np.sin(np.pi), atol=1e-5)


def test_attention_by_hand():
    how = {"ndim": 2, "dtype": None, "precision": "highest", "rngs": nnx.Rngs(0)}
    layer = Attention(4, 1, **how)
    layer.leave.kernel[...] = jnp.eye(4)
    x = jax.random.normal(jax.random.key(3), (1, 2, 3, 4))
    tokens = np.asarray(layer.norm(x)).reshape(6, 4)
    q, k, v = (
        tokens @ np.asarray(part.kernel) + np.asarray(part.bias)[None]
        for part in (layer.ask, layer.offer, layer.value)
    )
    weight = np.exp(q @ k.T / 2)
    expected = np.asarray(x).reshape(6, 4) + weight / weight.sum(1, keepdims=True) @ v
    np.testing.assert_allclose(np.asarray(layer(x)).reshape(6, 4), expected, atol=1e-5)
    text = str(jax.make_jaxpr(lambda x: layer(x))(x))
    assert text.count("dot_general") == text.count("precision=(Precision.HIGHEST") == 6


def test_size_of_the_published_network():
    args = {"inputs": 4, "outputs": 3, "widths": (128, 256, 256, 256)}
    more = {"blocks": 2, "attention": (1,), "groups": 32}
    params = jax.eval_shape(
        lambda key: pure(DiffusionUNet, key, **args, **more)[1], jax.random.key(0)
    )
    assert count(params) == 35_746_307


def test_shapes_of_the_network():
    def shape_of(shape, **args):
        def run(key, x):
            apply, params = pure(DiffusionUNet, key, **args)
            return apply(params, x)

        return jax.eval_shape(run, jax.random.key(0), jnp.zeros(shape)).shape

    assert shape_of((2, 9, 14, 4), inputs=4, outputs=3, widths=(4, 6)) == (2, 9, 14, 3)
    assert shape_of((1, 5, 6, 7, 2), widths=(4,), ndim=3, attention=(0,)) == (1, 5, 6, 7, 1)
    with pytest.raises(ValueError, match=r"at least two inputs \(1\)"):
        pure(DiffusionUNet, jax.random.key(0), inputs=1)
    with pytest.raises(ValueError, match="this diffusion network takes"):
        shape_of((1, 8, 8, 5))


def test_a_network_is_trained_and_draws():
    apply, params = pure(DiffusionUNet, jax.random.key(0), widths=(4,))
    loss = diffusion_loss(apply)
    x = jnp.full((4, 4, 4, 1), 1.0) * jnp.array([1.0, -1.0, 1.0, -1.0]).reshape(4, 1, 1, 1)
    update = jax.jit(
        lambda p, k: jax.value_and_grad(lambda p: loss(p, {"image": x, "key": k})[0])(p)
    )
    first, slopes = update(params, jax.random.key(0))
    assert all(np.isfinite(s).all() for s in jax.tree.leaves(slopes))
    values = []
    for i in range(30):
        value, slopes = update(params, jax.random.key(i))
        params = jax.tree.map(lambda p, s: p - 0.1 * s, params, slopes)
        values.append(float(value))
    assert np.mean(values[-5:]) < 0.8 * float(first)
    pictures = sample(jax.random.key(1), apply, params, (2, 4, 4, 1), steps=3)
    assert pictures.shape == (2, 4, 4, 1)
