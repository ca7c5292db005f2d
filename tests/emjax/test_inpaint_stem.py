"""experiments/inpaint_stem.py from end to end, each method, on scenes that compile at once."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.models import load_model
from emjax.networks import NETWORKS
from emjax.runs import open_run


def waves(scene, materials, batch, *, optics=None):
    """Stands for `make_scenes`, which takes long to compile."""

    def draw(key):
        side = jnp.arange(scene.patch, dtype=jnp.float32)[None]
        a, b, c = jax.random.uniform(key, (3, batch, 1), minval=0.3, maxval=0.8)
        rate = (1 + jnp.sin(a * side + 6 * c))[:, :, None] * (1 + jnp.cos(b * side))[:, None]
        return {"rate": 20 * rate[..., None] + 5.0, "readout": jnp.full(batch, 0.3)}

    return draw


@pytest.fixture
def experiment(root, monkeypatch):
    spec = importlib.util.spec_from_file_location("x", root / "experiments" / "inpaint_stem.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "x", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr("emjax.data.synthetic_columns.make_scenes", waves)
    monkeypatch.setitem(NETWORKS, "two_stage", "two_stage:TwoStage")
    return module


SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in ("gan", "diffusion")]


@pytest.mark.parametrize("method", ["partial", *SLOW])
def test_smoke(experiment, method, tmp_path):
    config = experiment.PRESETS["smoke"]
    assert (config.size, config.quick) == ("small", True)
    config = replace(config, method=method, optim=replace(config.optim, steps=2, warmup=1))
    run = open_run("inpaint_stem", config, root=tmp_path, command="emjax run inpaint_stem")
    experiment.main(config, run)
    results = json.loads((run.path / "results.json").read_text())
    assert {line["row"] for line in results["lines"]} == {"I1", "I2", "I3", "I5"}
    assert {bar["row"] for bar in results["bars"]} == {"I1", "I3", "I4", "I5"}
    for line in results["lines"]:
        assert np.isfinite(line["value"]).all(), line
        assert 0 < line["coverage"] <= 1
    at = {x["condition"]: x["coverage"] for x in results["lines"] if x["method"] == "network"}
    assert at["spiral 1/17.9"] == pytest.approx(1 / 17.9, rel=0.05), "actual, not nominal"
    assert (run.path / "report.html").is_file()
    assert load_model(run.path).meta["method"] == method


def test_an_unknown_method_is_named(experiment, tmp_path):
    config = replace(experiment.PRESETS["smoke"], method="magic")
    run = open_run("inpaint_stem", config, root=tmp_path, command="emjax run inpaint_stem")
    with pytest.raises(ValueError, match="magic: choose one of partial, gan, diffusion"):
        experiment.main(config, run)
