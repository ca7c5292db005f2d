"""Where columns, particles and atoms are: centroid and tracing errors, and the best possible error.

"Tracing error" in print mixes a rate with a distance ("average tracing error < 1 %" of "the error
between two sets of coordinates"). Here they stand apart: the RATE is (missed + false) / true in
percent, the DISTANCE is the root mean square over pairs. The radius of the pairing is part of both,
and a distance without its rate can be made small by finding only the easy ones. Points are
(x, y) or (x, y, z). NumPy only, except `position_errors`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import center_of_mass
from scipy.spatial import KDTree

from emjax.metrics.arrays import Array, labels_of, numbers, root, same_shape
from emjax.metrics.matching import _assign

__all__ = [
    "BoundRatio",
    "PositionErrors",
    "TracingErrors",
    "against_bound",
    "centroids",
    "column_bound",
    "half_spacing",
    "position_errors",
    "tracing_errors",
]


class PositionErrors(NamedTuple):
    """Errors of paired positions [n, d], prediction - truth.

    Attributes
    ----------
    bias : [d] mean error: a shift of all.
    spread : [d] standard deviation round the bias.
    rmsd : root mean square distance; rmsd² = |bias|² + |spread|².
    mean : mean distance (the centroid error).
    """

    bias: Any
    spread: Any
    rmsd: Any
    mean: Any


def position_errors(prediction: Array, truth: Array) -> PositionErrors:
    """Errors of positions that are paired already, [n, d], in their unit. NumPy or JAX."""
    same_shape(prediction, truth)
    if np.ndim(truth) != 2 or np.shape(truth)[0] == 0:
        raise ValueError(f"positions {np.shape(truth)}: [n, d] with at least one are needed.")
    xp, p, t = numbers(prediction, truth)
    e = p - t
    d2 = (e**2).sum(1)
    return PositionErrors(e.mean(0), e.std(0), root(xp, d2.mean()), root(xp, d2).mean())


class TracingErrors(NamedTuple):
    """How many were found, and how well: never one without the other.

    Attributes
    ----------
    pairs : [m, 2] indices (prediction, truth).
    missed, false : truths without a partner, predictions without one.
    rate : (missed + false) / true, in percent; NaN without truths.
    precision, recall : of the found ones; 1 where nothing was to find and nothing found.
    rmsd, mean, worst : distance of the pairs in the points' unit; NaN without pairs.
    radius : of the pairing: publish it with the numbers.
    """

    pairs: np.ndarray
    missed: int
    false: int
    rate: float
    precision: float
    recall: float
    rmsd: float
    mean: float
    worst: float
    radius: float


def tracing_errors(
    prediction: Array, truth: Array, radius: float | None = None, *, pairing: str = "hungarian"
) -> TracingErrors:
    """Predicted against true coordinates, one to one within a radius.

    Parameters
    ----------
    prediction, truth : [n, d] and [m, d], d = 2 or 3, in one unit (Å); either may be empty.
    radius : largest distance of a pair, inclusive; None: half the truth's nearest-neighbour
        distance (the median), the most that makes sense.
    pairing : "hungarian": the most pairs, and of these the least total distance; "mutual": pairs
        that are each other's nearest neighbour (leaves crowded points unpaired).

    Returns
    -------
    TracingErrors

    Raises
    ------
    ValueError : points that are not finite or of different dimension, a radius that is not
        positive (or that cannot be known: fewer than two truths), an unknown pairing.
    """
    pred, true = _points(prediction, truth)
    if radius is None:
        radius = half_spacing(true)
        if not np.isfinite(radius):
            raise ValueError("give a radius: with fewer than two truths there is no spacing.")
    if not (np.isfinite(radius) and radius > 0):
        raise ValueError(f"radius {radius}: a positive distance, such as half the spacing.")
    if pairing == "hungarian":
        pairs, distance = _assign(pred, true, float(radius), None, None)
    elif pairing == "mutual":
        pairs, distance = _mutual(pred, true, float(radius))
    else:
        raise ValueError(f'pairing {pairing!r}: expected "hungarian" or "mutual".')
    m = len(pairs)
    missed, false = len(true) - m, len(pred) - m
    some = m > 0
    return TracingErrors(
        pairs,
        missed,
        false,
        100 * (missed + false) / len(true) if len(true) else float("nan"),
        m / len(pred) if len(pred) else float(len(true) == 0),
        m / len(true) if len(true) else float(len(pred) == 0),
        float(np.sqrt(np.mean(distance**2))) if some else float("nan"),
        float(distance.mean()) if some else float("nan"),
        float(distance.max()) if some else float("nan"),
        float(radius),
    )


def half_spacing(points: Array) -> float:
    """Half the median distance to the nearest neighbour; NaN below two points."""
    points = np.asarray(points, float)
    if len(points) < 2:
        return float("nan")
    return 0.5 * float(np.median(KDTree(points).query(points, 2)[0][:, 1]))


def centroids(labels: Array, weights: Array | None = None) -> np.ndarray:
    """[n, 2] centroids (x, y) in pixels of the labels 1, 2, … of an image [y, x]; [n, 3] in 3-D.

    Parameters
    ----------
    labels : whole numbers; 0 is background. Labels that do not occur are left out.
    weights : intensities of that shape; None: every pixel counts alike.
    """
    array = labels_of(labels, "labels")
    mass = np.ones(array.shape) if weights is None else np.asarray(weights, float)
    same_shape(mass, array, ("weights", "labels"))
    index = np.unique(array[array > 0])
    if index.size == 0:
        return np.zeros((0, array.ndim))
    return np.asarray(center_of_mass(mass, array, index))[:, ::-1]


def column_bound(height: float, width: float = 1.0, *, counts: float | None = None) -> float:
    """Cramér-Rao bound of the x (or y) of ONE Gaussian column without background, in pixels.

    width / sqrt(N) with N = 2π height width² counts, so 1 / sqrt(2π height) whatever the width.
    Neighbours and background: `emjax.analysis.precision.position_bound`.

    Parameters
    ----------
    height : expected counts at the peak.
    width : Gaussian sigma in pixels; above about 0.7, else the pixels are too coarse.
    counts : N of the column, instead of its height.
    """
    n = 2 * np.pi * height * width**2 if counts is None else counts
    if not (n > 0 and width > 0):
        raise ValueError(f"height {height}, width {width}, counts {counts}: must be positive.")
    return float(width / np.sqrt(n))


class BoundRatio(NamedTuple):
    """Measured precision against the Cramér-Rao bound.

    Attributes
    ----------
    ratio : [d] spread / bound along each axis: 1 is the best that an UNBIASED estimator reaches.
    total : the same over all axes, with the bias left in: root of mean (error / bound)².
    uncertainty : one standard deviation of `ratio` from n pairs, ratio / sqrt(2n).
    suspicious : some ratio lies below 1 by more than three of these: the estimator knows more than
        the image (a prior, a lattice, the truth), or the noise is not what the bound assumes.
    """

    ratio: np.ndarray
    total: float
    uncertainty: np.ndarray
    suspicious: bool


def against_bound(prediction: Array, truth: Array, bound: Array) -> BoundRatio:
    """Errors of paired positions in units of the Cramér-Rao bound of each.

    Parameters
    ----------
    prediction, truth : [n, d] paired positions, at least two.
    bound : smallest standard deviation of each coordinate: a number, [n, 1] or [n, d] (as
        `position_bound` gives), in the same unit.

    Raises
    ------
    ValueError : shapes that do not fit, fewer than two pairs, a bound that is not positive.
    """
    same_shape(prediction, truth)
    _, p, t, b = numbers(
        np.asarray(prediction), np.asarray(truth), bound, names=("prediction", "truth", "bound")
    )
    if p.ndim != 2 or len(p) < 2:
        raise ValueError(f"positions {p.shape}: [n, d] with at least two are needed.")
    if (b <= 0).any() or b.ndim not in (0, 2):
        raise ValueError(f"bound {b.shape}: positive; one number, [n, 1] or [n, d].")
    e = (p - t) / np.broadcast_to(b, p.shape)
    ratio = e.std(0, ddof=1)
    uncertainty = ratio / np.sqrt(2 * len(e))
    return BoundRatio(
        ratio,
        float(np.sqrt((e**2).mean())),
        uncertainty,
        bool((ratio + 3 * uncertainty < 1).any()),
    )


def _points(prediction: Array, truth: Array) -> tuple[np.ndarray, np.ndarray]:
    pred, true = np.asarray(prediction, float), np.asarray(truth, float)
    d = next((a.shape[1] for a in (true, pred) if a.ndim == 2 and a.size), 2)
    pred, true = (np.zeros((0, d)) if a.size == 0 else a for a in (pred, true))
    for name, a in (("prediction", pred), ("truth", true)):
        if a.ndim != 2 or a.shape[1] != d or d not in (2, 3):
            raise ValueError(f"{name} has shape {a.shape}: [n, 2] or [n, 3], both sides alike.")
        if not np.isfinite(a).all():
            raise ValueError(f"{name}: {int((~np.isfinite(a)).any(1).sum())} points not finite.")
    return pred, true


def _mutual(pred: np.ndarray, true: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    if len(pred) == 0 or len(true) == 0:
        return np.zeros((0, 2), int), np.zeros(0)
    distance, to_true = map(np.asarray, KDTree(true).query(pred))
    to_pred = np.asarray(KDTree(pred).query(true)[1])
    i = np.arange(len(pred))
    keep = (to_pred[to_true] == i) & (distance <= radius)
    return np.stack([i[keep], to_true[keep]], axis=1), distance[keep]
