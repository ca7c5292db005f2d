"""Real data from the host beside simulated ones, named if they are bad; stopping early."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax.data.streams import Prefetch, StreamError
from emjax.runs import Run
from emjax.training import NonFiniteError, fit, init_state, make_step

TX = optax.adam(0.05)
KEY = jax.random.key(0)


def params():
    return {"w": jnp.zeros(3)}


class Files:
    """Batch i has images of three files; from update `bad` on one of them is NaN."""

    def __init__(self, bad: int = 10**6, named: bool = True) -> None:
        self.bad, self.calls = bad, []
        if named:
            self.names = lambda i: [f"scan_{i}_{k}.tif" for k in range(4)]

    def __call__(self, i):
        self.calls.append(i)
        x = np.random.default_rng(i).normal(size=(4, 3)).astype(np.float32)
        if i >= self.bad:
            x[2, 1] = np.nan
        return {"x": x, "y": x.sum(1)}


def loss(p, batch):
    return jnp.mean((batch["x"] @ p["w"] - batch["y"]) ** 2), {"n": jnp.float32(len(batch["x"]))}


def test_streamed_batches_are_those_of_a_plain_loop():
    files = Files()
    step = make_step(loss, None, TX, stream=files)
    state = init_state(params(), TX)
    for n in (3, 2):  # the second call goes on where the first ended
        state, history = step(state, KEY, n)
    p, opt = params(), TX.init(params())
    for i in range(5):
        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(p, files(i))
        updates, opt = TX.update(grads, opt, p)
        p = optax.apply_updates(p, updates)
    np.testing.assert_allclose(state.params["w"], p["w"], rtol=1e-5)
    np.testing.assert_allclose(history["loss"][-1], value, rtol=1e-5)
    assert len(step._compiled) == 1


def test_real_and_simulated_images_in_one_batch():
    def draw(key, real):
        x = jax.random.normal(key, (12, 3))
        made = {"x": x, "y": x.sum(1)}
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), made, real)

    step = make_step(loss, draw, TX, stream=Files())
    _, history = step(init_state(params(), TX), KEY, 2)
    np.testing.assert_array_equal(history["n"], 16)
    assert step.batch_names(KEY) == ["x", "y"]
    with pytest.raises(ValueError, match="leave out loop='scan'"):
        make_step(loss, draw, TX, stream=Files(), loop="scan")
    with pytest.raises(ValueError, match="a stream must give the batches"):
        make_step(loss, None, TX)


@pytest.mark.parametrize("named", [True, False])
def test_a_bad_file_is_named(tmp_path, named):
    step = make_step(loss, None, TX, stream=Files(bad=5, named=named))
    who = "scan_5_2.tif" if named else "image 2"
    match = rf"(?s)update 5 is not finite: the batch: x holds NaN.*\(of the stream: {who}\)"
    with pytest.raises(NonFiniteError, match=match):
        fit(Run(tmp_path), init_state(params(), TX), step, KEY, steps=8, chunk=2, images_per_step=4)


def test_no_update_after_a_bad_one():
    def files(i):
        x = np.full((4, 3), np.nan if i == 3 else 1.0, np.float32)
        return {"x": x, "y": np.ones(4, np.float32)}

    step = make_step(loss, None, TX, stream=files)
    good, _ = step(init_state(params(), TX), KEY, 3)
    state, history = step(init_state(params(), TX), KEY, 6)
    np.testing.assert_array_equal(history["finite"], [True, True, True, False, False, False])
    assert int(state.step) == 3
    np.testing.assert_array_equal(state.params["w"], good.params["w"])


def test_a_file_that_cannot_be_read_is_named_with_the_update(tmp_path):
    def files(i):
        if i == 3:
            raise StreamError("scan_3.tif is not finite")
        if i == 9:
            raise OSError("the disk is gone")
        return {"x": np.ones((4, 3), np.float32), "y": np.ones(4, np.float32)}

    step = make_step(loss, None, TX, stream=Prefetch(files))
    arguments = {"steps": 8, "chunk": 2, "images_per_step": 4}
    with pytest.raises(StreamError, match=r"the batch of update 3: scan_3\.tif is not finite"):
        fit(Run(tmp_path), init_state(params(), TX), step, KEY, **arguments)
    state = dataclasses.replace(init_state(params(), TX), step=jnp.int32(9))
    with pytest.raises(OSError, match="the disk is gone") as caught:
        step(state, KEY, 1)
    assert caught.value.__notes__ == ["while the batch of update 9 was read"]


def test_stopping_early_is_decided_by_the_history_also_after_a_resume(tmp_path, capsys):
    def stop(history):
        values = [v for v in history["val_error"] if not np.isnan(v)]
        return (
            "val_error no longer falls" if len(values) >= 3 and values[-1] >= values[-3] else None
        )

    errors = iter([3.0, 2.0, 1.0, 2.0, 5.0, 5.0])
    arguments = {
        "steps": 40,
        "chunk": 2,
        "images_per_step": 4,
        "evaluate": lambda ema: {"error": next(errors)},
        "evaluate_every": 4,
        "stop": stop,
    }
    step, run = make_step(loss, None, TX, stream=Files()), Run(tmp_path)
    state = fit(run, init_state(params(), TX), step, KEY, **arguments)
    assert int(state.step) == 16
    assert "trained 16 of 40 updates in 0:00 (stopped early: val_error no longer falls)" in (
        capsys.readouterr().out
    )
    again = fit(run, init_state(params(), TX), step, KEY, resume=True, **arguments)
    assert int(again.step) == 16
    assert "Nothing left to train: 16 of 40" in capsys.readouterr().out
    assert next(errors) == 5.0, "the held-out set was not asked again"
