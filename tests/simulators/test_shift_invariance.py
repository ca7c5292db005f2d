"""Equivalent columns must look equal: nine Sr columns of SrTiO3 on a grid that fits none of them.

39 Å of SrTiO3 [001], 200 kV, 20 mrad, HAADF 60–90 mrad. The nine columns lie at nine different
places between pixels. What is left in the exact mode comes from exp(iσV), which has finer detail
than V: a transmission function made on a grid of half the sampling and cropped has less of it.
"""

from __future__ import annotations

import numpy as np
import pytest

from simulators.atoms import make_atoms, tile_atoms
from simulators.detectors import Annular
from simulators.grid import Grid
from simulators.imaging import stem
from simulators.optics import Optics
from simulators.potential import project, tile

SIDE = 3.905
WAYS = {"abtem": ("abtem", 1), "exact": ("exact", 1), "oversampled": ("exact", 2)}

# pixels over three cells (0.073 and 0.050 Å): spread in % of abTEM's mode (at least) and of ours
CASES = [
    (160, {"abtem": (14.0, 17.0), "exact": (3.5, 5.0), "oversampled": (0.0, 0.70)}),
    (235, {"abtem": (2.0, 2.6), "exact": (1.2, 2.0), "oversampled": (0.0, 0.10)}),
]


def sr_columns(n: int, way: str, cells: int) -> np.ndarray:
    """HAADF signal of the nine Sr columns."""
    fractions = np.array([(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)])
    unit = make_atoms(fractions * SIDE, [38, 22, 8, 8, 8], [SIDE] * 3)
    mode, oversample = WAYS[way]
    grid = Grid.over((3 * SIDE, 3 * SIDE), shape=n)
    one = project(tile_atoms(unit, x=3, y=3), grid, SIDE / 2, mode=mode, oversample=oversample)
    corners = SIDE * np.stack(np.meshgrid(range(3), range(3)), -1).reshape(-1, 2)
    optics = Optics(energy=200e3, semiangle=20.0)
    return np.asarray(stem(tile(one, z=cells), optics, corners, [Annular(60.0, 90.0)]))[0]


def spread(signal: np.ndarray) -> float:
    """Largest less smallest, in % of the mean."""
    return float(100 * np.ptp(signal) / signal.mean())


@pytest.mark.parametrize(("n", "limits"), CASES, ids=["0.073", "0.050"])
def test_spread_over_equivalent_columns(n, limits):
    signals = {way: sr_columns(n, way, 10) for way in WAYS}
    for way, (low, high) in limits.items():
        print(f"{3 * SIDE / n:.3f} Å, {way}: {spread(signals[way]):.3f} %")
        assert low <= spread(signals[way]) <= high, way
