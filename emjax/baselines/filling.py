"""Filling pixels that were not measured: `method(image, mask, **parameters) -> image`.

The mask is True where measured. Measured pixels come out as they went in; what stands in the
others is ignored (NaN is fine). `exemplar` and `compressive` hold the two that take more than an
interpolation. Every function raises ValueError for a mask of another shape, for coverage zero and
for NaN in measured pixels, and NotApplicable where these measured pixels do not suffice.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emjax.baselines.images import NotApplicable, checked_pair

__all__ = ["biharmonic", "cubic", "linear", "natural_neighbour", "nearest", "nearest_measured"]


def nearest(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The value of the nearest measured pixel."""
    x, measured = checked_pair(image, mask)
    return nearest_measured(x, measured)[0]


def linear(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Linear over the triangles of a Delaunay triangulation; nearest outside of its hull."""
    from scipy.interpolate import LinearNDInterpolator

    return _triangulated(image, mask, LinearNDInterpolator)


def cubic(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Clough-Tocher's piecewise cubic, smooth across the triangles; nearest outside of the hull."""
    from scipy.interpolate import CloughTocher2DInterpolator

    return _triangulated(image, mask, CloughTocher2DInterpolator)


def natural_neighbour(
    image: np.ndarray, mask: np.ndarray, *, oversample: int = 3, seed: int = 0
) -> np.ndarray:
    """Sibson's interpolation in its discrete form (Park et al., IEEE TVCG 2006).

    A pixel's value is the mean of its neighbours' values, weighted by the area that each would
    lose to the pixel if it were measured too. The areas are counted with points: each gives its
    nearest measured value to all pixels that are nearer to it than that one. In the limit of many
    points Sibson's interpolation is exact for linear functions; outside of the measured pixels'
    hull it levels off.

    Parameters
    ----------
    image, mask : (y, x).
    oversample : points per pixel and axis; each lies at random (`seed`) in its part of the pixel,
        since points on a grid are as near to two measured pixels too often.
    """
    from scipy.spatial import KDTree

    x, measured = checked_pair(image, mask)
    if oversample < 1:
        raise ValueError(f"oversample is {oversample}: 1 point per pixel and axis or more")
    if measured.all():
        return x
    near, gaps = nearest_measured(x, measured)
    # pixels at the border take area from beyond it too
    beyond = min(int(np.ceil(gaps.max())), 16)
    fine = [(n + 2 * beyond) * oversample for n in x.shape]
    jitter = np.random.default_rng(seed).uniform(size=(*fine, 2))
    points = (np.indices(fine).transpose(1, 2, 0) + jitter) / oversample - 0.5 - beyond
    points = points.reshape(-1, 2)
    distance, index = KDTree(np.argwhere(measured)).query(points)
    total, weight = _scatter_discs(points, distance, x[measured][index], x.shape)
    # a mean, so that only rounding can leave the range; without any point, the nearest
    mean = np.clip(total / np.maximum(weight, 1), x[measured].min(), x[measured].max())
    mean = np.where(weight > 0, mean, near)
    return np.where(measured, x, mean)


def biharmonic(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The solution of ΔΔf = 0 in the missing pixels; scikit-image.

    Damelin & Hoang 2018. Stays between the lowest and the highest measured value. Its linear
    system has one unknown per missing pixel: seconds for 256 × 256 pixels, minutes beyond 1024².
    """
    from skimage.restoration import inpaint_biharmonic

    x, measured = checked_pair(image, mask)
    if measured.all():
        return x
    if min(x.shape) < 5:
        raise NotApplicable(f"the image has shape {x.shape}: biharmonic filling needs 5 pixels")
    return np.where(measured, x, inpaint_biharmonic(x, ~measured))


def nearest_measured(x: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (y, x) of the nearest measured pixels, and the distances to them in pixels."""
    from scipy.ndimage import distance_transform_edt

    distance, index = distance_transform_edt(~measured, return_indices=True)
    return x[tuple(index)], distance


def _triangulated(image: np.ndarray, mask: np.ndarray, interpolator: Any) -> np.ndarray:
    from scipy.spatial import QhullError

    x, measured = checked_pair(image, mask)
    filled, _ = nearest_measured(x, measured)
    missing = ~measured
    if not missing.any():
        return x
    try:
        inside = interpolator(np.argwhere(measured), x[measured])(np.argwhere(missing))
    except (QhullError, ValueError) as error:
        raise NotApplicable(
            f"the {measured.sum()} measured pixels span no triangle: measure more, or fill by "
            "nearest"
        ) from error
    filled[missing] = np.where(np.isnan(inside), filled[missing], inside)
    return filled


def _scatter_discs(
    points: np.ndarray, radius: np.ndarray, values: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Sum (y, x) of the values, and number, of the points whose disc holds each pixel.

    Discs are written row by row as differences (+ at the left end, - past the right end) and
    summed up along x at the end.

    Parameters
    ----------
    points, radius, values : (n, 2), (n,), (n,) in pixels.
    """
    height, width = shape
    sums = np.zeros((2, height * (width + 1)))
    reach = int(radius.max()) + 1
    first = np.floor(points[:, 0]).astype(np.int64)
    for step in range(-reach, reach + 2):
        row = first + step
        rest = radius**2 - (row - points[:, 0]) ** 2
        use = (rest >= 0) & (row >= 0) & (row < height)
        span, centre = np.sqrt(rest[use]), points[use, 1]
        left = np.clip(np.ceil(centre - span).astype(np.int64), 0, width)
        right = np.clip(np.floor(centre + span).astype(np.int64) + 1, left, width)
        base = row[use] * (width + 1)
        for sign, end in ((1.0, left), (-1.0, right)):
            sums[0] += sign * np.bincount(base + end, values[use], sums.shape[1])
            sums[1] += sign * np.bincount(base + end, minlength=sums.shape[1])
    total, weight = sums.reshape(2, height, width + 1).cumsum(-1)[..., :width]
    return total, weight
