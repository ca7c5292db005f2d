"""Rand scores as competitions and libraries count them: same idea, other numbers.

============  ===============  ===========================  ================  ====================
              truth's label 0  prediction's label 0         pairs             reported
============  ===============  ===========================  ================  ====================
rand_scores   a segment        a segment                    with replacement  split, merge, F
isbi2012      left out         to the nearest segment       with replacement  split, merge, F
snemi3d       left out         every pixel its own segment  with replacement  error 1 - F
adapted_rand  left out         a segment                    without           error 1 - F
============  ===============  ===========================  ================  ====================

NumPy only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt

from emjax.metrics.arrays import Array, labels_of, same_shape
from emjax.metrics.segments import SplitMerge, information_scores, rand_scores, segment_overlaps

__all__ = ["RandError", "adapted_rand", "isbi2012", "snemi3d", "thin_borders"]


class RandError(NamedTuple):
    """Error 1 - F (0 is perfect) with the split and merge scores behind it (1 is perfect)."""

    error: float
    split: float
    merge: float


def isbi2012(
    prediction: Array, truth: Array, *, alpha: float = 0.5
) -> tuple[SplitMerge, SplitMerge]:
    """(Rand, information) scores after border thinning, restricted to the truth's foreground.

    The final scores of the ISBI 2012 challenge (serial-section TEM of the Drosophila ventral nerve
    cord): borders are given to their nearest segment first, so that the width of a predicted
    membrane does not count, and pixels where the truth has label 0 are left out. The challenge
    reported the best F over all thresholds of a membrane map: call this for each and keep the
    best on a validation set. (Arganda-Carreras 2015.)
    """
    thinned = thin_borders(prediction)
    return (
        rand_scores(thinned, truth, alpha=alpha, ignore=0),
        information_scores(thinned, truth, alpha=alpha, ignore=0),
    )


def thin_borders(labels: Array) -> np.ndarray:
    """Label 0 replaced by the nearest other label (Euclidean); all-zero images stay.

    The challenge's own script may differ by a pixel along borders.
    """
    array = labels_of(labels, "labels")
    if not (array == 0).any() or not array.any():
        return array
    nearest = distance_transform_edt(array == 0, return_distances=False, return_indices=True)
    return array[tuple(np.asarray(nearest))]


def snemi3d(prediction: Array, truth: Array) -> RandError:
    """The SNEMI3D challenge's adapted Rand error.

    Truth 0 is left out, and every pixel that the prediction calls 0 is a segment of its own. Code
    that counts pixels but adds (their number) / n for these singletons, as ports do, mixes counts
    with shares; here each adds one pair with itself, as the definition says.
    """
    same_shape(prediction, truth)
    pred, true = labels_of(prediction, "prediction"), labels_of(truth, "truth")
    counted = true != 0
    pred, true = pred[counted], true[counted]
    if true.size == 0:
        raise ValueError("no pixel of the truth is left without label 0.")
    alone = pred == 0
    pred = np.where(alone, pred.max() + 1 + np.arange(pred.size), pred)
    split, merge, f = rand_scores(pred, true)
    return RandError(1 - f, split, merge)


def adapted_rand(
    prediction: Array, truth: Array, *, alpha: float = 0.5, ignore: int | None = 0
) -> RandError:
    """Adapted Rand error over pairs of DIFFERENT pixels, as scikit-image counts them.

    scikit-image's `adapted_rand_error(truth, prediction)` returns (error, precision, recall) where
    its "precision" is the split and its "recall" the merge score here, the other way round than
    its text (and the paper) say; its alpha weights the truth, so it is 1 - alpha of the paper's.
    At alpha = 0.5 the errors are equal.

    Parameters
    ----------
    alpha : weight of merge, as in the paper.
    ignore : the truth's label that is left out; None: no label.

    Raises
    ------
    ValueError : as `segment_overlaps`; an alpha outside 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha}: the weight of merge lies between 0 and 1.")
    p, s, t, n = segment_overlaps(np.asarray(prediction), np.asarray(truth), ignore=ignore)
    # ordered pairs of two pixels: Σ c² - n; single pixels have none
    together, pred, true = (float(n * (v**2).sum() - 1) for v in (p, s, t))
    together = max(together, 0.0)

    def share(pairs: float) -> float:
        return together / pairs if pairs > 1e-12 else 1.0

    f = share(alpha * pred + (1 - alpha) * true)
    return RandError(1 - f, share(true), share(pred))
