"""Atom columns without a network: multi-scale Laplacian of Gaussian, 2-D Gaussian fit, height cuts.

This is what a careful microscopist does by hand: blobs are maxima of the Laplacian of Gaussian over
position and scale, each is refined by a joint Gaussian fit that subtracts its neighbours
(`emjax.analysis.gaussian_fit`), and the species follow from cuts on the fitted heights, relative
to the image's own bright columns (`log_detector`). `tune` chooses all of it on validation images
of one image class (one specimen, pixel size and dose range) for the best class-aware F1, so that
a network is compared with the best that the method can do and not with its defaults.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from emjax.baselines.log_detector import (
    LogParameters,
    Sampling,
    classify_by_height,
    detect,
    log_columns,
    measure,
    peaks,
    pixel_size,
    relative_feature,
    response_map,
)
from emjax.metrics.detection import column_spacing, match_points, points_of

__all__ = ["Grid", "LogParameters", "classify_by_height", "detect", "log_columns", "tune"]


@dataclass(frozen=True)
class Grid:
    """What `tune` tries; lengths are fractions of the column spacing of the validation truth."""

    sigmas: tuple[float, ...] = (0.11, 0.14, 0.18, 0.22, 0.28, 0.35, 0.43)
    """Scales: each alone, and runs of two and three neighbours."""
    thresholds: tuple[float, ...] = (0.05, 0.08, 0.12, 0.17, 0.23, 0.3, 0.4, 0.5, 0.6, 0.7)
    min_distances: tuple[float, ...] = (0.4, 0.55, 0.7)
    percentiles: tuple[float, ...] = (50.0, 75.0, 90.0)
    candidates: int = 4
    """Settings of the fast first stage that go through the fit and the cuts."""


def tune(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    sampling: Sampling | Sequence[Sampling],
    grid: Grid | None = None,
    *,
    radius_px: float | Sequence[float] | None = None,
    margin: float | Sequence[float] = 0.0,
) -> LogParameters:
    """The best setting for one image class, on validation images with known columns.

    First stage: every scale set, distance and threshold, scored without classes at the response's
    maxima, within the radius and within twice the radius (the fit may still bring a blob in).
    Second stage: the best few of both, with the Gaussian fit, its positions or the maxima's, the
    two features, every reference percentile, and cuts by coordinate ascent.

    Parameters
    ----------
    images : (y, x) each.
    truths : the columns of each: structured arrays with `x`, `y`, `species`, or (n, 3); in pixels.
    sampling : Å per pixel: a number or a tuple (y, x) for all images, or a list with one for each.
    grid : what is tried.
    radius_px : matching radius, for all or for each; a fifth of each image's column spacing if
        None.
    margin : columns closer than this to the border (pixels) are ignored, as in `match_points`;
        for all or for each. (The first stage, which only picks candidates, counts them.)

    Returns
    -------
    LogParameters with its F1 on these images.

    Raises
    ------
    ValueError : no images, lists of different lengths, or no column in any truth.
    """
    grid = grid or Grid()
    scenes = _scenes(images, truths, sampling, radius_px, margin)
    best = LogParameters(f1=-1.0)
    for setting in _first_stage(scenes, grid):
        measured = [_apply(s, setting) for s in scenes]
        for refine in (True, False):
            sample = _Sample(scenes, measured, refine)
            for feature, percentile in itertools.product(("height", "integral"), grid.percentiles):
                low, cuts, order, f1 = sample.cut(feature, percentile)
                if f1 > best.f1 + 1e-9:
                    best = replace(
                        setting,
                        refine=refine,
                        feature=feature,
                        percentile=percentile,
                        min_height=low,
                        cuts=cuts,
                        order=order,
                        f1=f1,
                    )
    return best


@dataclass
class _Scene:
    """One validation image; responses are kept, since the scale sets share them."""

    image: np.ndarray
    xy: np.ndarray
    species: np.ndarray
    pixel: np.ndarray
    radius: float
    spacing: float  # Å
    margin: float
    responses: dict[float, np.ndarray]

    def response(self, sigmas_A: tuple[float, ...]) -> np.ndarray:
        for s in sigmas_A:
            if s not in self.responses:
                self.responses[s] = response_map(self.image, s / self.pixel)
        return np.max([self.responses[s] for s in sigmas_A], axis=0)

    def peaks(self, p: LogParameters) -> tuple[np.ndarray, np.ndarray]:
        distance = p.min_distance_A / float(self.pixel.mean())
        return peaks(self.response(p.sigmas_A), p.threshold, distance)


def _scenes(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    sampling: Sampling | Sequence[Sampling],
    radius_px: float | Sequence[float] | None,
    margin: float | Sequence[float],
) -> list[_Scene]:
    """The validation images with what the search needs to know of each."""
    n = len(images)
    if n == 0 or len(truths) != n:
        raise ValueError(f"{n} images and {len(truths)} truths: one truth per image, at least one.")
    # a tuple of two is (y, x) of all images; every other sequence holds one pixel size per image
    one = np.ndim(sampling) == 0 or (isinstance(sampling, tuple) and np.shape(sampling) == (2,))
    samplings: list = [sampling] * n if one else list(sampling)  # type: ignore[arg-type]
    if len(samplings) != n:
        raise ValueError(
            f"{n} images and {len(samplings)} pixel sizes: give one, or one per image."
        )
    points = [points_of(t, fitted=False) for t in truths]
    if not any(len(xy) for xy, _ in points):
        raise ValueError("no column in any truth: there is nothing to tune on.")
    spacings = np.array([column_spacing(xy) for xy, _ in points])
    usual = float(np.nanmedian(spacings)) if np.isfinite(spacings).any() else 10.0
    spacings = np.where(np.isfinite(spacings), spacings, usual)
    margins = np.broadcast_to(np.asarray(margin, float), (n,))
    radii = np.broadcast_to(0.2 * spacings if radius_px is None else radius_px, (n,))
    scenes = []
    for image, (xy, species), s, radius, spacing, edge in zip(
        images, points, samplings, radii, spacings, margins, strict=True
    ):
        pixel = pixel_size(s)
        species = np.zeros(len(xy), int) if species is None else species
        length = float(spacing * pixel.mean())
        image = np.asarray(image, dtype=float)
        scenes.append(_Scene(image, xy, species, pixel, float(radius), length, float(edge), {}))
    return scenes


def _first_stage(scenes: list[_Scene], grid: Grid) -> list[LogParameters]:
    """The few settings worth the fit, by class-blind F1 within one and within two radii."""
    spacing = float(np.median([s.spacing for s in scenes]))
    sets = [grid.sigmas[i : i + k] for k in (1, 2, 3) for i in range(len(grid.sigmas) - k + 1)]
    n_true = sum(len(s.xy) for s in scenes)
    thresholds = np.asarray(grid.thresholds)
    scored = []
    for sigmas, distance in itertools.product(sets, grid.min_distances):
        p = LogParameters(
            sigmas_A=tuple(round(spacing * s, 4) for s in sigmas),
            min_distance_A=round(spacing * distance, 4),
            threshold=float(thresholds.min()),
        )
        found, near = np.zeros(len(thresholds)), np.zeros((2, len(thresholds)))
        for s in scenes:
            # Suppression is by stronger peaks only, so a higher threshold keeps the first of these
            # peaks: all thresholds cost one pass.
            xy, value = s.peaks(p)
            found += (value[:, None] >= thresholds).sum(0)
            for row, radius in zip(near, (s.radius, 2 * s.radius), strict=True):
                hit = match_points(xy, s.xy, radius).pairs[:, 0]
                row += (value[hit, None] >= thresholds).sum(0)
        for row, hits in enumerate(near):
            f1 = 2 * hits / np.maximum(found + n_true, 1)
            i = int(np.argmax(f1))
            # somewhat below the best threshold: the cut on fitted heights can reject, but not
            # recover
            for factor in (1.0, 0.7):
                threshold = round(float(thresholds[i]) * factor, 4)
                scored.append((f1[i], row, replace(p, threshold=threshold)))
    chosen: dict[LogParameters, None] = {}
    for row in (0, 1):
        order = sorted((s for s in scored if s[1] == row), key=lambda s: -s[0])
        chosen.update(dict.fromkeys(p for _, _, p in order[: grid.candidates]))
    return list(chosen)


def _apply(scene: _Scene, p: LogParameters) -> np.ndarray:
    xy, value = scene.peaks(p)
    return measure(scene.image, xy, value, refine=True)


class _Sample:
    """Columns found on all scenes, each with its true species or -1, ready to be cut."""

    def __init__(self, scenes: list[_Scene], measured: list[np.ndarray], refine: bool):
        self.columns, self.truth, self.counted, self.n_true = measured, [], [], 0
        for s, columns in zip(scenes, measured, strict=True):
            xy = points_of(columns, fitted=refine)[0]
            m = match_points(xy, s.xy, s.radius, shape=s.image.shape, margin=s.margin)
            truth, counted = np.full(len(columns), -1), np.zeros(len(columns), bool)
            truth[m.pairs[:, 0]] = s.species[m.pairs[:, 1]]
            counted[m.pairs[:, 0]] = counted[m.false_positives] = True
            self.truth.append(truth[counted])
            self.counted.append(counted)
            self.n_true += m.tp + m.fn

    def cut(
        self, feature: str, percentile: float
    ) -> tuple[float, tuple[float, ...], tuple[int, ...], float]:
        """Lowest value, cuts between species, species by rising brightness, and their F1."""
        values = [
            relative_feature(c, feature, percentile)[k]
            for c, k in zip(self.columns, self.counted, strict=True)
        ]
        value, truth = np.concatenate(values), np.concatenate(self.truth)
        present = np.unique(truth[truth >= 0])
        if present.size == 0:
            return 0.0, (), (0,), 0.0
        order = present[np.argsort([np.median(value[truth == k]) for k in present])]
        middles = [np.median(value[truth == k]) for k in order]
        edges = np.array([0.0] + [0.5 * (a + b) for a, b in itertools.pairwise(middles)])
        trial = np.unique(np.quantile(value, np.linspace(0, 1, 97)))

        def score(edges: np.ndarray) -> float:
            kept = value >= edges[0]
            named = order[np.searchsorted(edges[1:], value, side="right")]
            right = int((kept & (named == truth)).sum())
            return 2 * right / max(int(kept.sum()) + self.n_true, 1)

        best = score(edges)
        for _ in range(4):
            before = best
            for j in range(len(edges)):
                low = edges[j - 1] if j else 0.0
                high = edges[j + 1] if j + 1 < len(edges) else np.inf
                for t in trial[(trial >= low) & (trial <= high)]:
                    moved = edges.copy()
                    moved[j] = t
                    f1 = score(moved)
                    if f1 > best:
                        best, edges = f1, moved
            if best == before:
                break
        edges = edges.round(4)
        cuts = tuple(float(e) for e in edges[1:])
        return float(edges[0]), cuts, tuple(int(k) for k in order), score(edges)
