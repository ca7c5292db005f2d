"""Detectors given by numbers: maps, radial profiles, centre-of-mass weights."""

from __future__ import annotations

import numpy as np
import pytest

from simulators.detectors import (
    Annular,
    CentreOfMass,
    RadialSensitivity,
    SensitivityMap,
    crop_pattern,
    crop_shape,
    scattering_angles,
)
from simulators.grid import Grid

GRID, ENERGY = Grid.over((22.0, 20.0), shape=(96, 100)), 100e3
LIMIT = GRID.antialias_angle(ENERGY)


def test_a_map_that_is_linear_in_the_angles_is_read_exactly():
    # sensitivity 3 + 0.02 θx - 0.05 θy, on pixels of 1.3 × 0.7 mrad around pixel (41.5, 60.25)
    j, i = np.meshgrid(np.arange(160), np.arange(120))
    values = 3 + 0.02 * (j - 60.25) * 0.7 - 0.05 * (i - 41.5) * 1.3
    fine = Grid.over((8.0, 7.0), shape=(96, 100))
    row = SensitivityMap(values, (1.3, 0.7), centre=(60.25, 41.5)).sensitivity(fine, ENERGY)
    y, x = np.broadcast_arrays(*scattering_angles(fine, ENERGY))
    inside = (np.abs(x) < 40) & (np.abs(y) < 50)
    np.testing.assert_allclose(row[inside], (3 + 0.02 * x - 0.05 * y)[inside], rtol=1e-12)
    assert (row[np.abs(x) > 71] == 0).all()


def test_a_map_on_the_grid_is_itself_and_rotates():
    ring = Annular(8, 20, offset=(10.0, 5.0)).sensitivity(GRID, ENERGY)
    y, x = scattering_angles(GRID, ENERGY)
    steps = (y[1, 0], x[0, 1])
    same = SensitivityMap(np.fft.fftshift(ring), steps).sensitivity(GRID, ENERGY)
    np.testing.assert_allclose(same, ring, atol=1e-9)
    # a quarter turn from +x towards +y
    square = Grid((64, 64), (0.2, 0.2))
    half = np.zeros((41, 41))
    half[20, 25] = 1  # at +x
    turned = SensitivityMap(half, 2.0, rotation=np.pi / 2).sensitivity(square, ENERGY)
    y, x = scattering_angles(square, ENERGY)
    weight = turned / turned.sum()
    assert (weight * y).sum() == pytest.approx(10.0, abs=0.5)
    assert abs((weight * x).sum()) < 0.5


def test_a_radial_profile_as_a_function_and_as_numbers():
    theta = np.hypot(*scattering_angles(GRID, ENERGY))
    fade = RadialSensitivity(lambda t: np.exp(-t / 20), inner=5.0, outer=40.0)
    expected = np.where((theta >= 5) & (theta < 40), np.exp(-theta / 20), 0)
    np.testing.assert_allclose(fade.sensitivity(GRID, ENERGY), expected)
    table = RadialSensitivity([0.0, 1.0, 1.0, 0.0], angles=[5.0, 10.0, 30.0, 31.0])
    row = table.sensitivity(GRID, ENERGY)
    np.testing.assert_allclose(row[(theta > 10) & (theta < 30)], 1)
    np.testing.assert_allclose(row[(theta < 5) | (theta > 31)], 0)
    middle = (theta > 5) & (theta < 10)
    np.testing.assert_allclose(row[middle], (theta[middle] - 5) / 5)


def test_centre_of_mass_weights_are_those_of_the_crop():
    pattern = np.random.default_rng(0).uniform(size=GRID.shape)
    for crop in ("valid", "cutoff", "full", 30.0):
        shape = crop_shape(GRID, ENERGY, crop)
        cut = crop_pattern(np.fft.fftshift(pattern), shape)
        kx = (np.arange(shape[1]) - shape[1] // 2) / 20.0
        ky = (np.arange(shape[0]) - shape[0] // 2) / 22.0
        rows = CentreOfMass(crop).sensitivity(GRID, ENERGY)
        moments = (rows * pattern).sum(axis=(1, 2))
        expected = [(cut * kx).sum(), (cut * ky[:, None]).sum(), cut.sum()]
        np.testing.assert_allclose(moments, expected, rtol=1e-10, atol=1e-10)
    mrad = CentreOfMass("valid", unit="mrad").sensitivity(GRID, ENERGY)
    ratio = CentreOfMass("valid").sensitivity(GRID, ENERGY)[0, 0, 1] / mrad[0, 0, 1]
    assert ratio == pytest.approx(1 / 37.01437, rel=1e-6)


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="array \\[y, x\\] of finite numbers"):
        SensitivityMap(np.ones(4), 1.0)
    with pytest.raises(ValueError, match="positive mrad"):
        SensitivityMap(np.ones((4, 4)), 0.0)
    with pytest.raises(ValueError, match="as many angles"):
        RadialSensitivity([1.0, 2.0])
    with pytest.raises(ValueError, match="must increase"):
        RadialSensitivity([1.0, 2.0], angles=[3.0, 3.0])
    with pytest.raises(ValueError, match="unit must be"):
        CentreOfMass(unit="rad")
    beyond = RadialSensitivity([1.0, 1.0], angles=[LIMIT + 4, LIMIT + 9])
    with pytest.raises(ValueError, match="no diffraction pixel inside the band limit"):
        beyond.sensitivity(GRID, ENERGY)
    with pytest.raises(ValueError, match="no diffraction pixel"):
        SensitivityMap(np.zeros((9, 9)), 5.0).sensitivity(GRID, ENERGY)
    with pytest.warns(UserWarning, match="cut by the band limit"):
        RadialSensitivity([1.0, 1.0], angles=[0.0, LIMIT + 9]).sensitivity(GRID, ENERGY)
    with pytest.warns(UserWarning, match="cut by the band limit"):
        SensitivityMap(np.ones((101, 101)), 2 * LIMIT / 100).sensitivity(GRID, ENERGY)
