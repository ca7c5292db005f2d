"""A training that is killed and resumed ends as if nothing had happened."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

SCRIPT = """
import sys, time
import jax, jax.numpy as jnp
from emjax.config import OptimConfig
from emjax.optim import optimizer
from emjax.runs import open_run
from emjax.training import fit, init_state, make_step

def draw(key):
    x = jax.random.normal(key, (8, 16, 16, 1))
    return {"x": x, "y": jnp.abs(x)}

def apply(p, x):
    for layer in p:
        conv = jax.lax.conv_general_dilated
        x = conv(x, layer["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jnp.tanh(x + layer["b"].reshape(1, 1, 1, -1))
    return x

def loss(p, batch):
    return jnp.mean((apply(p, batch["x"]) - batch["y"]) ** 2), {}

config = OptimConfig(steps=120, warmup=10)
tx = optimizer(config)
step = make_step(loss, draw, tx)

def train(name, resume, pause):
    run = open_run("tiny", config, name=name, root=sys.argv[1], resume=resume)
    keys = jax.random.split(jax.random.key(0), 2)
    shapes = [(3, 3, 1, 8), (3, 3, 8, 1)]
    params = [
        {"w": 0.3 * jax.random.normal(k, s), "b": jnp.zeros(s[-1])} for k, s in zip(keys, shapes)
    ]
    def evaluate(ema):
        time.sleep(pause)
        return {"size": jnp.sum(ema[0]["w"])}
    fit(run, init_state(params, tx), step, jax.random.key(1), steps=config.steps, chunk=5,
        images_per_step=8, evaluate=evaluate, evaluate_every=5, checkpoint_every=15)

if sys.argv[2] == "start":
    train("killed", False, 0.1)
else:
    train("killed", True, 0)
    train("whole", False, 0)
"""


def rows(folder: Path) -> list[list[str]]:
    """Of the metrics, without the times."""
    with (folder / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    return [[v for k, v in row.items() if k not in ("images_per_s", "seconds")] for row in table]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_training_resumes_bit_for_bit(tmp_path):
    script = tmp_path / "tiny.py"
    script.write_text(SCRIPT)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, str(script), str(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "start"], stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        file = killed / "metrics.csv"
        # a checkpoint is written after 30 updates; kill some updates later
        if file.is_file() and "\n40," in file.read_text():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    with h5py.File(killed / "checkpoint.h5") as file:
        assert file["leaves/state/step"][()] < 120
    (killed / "checkpoint.h5.part").write_text("a checkpoint that was being written")

    done = subprocess.run([*command, "resume"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed after 30 updates" in done.stdout or "resumed after 45" in done.stdout
    assert rows(killed) == rows(whole)
    assert len(rows(whole)) == 24
    compare(killed / "checkpoint.h5", whole / "checkpoint.h5")
    assert not (killed / "checkpoint.h5.part").exists()


def compare(a: Path, b: Path) -> None:
    names: list[str] = []
    with h5py.File(a) as left, h5py.File(b) as right:
        left["leaves"].visititems(
            lambda name, entry: names.append(name) if isinstance(entry, h5py.Dataset) else None
        )
        assert len(names) > 15
        for name in names:
            one, other = left["leaves"][name][()], right["leaves"][name][()]
            assert one.tobytes() == other.tobytes(), name
