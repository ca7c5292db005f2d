"""Bootstrap intervals: known answers, coverage, pairing, and what they refuse."""

import numpy as np
import pytest

from emjax.metrics.statistics import (
    bootstrap_difference,
    bootstrap_f1,
    bootstrap_interval,
    f1_score,
)


def test_mean_interval_is_that_of_the_normal_law():
    values = np.random.default_rng(0).normal(5, 2, 400)
    value, low, high = bootstrap_interval(values, n=4000)
    error = values.std() / np.sqrt(400)
    assert value == pytest.approx(values.mean())
    assert low == pytest.approx(value - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(value + 1.96 * error, abs=0.1 * error)


def test_it_repeats_and_the_seed_matters():
    values = np.arange(20.0)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_coverage_of_the_truth():
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(200):
        _, low, high = bootstrap_interval(rng.exponential(size=40), level=0.9, n=400, seed=i)
        hits += low <= 1 <= high
    assert 0.82 <= hits / 200 <= 0.95


def test_weights_median_and_functions():
    assert bootstrap_interval([1.0, 3.0], weights=[3, 1])[0] == 1.5
    assert bootstrap_interval([1.0, 2.0, 50.0], statistic="median")[0] == 2
    assert bootstrap_interval([1.0, 2.0, 6.0], statistic=np.max, n=50)[0] == 6
    weightless = bootstrap_interval([1.0, 100.0, 3.0], weights=[1, 0, 1])
    assert weightless[0] == 2
    assert weightless[2] <= 3


def test_a_single_image_has_no_spread():
    assert bootstrap_interval([0.7]) == (0.7, 0.7, 0.7)


def test_f1_is_pooled_and_resampled_by_image():
    counts = np.array([[90, 5, 5], [10, 30, 40]])
    value, low, high = bootstrap_f1(counts)
    assert value == pytest.approx(200 / (200 + 35 + 45))
    assert low == pytest.approx(f1_score(counts[1]))  # both draws the second image
    assert high == pytest.approx(f1_score(counts[0]))
    assert bootstrap_f1([[0, 0, 0]]) == (1, 1, 1)


def test_pairing_sees_a_difference_that_separate_intervals_do_not():
    rng = np.random.default_rng(2)
    hard = rng.uniform(0.3, 0.95, 30)
    ours = np.stack([100 * hard, 100 * (1 - hard), 100 * (1 - hard)], axis=1).round()
    theirs = ours + np.array([-4, 4, 4])
    a, b = bootstrap_f1(ours), bootstrap_f1(theirs)
    assert a[1] < b[2]  # they overlap
    value, low, _high = bootstrap_difference(ours, theirs)
    assert value == pytest.approx(a[0] - b[0])
    assert low > 0.03


def test_large_sets_go_in_blocks():
    values = np.random.default_rng(3).normal(size=30_000)
    value, low, high = bootstrap_interval(values, n=300)
    assert low < value < high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([]), "one number per image"),
        (lambda: bootstrap_interval([[1.0]]), r"shape \(1, 1\)"),
        (lambda: bootstrap_interval([1.0, np.nan]), "1 of 2 are not finite, the first is number 1"),
        (lambda: bootstrap_interval([1.0], weights=[1, 2]), "give one per value"),
        (lambda: bootstrap_interval([1.0], weights=[-1]), "must not be negative"),
        (lambda: bootstrap_interval([1.0], weights=[1], statistic="median"), "weights are for"),
        (lambda: bootstrap_interval([1.0], statistic="mode"), "'mode': expected"),
        (lambda: bootstrap_interval([1.0], level=95), "between 0 and 1"),
        (lambda: bootstrap_interval([1.0], n=0), "at least one"),
        (lambda: bootstrap_f1(np.zeros((0, 3))), r"\(images, 3\)"),
        (lambda: bootstrap_f1([[1, -1, 0]]), "negative"),
        (lambda: bootstrap_difference([[1, 0, 0]], [[1, 0, 0]] * 2), "same images"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
