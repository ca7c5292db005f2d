"""Detectors given by numbers: sensitivity maps, radial profiles, centre-of-mass weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulators.angles import angular_sampling, check_sees, scattering_angles
from simulators.electron import wavelength
from simulators.grid import Grid
from simulators.pixelated import crop_shape

UNITS = ("1/Å", "mrad")


@dataclass(frozen=True, eq=False)
class SensitivityMap:
    """A measured or drawn sensitivity, interpolated linearly onto the diffraction pixels.

    Attributes
    ----------
    values : float [my, mx]
        Sensitivity; 0 outside the map.
    sampling : float or (y, x)
        mrad per pixel of the map.
    centre : (x, y), optional
        Pixel of the map, fractions allowed, where the optic axis hits; (mx // 2, my // 2) if not
        given.
    rotation : float
        Of the map against the specimen, rad, from +x towards +y.
    """

    values: Any
    sampling: float | tuple[float, float]
    centre: tuple[float, float] | None = None
    rotation: float = 0.0

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.ndim != 2 or min(values.shape) < 2 or not np.isfinite(values).all():
            raise ValueError(
                "a sensitivity map is an array [y, x] of finite numbers with at least 2 pixels a "
                f"side, got shape {values.shape}"
            )
        if not np.all(np.asarray(self.sampling, float) > 0):
            raise ValueError(f"sampling must be positive mrad per pixel, got {self.sampling}")

    def sensitivity(self, grid: Grid, energy: float) -> np.ndarray:
        """Weights [ny, nx] in FFT order.

        Raises
        ------
        ValueError
            A map that lies beyond the band limit or is 0 on all pixels.

        Warns
        -----
        UserWarning
            Where the map is not 0 beyond the band limit.
        """
        values = np.asarray(self.values, float)
        (my, mx), (sy, sx) = values.shape, np.broadcast_to(self.sampling, (2,))
        cx, cy = (mx // 2, my // 2) if self.centre is None else self.centre
        y, x = scattering_angles(grid, energy)
        c, s = np.cos(self.rotation), np.sin(self.rotation)
        weights = _bilinear(values, (c * y - s * x) / sy + cy, (c * x + s * y) / sx + cx)
        check_sees(weights, "the sensitivity map", grid, energy)
        corner_y, corner_x = (np.arange(my) - cy) * sy, (np.arange(mx) - cx) * sx
        theta = np.hypot(corner_y[:, None], corner_x[None, :])
        _warn_if_cut(theta[values != 0].max(), "the sensitivity map", grid, energy)
        return weights


@dataclass(frozen=True, eq=False)
class RadialSensitivity:
    """A sensitivity that depends on the angle alone.

    Attributes
    ----------
    profile : callable or float [n]
        Sensitivity as a function of the angle in mrad, or its values at `angles`, between which it
        is linear and outside of which it is 0.
    angles : float [n], optional
        mrad, increasing.
    inner, outer : float, optional
        mrad; the detector is 0 outside inner <= θ < outer.
    """

    profile: Callable[[np.ndarray], Any] | Any
    angles: Any = None
    inner: float = 0.0
    outer: float | None = None

    def __post_init__(self) -> None:
        if callable(self.profile):
            return
        angles = np.asarray([] if self.angles is None else self.angles, float)
        if angles.shape != np.shape(self.profile):
            raise ValueError(
                "a radial sensitivity is a function of the angle in mrad, or values with as many "
                f"angles, got {np.shape(self.profile)} and {angles.shape}"
            )
        if angles.ndim != 1 or not (np.diff(angles) > 0).all():
            raise ValueError("the angles of a radial sensitivity must increase")

    def sensitivity(self, grid: Grid, energy: float) -> np.ndarray:
        """Weights [ny, nx] in FFT order; raises and warns as `SensitivityMap` does."""
        theta = np.hypot(*scattering_angles(grid, energy))
        outer = np.inf if self.outer is None else self.outer
        if callable(self.profile):
            weights = np.broadcast_to(np.asarray(self.profile(theta), float), theta.shape)
            reach = 0.0 if self.outer is None else outer
        else:
            angles, values = (np.asarray(a, float) for a in (self.angles, self.profile))
            weights = np.interp(theta, angles, values, left=0.0, right=0.0)
            reach = min(angles[values != 0].max(initial=0.0), outer)
        weights = np.where((theta >= self.inner) & (theta < outer), weights, 0.0)
        check_sees(weights, "the radial sensitivity", grid, energy)
        _warn_if_cut(reach, "the radial sensitivity", grid, energy)
        return weights


@dataclass(frozen=True)
class CentreOfMass:
    """The centre of mass as linear weights: Σ kx I, Σ ky I and Σ I over a cropped pattern.

    `measurements.com_from_moments` makes the centre of mass of the three channels, which is abTEM's
    of the cropped pattern.

    Attributes
    ----------
    crop : {"valid", "cutoff", "full"} or float
        As in `crop_shape`.
    unit : {"1/Å", "mrad"}
    """

    crop: str | float = "valid"
    unit: str = "1/Å"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit must be one of {UNITS}, got {self.unit!r}")

    @property
    def channels(self) -> int:
        """kx, ky and the sum."""
        return 3

    def sensitivity(self, grid: Grid, energy: float) -> np.ndarray:
        """[3, ny, nx] in FFT order."""
        sides = []
        for n, m in zip(grid.shape, crop_shape(grid, energy, self.crop), strict=True):
            index = np.fft.fftfreq(n, 1 / n)
            sides.append((index >= -(m // 2)) & (index < m - m // 2))
        inside = (sides[0][:, None] & sides[1][None, :]).astype(float)
        y, x = scattering_angles(grid, energy)
        scale = 1.0 if self.unit == "mrad" else 1e-3 / wavelength(float(energy))
        return np.stack([scale * x * inside, scale * y * inside, inside])


def _bilinear(values: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Linear interpolation of [my, mx] at fractional pixels; 0 beyond the outermost pixels."""
    (my, mx), (y, x) = values.shape, np.broadcast_arrays(y, x)
    slack = 1e-9  # a pixel that lies on the rim but for rounding
    inside = (y >= -slack) & (y <= my - 1 + slack) & (x >= -slack) & (x <= mx - 1 + slack)
    iy = np.clip(np.floor(y).astype(int), 0, my - 2)
    ix = np.clip(np.floor(x).astype(int), 0, mx - 2)
    fy, fx = y - iy, x - ix
    low = values[iy, ix] * (1 - fx) + values[iy, ix + 1] * fx
    high = values[iy + 1, ix] * (1 - fx) + values[iy + 1, ix + 1] * fx
    return np.where(inside, low * (1 - fy) + high * fy, 0.0)


def _warn_if_cut(reach: float, what: str, grid: Grid, energy: float) -> None:
    limit = grid.antialias_angle(energy)
    if reach > limit + max(angular_sampling(grid, energy)):
        warnings.warn(
            f"{what} reaches to {reach:.1f} mrad and is cut by the band limit at {limit:.1f} mrad: "
            "use a finer sampling to see all of it",
            stacklevel=3,
        )
