"""A network in a user's own file goes through every experiment by its name."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SOURCE = '''from flax import nnx


class Mine(nnx.Module):
    """Two convolutions."""

    def __init__(self, inputs, outputs, *, width=8, rngs):
        self.first = nnx.Conv(inputs, width, (3, 3), rngs=rngs)
        self.last = nnx.Conv(width, outputs, (3, 3), rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.first(x)))
'''
EXPERIMENTS = (
    *("locate_atoms", "denoise_stem", "denoise_unpaired", "denoise_movie"),
    *("inpaint_stem", "super_resolve", "sharpen_stem"),
)
SHORT = {name: ["--optim.steps", "2", "--optim.warmup", "1"] for name in EXPERIMENTS}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", sorted(SHORT))
def test_every_experiment_takes_it(experiment, root, tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    words = [sys.executable, "-m", "emjax", "run", str(root / "experiments" / f"{experiment}.py")]
    words += ["--preset", "smoke", "--network", "mine.py:Mine", "--network-args", '{"width": 6}']
    done = subprocess.run(
        [*words, *SHORT[experiment]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "JAX_NUMPY_RANK_PROMOTION": "allow"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / experiment / "model.h5").is_file()


def test_all_experiments_with_a_network_are_here(root):
    scripts = {path.stem for path in (root / "experiments").glob("*.py")}
    takes = {s for s in scripts if "network_args" in (root / f"experiments/{s}.py").read_text()}
    assert takes == set(SHORT)
