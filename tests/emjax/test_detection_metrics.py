"""Pairing of points: numbers by hand, symmetries, and the cases with nothing in them."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from emjax.metrics.detection import column_spacing, detection_scores, match_points, points_of

quick = settings(max_examples=60, deadline=None)
# quarters, so that ties and points at exactly the radius happen
coordinates = st.integers(0, 40).map(lambda v: v / 4)
points = st.integers(0, 12).flatmap(lambda n: arrays(float, (n, 2), elements=coordinates))
classes = arrays(int, 12, elements=st.integers(0, 2))


def test_numbers_by_hand():
    true = np.array([[0, 0], [10, 0], [20, 0], [30, 0]])
    pred = np.array([[0, 1], [10, 2], [25, 0]])
    m = match_points(pred, true, 2.0)
    assert m.pairs[np.argsort(m.pairs[:, 0])].tolist() == [[0, 0], [1, 1]]
    assert m.counts == (2, 1, 2)
    assert (m.precision, m.recall) == (2 / 3, 0.5)
    assert m.f1 == pytest.approx(4 / 7)
    assert m.mean_distance == 1.5
    assert m.rmsd == pytest.approx(np.sqrt(2.5))
    assert m.tracing_error == 75.0
    assert m.false_positives.tolist() == [2]
    assert m.false_negatives.tolist() == [2, 3]


def test_most_pairs_come_before_the_nearest_pair():
    """Greedy matching takes the 0.1 pair and leaves the other two points alone."""
    pred, true = np.array([[0.0, 0], [1.9, 0]]), np.array([[1.0, 0], [2.0, 0.0]])
    pred[0, 0] = 0.2
    true[0, 0] = 1.8  # nearest to pred 1, and the only one within reach of pred 0
    m = match_points(pred, true, 1.7)
    assert m.tp == 2
    assert sorted(map(tuple, m.pairs)) == [(0, 0), (1, 1)]


def test_least_total_distance_among_full_pairings():
    pred, true = np.array([[0.0, 0], [1, 0]]), np.array([[0.1, 0], [1.1, 0]])
    m = match_points(pred, true, 5)
    assert m.distances.sum() == pytest.approx(0.2)


def test_a_wrong_class_is_a_false_positive_and_a_false_negative():
    xy = np.array([[0.0, 0], [10, 0], [20, 0]])
    m = match_points(xy, xy, 1, pred_class=[0, 1, 1], true_class=[0, 0, 1])
    assert m.counts == (2, 1, 1)
    assert len(m.pairs) == 3
    assert m.correct.sum() == 2
    assert m.false_positives.tolist() == m.false_negatives.tolist() == [1]


def test_of_two_equally_near_the_right_class_wins():
    pred, true = np.array([[0.0, 0]]), np.array([[1.0, 0], [-1, 0]])
    for order in ([0, 1], [1, 0]):
        m = match_points(pred, true[order], 2, pred_class=[7], true_class=np.array([5, 7])[order])
        assert m.counts == (1, 0, 1)


@pytest.mark.parametrize(
    ("n_pred", "n_true", "precision", "recall", "f1"),
    [(0, 0, 1, 1, 1), (0, 3, 0, 0, 0), (3, 0, 0, 0, 0)],
)
def test_empty(n_pred, n_true, precision, recall, f1):
    m = match_points(np.ones((n_pred, 2)), np.ones((n_true, 2)), 1.0)
    assert (m.precision, m.recall, m.f1) == (precision, recall, f1)
    assert np.isnan(m.rmsd)
    assert np.isnan(m.mean_distance)
    assert np.isnan(m.tracing_error) == (n_true == 0)
    assert match_points([], np.zeros((0, 2)), 1.0).counts == (0, 0, 0)


def test_the_margin_ignores_both_sides():
    shape = (100, 50)  # y, x
    true = np.array([[3.0, 50], [25, 50], [25, 97], [9, 20]])
    pred = np.array([[3.0, 51], [25, 50], [11, 20], [2, 2], [30, 30], [10.5, 21]])
    m = match_points(pred, true, 3, shape=shape, margin=10)
    # truths 0, 2 and 3 are in the margin. Prediction 2 stands inside but belongs to truth 3, 5 is
    # within the radius of it; 0 and 3 are in the margin: only 4 is a false alarm.
    assert m.counts == (1, 1, 0)
    assert m.false_positives.tolist() == [4]


def test_a_counted_truth_may_have_its_partner_in_the_margin():
    m = match_points([[9.5, 50]], [[10.5, 50]], 2, shape=(100, 100), margin=10)
    assert m.counts == (1, 0, 0)


@quick
@given(points, points, classes, classes, st.randoms(use_true_random=False))
def test_order_does_not_matter(pred, true, a, b, random):
    a, b = a[: len(pred)], b[: len(true)]
    i = random.sample(range(len(pred)), len(pred))
    j = random.sample(range(len(true)), len(true))
    m = match_points(pred, true, 1.5, pred_class=a, true_class=b)
    s = match_points(pred[i], true[j], 1.5, pred_class=a[i], true_class=b[j])
    assert m.counts == s.counts
    assert m.distances.sum() == pytest.approx(s.distances.sum())


@quick
@given(points, points, classes, classes)
def test_swapping_the_sides_swaps_precision_and_recall(pred, true, a, b):
    a, b = a[: len(pred)], b[: len(true)]
    m = match_points(pred, true, 1.5, pred_class=a, true_class=b)
    s = match_points(true, pred, 1.5, pred_class=b, true_class=a)
    assert (m.precision, m.recall, m.f1) == (s.recall, s.precision, s.f1)


@quick
@given(points, points, st.floats(-50, 50), st.floats(-50, 50), st.floats(0, 6.28))
def test_moving_and_turning_the_plane_changes_nothing(pred, true, dx, dy, angle):
    if len(pred) and len(true):  # a pair exactly on the radius may fall on either side of it
        d = np.hypot(*(pred[:, None] - true[None]).transpose(2, 0, 1))
        assume((np.abs(d - 1.5) > 1e-6).all())
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    m = match_points(pred, true, 1.5)
    s = match_points(pred @ turn.T + [dx, dy], true @ turn.T + [dx, dy], 1.5)
    assert m.counts == s.counts
    assert m.distances.sum() == pytest.approx(s.distances.sum(), abs=1e-6)


@quick
@given(points, points, st.sampled_from([0.6, 1.1, 2.3, 20.0]))
def test_the_pairing_is_the_best_of_all(pred, true, radius):
    """Against a plain Hungarian on the full table, whatever the clusters."""
    from scipy.optimize import linear_sum_assignment

    m = match_points(pred, true, radius)
    assert len(set(m.pairs[:, 0])) == len(set(m.pairs[:, 1])) == len(m.pairs)
    assert (m.distances <= radius + 1e-12).all()
    if len(pred) and len(true):
        d = np.hypot(*(pred[:, None] - true[None]).transpose(2, 0, 1))
        table = np.where(d <= radius, d - 1e4, 0)
        i, j = linear_sum_assignment(table)
        assert m.tp == (table[i, j] < 0).sum()
        assert m.distances.sum() == pytest.approx(d[i, j][table[i, j] < 0].sum())


def test_a_large_image_is_fast_enough():
    rng = np.random.default_rng(0)
    true = np.stack(np.meshgrid(np.arange(150), np.arange(150)), -1).reshape(-1, 2) * 8.0
    pred = rng.permutation(true + rng.normal(0, 0.3, true.shape))
    m = match_points(pred, true, 3.0)
    assert m.counts == (22500, 0, 0)
    assert m.rmsd == pytest.approx(0.3 * np.sqrt(2), rel=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": 0}, "a positive distance"),
        ({"radius": np.nan}, "a positive distance"),
        ({"pred_xy": np.zeros((3, 3))}, r"shape \(3, 3\): points are \(n, 2\)"),
        ({"true_xy": [[0, np.nan]]}, "1 points are not finite, the first is number 0"),
        ({"pred_class": [1]}, "classes on one side only"),
        ({"pred_class": [1, 2], "true_class": [1]}, "one class per point"),
        ({"margin": 3}, "needs the image's shape"),
    ],
)
def test_errors_say_what_to_do(change, message):
    arguments = {"pred_xy": [[0, 0]], "true_xy": [[0, 0]], "radius": 1.0} | change
    with pytest.raises(ValueError, match=message):
        match_points(**arguments)


def test_scores_are_pooled_over_images():
    one = (np.array([[0, 0, 1], [10, 0, 0]]), np.array([[0, 0, 1], [10, 0, 1]]))
    two = (np.zeros((0, 3)), np.array([[5, 5, 0]]))
    none = ([], [])
    s = detection_scores([one, two, none], 1.0)
    assert s.counts == (1, 1, 2)
    assert s.table.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert s.confusion.tolist() == [[0, 0], [1, 1]]  # rows: true class
    assert s.per_class[1].recall == 0.5
    assert s.per_class[0].counts == (0, 1, 1)
    blind = detection_scores([one, two, none], [1.0, 1.0, 2.0], class_aware=False)
    assert blind.counts == (2, 0, 1)
    assert blind.confusion is None


def test_scores_of_columns_and_of_no_images():
    columns = np.zeros(
        1, [("x", float), ("y", float), ("species", int), ("x_fit", float), ("y_fit", float)]
    )
    columns["x_fit"] = 3.0
    truth = np.array([[3.0, 0, 0]])
    assert detection_scores([(columns, truth)], 1.0).f1 == 1
    assert detection_scores([(columns, truth)], 1.0, fitted=False).f1 == 0
    assert points_of(columns, fitted=False)[0].tolist() == [[0, 0]]
    assert detection_scores([], 1.0).f1 == 1
    assert detection_scores([], 1.0).table.shape == (0, 3)
    with pytest.raises(ValueError, match="2 shapes"):
        detection_scores([(columns, truth)], 1.0, shapes=[(8, 8), (8, 8)], margin=1)
    with pytest.raises(ValueError, match="class_aware=False"):
        detection_scores([(truth - [0, 0, 1], truth)], 1.0)


def test_spacing():
    xy = np.stack(np.meshgrid(np.arange(5) * 3.0, np.arange(5) * 7.0), -1).reshape(-1, 2)
    assert column_spacing(xy) == 3.0
    assert np.isnan(column_spacing(xy[:1]))
    assert np.isnan(column_spacing([]))
