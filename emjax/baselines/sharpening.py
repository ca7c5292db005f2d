"""Background removal and deconvolution by classical means: `method(image, …) -> image`, (y, x).

The deconvolutions are told the exact transfer function of the probe, which nobody has in a
microscope: they are the most that these methods can do.
"""

from __future__ import annotations

import inspect

import numpy as np

from emjax.baselines.images import checked_image

__all__ = ["high_pass", "lucy", "rolling_ball", "wiener_deconvolution"]


def high_pass(image: np.ndarray, *, sigma: float = 1.0, radius: float | None = 20.0) -> np.ndarray:
    """A Gaussian filter of `sigma` pixels, minus one of `radius` pixels (None: minus nothing)."""
    from scipy.ndimage import gaussian_filter

    x = checked_image(image)
    return gaussian_filter(x, sigma) - (0 if radius is None else gaussian_filter(x, radius))


def rolling_ball(
    image: np.ndarray, *, sigma: float = 1.0, radius: float | None = 20.0, height: float = 2.0
) -> np.ndarray:
    """A Gaussian filter of `sigma` pixels, minus what a ball touches that rolls underneath.

    Sternberg, Computer 16, 22 (1983); scikit-image. `radius` in pixels (None: nothing is taken
    away); `height` of half the ball in standard deviations of the image, so that no unit matters.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.restoration import ellipsoid_kernel
    from skimage.restoration import rolling_ball as background

    x = gaussian_filter(checked_image(image), sigma)
    if radius is None:
        return x
    size = 2 * int(np.ceil(radius)) + 1
    ball = ellipsoid_kernel((size, size), height * max(float(x.std()), 1e-30))
    # threads that wait for one another are slow where cores are shared; the argument was renamed
    threads = "workers" if "workers" in inspect.signature(background).parameters else "num_threads"
    return x - background(x, kernel=ball, **{threads: 1})


def lucy(
    image: np.ndarray,
    transfer: np.ndarray,
    *,
    width: float = 1.2,
    iterations: int = 8,
    sigma: float = 0.0,
) -> np.ndarray:
    """Richardson-Lucy deconvolution of a known probe, then blurred to `width` pixels.

    Richardson 1972, Lucy 1974; stopped early. The image is continued by its mirror image to the
    grid of the transfer function.

    Parameters
    ----------
    transfer : (k, k // 2 + 1) real Fourier transform of the probe on k × k pixels, 1 at zero.
    width : the result's columns are Gaussians of this standard deviation in pixels.
    sigma : the data are filtered by a Gaussian of so many pixels first, which the iterations take
        for a part of the probe: otherwise they sharpen the noise.

    Raises
    ------
    ValueError : a transfer function on a smaller grid than the image; not (y, x) or NaN.
    """
    data, inner = _continued(image, transfer)
    smooth = _gaussian(data.shape, sigma)
    data = np.maximum(_filtered(np.maximum(data, 0), smooth), 0)
    kernel = transfer * smooth
    least = 1e-6 * max(float(data.mean()), 1e-30)
    result = np.full_like(data, data.mean())
    for _ in range(iterations):
        ratio = data / np.maximum(_filtered(result, kernel), least)
        result = np.maximum(result * _filtered(ratio, kernel.conj()), 0)
    return _filtered(result, _gaussian(data.shape, width))[inner]


def wiener_deconvolution(
    image: np.ndarray,
    transfer: np.ndarray,
    *,
    width: float = 1.2,
    floor: float = 0.01,
    strength: float = 1.0,
    smoothing: float = 1.0,
) -> np.ndarray:
    """Wiener filter of the image's own spectrum, and division by the probe's transfer function H.

    Each Fourier coefficient is multiplied by (S - N)/S · G H* / (|H|² + `floor`), with the signal's
    power S and the noise's N from the image as in `fourier_filters.wiener_fourier`, and G of a
    Gaussian of `width` pixels. ``strength=0`` leaves the first factor out, which is the usual form
    with one number for the noise. The image is continued by its mirror image to twice its size,
    where it has no seam.

    Raises
    ------
    ValueError : as of `lucy`.
    """
    from scipy.ndimage import gaussian_filter

    x = _checked(image, transfer)
    data = np.pad(x, [(0, n) for n in x.shape], mode="symmetric")
    probe, mean = _resized(transfer, data.shape), data.mean()
    waves = np.fft.rfft2(data - mean)
    shape = _gaussian(data.shape, width) * probe.conj() / (np.abs(probe) ** 2 + floor)
    if strength:
        power = np.abs(np.fft.fft2(data - mean)) ** 2
        rows, columns = (np.fft.fftfreq(n) for n in data.shape)
        far = np.hypot(rows[:, None], columns[None]) > 0.4
        noise = strength * float(power[far].mean())
        smooth = gaussian_filter(power, smoothing, mode="wrap")[:, : waves.shape[1]]
        shape = shape * np.clip(smooth - noise, 0, None) / np.maximum(smooth, 1e-300)
    return (np.fft.irfft2(waves * shape, data.shape) + mean)[: x.shape[0], : x.shape[1]]


def _continued(image: np.ndarray, transfer: np.ndarray) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The image mirrored to the grid of the transfer function, and where it lies in it."""
    x, k = _checked(image, transfer), len(transfer)
    before = [(k - n) // 2 for n in x.shape]
    around = [(b, k - n - b) for b, n in zip(before, x.shape, strict=True)]
    inner = tuple(slice(b, b + n) for b, n in zip(before, x.shape, strict=True))
    return np.pad(x, around, mode="symmetric"), inner


def _checked(image: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    x, k = checked_image(image), len(transfer)
    if np.shape(transfer) != (k, k // 2 + 1) or max(x.shape) > k:
        raise ValueError(
            f"the transfer function has shape {np.shape(transfer)}: (k, k // 2 + 1) with k of at "
            f"least the image's {x.shape} is needed"
        )
    return x


def _filtered(image: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    return np.fft.irfft2(np.fft.rfft2(image) * transfer, image.shape)


def _resized(transfer: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The transfer function on another grid: the probe surrounded by nothing, or cut."""
    k = len(transfer)
    probe = np.fft.fftshift(np.fft.irfft2(transfer, (k, k)))
    for axis, n in enumerate(shape):
        start = k // 2 - n // 2
        if start >= 0:
            probe = np.take(probe, np.arange(start, start + n), axis)
        else:
            around = [(0, 0), (0, 0)]
            around[axis] = (-start, n - k + start)
            probe = np.pad(probe, around)
    return np.fft.rfft2(np.fft.ifftshift(probe))


def _gaussian(shape: tuple[int, ...], sigma: float) -> np.ndarray:
    y, x = shape
    squared = np.fft.fftfreq(y)[:, None] ** 2 + np.fft.rfftfreq(x)[None] ** 2
    return np.exp(-2 * (np.pi * sigma) ** 2 * squared)
