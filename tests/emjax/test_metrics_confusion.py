"""Confusion matrix, ROC, precision-recall: numbers by hand, and the traps."""

import numpy as np
import pytest

from emjax.metrics.confusion import (
    Counts,
    average_precision,
    confusion_matrix,
    counts_of,
    misclassified_area,
    pixel_error,
    precision_recall_curve,
    roc_auc,
    roc_curve,
)


def test_all_rates_by_hand():
    c = Counts(tp=6, fp=2, fn=4, tn=8)
    assert c.sensitivity == c.recall == 6 / 10
    assert c.specificity == 8 / 10
    assert c.precision == 6 / 8
    assert c.negative_predictive_value == 8 / 12
    assert c.accuracy == 14 / 20
    assert c.error == 6 / 20 == pytest.approx(1 - c.accuracy)
    assert c.balanced_accuracy == pytest.approx(0.7)
    assert c.f1 == 12 / 18
    assert c.iou == 6 / 12
    assert c.correlation == pytest.approx((6 * 8 - 2 * 4) / np.sqrt(8 * 10 * 10 * 12))


def test_detections_have_no_true_negatives():
    points = Counts(tp=6, fp=2, fn=4)
    assert points.precision == 0.75
    for rate in ("specificity", "accuracy", "error", "correlation", "negative_predictive_value"):
        with pytest.raises(ValueError, match=f"{rate} needs true negatives"):
            getattr(points, rate)


def test_matrix_rows_are_the_truth():
    truth = np.array([[0, 0, 1], [1, 2, 2]])
    prediction = np.array([[0, 1, 1], [1, 0, 2]])
    matrix = confusion_matrix(prediction, truth, 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    counts = counts_of(matrix)
    assert counts.tp.tolist() == [1, 2, 1]
    assert counts.fp.tolist() == [1, 1, 0]
    assert counts.fn.tolist() == [1, 0, 1]
    assert counts.tn.tolist() == [3, 3, 4]
    assert counts.iou == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert confusion_matrix(prediction, truth, 3, ignore=2).sum() == 4


def test_a_class_that_does_not_occur_has_no_rate():
    counts = counts_of(confusion_matrix([0, 0, 1], [0, 1, 1], 3))
    assert np.isnan(counts.sensitivity[2])
    assert np.isnan(counts.iou[2])
    assert np.nanmean(counts.iou) == pytest.approx(0.5)


def test_accuracy_flatters_where_a_class_is_rare():
    """The trap: nothing found anywhere is 99 % right."""
    truth = np.zeros(1000, int)
    truth[:10] = 1
    nothing = counts_of(confusion_matrix(np.zeros(1000, int), truth, 2))
    assert nothing.accuracy[1] == 0.99
    assert nothing.iou[1] == nothing.f1[1] == nothing.sensitivity[1] == 0
    assert nothing.balanced_accuracy[1] == 0.5


def test_pixel_error_and_its_area():
    truth = np.zeros((4, 5), int)
    prediction = truth.copy()
    prediction[0, :2] = 1
    assert pixel_error(prediction, truth) == 0.1
    assert misclassified_area(prediction, truth, (0.5, 0.2)) == pytest.approx(2 * 0.1)
    with pytest.raises(ValueError, match="pixel sizes"):
        misclassified_area(prediction, truth, (0.5,))


def test_auc_is_the_chance_that_a_positive_wins():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 8, 60).astype(float)  # many ties
    truth = rng.random(60) < 0.4
    pairs = np.sign(scores[truth][:, None] - scores[~truth][None, :])
    assert roc_auc(scores, truth) == pytest.approx((1 + pairs.mean()) / 2, abs=1e-12)
    curve = roc_curve(scores, truth)
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(roc_auc(scores, truth), abs=1e-12)
    assert roc_auc(np.exp(scores), truth) == pytest.approx(roc_auc(scores, truth))
    assert roc_auc(np.zeros(60), truth) == 0.5
    assert np.isnan(roc_auc(scores, np.ones(60, bool)))


def test_average_precision_by_hand():
    truth = np.array([1, 0, 1, 1, 0], bool)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    assert average_precision(scores, truth) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert average_precision(scores, truth, positives=6) == pytest.approx((1 + 2 / 3 + 3 / 4) / 6)
    curve = precision_recall_curve(scores, truth)
    area = (np.diff(curve.x) * curve.y[1:]).sum()
    assert area == pytest.approx(average_precision(scores, truth))


def test_equal_scores_are_one_threshold_in_any_order():
    truth = np.array([1, 1, 0, 0, 0, 0, 0, 0], bool)
    assert average_precision(np.zeros(8), truth) == 0.25
    assert average_precision(np.zeros(8), truth[::-1]) == 0.25


def test_roc_flatters_rare_positives_and_precision_recall_does_not():
    rng = np.random.default_rng(1)
    truth = np.arange(20000) < 20
    scores = rng.normal(size=20000) + 2.5 * truth
    assert roc_auc(scores, truth) > 0.93
    assert average_precision(scores, truth) < 0.2


def test_entries_of_a_padded_array_can_be_left_out():
    scores, truth = np.array([3.0, 1, 2, 9, 9]), np.array([1, 0, 1, 0, 0], bool)
    valid = np.array([1, 1, 1, 0, 0], bool)
    assert roc_auc(scores, truth, valid=valid) == roc_auc(scores[:3], truth[:3]) == 1
    assert average_precision(scores, truth, valid=valid) == 1
    assert average_precision(scores, truth) < 1
    scores[3:] = np.nan
    assert roc_auc(scores, truth, valid=valid) == 1, "whatever it is"


def test_refusals():
    with pytest.raises(ValueError, match="outside the 2 classes"):
        confusion_matrix([0, 1], [0, 5], 2)
    with pytest.raises(ValueError, match="not whole"):
        confusion_matrix([0.3, 1], [0, 1], 2)
    with pytest.raises(ValueError, match="must be equal"):
        confusion_matrix([0, 1, 1], [0, 1], 2)
    with pytest.raises(ValueError, match="not finite"):
        roc_auc([0.1, np.nan], [True, False])
    with pytest.raises(ValueError, match="positives 1, but 2 of the truth"):
        average_precision([0.1, 0.2], [True, True], positives=1)
    with pytest.raises(ValueError, match="positives and negatives"):
        roc_curve([0.1, 0.2], [True, True])
