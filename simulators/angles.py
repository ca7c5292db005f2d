"""Scattering angles of the diffraction pixels, and which of them a grid carries."""

from __future__ import annotations

import math
import warnings

import numpy as np

from simulators.electron import wavelength
from simulators.grid import ANTIALIAS_CUTOFF, Grid


def angular_sampling(grid: Grid, energy: float) -> tuple[float, float]:
    """(y, x) steps of the diffraction pixels in mrad: λ / extent."""
    return tuple(1e3 * wavelength(float(energy)) / length for length in grid.extent)  # type: ignore[return-value]


def scattering_angles(grid: Grid, energy: float) -> tuple[np.ndarray, np.ndarray]:
    """Angles (y, x) in mrad of the diffraction pixels, [ny, 1] and [1, nx], FFT order."""
    steps = angular_sampling(grid, energy)
    y, x = (np.fft.fftfreq(n, 1 / n) * s for n, s in zip(grid.shape, steps, strict=True))
    return y[:, None], x[None, :]


def like_parity(n: int, like: int) -> int:
    """n, one more where its parity differs from `like`."""
    return n + (n % 2 != like % 2)


def cutoff_shape(grid: Grid) -> tuple[int, int]:
    """Pixels (y, x) across the square around the band limit, with the grid's parity."""
    # abTEM takes 2/3 here and 0.6666666 in its mask: a pixel where 2/3 of a side is a whole number
    cutoff = 2 / 3 * grid.antialias_cutoff() / ANTIALIAS_CUTOFF
    sizes = [math.floor(2 * cutoff * length + 1e-9) for length in grid.extent]
    return like_parity(sizes[0], grid.shape[0]), like_parity(sizes[1], grid.shape[1])


def cutoff_angle(grid: Grid, energy: float) -> float:
    """abTEM's cutoff angle [mrad]: half the smaller side of `cutoff_shape`.

    It differs from `Grid.antialias_angle` by up to a pixel, and decides where detectors without an
    outer angle end.
    """
    sides = zip(cutoff_shape(grid), angular_sampling(grid, energy), strict=True)
    return min(n / 2 * step for n, step in sides)


def check_angles(
    inner: float, outer: float, offset: float, grid: Grid, energy: float, *, stacklevel: int = 3
) -> None:
    """Raise or warn where a detector asks for angles that the grid does not carry.

    Raises
    ------
    ValueError
        The detector reaches beyond the grid's Nyquist angle, or lies beyond the band limit.

    Warns
    -----
    UserWarning
        The band limit cuts the detector.
    """
    nyquist, limit = grid.nyquist_angle(energy), grid.antialias_angle(energy)
    if outer > nyquist * (1 + 1e-9):
        raise ValueError(
            f"the detector reaches to {outer:g} mrad but the grid's Nyquist angle is "
            f"{nyquist:.1f} mrad: use a sampling of {_sampling_for(outer, energy):.4f} Å or finer"
        )
    nearest = max(inner - offset, offset - outer)
    if nearest >= limit:
        reach = max(outer, offset + outer)
        raise ValueError(
            f"the detector from {nearest:g} mrad lies beyond the band limit of {limit:.1f} mrad "
            f"and would see nothing: use a sampling of {_sampling_for(reach, energy):.4f} Å or "
            "finer"
        )
    reach = outer + offset
    if reach > limit * (1 + 1e-9):
        warnings.warn(
            f"the detector to {reach:g} mrad is cut by the band limit at {limit:.1f} mrad: use a "
            f"sampling of {_sampling_for(reach, energy):.4f} Å to see all of it",
            stacklevel=stacklevel,
        )


def check_sees(sensitivity: np.ndarray, what: str, grid: Grid, energy: float) -> None:
    """Raise where a detector [..., ny, nx] (FFT order) has no pixel inside the band limit.

    Raises
    ------
    ValueError
        With the size of the pixels and the band limit.
    """
    y, x = scattering_angles(grid, energy)
    limit = grid.antialias_angle(energy)
    if not np.any(sensitivity[..., np.hypot(y, x) < limit]):
        sy, sx = angular_sampling(grid, energy)
        raise ValueError(
            f"{what} covers no diffraction pixel inside the band limit of {limit:.1f} mrad: the "
            f"pixels are {sx:.2f} × {sy:.2f} mrad (x, y). Widen the detector, move it, or enlarge "
            "the cell (tile the structure) for smaller pixels"
        )


def _sampling_for(angle: float, energy: float) -> float:
    """Sampling [Å] whose band limit is `angle` [mrad]."""
    return ANTIALIAS_CUTOFF * wavelength(float(energy)) * 1e3 / (2 * angle)
