"""Repeats of the same area: which images of a set are, and aligned to a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.ndimage import gaussian_filter

ALIKE = 0.3
"""Correlation of two smoothed, aligned images from which they count as the same area."""


def pixel_shift(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """(y, x) by which `second` has to be moved onto `first`, by cross-correlation."""
    a, b = (_band(image) for image in (first, second))
    window = np.hanning(a.shape[0])[:, None] * np.hanning(a.shape[1])[None, :]
    spectrum = np.fft.rfft2(a * window) * np.conj(np.fft.rfft2(b * window))
    peak = np.argmax(np.fft.irfft2(spectrum, a.shape))
    place = np.unravel_index(peak, a.shape)
    y, x = (int(p) - (n if p > n // 2 else 0) for p, n in zip(place, a.shape, strict=True))
    return y, x


def aligned_pairs(
    frames: Sequence[np.ndarray], usable: Sequence[np.ndarray]
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[np.ndarray]]:
    """Neighbouring images that show the same area, cut to what both show, brightness made equal.

    Returns
    -------
    pairs : list of (float [y, x], float [y, x])
    masks : list of bool [y, x]
        Pixels that are usable in both.
    """
    pairs, masks = [], []
    for (a, b), (m, n) in zip(pairwise(frames), pairwise(usable), strict=True):
        if a.shape != b.shape:
            continue
        y, x = pixel_shift(a, b)
        if abs(y) > a.shape[0] // 3 or abs(x) > a.shape[1] // 3:
            continue
        here, there = (_overlap(s, y, x, sign) for s, sign in ((a.shape, 1), (a.shape, -1)))
        first, second = a[here], b[there]
        smooth = [_band(image)[8:-8, 8:-8].ravel() for image in (first, second)]
        if np.corrcoef(*smooth)[0, 1] > ALIKE and min(first.shape) >= 64:
            pairs.append((first, second))
            masks.append(m[here] & n[there])
    return pairs, masks


def _band(image: np.ndarray) -> np.ndarray:
    return gaussian_filter(image, 1.5) - gaussian_filter(image, 12)


def _overlap(shape: tuple, y: int, x: int, sign: int) -> tuple[slice, slice]:
    """Part of the first (+1) or second (-1) image that both show."""
    return tuple(
        slice(max(0, sign * s), n + min(0, sign * s)) for s, n in zip((y, x), shape, strict=True)
    )
