"""Images between their pixels: finer sampling, tiling, profiles along lines, values at points.

A periodic image is read by its Fourier series, exactly if it is band-limited; a cropped one by a
cubic spline (not-a-knot). Both are one thin matrix per axis, linear in the image and smooth in the
points, so everything has gradients.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from simulators.backend import array_module, is_concrete


def fourier_weights(at: Any, n: int) -> Any:
    """[p, n]: weights of the pixels of a period of `n` for values at fractional pixels [p]."""
    xp = array_module(at)
    at = xp.asarray(at)
    order = np.arange(n // 2 + 1)
    share = np.where((order == 0) | (2 * order == n), 1.0, 2.0) / n
    turns = at[:, None] * xp.asarray(order / n, at.dtype)[None]
    phase = 2 * np.pi * (turns - xp.round(turns))
    known = 2 * np.pi * (order[:, None] * np.arange(n)[None] % n) / n
    even = xp.asarray(share[:, None] * np.cos(known), at.dtype)
    odd = xp.asarray(share[:, None] * np.sin(known), at.dtype)
    return _product(xp.cos(phase), even) + _product(xp.sin(phase), odd)


def spline_weights(at: Any, n: int) -> Any:
    """[p, n]: weights of `n` >= 4 pixels for their cubic spline at fractional pixels [p]."""
    if n < 4:
        raise ValueError(f"a cubic spline needs at least 4 pixels a side, got {n}")
    xp = array_module(at)
    at = xp.asarray(at)
    distance = xp.abs(at[:, None] - xp.asarray(np.arange(-1.0, n + 1), at.dtype)[None])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = xp.clip(2 - distance, 0, None) ** 3 / 6
    return _product(xp.where(distance < 1, near, far), xp.asarray(_b_spline(n), at.dtype))


@functools.lru_cache(maxsize=32)
def _b_spline(n: int) -> np.ndarray:
    """[n + 2, n]: coefficients of the B-splines at -1 … n that pass through n values."""
    system = np.zeros((n + 2, n + 2))
    rows = np.arange(n)
    for shift, value in ((0, 1 / 6), (1, 4 / 6), (2, 1 / 6)):
        system[rows, rows + shift] = value
    # not-a-knot: one cubic over the first two and the last two intervals
    system[n, :5] = system[n + 1, -5:] = (1, -4, 6, -4, 1)
    matrix = np.linalg.inv(system)[:, :n]
    matrix.setflags(write=False)
    return matrix


def _product(a: Any, b: Any) -> Any:
    xp = array_module(a, b)
    return a @ b if xp is np else xp.matmul(a, b, precision="highest")


def _weights(at: Any, n: int, periodic: bool) -> Any:
    return fourier_weights(at, n) if periodic else spline_weights(at, n)


def sample(
    image: Any,
    positions: Any,
    sampling: float | tuple[float, float],
    *,
    periodic: bool = True,
) -> Any:
    """Values [..., p] of images [..., ny, nx] at positions (x, y) [p, 2] in Å from pixel (0, 0).

    Raises
    ------
    ValueError
        Positions outside an image that is not periodic (where they are known numbers).
    """
    xp = array_module(image, positions)
    shape = image.shape[-2:]
    steps = np.broadcast_to(sampling, (2,))
    axes = [positions[:, 1] / float(steps[0]), positions[:, 0] / float(steps[1])]
    for name, at, n in zip("yx", axes, shape, strict=True):
        if periodic or not is_concrete(at):
            continue
        if (at < -1e-6).any() or (at > n - 1 + 1e-6).any():
            raise ValueError(
                f"positions lie outside the image in {name}: pixels {at.min():.2f} to "
                f"{at.max():.2f} of 0 to {n - 1}"
            )
    y, x = (xp.asarray(_weights(a, n, periodic)) for a, n in zip(axes, shape, strict=True))
    y, x = y.astype(image.dtype), x.astype(image.dtype)
    options = {} if xp is np else {"precision": "highest"}
    return xp.einsum("py,...yx,px->...p", y, image, x, **options)


def interpolate(
    image: Any,
    sampling: float | tuple[float, float],
    finer: float | tuple[float, float],
    *,
    periodic: bool = True,
) -> tuple[Any, tuple[float, float]]:
    """Images [..., ny, nx] with pixels of at most `finer` (y, x) Å.

    Parameters
    ----------
    sampling : float or (y, x)
        Of the image, Å.
    periodic : bool
        True for a scan over whole periods (Fourier). False for a cropped field (spline): the last
        pixel then stays the last.

    Returns
    -------
    image : [..., my, mx]
    sampling : (y, x)
        Å.
    """
    xp = array_module(image)
    result, steps = image, []
    pairs = zip(np.broadcast_to(sampling, (2,)), np.broadcast_to(finer, (2,)), strict=True)
    for axis, (old, new) in zip((-2, -1), pairs, strict=True):
        if not (old > 0 and new > 0):
            raise ValueError(f"samplings must be positive Å, got {sampling} and {finer}")
        n = image.shape[axis]
        intervals = n if periodic else n - 1
        m = max(1, math.ceil(intervals * old / new - 1e-9))
        steps.append(float(intervals * old / m))
        at = np.arange(m if periodic else m + 1) * (intervals / m)
        weights = xp.asarray(_weights(at, n, periodic), image.dtype)
        result = xp.moveaxis(_product(weights, xp.moveaxis(result, axis, -2)), -2, axis)
    return result, (steps[0], steps[1])


def tile(image: Any, repeats: tuple[int, int]) -> Any:
    """Periodic images [..., ny, nx] repeated (y, x) times."""
    if min(repeats) < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    xp = array_module(image)
    return xp.tile(image, (1,) * (image.ndim - 2) + tuple(repeats))


def line_profile(
    image: Any,
    sampling: float | tuple[float, float],
    start: Sequence[float],
    end: Sequence[float],
    *,
    n: int = 100,
    width: float = 0.0,
    periodic: bool = True,
) -> tuple[np.ndarray, Any]:
    """Distances [n] in Å and values [..., n] along a line, averaged over `width` Å across it.

    Parameters
    ----------
    start, end : (x, y)
        Å from pixel (0, 0).
    """
    a, b = np.asarray(start, float), np.asarray(end, float)
    length = float(np.linalg.norm(b - a))
    if not length > 0 or n < 2:
        raise ValueError("a profile needs two different points and n of at least 2")
    across = np.array([-(b - a)[1], (b - a)[0]]) / length
    count = 1 + 2 * math.ceil(width / 2 / float(np.min(sampling))) if width > 0 else 1
    offsets = np.linspace(-width / 2, width / 2, count) if count > 1 else np.zeros(1)
    points = np.linspace(a, b, n)[None] + offsets[:, None, None] * across
    values = sample(image, points.reshape(-1, 2), sampling, periodic=periodic)
    values = values.reshape(*values.shape[:-1], count, n).mean(axis=-2)
    return np.linspace(0, length, n), values
