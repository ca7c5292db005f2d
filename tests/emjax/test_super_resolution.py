"""Super-resolution: units, sub-pixels and losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.restoration.super_resolution import (
    enlarge,
    super_resolution_losses,
    training_pairs,
    upscaler,
)


def image(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(1, 9, size=shape), jnp.float32)


def channels(params, x):
    """Four channels, not linear in the image."""
    return jnp.tanh(x) * params


WEIGHTS = jnp.asarray([[[[0.1, 0.2, -0.3, 0.4]]]])
NOTHING = jnp.zeros((1, 1, 1, 4))


def test_without_a_network_it_is_cubic_enlargement():
    x = image(2, 6, 5, 1)
    np.testing.assert_allclose(upscaler(channels, 2)(NOTHING, x), enlarge(x, 2), rtol=1e-5)
    np.testing.assert_allclose(enlarge(jnp.ones((1, 3, 3, 1)), 3), 1, rtol=1e-6)


def test_gain_and_offset_pass_through():
    x = image(2, 6, 5, 1)
    sharpen = upscaler(channels, 2)
    plain = sharpen(WEIGHTS, x)
    np.testing.assert_allclose(sharpen(WEIGHTS, 3 * x + 50), 3 * plain + 50, rtol=2e-5)
    flat = sharpen(WEIGHTS, jnp.full((1, 4, 4, 1), 7.0))
    np.testing.assert_allclose(flat, 7, rtol=1e-6)


def test_channels_become_the_pixels_of_a_block():
    made = upscaler(lambda p, x: jnp.broadcast_to(p, (*x.shape[:3], 4)), 2)
    x = image(1, 4, 4, 1)
    detail = (made(WEIGHTS, x) - enlarge(x, 2))[0, :, :, 0] / x.std()
    np.testing.assert_allclose(detail[:2, :2], [[0.1, 0.2], [-0.3, 0.4]], atol=1e-5)
    np.testing.assert_allclose(detail[2:4, 4:6], [[0.1, 0.2], [-0.3, 0.4]], atol=1e-5)


def test_what_is_refused():
    with pytest.raises(ValueError, match="factor of 1"):
        upscaler(channels, 1)
    with pytest.raises(ValueError, match="outputs=9"):
        upscaler(channels, 3)(WEIGHTS, image(1, 4, 4, 1))
    with pytest.raises(ValueError, match="ideal, real, adversarial"):
        super_resolution_losses(channels, channels, factor=2, arms=("perfect",))


def batch():
    return {
        "ideal": image(2, 4, 4, 1),
        "real": image(2, 4, 4, 1, seed=1),
        "clean": image(2, 8, 8, 1, seed=2) / 9,
        "dose": jnp.asarray([9.0, 20.0]),
    }


def test_targets_are_in_the_inputs_unit():
    coarse, sharp = training_pairs(batch(), "real")
    np.testing.assert_allclose(coarse.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(coarse.std((1, 2, 3)), 1, rtol=1e-4)
    real, clean = batch()["real"], batch()["clean"]
    expected = (20 * clean[1] - real[1].mean()) / real[1].std()
    np.testing.assert_allclose(sharp[1], expected, rtol=1e-3, atol=1e-4)


def critic(params, x):
    return (x * params).sum(-1, keepdims=True)


def test_each_arm_is_trained_on_its_own_images():
    losses = super_resolution_losses(channels, critic, factor=2, arms=("ideal", "real"))
    params = {"ideal": WEIGHTS, "real": NOTHING}
    key, critics = jax.random.key(0), jnp.ones((1, 1, 1, 2))
    value, metrics = losses[0](key, params, critics, batch())
    assert float(value) == pytest.approx(float(metrics["ideal"] + metrics["real"]), rel=1e-6)
    only = {**batch(), "ideal": 2 * batch()["ideal"] + 30 * image(2, 4, 4, 1, seed=5)}
    changed = losses[0](key, params, critics, only)[1]
    assert changed["real"] == metrics["real"]
    assert changed["ideal"] != metrics["ideal"]
    slope = jax.grad(lambda c: losses[1](key, c, params, batch())[0])(critics)
    assert not slope.any(), "nobody asks the critic"


def test_the_critic_is_asked_in_the_arm_adversarial_alone():
    losses = super_resolution_losses(channels, critic, factor=2, adversarial=0.5, penalty=0.0)
    params = dict.fromkeys(("ideal", "real", "adversarial"), WEIGHTS)
    key, critics = jax.random.key(0), jnp.ones((1, 1, 1, 2))
    value, m = losses[0](key, params, critics, batch())
    assert m["real"] == m["adversarial"]
    total = m["ideal"] + m["real"] + m["adversarial"] + 0.5 * m["opinion"]
    assert float(value) == pytest.approx(float(total), rel=1e-6)
    moved = jax.grad(lambda p: losses[0](key, p, critics, batch())[0])(params)
    assert np.abs(moved["real"] - moved["adversarial"]).max() > 1e-4
    coarse, target = training_pairs(batch(), "real")
    fake = enlarge(coarse, 2) + np.asarray(
        upscaler(channels, 2)(WEIGHTS, coarse) - enlarge(coarse, 2)
    )
    scores = [critic(critics, jnp.concatenate([enlarge(coarse, 2), x], -1)) for x in (target, fake)]
    expected = ((scores[0] - 1) ** 2).mean() + (scores[1] ** 2).mean()
    assert float(losses[1](key, critics, params, batch())[0]) == pytest.approx(
        float(expected), rel=1e-4
    )
