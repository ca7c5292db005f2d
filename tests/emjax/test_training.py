"""Updates, the moving average, the schedule, and what happens when a number is not finite."""

from __future__ import annotations

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax import training
from emjax.checkpoints import CheckpointError, load_checkpoint
from emjax.config import OptimConfig
from emjax.optim import OptimError, optimizer, schedule
from emjax.runs import Run
from emjax.training import (
    NonFiniteError,
    TrainingInterrupted,
    check_finite,
    fit,
    init_state,
    make_step,
)

TX = optax.sgd(0.1)


def params():
    return {"body": {"w": jnp.array([1.0, -2.0])}, "head": {"b": jnp.array(0.5)}}


def draw(key):
    return {"x": jax.random.normal(key, (4, 2)), "index": jnp.arange(4)}


def loss(p, batch):
    y = batch["x"] @ p["body"]["w"] + p["head"]["b"]
    return jnp.mean(y**2), {"largest": jnp.max(jnp.abs(y))}


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_arrays_of_a_partial_draw_are_arguments_not_constants():
    large = jnp.arange(1000.0)
    partial = jax.tree_util.Partial(lambda a, key: {"x": a[:8].reshape(4, 2)}, large)
    step = make_step(loss, partial, TX)
    assert [leaf.shape for leaf in jax.tree.leaves(step._draw)] == [(1000,)]
    _, history = step(init_state(params(), TX), jax.random.key(0), 2)
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize("loop", ["host", "scan"])
def test_updates_are_those_of_a_plain_loop(loop):
    tx, key, decay = optimizer(OptimConfig(steps=50, warmup=3)), jax.random.key(3), 0.5
    step = make_step(loss, draw, tx, ema_decay=decay, loop=loop)
    state, history = step(init_state(params(), tx), key, 7)
    p, ema, opt = params(), params(), tx.init(params())
    for i in range(7):
        batch = draw(jax.random.fold_in(key, i))
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(p, batch)
        np.testing.assert_allclose(history["loss"][i], value, rtol=1e-5)
        np.testing.assert_allclose(history["largest"][i], metrics["largest"], rtol=1e-5)
        np.testing.assert_allclose(
            history["grad_norm"][i],
            np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(grads))),
            rtol=1e-5,
        )
        updates, opt = tx.update(grads, opt, p)
        p = optax.apply_updates(p, updates)
        d = min(decay, (1 + i) / (10 + i))
        ema = jax.tree.map(lambda a, b, d=d: d * a + (1 - d) * b, ema, p)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.params, p)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.ema, ema)
    assert int(state.step) == 7
    assert state.step.dtype == jnp.int32
    assert history["finite"].shape == (7,)


def test_a_step_consumes_its_state_but_not_the_parameters_given():
    mine, step = params(), make_step(loss, draw, TX)
    state = init_state(mine, TX)
    step(state, jax.random.key(0), 2)
    assert state.params["body"]["w"].is_deleted()
    assert not mine["body"]["w"].is_deleted()


@pytest.mark.parametrize("loop", ["host", "scan"])
def test_one_compilation_for_every_call(loop):
    traced = []

    def counted(p, batch):
        traced.append(1)
        return loss(p, batch)

    step, state = make_step(counted, draw, TX, loop=loop), init_state(params(), TX)
    for _ in range(3):
        state, _ = step(state, jax.random.key(0), 4)
    assert len(traced) == 1


def bad_at(where, start, loop="auto"):
    """A loss that breaks in one of three places from update `start` on (x counts updates)."""

    def loss(p, batch):
        t = batch["t"]
        late = t >= start
        value = jnp.sum(p["body"]["w"] ** 2) + p["head"]["b"] ** 2
        if where == "loss":
            value = jnp.where(late, jnp.inf, value)
        if where == "gradient":  # sqrt has no finite slope at 0, although its value is fine
            value = value + jnp.sqrt(jnp.where(late, 0.0, 1.0) * p["head"]["b"] ** 2)
        return value + 0 * jnp.sum(batch["noise"]["image"]), {}

    def draw(key):
        t = jax.random.key_data(key)[1]  # with `Counted`, the number of the update
        image = jnp.where((where == "batch") & (t >= start), jnp.nan, jnp.zeros(3))
        return {"key": key, "noise": {"image": image}, "t": t}

    return make_step(loss, draw, TX, loop=loop)


@pytest.fixture
def counted(monkeypatch):
    """`fold_in(key, i)` holds i, so that a test can break a known update."""
    monkeypatch.setattr(
        training.jax.random,
        "fold_in",
        lambda key, i: jax.random.wrap_key_data(jnp.stack([jnp.uint32(0), i.astype(jnp.uint32)])),
    )


@pytest.mark.parametrize("loop", ["host", "scan"])
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("loss", r"update 5 is not finite: the loss is inf"),
        ("gradient", r"update 5 .*its gradient is not finite \(first .* infinite: head/b\)"),
        ("batch", r"update 5 .*the batch: noise/image holds NaN"),
    ],
)
def test_the_culprit_is_named_and_the_last_good_state_kept(counted, where, message, loop):
    key = jax.random.key(0)
    good, _ = bad_at(where, 100, loop)(init_state(params(), TX), key, 5)
    step = bad_at(where, 5, loop)
    state, history = step(init_state(params(), TX), key, 9)
    assert_same(state, good)
    assert int(state.step) == 5
    with pytest.raises(NonFiniteError, match=message) as caught:
        check_finite(history, 0, state.params, lambda: step.batch_names(key))
    assert "Losses before it: 5." in str(caught.value)


def test_fit_stops_at_a_bad_number_and_leaves_the_checkpoint(tmp_path, counted):
    run, key = Run(tmp_path), jax.random.key(0)
    arguments = {"steps": 20, "chunk": 2, "images_per_step": 1, "checkpoint_every": 4}
    with pytest.raises(NonFiniteError) as caught:
        fit(run, init_state(params(), TX), bad_at("gradient", 11), key, **arguments)
    message = str(caught.value)
    assert "update 11 is not finite" in message
    assert f"The last good checkpoint is {run.checkpoint_path}" in message
    saved, meta = load_checkpoint(
        run.checkpoint_path, {"state": init_state(params(), TX), "key": key}
    )
    assert meta["step"] == 8
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved["state"]))
    state = fit(
        run, init_state(params(), TX), bad_at("gradient", 99), key, resume=True, **arguments
    )
    assert int(state.step) == 20
    assert run.metrics()["step"] == list(range(2, 21, 2))


def test_fit_writes_metrics_evaluates_and_says_so(tmp_path, capsys):
    run = Run(tmp_path)
    seen = []

    def evaluate(ema):
        seen.append(np.asarray(ema["body"]["w"]))
        return {"size": jnp.sum(ema["body"]["w"] ** 2)}

    state = fit(
        run,
        init_state(params(), TX),
        make_step(loss, draw, TX),
        jax.random.key(1),
        steps=25,
        chunk=10,
        images_per_step=4,
        evaluate=evaluate,
        evaluate_every=20,
    )
    metrics = run.metrics()
    assert metrics["step"] == [10, 20, 25]
    assert set(metrics) == {
        *("step", "loss", "grad_norm", "largest", "images_per_s", "seconds", "val_size")
    }
    assert np.isfinite(metrics["loss"]).all()
    assert metrics["loss"][-1] < metrics["loss"][0]
    assert np.isnan(metrics["val_size"]).tolist() == [True, False, False]
    np.testing.assert_array_equal(seen[-1], state.ema["body"]["w"])
    out = capsys.readouterr().out
    assert "compiled the update in" in out
    assert "update 20: val_size" in out
    assert "update 25/25 · loss" in out
    assert "images/s · 0:00 left" in out
    assert "\x1b" not in out  # no control codes without a terminal
    assert run.checkpoint_path.is_file()


def test_a_time_limit_ends_training_and_is_kept_on_resume(tmp_path, capsys):
    run, key = Run(tmp_path), jax.random.key(0)
    arguments = {"steps": 10**6, "chunk": 5, "images_per_step": 4, "time_limit": 1e-9}
    step = make_step(loss, draw, TX)
    state = fit(run, init_state(params(), TX), step, key, **arguments)
    assert int(state.step) == 5
    assert "trained 5 of 1000000 updates in 0:00 (the time limit of 0:00)" in (
        capsys.readouterr().out
    )
    again = fit(run, init_state(params(), TX), step, key, resume=True, **arguments)
    assert_same(again, state)
    assert "Nothing left to train" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_tells_how_to_go_on(tmp_path, capsys, number):
    key, arguments = jax.random.key(0), {"steps": 30, "chunk": 5, "images_per_step": 4}
    step, calls = make_step(loss, draw, optax.adam(0.01)), []

    def evaluate(ema):
        calls.append(1)
        if len(calls) == 2 and signaller:
            os.kill(os.getpid(), number)
        return {}

    arguments |= {"evaluate": evaluate, "evaluate_every": 5}
    signaller = False
    whole = fit(Run(tmp_path), init_state(params(), optax.adam(0.01)), step, key, **arguments)
    calls.clear()
    signaller = True
    (tmp_path / "b").mkdir()
    run = Run(tmp_path / "b", command="emjax run x --preset cpu")
    handler = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted):
        fit(run, init_state(params(), optax.adam(0.01)), step, key, **arguments)
    assert signal.getsignal(number) is handler
    out = capsys.readouterr().out
    assert "Stopped after 10 of 30 updates" in out
    assert "emjax run x --preset cpu --name b --resume" in out
    state = fit(run, init_state(params(), optax.adam(0.01)), step, key, resume=True, **arguments)
    assert_same(state, whole)


def test_resuming_with_another_key_or_optimiser_is_refused(tmp_path):
    run, arguments = Run(tmp_path), {"steps": 4, "chunk": 2, "images_per_step": 1}
    step = make_step(loss, draw, TX)
    fit(run, init_state(params(), TX), step, jax.random.key(0), **arguments)
    arguments |= {"resume": True}
    with pytest.raises(CheckpointError, match="another random key"):
        fit(run, init_state(params(), TX), step, jax.random.key(1), **arguments)
    adam = optax.adam(0.1)
    with pytest.raises(CheckpointError, match=r"missing: state/opt_state/0/count"):
        fit(run, init_state(params(), adam), step, jax.random.key(0), **arguments)


def test_metrics_must_be_scalars():
    def wrong(p, batch):
        return loss(p, batch)[0], {"error": batch["x"]}

    with pytest.raises(ValueError, match=r"metric 'error' of the loss has shape \(4, 2\)"):
        make_step(wrong, draw, TX)(init_state(params(), TX), jax.random.key(0), 1)
    with pytest.raises(ValueError, match=r"ema_decay 1.5 must lie in"):
        make_step(loss, draw, TX, ema_decay=1.5)
    with pytest.raises(ValueError, match="choose auto, host or scan"):
        make_step(loss, draw, TX, loop="while")
    with pytest.raises(ValueError, match="at least 1"):
        fit(None, None, None, None, steps=0, chunk=1, images_per_step=1)


def test_schedule():
    rate = schedule(OptimConfig(learning_rate=2e-3, warmup=10, steps=100, final=0.05))
    np.testing.assert_allclose(rate(0), 2e-4, rtol=1e-6)
    np.testing.assert_allclose(rate(9), 2e-3, rtol=1e-6)
    np.testing.assert_allclose(rate(10), 2e-3, rtol=1e-6)
    np.testing.assert_allclose(rate(55), 2e-3 * (0.05 + 0.95 / 2), rtol=1e-6)
    np.testing.assert_allclose(rate(100), 1e-4, rtol=1e-5)
    np.testing.assert_allclose(rate(5000), 1e-4, rtol=1e-5)
    without = schedule(OptimConfig(learning_rate=2e-3, warmup=0, steps=100))
    np.testing.assert_allclose(without(0), 2e-3, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OptimConfig(steps=0), "--optim.steps 0: at least one"),
        (OptimConfig(steps=50, warmup=50), r"must lie below --optim.steps 50: .*\(2\)"),
        (OptimConfig(learning_rate=0.0), "--optim.learning-rate 0.0 must be positive"),
        (OptimConfig(final=2.0), "--optim.final 2.0 a fraction"),
        (OptimConfig(clip=-1.0), "must not be negative"),
    ],
)
def test_settings_that_cannot_work(config, message):
    with pytest.raises(OptimError, match=message):
        optimizer(config)


def test_clipping_and_decay():
    config = OptimConfig(learning_rate=0.1, warmup=0, steps=10, weight_decay=0.5, clip=1.0)
    tree = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, tree)
    tx = optimizer(config)
    updates, _ = tx.update(zeros, tx.init(tree), tree)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)
    big = jax.tree.map(lambda x: 1e6 * jnp.ones_like(x), tree)
    _, opt_state = tx.update(big, tx.init(tree), tree)
    moment = jax.tree.leaves(opt_state)[1]
    np.testing.assert_allclose(moment, 0.1 / np.sqrt(6), rtol=1e-5)  # (1 - b1) g / |g|
