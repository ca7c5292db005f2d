"""Gaussian filters as matrices: one product instead of a slow convolution of one channel."""

from __future__ import annotations

import functools

import numpy as np


@functools.lru_cache(maxsize=16)
def gaussian_matrix(n: int, sigma: float) -> np.ndarray:
    """[n, n] float32 that filters along an axis of n pixels; nothing comes in from outside.

    Rows in the middle have the sum 1, those at the border less.
    """
    pixel = np.arange(n)
    rows = np.exp(-0.5 * np.square((pixel[:, None] - pixel[None]) / sigma))
    return (rows / (sigma * np.sqrt(2 * np.pi))).astype(np.float32)
