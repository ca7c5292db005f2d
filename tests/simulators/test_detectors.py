"""Detectors: geometry, the band limit, and agreement of one pass with patterns."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.angles import cutoff_angle
from simulators.atoms import make_atoms
from simulators.detectors import (
    Annular,
    CentreOfMass,
    Flexible,
    Segmented,
    annular_bright_field,
    bright_field,
    crop_pattern,
    crop_shape,
    detector_matrix,
    scattering_angles,
    split,
)
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
    with pytest.raises(ValueError, match=r"\[Annular"):
        detector_matrix(Annular(20, 40), GRID, 100e3)
    with pytest.warns(UserWarning, match="cut by the band limit"):
        Annular(0, limit - 5, offset=(8.0, 0.0)).sensitivity(GRID, 100e3)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("source_size", r"linear\.blur"),
        ("focal_spread", "over_focus"),
        ("angular_spread", "aperture"),
    ],
)
def test_incoherence_is_not_passed_over(name, hint):
    lens = Optics(energy=80e3, semiangle=20.0, **{name: 1.0})
    for made in (
        lambda: cbed(specimen(), lens, np.zeros((1, 2))),
        lambda: stem(specimen(), lens, np.zeros((1, 2)), [Annular(0, 20)]),
    ):
        with pytest.raises(ValueError, match=hint):
            made()


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


def test_a_detector_that_would_see_nothing_is_an_error():
    limit = GRID.antialias_angle(100e3)
    with pytest.raises(ValueError, match="beyond the band limit"):
        Annular(0, 5, offset=(limit + 6, 0)).sensitivity(GRID, 100e3)
    with pytest.raises(ValueError, match=r"no diffraction pixel .* pixels are 3.70 × 3.08 mrad"):
        Annular(10.5, 10.6).sensitivity(GRID, 100e3)
    with pytest.raises(ValueError, match="beyond the band limit"):
        Segmented(limit + 1, limit + 9).sensitivity(GRID, 100e3)
    with pytest.raises(ValueError, match="no ring of 500 mrad"):
        Flexible(500.0).sensitivity(GRID, 100e3)


def test_without_an_outer_angle_the_band_limit_ends_the_detector_and_nothing_warns():
    for size in ((96, 100), (97, 64), (60, 50)):
        grid = Grid.over((12.0, 10.0), shape=size)
        everything = np.hypot(*scattering_angles(grid, 100e3)) < cutoff_angle(grid, 100e3) // 1
        np.testing.assert_array_equal(Annular(0).sensitivity(grid, 100e3), everything)
        rings = Flexible(1.0).sensitivity(grid, 100e3)
        assert len(rings) == int(cutoff_angle(grid, 100e3))
        np.testing.assert_array_equal(rings.sum(axis=0), everything)


def test_rings_add_up_to_the_annulus_between_their_edges():
    rings = Flexible(4.0, inner=6.0, outer=51.0)
    assert rings.channels == 11
    rows = rings.sensitivity(GRID, 100e3)
    np.testing.assert_array_equal(rings.edges(GRID, 100e3), np.arange(6.0, 51.0, 4.0))
    for a, b in ((0, 11), (3, 7)):
        ring = Annular(6 + 4 * a, 6 + 4 * b).sensitivity(GRID, 100e3)
        np.testing.assert_array_equal(rows[a:b].sum(axis=0), ring)
    with pytest.raises(ValueError, match="positive step"):
        Flexible(0.0)
    with pytest.raises(ValueError, match="no ring of 30 mrad"):
        Flexible(30.0, 10.0, 20.0)


def test_segments_tile_the_ring_radial_major_from_the_rotation_onwards():
    segments = Segmented(8, 40, radial=2, azimuthal=6, rotation=0.3)
    rows = segments.sensitivity(GRID, 100e3)
    assert rows.shape == (12, 96, 100)
    np.testing.assert_array_equal(rows.sum(axis=0), Annular(8, 40).sensitivity(GRID, 100e3))
    np.testing.assert_array_equal(rows[:6].sum(axis=0), Annular(8, 24).sensitivity(GRID, 100e3))
    y, x = scattering_angles(GRID, 100e3)
    for a in range(6):
        for row in (rows[a], rows[6 + a]):
            middle = np.arctan2((row * y).sum(), (row * x).sum())
            off = (middle - 0.3 - (a + 0.5) * np.pi / 3 + np.pi) % (2 * np.pi) - np.pi
            assert abs(off) < 0.12
    moved = Segmented(8, 40, 2, 6, 0.3, offset=(0.0, 15.5)).sensitivity(GRID, 100e3)
    np.testing.assert_array_equal(moved, np.roll(rows, 5, axis=1))
    with pytest.warns(UserWarning, match=r"segments \[.*\] .* read 0"):
        Segmented(4, 8, azimuthal=32).sensitivity(GRID, 100e3)
    with pytest.raises(ValueError, match="at least one ring"):
        Segmented(0, 10, azimuthal=0)


def test_a_segment_owns_the_azimuth_at_which_it_begins():
    grid = Grid((64, 64), (0.1, 0.1))
    y, x = (a.ravel() for a in scattering_angles(grid, 200e3))
    quadrants = Segmented(0, 60, azimuthal=4)
    at = [(0, x[3]), (y[3], 0), (0, -x[3]), (-y[3], 0)]
    assert [int(quadrants.segment_at(*np.array(p))) for p in at] == [0, 1, 2, 3]
    assert int(Segmented(0, 60, azimuthal=8).segment_at(np.array(y[2]), np.array(x[2]))) == 1


def test_all_detectors_from_one_matrix_product():
    detectors = [
        bright_field(20.0),
        Segmented(0, 20, radial=1, azimuthal=4),
        annular_bright_field(20.0),
        Flexible(10.0),
        CentreOfMass(),
        Annular(40, 80),
    ]
    grid, energy = GRID, 80e3
    matrix = detector_matrix(detectors, grid, energy)
    rings = Flexible(10.0).sensitivity(grid, energy)
    assert matrix.shape == (1 + 4 + 1 + len(rings) + 3 + 1, 9600)
    patterns = np.asarray(cbed(specimen(), Optics(energy=energy, semiangle=20.0), np.ones((2, 2))))
    signal = (matrix @ patterns.reshape(2, -1).T).reshape(-1, 1, 2)
    parts = split(signal, detectors)
    shapes = [(1, 2), (4, 1, 2), (1, 2), (len(rings), 1, 2), (3, 1, 2), (1, 2)]
    assert [p.shape for p in parts] == shapes
    np.testing.assert_allclose(parts[1].sum(axis=0), parts[0], rtol=1e-6)
    np.testing.assert_allclose(parts[3][:2].sum(axis=0), parts[0], rtol=1e-6)
    np.testing.assert_allclose(parts[5], parts[3][4:8].sum(axis=0), rtol=1e-6)
    assert (parts[2] < parts[0]).all()


def test_splitting_asks_for_what_it_cannot_know():
    signal = np.zeros((7, 3))
    with pytest.raises(ValueError, match=r"7 rows .* \[1, 4\] channels"):
        split(signal, [Annular(0, 5), Segmented(0, 5)])
    two = [Flexible(50.0), Flexible(40.0)]
    with pytest.raises(ValueError, match="pass grid and"):
        split(signal, two)
    counts = [len(d.sensitivity(GRID, 80e3)) for d in two]
    parts = split(np.zeros((sum(counts), 3)), two, GRID, 80e3)
    assert [len(p) for p in parts] == counts


def test_a_matrix_refuses_maps_of_another_grid():
    class Wrong:
        def sensitivity(self, grid, energy):
            return np.ones((3, 3))

    with pytest.raises(ValueError, match=r"Wrong has shape \(3, 3\) but must be \(96, 100\)"):
        detector_matrix([Wrong()], GRID, 80e3)
