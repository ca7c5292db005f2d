"""Segmentations as partitions: were regions split, were they merged? Label values mean nothing.

p_ij is the share of pixels with label i in the prediction S and j in the truth T, s_i and t_j its
sums. *Split* scores fall when one true segment is cut in pieces, *merge* scores when two become
one. The Rand score of splits divides by the TRUTH's Σt², the information score of splits by the
PREDICTION's H(S): that is no misprint, both fall to the same cause.

Source: Arganda-Carreras et al., Frontiers in Neuroanatomy 9:142 (2015), whose α weights merge:
F is the harmonic mean with weight α on merge and 1 - α on split. Competitions count pixels in their
own ways: see `segment_variants`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from emjax.metrics.arrays import Array, divide, labels_of, module_of, pair_table, same_shape

__all__ = [
    "Overlaps",
    "SplitMerge",
    "entropy",
    "information_scores",
    "rand_scores",
    "segment_overlaps",
    "variation_of_information",
]


class SplitMerge(NamedTuple):
    """A score of splits, one of merges, and their weighted harmonic mean F; 1 is perfect."""

    split: Any
    merge: Any
    f: Any


class Overlaps(NamedTuple):
    """The joint distribution of labels: `p` (its cells, of any shape), `s` and `t` its sums.

    `pixels` is the number of pixels counted.
    """

    p: Any
    s: Any
    t: Any
    pixels: Any


def segment_overlaps(
    prediction: Array,
    truth: Array,
    *,
    ignore: int | None = None,
    labels: tuple[int, int] | None = None,
) -> Overlaps:
    """p_ij, s_i and t_j of two label images of any shape.

    Parameters
    ----------
    prediction, truth : whole numbers; connected or not, the label alone says what is one segment.
    ignore : pixels where the TRUTH has this label are left out (0: background, borders).
    labels : (prediction, truth) numbers of labels, needed for JAX arrays: labels are then
        0 to n - 1 and others are left out. Memory grows as pixels × (n + m).

    Raises
    ------
    ValueError : shapes that differ, JAX arrays without `labels`; in NumPy also labels that are not
        whole, and nothing left to count (JAX: NaN).
    """
    same_shape(prediction, truth)
    xp = module_of(prediction, truth)
    if xp is np:
        pred = labels_of(prediction, "prediction").reshape(-1)
        true = labels_of(truth, "truth").reshape(-1)
        if ignore is not None:
            pred, true = pred[true != ignore], true[true != ignore]
        if true.size == 0:
            raise ValueError(f"no pixel of the truth is left without label {ignore}.")
        _, i = np.unique(pred, return_inverse=True)
        _, j = np.unique(true, return_inverse=True)
        # only the cells that occur: a volume has 1e5 segments, the full table would not fit
        _, cells = np.unique(i * (j.max() + 1) + j, return_counts=True)
        n = true.size
        return Overlaps(cells / n, np.bincount(i) / n, np.bincount(j) / n, n)
    if labels is None:
        raise ValueError("JAX arrays need labels=(n, m): how many labels each side may have.")
    pred, true = xp.asarray(prediction), xp.asarray(truth)
    if ignore is not None:
        true = xp.where(true == ignore, -1, true.astype(int))
    table = pair_table(xp, pred, true, *labels)
    n = table.sum()
    # sums of counts, not of shares: the share of a lone segment must be exactly 1
    return Overlaps(table / n, table.sum(1) / n, table.sum(0) / n, n)


def rand_scores(
    prediction: Array,
    truth: Array,
    *,
    alpha: float = 0.5,
    ignore: int | None = None,
    labels: tuple[int, int] | None = None,
) -> SplitMerge:
    """Rand split Σp²/Σt², merge Σp²/Σs², and F = Σp² / (α Σs² + (1 - α) Σt²).

    Parameters
    ----------
    prediction, truth, ignore, labels : as in `segment_overlaps`.
    alpha : weight of merge in F, 0 to 1.
    """
    _check_alpha(alpha)
    p, s, t, _ = segment_overlaps(prediction, truth, ignore=ignore, labels=labels)
    together, pred, true = ((v**2).sum() for v in (p, s, t))
    split, merge = together / true, together / pred
    return SplitMerge(split, merge, together / (alpha * pred + (1 - alpha) * true))


def information_scores(
    prediction: Array,
    truth: Array,
    *,
    alpha: float = 0.5,
    ignore: int | None = None,
    labels: tuple[int, int] | None = None,
) -> SplitMerge:
    """Information split I/H(S), merge I/H(T), and F = I / ((1 - α) H(S) + α H(T)).

    I = Σ p ln p - Σ s ln s - Σ t ln t. A prediction of one segment has H(S) = 0: nothing was
    split, so split is 1 and F is 0; likewise merge is 1 for a truth of one segment. Both: all 1.

    Parameters
    ----------
    prediction, truth, ignore, labels : as in `segment_overlaps`.
    alpha : weight of merge in F, 0 to 1.
    """
    _check_alpha(alpha)
    p, s, t, _ = segment_overlaps(prediction, truth, ignore=ignore, labels=labels)
    xp = module_of(p)
    hp, hs, ht = entropy(p), entropy(s), entropy(t)
    # rounding leaves 1e-8 where nothing is shared; a share below that is none
    shared = xp.maximum(hs + ht - hp, 0.0)
    split, merge = divide(xp, shared, hs, 1.0), divide(xp, shared, ht, 1.0)
    f = divide(xp, shared, (1 - alpha) * hs + alpha * ht, 1.0)
    # one segment against many: whatever α, nothing was learnt
    one = ((hs == 0) & (ht > 0)) | ((ht == 0) & (hs > 0))
    f = xp.where(one, 0.0, f)
    return SplitMerge(split, merge, float(f) if xp is np else f)


def variation_of_information(
    prediction: Array,
    truth: Array,
    *,
    ignore: int | None = None,
    labels: tuple[int, int] | None = None,
) -> SplitMerge:
    """(H(S|T), H(T|S), their sum) in BITS; 0 is perfect, unlike the scores above. (Meila 2007.)

    H(S|T): uncertainty of the prediction where the truth is known, the splits; H(T|S): the merges.
    """
    p, s, t, _ = segment_overlaps(prediction, truth, ignore=ignore, labels=labels)
    xp = module_of(p)
    bits = 1 / np.log(2)
    hp = entropy(p)
    split = xp.maximum(hp - entropy(t), 0.0) * bits
    merge = xp.maximum(hp - entropy(s), 0.0) * bits
    return SplitMerge(split, merge, split + merge)


def entropy(shares: Array) -> Array:
    """-Σ p ln p in nats, with 0 ln 0 = 0. (The review's formula lost its "= -".)"""
    xp = module_of(shares)
    shares = xp.asarray(shares)
    # + 0.0 turns the -0.0 of a single segment into 0
    return -(shares * xp.log(xp.where(shares > 0, shares, 1.0))).sum() + 0.0


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha}: the weight of merge lies between 0 and 1.")
