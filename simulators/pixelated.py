"""What a pixelated detector does to fftshifted patterns: crop, bin, resample.

The functions are linear in the pattern, take NumPy and JAX arrays, and keep track of where the zero
frequency lies; `patterns.Patterns` carries the axes along.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from simulators.angles import angular_sampling, cutoff_shape, like_parity
from simulators.backend import array_module
from simulators.grid import Grid


def crop_shape(grid: Grid, energy: float, crop: str | float) -> tuple[int, int]:
    """Pixels (y, x) of a pixelated detector.

    Parameters
    ----------
    crop : {"full", "cutoff", "valid"} or float
        Everything; the square around the band limit; the square inside it; an angle in mrad.
    """
    shape = grid.shape
    if crop == "full":
        return shape
    if isinstance(crop, (int, float)):
        if not crop > 0:
            raise ValueError(f"a crop needs a positive angle [mrad], got {crop:g}")
        sizes = [2 * math.ceil(crop / s) + 1 for s in angular_sampling(grid, energy)]
        sizes = [like_parity(n, full) for n, full in zip(sizes, shape, strict=True)]
        if any(n > full for n, full in zip(sizes, shape, strict=True)):
            raise ValueError(
                f"a crop to {crop:g} mrad is larger than the pattern: use at most "
                f"{grid.nyquist_angle(energy):.1f} mrad"
            )
        return sizes[0], sizes[1]
    if crop not in ("cutoff", "valid"):
        raise ValueError(f"crop must be full, cutoff, valid or an angle in mrad, got {crop!r}")
    sizes = cutoff_shape(grid)
    if crop == "cutoff":
        return sizes
    inner = [math.floor(n / math.sqrt(2)) for n in sizes]
    return like_parity(inner[0], shape[0]), like_parity(inner[1], shape[1])


def crop_pattern(pattern: Any, shape: tuple[int, int]) -> Any:
    """The central part of fftshifted patterns [..., ny, nx]; zero frequency stays at n // 2."""
    if any(m > n for n, m in zip(pattern.shape[-2:], shape, strict=True)):
        raise ValueError(f"a pattern of {pattern.shape[-2:]} pixels cannot be cropped to {shape}")
    slices = [
        slice(n // 2 - m // 2, n // 2 - m // 2 + m)
        for n, m in zip(pattern.shape[-2:], shape, strict=True)
    ]
    return pattern[..., slices[0], slices[1]]


def shifted(pattern: Any) -> Any:
    """Patterns [..., ny, nx] in FFT order with the zero frequency moved to n // 2."""
    return array_module(pattern).fft.fftshift(pattern, axes=(-2, -1))


def bin_pattern(pattern: Any, factor: int | tuple[int, int]) -> tuple[Any, tuple[float, float]]:
    """Sums over factor (y, x) pixels of fftshifted patterns.

    The bins are laid so that the zero frequency is in the middle of one (odd factor) or half a fine
    pixel from it (even); pixels at the rim that fill no bin are left out.

    Returns
    -------
    binned : [..., my, mx]
    first : (y, x)
        Where the middle of bin [0, 0] lies, in pixels from the zero frequency.

    Raises
    ------
    ValueError
        A factor that is not a positive whole number or larger than the pattern.
    """
    factors = (factor, factor) if isinstance(factor, (int, np.integer)) else tuple(factor)
    first = []
    for axis, b in zip((-2, -1), factors, strict=True):
        n = pattern.shape[axis]
        if b != int(b) or not 1 <= b <= n:
            raise ValueError(f"bins must be 1 to {n} whole pixels wide, got {b}")
        start = (n // 2 - b // 2) % b
        bins = (n - start) // b
        if bins == 0:
            start, bins = 0, 1
        part = [slice(None)] * pattern.ndim
        part[axis] = slice(start, start + bins * b)
        cut = pattern[tuple(part)]
        where = cut.ndim + axis
        cut = cut.reshape(*cut.shape[:where], bins, b, *cut.shape[where + 1 :])
        pattern = cut.sum(axis=where + 1)
        first.append(start + (b - 1) / 2 - n // 2)
    return pattern, (first[0], first[1])


METHODS = ("smooth", "area")


@functools.lru_cache(maxsize=32)
def _resampling(
    n: int, first: float, step: float, m: int, new_first: float, new_step: float, method: str
) -> np.ndarray:
    """Matrix [m, n] from sums over n old pixels to sums over m new ones (read-only)."""
    old = first + step * (np.arange(n + 1) - 0.5)
    new = new_first + new_step * (np.arange(m + 1) - 0.5)
    # The integral of the intensity up to the edges of the old pixels is known exactly; read it at
    # the new edges. What lies outside the pattern is dark.
    integral = np.concatenate([np.zeros((1, n)), np.tril(np.ones((n, n)))])
    at = np.clip(new, old[0], old[-1])
    if method == "area":
        read = np.stack([np.interp(at, old, column) for column in integral.T], axis=1)
    else:
        from scipy.interpolate import CubicSpline

        read = CubicSpline(old, integral, bc_type="natural")(at)
    matrix = np.diff(read, axis=0)
    matrix.setflags(write=False)
    return matrix


def resample_axes(
    pattern: Any,
    first: tuple[float, float],
    step: tuple[float, float],
    shape: tuple[int, int],
    new_first: tuple[float, float],
    new_step: tuple[float, float],
    *,
    method: str = "smooth",
) -> Any:
    """Patterns [..., ny, nx] on other pixels; the sum is kept where these cover the old ones.

    The running integral of the intensity is interpolated, so nothing is lost between pixels.

    Parameters
    ----------
    first, new_first : (y, x)
        Coordinate of the middle of pixel [0, 0], before and after.
    step, new_step : (y, x)
        Size of a pixel.
    shape : (my, mx)
    method : {"smooth", "area"}
        A cubic spline of the integral (smooth, may undershoot below 0 beside sharp edges), or
        shares of pixel areas (never negative, blocky where pixels get smaller).
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    xp = array_module(pattern)
    dtype = pattern.dtype if pattern.dtype.kind == "f" else None
    rows = [
        xp.asarray(_resampling(n, f, s, m, nf, ns, method), dtype)
        for n, f, s, m, nf, ns in zip(
            pattern.shape[-2:], first, step, shape, new_first, new_step, strict=True
        )
    ]
    if xp is np:
        return rows[0] @ pattern @ rows[1].T
    return jnp.einsum("ya,...ab,xb->...yx", rows[0], pattern, rows[1], precision="highest")
