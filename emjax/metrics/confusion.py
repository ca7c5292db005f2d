"""Right and wrong, counted: the confusion matrix, its rates, ROC and precision-recall.

Rows of a confusion matrix are the truth, columns the prediction. Accuracy says little where one
class is rare (1 % defects: "nothing anywhere" is 99 % right): report IoU or F1 of the rare class
beside it, and the area under precision-recall rather than under ROC. True negatives, and with them
specificity and accuracy, do not exist for detected points or boxes: nobody counts the columns that
were rightly not found.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from emjax.metrics.arrays import (
    Array,
    divide,
    labels_of,
    module_of,
    numbers,
    pair_table,
    same_shape,
)

__all__ = [
    "Counts",
    "Curve",
    "average_precision",
    "confusion_matrix",
    "counts_of",
    "misclassified_area",
    "pixel_error",
    "precision_recall_curve",
    "roc_auc",
    "roc_curve",
]


class Counts(NamedTuple):
    """True and false positives and negatives: numbers, or arrays with one entry a class.

    With P = TP + FN, N = FP + TN (truth) and P' = TP + FP (prediction). A rate whose denominator
    is 0 is NaN: a class that does not occur has no sensitivity.
    """

    tp: Any
    fp: Any
    fn: Any
    tn: Any = None

    def _over(self, a: Any, b: Any) -> Any:
        return divide(module_of(*self), a, b)

    def _negatives(self, rate: str) -> Any:
        if self.tn is None:
            raise ValueError(
                f"{rate} needs true negatives, which detected points or boxes do not have: "
                "use precision, sensitivity and f1."
            )
        return self.tn

    @property
    def sensitivity(self) -> Any:
        """TP / P, also called recall or true positive rate."""
        return self._over(self.tp, self.tp + self.fn)

    recall = sensitivity

    @property
    def specificity(self) -> Any:
        """TN / N, the true negative rate."""
        tn = self._negatives("specificity")
        return self._over(tn, tn + self.fp)

    @property
    def precision(self) -> Any:
        """TP / P', the positive predictive value."""
        return self._over(self.tp, self.tp + self.fp)

    @property
    def negative_predictive_value(self) -> Any:
        """TN / (TN + FN)"""
        tn = self._negatives("negative_predictive_value")
        return self._over(tn, tn + self.fn)

    @property
    def accuracy(self) -> Any:
        """(TP + TN) / (P + N)"""
        tn = self._negatives("accuracy")
        return self._over(self.tp + tn, self.tp + tn + self.fp + self.fn)

    @property
    def error(self) -> Any:
        """(FP + FN) / (P + N) = 1 - accuracy"""
        tn = self._negatives("error")
        return self._over(self.fp + self.fn, self.tp + tn + self.fp + self.fn)

    @property
    def balanced_accuracy(self) -> Any:
        """Mean of sensitivity and specificity: 1/2 for every constant answer."""
        return (self.sensitivity + self.specificity) / 2

    @property
    def f1(self) -> Any:
        """2 TP / (2 TP + FP + FN), which is the Dice coefficient of the class."""
        return self._over(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> Any:
        """TP / (TP + FP + FN), intersection over union (Jaccard)."""
        return self._over(self.tp, self.tp + self.fp + self.fn)

    @property
    def correlation(self) -> Any:
        """Matthews' correlation coefficient (1975), -1 to 1, 0 for chance."""
        tn = self._negatives("correlation")
        xp = module_of(*self)
        # product of roots, not root of the product: counts of pixels to the fourth power overflow
        rows = xp.sqrt((self.tp + self.fp) * 1.0) * xp.sqrt((self.tp + self.fn) * 1.0)
        columns = xp.sqrt((tn + self.fp) * 1.0) * xp.sqrt((tn + self.fn) * 1.0)
        norm = rows * columns
        return self._over(self.tp * 1.0 * tn - self.fp * 1.0 * self.fn, norm)


class Curve(NamedTuple):
    """Rates at each distinct score, from the highest down, the point before any in front.

    ROC: x = false positive rate, y = true positive rate. Precision-recall: x = recall,
    y = precision. `threshold` [i]: everything that scores at least this is called positive.
    """

    x: np.ndarray
    y: np.ndarray
    threshold: np.ndarray


def confusion_matrix(
    prediction: Array, truth: Array, classes: int, *, ignore: int | None = None
) -> Array:
    """Pixels (or samples) by (true class, predicted class).

    Parameters
    ----------
    prediction, truth : whole numbers of one shape, 0 to classes - 1.
    classes : number of classes.
    ignore : a label of the truth that is left out (unlabelled pixels).

    Returns
    -------
    [classes, classes] counts. In JAX, labels outside the classes are left out.

    Raises
    ------
    ValueError : shapes that differ; in NumPy also labels outside the classes or not whole.
    """
    same_shape(prediction, truth)
    xp = module_of(prediction, truth)
    if xp is np:
        true = labels_of(truth, "truth")
        keep = np.ones(true.shape, bool) if ignore is None else true != ignore
        true = labels_of(truth, "truth", count=classes, keep=keep)
        pred = labels_of(prediction, "prediction", count=classes, keep=keep)
        return pair_table(np, true[keep], pred[keep], classes, classes)
    true, pred = xp.asarray(truth), xp.asarray(prediction)
    if ignore is not None:
        true = xp.where(true == ignore, -1, true.astype(int))
    return pair_table(xp, true, pred, classes, classes)


def counts_of(matrix: Array) -> Counts:
    """Each class against the rest: `Counts` of arrays [classes] from a confusion matrix."""
    xp = module_of(matrix)
    matrix = xp.asarray(matrix)
    tp = xp.diagonal(matrix)
    fp, fn = matrix.sum(0) - tp, matrix.sum(1) - tp
    return Counts(tp, fp, fn, matrix.sum() - tp - fp - fn)


def pixel_error(prediction: Array, truth: Array) -> Array:
    """Fraction of pixels (samples) whose label is wrong, 0 to 1."""
    same_shape(prediction, truth)
    xp = module_of(prediction, truth)
    wrong = xp.asarray(prediction) != xp.asarray(truth)
    return float(wrong.mean()) if xp is np else wrong.mean()


def misclassified_area(prediction: Array, truth: Array, sampling: tuple[float, ...]) -> Array:
    """Pixel error in calibrated units: the wrongly labelled length, area or volume.

    Parameters
    ----------
    prediction, truth : labels, one array axis per entry of `sampling`.
    sampling : the pixel's size along each axis, in Å (then the result is in Å, Å² or Å³).
    """
    if len(sampling) != np.ndim(truth):
        raise ValueError(f"{len(sampling)} pixel sizes for {np.ndim(truth)} axes: one per axis.")
    return pixel_error(prediction, truth) * np.size(truth) * float(np.prod(sampling))


def roc_auc(scores: Array, truth: Array, *, valid: Array | None = None) -> Array:
    """Area under ROC: the chance that a positive scores above a negative, ties counted half.

    Parameters
    ----------
    scores : [n] higher means more likely positive; any monotone scale gives the same area.
    truth : [n] bool.
    valid : [n] bool; False leaves the entry out (arrays padded to a fixed length).

    Returns
    -------
    0 to 1; NaN without positives, without negatives, or with a score that is NaN. (Hanley and
    McNeil 1982.)
    """
    xp, s, positive, negative = _scored(scores, truth, valid)
    order = xp.argsort(s)
    ranked = s[order]
    below = _running(xp, negative[order])
    low, high = (xp.searchsorted(ranked, s, side=side) for side in ("left", "right"))
    # negatives below, and half of those at the same score, of each positive
    won = (below[low] + below[high]) / 2
    n_pos, n_neg = positive.sum(), negative.sum()
    rate = divide(xp, won, n_neg + 0.0 * won)
    area = divide(xp, (xp.where(positive, rate, 0.0)).sum(), n_pos)
    return _unless_nan(xp, area, s, positive | negative)


def average_precision(
    scores: Array, truth: Array, *, valid: Array | None = None, positives: Any = None
) -> Array:
    """Area under precision-recall by steps: sum over thresholds of (recall gained) × precision.

    Never the trapezium: straight lines between points of this curve promise what no threshold
    reaches (Davis and Goadrich 2006). Equal scores are one threshold, whatever their order. A
    random score gives the share of positives, not 1/2.

    Parameters
    ----------
    scores, truth, valid : as in `roc_auc`.
    positives : number of positives in all, where some have no score at all (missed objects).

    Returns
    -------
    0 to 1; NaN without positives, or with a score that is NaN.

    Raises
    ------
    ValueError : scores that are not finite, fewer `positives` than the truth has (NumPy).
    """
    xp, s, positive, negative = _scored(scores, truth, valid)
    order = xp.argsort(-s)
    falling = -s[order]
    hits, alarms = _running(xp, positive[order]), _running(xp, negative[order])
    end = xp.searchsorted(falling, -s, side="right")
    precision = divide(xp, hits[end], hits[end] + alarms[end], 0.0)
    total = positive.sum() if positives is None else positives
    if xp is np and total < positive.sum():
        raise ValueError(f"positives {total}, but {positive.sum()} of the truth are positive.")
    area = divide(xp, xp.where(positive, precision, 0.0).sum(), total)
    return _unless_nan(xp, area, s, positive | negative)


def roc_curve(scores: Array, truth: Array) -> Curve:
    """ROC: true against false positive rate. NumPy only; straight lines between points are right.

    Raises
    ------
    ValueError : no positives, or no negatives.
    """
    threshold, tp, fp = _thresholds(scores, truth)
    if tp[-1] == 0 or fp[-1] == 0:
        raise ValueError("an ROC curve needs positives and negatives in the truth.")
    return Curve(fp / fp[-1], tp / tp[-1], threshold)


def precision_recall_curve(scores: Array, truth: Array, *, positives: int | None = None) -> Curve:
    """Precision against recall, from the highest score down (NumPy only). Before any: precision 1.

    Parameters
    ----------
    positives : as in `average_precision`.

    Raises
    ------
    ValueError : no positives.
    """
    threshold, tp, fp = _thresholds(scores, truth)
    total = tp[-1] if positives is None else positives
    if total == 0:
        raise ValueError("a precision-recall curve needs positives in the truth.")
    return Curve(tp / total, np.where(tp + fp > 0, tp / np.maximum(tp + fp, 1), 1.0), threshold)


def _scored(scores: Array, truth: Array, valid: Array | None) -> tuple[Any, Any, Any, Any]:
    """(module, scores, positive, negative), flat."""
    same_shape(scores, truth, ("scores", "truth"))
    if valid is not None:
        same_shape(scores, valid, ("scores", "valid"))
    xp = module_of(scores, truth, valid)
    s, true = xp.asarray(scores).reshape(-1), xp.asarray(truth).reshape(-1).astype(bool)
    counted = xp.ones(true.shape, bool) if valid is None else xp.asarray(valid).reshape(-1)
    counted = counted.astype(bool)
    # floats: minus an unsigned number is none. What does not count may be anything
    s = s.astype(float if xp is np else xp.promote_types(s.dtype, xp.zeros(()).dtype))
    s = xp.where(counted, s, 0.0)
    if xp is np:
        numbers(s, names=("scores",))
    return xp, s, true & counted, ~true & counted


def _unless_nan(xp: Any, value: Any, scores: Any, counted: Any) -> Any:
    """NaN has no rank, but sorting would give it the highest one."""
    return value if xp is np else xp.where((xp.isnan(scores) & counted).any(), xp.nan, value)


def _running(xp: Any, flags: Any) -> Any:
    """[n + 1] how many of the first i flags are set: whole numbers, so exact."""
    return xp.concatenate([xp.zeros(1, int), xp.cumsum(flags)])


def _thresholds(scores: Array, truth: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores, falling, with the true and false positives at or above each."""
    _, s, positive, _ = _scored(np.asarray(scores), np.asarray(truth), None)
    if s.size == 0:
        raise ValueError("no scores: at least one is needed.")
    order = np.argsort(-s, kind="stable")
    s, positive = s[order], positive[order]
    last = np.append(np.flatnonzero(np.diff(s)), s.size - 1)
    tp = np.cumsum(positive)[last]
    return (
        np.concatenate([[np.inf], s[last]]),
        np.concatenate([[0], tp]),
        np.concatenate([[0], last + 1 - tp]),
    )
