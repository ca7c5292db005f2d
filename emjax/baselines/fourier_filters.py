"""Filters by spatial frequency and deconvolution: `method(image, **parameters) -> image`.

The two filters take signal and noise from the image's own power spectrum. On a crystal they are
hard to beat in PSNR because a lattice is a few peaks, and for the same reason they are not
faithful: what is not periodic is pulled onto the lattice, and vacancies are filled in (measured:
the Bragg filter fills most of the true vacancies at 2 counts in the brightest pixel). Read them
beside a measure of fidelity.
"""

from __future__ import annotations

import math

import numpy as np

from emjax.baselines.images import checked_image

__all__ = ["bragg", "richardson_lucy", "wiener_fourier"]


def wiener_fourier(
    image: np.ndarray, *, strength: float = 1.0, smoothing: float = 1.0, band: float = 0.4
) -> np.ndarray:
    """Wiener filter (S - N)/S of each Fourier coefficient.

    Parameters
    ----------
    image : (y, x).
    strength : factor on the noise power N; above 1, the filter is cautious.
    smoothing : S is the power spectrum smoothed by a Gaussian of this many Fourier pixels: small
        keeps noise in chance maxima, large loses the Bragg peaks.
    band : N is taken from frequencies above this many cycles per pixel (median, over ln 2 since
        powers of noise are exponentially distributed).

    Returns
    -------
    (y, x); the mean is untouched.

    Raises
    ------
    ValueError : not (y, x), NaN, or smaller than 8 pixels.
    """
    from scipy.ndimage import gaussian_filter

    x = checked_image(image, least=8)
    mean = x.mean()
    waves = np.fft.rfft2(x - mean)
    power = np.abs(np.fft.fft2(x - mean)) ** 2
    noise = strength * _floor(power, band)
    smooth = gaussian_filter(power, smoothing, mode="wrap")[:, : waves.shape[1]]
    share = np.clip(smooth - noise, 0, None) / np.maximum(smooth, 1e-300)
    return np.fft.irfft2(waves * share, x.shape) + mean


def bragg(
    image: np.ndarray,
    *,
    threshold: float = 6.0,
    low: float = 0.01,
    softness: float = 1.0,
    band: float = 0.4,
) -> np.ndarray:
    """Keep the Bragg peaks and the lowest frequencies.

    Parameters
    ----------
    image : (y, x).
    threshold : kept are frequencies with this many times the power of the noise (in the spectrum
        of the image under a Hann window, so that edges of the frame make no streaks).
    low : cycles per pixel up to which everything is kept.
    softness : the kept set's edge, in Fourier pixels.
    band : as in `wiener_fourier`.

    Raises
    ------
    ValueError : as in `wiener_fourier`.
    """
    from scipy.ndimage import gaussian_filter

    x = checked_image(image, least=8)
    mean = x.mean()
    window = np.outer(np.hanning(x.shape[0]), np.hanning(x.shape[1]))
    power = np.abs(np.fft.fft2((x - mean) * window)) ** 2
    keep = (power > threshold * _floor(power, band)) | (_frequencies(x.shape) < low)
    # a lone pixel keeps about half of its height, a peak of several all of it
    peak = 1 / (2 * math.pi * softness**2) if softness > 0.4 else 1.0
    soft = np.clip(
        gaussian_filter(keep.astype(float), softness, mode="wrap") / min(1, 2 * peak), 0, 1
    )
    return np.fft.ifft2(np.fft.fft2(x - mean) * soft).real + mean


def richardson_lucy(
    image: np.ndarray, *, sigma: float = 1.5, iterations: int = 8, smooth: bool = True
) -> np.ndarray:
    """Richardson-Lucy deconvolution of a Gaussian point spread function of `sigma` pixels.

    The most likely image under Poisson noise, stopped early; Richardson 1972, Lucy 1974. Starting
    from a flat image with mirrored borders, every step keeps the sum of the counts.

    Parameters
    ----------
    smooth : filter with the same Gaussian first (its blur is what the iterations undo), since
        otherwise they sharpen the noise.

    Raises
    ------
    ValueError : negative values, which this likelihood cannot explain; not (y, x) or NaN.
    """
    from scipy.ndimage import gaussian_filter

    x = checked_image(image)
    if x.min() < 0:
        raise ValueError(
            f"the lowest value is {x.min():.4g}: Richardson-Lucy needs counts that are not "
            "negative; subtract the offset and clip at 0 first"
        )
    data = gaussian_filter(x, sigma) if smooth else x
    result = np.full_like(x, data.mean())
    for _ in range(iterations):
        blurred = gaussian_filter(result, sigma)
        ratio = np.divide(data, blurred, out=np.zeros_like(data), where=blurred > 0)
        result *= gaussian_filter(ratio, sigma)
    return result


def _frequencies(shape: tuple[int, int]) -> np.ndarray:
    """(y, x) cycles per pixel, unshifted."""
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None])


def _floor(power: np.ndarray, band: float) -> float:
    """Mean noise power from the median beyond `band`."""
    outer = power[_frequencies(power.shape) > band]
    if outer.size == 0:
        raise ValueError(f"no frequency lies beyond band={band}: choose less than 0.5")
    return float(np.median(outer) / math.log(2))
