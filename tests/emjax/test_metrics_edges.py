"""Outlines, objects and spectra: displaced, invented, lost and smoothed by known amounts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from emjax.metrics.edges import edge_errors, middle_level, object_counts, spectrum_error


def disc(radius=10.0, centre=(20.0, 20.0), size=41, soft=1.5):
    y, x = np.mgrid[:size, :size]
    r = np.hypot(y - centre[0], x - centre[1])
    return 1 / (1 + np.exp((r - radius) / soft))


def test_an_outline_that_grows_by_a_known_amount():
    truth = disc()
    assert edge_errors(truth, truth, 0.5).max() < 0.05
    for grown in (0.7, -1.3):
        errors = edge_errors(disc(10 + grown), truth, 0.5)
        np.testing.assert_allclose(errors, abs(grown), atol=0.06)
    # a displaced disc: |d cos φ|, whose mean is 2 d / π
    moved = edge_errors(disc(centre=(20.0, 21.5)), truth, 0.5)
    assert moved.mean() == pytest.approx(2 * 1.5 / np.pi, rel=0.1)


def test_no_outline_counts_as_the_reach():
    np.testing.assert_array_equal(edge_errors(np.zeros((41, 41)), disc(), 0.5, reach=3.0), 3.0)
    assert len(edge_errors(disc(), np.zeros((41, 41)), 0.5)) == 0


def test_objects_invented_and_lost():
    truth = np.maximum(disc(4, (10, 10)), disc(4, (30, 30)))
    mask = truth > 0.5
    restored = np.maximum(disc(4, (10, 10)), disc(4, (10, 30)))
    assert object_counts(restored, mask, 0.5) == (2, 1, 2, 1)
    assert object_counts(1 - restored, mask, 0.5, -1) == (2, 1, 2, 1)
    assert object_counts(truth, mask, 0.5) == (2, 0, 2, 0)
    speck = truth.copy()
    speck[5, 35] = 1
    assert object_counts(speck, mask, 0.5).invented == 0, "a single pixel is no object"


def test_the_level_lies_half_way():
    mask = np.zeros((8, 8))
    mask[2:5, 2:5] = 1
    assert middle_level(0.2 + 0.6 * mask, mask) == (pytest.approx(0.5), 1)
    assert middle_level(0.8 - 0.6 * mask, mask) == (pytest.approx(0.5), -1)
    with pytest.raises(ValueError, match="everything or nothing"):
        middle_level(mask, np.zeros((8, 8)))
    with pytest.raises(ValueError, match="its mask"):
        middle_level(mask, np.zeros((8, 9)))


def test_powers_in_decibels():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(32, 32))
    assert spectrum_error(truth, truth) == 0
    assert spectrum_error(truth / np.sqrt(10), truth) == pytest.approx(10)
    assert spectrum_error(2 * truth, truth) == pytest.approx(20 * np.log10(2))
    assert spectrum_error(0 * truth, truth) > 20
    assert np.isnan(spectrum_error(truth, np.ones((32, 32))))
    blurred = [spectrum_error(gaussian_filter(truth, s), truth) for s in (0.4, 0.8, 1.6)]
    assert blurred[0] < blurred[1] < blurred[2]
