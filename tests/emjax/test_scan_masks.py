"""Scan plans: actual coverages, finite dwell times, equal doses, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label

from emjax.data.scan_masks import PLANS, ScanPlan, adaptive, make_bank, make_plan

SHAPE = (48, 60)


@pytest.mark.parametrize("name", ["spiral", "jittered_grid", "random_pixels", "random_lines"])
@pytest.mark.parametrize("inverse", [7, 17.9, 87])
def test_coverage_is_the_one_asked_for(name, inverse):
    coverage = np.mean([make_plan(name, SHAPE, 1 / inverse, seed=s).coverage for s in range(4)])
    # lines come as whole lines, and lengthen where they slant
    tolerance = {"spiral": 0.15, "random_pixels": 0.02, "jittered_grid": 0.12}.get(name, 1.2)
    assert coverage * inverse == pytest.approx(1, rel=tolerance)


@pytest.mark.parametrize("name", PLANS)
def test_plans_are_repeatable_and_differ_by_seed(name):
    plans = [make_plan(name, SHAPE, 0.3, seed=s).dwell for s in (3, 3, 4)]
    np.testing.assert_array_equal(plans[0], plans[1])
    assert name == "dense" or (plans[0] != plans[2]).any()
    assert plans[0].dtype == np.float32
    assert plans[0].shape == SHAPE


def test_a_spiral_is_one_path_of_constant_speed_with_the_pitch_apart():
    plan = make_plan("spiral", (65, 65), 1 / 13)
    assert label(plan.mask, np.ones((3, 3)))[1] <= 5, "connected but where corners cut it"
    # a path across n pixels takes n dwell times or more (up to √2 n on a diagonal), less what
    # is lost at the corners
    assert 0.75 < plan.dwell[plan.mask].mean() < 1
    row = np.flatnonzero(plan.mask[32])
    gaps = np.diff(row)
    assert np.median(gaps[gaps > 2]) == pytest.approx(13, abs=3)


def test_a_straight_path_dwells_one_dwell_time_in_a_pixel():
    dwell = make_plan("random_lines", SHAPE, 1.0).dwell
    np.testing.assert_allclose(dwell, 1, atol=0.06)


def test_a_jittered_grid_has_one_pixel_in_each_cell():
    plan = make_plan("jittered_grid", (48, 48), 1 / 16, seed=1)
    cells = plan.mask.reshape(12, 4, 12, 4).sum((1, 3))
    np.testing.assert_array_equal(cells, 1)


def test_dead_pixels_and_lines():
    dead = ~make_plan("dead", SHAPE, 0.9, seed=2).mask
    assert dead.mean() == pytest.approx(0.1, abs=0.002)
    assert dead.all(0).any() or dead.all(1).any(), "a whole line"
    assert (label(dead)[1]) > 20, "and single pixels"


def test_the_same_dose_for_every_plan():
    for name in PLANS:
        plan = make_plan(name, SHAPE, 1 / 8).at_dose(0.5)
        assert plan.dwell.mean() == pytest.approx(0.5, rel=1e-5)
        assert (plan.mask == make_plan(name, SHAPE, 1 / 8).mask).all()


def test_adaptive_scans_go_where_the_picture_changes():
    picture = np.zeros(SHAPE)
    picture[:, 30:] = 10.0
    first = make_plan("jittered_grid", SHAPE, 0.08)
    plan = adaptive(first, np.where(first.mask, picture, np.nan), 0.2, seed=0)
    assert plan.coverage == pytest.approx(0.2, abs=1e-3)
    assert plan.mask[first.mask].all(), "what was measured is kept"
    new = plan.mask & ~first.mask
    assert new[:, 24:36].mean() > 1.5 * new[:, :18].mean()


def test_banks_hold_all_plans_within_the_coverages():
    bank = make_bank(("spiral", "random_pixels"), (32, 32), (0.05, 0.5), 8, seed=1)
    covered = (bank > 0).mean((1, 2))
    assert bank.shape == (8, 32, 32)
    assert len(np.unique(covered)) == 8
    assert covered.min() > 0.045
    assert covered.max() < 0.52


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: make_plan("spirall", SHAPE, 0.1), "did you mean 'spiral'"),
        (lambda: make_plan("spiral", SHAPE, 0.0), "a coverage of 0.0"),
        (lambda: make_plan("spiral", SHAPE, 1.5), "a coverage of 1.5"),
        (lambda: make_plan("spiral", (4, 4), 0.01), "not one pixel"),
        (lambda: make_plan("spiral", (0, 4), 0.5), "no pixels"),
        (lambda: ScanPlan(np.zeros((4, 4))), "coverage is zero"),
        (lambda: ScanPlan(np.ones(4)), "shape"),
        (lambda: ScanPlan(np.ones((4, 4))).at_dose(0), "must be positive"),
        (lambda: adaptive(ScanPlan(np.ones((4, 4))), np.ones((4, 5)), 1), "scan plan"),
        (lambda: adaptive(ScanPlan(np.ones((4, 4))), np.ones((4, 4)), 1), "second pass"),
    ],
)
def test_bad_input(wrong, says):
    with pytest.raises(ValueError, match=says):
        wrong()
