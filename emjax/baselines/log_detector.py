"""Blobs by the multi-scale Laplacian of Gaussian, measured by Gaussian fits, named by their
heights.

The detector alone; `emjax.baselines.columns` says what it is for and tunes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from emjax.analysis.columns import empty_columns, fit_columns, local_maxima

__all__ = [
    "LogParameters",
    "Sampling",
    "classify_by_height",
    "detect",
    "log_columns",
    "measure",
    "peaks",
    "pixel_size",
    "relative_feature",
    "response_map",
]

Sampling = float | tuple[float, float]


@dataclass(frozen=True)
class LogParameters:
    """One setting of the detector. The defaults are for columns 1.4 to 4 Å apart, never tuned."""

    sigmas_A: tuple[float, ...] = (0.35, 0.5, 0.7)
    """Widths of the Laplacian of Gaussian in Å; a blob of this Gaussian width answers most."""
    threshold: float = 0.3
    """Of the response, as a fraction of its 99th percentile in the image."""
    min_distance_A: float = 0.9
    """Of two blobs closer than this the weaker one is dropped."""
    refine: bool = True
    """Position from the Gaussian fit (True) or from the parabola on the response (False)."""
    feature: str = "height"
    """What is cut: "height" of the fitted peak, or "integral" (height times width squared)."""
    percentile: float = 90.0
    """The image's bright reference is this percentile of the feature over its columns."""
    min_height: float = 0.0
    """Columns whose relative feature is below are dropped."""
    cuts: tuple[float, ...] | None = None
    """Rising cuts of the relative feature between species; None: multi-Otsu in each image."""
    order: tuple[int, ...] = (0,)
    """Species index below the first cut, between the first and the second, ..."""
    f1: float = float("nan")
    """Class-aware F1 on the images that it was tuned on."""


def log_columns(
    image: np.ndarray,
    sampling: Sampling,
    *,
    sigmas_A: Sequence[float],
    threshold: float,
    min_distance_A: float,
    refine: bool = True,
) -> np.ndarray:
    """Blobs of an image, measured by a Gaussian fit.

    Parameters
    ----------
    image : (y, x) with bright columns (negate a bright-field image).
    sampling : Å per pixel, one number or (y, x).
    sigmas_A : widths of the Laplacian of Gaussian, Å.
    threshold : fraction of the response's 99th percentile.
    min_distance_A : smallest distance of two columns, Å.
    refine : give the fitted centre in `x_fit`, `y_fit`; else both are the response's maximum.
        Height and width are fitted in either case.

    Returns
    -------
    (n,) structured array as `find_columns`, in pixels; confidence is the response relative to its
    99th percentile, at most 1; species is 0.

    Raises
    ------
    ValueError : no scale, a length or a pixel size that is not positive.
    """
    pixel = pixel_size(sampling)
    sigmas = np.asarray(sigmas_A, dtype=float).reshape(-1)
    if sigmas.size == 0 or (sigmas <= 0).any():
        raise ValueError(f"sigmas_A {tuple(sigmas_A)}: at least one width above 0 Å is needed.")
    response = np.max([response_map(image, s / pixel) for s in sigmas], axis=0)
    xy, value = peaks(response, threshold, min_distance_A / float(pixel.mean()))
    return measure(image, xy, value, refine)


def classify_by_height(
    columns: np.ndarray,
    cuts: Sequence[float] | None,
    *,
    order: Sequence[int] | None = None,
    feature: str = "height",
    percentile: float = 90.0,
    min_height: float = 0.0,
) -> np.ndarray:
    """Species from the fitted heights relative to the image's own bright columns.

    Parameters
    ----------
    columns : all columns of one image, with `height` and `width`.
    cuts : rising values between species; None for multi-Otsu into `len(order)` classes.
    order : species index in each interval, dimmest first; 0, 1, 2, ... if None.
    feature, percentile, min_height : as in `LogParameters`.

    Returns
    -------
    A copy with `species`, without the columns below `min_height`.

    Raises
    ------
    ValueError : cuts that do not rise, or an order that does not have one entry more than the cuts.
    """
    order = tuple(range(len(cuts or ()) + 1)) if order is None else tuple(order)
    value = relative_feature(columns, feature, percentile)
    if cuts is None:
        cuts = _otsu(value, len(order))
        order = order[: len(cuts) + 1]
    if np.any(np.diff(cuts) < 0) or len(order) != len(cuts) + 1:
        raise ValueError(
            f"cuts {tuple(cuts)}, order {order}: cuts must rise, with one species more than cuts."
        )
    columns = columns.copy()
    columns["species"] = np.asarray(order)[np.searchsorted(cuts, value, side="right")]
    return columns[value >= min_height]


def detect(image: np.ndarray, sampling: Sampling, parameters: LogParameters) -> np.ndarray:
    """Columns with species: `log_columns`, then `classify_by_height`."""
    p = parameters
    columns = log_columns(
        image,
        sampling,
        sigmas_A=p.sigmas_A,
        threshold=p.threshold,
        min_distance_A=p.min_distance_A,
        refine=p.refine,
    )
    return classify_by_height(
        columns,
        p.cuts,
        order=p.order,
        feature=p.feature,
        percentile=p.percentile,
        min_height=p.min_height,
    )


def measure(image: np.ndarray, xy: np.ndarray, value: np.ndarray, refine: bool) -> np.ndarray:
    """Columns at the maxima `xy` with confidence `value`, fitted on the image."""
    columns = empty_columns(len(xy))
    columns["x"], columns["y"] = xy.T
    columns["confidence"] = np.clip(value, 0, 1)
    if len(columns):
        columns = fit_columns(image, columns)
    if not refine:
        columns["x_fit"], columns["y_fit"] = columns["x"], columns["y"]
    return columns


def response_map(image: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Scale-normalised negative Laplacian of Gaussian; `sigma` (y, x) in pixels."""
    image = np.asarray(image, dtype=float)
    total = np.zeros_like(image)
    for order in ((2, 0), (0, 2)):
        slope = gaussian_filter(image, sigma, order=order, mode="reflect")  # type: ignore[arg-type]
        total -= slope * float(sigma[order.index(2)]) ** 2
    return total


def peaks(
    response: np.ndarray, threshold: float, distance_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Maxima of the response and their height, relative to the response's 99th percentile."""
    reference = float(np.percentile(response, 99))
    if reference <= 0:
        return np.zeros((0, 2)), np.zeros(0)
    return local_maxima(response / reference, threshold=threshold, min_distance=distance_px)


def relative_feature(columns: np.ndarray, feature: str, percentile: float) -> np.ndarray:
    """The feature of each column relative to the image's bright reference."""
    if feature not in ("height", "integral"):
        raise ValueError(f'feature {feature!r}: expected "height" or "integral".')
    value = columns["height"] * (columns["width"] ** 2 if feature == "integral" else 1.0)
    if len(value) == 0:
        return value
    # columns without a good fit are measured as well as they can be, but do not set the scale
    sound = value[columns["ok"]] if columns["ok"].any() else value
    return value / max(float(np.percentile(sound, percentile)), 1e-12)


def _otsu(value: np.ndarray, classes: int) -> tuple[float, ...]:
    if classes < 2 or len(np.unique(value)) < 2 * classes:
        return ()
    from skimage.filters import threshold_multiotsu

    return tuple(float(t) for t in threshold_multiotsu(value, classes=classes, nbins=64))


def pixel_size(sampling: Sampling) -> np.ndarray:
    pixel = np.broadcast_to(np.asarray(sampling, dtype=float), (2,)).copy()
    if not (np.isfinite(pixel) & (pixel > 0)).all():
        raise ValueError(f"sampling {sampling}: Å per pixel, above 0, as a number or (y, x).")
    return pixel
