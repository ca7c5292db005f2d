"""The table of ways to train a denoiser: pairs seeds, marks intervals, and what it is told."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.denoising_objectives import ROWS, told_dose
from benchmarks.denoising_objectives_table import print_tables
from benchmarks.ship_restorer import short
from emjax.evaluation import controls
from emjax.objectives import OBJECTIVES


def _run(seed, values):
    return {"seed": seed, "weights": 9, "scores": {"20": {"psnr": list(values)}}}


def test_differences_are_paired_by_seed_and_scene(capsys):
    rng = np.random.default_rng(0)
    scenes = 30 + 4 * rng.normal(size=50)
    found = {
        "supervised": [_run(s, scenes + s) for s in (0, 1, 2)],
        "noise2noise": [_run(s, scenes + s - 0.1 - 0.01 * s) for s in (2, 0, 1)],
        "noise2void": [_run(0, scenes - 1)],
    }
    found["noise2self"] = [_run(0, scenes - 1 + 0.1 * rng.normal(size=50))]
    told = print_tables(found, [20.0])
    name, other, _, _, mean, low, high, _ = told["differences"][0]
    assert (name, other) == ("noise2noise", "supervised")
    # the seeds differ by a dB, the pairs by a hundredth
    assert abs(mean + 0.11) < 1e-6
    assert high - low < 0.1
    # one seed: the interval is over scenes, of differences and not of scenes' own spread
    self_minus_void = told["differences"][1]
    assert self_minus_void[0] == "noise2self"
    assert self_minus_void[6] - self_minus_void[5] < 0.1
    assert "| noise2noise | 3 | 9 |" in capsys.readouterr().out


def test_every_row_names_what_there_is():
    for row in ROWS.values():
        assert row.objective in OBJECTIVES
        assert callable(getattr(controls, row.change))
        assert row.seeds >= 1


def test_a_network_that_is_told_the_dose_sees_it_and_nothing_else_new():
    counts = jnp.asarray(np.random.default_rng(0).poisson(9.0, (2, 8, 8, 1)), jnp.float32)
    seen = []
    run = told_dose(lambda params, x: seen.append(x) or x[..., :1])
    np.testing.assert_allclose(run(None, counts), counts, rtol=1e-5)
    run(None, 2 * counts)
    one, two = seen
    np.testing.assert_allclose(one[..., 0], two[..., 0], atol=1e-5)  # the image in its own unit
    np.testing.assert_allclose(two[..., 1:] - one[..., 1:], np.log(2), atol=1e-5)
    assert jax.eval_shape(lambda: one).shape == (2, 8, 8, 3)


def test_a_shipped_network_tells_its_scores_briefly():
    scores = {
        "levels": {"d2": {"psnr": [30.123456, 29.0, 31.0], "threshold": 0.1, "scenes": {"a": 1}}},
        "fidelity": {"d2": {"mean": {"slope": [0.75111111, 0.7, 0.8]}, "fields": [1, 2]}},
    }
    assert short(scores) == {
        "levels": {"d2": {"psnr": [30.12, 29.0, 31.0]}},
        "fidelity": {"d2": {"slope": [0.7511, 0.7, 0.8]}},
    }
