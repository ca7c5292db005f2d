"""Detectors in the diffraction plane, as sensitivity maps over the pixels of the grid.

Every detector becomes one row of a matrix [detectors, ny·nx], so all of them are read from one
pass by one matrix product. Pixels are hard, inner <= θ < outer, as in abTEM.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from simulators.electron import wavelength
from simulators.grid import ANTIALIAS_CUTOFF, Grid


class Detector(Protocol):
    """What a detector offers: its sensitivity per diffraction pixel."""

    def sensitivity(self, grid: Grid, energy: float) -> np.ndarray:
        """Weights [ny, nx] in FFT order."""
        ...


def scattering_angles(grid: Grid, energy: float) -> tuple[np.ndarray, np.ndarray]:
    """Angles (y, x) in mrad of the diffraction pixels, [ny, 1] and [1, nx], FFT order."""
    steps = [1e3 * wavelength(float(energy)) / length for length in grid.extent]
    y, x = (np.fft.fftfreq(n, 1 / n) * s for n, s in zip(grid.shape, steps, strict=True))
    return y[:, None], x[None, :]


@dataclass(frozen=True)
class Annular:
    """A disc or ring.

    Attributes
    ----------
    inner, outer : float
        mrad, inner <= θ < outer. `outer=None`: the whole mrad below the band limit.
    offset : (x, y)
        Shift of the centre in mrad, rounded to whole diffraction pixels as abTEM does.
    """

    inner: float
    outer: float | None = None
    offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.inner < 0 or (self.outer is not None and self.outer <= self.inner):
            raise ValueError(
                f"an annular detector needs 0 <= inner < outer [mrad], got {self.inner:g} and "
                f"{self.outer}"
            )

    def sensitivity(self, grid: Grid, energy: float) -> np.ndarray:
        """1 on the detector, 0 elsewhere, [ny, nx] in FFT order.

        Raises
        ------
        ValueError
            A detector that reaches beyond the grid's Nyquist angle or lies beyond the band limit.

        Warns
        -----
        UserWarning
            Where the band limit cuts the detector.
        """
        limit = grid.antialias_angle(energy)
        outer = math.floor(limit) if self.outer is None else self.outer
        check_angles(self.inner, outer, math.hypot(*self.offset), grid, energy)
        y, x = scattering_angles(grid, energy)
        theta = np.hypot(y, x)
        mask = np.fft.fftshift((theta >= self.inner) & (theta < outer))
        steps = [1e3 * wavelength(float(energy)) / length for length in grid.extent]
        for axis, (angle, step) in enumerate(zip(self.offset[::-1], steps, strict=True)):
            mask = _shift(mask, round(angle / step), axis)
        return np.fft.ifftshift(mask).astype(float)


DETECTORS = {"annular": Annular}
"""Detectors by name."""


def _shift(mask: np.ndarray, by: int, axis: int) -> np.ndarray:
    """Roll by whole pixels; what would wrap around is dropped."""
    mask = np.roll(mask, by, axis)
    view = np.moveaxis(mask, axis, 0)
    if by > 0:
        view[:by] = False
    elif by < 0:
        view[by:] = False
    return mask


def check_angles(inner: float, outer: float, offset: float, grid: Grid, energy: float) -> None:
    """Raise or warn where a detector asks for angles that the grid does not carry."""
    nyquist, limit = grid.nyquist_angle(energy), grid.antialias_angle(energy)
    if outer > nyquist * (1 + 1e-9):
        raise ValueError(
            f"the detector reaches to {outer:g} mrad but the grid's Nyquist angle is "
            f"{nyquist:.1f} mrad: use a sampling of {_sampling_for(outer, energy):.4f} Å or finer"
        )
    if inner - offset >= limit:
        raise ValueError(
            f"the detector from {inner:g} mrad lies beyond the band limit of {limit:.1f} mrad and "
            f"would see nothing: use a sampling of {_sampling_for(outer, energy):.4f} Å or finer"
        )
    if outer > limit * (1 + 1e-9):
        warnings.warn(
            f"the detector to {outer:g} mrad is cut by the band limit at {limit:.1f} mrad: use a "
            f"sampling of {_sampling_for(outer, energy):.4f} Å to see all of it",
            stacklevel=3,
        )


def _sampling_for(angle: float, energy: float) -> float:
    """Sampling [Å] whose band limit is `angle` [mrad]."""
    return ANTIALIAS_CUTOFF * wavelength(float(energy)) * 1e3 / (2 * angle)


def detector_matrix(detectors: Sequence[Detector], grid: Grid, energy: float) -> np.ndarray:
    """Sensitivities [detectors, ny·nx], float64, FFT order."""
    if not detectors:
        raise ValueError("give at least one detector")
    return np.stack([d.sensitivity(grid, float(energy)).ravel() for d in detectors])


def crop_shape(grid: Grid, energy: float, crop: str | float) -> tuple[int, int]:
    """Pixels (y, x) of a pixelated detector.

    Parameters
    ----------
    crop : {"full", "cutoff", "valid"} or float
        Everything; the square around the band limit; the square inside it; an angle in mrad.
    """
    lengths, shape = grid.extent, grid.shape
    if crop == "full":
        return shape
    if isinstance(crop, (int, float)):
        steps = [1e3 * wavelength(float(energy)) / length for length in lengths]
        sizes = [2 * math.ceil(crop / s) + 1 for s in steps]
        if any(n > full for n, full in zip(sizes, shape, strict=True)):
            raise ValueError(
                f"a crop to {crop:g} mrad is larger than the pattern: use at most "
                f"{grid.nyquist_angle(energy):.1f} mrad"
            )
        return _parity(sizes[0], shape[0]), _parity(sizes[1], shape[1])
    cutoff = [math.floor(2 * grid.antialias_cutoff() * length + 1e-9) for length in lengths]
    sizes = [_parity(n, full) for n, full in zip(cutoff, shape, strict=True)]
    if crop == "valid":
        sizes = [
            _parity(math.floor(n / math.sqrt(2)), full)
            for n, full in zip(sizes, shape, strict=True)
        ]
    elif crop != "cutoff":
        raise ValueError(f"crop must be full, cutoff, valid or an angle in mrad, got {crop!r}")
    return sizes[0], sizes[1]


def _parity(n: int, like: int) -> int:
    """n, one more where its parity differs from `like`."""
    return n + (n % 2 != like % 2)


def crop_pattern(pattern: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The central part of fftshifted patterns [..., ny, nx]; zero frequency stays at n // 2."""
    slices = [
        slice(n // 2 - m // 2, n // 2 - m // 2 + m)
        for n, m in zip(pattern.shape[-2:], shape, strict=True)
    ]
    return pattern[..., slices[0], slices[1]]
