"""Intervals round a score, by resampling the images.

The image is the unit that is resampled, never the column: columns of one image share its dose, its
jitter and its defects, and resampling them one by one gives intervals that are far too narrow.
Several seeds over the same images belong to one image: add their counts first, or pass one seed
at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["bootstrap_difference", "bootstrap_f1", "bootstrap_interval", "f1_score"]

Interval = tuple[float, float, float]
_BLOCK = 2_000_000  # resampled numbers held at once: 16 MB


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    weights: Sequence[float] | np.ndarray | None = None,
    level: float = 0.95,
    n: int = 2000,
    seed: int = 0,
    statistic: str | Callable[[np.ndarray], float] = "mean",
) -> Interval:
    """A statistic of one value per image with its percentile bootstrap interval.

    Parameters
    ----------
    values : (images,) one finite number per image.
    weights : (images,) weights >= 0 of the mean (for example columns per image). Only for "mean".
    level : the interval's coverage, 0 < level < 1.
    n : number of resamplings.
    seed : of the resampling; the same call gives the same interval.
    statistic : "mean", "median", or a function from a 1-D array to a number.

    Returns
    -------
    (value, low, high). With a single image low = high = value: nothing is known about the spread.

    Raises
    ------
    ValueError : empty, not 1-D or non-finite values; weights that do not fit; an unknown statistic.
    """
    values = _vector(values, "values")
    rows = None if weights is None else _vector(weights, "weights")
    if rows is not None:
        if rows.shape != values.shape:
            raise ValueError(f"{values.size} values but {rows.size} weights: give one per value.")
        if (rows < 0).any() or rows.sum() <= 0:
            raise ValueError("weights must not be negative, and must not all be zero.")
        if statistic != "mean":
            raise ValueError('weights are for statistic="mean" only.')

    if statistic == "mean":
        w = np.ones_like(values) if rows is None else rows

        def of(index: np.ndarray) -> np.ndarray:
            total = w[index].sum(-1)
            # a resample of images that all weigh nothing carries no information: leave it out
            return np.where(
                total > 0, (w * values)[index].sum(-1) / np.where(total > 0, total, 1), np.nan
            )
    elif statistic == "median":

        def of(index: np.ndarray) -> np.ndarray:
            return np.median(values[index], axis=-1)
    elif callable(statistic):
        call = statistic

        def of(index: np.ndarray) -> np.ndarray:
            return np.apply_along_axis(call, -1, values[index])
    else:
        raise ValueError(f'statistic {statistic!r}: expected "mean", "median" or a function.')
    return _percentiles(of, values.size, level, n, seed)


def bootstrap_f1(
    counts: np.ndarray, *, level: float = 0.95, n: int = 2000, seed: int = 0
) -> Interval:
    """F1 over all images together, and its interval over resampled images.

    Parameters
    ----------
    counts : (images, 3) true positives, false positives and false negatives of each image.

    Returns
    -------
    (F1, low, high)

    Raises
    ------
    ValueError : another shape, no image, negative counts.
    """
    counts = _counts(counts, "counts")
    return _percentiles(lambda index: f1_score(counts[index].sum(-2)), len(counts), level, n, seed)


def bootstrap_difference(
    counts: np.ndarray,
    other: np.ndarray,
    *,
    level: float = 0.95,
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """F1 of one method minus F1 of another on the same images, resampled in pairs.

    Pairing removes what both share (a hard image is hard for both), so that this is the test of "A
    beats B": two separate intervals that overlap say nothing against it.

    Parameters
    ----------
    counts, other : (images, 3) counts as in `bootstrap_f1`, the same images in the same order.

    Returns
    -------
    (F1 difference, low, high)
    """
    counts, other = _counts(counts, "counts"), _counts(other, "other")
    if counts.shape != other.shape:
        raise ValueError(
            f"{len(counts)} images for the one and {len(other)} for the other: a paired difference "
            "needs the same images in the same order."
        )

    def of(index: np.ndarray) -> np.ndarray:
        return f1_score(counts[index].sum(-2)) - f1_score(other[index].sum(-2))

    return _percentiles(of, len(counts), level, n, seed)


def f1_score(counts: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of counts [..., 3]; 1 where nothing was to find, nothing found."""
    counts = np.asarray(counts, dtype=float)
    total = 2 * counts[..., 0] + counts[..., 1] + counts[..., 2]
    return np.where(total > 0, 2 * counts[..., 0] / np.where(total > 0, total, 1), 1.0)


def _percentiles(
    of: Callable[[np.ndarray], np.ndarray], size: int, level: float, n: int, seed: int
) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level {level}: a coverage between 0 and 1, such as 0.95.")
    if n < 1:
        raise ValueError(f"n {n}: at least one resampling is needed (2000 is usual).")
    value = float(of(np.arange(size)[None])[0])
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // size)
    draws = [of(rng.integers(0, size, (min(block, n - i), size))) for i in range(0, n, block)]
    low, high = np.nanquantile(np.concatenate(draws), [(1 - level) / 2, (1 + level) / 2])
    return value, float(low), float(high)


def _vector(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}: one number per image is needed.")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(
            f"{name}: {bad.size} of {array.size} are not finite, the first is number {bad[0]}. "
            "Leave out the images that have no value, and say how many they were."
        )
    return array


def _counts(counts: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(counts, dtype=float)
    if array.ndim != 2 or array.shape[1] != 3 or len(array) == 0:
        raise ValueError(f"{name} has shape {array.shape}: (images, 3) with TP, FP, FN is needed.")
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"{name} holds negative or non-finite counts.")
    return array
