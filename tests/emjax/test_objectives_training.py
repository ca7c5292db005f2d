"""Training by an objective: one stage or two, and a noise model that survives its file."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax.objectives import build
from emjax.objectives.training import noise_from_meta, noise_to_meta, train
from emjax.runs import Run

START = jnp.float32([-0.4, 0.0, 0.4]).reshape(1, 1, 1, 3)
FIT = {"steps": 30, "batch": 256}


def draw(key):
    rate = jnp.broadcast_to(jnp.linspace(3.0, 30.0, 16)[None, :, None, None], (2, 16, 16, 1))
    return {
        "counts": jax.random.poisson(key, rate).astype(jnp.float32),
        "rate": rate,
        "peak": jnp.full(2, 30.0),
    }


def smooth(params, x):  # a network that knows the rows
    return x.mean(2, keepdims=True) + 0 * x + params


def test_two_stages_and_the_noise_model(tmp_path):
    run, tx = Run(tmp_path), optax.adam(1e-2)
    first = build("pn2v_bootstrap", smooth, samples=3, fit=FIT)
    params, second = train(run, first, draw, START, tx, jax.random.key(0), steps=6, batch=2)
    assert second.advance is None
    assert {p.name for p in tmp_path.glob("metrics*.csv")} == {"metrics.csv", "metrics-first.csv"}
    assert not np.allclose(params, START)
    meta = json.loads(json.dumps(noise_to_meta(second.noise)))
    assert len(json.dumps(meta)) < 4000
    again = build("pn2v_bootstrap", smooth, samples=3, noise=noise_from_meta(meta))
    counts = draw(jax.random.key(1))["counts"]
    np.testing.assert_allclose(
        again.restore(params, counts), second.restore(params, counts), rtol=1e-5
    )


def test_one_stage(tmp_path):
    tx = optax.adam(1e-2)
    known = build("supervised", lambda p, x: p * x, sure=False)
    params, same = train(
        Run(tmp_path), known, draw, jnp.float32(0.0), tx, jax.random.key(0), steps=20, batch=2
    )
    assert same is known
    assert float(params) > 0.05, "it learns that the image is in its input"
    assert noise_to_meta(same.noise) is None
    assert noise_from_meta(None) is None
    with pytest.raises(ValueError, match="int cannot be stored"):
        noise_to_meta(3)
