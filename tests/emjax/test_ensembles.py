"""Members train as they would alone, and disagree where the data say nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax.config import OptimConfig
from emjax.ensembles import (
    classify,
    ensemble,
    init_members,
    member,
    mixture,
    predict,
    stack,
)
from emjax.optim import optimizer
from emjax.training import init_state, make_step


def init(key):
    a, b = jax.random.split(key)
    return {
        "a": {"kernel": jax.random.normal(a, (1, 12)), "bias": jnp.linspace(-2.0, 2.0, 12)},
        "b": {"kernel": jax.random.normal(b, (12, 1)) / 3, "bias": jnp.zeros(1)},
    }


def apply(p, x):
    hidden = jnp.tanh(x @ p["a"]["kernel"] + p["a"]["bias"][None])
    return hidden @ p["b"]["kernel"] + p["b"]["bias"][None]


def draw(key):
    x = jax.random.uniform(key, (16, 1), minval=-1.0)
    return {"x": x, "y": jnp.sin(3 * x)}


def loss(p, batch):
    error = apply(p, batch["x"]) - batch["y"]
    return jnp.mean(error**2), {"largest": jnp.max(jnp.abs(error))}


KEY = jax.random.key(5)


def test_every_member_is_trained_as_it_would_be_alone():
    """Clipping and weight decay, which see whole arrays, are each member's own too."""
    tx = optimizer(OptimConfig(steps=40, warmup=2, clip=0.3, weight_decay=0.5))
    params = init_members(init, jax.random.key(0), members=3)
    assert params["a"]["kernel"].shape == (3, 1, 12)
    together = make_step(*(parts := ensemble(loss, draw, tx, members=3)))
    state, history = together(init_state(params, parts[2]), KEY, 20)
    alone = make_step(loss, draw, tx)
    losses = []
    for i in range(3):
        one, rows = alone(init_state(member(params, i), tx), KEY, 20)
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=2e-6),
            (state.params, state.ema),
            (one.params, one.ema),
        )
        losses.append(rows["loss"])
    np.testing.assert_allclose(history["loss"], np.mean(losses, 0), rtol=1e-5)
    assert history["loss"].shape == (20,)
    assert int(state.step) == 20


def test_members_with_batches_of_their_own():
    tx = optax.sgd(0.1)
    params = stack([init(KEY)] * 2)
    loss_, draw_, tx_ = ensemble(loss, draw, tx, members=2, own_batches=True)
    assert draw_(KEY)["x"].shape == (2, 16, 1)
    state, _ = make_step(loss_, draw_, tx_)(init_state(params, tx_), KEY, 2)
    first, second = (member(state.params, i)["a"]["kernel"] for i in (0, 1))
    assert np.abs(first - second).max() > 1e-4, "the same weights, other data"
    loss_, draw_, tx_ = ensemble(loss, draw, tx, members=2)
    state, _ = make_step(loss_, draw_, tx_)(init_state(params, tx_), KEY, 2)
    kernel = state.params["a"]["kernel"]
    np.testing.assert_array_equal(kernel[0], kernel[1])


def test_the_spread_tells_where_there_were_no_data():
    loss_, draw_, tx = ensemble(loss, draw, optax.adam(2e-2), members=4)
    params = init_members(init, jax.random.key(1), members=4)
    state, _ = make_step(loss_, draw_, tx, loop="scan")(init_state(params, tx), KEY, 600)
    inside = jnp.linspace(-0.9, 0.9, 19)[:, None]
    mean, spread = predict(apply, state.ema, inside)
    assert np.sqrt(np.mean((mean - np.sin(3 * inside)) ** 2)) < 0.08
    outside = predict(apply, state.ema, jnp.array([[3.0], [-3.0]])).spread
    assert outside.min() > 5 * spread.mean()
    assert np.mean(np.abs(mean - np.sin(3 * inside)) < 3 * spread + 0.03) > 0.8
    outputs = np.stack([apply(member(state.ema, i), inside) for i in range(4)])
    np.testing.assert_allclose(mean, outputs.mean(0), atol=1e-6)
    np.testing.assert_allclose(spread, outputs.std(0, ddof=1), atol=1e-6)


def test_mixture_of_gaussians():
    """Against samples of the mixture: mean 1, variance 0.5 + 4 for means -1 and 3."""
    mean, variance = mixture(jnp.array([[-1.0], [3.0]]), jnp.array([[0.25], [0.75]]))
    np.testing.assert_allclose((mean[0], variance[0]), (1.0, 4.5), rtol=1e-6)


def test_uncertainty_of_classes():
    sure, other = jnp.array([40.0, 0.0]), jnp.array([0.0, 40.0])
    even = jnp.zeros(2)
    logits = jnp.stack([jnp.stack([sure, sure, even]), jnp.stack([sure, other, even])])
    result = classify(logits)
    np.testing.assert_allclose(result.probability[1], 0.5, atol=1e-6)
    np.testing.assert_allclose(result.entropy, [0, np.log(2), np.log(2)], atol=1e-6)
    np.testing.assert_allclose(result.disagreement, [0, np.log(2), 0], atol=1e-6)


def test_too_few_members():
    with pytest.raises(ValueError, match="members 0 must be at least 1"):
        init_members(init, KEY, members=0)
    with pytest.raises(ValueError, match="at least 2 members"):
        predict(apply, stack([init(KEY)]), jnp.zeros((1, 1)))
