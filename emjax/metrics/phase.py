"""How good a reconstructed phase is, beside a true one: what no pattern knows is taken out first.

Ptychography knows a phase but for a constant, a ramp and a shift of object against probe. The score
is over the area that was scanned, after a shift (sub-pixel, of the whole) and a plane, and after a
low-pass filter, because frequencies beyond those that the truth holds are the display's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

EDGE = 4
"""Pixels at the border of the box that the low-pass filter spoils."""


class PhaseScore(NamedTuple):
    """Of `compare_phases`."""

    psnr: float
    """dB; the peak is the range of the true phase."""
    ssim: float
    nrmse: float
    """Over the root mean square of the true phase."""
    frc: float
    """Å at which the Fourier ring correlation falls below one half."""
    scale: float
    """Of the phase against the truth: 1 is right."""
    shift: tuple[float, float]
    """(y, x) in pixels, of the truth against the reconstruction."""


def compare_phases(
    phase: np.ndarray,
    truth: np.ndarray,
    *,
    corner: Sequence[int],
    box: tuple[Sequence[int], Sequence[int]],
    sampling: float,
    cutoff: float = 2.0,
    wrap: bool = False,
) -> PhaseScore:
    """Compare a reconstructed phase with the true one.

    Parameters
    ----------
    phase : [y, x] in rad
    truth : [y, x] in rad, periodic
    corner : (y, x) pixels
        Where the first pixel of `phase` lies on the truth.
    box : (first (y, x), end (y, x)) pixels of the truth
        What is scored: the scanned area.
    sampling : Å, of both
    cutoff : 1/Å, of the low-pass filter (an edge of a tenth of it) before PSNR and SSIM
    wrap : phases are known up to 2π: the principal value about the median is taken.

    Raises
    ------
    ValueError : a box outside the phase, or too small for the filter.
    """
    from skimage.metrics import structural_similarity

    first, end = (np.asarray(b, int) for b in box)
    start = first - np.round(np.asarray(corner, float)).astype(int)
    stop = start + (end - first)
    if (start < 0).any() or (stop > phase.shape).any() or (end - first < 4 * EDGE).any():
        raise ValueError(
            f"the box {first} to {end} of the truth is pixels {start} to {stop} of a phase of "
            f"{phase.shape}: it has to lie inside and be at least {4 * EDGE} pixels a side"
        )
    found = np.asarray(phase, np.float64)[start[0] : stop[0], start[1] : stop[1]]
    if wrap:
        found = np.mod(found - np.median(found) + 1, 2 * np.pi) - 1
    spectrum = np.fft.fft2(np.asarray(truth, np.float64))
    ky, kx = (np.fft.fftfreq(n) for n in truth.shape)
    inside = np.s_[first[0] : end[0], first[1] : end[1]]

    def moved(shift: np.ndarray, keep: np.ndarray | float = 1.0) -> np.ndarray:
        ramp = np.exp(2j * np.pi * (ky[:, None] * shift[0] + kx[None] * shift[1]))
        return np.fft.ifft2(spectrum * ramp * keep).real[inside]

    shift = _best_shift(_level(found), moved)
    true = _level(moved(shift))
    found = _level(found)
    found = found - _plane(found - true)
    scale = float((found * true).sum() / np.square(true).sum())
    frc = _half_resolution(found, true, sampling)
    low_true = moved(shift, _low_pass(truth.shape, sampling, cutoff))
    peak = float(np.ptp(low_true))
    low = np.fft.ifft2(np.fft.fft2(found) * _low_pass(found.shape, sampling, cutoff)).real
    trim = np.s_[EDGE:-EDGE, EDGE:-EDGE]
    low, low_true = low[trim], _level(low_true)[trim]
    low = low - _plane(low - low_true)
    error = float(np.square(low - low_true).mean())
    return PhaseScore(
        float(10 * np.log10(peak**2 / max(error, 1e-30))),
        float(structural_similarity(low, low_true, win_size=7, data_range=peak)),
        float(np.sqrt(error / np.square(low_true).mean())),
        frc,
        scale,
        (float(shift[0]), float(shift[1])),
    )


def _best_shift(found: np.ndarray, moved: object) -> np.ndarray:
    """The shift of the truth with the largest correlation: whole pixels first, then between."""
    window = np.hanning(found.shape[0])[:, None] * np.hanning(found.shape[1])[None]

    def minus(shift: np.ndarray) -> float:
        true = _level(moved(shift))  # type: ignore[operator]
        return -float((window * found * true).sum() / np.sqrt((window * true * true).sum()))

    whole = [np.array([y, x], float) for y in range(-6, 7) for x in range(-6, 7)]
    best = min(whole, key=minus)
    return minimize(minus, best, method="Nelder-Mead", options={"xatol": 2e-3, "fatol": 1e-9}).x


def _plane(image: np.ndarray) -> np.ndarray:
    """The plane of least squares."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in image.shape)
    slope_y = (image.mean(1) * y).sum() / np.square(y).sum()
    slope_x = (image.mean(0) * x).sum() / np.square(x).sum()
    return image.mean() + slope_y * y[:, None] + slope_x * x[None]


def _level(image: np.ndarray) -> np.ndarray:
    return image - _plane(image)


def _low_pass(shape: Sequence[int], sampling: float, cutoff: float) -> np.ndarray:
    ky, kx = (np.fft.fftfreq(n, sampling) for n in shape)
    return np.clip((cutoff - np.hypot(ky[:, None], kx[None])) / (0.1 * cutoff) + 0.5, 0, 1)


def _half_resolution(a: np.ndarray, b: np.ndarray, sampling: float) -> float:
    """Where the correlation of rings falls below 1/2, over means of five rings, beyond 0.3 1/Å.

    A crystal has its power in few rings; single ones between them say nothing.
    """
    window = np.hanning(a.shape[0])[:, None] * np.hanning(a.shape[1])[None]
    fa, fb = (np.fft.fft2((x - x.mean()) * window) for x in (a, b))
    ky, kx = (np.fft.fftfreq(n, sampling) for n in a.shape)
    width = 1 / (min(a.shape) * sampling)
    ring = np.rint(np.hypot(ky[:, None], kx[None]) / width).astype(int).ravel()
    count = int(0.5 / sampling / width)

    def over(values: np.ndarray) -> np.ndarray:
        sums = np.pad(np.bincount(ring, values.ravel())[:count], 2, mode="edge")
        return np.convolve(sums, np.ones(5) / 5, "valid")

    both = over((fa * fb.conj()).real)
    curve = both / np.maximum(np.sqrt(over(abs(fa) ** 2) * over(abs(fb) ** 2)), 1e-30)
    begin = int(np.ceil(0.3 / width))
    below = np.flatnonzero(curve[begin:] < 0.5)
    if not below.size:
        return 2 * sampling
    i = int(below[0]) + begin
    if i and curve[i - 1] > 0.5:
        place = i - 1 + (curve[i - 1] - 0.5) / max(curve[i - 1] - curve[i], 1e-9)
    else:
        place = float(max(i, 1))
    return float(1 / (place * width))
