"""Weights that change with the step, and batches that know theirs."""

from __future__ import annotations

import doctest
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax import schedules
from emjax.data.streams import mix
from emjax.ensembles import ensemble
from emjax.losses.alrc import cap_spikes
from emjax.schedules import draw_at, ramp, stepped, takes_step, weighted
from emjax.training import init_state, make_step

KEY = jax.random.key(0)


def pull(to):
    return lambda params, batch: (jnp.square(params - to), {"way": jnp.abs(params - to)})


def test_a_ramp():
    value = ramp(1.0, 3.0, start=10, stop=20)
    made = [float(value(i)) for i in (0, 10, 15, 20, 99)]
    np.testing.assert_allclose(made, [1, 1, 2, 3, 3])
    with pytest.raises(ValueError, match="cannot stop at 10"):
        ramp(0, 1, start=10, stop=10)


def test_a_sum_with_weights_of_the_step():
    loss = weighted({"a": (pull(1.0), 2.0), "b": (pull(5.0), optax.linear_schedule(0.0, 1.0, 10))})
    value, metrics = jax.jit(loss)(3.0, {"step": jnp.int32(5)})
    assert float(value) == 2 * 4 + 0.5 * 4
    assert sorted(metrics) == ["a", "a_way", "b", "b_way", "weight_b"]
    assert (float(metrics["b"]), float(metrics["weight_b"]), float(metrics["a_way"])) == (4, 0.5, 2)
    slopes = [float(jax.grad(lambda p, i=i: loss(p, {"step": i})[0])(3.0)) for i in (0, 10)]
    np.testing.assert_allclose(slopes, [8, 8 - 4])
    with pytest.raises(KeyError, match=r"weights of b change .* make_step\(loss, stepped\(draw\)"):
        loss(3.0, {})
    assert float(weighted({"a": (lambda p, b: p, 2)})(3.0, {})[0]) == 6, "numbers need no step"
    with pytest.raises(ValueError, match="at least one"):
        weighted({})


def test_batches_know_their_step():
    def draw(key):
        return {"x": jax.random.normal(key, (3,))}

    def harder(key, step):
        return {"x": step * jnp.ones(3)}

    assert not takes_step(draw)
    assert takes_step(harder)
    assert takes_step(jax.tree_util.Partial(harder))
    assert takes_step(stepped(draw))
    assert not takes_step(functools.partial(draw))
    batch = draw_at(stepped(draw), KEY, jnp.int32(7))
    assert int(batch["step"]) == 7
    np.testing.assert_array_equal(batch["x"], draw(jax.random.fold_in(KEY, 7))["x"])
    np.testing.assert_array_equal(batch["x"], draw_at(draw, KEY, 7)["x"])
    batch = draw_at(stepped(harder), KEY, jnp.int32(7))
    np.testing.assert_array_equal(batch["x"], 7)
    streamed = draw_at(lambda key, real: real, KEY, 7, "file")
    assert streamed == "file"


def test_the_schedule_runs_inside_of_a_scan():
    loss = weighted({"a": (pull(1.0), ramp(1.0, 0.0, start=20, stop=40)), "b": (pull(5.0), 0.1)})
    draw, grad = stepped(lambda key: {}), jax.value_and_grad(loss, has_aux=True)

    def update(p, i):
        (_, metrics), slope = grad(p, draw_at(draw, KEY, i))
        return p - 0.2 * slope, (p, metrics["weight_a"])

    _, (path, weight) = jax.jit(lambda p: jax.lax.scan(update, p, jnp.arange(300)))(0.0)
    np.testing.assert_allclose(path[19], (1 + 0.5) / 1.1, atol=1e-2)
    np.testing.assert_allclose(path[-1], 5, atol=1e-2)
    np.testing.assert_allclose(np.asarray(weight)[[0, 30, 50]], [1, 0.5, 0], atol=1e-6)


def test_examples():
    assert doctest.testmod(schedules).failed == 0


@pytest.mark.parametrize("loop", ["host", "scan"])
def test_the_step_tells_the_draw_its_number_and_the_optimiser_the_loss(loop):
    terms = {"near": (lambda p, b: jnp.square(p - 1.0), ramp(0.0, 1.0, start=0, stop=4))}

    def draw(key):
        return {}

    tx = optax.chain(cap_spikes(), optax.sgd(0.1))
    step = make_step(weighted(terms), stepped(draw), tx, loop=loop)
    _, history = step(init_state(jnp.float32(0.0), tx), jax.random.key(0), 6)
    np.testing.assert_allclose(history["weight_near"], [0, 0.25, 0.5, 0.75, 1, 1], atol=1e-6)
    assert history["loss"][0] == 0
    assert history["near"][-1] < history["near"][0]


def test_the_step_reaches_a_draw_inside_others():
    def draw(key, step):
        return {"x": jnp.full((4, 1), step, jnp.float32)}

    mixed = mix(draw, 0.5, 8)
    batch = draw_at(mixed, KEY, jnp.int32(3), {"x": jnp.zeros((4, 1))})
    assert float(batch["x"].max()) == 3.0
    each = ensemble(lambda p, b: (0.0, {}), draw, optax.sgd(0.1), members=2, own_batches=True)[1]
    assert draw_at(each, KEY, jnp.int32(5))["x"].shape == (2, 4, 1)
    arrays = jax.tree_util.Partial(lambda a, key: {"x": a}, jnp.ones((4, 1)))
    assert len(jax.tree.leaves(mix(arrays, 0.5, 8))) == 1, "arguments, not constants"


def test_arrays_of_a_partial_stay_arguments_of_the_update():
    def draw(images, key, step):
        return {"x": step * images}

    images = jnp.arange(3.0)
    known = stepped(jax.tree_util.Partial(draw, images))
    step = make_step(lambda p, b: (p * b["x"].sum(), {}), known, optax.sgd(0.1))
    assert takes_step(step._draw)
    assert [leaf.shape for leaf in jax.tree.leaves(step._draw)] == [(3,)]
    batch = jax.jit(draw_at)(step._draw, KEY, jnp.int32(2))
    np.testing.assert_array_equal(batch["x"], [0, 2, 4])
    assert int(batch["step"]) == 2
