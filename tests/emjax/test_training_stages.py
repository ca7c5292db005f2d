"""Several trainings in one run: each has its own checkpoint and its own rows of metrics."""

from __future__ import annotations

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax.checkpoints import CheckpointError
from emjax.results import read_results
from emjax.runs import Run, RunError
from emjax.training import TrainingInterrupted, fit, init_state, make_step
from emjax.transfer import load_weights

TX = optax.sgd(0.1)
ARGUMENTS = {"chunk": 2, "images_per_step": 4, "evaluate_every": 2}


def params(start=1.0):
    return {"w": jnp.array([start, -2.0])}


def draw(key):
    return {"x": jax.random.normal(key, (4, 2))}


def loss(p, batch):
    return jnp.mean((batch["x"] @ p["w"]) ** 2), {}


STEP = make_step(loss, draw, TX)


def two_stages(run, evaluate=lambda ema: {}, **more):
    """A network is trained, and its weights with another key."""
    arguments = {**ARGUMENTS, "evaluate": evaluate, **more}
    state = init_state(params(), TX)
    first = fit(run, state, STEP, jax.random.key(0), steps=6, stage="pretrain", **arguments)
    state = init_state(first.ema, TX)
    return fit(run, state, STEP, jax.random.key(1), steps=4, stage="finetune", **arguments)


def test_stages_do_not_share_their_files(tmp_path, capsys):
    run = Run(tmp_path)
    last = two_stages(run, lambda ema: {"size": jnp.sum(ema["w"] ** 2)})
    assert run.metrics("pretrain")["step"] == [2, 4, 6]
    assert run.metrics("finetune")["step"] == [2, 4]
    assert run.metrics("finetune")["val_size"][-1] == float(jnp.sum(last.ema["w"] ** 2))
    assert {file.name for file in tmp_path.iterdir()} == {
        *("metrics-pretrain.csv", "metrics-finetune.csv"),
        *("checkpoint-pretrain.h5", "checkpoint-finetune.h5"),
    }
    np.testing.assert_array_equal(load_weights(run.checkpoint_of("finetune"))["w"], last.ema["w"])
    numbers = read_results(tmp_path)
    assert numbers["finetune.step"] == 4
    assert numbers["pretrain.loss"] == run.metrics("pretrain")["loss"][-1]
    said = capsys.readouterr().out
    assert "pretrain: trained 6 of 6 updates" in said
    assert "finetune: trained 4 of 4 updates" in said


@pytest.mark.parametrize("stopped", ["pretrain", "finetune"])
def test_an_interrupted_run_goes_on_in_its_stage(tmp_path, capsys, stopped, monkeypatch):
    whole = two_stages(Run(tmp_path))
    (tmp_path / "b").mkdir()
    evaluated = []

    def interrupt(ema):
        evaluated.append(1)
        if len(evaluated) == (2 if stopped == "pretrain" else 4):
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    with pytest.raises(TrainingInterrupted):
        two_stages(Run(tmp_path / "b"), interrupt)
    made = []
    compiled = STEP.compile

    def counting(state, key, n):
        made.append(n)
        return compiled(state, key, n)

    monkeypatch.setattr(STEP, "compile", counting)
    again = Run(tmp_path / "b", resumed=True)
    capsys.readouterr()
    last = two_stages(again)
    said = capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, last, whole)
    if stopped == "pretrain":
        assert "pretrain: resumed after 4 updates" in said
        assert "finetune: no checkpoint yet" in said
        assert sum(made) == 2 + 4
    else:
        assert "pretrain: Nothing left to train: 6 of 6" in said
        assert "finetune: resumed after 2 updates" in said
        assert sum(made) == 2, "the first stage is loaded, not trained again"
    for stage in ("pretrain", "finetune"):
        assert again.metrics(stage)["loss"] == Run(tmp_path).metrics(stage)["loss"]


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("stage", ["", "pretrain"])
def test_two_trainings_under_one_name_are_refused(tmp_path, stage, resumed):
    run, key = Run(tmp_path, resumed=resumed), jax.random.key(0)
    first = fit(run, init_state(params(), TX), STEP, key, steps=2, stage=stage, **ARGUMENTS)
    name = "stage 'pretrain'" if stage else "a training without a stage's name"
    for options in ({}, {"resume": False}):
        with pytest.raises(RunError, match=rf"has {name} already.*fit\(\.\.\., stage='pretrain'"):
            fit(
                run,
                *(init_state(params(3.0), TX), STEP, key),
                **{"steps": 2, "stage": stage, **options, **ARGUMENTS},
            )
    fit(run, init_state(params(3.0), TX), STEP, key, steps=2, stage="other", **ARGUMENTS)
    longer = fit(
        run,
        *(init_state(params(), TX), STEP, key),
        **{"steps": 4, "stage": stage, "resume": True, **ARGUMENTS},
    )
    assert int(longer.step) == 4
    assert run.metrics(stage)["step"] == [2, 4]
    assert int(first.step) == 2


def test_a_run_of_one_stage_has_the_files_that_it_always_had(tmp_path):
    run, key = Run(tmp_path), jax.random.key(0)
    fit(run, init_state(params(), TX), STEP, key, steps=2, **ARGUMENTS)
    assert {file.name for file in tmp_path.iterdir()} == {"metrics.csv", "checkpoint.h5"}
    with pytest.raises(CheckpointError, match="another random key"):
        fit(
            Run(tmp_path, resumed=True),
            *(init_state(params(), TX), STEP, jax.random.key(1)),
            **{"steps": 2, **ARGUMENTS},
        )
    with pytest.raises(RunError, match=r"stage 'a/b' becomes part of file names"):
        fit(run, init_state(params(), TX), STEP, key, steps=2, stage="a/b", **ARGUMENTS)
