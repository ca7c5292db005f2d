"""The learning rate of a problem whose limit is known, and losses that tell none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax.lr_finder import LearningRateError, _judged, find_learning_rate

KEY = jax.random.key(0)
PARAMS = {"w": jnp.array([1.0, -2.0])}


def draw(key):
    return {"x": 0.3 * jax.random.normal(key, (16, 2))}


def bowl(curvature):
    """Mean squared distance from points round the origin: the least is not 0."""

    def loss(p, batch):
        return 0.5 * curvature * jnp.square(p["w"][None] - batch["x"]).sum(-1).mean(), {}

    return loss


@pytest.mark.parametrize("curvature", [1.0, 50.0])
def test_gradient_descent_diverges_at_two_over_the_curvature(curvature):
    found = find_learning_rate(
        bowl(curvature),
        draw,
        PARAMS,
        KEY,
        optimizer=optax.sgd,
        lowest=1e-4 / curvature,
        highest=100 / curvature,
        steps=150,
        smoothing=0.8,
    )
    assert found.diverged
    assert 0.5 / curvature < found.limit < 2 / curvature, "never beyond"
    assert 0.005 / curvature < found.best < 0.5 * found.limit
    assert found.rates.shape == found.losses.shape == found.smooth.shape
    assert found.rates.size < 150, "it stops where the loss explodes"
    np.testing.assert_allclose(np.diff(np.log(found.rates)), np.log(1e6) / 149, rtol=1e-3)
    assert str(found).startswith("best 0.")
    np.testing.assert_array_equal(PARAMS["w"], [1.0, -2.0])


def test_no_divergence_is_told():
    found = find_learning_rate(
        bowl(1.0), draw, PARAMS, KEY, optimizer=optax.sgd, lowest=1e-3, highest=0.1, steps=40
    )
    assert not found.diverged
    assert found.limit == pytest.approx(0.1)
    assert "no divergence up to 0.1" in str(found)


def test_losses_that_tell_nothing():
    rates = np.geomspace(1e-4, 1, 40)
    with pytest.raises(LearningRateError, match="falls nowhere"):
        _judged(rates, np.linspace(1, 2, 40), 0.9)
    with pytest.raises(LearningRateError, match="not finite after 2 updates"):
        _judged(rates[:4], np.array([1, 1, np.nan, np.nan]), 0.9)
    good = _judged(rates[:20], np.r_[np.linspace(2, 1, 19), np.nan], 0.0)
    assert good.diverged, "NaN is the end"
    with pytest.raises(LearningRateError, match="do not rise"):
        find_learning_rate(bowl(1.0), draw, PARAMS, KEY, lowest=1.0, highest=0.1)
    with pytest.raises(LearningRateError, match=r"smoothing 1 must"):
        find_learning_rate(bowl(1.0), draw, PARAMS, KEY, smoothing=1)
    with pytest.raises(LearningRateError, match="too few"):
        find_learning_rate(bowl(1.0), draw, PARAMS, KEY, steps=3)
