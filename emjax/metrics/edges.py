"""Outlines and objects of restored images against those of the truth: moved, invented, lost."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["ObjectCounts", "edge_errors", "middle_level", "object_counts", "spectrum_error"]


class ObjectCounts(NamedTuple):
    """Connected regions of one image."""

    found: int
    """Regions of the restored image."""
    invented: int
    """Of these, regions that touch nothing in the truth."""
    true: int
    """Regions of the truth."""
    lost: int
    """Of these, regions of which nothing was found."""


def middle_level(truth: np.ndarray, mask: np.ndarray) -> tuple[float, int]:
    """(level, sign): half way between the medians inside and outside; sign -1 for dark objects.

    Raises
    ------
    ValueError : a mask of another shape; nothing inside or nothing outside of it.
    """
    truth, inside = np.asarray(truth, np.float64), np.asarray(mask) > 0.5
    if truth.shape != inside.shape:
        raise ValueError(f"the image has shape {truth.shape}, its mask {inside.shape}")
    if inside.all() or not inside.any():
        raise ValueError("the mask holds everything or nothing: there is no level between the two")
    within, without = np.median(truth[inside]), np.median(truth[~inside])
    return float((within + without) / 2), 1 if within >= without else -1


def edge_errors(
    restored: np.ndarray, truth: np.ndarray, level: float, *, reach: float = 4.0, border: int = 4
) -> np.ndarray:
    """Distances [px] by which the restored outline is displaced, at points along the true one.

    At each point of the truth's contour at `level` the restored image is read along the normal; the
    crossing of `level` in the right direction that is nearest counts.

    Parameters
    ----------
    restored, truth : (y, x) in one unit.
    reach : a point without a crossing so near counts as this [px].
    border : points this near to the image's border do not count [px].

    Returns
    -------
    (points,) of numbers from 0 to `reach`; empty where the truth has no outline.
    """
    from scipy.ndimage import gaussian_filter1d, map_coordinates
    from skimage.measure import find_contours

    restored, truth = (np.asarray(a, np.float64) for a in (restored, truth))
    if restored.shape != truth.shape or truth.ndim != 2:
        raise ValueError(f"the images have shapes {restored.shape} and {truth.shape}: one (y, x)")
    contours = find_contours(truth, level)
    points = np.concatenate(contours) if contours else np.zeros((0, 2))
    last = np.array(truth.shape) - 1 - border
    points = points[((points >= border) & (points <= last)).all(1)]
    slope = np.stack(
        [gaussian_filter1d(gaussian_filter1d(truth, 0.7, a, order=1), 0.7, 1 - a) for a in (0, 1)]
    )
    normal = np.stack([map_coordinates(s, points.T, order=1) for s in slope], axis=1)
    size = np.linalg.norm(normal, axis=1)
    points, normal = points[size > 0], normal[size > 0] / size[size > 0, None]
    if len(points) == 0:
        return np.zeros(0)
    steps = np.linspace(-reach, reach, 2 * round(8 * reach) + 1)
    along = points[:, :, None] + normal[:, :, None] * steps  # [n, 2, steps], uphill in the truth
    profile = map_coordinates(restored, along.transpose(1, 0, 2), order=1, mode="nearest") - level
    below, above = profile[:, :-1], profile[:, 1:]
    crosses = (below < 0) & (above >= 0)
    part = np.where(crosses, -below / np.where(crosses, above - below, 1), 0)
    place = np.abs(steps[:-1] + part * (steps[1] - steps[0]))
    return np.where(crosses, place, reach).min(1)


def object_counts(
    restored: np.ndarray,
    mask: np.ndarray,
    level: float,
    sign: int = 1,
    *,
    least: int = 6,
    slack: int = 1,
) -> ObjectCounts:
    """Regions above the level (below, for sign -1) against the true regions.

    Parameters
    ----------
    restored : (y, x) in the unit of `level`.
    mask : (y, x), above 0.5 in true objects.
    least : regions of fewer pixels do not count.
    slack : a region within so many pixels of a true one touches it.
    """
    from scipy.ndimage import binary_dilation, label

    true = np.asarray(mask) > 0.5
    seen = sign * (np.asarray(restored, np.float64) - level) > 0
    if seen.shape != true.shape:
        raise ValueError(f"the image has shape {seen.shape}, the true mask {true.shape}")
    near = binary_dilation(true, np.ones((3, 3)), iterations=slack) if slack else true

    def regions(image: np.ndarray, other: np.ndarray) -> tuple[int, int]:
        names, n = label(image, np.ones((3, 3)))
        sizes = np.bincount(names.ravel(), minlength=n + 1)[1:]
        touching = np.bincount(names.ravel(), weights=other.ravel(), minlength=n + 1)[1:]
        large = sizes >= least
        return int(large.sum()), int((large & (touching == 0)).sum())

    return ObjectCounts(*regions(seen, near), *regions(true, seen))


def spectrum_error(restored: np.ndarray, truth: np.ndarray, *, floor: float = 1e-5) -> float:
    """Mean over rings of |10 log10 (power / true power)| in dB.

    Rings where the true power is below `floor` of its largest do not count, and powers are raised
    to a hundredth of the floor first, so that an empty ring costs 20 dB at least, but not infinity.
    With a Hann window; (y, x) images of one unit. NaN where the truth is constant.
    """
    from emjax.metrics.rings import ring_sum, transforms

    if np.ptp(truth) <= 1e-9 * np.abs(truth).max():
        return float("nan")
    _, f, t, rings = transforms(np.asarray(restored), np.asarray(truth), 1.0, 2, "hann")
    power, true = (ring_sum(np, np.abs(a) ** 2, rings) / rings.count for a in (f, t))
    lowest = floor * true.max()
    counted = true > lowest
    ratio = np.maximum(power, lowest / 100)[counted] / true[counted]
    return float(np.mean(np.abs(10 * np.log10(ratio))))
