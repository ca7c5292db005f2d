"""Training images of restorers: noise as asked for, matter that no lattice has, both polarities."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from emjax.data.column_scene import ColumnScene
from emjax.data.synthetic_columns import _matter, make_scenes
from simulators.specimens import MATERIALS

SCENE = ColumnScene(
    patch=32, pixel=(0.2, 0.3), dose=(20.0, 20.0), readout=0.0, jitter=0.0, line_gain=0.0
)
MATERIAL = {"wse2": MATERIALS["wse2"]}


def images(scene, batch=48, copies=1, seed=0):
    draw = make_scenes(scene, MATERIAL, batch, copies=copies)
    return jax.tree.map(np.asarray, jax.jit(draw)(jax.random.key(seed)))


def test_copies_differ_by_shot_noise_alone():
    drawn = images(SCENE, copies=2)
    counts, rate = drawn["counts"], drawn["rate"]
    assert counts.shape == (48, 32, 32, 2)
    assert rate.shape == (48, 32, 32, 1)
    np.testing.assert_allclose(drawn["peak"], 20.0, rtol=1e-3)
    np.testing.assert_allclose(rate.max((1, 2, 3)), drawn["peak"], rtol=1e-6)
    assert (rate >= 0).all()
    pull = (counts - rate) / np.sqrt(np.maximum(rate, 1e-3))
    some = np.broadcast_to(rate > 1, counts.shape)
    assert abs(pull[some].mean()) < 0.02
    assert pull[some].std() == pytest.approx(1, abs=0.02)
    both = pull[np.broadcast_to(rate > 1, rate.shape)[..., 0]]
    assert abs(np.corrcoef(both.T)[0, 1]) < 0.03


def test_dark_columns_and_their_share():
    # a crystal covers less than half of the area: bright columns leave the median dark
    def median(scene):
        rate = images(scene, 24)["rate"] / 20
        return np.median(rate, axis=(1, 2, 3))

    plain = replace(
        SCENE, background=0.0, pedestal=0.0, lattice=1.0, amorphous=0.0, wedge=0.0, edge=0.0
    )
    dark = median(replace(plain, dark=1.0, depth=(0.5, 0.5)))
    bright = median(replace(plain, dark=0.0))
    assert dark.min() > 0.5
    assert np.median(bright) < 0.4


def test_matter_without_a_lattice():
    empty = replace(SCENE, lattice=0.0, amorphous=0.0, background=0.0, pedestal=0.0, dark=0.0)
    rate = images(empty, 8)["rate"]
    lit = rate.std((1, 2, 3)) / 20
    crystal = images(replace(empty, lattice=1.0), 8)["rate"].std((1, 2, 3)) / 20
    assert np.median(lit) < 0.5 * np.median(crystal)


def test_displacements_are_as_large_as_asked():
    xy = np.random.default_rng(0).uniform(-10, 10, (400, 2)).astype(np.float32)
    weights = np.ones(400, np.float32)
    still = replace(SCENE, displacement=0.0, waves=0.0, amorphous=0.0)

    def moved(scene, seed):
        found, _ = _matter(jax.random.key(seed), scene, xy, weights, 20.0)
        return np.asarray(found)[:400] - xy

    assert abs(moved(still, 1)).max() < 1e-6
    spread = [moved(replace(still, displacement=0.2), seed).std() for seed in range(40)]
    # standard deviations are 0.2 u² with u uniform: their mean is a third
    assert max(spread) <= 0.21
    assert np.mean(spread) == pytest.approx(0.2 / 3, rel=0.35)


def test_what_is_refused():
    with pytest.raises(ValueError, match="at least one material"):
        make_scenes(SCENE, {}, 4)
    with pytest.raises(ValueError, match="copies"):
        make_scenes(SCENE, MATERIAL, 4, copies=0)
