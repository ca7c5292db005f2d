"""The best that any unbiased fit could do: Cramer-Rao bounds of column positions in Poisson noise.

The model is that of `gaussian_fit`: columns h exp(-r^2 / 2 w^2) on a constant background, in
expected counts per pixel. For one column without background the bound is w / sqrt(N) with N = 2
pi h w^2 counts, so 1 / sqrt(2 pi h) pixels whatever the width.
"""

from __future__ import annotations

import numpy as np

__all__ = ["position_bound"]


def position_bound(
    xy: np.ndarray,
    height: np.ndarray | float,
    width: np.ndarray | float,
    background: float,
    shape: tuple[int, int],
) -> np.ndarray:
    """Smallest standard deviation of each column's x and y when all columns are fitted together.

    Positions, heights, widths and one background are unknown: neighbours that overlap cost
    precision, and that is in the bound.

    Parameters
    ----------
    xy : (n, 2) true positions (x, y) in pixels; a few dozen columns (the matrix is dense).
    height : expected counts at the peak, one or one per column.
    width : Gaussian sigma in pixels, one or one per column.
    background : expected counts per pixel below the columns, >= 0.
    shape : (y, x) of the image.

    Returns
    -------
    (n, 2) standard deviations of x and y in pixels.

    Raises
    ------
    ValueError : heights or widths that are not positive, or a negative background.
    """
    xy = np.asarray(xy, dtype=float).reshape(-1, 2)
    n = len(xy)
    h, w = (np.broadcast_to(np.asarray(v, dtype=float), (n,)) for v in (height, width))
    if (h <= 0).any() or (w <= 0).any() or background < 0:
        raise ValueError("heights and widths must be positive and the background not negative.")
    dx = np.arange(shape[1])[None, None, :] - xy[:, 0, None, None]
    dy = np.arange(shape[0])[None, :, None] - xy[:, 1, None, None]
    g = np.exp(-(dx**2 + dy**2) / (2 * w[:, None, None] ** 2))
    hg, w2 = h[:, None, None] * g, w[:, None, None] ** 2
    rate = background + hg.sum(0)
    slopes = [hg * dx / w2, hg * dy / w2, g, hg * (dx**2 + dy**2) / (w2 * w[:, None, None])]
    jacobian = np.concatenate([s.reshape(n, -1) for s in slopes] + [np.ones((1, rate.size))])
    # A pixel that expects nothing says nothing: its slopes vanish faster than its rate.
    weight = 1 / np.maximum(rate.ravel(), 1e-12 * h.max())
    fisher = (jacobian * weight) @ jacobian.T
    scale = 1 / np.sqrt(np.diag(fisher))
    variance = np.diag(np.linalg.inv(fisher * np.outer(scale, scale))) * scale**2
    return np.sqrt(variance[: 2 * n].reshape(2, n).T)
