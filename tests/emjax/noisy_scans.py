"""Simulated scans of a small crystal in vacuum with known noise, for the tests of calibration."""

from __future__ import annotations

import numpy as np


def columns(y: np.ndarray, x: np.ndarray, *, spacing: float, width: float, turn: float = 0.1):
    """A lattice of Gaussian blobs, 1 at their maxima: a product of cosines, sharpened."""
    c, s = np.cos(turn), np.sin(turn)
    u, v = (c * x + s * y, c * y - s * x)
    k = (spacing / (2 * np.pi * width)) ** 2
    wave = np.cos(2 * np.pi * u / spacing) + np.cos(2 * np.pi * v / spacing) - 2
    return np.exp(k * wave)


def particle(
    side: int = 256, *, spacing: float = 18.0, width: float = 4.0, shift=None
) -> np.ndarray:
    """A round particle with atom columns on vacuum, 0 to 1; lines displaced by `shift` [side]."""
    y, x = np.mgrid[:side, :side].astype(float)
    if shift is not None:
        x = x + shift[:, None]
    r = np.hypot(y - side / 2, x - side / 2)
    inside = 1 / (1 + np.exp((r - 0.4 * side) / 6))
    return inside * (0.15 + 0.85 * columns(y, x, spacing=spacing, width=width))


def field(side: int = 256, *, spacing: float = 14.0, width: float = 3.0, shift=None) -> np.ndarray:
    """A crystal that fills the image, lines displaced by `shift` [side]."""
    y, x = np.mgrid[:side, :side].astype(float)
    if shift is not None:
        x = x + shift[:, None]
    return 0.2 + 0.8 * columns(y, x, spacing=spacing, width=width)


def record(rng, rate, *, gain=1.0, offset=0.0, readout=0.0) -> np.ndarray:
    """offset + gain · (Poisson(rate) + read-out)."""
    return offset + gain * (rng.poisson(rate) + readout * rng.normal(size=rate.shape))


def line_shifts(rng, lines: int, sigma: float, correlation: float) -> np.ndarray:
    """An autoregressive process of first order."""
    shift = np.empty(lines)
    shift[0] = sigma * rng.normal()
    for k in range(1, lines):
        fresh = np.sqrt(1 - correlation**2) * sigma * rng.normal()
        shift[k] = correlation * shift[k - 1] + fresh
    return shift
