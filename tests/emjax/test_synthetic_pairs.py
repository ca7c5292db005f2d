"""Pairs for restoration: the noise is what was asked for, and nothing else differs."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.config import SceneConfig
from emjax.data.synthetic_pairs import make_pairs
from simulators.specimens import MATERIALS

SCENE = SceneConfig(patch=32, dose=(20.0, 20.0), readout=0.0, jitter=0.0, line_gain=0.0)
MATERIAL = {"mos2": MATERIALS["mos2"]}


def pairs(scene, batch=64, seed=0):
    draw = make_pairs(scene, MATERIAL, batch)
    return jax.tree.map(np.asarray, jax.jit(draw)(jax.random.key(seed)))


def test_shot_noise_of_the_dose_asked_for():
    drawn = pairs(SCENE)
    counts, rate = drawn["counts"], drawn["rate"]
    assert counts.shape == rate.shape == (64, 32, 32, 1)
    np.testing.assert_allclose(rate.max((1, 2, 3)), 20.0, rtol=1e-4)
    assert (rate >= 0).all()
    pull = (counts - rate) / np.sqrt(np.maximum(rate, 1e-3))
    assert abs(pull[rate > 1].mean()) < 0.02
    assert pull[rate > 1].std() == pytest.approx(1, abs=0.02)
    assert len({image.tobytes() for image in rate}) == 64, "no two images alike"


def test_readout_noise_and_jitter():
    noisy = pairs(replace(SCENE, readout=2.0))
    assert noisy["readout"].max() <= 2.0
    rest = (noisy["counts"] - noisy["rate"]).squeeze(-1)
    expected = noisy["rate"].mean((1, 2, 3)) + noisy["readout"] ** 2
    np.testing.assert_allclose(rest.var((1, 2)) / expected, 1, atol=0.35)
    assert np.corrcoef(rest.var((1, 2)), expected)[0, 1] > 0.9
    moved = pairs(replace(SCENE, jitter=0.8, dose=(1e4, 1e4)))
    still = pairs(replace(SCENE, dose=(1e4, 1e4)))
    spread = [np.abs(p["counts"] / 1e4 - p["rate"] / 1e4).mean() for p in (moved, still)]
    assert spread[0] > 2 * spread[1]
    np.testing.assert_allclose(moved["rate"], still["rate"], rtol=1e-4, atol=1e-2)


def test_what_is_refused():
    with pytest.raises(ValueError, match="at least one material"):
        make_pairs(SCENE, {}, 4)
    assert jnp.isfinite(jnp.asarray(pairs(SCENE, 2)["counts"])).all()
