"""Adversarial losses by hand, and what generators and critics see."""

from __future__ import annotations

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.adversarial import (
    KINDS,
    critic_objective,
    cycle_consistency,
    cycle_losses,
    gan_losses,
    generator_objective,
    gradient_penalty,
    real_penalty,
)
from emjax.networks import count, pure
from emjax.networks.gan_critics import ImageCritic, MultiScaleCritic, PatchCritic
from emjax.networks.gan_generators import LatentGenerator, ResnetGenerator, instance_norm


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """To compile takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("kind", "critic", "generator"),
    [
        ("vanilla", 2 * math.log(2), math.log(2)),  # -V at the equilibrium: ln 4
        ("lsgan", 1.0, 1.0),
        ("wgan", 0.0, 0.0),
        ("hinge", 2.0, 0.0),
    ],
)
def test_a_critic_without_an_opinion(kind, critic, generator):
    nothing = jnp.zeros((3, 4, 4, 1))
    assert float(critic_objective(kind, nothing, nothing)) == pytest.approx(critic)
    assert float(generator_objective(kind, nothing)) == pytest.approx(generator)


@pytest.mark.parametrize("kind", KINDS)
def test_who_wants_what(kind):
    real, fake = jnp.array([0.3, -0.2]), jnp.array([0.4, 0.1])
    slopes = jax.grad(lambda r, f: critic_objective(kind, r, f), argnums=(0, 1))(real, fake)
    assert (slopes[0] < 0).all(), "higher scores of real images"
    assert (slopes[1] > 0).all(), "lower ones of generated images"
    assert (jax.grad(lambda f: generator_objective(kind, f))(fake) < 0).all()


def test_losses_at_hand_made_scores():
    real, fake = jnp.array([2.0, -1.0]), jnp.array([[0.5], [-3.0]])
    assert float(critic_objective("wgan", real, fake)) == pytest.approx(-1.25 - 0.5)
    assert float(critic_objective("hinge", real, fake)) == pytest.approx(1.0 + 0.75)
    assert float(critic_objective("lsgan", real, fake)) == pytest.approx(2.5 + 4.625)
    sigma = lambda x: 1 / (1 + np.exp(-np.asarray(x)))  # noqa: E731
    expected = -np.log(sigma(real)).mean() - np.log(1 - sigma(fake)).mean()
    assert float(critic_objective("vanilla", real, fake)) == pytest.approx(expected, rel=1e-5)
    # the generator's form has a slope where the critic is sure; ln(1 - D) has none
    slope = jax.grad(lambda s: generator_objective("vanilla", s))(jnp.array(-20.0))
    assert float(slope) == pytest.approx(-1.0)
    with pytest.raises(ValueError, match="kind 'gan': choose one of vanilla"):
        generator_objective("gan", fake)


def test_gradient_penalty_of_a_linear_critic():
    w = jax.random.normal(jax.random.key(0), (4, 5, 2))
    real, fake = jax.random.normal(jax.random.key(1), (2, 3, 4, 5, 2))
    score = lambda x: jnp.einsum("byxc,yxc->b", x, w)[:, None]  # noqa: E731
    norm = float(jnp.sqrt(jnp.square(w).sum()))
    value = gradient_penalty(jax.random.key(2), score, real, fake)
    assert float(value) == pytest.approx((norm - 1) ** 2, rel=1e-5)
    assert float(real_penalty(score, real)) == pytest.approx(0.5 * norm**2, rel=1e-5)
    # a map of patches counts as its mean
    patches = lambda x: jnp.repeat(score(x), 7, axis=1)  # noqa: E731
    same = gradient_penalty(jax.random.key(2), patches, real, fake)
    np.testing.assert_allclose(same, value, rtol=1e-5)
    with pytest.raises(ValueError, match="differ in shape"):
        gradient_penalty(jax.random.key(2), score, real, fake[:2])


def test_gradient_penalty_between_the_images():
    """A critic with slope |x| in each pixel: real 0, generated 1, so |x| is even in 0 … 1."""
    n = 20_000
    score = lambda x: 0.5 * jnp.square(x).sum((1, 2, 3))  # noqa: E731
    real, fake = jnp.zeros((n, 1, 1, 1)), jnp.ones((n, 1, 1, 1))
    value = gradient_penalty(jax.random.key(0), score, real, fake)
    assert float(value) == pytest.approx(1 / 3, abs=0.01), "the integral of (t - 1)²"


def test_a_critic_that_starts_flat_has_finite_gradients():
    def penalty(w):
        score = lambda x: (w * x).sum((1, 2, 3))  # noqa: E731
        return gradient_penalty(
            jax.random.key(0), score, jnp.ones((2, 2, 2, 1)), jnp.zeros((2, 2, 2, 1))
        )

    value, slope = jax.value_and_grad(penalty)(jnp.float32(0))
    assert float(value) == pytest.approx(1.0, abs=1e-4)
    assert np.isfinite(slope)


def test_cycles():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    assert float(cycle_consistency(lambda x: 2 * x + 1, lambda y: (y - 1) / 2, x)) < 1e-6
    apart = cycle_consistency(lambda x: x, lambda y: y + 0.5, x)
    assert float(apart) == pytest.approx(0.5, rel=1e-5)
    # noise of mean 0 need not come back where only the mean is looked at
    noise = jax.random.normal(jax.random.key(1), x.shape)
    noise -= noise.mean((1, 2, 3), keepdims=True)
    mean = lambda x: x.mean((1, 2, 3))  # noqa: E731
    assert float(cycle_consistency(lambda x: x, lambda y: y + noise, x)) > 0.5
    assert float(cycle_consistency(lambda x: x, lambda y: y + noise, x, see=mean)) < 1e-6


def linear(params, x):
    return params["a"] * x + params["b"]


def test_conditional_critics_see_the_input():
    seen = []

    def critic(params, x):
        seen.append(x.shape)
        return (x * params).sum(-1, keepdims=True)

    batch = {"input": jnp.full((2, 4, 4, 3), 2.0), "target": jnp.ones((2, 4, 4, 1))}
    generator = lambda p, x: p * x[..., :1]  # noqa: E731
    for conditional, channels in ((True, 4), (False, 1)):
        losses = gan_losses(
            generator, critic, kind="lsgan", penalty=0, pixel=3.0, conditional=conditional
        )
        w = jnp.arange(1.0, channels + 1).reshape(1, 1, 1, -1) / 10
        key = jax.random.key(0)
        value, metrics = losses[0](key, jnp.float32(0.25), w, batch)
        score = 0.5 * 0.1 if channels == 1 else 2 * 0.6 + 0.5 * 0.4  # input first, then the image
        assert float(metrics["adversarial"]) == pytest.approx((score - 1) ** 2, rel=1e-4)
        assert float(value) == pytest.approx((score - 1) ** 2 + 3 * 0.5, rel=1e-4)
        _, metrics = losses[1](key, w, jnp.float32(0.25), batch)
        assert "penalty" not in metrics
        assert {shape[-1] for shape in seen} == {channels}
        seen.clear()


@pytest.mark.parametrize(("kind", "penalised"), [("wgan", True), ("lsgan", False)])
def test_only_wasserstein_critics_are_penalised_unless_asked(kind, penalised):
    batch = {"input": jnp.ones((2, 4, 4, 1)), "target": jnp.ones((2, 4, 4, 1))}
    critic = gan_losses(linear, lambda p, x: p * x, kind=kind)[1]
    line = {"a": jnp.float32(1), "b": jnp.float32(1)}
    value, metrics = critic(jax.random.key(0), jnp.float32(0.4), line, batch)
    assert ("penalty" in metrics) == penalised
    slope = 0.4 / 4
    expected = 0.4 + 10 * (slope - 1) ** 2 if penalised else 0.6**2 + 0.8**2
    assert float(value) == pytest.approx(expected, rel=1e-4)


def test_images_that_would_broadcast_are_refused():
    batch = {"input": jnp.ones((2, 4, 4, 1)), "target": jnp.ones((2, 4, 4))}
    loss = gan_losses(linear, lambda p, x: p * x, kind="lsgan", pixel=1.0)[0]
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 1\), the target \(2, 4, 4\)"):
        loss(jax.random.key(0), {"a": 1.0, "b": 0.0}, jnp.float32(1), batch)
    with pytest.raises(ValueError, match="must be the same"):
        cycle_consistency(lambda x: x, lambda y: y[..., :1], jnp.ones((1, 2, 2, 3)))


def test_cycle_gan_losses():
    generators = {"there": {"a": 2.0, "b": 1.0}, "back": {"a": 0.5, "b": -0.5}}
    critics = {"source": jnp.float32(0.1), "target": jnp.float32(0.3)}
    critic = lambda p, x: p * x  # noqa: E731
    batch = {"source": jnp.ones((2, 4, 4, 1)), "target": jnp.full((2, 4, 4, 1), 3.0)}
    g_loss, c_loss = cycle_losses(linear, critic, identity=2.0, penalty=10.0)
    value, metrics = g_loss(jax.random.key(0), generators, critics, batch)
    # there(1) = 3 and back(3) = 1: the cycle closes, and both critics are off by 1 - 0.9, 1 - 0.1
    assert float(metrics["cycle"]) == pytest.approx(0, abs=1e-6)
    assert float(metrics["adversarial"]) == pytest.approx(0.1**2 + 0.9**2, rel=1e-4)
    assert float(metrics["identity"]) == pytest.approx(4 + 1, rel=1e-5)  # there(3) = 7, back(1) = 0
    assert float(value) == pytest.approx(0.82 + 10, rel=1e-4)
    _, metrics = c_loss(jax.random.key(0), critics, generators, batch)
    assert float(metrics["target_margin"]) == pytest.approx(0, abs=1e-6)
    slope = 0.3 / 4  # of a mean over 16 pixels: 16 slopes of 0.3 / 16
    assert float(metrics["target_penalty"]) == pytest.approx((slope - 1) ** 2, rel=1e-4)


# ---------------------------------------------------------------- generators and critics


def weights(module, **args):
    params = jax.eval_shape(lambda key: pure(module, key, **args)[1], jax.random.key(0))
    return count(params)


def test_published_numbers_of_weights():
    size = {"inputs": 3, "outputs": 3, "widths": (64, 128, 256), "blocks": 9}
    assert weights(ResnetGenerator, **size) == 11_378_179
    size = {"latent": 100, "outputs": 3, "widths": (512, 256, 128, 64)}
    assert weights(LatentGenerator, **size) == 3_576_704
    assert weights(PatchCritic, inputs=3, widths=(64, 128, 256, 512)) == 2_764_737
    assert weights(PatchCritic, inputs=6, widths=(64, 128, 256, 512)) == 2_767_809


def test_a_patch_critic_of_the_published_depth_sees_70_pixels():
    apply, params = pure(PatchCritic, jax.random.key(0), widths=(2, 2, 2, 2))
    x = jax.random.normal(jax.random.key(1), (1, 112, 112, 1))
    slope = jax.jit(jax.grad(lambda x: apply(params, x)[0, 7, 7, 0]))(x)
    rows = np.flatnonzero(np.abs(slope).sum((0, 2, 3)))
    columns = np.flatnonzero(np.abs(slope).sum((0, 1, 3)))
    assert rows[-1] - rows[0] + 1 == 70
    assert columns[-1] - columns[0] + 1 == 70


def test_scales_of_a_critic():
    apply, params = pure(MultiScaleCritic, jax.random.key(0), inputs=2, widths=(4, 4), scales=2)
    x = jax.random.normal(jax.random.key(1), (2, 16, 24, 2))
    scores = jax.jit(apply)(params, x)
    assert scores.shape == (2, 8, 12, 2)
    one = jax.jit(pure(PatchCritic, jax.random.key(0), inputs=2, widths=(4, 4))[0])
    np.testing.assert_allclose(scores[..., :1], one(params["critics"]["0"], x), atol=1e-6)
    small = x.reshape(2, 8, 2, 12, 2, 2).mean((2, 4))
    coarse = one(params["critics"]["1"], small)
    np.testing.assert_allclose(scores[:, ::2, ::2, 1:], coarse, atol=1e-5)
    np.testing.assert_allclose(scores[..., 1].mean(), coarse.mean(), atol=1e-6)


def test_scores_of_whole_images_are_of_each_by_itself():
    apply, params = pure(ImageCritic, jax.random.key(0), inputs=1, widths=(4, 6), ndim=3)
    x = jax.random.normal(jax.random.key(1), (2, 6, 7, 8, 1))
    compiled = jax.jit(apply)
    scores = compiled(params, x)
    assert scores.shape == (2, 1)
    np.testing.assert_allclose(compiled(params, x[::-1]), scores[::-1], atol=1e-6)
    with pytest.raises(ValueError, match="this critic takes arrays"):
        apply(params, x[0])


def test_instance_normalisation():
    x = 50 + 3 * jax.random.normal(jax.random.key(0), (2, 32, 32, 2))
    y = instance_norm(x)
    np.testing.assert_allclose(y.mean((1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(y.std((1, 2)), 1, atol=1e-3)
    np.testing.assert_array_equal(instance_norm(jnp.full((1, 8, 8, 1), 7.0)), 0)


def shape_of(module, shape, **args):
    def run(key, x):
        apply, params = pure(module, key, **args)
        return apply(params, x)

    return jax.eval_shape(run, jax.random.key(0), jnp.zeros(shape)).shape


def test_sizes_of_generated_images():
    small = {"widths": (4, 6), "blocks": 1}
    assert shape_of(ResnetGenerator, (2, 9, 14, 1), **small, outputs=3) == (2, 9, 14, 3)
    assert shape_of(ResnetGenerator, (1, 5, 6, 7, 1), **small, ndim=3) == (1, 5, 6, 7, 1)
    assert shape_of(LatentGenerator, (2, 1, 1, 16)) == (2, 16, 16, 1)
    assert shape_of(LatentGenerator, (2, 2, 3, 5), latent=5, start=(2, 3)) == (2, 16, 36, 1)
    for module, args in ((ResnetGenerator, small), (LatentGenerator, {"latent": 1})):
        apply, params = pure(module, jax.random.key(0), **args, bounded=True)
        y = jax.jit(apply)(params, 100 * jax.random.normal(jax.random.key(1), (1, 4, 4, 1)))
        assert np.abs(y).max() <= 1
    for module in (ResnetGenerator, LatentGenerator, PatchCritic, ImageCritic):
        with pytest.raises(ValueError, match=r"widths \(\(\)\)"):
            pure(module, jax.random.key(0), widths=())
