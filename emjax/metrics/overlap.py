"""How far regions cover each other: Dice and IoU of masks and boxes, average precision.

Dice D and IoU J rank one pair alike (D = 2J / (1 + J)), but their means over images do not. Boxes
are (x, y, width, height) with (x, y) the CENTRE, in one unit; files that give corners are
converted at the border (`boxes_from_corners`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from emjax.metrics.arrays import Array, divide, numbers, same_shape
from emjax.metrics.confusion import precision_recall_curve

__all__ = [
    "COCO_THRESHOLDS",
    "MeanPrecision",
    "box_iou",
    "boxes_from_corners",
    "detection_precision",
    "dice",
    "iou",
    "mask_iou",
    "mean_average_precision",
]

COCO_THRESHOLDS = tuple(0.5 + 0.05 * i for i in range(10))
"""IoU 0.5 to 0.95, over which COCO's mAP is the mean (Lin 2014)."""


def dice(prediction: Array, truth: Array, *, axis: Any = None) -> Array:
    """2 |A ∩ B| / (|A| + |B|) of masks; 1 where both are empty. (Dice 1945.)

    Parameters
    ----------
    prediction, truth : masks of one shape, bool or 0/1. With probabilities it is the soft form
        2 Σab / (Σa + Σb), whose best value for a truth of 0 and 1 is reached at that truth.
    axis : summed over; None: over all. For a batch [b, y, x] say (1, 2), then average.

    Raises
    ------
    ValueError : shapes that differ; in NumPy also values beyond 0 to 1.
    """
    xp, both, a, b = _shares(prediction, truth, axis)
    return divide(xp, 2 * both, a + b, 1.0)


def iou(prediction: Array, truth: Array, *, axis: Any = None) -> Array:
    """|A ∩ B| / |A ∪ B| of masks; 1 where both are empty. Arguments as in `dice`. (Jaccard.)"""
    xp, both, a, b = _shares(prediction, truth, axis)
    return divide(xp, both, a + b - both, 1.0)


def mask_iou(predictions: Array, truths: Array) -> Array:
    """IoU of every mask [n, y, x] with every mask [m, y, x] -> [n, m]; 0 where both are empty."""
    if np.ndim(predictions) < 2 or np.shape(predictions)[1:] != np.shape(truths)[1:]:
        raise ValueError(
            f"masks {np.shape(predictions)} and {np.shape(truths)}: [n, y, x] and [m, y, x] of "
            "one image size are needed."
        )
    xp, a, b = numbers(predictions, truths, names=("predictions", "truths"))
    _check_masks(xp, a, b)
    a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
    both = xp.matmul(a, b.T) if xp is np else xp.matmul(a, b.T, precision="highest")
    return divide(xp, both, a.sum(1)[:, None] + b.sum(1)[None, :] - both, 0.0)


def box_iou(predictions: Array, truths: Array) -> Array:
    """IoU of every box [n, 4] with every box [m, 4], (x centre, y centre, w, h) -> [n, m].

    Raises
    ------
    ValueError : other shapes; in NumPy also negative widths or heights.
    """
    if any(np.ndim(v) != 2 or np.shape(v)[1] != 4 for v in (predictions, truths)):
        raise ValueError(
            f"boxes {np.shape(predictions)} and {np.shape(truths)}: [n, 4] of (x, y, width, "
            "height) with the centre at (x, y) are needed."
        )
    xp, a, b = numbers(predictions, truths, names=("predictions", "truths"))
    if xp is np and (a[:, 2:].min(initial=0) < 0 or b[:, 2:].min(initial=0) < 0):
        raise ValueError("negative widths or heights: are these corners? see boxes_from_corners.")
    a, b = a[:, None, :], b[None, :, :]
    low = xp.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = xp.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    both = xp.prod(xp.maximum(high - low, 0), axis=-1)
    area = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - both
    return divide(xp, both, area, 0.0)


def boxes_from_corners(corners: Array) -> Array:
    """(x0, y0, x1, y1) [n, 4] -> (x centre, y centre, width, height) [n, 4]."""
    xp, c = numbers(corners, names=("corners",))
    low, high = c[..., :2], c[..., 2:]
    return xp.concatenate([(low + high) / 2, high - low], axis=-1)


def detection_precision(
    images: Sequence[tuple[Any, Any, Any]],
    threshold: float = 0.5,
    *,
    similarity: Callable[[Any, Any], Any] = box_iou,
    interpolation: str = "envelope",
) -> float:
    """Average precision of detected objects at one overlap. NumPy only.

    All detections of all images are taken from the highest score down; each claims the free truth
    that it overlaps most, if by at least `threshold`. A second claim on a truth is a false alarm.

    Parameters
    ----------
    images : (predictions, scores [n], truths) of each image; boxes by default.
    threshold : smallest similarity of a hit, > 0.
    similarity : ``(predictions, truths) -> [n, m]``: `box_iou`, `mask_iou`, or your own (minus a
        distance with a threshold of minus a radius works too).
    interpolation : "envelope": the area under the smallest falling curve above precision-recall
        (PASCAL VOC 2010, Everingham 2015); "step": as `confusion.average_precision`.

    Returns
    -------
    0 to 1; NaN when there is no truth at all.

    Raises
    ------
    ValueError : scores that do not fit the predictions; an unknown interpolation.
    """
    if interpolation not in ("envelope", "step"):
        raise ValueError(f'interpolation {interpolation!r}: expected "envelope" or "step".')
    scores, hits, total = [np.zeros(0)], [np.zeros(0, bool)], 0
    for number, (found, score, true) in enumerate(images):
        score = np.asarray(score, float).reshape(-1)
        total += len(true)
        if len(score) != len(found):
            raise ValueError(
                f"image {number}: {len(found)} predictions with {len(score)} scores: one each."
            )
        scores.append(score)
        if len(found) == 0 or len(true) == 0:
            hits.append(np.zeros(len(found), bool))
            continue
        hits.append(_claims(np.asarray(similarity(found, true)), score, threshold))
    s, hit = np.concatenate(scores), np.concatenate(hits)
    if total == 0:
        return float("nan")
    if s.size == 0:
        return 0.0
    recall, precision, _ = precision_recall_curve(s, hit, positives=total)
    if interpolation == "envelope":
        precision = np.maximum.accumulate(precision[:0:-1])[::-1]
    else:
        precision = precision[1:]
    return float((np.diff(recall) * precision).sum())


class MeanPrecision(NamedTuple):
    """Mean average precision and what it is the mean of.

    `table` [classes, thresholds]; NaN for a class without truths, which the mean leaves out.
    """

    mean: float
    table: np.ndarray
    classes: tuple[int, ...]
    thresholds: tuple[float, ...]


def mean_average_precision(
    images: Sequence[tuple[Any, Any]],
    thresholds: float | Sequence[float] = 0.5,
    *,
    interpolation: str = "envelope",
) -> MeanPrecision:
    """mAP of boxes with classes: the mean over classes (and thresholds). NumPy only.

    Parameters
    ----------
    images : (predictions [n, 6], truths [m, 5]) of each image: x, y, width, height, score, class;
        truths without the score.
    thresholds : IoU, one or several (`COCO_THRESHOLDS`).
    interpolation : as in `detection_precision`.

    Raises
    ------
    ValueError : boxes with another number of columns; as `detection_precision`.
    """
    pairs = [
        (_columns(p, 6, f"image {i}: predictions"), _columns(t, 5, f"image {i}: truths"))
        for i, (p, t) in enumerate(images)
    ]
    classes = sorted({int(c) for p, t in pairs for c in (*p[:, 5], *t[:, 4])})
    levels = tuple(float(v) for v in np.atleast_1d(thresholds))
    table = np.full((len(classes), len(levels)), np.nan)
    for row, c in enumerate(classes):
        of_class = [(p[p[:, 5] == c], t[t[:, 4] == c]) for p, t in pairs]
        sets = [(p[:, :4], p[:, 4], t[:, :4]) for p, t in of_class]
        for column, level in enumerate(levels):
            table[row, column] = detection_precision(sets, level, interpolation=interpolation)
    mean = float("nan") if np.isnan(table).all() else float(np.nanmean(table))
    return MeanPrecision(mean, table, tuple(classes), levels)


def _columns(boxes: Any, count: int, name: str) -> np.ndarray:
    array = np.asarray(boxes, float)
    if array.size and (array.ndim != 2 or array.shape[1] != count):
        raise ValueError(f"{name} have shape {array.shape}, not [n, {count}].")
    return array.reshape(-1, count)


def _claims(overlap: np.ndarray, score: np.ndarray, threshold: float) -> np.ndarray:
    """[n] whether each detection hits: by falling score, each truth given away once."""
    overlap = overlap.copy()
    hit = np.zeros(len(score), bool)
    for i in np.argsort(-score, kind="stable"):
        j = int(np.argmax(overlap[i]))
        if overlap[i, j] >= threshold:
            hit[i] = True
            overlap[:, j] = -np.inf
    return hit


def _shares(prediction: Array, truth: Array, axis: Any) -> tuple[Any, Any, Any, Any]:
    """(module, Σab, Σa, Σb)"""
    same_shape(prediction, truth)
    xp, a, b = numbers(prediction, truth)
    _check_masks(xp, a, b)
    return xp, (a * b).sum(axis), a.sum(axis), b.sum(axis)


def _check_masks(xp: Any, *masks: Any) -> None:
    for name, mask in zip(("prediction", "truth"), masks, strict=True):
        if xp is np and mask.size and (mask.min() < 0 or mask.max() > 1):
            raise ValueError(
                f"{name}: values from {mask.min():g} to {mask.max():g}, where a mask has 0 and 1. "
                "Compare labels with one class first (labels == 1); 8-bit masks have 255 for 1."
            )
