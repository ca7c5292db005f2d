"""Images against the true image: MSE, PSNR, SSIM.

PSNR and SSIM depend on the range of the grey values, so `data_range` is an argument without a
default for images of floats: 1 for images in 0 to 1, the truth's max - min where nothing else is
agreed. Say it beside the number. Means of PSNR over images are not the PSNR of the mean error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from emjax.metrics.arrays import Array, module_of, numbers, root, same_shape, square

__all__ = ["SSIMTerms", "global_ssim", "mae", "mse", "psnr", "ssim", "ssim_map", "ssim_terms"]


def mse(prediction: Array, truth: Array, *, axis: Any = None) -> Array:
    """Mean of (prediction - truth)² over `axis` (None: everything; (1, 2, 3): one per image)."""
    same_shape(prediction, truth)
    xp, a, b = numbers(prediction, truth)
    return _plain(xp, square(xp, a - b).mean(axis))


def mae(prediction: Array, truth: Array, *, axis: Any = None) -> Array:
    """Mean of |prediction - truth| over `axis`."""
    same_shape(prediction, truth)
    xp, a, b = numbers(prediction, truth)
    return _plain(xp, xp.abs(a - b).mean(axis))


def psnr(
    prediction: Array, truth: Array, *, data_range: float | Array | None = None, axis: Any = None
) -> Array:
    """Peak signal-to-noise ratio in dB: 10 log10(data_range² / MSE). The logarithm is to base 10.

    Parameters
    ----------
    data_range : largest minus smallest possible value. None: that of the truth's integer type,
        2^n - 1; needed for floats.
    axis : as in `mse`. A batch needs (1, 2) or so: one PSNR per image, averaged afterwards.

    Returns
    -------
    dB; infinity for equal images.

    Raises
    ------
    ValueError : no `data_range` for floats.
    """
    peak = _range(truth, data_range)
    same_shape(prediction, truth)
    xp, a, b = numbers(prediction, truth)
    error = square(xp, a - b).mean(axis)
    equal = error == 0  # not `error > 0`: NaN would count as equal
    log = xp.log10(xp.where(equal, 1.0, error))
    value = xp.where(equal, xp.inf, 20 * xp.log10(xp.asarray(peak, error.dtype)) - 10 * log)
    return _plain(xp, value)


def ssim(
    prediction: Array,
    truth: Array,
    *,
    data_range: float | None = None,
    axes: tuple[int, ...] = (-2, -1),
    window: str = "gaussian",
    size: int | None = None,
    sigma: float = 1.5,
    sample_covariance: bool = False,
    constants: tuple[float, float] = (0.01, 0.03),
) -> Array:
    """Mean structural similarity over windows (Wang et al. 2004).

    The default is the paper's: Gaussian window of 11 pixels with sigma 1.5, biased covariances,
    only windows that lie inside the image. It equals scikit-image with ``gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False``; scikit-image's own default is ``window="uniform",
    sample_covariance=True`` here (7 pixels). These differ by 0.1 on noisy images, and from the
    form without windows (`global_ssim`) by more: name the window with the number. Not bounded by
    0: an inverted image is close to -1.

    Parameters
    ----------
    prediction, truth : images of one shape, for example [y, x], or [b, y, x, c] with axes=(1, 2).
    data_range : as in `psnr`.
    axes : the axes that the window covers (two, or three for a volume).
    window : "gaussian" or "uniform".
    size : pixels of the window along each axis, odd; None: 11 for gaussian, 7 for uniform.
    sigma : of the Gaussian in pixels.
    sample_covariance : divide by n - 1 pixels of the window instead of n.
    constants : K1, K2; C1 = (K1 L)², C2 = (K2 L)² with L the data range.

    Returns
    -------
    One number for each entry of the other axes (a number where there are none), -1 to 1.

    Raises
    ------
    ValueError : complex images, an unknown window, an even size, images smaller than the window.
    """
    values = ssim_map(
        prediction,
        truth,
        data_range=data_range,
        axes=axes,
        window=window,
        size=size,
        sigma=sigma,
        sample_covariance=sample_covariance,
        constants=constants,
    )
    mean = values.mean(axis=tuple(a % np.ndim(truth) for a in axes))
    return _plain(module_of(mean), mean)


def ssim_map(
    prediction: Array,
    truth: Array,
    *,
    data_range: float | None = None,
    axes: tuple[int, ...] = (-2, -1),
    window: str = "gaussian",
    size: int | None = None,
    sigma: float = 1.5,
    sample_covariance: bool = False,
    constants: tuple[float, float] = (0.01, 0.03),
) -> Array:
    """SSIM of each window that lies inside: `axes` are shorter by size - 1. As `ssim`."""
    peak = _range(truth, data_range)
    same_shape(prediction, truth)
    weights = _window(window, size, sigma)
    axes = tuple(a % np.ndim(truth) for a in axes)
    for axis in axes:
        if np.shape(truth)[axis] < len(weights):
            raise ValueError(
                f"axis {axis} has {np.shape(truth)[axis]} pixels and the window {len(weights)}: "
                "give a smaller odd size, or larger images."
            )
    xp, a, b = _real(prediction, truth)
    # variances do not know the offset; without it float32 keeps its digits in the squares
    centre = b.mean(axis=axes, keepdims=True)
    a, b = a - centre, b - centre

    # the five fields in one go: a fifth of the operations to compile
    fields: Any = xp.stack([a, b, a * a, b * b, a * b])
    for axis in axes:
        n = fields.shape[axis + 1] - len(weights) + 1
        at = [slice(None)] * fields.ndim
        total: Any = 0.0
        for k, weight in enumerate(weights):
            at[axis + 1] = slice(k, k + n)
            total = total + float(weight) * fields[tuple(at)]
        fields = total
    ma, mb, maa, mbb, mab = fields
    pixels = len(weights) ** len(axes)
    unbiased = pixels / (pixels - 1) if sample_covariance else 1.0
    va = unbiased * xp.maximum(maa - ma * ma, 0.0)
    vb = unbiased * xp.maximum(mbb - mb * mb, 0.0)
    vab = unbiased * (mab - ma * mb)
    ma, mb = ma + centre, mb + centre
    c1, c2 = ((k * peak) ** 2 for k in constants)
    return ((2 * ma * mb + c1) * (2 * vab + c2)) / ((ma * ma + mb * mb + c1) * (va + vb + c2))


class SSIMTerms(NamedTuple):
    """Luminance, contrast and structure, each 1 for equal images."""

    luminance: Any
    contrast: Any
    structure: Any


def ssim_terms(
    prediction: Array,
    truth: Array,
    *,
    data_range: float | None = None,
    axis: Any = None,
    constants: tuple[float, float] = (0.01, 0.03),
) -> SSIMTerms:
    """l = (2 μf μg + C1) / (μf² + μg² + C1), c = (2 σf σg + C2) / (σf² + σg² + C2),
    s = (σfg + C3) / (σf σg + C3), with moments over the whole image and C3 = C2 / 2.

    Parameters
    ----------
    data_range, constants : as in `ssim`.
    axis : the axes of an image; None: all.
    """
    peak = _range(truth, data_range)
    same_shape(prediction, truth)
    xp, f, g = _real(prediction, truth)
    mf, mg = f.mean(axis, keepdims=True), g.mean(axis, keepdims=True)
    vf, vg = ((f - mf) ** 2).mean(axis), ((g - mg) ** 2).mean(axis)
    covariance = ((f - mf) * (g - mg)).mean(axis)
    mf, mg = f.mean(axis), g.mean(axis)
    c1, c2 = ((k * peak) ** 2 for k in constants)
    both = root(xp, vf) * root(xp, vg)
    return SSIMTerms(
        (2 * mf * mg + c1) / (mf**2 + mg**2 + c1),
        (2 * both + c2) / (vf + vg + c2),
        (covariance + c2 / 2) / (both + c2 / 2),
    )


def global_ssim(prediction: Array, truth: Array, **arguments: Any) -> Array:
    """l · c · s over the whole image, without windows: the form that the review prints.

    Blind to where an error is; not comparable with the windowed `ssim` that libraries report.
    Arguments as in `ssim_terms`.
    """
    terms = ssim_terms(prediction, truth, **arguments)
    return terms.luminance * terms.contrast * terms.structure


def _range(truth: Array, data_range: Any) -> Any:
    if data_range is not None:
        if isinstance(data_range, (int, float)) and not (0 < data_range < float("inf")):
            raise ValueError(f"data_range {data_range}: largest minus smallest value, above 0.")
        return data_range
    dtype = np.dtype(getattr(truth, "dtype", np.asarray(truth).dtype))
    if dtype.kind == "b":
        return 1.0
    if dtype.kind in "ui" and hasattr(truth, "dtype"):
        return float(np.iinfo(dtype).max) - float(np.iinfo(dtype).min)
    raise ValueError(
        "data_range is needed for images of floats: 1 for images in 0 to 1, or the truth's "
        "max - min. Say it beside the number."
    )


def _real(prediction: Array, truth: Array) -> tuple[Any, Any, Any]:
    xp, a, b = numbers(prediction, truth)
    if xp.iscomplexobj(a):
        raise ValueError("SSIM is of real images: compare the amplitudes, and the phases.")
    return xp, a, b


def _window(window: str, size: int | None, sigma: float) -> np.ndarray:
    if window not in ("gaussian", "uniform"):
        raise ValueError(f'window {window!r}: expected "gaussian" or "uniform".')
    size = (11 if window == "gaussian" else 7) if size is None else size
    if size < 3 or size % 2 == 0:
        raise ValueError(f"size {size}: an odd number of pixels, at least 3.")
    x = np.arange(size) - size // 2
    weights = np.exp(-0.5 * (x / sigma) ** 2) if window == "gaussian" else np.ones(size)
    return weights / weights.sum()


def _plain(xp: Any, value: Any) -> Any:
    return float(value) if xp is np and np.ndim(value) == 0 else value
