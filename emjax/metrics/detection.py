"""Did we find the columns? Points against points, one to one, within a radius.

A prediction and a true column can be paired when they are at most `radius` apart. Of all one-to-one
pairings the one with the most pairs is taken, and of these the one with the smallest total distance
(Hungarian). With classes, the pairing is still by distance alone: a pair of different classes is a
column at the right place with the wrong name, so it counts as one false positive and one false
negative.

The radius belongs to every figure: say it beside the score. A fifth of the column spacing is
strict, half of it is the most that makes sense.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import KDTree

from emjax.metrics.matching import Matches, Rates, checked_points, match_points

__all__ = [
    "DetectionScores",
    "Matches",
    "column_spacing",
    "detection_scores",
    "match_points",
    "points_of",
]


@dataclass(frozen=True)
class DetectionScores(Rates):
    """Scores over several images: the counts are added, then divided (pooled, not a mean of means).

    Attributes
    ----------
    images : one `Matches` per image.
    tp, fp, fn : their sums.
    mean_distance, rmsd : over all pairs of the right class of all images, in the points' unit.
    confusion : (classes, classes) pairs by (true class, predicted class); None without classes.
    per_class : class index -> counts of this class alone, with precision, recall and F1.
    """

    images: tuple[Matches, ...]
    tp: int
    fp: int
    fn: int
    mean_distance: float
    rmsd: float
    confusion: np.ndarray | None = None
    per_class: dict[int, ClassCounts] = field(default_factory=dict)

    @property
    def table(self) -> np.ndarray:
        """(images, 3) tp, fp, fn of each image: what `statistics.bootstrap_f1` takes."""
        return np.array([m.counts for m in self.images]).reshape(-1, 3)


@dataclass(frozen=True)
class ClassCounts(Rates):
    """The counts of one class: precision, recall and F1 follow."""

    tp: int
    fp: int
    fn: int


def detection_scores(
    images: Sequence[tuple[np.ndarray, np.ndarray]],
    radius: float | Sequence[float],
    *,
    shapes: Sequence[tuple[int, int]] | tuple[int, int] | None = None,
    margin: float = 0.0,
    class_aware: bool = True,
    fitted: bool = True,
) -> DetectionScores:
    """Pooled and per-image scores of (prediction, truth) pairs.

    Parameters
    ----------
    images : (prediction, truth) of each image. Each is a structured array with fields `x`, `y` and
        `species` (as `find_columns` returns), or an (n, 2) array of (x, y), or (n, 3) with the
        class last.
    radius : the matching radius, one for all images or one each.
    shapes : (y, x) of the images in pixels, one for all or one each; needed with a margin.
    margin : as in `match_points`.
    class_aware : whether a wrong species is an error. Ignored where the points have no species.
    fitted : score `x_fit`, `y_fit` where the columns have them; else `x`, `y`.

    Returns
    -------
    DetectionScores

    Raises
    ------
    ValueError : as `match_points`; shapes or radii that do not fit the images; negative species.
    """
    radii = np.broadcast_to(np.asarray(radius, dtype=float), (len(images),))
    one = shapes is None or np.ndim(shapes) == 1
    each: list = [shapes] * len(images) if one else list(shapes or ())
    if len(each) != len(images):
        raise ValueError(
            f"{len(images)} images but {len(each)} shapes: give one, or one per image."
        )

    matches, named = [], []
    for (pred, true), r, shape in zip(images, radii, each, strict=True):
        (p_xy, p_class), (t_xy, t_class) = points_of(pred, fitted=fitted), points_of(true)
        # nothing at all has no class column to show, and still counts class by class
        p_class = np.zeros(0, int) if len(p_xy) == 0 else p_class
        t_class = np.zeros(0, int) if len(t_xy) == 0 else t_class
        with_class = class_aware and p_class is not None and t_class is not None
        if not with_class:
            p_class = t_class = None
        matches.append(
            match_points(
                p_xy, t_xy, r, pred_class=p_class, true_class=t_class, shape=shape, margin=margin
            )
        )
        if with_class:
            named.append((matches[-1], p_class, t_class))

    d = [m.distances[m.correct] for m in matches]
    distances = np.concatenate(d) if d else np.zeros(0)
    confusion, per_class = _by_class(named)
    return DetectionScores(
        tuple(matches),
        sum(m.tp for m in matches),
        sum(m.fp for m in matches),
        sum(m.fn for m in matches),
        float(distances.mean()) if distances.size else float("nan"),
        float(np.sqrt(np.mean(distances**2))) if distances.size else float("nan"),
        confusion,
        per_class,
    )


def column_spacing(xy: np.ndarray) -> float:
    """Median distance to the nearest neighbour, in the points' unit; NaN below two columns."""
    points = checked_points(xy, "xy")
    if len(points) < 2:
        return float("nan")
    return float(np.median(KDTree(points).query(points, 2)[0][:, 1]))


def points_of(columns: np.ndarray, *, fitted: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """(x, y) and class indices of a structured array, an (n, 2) or an (n, 3) array.

    A structured array with fitted positions gives `x_fit`, `y_fit`, unless `fitted` is False.
    """
    columns = np.asarray(columns)
    names = columns.dtype.names
    if names:
        x, y = ("x_fit", "y_fit") if fitted and "x_fit" in names else ("x", "y")
        species = np.asarray(columns["species"], dtype=int) if "species" in names else None
        return np.stack([columns[x], columns[y]], axis=-1).astype(float), species
    if columns.ndim == 2 and columns.shape[1] == 3:
        return columns[:, :2].astype(float), columns[:, 2].astype(int)
    return checked_points(columns, "points"), None


def _by_class(named: list) -> tuple[np.ndarray | None, dict[int, ClassCounts]]:
    """Confusion matrix of the pairs and the counts of each class."""
    if not named:
        return None, {}
    if any((c < 0).any() for _, p, t in named for c in (p, t)):
        raise ValueError("negative species: leave unnamed columns out, or score class_aware=False.")
    n = 1 + max(max(p.max(initial=-1), t.max(initial=-1)) for _, p, t in named)
    confusion = np.zeros((n, n), int)
    tp, fp, fn = np.zeros((3, n), int)
    for m, p, t in named:
        np.add.at(confusion, (t[m.pairs[:, 1]], p[m.pairs[:, 0]]), 1)
        np.add.at(tp, t[m.pairs[m.correct, 1]], 1)
        np.add.at(fp, p[m.false_positives], 1)
        np.add.at(fn, t[m.false_negatives], 1)
    counts = {c: ClassCounts(int(tp[c]), int(fp[c]), int(fn[c])) for c in range(n)}
    return confusion, counts
