"""Where the probe goes: rasters over a field or over whole periods, lines, lists of points.

All return positions (x, y) in Å as arrays [..., 2]; `scan.raster` is the one with given pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from simulators.electron import wavelength
from simulators.grid import Grid


def nyquist_step(semiangle: float, energy: float, *, fraction: float = 0.99) -> float:
    """Step [Å] at which a scan loses nothing: fraction · λ / (4 α).

    An image holds frequencies up to 2 α / λ, twice the aperture of `semiangle` [mrad].

    >>> round(nyquist_step(20.0, 100e3), 4)
    0.4581
    """
    if not 0.1 <= semiangle < 1e3:
        raise ValueError(f"semiangle = {semiangle:g}: it is in mrad, not rad, 0.1 to 1000")
    return fraction * wavelength(float(energy)) / (4e-3 * semiangle)


def grid_scan(
    start: Sequence[float],
    end: Sequence[float],
    *,
    shape: tuple[int, int] | None = None,
    step: float | tuple[float, float] | None = None,
    endpoint: bool = False,
) -> np.ndarray:
    """Positions [ny, nx, 2] of a rectangular field from `start` to `end`.

    Parameters
    ----------
    start, end : (x, y)
        Å.
    shape : (ny, nx), optional
    step : float or (y, x), optional
        At most this many Å between positions (`nyquist_step` for a probe); give this or `shape`.
    endpoint : bool
        Whether `end` is the last position. Without it the field is n steps wide, so that two fields
        side by side share no position and a field over whole periods is periodic.

    Raises
    ------
    ValueError
        Both or none of shape and step, a field without area.
    """
    if (shape is None) == (step is None):
        raise ValueError("give either shape (ny, nx) or step (Å; nyquist_step gives one)")
    size = (float(end[1]) - float(start[1]), float(end[0]) - float(start[0]))
    if not (np.isfinite(size).all() and min(size) > 0):
        raise ValueError(f"the scan from {tuple(start)} to {tuple(end)} (x, y) has no area")
    if shape is None:
        steps = np.broadcast_to(np.asarray(step, float), (2,))
        if not (steps > 0).all():
            raise ValueError(f"step must be positive Å, got {step}")
        counts = [math.ceil(s / d - 1e-9) + int(endpoint) for s, d in zip(size, steps, strict=True)]
        shape = (counts[0], counts[1])
    if min(shape) < 1:
        raise ValueError(f"a scan needs at least one position in y and x, got {shape}")
    y, x = (
        np.linspace(a, b, n, endpoint=endpoint)
        for a, b, n in zip((start[1], start[0]), (end[1], end[0]), shape, strict=True)
    )
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)


def periodic_scan(
    grid: Grid,
    *,
    shape: tuple[int, int] | None = None,
    step: float | tuple[float, float] | None = None,
    repeats: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Positions over the whole cell, or over one of its `repeats` (y, x) equal parts.

    The image is periodic: it may be tiled, and interpolated in Fourier space.
    """
    ly, lx = (length / n for length, n in zip(grid.extent, repeats, strict=True))
    return grid_scan((0.0, 0.0), (lx, ly), shape=shape, step=step)


def line_scan(
    start: Sequence[float],
    end: Sequence[float],
    *,
    n: int | None = None,
    step: float | None = None,
    margin: float = 0.0,
    endpoint: bool = True,
) -> np.ndarray:
    """Positions [n, 2] on a line.

    Parameters
    ----------
    start, end : (x, y)
        Å.
    n : int, optional
    step : float, optional
        At most this many Å between positions; give this or `n`.
    margin : float
        Å by which the line is longer at both ends.
    endpoint : bool
        Whether `end` is the last position.
    """
    if (n is None) == (step is None):
        raise ValueError("give either n or step (Å; nyquist_step gives one)")
    a, b = np.asarray(start, float), np.asarray(end, float)
    length = float(np.linalg.norm(b - a))
    if a.shape != (2,) or b.shape != (2,) or not length > 0:
        raise ValueError(f"a line needs two different points (x, y), got {start} and {end}")
    along = (b - a) / length
    a, b, length = a - margin * along, b + margin * along, length + 2 * margin
    if n is None:
        assert step is not None
        if not step > 0:
            raise ValueError(f"step must be positive Å, got {step}")
        n = math.ceil(length / step - 1e-9) + int(endpoint)
    if n < 1 or length <= 0:
        raise ValueError(f"no position is left on the line (n = {n}, length {length:g} Å)")
    return np.linspace(a, b, n, endpoint=endpoint)


def custom_scan(points: Any, grid: Grid | None = None) -> np.ndarray:
    """Positions [..., 2] as given, checked: finite and, with a grid, inside its cell.

    Raises
    ------
    ValueError
        With the index of the first position that is wrong.
    """
    points = np.asarray(points, float)
    if points.ndim < 1 or points.shape[-1] != 2 or points.size == 0:
        raise ValueError(f"positions must be [..., 2] (x, y) in Å, got shape {points.shape}")
    flat = points.reshape(-1, 2)
    if not np.isfinite(flat).all():
        bad = int(np.argmax(~np.isfinite(flat).all(axis=1)))
        raise ValueError(f"position {bad} is not finite: {flat[bad]}")
    if grid is not None:
        limit = np.array(grid.extent[::-1])
        outside = ((flat < -1e-9) | (flat > limit + 1e-9)).any(axis=1)
        if outside.any():
            bad = int(np.argmax(outside))
            raise ValueError(
                f"position {bad} at {flat[bad]} (x, y) lies outside the cell of {limit} Å"
            )
    return points


def scan_step(positions: Any) -> tuple[float, float]:
    """(y, x) Å between the positions [ny, nx, 2] of a raster, rotated or not.

    Raises
    ------
    ValueError
        Positions that are no raster of at least 2 × 2.
    """
    positions = np.asarray(positions, float)
    if positions.ndim != 3 or positions.shape[-1] != 2 or min(positions.shape[:2]) < 2:
        raise ValueError(f"a raster is [ny, nx, 2], 2 × 2 at least, got shape {positions.shape}")
    down, right = positions[1, 0] - positions[0, 0], positions[0, 1] - positions[0, 0]
    i, j = np.ogrid[: positions.shape[0], : positions.shape[1]]
    ideal = positions[0, 0] + i[..., None] * down + j[..., None] * right
    dy, dx = float(np.linalg.norm(down)), float(np.linalg.norm(right))
    if np.abs(ideal - positions).max() > 1e-6 * max(dy, dx) or abs(down @ right) > 1e-6 * dy * dx:
        raise ValueError("the positions are no raster with equal steps at a right angle")
    return dy, dx


def is_periodic(positions: Any, grid: Grid) -> bool:
    """Whether the raster's field is a whole number of cells along y and x, unrotated."""
    positions = np.asarray(positions, float)
    steps = scan_step(positions)
    straight = np.allclose(positions[:, 0, 0], positions[0, 0, 0]) and np.allclose(
        positions[0, :, 1], positions[0, 0, 1]
    )
    cells = [
        n * d / length for n, d, length in zip(positions.shape[:2], steps, grid.extent, strict=True)
    ]
    return straight and all(round(c) >= 1 and abs(c - round(c)) < 1e-6 for c in cells)
