"""How good a restored image is: grey values, structure, columns and their intensities.

Images are compared in units of the clean one (1 at its maximum). `psnr`, `ssim` and `intensity`
are taken after the one gain and offset of least squares against the truth, `psnr_raw` without.

**Columns** are found by one detector for every method: the Laplacian of Gaussian at a quarter of
the true spacing (10th percentile of the distances to the nearest neighbour), clipped to 1.2 to 6
pixels; its local maxima above a threshold, a fraction of the response's 99th percentile; sub-pixel
by a 3 × 3 quadratic. Its threshold is one number per method and level, chosen on development
scenes for the best strict F1 and frozen for all others (`choose_threshold`). A column is found
within half the spacing, at most 0.7 Å (`f1`, `error_pm`), strictly within a fifth of it
(`f1_strict`); one to one; 8 pixels along the border do not count.

**Intensity** of a column: sum of polarity · (image - b) over the pixels within half the spacing of
its true place, b being the clean image's level between columns (the 5th percentile of polarity ·
clean). `intensity` is the root mean square error over the columns of a scene, relative to their
mean intensity; `intensity_median` the median of each column's own relative error; `intensity_raw`
as `intensity`, without the fit (which takes contrast from an image as noise is added to it).
Columns whose disc leaves the image do not count.

**Coverage**: share of pixels whose true expectation lies within the 90 % interval, image ± 1.645
sigma, without any fit; for restorers that give a sigma.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.spatial import KDTree

from emjax.baselines.log_detector import response_map
from emjax.baselines.restoration import fit_affine
from emjax.evaluation.restoration_scenes import RestorationScene, Restored, dose_of
from emjax.metrics.calibration import coverage
from emjax.metrics.image_quality import psnr, ssim
from emjax.metrics.matching import match_points
from emjax.metrics.statistics import Interval, bootstrap_interval

__all__ = [
    "LEVEL_SCORES",
    "MARGIN",
    "THRESHOLDS",
    "Detections",
    "LevelScore",
    "SceneScore",
    "Spots",
    "choose_threshold",
    "detect_spots",
    "detector_width",
    "intensities",
    "match_counts",
    "score_scene",
    "spacing_of",
    "summarise",
]

THRESHOLDS = (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""What a detector's threshold is chosen from."""
MARGIN = 8.0
"""Columns this near to the border [px] do not count, true or found."""
COVERED = 0.9
LEVEL_SCORES = (
    "psnr",
    "psnr_raw",
    "ssim",
    "intensity",
    "intensity_median",
    "intensity_raw",
    "coverage",
    "f1",
    "f1_strict",
    "precision",
    "recall",
    "error_pm",
)
"""What `LevelScore.values` may hold; the last five with a threshold alone."""


@dataclass(frozen=True, eq=False)
class Spots:
    """Local maxima of the detector's response."""

    xy: np.ndarray
    """(n, 2) (x, y) in pixels."""
    response: np.ndarray
    """(n,) in grey values of the image (scale-normalised)."""
    reference: float
    """The response's 99th percentile."""

    def above(self, threshold: float) -> np.ndarray:
        """Those above a fraction of the reference, (m, 2)."""
        return self.xy[self.response > threshold * self.reference]


@dataclass(frozen=True)
class Detections:
    """Columns of one image at one threshold."""

    loose: tuple[int, int, int]
    """True positives, false positives, false negatives."""
    strict: tuple[int, int, int]
    error_pm: float
    """Mean distance of the loose pairs; NaN where there are none."""


@dataclass(frozen=True)
class SceneScore:
    """One restored image."""

    scene: str
    level: str
    psnr: float
    psnr_raw: float
    ssim: float
    intensity: float
    intensity_median: float
    intensity_raw: float
    coverage: float | None
    detections: dict[float, Detections]
    """By threshold."""
    seconds: float | None = None


@dataclass(frozen=True)
class LevelScore:
    """One method at one level, over scenes."""

    level: str
    scenes: int
    threshold: float | None
    values: dict[str, Interval]
    """Name -> (value, low, high): the mean over scenes and the 95 % bootstrap interval over
    scenes. `error_pm` is the mean over columns."""


def spacing_of(xy: np.ndarray) -> float:
    """10th percentile of the distances to the nearest neighbour, in pixels."""
    return float(np.percentile(KDTree(xy).query(xy, 2)[0][:, 1], 10))


def detector_width(spacing: float) -> float:
    """The Laplacian of Gaussian's sigma for columns this far apart, in pixels."""
    return float(np.clip(spacing / 4, 1.2, 6.0))


def detect_spots(image: np.ndarray, sigma: float, polarity: int = 1) -> Spots:
    """All local maxima of the Laplacian of Gaussian (none on the image's outermost pixels).

    Parameters
    ----------
    image : (y, x) in any unit.
    sigma : pixels; a maximum is the largest value within 1.1 sigma (rounded) along each axis.
    polarity : -1 where columns are dark.
    """
    image = polarity * np.asarray(image, np.float64)
    # the sampled kernel does not quite sum to zero: without its mean, an offset changes nothing
    response = response_map(image - image.mean(), np.full(2, sigma))
    reach = max(1, round(1.1 * sigma))
    peak = response == maximum_filter(response, 2 * reach + 1)
    peak[[0, -1]] = peak[:, [0, -1]] = False
    # flat areas are all maxima and none
    peak &= response > 1e-9 * max(float(np.abs(image).max()), 1e-30)
    row, column = np.nonzero(peak)
    around = {(v, u): response[row + v, column + u] for v in (-1, 0, 1) for u in (-1, 0, 1)}
    gy = (around[1, 0] - around[-1, 0]) / 2
    gx = (around[0, 1] - around[0, -1]) / 2
    hyy = around[1, 0] - 2 * around[0, 0] + around[-1, 0]
    hxx = around[0, 1] - 2 * around[0, 0] + around[0, -1]
    hxy = (around[1, 1] - around[1, -1] - around[-1, 1] + around[-1, -1]) / 4
    determinant = hyy * hxx - hxy**2
    curved = determinant > 0
    scale = np.where(curved, determinant, 1.0)
    dy = np.where(curved, (hxy * gx - hxx * gy) / scale, 0.0)
    dx = np.where(curved, (hxy * gy - hyy * gx) / scale, 0.0)
    xy = np.stack([column + np.clip(dx, -0.8, 0.8), row + np.clip(dy, -0.8, 0.8)], axis=1)
    return Spots(xy, around[0, 0], float(np.percentile(response, 99)))


def match_counts(
    found: np.ndarray, true: np.ndarray, radius: float, shape: tuple[int, ...]
) -> tuple[tuple[int, int, int], np.ndarray]:
    """(true positives, false positives, false negatives) and the true positives' distances.

    All points are paired; then those in the margin are left out: pairs by their true column,
    points without a partner by their own place.
    """
    matches = match_points(found, true, radius)
    inner_found, inner_true = _inside(found, shape), _inside(true, shape)
    i, j = matches.pairs.T
    alone, missed = inner_found.copy(), inner_true.copy()
    alone[i], missed[j] = False, False
    counted = inner_true[j]
    return (int(counted.sum()), int(alone.sum()), int(missed.sum())), matches.distances[counted]


def intensities(image: np.ndarray, scene: RestorationScene) -> np.ndarray:
    """(n,) integrated intensity of the columns, NaN where the disc leaves the image.

    Parameters
    ----------
    image : (y, x) in units of the clean image.
    """
    radius = spacing_of(scene.xy) / 2
    ground = float(np.percentile(scene.polarity * scene.clean, 5))
    contrast = scene.polarity * np.asarray(image, np.float64) - ground
    inside = _inside(scene.xy, contrast.shape, max(MARGIN, radius))
    result = np.full(len(scene.xy), np.nan)
    reach = int(np.ceil(radius)) + 1
    v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    x, y = scene.xy[inside].T
    row, column = np.rint(y).astype(int)[:, None] + v, np.rint(x).astype(int)[:, None] + u
    disc = (row - y[:, None]) ** 2 + (column - x[:, None]) ** 2 <= radius**2
    row, column = (np.clip(a, 0, n - 1) for a, n in zip((row, column), contrast.shape, strict=True))
    result[inside] = np.where(disc, contrast[row, column], 0).sum(1)
    return result


def score_scene(
    restored: Restored,
    scene: RestorationScene,
    level: str,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    columns: bool = True,
) -> SceneScore:
    """All scores of one restored image.

    Parameters
    ----------
    restored : in counts; it is divided by the level's dose.
    thresholds : the detector's, each scored by itself.
    columns : False leaves the detector out (`detections` is empty).
    """
    dose = dose_of(level)
    image = np.asarray(restored.image, np.float64) / dose
    fitted = fit_affine(image, scene.clean)
    true = intensities(scene.clean, scene)
    error, relative = _relative(intensities(fitted, scene), true)
    return SceneScore(
        scene.name,
        level,
        psnr(fitted, scene.clean, data_range=1.0),
        psnr(image, scene.clean, data_range=1.0),
        ssim(fitted, scene.clean, data_range=1.0),
        error,
        relative,
        _relative(intensities(image, scene), true)[0],
        None
        if restored.sigma is None
        else float(coverage(restored.image, restored.sigma, dose * scene.clean, COVERED)),
        _detections(image, scene, thresholds) if columns else {},
        restored.seconds,
    )


def choose_threshold(scores: Sequence[SceneScore]) -> float:
    """The threshold with the best mean strict F1 over scenes of one level; the lowest of equals."""
    tried = sorted(scores[0].detections)
    values = [np.mean([_f1(s.detections[t].strict) for s in scores]) for t in tried]
    return tried[int(np.argmax(values))]


def summarise(scores: Sequence[SceneScore], threshold: float | None = None) -> LevelScore:
    """Means over scenes of one level, with intervals; columns if there is a threshold.

    Raises
    ------
    ValueError : no scores, scores of several levels, or a threshold that was not scored.
    """
    levels = {s.level for s in scores}
    if len(levels) != 1:
        raise ValueError(f"scores of one level are needed, these are of {sorted(levels)}")
    values: dict[str, Interval] = {}
    for name in ("psnr", "psnr_raw", "ssim", "intensity", "intensity_median", "intensity_raw"):
        values[name] = _interval([getattr(s, name) for s in scores])
    covered = [s.coverage for s in scores if s.coverage is not None]
    if len(covered) == len(scores):
        values["coverage"] = _interval(covered)
    if threshold is not None:
        if any(threshold not in s.detections for s in scores):
            raise ValueError(f"the threshold {threshold} was not scored: choose from {THRESHOLDS}")
        found = [s.detections[threshold] for s in scores]
        values["f1"] = _interval([_f1(d.loose) for d in found])
        values["f1_strict"] = _interval([_f1(d.strict) for d in found])
        values["precision"] = _interval([d.loose[0] / max(sum(d.loose[:2]), 1) for d in found])
        values["recall"] = _interval([d.loose[0] / max(d.loose[0] + d.loose[2], 1) for d in found])
        pairs = [d for d in found if d.loose[0]]
        values["error_pm"] = _interval(
            [d.error_pm for d in pairs], [float(d.loose[0]) for d in pairs]
        )
    return LevelScore(scores[0].level, len(scores), threshold, values)


def _detections(
    image: np.ndarray, scene: RestorationScene, thresholds: Sequence[float]
) -> dict[float, Detections]:
    spacing = spacing_of(scene.xy)
    spots = detect_spots(image, detector_width(spacing), scene.polarity)
    loose_radius = min(spacing / 2, 0.7 / scene.sampling)
    result = {}
    for threshold in thresholds:
        xy = spots.above(threshold)
        loose, distances = match_counts(xy, scene.xy, loose_radius, image.shape)
        strict, _ = match_counts(xy, scene.xy, spacing / 5, image.shape)
        mean = float(distances.mean()) if len(distances) else float("nan")
        result[threshold] = Detections(loose, strict, 100 * scene.sampling * mean)
    return result


def _relative(seen: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Root mean square error over the mean, and median relative error; NaN without columns."""
    kept = np.isfinite(true)
    if not kept.any() or true[kept].mean() == 0:
        return float("nan"), float("nan")
    error, true = (seen - true)[kept], true[kept]
    median = np.median(np.abs(error) / np.maximum(np.abs(true), 1e-12))
    return float(np.sqrt(np.mean(error**2)) / abs(true.mean())), float(median)


def _inside(xy: np.ndarray, shape: tuple[int, ...], margin: float = MARGIN) -> np.ndarray:
    last = np.array([shape[1] - 1, shape[0] - 1])
    return np.all((xy >= margin) & (xy <= last - margin), axis=1)


def _f1(counts: tuple[int, int, int]) -> float:
    total = 2 * counts[0] + counts[1] + counts[2]
    return 2 * counts[0] / total if total else 1.0


def _interval(values: Sequence[float], weights: Sequence[float] | None = None) -> Interval:
    """Of finite values; without them (a perfect image has an infinite PSNR) the mean alone."""
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan")
    if not np.isfinite(values).all():
        return float(np.mean(values)), float("nan"), float("nan")
    return bootstrap_interval(values, weights=weights)
