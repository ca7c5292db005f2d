"""Is a restored image true? Displacements, vacancies, and matter that is no crystal.

The best PSNR is not faithful: a restorer that knows "everything is a lattice" pulls columns onto
it and fills vacancies. On the fields of `restoration_fields`, whose truth is known:

``slope``
    Regression of the measured on the true displacement of the columns: 1 is faithful, 0 a pure
    lattice. The clean image's own slope is below 1, since neighbours overlap: compare with it.
``rms_pm``
    Root mean square of |measured - true displacement|, in pm.
``recall``
    Share of the columns found (within 0.32 of the spacing).
``ghosts``
    Share of vacant sites with a column (within 0.28 of the spacing).
``phantoms``
    Columns in fields that have none, per column that a crystal would have there: peaks of the
    restored image as high as a quarter of a column's whose place in the clean image holds none of
    half that height. The threshold is absolute, since a relative one finds peaks in any noise.
``coverage``
    Share of pixels in the 90 % interval, for restorers that give a standard deviation.

The detector is that of `restoration_scores`, at the threshold 0.1 for all methods. Columns within
14 pixels of the border do not count. Dark-column images are not drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from emjax.evaluation.restoration_fields import Field, counts_of
from emjax.evaluation.restoration_scenes import Restored, Restorer, checked_restored
from emjax.evaluation.restoration_scores import COVERED, Spots, detect_spots, detector_width
from emjax.metrics.calibration import coverage
from emjax.metrics.statistics import Interval, bootstrap_interval

__all__ = [
    "DOSES",
    "FieldScore",
    "measure",
    "restore_fields",
    "summarise_fields",
]

DOSES = (2.0, 10.0, 50.0)
THRESHOLD = 0.1
FOUND, GHOST = 0.32, 0.28
"""Of the spacing."""
PHANTOM = 0.25
"""Of the height of a column."""
MARGIN = 14.0
"""Pixels."""


@dataclass(frozen=True)
class FieldScore:
    """One restored field; None where a number does not apply to it."""

    kind: str
    dose: float
    slope: float | None = None
    rms_pm: float | None = None
    recall: float | None = None
    ghosts: float | None = None
    phantoms: float | None = None
    coverage: float | None = None
    vacancies: int = 0
    """Vacant sites that count: the weight of `ghosts`."""


def measure(restored: Restored, field: Field, dose: float) -> FieldScore:
    """What a restored field has kept of the truth.

    Parameters
    ----------
    restored : in counts.
    field : what it should show.
    dose : counts where the clean image is 1.
    """
    covered = None
    if restored.sigma is not None:
        truth = dose * field.clean
        covered = float(coverage(restored.image, restored.sigma, truth, COVERED))
    image = np.asarray(restored.image, np.float64) / dose
    spots = detect_spots(image, detector_width(field.spacing))
    if len(field.sites) == 0:
        rate = _phantoms(spots, field)
        return FieldScore(field.kind, dose, phantoms=rate, coverage=covered)
    slope, rms, recall, ghosts = _lattice(spots.above(THRESHOLD), field)
    vacancies = int((_inside(field.sites, field) & field.vacant).sum())
    return FieldScore(field.kind, dose, slope, rms, recall, ghosts, None, covered, vacancies)


def restore_fields(
    restorer: Restorer | None,
    fields: Sequence[Field],
    dose: float,
    *,
    name: str = "the restorer",
    progress: Callable[[], None] = lambda: None,
) -> list[FieldScore]:
    """Every field's counts at one dose, restored and measured.

    Parameters
    ----------
    restorer : None gives the clean images' own scores, with which the others are compared.
    name : for messages.
    progress : called after each.
    """
    scores = []
    for index, field in enumerate(fields):
        if restorer is None:
            restored = Restored(dose * field.clean)
        else:
            counts = counts_of(field, dose, index)
            restored = checked_restored(restorer(counts), counts.shape, name)
        scores.append(measure(restored, field, dose))
        progress()
    return scores


def summarise_fields(scores: Iterable[FieldScore]) -> dict[str, dict[str, Interval]]:
    """Kind of field -> score -> (mean, low, high) over its fields; "lattices" holds all lattices.

    The interval is the 95 % bootstrap over fields; `ghosts` is the mean over vacancies. Scores that
    no field has are left out; fields in which nothing was found have no slope and are left out of
    its mean.
    """
    groups: dict[str, list[FieldScore]] = {}
    for score in scores:
        groups.setdefault(score.kind, []).append(score)
        if score.phantoms is None:
            groups.setdefault("lattices", []).append(score)
    names = ("slope", "rms_pm", "recall", "ghosts", "phantoms", "coverage")
    result: dict[str, dict[str, Interval]] = {}
    for kind, group in groups.items():
        result[kind] = {}
        for name in names:
            known = [
                (v, float(s.vacancies))
                for s in group
                if (v := getattr(s, name)) is not None and np.isfinite(v)
            ]
            if known:
                values, weights = zip(*known, strict=True)
                result[kind][name] = bootstrap_interval(
                    values, weights=weights if name == "ghosts" else None
                )
    return result


def _lattice(found: np.ndarray, field: Field) -> tuple[float, float, float, float]:
    """(slope, rms in pm, recall, ghosts); NaN where nothing was found to measure."""
    true = field.sites + field.displacements
    inner = _inside(field.sites, field)
    if len(found) == 0:
        distance, nearest = np.full(len(true), np.inf), np.zeros(len(true), int)
        found = np.zeros((1, 2))
    else:
        distance, nearest = map(np.asarray, KDTree(found).query(true))
    there, vacant = inner & ~field.vacant, inner & field.vacant
    seen = there & (distance < FOUND * field.spacing)
    measured, shift = found[nearest[seen]] - field.sites[seen], field.displacements[seen]
    power = float(np.sum(shift**2))
    slope = float(np.sum(measured * shift)) / power if power > 0 else float("nan")
    nan = float("nan")
    rms = float(np.sqrt(np.mean(np.sum((measured - shift) ** 2, 1)))) if seen.any() else nan
    ghosts = float(np.mean(distance[vacant] < GHOST * field.spacing)) if vacant.any() else nan
    recall = float(seen.sum() / there.sum()) if there.any() else nan
    return slope, 100 * field.sampling * rms, recall, ghosts


def _phantoms(spots: Spots, field: Field) -> float:
    """Peaks that the clean image does not have, per column that a crystal would have."""
    sigma = detector_width(field.spacing)
    # response of the detector to one Gaussian column of height `unit`
    column = 2 * field.unit * (sigma * field.width / (sigma**2 + field.width**2)) ** 2
    high = spots.xy[spots.response > PHANTOM * column]
    high = high[_inside(high, field)]
    own = detect_spots(field.clean, sigma)
    true = own.xy[own.response > PHANTOM / 2 * column]
    if len(high) and len(true):
        high = high[KDTree(true).query(high)[0] > GHOST * field.spacing]
    area = np.prod(np.array(field.clean.shape) - 2 * MARGIN)
    return float(len(high) * field.spacing**2 / area)


def _inside(xy: np.ndarray, field: Field) -> np.ndarray:
    size = np.array(field.clean.shape[::-1])
    return np.all((xy > MARGIN) & (xy < size - MARGIN), axis=1)
