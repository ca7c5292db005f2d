"""Scan positions: fields, periods, lines, and what a raster tells about itself."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.grid import Grid
from simulators.positions import (
    custom_scan,
    grid_scan,
    is_periodic,
    line_scan,
    nyquist_step,
    periodic_scan,
    scan_step,
)
from simulators.scan import raster

GRID = Grid.over((12.0, 10.0), shape=(96, 80))


def test_nyquist_step():
    # λ = 0.0370144 Å at 100 kV, α = 20 mrad: 0.99 λ / (4 α)
    assert nyquist_step(20.0, 100e3) == pytest.approx(0.99 * 0.0370143749 / 0.08)
    assert nyquist_step(20.0, 100e3, fraction=0.5) == pytest.approx(0.5 * 0.0370143749 / 0.08)
    with pytest.raises(ValueError, match="in mrad, not rad"):
        nyquist_step(0.02, 100e3)


def test_fields():
    points = grid_scan((1.0, 2.0), (4.18, 7.5), shape=(12, 8))
    assert points.shape == (12, 8, 2)
    np.testing.assert_allclose(points[0, :, 0], np.linspace(1.0, 4.18, 8, endpoint=False))
    np.testing.assert_allclose(points[:, 3, 1], np.linspace(2.0, 7.5, 12, endpoint=False))
    np.testing.assert_allclose(scan_step(points), (5.5 / 12, 3.18 / 8))
    last = grid_scan((1, 2), (4, 7), shape=(6, 4), endpoint=True)
    np.testing.assert_allclose(last[-1, -1], (4, 7))
    step = nyquist_step(31.0, 60e3)
    finer = grid_scan((1, 2), (4, 7), step=step)
    assert all(0 < d <= step for d in scan_step(finer))
    assert all(0 < d <= 0.5 for d in scan_step(grid_scan((0, 0), (3, 4), step=0.5, endpoint=True)))
    for wrong in ({"shape": (3, 3), "step": 0.1}, {}):
        with pytest.raises(ValueError, match="either shape"):
            grid_scan((0, 0), (1, 1), **wrong)
    with pytest.raises(ValueError, match="no area"):
        grid_scan((0, 0), (0, 1), shape=(3, 3))


def test_whole_periods():
    whole = periodic_scan(GRID, shape=(6, 5))
    np.testing.assert_allclose(whole[1, 1], (2.0, 2.0))
    assert is_periodic(whole, GRID)
    assert not is_periodic(whole[:-1], GRID)
    assert not is_periodic(grid_scan((0, 0), (5, 6), shape=(6, 5)), GRID)
    assert is_periodic(grid_scan((1, 1), (11, 13), shape=(6, 5)), GRID)
    part = periodic_scan(GRID, step=0.3, repeats=(3, 2))
    assert part.shape == (14, 17, 2)
    assert is_periodic(part, Grid.over((4.0, 5.0), shape=(8, 8)))
    assert not is_periodic(raster((6, 5), 2.0, rotation=0.1), GRID)


def test_lines():
    line = line_scan((1.0, 1.0), (4.0, 5.0), n=6)
    np.testing.assert_allclose(line[[0, -1]], [(1, 1), (4, 5)])
    np.testing.assert_allclose(np.linalg.norm(np.diff(line, axis=0), axis=1), 1.0)
    assert len(line_scan((1, 1), (4, 5), step=0.5)) == 11
    assert len(line_scan((1, 1), (4, 5), step=0.5, endpoint=False)) == 10
    wide = line_scan((1, 1), (4, 5), n=8, margin=1.0)
    np.testing.assert_allclose(wide[0], (1 - 0.6, 1 - 0.8))
    with pytest.raises(ValueError, match="two different points"):
        line_scan((1, 1), (1, 1), n=3)
    with pytest.raises(ValueError, match="either n or step"):
        line_scan((1, 1), (2, 1))


def test_custom_points_are_checked():
    points = [[1.0, 2.0], [9.0, 11.0]]
    np.testing.assert_array_equal(custom_scan(points, GRID), points)
    with pytest.raises(ValueError, match=r"position 1 .* outside the cell"):
        custom_scan([[1.0, 2.0], [11.0, 9.0]], GRID)
    with pytest.raises(ValueError, match="position 0 is not finite"):
        custom_scan([[np.nan, 2.0]])
    with pytest.raises(ValueError, match=r"must be \[..., 2\]"):
        custom_scan([1.0, 2.0, 3.0])


def test_the_step_of_a_raster():
    np.testing.assert_allclose(scan_step(raster((3, 4), (0.5, 0.3), rotation=0.7)), (0.5, 0.3))
    with pytest.raises(ValueError, match="no raster with equal steps"):
        scan_step(raster((3, 4), 0.5) ** 2)
    with pytest.raises(ValueError, match="2 × 2 at least"):
        scan_step(line_scan((0, 0), (1, 1), n=3))
