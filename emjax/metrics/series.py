"""Denoised series without a truth: similarity of consecutive frames, and why it is not enough.

`consecutive_similarity` (CSS) rewards whatever does not change: a constant image scores 1. It is
never a result alone. `residual_correlation` is its counterweight (structure that was smoothed away
is found in what was removed), and on simulated series the true SSIM must stand beside both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emjax.metrics.arrays import Array, divide, numbers, same_shape
from emjax.metrics.image_quality import global_ssim, ssim

__all__ = ["consecutive_similarity", "residual_correlation"]


def consecutive_similarity(
    frames: Array, *, data_range: float, windowed: bool = True, **arguments: Any
) -> Array:
    """Mean SSIM of each frame with the one before (CSS, after F. Wang et al. 2020).

    Gameable: a constant image scores 1, strong smoothing close to 1, and the smoother that is
    nearest to the truth scores less. Report it with `residual_correlation`, and with the true SSIM
    on simulated data.

    Parameters
    ----------
    frames : [t, y, x], at least two.
    data_range : of `image_quality.ssim`.
    windowed : windowed SSIM; False: the form without windows.
    **arguments : of `ssim` (window, size, sigma).
    """
    if np.ndim(frames) != 3 or np.shape(frames)[0] < 2:
        raise ValueError(f"frames {np.shape(frames)}: [t, y, x] with at least two are needed.")
    _, f = numbers(frames, names=("frames",))
    if windowed:
        return ssim(f[1:], f[:-1], data_range=data_range, axes=(1, 2), **arguments).mean()
    return global_ssim(f[1:], f[:-1], data_range=data_range, axis=(1, 2), **arguments).mean()


def residual_correlation(noisy: Array, denoised: Array) -> Array:
    """Correlation of neighbouring pixels of what was removed, noisy - denoised: 0 for pure noise.

    The mean over both directions of the lag-one correlation, for images [..., y, x] with noise
    that is independent from pixel to pixel (not behind a camera's point spread). Positive:
    structure went with the noise. Its spread for n pixels of white noise is 1/sqrt(2n). NaN where
    nothing was removed: identity passes no test either.
    """
    same_shape(noisy, denoised, ("noisy", "denoised"))
    xp, a, b = numbers(noisy, denoised, names=("noisy", "denoised"))
    r = a - b
    r = r - r.mean(axis=(-2, -1), keepdims=True)
    power = (r * r).mean(axis=(-2, -1))
    along_y = (r[..., 1:, :] * r[..., :-1, :]).mean(axis=(-2, -1))
    along_x = (r[..., :, 1:] * r[..., :, :-1]).mean(axis=(-2, -1))
    return divide(xp, (along_y + along_x) / 2, power)
