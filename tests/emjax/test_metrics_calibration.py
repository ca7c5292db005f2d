"""Calibration: honest and dishonest forecasts in closed form; honesty is not skill."""

import numpy as np
import pytest

from emjax.metrics.calibration import (
    brier_score,
    calibration_error,
    coverage,
    interval_calibration_error,
    reliability,
    standardised_spread,
    top_label,
)

RNG = np.random.default_rng(0)


def test_a_bin_by_hand():
    stated = np.array([0.1, 0.3, 0.3, 0.9, 1.0])
    occurred = np.array([0, 1, 0, 1, 1])
    table = reliability(stated, occurred, bins=2)
    assert table.count.tolist() == [3, 2]
    assert table.stated == pytest.approx([0.7 / 3, 0.95])
    assert table.observed == pytest.approx([1 / 3, 1])
    assert calibration_error(stated, occurred, bins=2) == pytest.approx((3 * 0.1 + 2 * 0.05) / 5)
    assert calibration_error(stated, occurred, bins=2, worst=True) == pytest.approx(0.1)
    assert np.isnan(reliability(stated, occurred, bins=20).observed).any()


def test_honest_and_overconfident_forecasts():
    p = RNG.random(50_000)
    y = RNG.random(50_000) < p
    assert calibration_error(p, y) < 0.01
    assert calibration_error(p, y, equal_counts=True) < 0.01
    sure = np.where(p > 0.5, 0.99, 0.01)
    assert calibration_error(sure, y) == pytest.approx(0.24, abs=0.01)


def test_bins_of_equal_counts():
    p = RNG.random(1000) ** 4
    table = reliability(p, p > 0.5, bins=10, equal_counts=True)
    assert table.count.tolist() == [100] * 10
    assert (np.diff(table.stated) > 0).all()


def test_calibration_is_honesty_not_skill():
    """The trap: stating the base rate for everything has no calibration error at all."""
    y = np.arange(1000) < 300
    base = np.full(1000, 0.3)
    skilled = np.where(y, 0.9, 0.1)
    assert calibration_error(base, y) == pytest.approx(0, abs=1e-12)
    assert calibration_error(skilled, y) == pytest.approx(0.1)
    both = [brier_score(np.stack([1 - p, p], -1), y.astype(int)) for p in (base, skilled)]
    assert both == pytest.approx([2 * 0.3 * 0.7, 2 * 0.01])


def test_classes_by_their_winner():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4]])
    confidence, correct = top_label(p, np.array([0, 2]))
    assert confidence.tolist() == [0.7, 0.5]
    assert correct.tolist() == [True, False]
    assert brier_score(p, np.array([0, 2])) == pytest.approx((0.14 + 0.62) / 2)
    images = RNG.dirichlet(np.ones(4), (2, 5, 5))
    assert top_label(images, np.zeros((2, 5, 5), int))[0].shape == (2, 5, 5)


def test_error_bars():
    sigma = RNG.uniform(0.5, 2, 40_000)
    prediction = RNG.normal(size=40_000)
    truth = prediction + sigma * RNG.normal(size=40_000)
    assert coverage(prediction, sigma, truth) == pytest.approx(0.95, abs=0.005)
    assert coverage(prediction, sigma, truth, 0.6827) == pytest.approx(0.6827, abs=0.01)
    assert interval_calibration_error(prediction, sigma, truth) < 0.01
    assert standardised_spread(prediction, sigma, truth) == pytest.approx(1, abs=0.02)
    assert coverage(prediction, sigma / 2, truth) == pytest.approx(0.673, abs=0.01)
    assert standardised_spread(prediction, sigma / 2, truth) == pytest.approx(2, abs=0.04)
    assert interval_calibration_error(prediction, sigma / 2, truth) > 0.15
    assert coverage(np.zeros(3), 1.0, np.array([0.0, 1, 3])) == pytest.approx(2 / 3)


def test_refusals():
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibration_error([1.2, 0.5], [1, 0])
    with pytest.raises(ValueError, match="from 0 to 3, where an event"):
        calibration_error([0.2, 0.5], [3, 0])
    with pytest.raises(ValueError, match="sum to 1"):
        top_label(np.array([[2.0, -1.0]]), np.array([0]))
    with pytest.raises(ValueError, match="outside the 2 classes"):
        top_label(np.array([[0.4, 0.6]]), np.array([2]))
    with pytest.raises(ValueError, match="must be positive"):
        coverage([1.0], [0.0], [1.0])
    with pytest.raises(ValueError, match="level"):
        coverage([1.0], [1.0], [1.0], 95)
    with pytest.raises(ValueError, match="sigma"):
        coverage([1.0, 2.0], [1.0, 1.0, 1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="bins"):
        reliability([0.5], [1], bins=0)
