"""Do stated probabilities and error bars hold? Calibration is honesty, not skill.

A prediction of nothing but the classes' frequencies is perfectly calibrated and useless: report
accuracy, Brier score or likelihood beside it. The expected calibration error also depends on the
bins and is biased upwards for few samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from emjax.metrics.arrays import Array, divide, labels_of, module_of, numbers, root, same_shape

__all__ = [
    "Reliability",
    "brier_score",
    "calibration_error",
    "coverage",
    "interval_calibration_error",
    "reliability",
    "standardised_spread",
    "top_label",
]


class Reliability(NamedTuple):
    """A reliability diagram: [bins] mean stated probability, share that was right, samples.

    NaN in bins without samples.
    """

    stated: Any
    observed: Any
    count: Any


def top_label(probabilities: Array, truth: Array) -> tuple[Array, Array]:
    """(confidence, correct): of probabilities [..., k] and labels [...], the winner's.

    Raises
    ------
    ValueError : shapes that do not fit; in NumPy also labels outside the classes, and rows that do
        not sum to 1 (logits, or sigmoids of several labels: use `reliability` for each).
    """
    if np.ndim(probabilities) < 1 or np.shape(probabilities)[:-1] != np.shape(truth):
        raise ValueError(
            f"probabilities {np.shape(probabilities)} and labels {np.shape(truth)}: [..., classes] "
            "and [...] are needed."
        )
    xp = module_of(probabilities, truth)
    p = xp.asarray(probabilities)
    if xp is np:
        _check_rows(p)
        t = labels_of(truth, "truth", count=p.shape[-1])
    else:
        t = xp.asarray(truth)
    # argmax takes NaN for the largest: a network that gives NaN would be right about class 0
    return p.max(-1), (p.argmax(-1) == t) & ~xp.isnan(p).any(-1)


def reliability(
    stated: Array, occurred: Array, *, bins: int = 15, equal_counts: bool = False
) -> Reliability:
    """Stated probability against frequency, in bins.

    Parameters
    ----------
    stated : probabilities of an event, 0 to 1, any shape (see `top_label` for classes).
    occurred : whether it did, bool, of that shape.
    bins : number of bins: [0, 1/bins), …, the last with 1.
    equal_counts : bins with as many samples each (adaptive), by rank; else of equal width.
    """
    same_shape(stated, occurred, ("stated", "occurred"))
    if bins < 1:
        raise ValueError(f"bins {bins}: at least one.")
    xp, p, y = numbers(stated, occurred, names=("stated", "occurred"))
    p, y = p.reshape(-1), y.reshape(-1)
    if xp is np and p.size and (p.min() < 0 or p.max() > 1):
        raise ValueError(
            f"probabilities from {p.min():.3g} to {p.max():.3g}: they lie between 0 and 1. Logits "
            "need a sigmoid or softmax first."
        )
    if xp is np and p.size and (y.min() < 0 or y.max() > 1):
        raise ValueError(
            f"occurred: values from {y.min():g} to {y.max():g}, where an event did (1) or did not "
            "(0) occur. Of classes, `top_label` makes these."
        )
    if equal_counts:
        order = xp.argsort(p)
        p, y = p[order], y[order]
        index = xp.asarray(np.arange(p.size) * bins // max(p.size, 1))
    else:
        index = xp.clip(xp.floor(p * bins).astype(int), 0, bins - 1)
    inside = (index[None, :] == xp.arange(bins)[:, None]).astype(p.dtype)
    count = inside.sum(1)
    # elementwise, not a matrix product: on accelerators that would round to fewer digits
    stated_mean = (inside * p[None, :]).sum(1)
    observed = (inside * y[None, :]).sum(1)
    return Reliability(divide(xp, stated_mean, count), divide(xp, observed, count), count)


def calibration_error(
    stated: Array,
    occurred: Array,
    *,
    bins: int = 15,
    equal_counts: bool = False,
    worst: bool = False,
) -> Array:
    """Expected calibration error Σ (n_b / n) |observed - stated|, 0 to 1 (Naeini 2015, Guo 2017).

    Parameters
    ----------
    stated, occurred, bins, equal_counts : as in `reliability`.
    worst : the largest bin's gap instead (maximum calibration error).
    """
    table = reliability(stated, occurred, bins=bins, equal_counts=equal_counts)
    xp = module_of(*table)
    some = table.count > 0
    gap = xp.where(some, xp.abs(xp.where(some, table.observed - table.stated, 0.0)), 0.0)
    if worst:
        return gap.max()
    return divide(xp, (gap * table.count).sum(), table.count.sum())


def brier_score(probabilities: Array, truth: Array) -> Array:
    """Mean of Σ_k (p_k - [truth = k])², 0 to 2 (Brier 1950): twice the form for two classes alone.

    Parameters
    ----------
    probabilities : [..., k]; truth : labels [...].
    """
    if np.shape(probabilities)[:-1] != np.shape(truth):
        raise ValueError(
            f"probabilities {np.shape(probabilities)} and labels {np.shape(truth)} do not fit."
        )
    xp = module_of(probabilities, truth)
    t = labels_of(truth, "truth", count=np.shape(probabilities)[-1]) if xp is np else truth
    _, p = numbers(probabilities, names=("probabilities",)) if xp is np else (xp, probabilities)
    p = xp.asarray(p)
    hot = xp.asarray(t)[..., None] == xp.arange(p.shape[-1]).reshape((1,) * (p.ndim - 1) + (-1,))
    score = ((p - hot.astype(p.dtype)) ** 2).sum(-1).mean()
    return float(score) if xp is np else score


def coverage(prediction: Array, sigma: Array, truth: Array, level: float = 0.95) -> Array:
    """Share of truths inside prediction ± z sigma, the central Gaussian interval of that level."""
    if not 0 < level < 1:
        raise ValueError(f"level {level}: a coverage between 0 and 1, such as 0.95.")
    same_shape(prediction, truth)
    xp, p, s, t = _with_sigma(prediction, sigma, truth)
    z = NormalDist().inv_cdf((1 + level) / 2)
    return (xp.abs(t - p) <= z * s).mean() + 0.0


def interval_calibration_error(
    prediction: Array,
    sigma: Array,
    truth: Array,
    levels: Sequence[float] = tuple(i / 10 for i in range(1, 10)),
) -> Array:
    """Mean of |coverage - level| over levels: 0 for honest Gaussian error bars (Kuleshov 2018)."""
    gaps = [abs(coverage(prediction, sigma, truth, level) - level) for level in levels]
    return sum(gaps) / len(gaps)


def standardised_spread(prediction: Array, sigma: Array, truth: Array) -> Array:
    """Root mean square of (truth - prediction) / sigma: 1 if honest, above 1 if overconfident."""
    same_shape(prediction, truth)
    xp, p, s, t = _with_sigma(prediction, sigma, truth)
    return root(xp, (((t - p) / s) ** 2).mean())


def _with_sigma(prediction: Array, sigma: Array, truth: Array) -> tuple[Any, Any, Any, Any]:
    if np.ndim(sigma) and np.shape(sigma) != np.shape(truth):
        raise ValueError(f"sigma {np.shape(sigma)} for {np.shape(truth)} values: one, or one each.")
    xp, p, s, t = numbers(prediction, sigma, truth, names=("prediction", "sigma", "truth"))
    if xp is np and (s <= 0).any():
        raise ValueError("sigma must be positive everywhere: it is a standard deviation.")
    return xp, p, s, t


def _check_rows(p: np.ndarray) -> None:
    if not np.isfinite(p).all() or (p < 0).any() or (np.abs(p.sum(-1) - 1) > 1e-3).any():
        raise ValueError(
            "each row of probabilities must be >= 0 and sum to 1: apply a softmax to logits; "
            "labels that do not exclude each other are judged one by one with `reliability`."
        )
