"""Detectors: geometry, the band limit, and agreement of one pass with patterns."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.detectors import Annular, crop_pattern, crop_shape
from simulators.grid import Grid
from simulators.imaging import cbed, stem
from simulators.optics import Optics
from simulators.potential import project

GRID = Grid.over((12.0, 10.0), shape=(96, 100))


def specimen():
    rng = np.random.default_rng(0)
    return project(
        make_atoms(rng.uniform(0, 10, (6, 3)), [6, 14, 6, 79, 14, 6], [10.0, 12.0, 10.0]), GRID, 5.0
    )


def test_patterns_sum_to_the_dose_below_the_band_limit():
    patterns = cbed(specimen(), Optics(energy=80e3, semiangle=20.0), np.array([[1.0, 2], [5, 5]]))
    assert patterns.shape == (2, 96, 100)
    total = np.asarray(patterns.sum((1, 2)))
    assert (total > 0.97).all()
    assert (total < 1 + 1e-5).all()


def test_stem_is_the_sum_of_patterns_for_any_batch():
    where = np.random.default_rng(1).uniform(0, 10, (3, 5, 2))
    optics, rings = Optics(energy=80e3, semiangle=20.0), [Annular(0, 20), Annular(40, 100)]
    image = stem(specimen(), optics, where, rings, batch=4)
    assert image.shape == (2, 3, 5)
    patterns = np.asarray(cbed(specimen(), optics, where.reshape(-1, 2), batch=15))
    for signal, ring in zip(image, rings, strict=True):
        expected = (patterns * ring.sensitivity(GRID, 80e3)).sum((1, 2)).reshape(3, 5)
        np.testing.assert_allclose(signal, expected, rtol=2e-5)


def test_a_shifted_specimen_gives_a_shifted_image(x64):
    # atoms and probe moved by any sub-pixel vector: same pattern, in the exact mode
    rng = np.random.default_rng(2)
    base, shift = rng.uniform(2, 8, (5, 3)), np.array([0.0371, -0.0453, 0.0])
    optics, numbers = Optics(energy=100e3, semiangle=20.0), [6, 7, 14, 14, 6]
    at = np.array([[4.0, 5.0]])
    signals = [
        stem(
            project(make_atoms(p, numbers, [10.0, 12.0, 10.0]), GRID, 10.0),
            optics,
            at + s[:2],
            [Annular(0, 20), Annular(30, 80)],
        )
        for p, s in ((base, 0 * shift), (base + shift, shift))
    ]
    np.testing.assert_allclose(signals[1], signals[0], rtol=5e-3)


def test_offset_moves_the_mask_by_whole_pixels_and_drops_the_rest():
    centred = Annular(0, 20).sensitivity(GRID, 100e3)
    moved = Annular(0, 20, offset=(15.0, 0.0)).sensitivity(GRID, 100e3)
    step = round(15.0 / (0.03701437 / 10.0 * 1e3))
    np.testing.assert_array_equal(moved, np.roll(centred, step, axis=1))


def test_angles_that_the_grid_does_not_carry():
    limit = GRID.antialias_angle(100e3)
    with pytest.raises(ValueError, match=r"Nyquist angle is .* use a sampling of"):
        Annular(20, 400).sensitivity(GRID, 100e3)
    with pytest.raises(ValueError, match="beyond the band limit"):
        Annular(limit + 2, limit + 10).sensitivity(GRID, 100e3)
    with pytest.warns(UserWarning, match="cut by the band limit"):
        Annular(20, limit + 5).sensitivity(GRID, 100e3)
    with pytest.raises(ValueError, match="inner < outer"):
        Annular(30, 20)
    with pytest.raises(ValueError, match="at least one detector"):
        stem(specimen(), Optics(energy=80e3, semiangle=20.0), np.zeros((1, 2)), [])


def test_crops_keep_parity_and_centre():
    assert crop_shape(GRID, 100e3, "full") == (96, 100)
    for crop in ("cutoff", "valid", 30.0):
        shape = crop_shape(GRID, 100e3, crop)
        assert all(n % 2 == full % 2 for n, full in zip(shape, GRID.shape, strict=True))
    pattern = np.zeros((9, 10))
    pattern[4, 5] = 1
    assert crop_pattern(pattern, (5, 6))[2, 3] == 1
    with pytest.raises(ValueError, match="crop must be"):
        crop_shape(GRID, 100e3, "half")
    with pytest.raises(ValueError, match="larger than the pattern"):
        crop_shape(GRID, 100e3, 500.0)
