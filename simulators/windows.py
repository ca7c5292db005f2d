"""The window of a PRISM probe: its grid, and how wide a probe is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulators.electron import wavelength
from simulators.grid import Grid
from simulators.optics import Optics, ray_displacement


@dataclass(frozen=True)
class WindowGrid(Grid):
    """The window of a down-sampled wave: its band limit is that of the grid before.

    Attributes
    ----------
    cutoff : float
        1/Å.
    """

    cutoff: float = 0.0

    def antialias_cutoff(self) -> float:
        """Largest spatial frequency [1/Å] that multislice kept."""
        return self.cutoff

    def nyquist_angle(self, energy: float) -> float:
        """The smaller of the two Nyquist angles [mrad], exact for odd windows too."""
        return 1e3 * wavelength(float(energy)) / (2 * max(self.sampling))


def window_grid(grid: Grid, shape: tuple[int, int], f: tuple[int, int]) -> WindowGrid:
    """The window L / f of waves on `grid` that were down-sampled to `shape`."""
    sampling = grid.extent[0] / shape[0], grid.extent[1] / shape[1]
    return WindowGrid((shape[0] // f[0], shape[1] // f[1]), sampling, grid.antialias_cutoff())


def probe_width(optics: Optics, grid: Grid) -> tuple[float, float]:
    """Width (y, x) of a known probe in Å: that of its rays, ∇χ/2π, and of its Airy disc.

    Rays are those of the aperture on the grid's frequencies; the disc is 1.22 λ/α wide.
    """
    alpha = float(optics.semiangle) * 1e-3
    airy = 1.22 * wavelength(float(optics.energy)) / alpha
    # finer frequencies than the grid's own, those of a cell four times as wide
    fine = Grid.over((4 * grid.extent[0], 4 * grid.extent[1]), sampling=_sampling(optics))
    inside = np.sqrt(fine.k2()) * wavelength(float(optics.energy)) <= alpha
    x, y = ray_displacement(optics, fine)
    widths = [airy + 2 * float(np.abs(np.asarray(ray)[inside]).max()) for ray in (y, x)]
    return widths[0], widths[1]


def _sampling(optics: Optics) -> float:
    """Å per pixel whose Nyquist angle is a quarter more than the aperture."""
    return wavelength(float(optics.energy)) / (2.5e-3 * float(optics.semiangle))
