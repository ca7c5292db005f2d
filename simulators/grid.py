"""The sampled plane: shape, sampling, and spatial frequencies. Arrays are [y, x]."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from simulators.electron import wavelength
from simulators.tree import pytree, static

ANTIALIAS_CUTOFF = 0.6666666
"""Fraction of the Nyquist frequency that multislice keeps (abTEM's value, not 2/3)."""

ANTIALIAS_TAPER = 0.01
"""Width of the cosine edge inside the cutoff, in units of 1 / sampling."""


def _pair(value: object, name: str) -> tuple:
    if isinstance(value, (int, float, np.integer, np.floating)):
        return (value, value)
    pair = tuple(value)  # type: ignore[arg-type]
    if len(pair) != 2:
        raise ValueError(f"{name} takes one number or a (y, x) pair, got {value!r}")
    return pair


@pytree
class Grid:
    """A periodic grid; pixel (i, j) lies AT (i · sampling_y, j · sampling_x).

    Attributes
    ----------
    shape : (ny, nx)
        Pixels.
    sampling : (dy, dx)
        Å per pixel.
    """

    shape: tuple[int, int] = static()
    sampling: tuple[float, float] = static()

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in _pair(self.shape, "shape"))
        sampling = tuple(float(d) for d in _pair(self.sampling, "sampling"))
        if min(shape) < 1:
            raise ValueError(f"grid shape must be at least one pixel in y and x, got {shape}")
        if not all(np.isfinite(d) and d > 0 for d in sampling):
            raise ValueError(f"grid sampling must be positive Å per pixel, got {sampling}")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "sampling", sampling)

    @classmethod
    def over(
        cls,
        extent: Sequence[float],
        *,
        shape: Sequence[int] | None = None,
        sampling: float | None = None,
    ) -> Grid:
        """The grid over an extent (y, x) in Å, with a given shape or at most a given sampling."""
        ly, lx = (float(length) for length in extent)
        if (shape is None) == (sampling is None):
            raise ValueError("give either shape or sampling")
        if shape is None:
            assert sampling is not None
            shape = (int(np.ceil(ly / sampling - 1e-9)), int(np.ceil(lx / sampling - 1e-9)))
        ny, nx = _pair(shape, "shape")
        return cls((ny, nx), (ly / ny, lx / nx))

    @property
    def extent(self) -> tuple[float, float]:
        """(y, x) side lengths [Å]."""
        return self.shape[0] * self.sampling[0], self.shape[1] * self.sampling[1]

    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """Spatial frequencies ky [ny], kx [nx] in 1/Å, FFT order, float64."""
        ny, nx = self.shape
        return np.fft.fftfreq(ny, self.sampling[0]), np.fft.fftfreq(nx, self.sampling[1])

    def k2(self) -> np.ndarray:
        """|k|² [ny, nx] in 1/Å²."""
        ky, kx = self.frequencies()
        return ky[:, None] ** 2 + kx[None, :] ** 2

    def antialias_cutoff(self) -> float:
        """Largest spatial frequency [1/Å] that multislice keeps on this grid."""
        return ANTIALIAS_CUTOFF / (2 * max(self.sampling))

    def antialias_angle(self, energy: float) -> float:
        """The band limit as a scattering angle [mrad]."""
        return 1e3 * self.antialias_cutoff() * wavelength(float(energy))

    def nyquist_angle(self, energy: float) -> float:
        """The smaller of the two Nyquist angles [mrad]."""
        ny, nx = self.shape
        reach = min((ny // 2) / self.extent[0], (nx // 2) / self.extent[1])
        return 1e3 * reach * wavelength(float(energy))

    def antialias_mask(self) -> np.ndarray:
        """Circular low-pass mask [ny, nx] in FFT order: 1 inside, cosine edge, 0 beyond.

        Read-only: it is made once for every grid.
        """
        return _antialias_mask(self)


@functools.lru_cache(maxsize=8)
def _antialias_mask(grid: Grid) -> np.ndarray:
    cutoff, taper = grid.antialias_cutoff(), ANTIALIAS_TAPER / max(grid.sampling)
    k = np.sqrt(grid.k2())
    edge = 0.5 * (1 + np.cos(np.pi * (k - cutoff + taper) / taper))
    mask = np.where(k <= cutoff - taper, 1.0, np.where(k > cutoff, 0.0, edge))
    mask.flags.writeable = False
    return mask
