"""The computations that `benchmarks.simulators` times, as numbers that any program can take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ENERGY = 200e3
SEMIANGLE = 20.0
SEEN = (60.0, 80.0)
"""A ring that every grid here sees whole [mrad], for the comparison with converged results."""
PROBED = 4
"""Positions a side at which results are compared with the converged ones."""


@dataclass(frozen=True)
class Scene:
    """A random oxide in a box, and what is computed of it.

    Lengths in Å; `n` atoms of O, Ti and Sr at random places drawn with `seed`.
    """

    title: str
    n: int
    box: tuple[float, float, float]
    gpts: int
    seed: int
    slice_thickness: float = 2.0
    scan: int = 0
    """Probe positions a side over the whole field."""
    detector: tuple[float, float] = (60.0, 120.0)
    interpolation: int = 1
    converged: bool = False
    """Whether the result is compared with a finer computation."""

    def atoms(self) -> tuple[np.ndarray, np.ndarray]:
        """Atomic numbers [n] and positions [n, 3]."""
        rng = np.random.default_rng(self.seed)
        numbers = rng.choice((8, 22, 38), self.n)
        return numbers, rng.random((self.n, 3)) * self.box

    def scan_positions(self) -> np.ndarray:
        """Probe positions (x, y) [scan, scan, 2], row by row."""
        step = np.arange(self.scan) / self.scan
        y, x = np.meshgrid(step * self.box[1], step * self.box[0], indexing="ij")
        return np.stack([x, y], axis=-1)

    def probed(self) -> np.ndarray:
        """Some of them [PROBED, PROBED, 2], at which results are compared with converged ones."""
        step = self.scan // PROBED
        return self.scan_positions()[::step, ::step]


_LARGE, _SMALL = (102.4, 102.4, 100.0), (25.6, 25.6, 80.0)
SCENES = {
    "a": Scene("plane wave, 1024² × 50", 5000, _LARGE, 1024, 0),
    "b": Scene("STEM 32 × 32, 256² × 40", 1500, _SMALL, 256, 1, scan=32, converged=True),
    "c": Scene(
        "PRISM interpolation 4, build and scan 32 × 32",
        1500,
        _SMALL,
        256,
        1,
        scan=32,
        detector=(60.0, 80.0),
        interpolation=4,
    ),
    "d": Scene("potential of 5,000 atoms, 1024² × 40", 5000, (102.4, 102.4, 80.0), 1024, 2),
    "e": Scene("one CBED, 512² × 40", 1250, (51.2, 51.2, 80.0), 512, 3),
    "h": Scene("STEM 96 × 96, 256² × 40", 1500, _SMALL, 256, 1, scan=96, converged=True),
}
