"""The window of a PRISM probe: its grid, and how wide a probe is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulators.electron import wavelength
from simulators.grid import Grid
from simulators.optics import Optics, probe_rays


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


def probe_width(optics: Optics) -> tuple[float, float]:
    """Width (y, x) of a known probe in Å: that of its rays, ∇χ/2π, and of its Airy disc.

    The disc is 1.22 λ/α wide.
    """
    airy = 1.22e3 * wavelength(float(optics.energy)) / float(optics.semiangle)
    rays = probe_rays(optics)
    assert rays is not None
    return airy + 2 * float(np.abs(rays.imag).max()), airy + 2 * float(np.abs(rays.real).max())
