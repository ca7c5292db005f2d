"""One-to-one pairing of predicted with true points, and the rates that follow from its counts.

`emjax.metrics.detection` says what counts as what, and scores whole sets of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

__all__ = ["Matches", "Rates", "checked_points", "match_points"]


class Rates:
    """Precision, recall and F1 from tp, fp, fn; 1 where nothing was to find and nothing found."""

    tp: int
    fp: int
    fn: int

    @property
    def counts(self) -> tuple[int, int, int]:
        """(tp, fp, fn)"""
        return self.tp, self.fp, self.fn

    @property
    def precision(self) -> float:
        """TP / (TP + FP). Nothing predicted: 1 if there was nothing to find, else 0."""
        predicted = self.tp + self.fp
        return self.tp / predicted if predicted else float(self.fn == 0)

    @property
    def recall(self) -> float:
        """TP / (TP + FN). Nothing to find: 1 if nothing was predicted, else 0."""
        true = self.tp + self.fn
        return self.tp / true if true else float(self.fp == 0)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN). Nothing to find and nothing predicted: 1."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else 1.0

    @property
    def tracing_error(self) -> float:
        """(missed + false) / true columns, in percent; NaN without true columns.

        "Tracing error" in print mixes a rate with a distance; this is the rate, `rmsd` the
        distance.
        """
        true = self.tp + self.fn
        return 100 * (self.fp + self.fn) / true if true else float("nan")


@dataclass(frozen=True)
class Matches(Rates):
    """The pairing of one image.

    Attributes
    ----------
    pairs : (m, 2) indices (prediction, truth) of all pairs that count: those whose truth is not
        ignored, of the right class or not.
    distances : (m,) their distances, in the points' unit.
    correct : (m,) whether the classes agree (all True without classes).
    tp, fp, fn : counts.
    false_positives, false_negatives : indices of the predictions and of the truths that these
        counts hold.
    """

    pairs: np.ndarray
    distances: np.ndarray
    correct: np.ndarray
    tp: int
    fp: int
    fn: int
    false_positives: np.ndarray
    false_negatives: np.ndarray

    @property
    def mean_distance(self) -> float:
        """Mean distance of the pairs of the right class; NaN when there are none."""
        return float(self.distances[self.correct].mean()) if self.tp else float("nan")

    @property
    def rmsd(self) -> float:
        """Root mean square distance of the pairs of the right class; NaN when there are none."""
        return (
            float(np.sqrt(np.mean(self.distances[self.correct] ** 2))) if self.tp else float("nan")
        )


def match_points(
    pred_xy: np.ndarray,
    true_xy: np.ndarray,
    radius: float,
    *,
    pred_class: np.ndarray | None = None,
    true_class: np.ndarray | None = None,
    shape: tuple[int, int] | None = None,
    margin: float = 0.0,
) -> Matches:
    """Pair predicted with true points, one to one.

    Parameters
    ----------
    pred_xy, true_xy : (n, 2) and (m, 2) points (x, y), in one unit; either may be empty.
    radius : the largest distance of a pair (inclusive), in that unit.
    pred_class, true_class : (n,) and (m,) class indices; give both or neither.
    shape : (y, x) of the image in pixels, needed with a margin (then the points are in pixels too).
    margin : a true column closer than this to the image's border is ignored, and so is a prediction
        that is paired with it, or within the radius of it, or itself in the margin without a
        partner. A counted truth keeps its partner even where that lies in the margin.

    Returns
    -------
    Matches

    Raises
    ------
    ValueError : points that are not (n, 2) or not finite, a radius that is not positive, classes
        on one side only or of another length, a margin without a shape.
    """
    pred, true = checked_points(pred_xy, "pred_xy"), checked_points(true_xy, "true_xy")
    if not (np.isfinite(radius) and radius > 0):
        raise ValueError(
            f"radius {radius}: a positive distance, such as a fifth of the column spacing."
        )
    pred_class, true_class = _classes(pred_class, true_class, len(pred), len(true))
    pairs, distances = _assign(pred, true, float(radius), pred_class, true_class)

    counted = _inside(true, shape, margin)
    keep = counted[pairs[:, 1]]
    partner = np.zeros(len(pred), bool)
    partner[pairs[:, 0]] = True
    alone = ~partner & _inside(pred, shape, margin)
    if not counted.all() and alone.any():
        near = KDTree(true[~counted]).query(pred[alone])[0] <= radius
        alone[np.flatnonzero(alone)[near]] = False
    pairs, distances = pairs[keep], distances[keep]

    correct = np.ones(len(pairs), bool)
    if pred_class is not None and true_class is not None:
        correct = pred_class[pairs[:, 0]] == true_class[pairs[:, 1]]
    alone[pairs[~correct, 0]] = True
    missed = counted.copy()
    missed[pairs[correct, 1]] = False
    return Matches(
        pairs,
        distances,
        correct,
        int(correct.sum()),
        int(alone.sum()),
        int(missed.sum()),
        np.flatnonzero(alone),
        np.flatnonzero(missed),
    )


def _assign(
    pred: np.ndarray,
    true: np.ndarray,
    radius: float,
    pred_class: np.ndarray | None,
    true_class: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (k, 2) and distances (k,): as many as possible, then as close as possible."""
    none = np.zeros((0, 2), int), np.zeros(0)
    if len(pred) == 0 or len(true) == 0:
        return none
    near = KDTree(pred).sparse_distance_matrix(KDTree(true), radius, output_type="ndarray")
    i, j, d = near["i"], near["j"], near["v"]
    if len(d) == 0:
        return none
    # Every pair is worth more than all distances together can cost; among equals the right class
    # wins, so that the counts never depend on the order of the points.
    cost = d - radius * (min(len(pred), len(true)) + 1)
    if pred_class is not None and true_class is not None:
        cost = cost + 1e-9 * radius * (pred_class[i] != true_class[j])

    # Points that share no possible partner are independent problems, most of them of a single pair.
    n = len(pred) + len(true)
    graph = coo_matrix((np.ones(len(i)), (i, len(pred) + j)), shape=(n, n))
    label = connected_components(graph, directed=False)[1][i]
    size = np.bincount(label)[label]
    single = size == 1
    pairs = [np.stack([i[single], j[single]], axis=1)]
    found = [d[single]]
    rest = np.flatnonzero(~single)
    rest = rest[np.argsort(label[rest], kind="stable")]
    for group in np.split(rest, np.flatnonzero(np.diff(label[rest])) + 1) if len(rest) else ():
        rows, a = np.unique(i[group], return_inverse=True)
        cols, b = np.unique(j[group], return_inverse=True)
        table = np.zeros((len(rows), len(cols)))
        table[a, b] = cost[group]
        length = np.zeros_like(table)
        length[a, b] = d[group]
        r, c = linear_sum_assignment(table)
        real = table[r, c] < 0
        r, c = r[real], c[real]
        pairs.append(np.stack([rows[r], cols[c]], axis=1))
        found.append(length[r, c])
    return np.concatenate(pairs), np.concatenate(found)


def _inside(xy: np.ndarray, shape: tuple[int, int] | None, margin: float) -> np.ndarray:
    if margin <= 0:
        return np.ones(len(xy), bool)
    if shape is None:
        raise ValueError(
            "a margin needs the image's shape=(y, x): distances to the border are unknown."
        )
    x, y = xy.T
    return (np.minimum(x, shape[1] - 1 - x) >= margin) & (np.minimum(y, shape[0] - 1 - y) >= margin)


def checked_points(xy: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(xy, dtype=float)
    if array.size == 0:
        return np.zeros((0, 2))
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{name} has shape {array.shape}: points are (n, 2), x then y.")
    if not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        raise ValueError(f"{name}: {len(bad)} points are not finite, the first is number {bad[0]}.")
    return array


def _classes(
    pred: np.ndarray | None, true: np.ndarray | None, n_pred: int, n_true: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    if pred is None and true is None:
        return None, None
    if pred is None or true is None:
        raise ValueError("classes on one side only: give pred_class and true_class, or neither.")
    pred, true = np.asarray(pred).reshape(-1), np.asarray(true).reshape(-1)
    if len(pred) != n_pred or len(true) != n_true:
        raise ValueError(
            f"{n_pred} predictions with {len(pred)} classes, {n_true} truths with {len(true)} "
            "classes: one class per point is needed."
        )
    return pred, true
