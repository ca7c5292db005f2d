"""Detectors in the diffraction plane, as sensitivity maps over the pixels of the grid.

Every channel of every detector becomes one row of a matrix [channels, ny·nx], so all of them are
read from one pass by one matrix product; `split` hands each detector its own. Pixels are hard,
inner <= θ < outer, as in abTEM. A detector is any object with `sensitivity(grid, energy)`, and
`channels` where it has several.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from simulators.angles import (
    angular_sampling,
    check_angles,
    check_sees,
    cutoff_angle,
    scattering_angles,
)
from simulators.detector_maps import CentreOfMass, RadialSensitivity, SensitivityMap
from simulators.grid import Grid
from simulators.pixelated import crop_pattern, crop_shape

__all__ = [
    "DETECTORS",
    "Annular",
    "CentreOfMass",
    "Detector",
    "Flexible",
    "RadialSensitivity",
    "Segmented",
    "SensitivityMap",
    "annular_bright_field",
    "bright_field",
    "check_angles",
    "crop_pattern",
    "crop_shape",
    "detector_matrix",
    "scattering_angles",
    "split",
]


class Detector(Protocol):
    """What a detector offers: its sensitivity per diffraction pixel.

    A detector with several channels also has `channels`: their number, or None where it depends on
    the grid. Without it the detector has one channel.
    """

    def sensitivity(self, grid: Grid, energy: float) -> np.ndarray:
        """Weights [ny, nx], or [channels, ny, nx], in FFT order."""
        ...


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
        _check_ring(self.inner, self.outer, "an annular detector")

    def sensitivity(self, grid: Grid, energy: float) -> np.ndarray:
        """1 on the detector, 0 elsewhere, [ny, nx] in FFT order.

        Raises
        ------
        ValueError
            A detector that reaches beyond the grid's Nyquist angle, lies beyond the band limit, or
            is so small that no pixel lies on it.

        Warns
        -----
        UserWarning
            Where the band limit cuts the detector.
        """
        outer = _outer(self.outer, grid, energy)
        # left to the grid, the outer angle is no wish that the band limit could cut
        away = math.hypot(*self.offset)
        limit = min(grid.antialias_angle(energy), grid.nyquist_angle(energy))
        asked = limit - away if self.outer is None else outer
        check_angles(self.inner, asked, away, grid, energy)
        theta = np.hypot(*scattering_angles(grid, energy))
        mask = (theta >= self.inner) & (theta < outer)
        mask = _shifted(mask, self.offset, grid, energy).astype(float)
        check_sees(mask, f"the ring from {self.inner:g} to {outer:g} mrad", grid, energy)
        return mask


@dataclass(frozen=True)
class Flexible:
    """Rings of one width, one channel each: the annular detector to be chosen afterwards.

    The sum of channels a to b - 1 is the annular detector from `inner + a·step` to
    `inner + b·step`. A ring narrower than a diffraction pixel may hold no pixel and reads 0.

    Attributes
    ----------
    step : float
        Width of a ring in mrad.
    inner, outer : float
        mrad. The last ring ends with the last whole step below `outer`; `outer=None`: below the
        band limit.
    """

    step: float = 1.0
    inner: float = 0.0
    outer: float | None = None

    def __post_init__(self) -> None:
        _check_ring(self.inner, self.outer, "a flexible annular detector")
        if not self.step > 0:
            raise ValueError(f"rings need a positive step [mrad], got {self.step}")
        if self.outer is not None and self.channels == 0:
            raise ValueError(
                f"no ring of {self.step:g} mrad fits between {self.inner:g} and {self.outer:g} mrad"
            )

    @property
    def channels(self) -> int | None:
        """Number of rings; None where the band limit of the grid decides."""
        return None if self.outer is None else self._rings(self.outer)

    def _rings(self, outer: float) -> int:
        return math.floor((outer - self.inner) / self.step + 1e-9)

    def edges(self, grid: Grid, energy: float) -> np.ndarray:
        """Edges of the rings [rings + 1] in mrad."""
        outer = cutoff_angle(grid, energy) if self.outer is None else self.outer
        return self.inner + self.step * np.arange(max(self._rings(outer), 0) + 1)

    def sensitivity(self, grid: Grid, energy: float) -> np.ndarray:
        """[rings, ny, nx] in FFT order; raises and warns as `Annular` does."""
        edges = self.edges(grid, energy)
        limit = grid.antialias_angle(energy)
        if len(edges) == 1:
            raise ValueError(
                f"no ring of {self.step:g} mrad from {self.inner:g} mrad fits below the band limit "
                f"of {limit:.1f} mrad: use narrower rings or a finer sampling"
            )
        limit = min(limit, grid.nyquist_angle(energy))
        asked = min(edges[-1], limit) if self.outer is None else edges[-1]
        check_angles(self.inner, asked, 0.0, grid, energy)
        theta = np.hypot(*scattering_angles(grid, energy))
        ring = np.searchsorted(edges, theta, side="right") - 1
        rows = (ring[None] == np.arange(len(edges) - 1)[:, None, None]).astype(float)
        check_sees(rows, f"the rings from {self.inner:g} to {edges[-1]:g} mrad", grid, energy)
        return rows


@dataclass(frozen=True)
class Segmented:
    """A ring divided into segments of equal angular width, radial-major.

    Channel `r · azimuthal + a` covers the r-th part of the radius and the azimuths
    [a, a + 1) · 2π / azimuthal + rotation, from +x towards +y.

    Attributes
    ----------
    inner, outer : float
        mrad.
    radial, azimuthal : int
        Number of rings and of segments in each.
    rotation : float
        rad.
    offset : (x, y)
        Shift of the centre in mrad, rounded to whole pixels.
    """

    inner: float
    outer: float
    radial: int = 1
    azimuthal: int = 4
    rotation: float = 0.0
    offset: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        _check_ring(self.inner, self.outer, "a segmented detector")
        if self.radial < 1 or self.azimuthal < 1:
            raise ValueError(
                f"a segmented detector needs at least one ring and one segment, got {self.radial} "
                f"and {self.azimuthal}"
            )

    @property
    def channels(self) -> int:
        """radial · azimuthal."""
        return self.radial * self.azimuthal

    def segment_at(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Channel at angles (y, x) in mrad, -1 outside the ring."""
        theta, phi = np.hypot(y, x), np.arctan2(y, x)
        part = self.radial * (theta - self.inner) / (self.outer - self.inner)
        turn = self.azimuthal * (((phi - self.rotation) % (2 * np.pi)) / (2 * np.pi))
        # a difference of a last digit below 2π is still the last segment
        ring = np.clip(np.floor(part).astype(int), 0, self.radial - 1)
        sector = np.floor(turn).astype(int) % self.azimuthal
        inside = (theta >= self.inner) & (theta < self.outer)
        return np.where(inside, ring * self.azimuthal + sector, -1)

    def sensitivity(self, grid: Grid, energy: float) -> np.ndarray:
        """[radial · azimuthal, ny, nx] in FFT order; raises and warns as `Annular` does.

        Warns
        -----
        UserWarning
            Also where a segment is so small that no pixel lies on it.
        """
        check_angles(self.inner, self.outer, math.hypot(*self.offset), grid, energy)
        segment = self.segment_at(*np.broadcast_arrays(*scattering_angles(grid, energy)))
        rows = segment[None] == np.arange(self.channels)[:, None, None]
        rows = _shifted(rows, self.offset, grid, energy).astype(float)
        what = f"the segmented detector from {self.inner:g} to {self.outer:g} mrad"
        check_sees(rows, what, grid, energy)
        empty = np.flatnonzero(~rows.any(axis=(-2, -1)))
        if len(empty):
            sy, sx = angular_sampling(grid, energy)
            warnings.warn(
                f"segments {empty.tolist()} of {what} hold no diffraction pixel and read 0: pixels "
                f"are {sx:.2f} × {sy:.2f} mrad (x, y). Enlarge the cell or take fewer segments",
                stacklevel=2,
            )
        return rows


def bright_field(semiangle: float) -> Annular:
    """The whole bright-field disc of a probe of `semiangle` [mrad]."""
    return Annular(0.0, semiangle)


def annular_bright_field(semiangle: float, *, inner: float = 0.5) -> Annular:
    """The outer part of the bright-field disc, from `inner` · semiangle (Findlay et al. 2009)."""
    return Annular(inner * semiangle, semiangle)


DETECTORS = {
    "annular": Annular,
    "bright_field": bright_field,
    "annular_bright_field": annular_bright_field,
    "flexible": Flexible,
    "segmented": Segmented,
    "map": SensitivityMap,
    "radial": RadialSensitivity,
    "centre_of_mass": CentreOfMass,
}
"""Detectors by name."""


def detector_matrix(detectors: Sequence[Detector], grid: Grid, energy: float) -> np.ndarray:
    """Sensitivities [channels of all detectors, ny·nx], float64, FFT order.

    Raises
    ------
    ValueError
        No detector, one that the grid cannot serve, or a map that is not on the grid.
    """
    if callable(getattr(detectors, "sensitivity", None)):
        raise ValueError(f"give a list of detectors: [{type(detectors).__name__}(…)]")
    if not detectors:
        raise ValueError("give at least one detector")
    rows = []
    for detector in detectors:
        weights = np.asarray(detector.sensitivity(grid, float(energy)), float)
        if weights.shape[-2:] != grid.shape or weights.ndim not in (2, 3):
            raise ValueError(
                f"the sensitivity of {type(detector).__name__} has shape {weights.shape} but must "
                f"be {grid.shape} (y, x), or [channels, y, x]"
            )
        rows.append(weights.reshape(-1, grid.shape[0] * grid.shape[1]))
    return np.concatenate(rows)


def split(
    signal: Any, detectors: Sequence[Detector], grid: Grid | None = None, energy: float = 0.0
) -> list[Any]:
    """Each detector's own part of a signal [channels of all detectors, ...].

    Parameters
    ----------
    signal : array [rows, ...]
        As of `stem` with the same detectors.
    grid, energy
        Only needed where several detectors leave their number of channels to the grid.

    Returns
    -------
    list of arrays
        [...] for a detector of one channel, [channels, ...] for the others.

    Raises
    ------
    ValueError
        A signal whose rows are not those of the detectors.
    """
    counts = [getattr(d, "channels", 1) for d in detectors]
    if grid is not None:
        counts = [
            len(np.atleast_3d(d.sensitivity(grid, energy))) if n is None else n
            for d, n in zip(detectors, counts, strict=True)
        ]
    open_ended = [i for i, n in enumerate(counts) if n is None]
    if len(open_ended) == 1:
        counts[open_ended[0]] = signal.shape[0] - sum(n for n in counts if n is not None)
    elif open_ended:
        raise ValueError(
            f"{len(open_ended)} detectors have as many channels as the grid allows: pass grid and "
            "energy, or give the detectors an outer angle"
        )
    if sum(counts) != signal.shape[0] or min(counts) < 1:
        raise ValueError(
            f"the signal has {signal.shape[0]} rows but the detectors have {counts} channels"
        )
    parts, start = [], 0
    for detector, n in zip(detectors, counts, strict=True):
        part = signal[start : start + n]
        parts.append(part if hasattr(detector, "channels") else part[0])
        start += n
    return parts


def _check_ring(inner: float, outer: float | None, what: str) -> None:
    if not inner >= 0 or (outer is not None and not outer > inner):
        raise ValueError(f"{what} needs 0 <= inner < outer [mrad], got {inner:g} and {outer}")


def _outer(outer: float | None, grid: Grid, energy: float) -> float:
    """`outer`, or the whole mrad below the cutoff angle."""
    return math.floor(cutoff_angle(grid, energy)) if outer is None else outer


def _shifted(
    mask: np.ndarray, offset: tuple[float, float], grid: Grid, energy: float
) -> np.ndarray:
    """Masks [..., ny, nx] in FFT order moved by whole pixels; what would wrap around is dropped."""
    steps = [
        round(angle / step)
        for angle, step in zip(offset[::-1], angular_sampling(grid, energy), strict=True)
    ]
    if not any(steps):
        return mask
    mask = np.fft.fftshift(mask, axes=(-2, -1))
    for axis, by in zip((-2, -1), steps, strict=True):
        mask = np.roll(mask, by, axis)
        view = np.moveaxis(mask, axis, 0)
        if by > 0:
            view[:by] = False
        elif by < 0:
            view[by:] = False
    return np.fft.ifftshift(mask, axes=(-2, -1))
