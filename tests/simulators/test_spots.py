"""Spots: indices, spacings and absences of crystals that everybody knows."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.diffraction_modes import nanobeam, pacbed, saed
from simulators.electron import KAPPA, interaction_constant, wavelength
from simulators.grid import Grid
from simulators.imaging import cbed
from simulators.optics import Optics
from simulators.patterns import patterns
from simulators.potential import project
from simulators.scattering import scattering_factor
from simulators.specimens.bulk import bulk
from simulators.specimens.oriented import oriented
from simulators.spots import (
    cell_matrix,
    find_spots,
    reflections,
    structure_factors,
    turned,
)
from simulators.tree import replace

ENERGY = 200e3
A_SI, A_STO = 5.431, 3.905
DIAMOND = np.array(
    [
        corner + basis
        for corner in ([0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0])
        for basis in (np.zeros(3), np.full(3, 0.25))
    ]
)
STO = (
    [38, 22, 8, 8, 8],
    [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
)


def silicon110(repeats=(3, 2)):
    """Atoms of Si with [110] along z, [1-10] along x and [00-1] along y, one period deep."""
    cell = turned([A_SI] * 3, (1, 1, 0), along_x=(1, -1, 0))
    sides = np.array([A_SI / 2**0.5, A_SI, A_SI / 2**0.5])
    shifts = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    points = ((shifts + DIAMOND[None]).reshape(-1, 3)) @ cell
    box = sides * [repeats[1], repeats[0], 1]
    one = points[((points > -1e-6) & (points < sides - 1e-6)).all(axis=1)]
    assert len(one) == 4
    steps = np.stack(np.meshgrid(np.arange(repeats[1]), np.arange(repeats[0]), [0]), -1)
    atoms = (one[None] + (steps.reshape(-1, 1, 3) * sides)).reshape(-1, 3)
    return make_atoms(atoms, [14] * len(atoms), box), cell


def weak(potential, by=1e-3):
    """The same crystal with a potential so weak that scattering is kinematic."""
    return replace(potential, slices=potential.slices * by)


def test_the_axes_of_an_oriented_crystal_index_its_pattern():
    atoms, lying = oriented(bulk("Si"), (1, 1, 0), repeats=(2, 2, 1))
    grid = Grid.over((float(atoms.cell[1]), float(atoms.cell[0])), shape=(96, 72))
    pattern = saed(weak(project(atoms, grid, 2.0)), ENERGY, crop=40.0)
    spots = find_spots(pattern, lying.axes, centring="F")
    strong = spots.of(1, -1, 1)
    assert spots.of(2, -2, 0) > 0.3 * strong
    np.testing.assert_allclose(spots.of(-1, 1, 1), strong, rtol=1e-3)
    assert spots.of(0, 0, 2) < 1e-4 * strong, "forbidden in diamond"


def test_cells_and_orientations():
    np.testing.assert_allclose(cell_matrix([2.0, 3.0, 4.0]), np.diag([2.0, 3, 4]))
    hexagonal = cell_matrix([3.0, 3.0, 5.0, 90, 90, 120])
    np.testing.assert_allclose(hexagonal[0] @ hexagonal[1], -4.5)
    cell = turned(hexagonal, (0, 0, 1))
    np.testing.assert_allclose(cell, hexagonal, atol=1e-12)
    for axis in ((1, 1, 0), (1, 1, 1), (2, 1, 0)):
        lying = turned([4.0, 4.0, 4.0], axis, along_x=(0, 0, 1) if axis[2] == 0 else (1, -1, 0))
        np.testing.assert_allclose(lying @ lying.T, 16 * np.eye(3), atol=1e-12)
        assert np.linalg.det(lying) > 0
        beam = np.array(axis) @ lying
        np.testing.assert_allclose(beam, [0, 0, 4 * np.linalg.norm(axis)], atol=1e-12)
    with pytest.raises(ValueError, match="with a volume"):
        cell_matrix([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    with pytest.raises(ValueError, match="zone axis must not be"):
        turned([4.0] * 3, (0, 0, 0))
    with pytest.raises(ValueError, match="parallel to the zone axis"):
        turned([4.0] * 3, (1, 1, 0), along_x=(2, 2, 0))


def test_reflections_of_a_zone():
    cell = turned([A_SI] * 3, (1, 1, 0), along_x=(1, -1, 0))
    hkl, g = reflections(cell, 0.6, centring="F")
    assert (hkl @ [1, 1, 0] == 0).all()
    assert tuple(hkl[0]) == (0, 0, 0)
    np.testing.assert_allclose(np.linalg.norm(hkl, axis=1) / A_SI, np.linalg.norm(g, axis=1))
    assert {tuple(h) for h in hkl[1:5]} == {(1, -1, 1), (1, -1, -1), (-1, 1, 1), (-1, 1, -1)}
    np.testing.assert_allclose(g[:, 2], 0, atol=1e-12)
    # (2 -2 0) along +x and so (0 0 -2) along +y: x, y and the beam are right-handed
    at = {tuple(h): v for h, v in zip(hkl, g, strict=True)}
    np.testing.assert_allclose(at[0, 0, -2], [0, 2 / A_SI, 0], atol=1e-12)
    np.testing.assert_allclose(at[2, -2, 0], [8**0.5 / A_SI, 0, 0], atol=1e-12)
    # the first-order Laue zone of [001] in a primitive cubic crystal
    hkl, g = reflections([A_STO] * 3, 1.0, zones=(-1,))
    assert (hkl[:, 2] == -1).all()
    np.testing.assert_allclose(g[:, 2], -1 / A_STO)
    with pytest.raises(ValueError, match="centring must be"):
        reflections([4.0] * 3, 1.0, centring="X")
    # a primitive cell gives the same spots as the centred one
    primitive = A_SI / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    for matrix, centring in ((np.eye(3) * A_SI, "F"), (primitive, "P")):
        points = reflections(matrix, 1.2, centring=centring)[1]
        found = sorted({(round(float(x), 6), round(float(y), 6)) for x, y, _ in points})
        if centring == "F":
            expected = found
    assert found == expected


def test_structure_factors():
    cell = np.eye(3) * A_SI
    hkl = [[0, 0, 2], [2, 2, 2], [1, 0, 0], [1, 1, 0], [1, 1, 1], [2, 2, 0], [0, 0, 4]]
    f = structure_factors([14] * 8, DIAMOND, cell, hkl)
    np.testing.assert_allclose(np.abs(f[:4]), 0, atol=1e-12)
    one = [float(scattering_factor(14, np.array([n / A_SI**2]))[0]) for n in (3, 8, 16)]
    np.testing.assert_allclose(np.abs(f[4:]), [32**0.5 * one[0], 8 * one[1], 8 * one[2]])
    warm = structure_factors([14] * 8, DIAMOND, cell, hkl[-1:], sigma=0.1)
    damping = np.exp(-2 * np.pi**2 * 0.01 * 16 / A_SI**2)
    np.testing.assert_allclose(abs(warm[0]), damping * abs(f[-1]))


@pytest.mark.parametrize("crystal", ["srtio3", "silicon110"])
def test_kinematic_saed_is_the_structure_factors(crystal, x64):
    if crystal == "srtio3":
        sides = np.array([3 * A_STO, 2 * A_STO, A_STO])
        steps = np.stack(np.meshgrid(np.arange(3), np.arange(2), [0]), -1).reshape(-1, 1, 3)
        fractions = (np.array(STO[1])[None] + steps).reshape(-1, 3)
        atoms = make_atoms(fractions * A_STO, STO[0] * 6, sides)
        cell, numbers, basis = np.eye(3) * A_STO, STO[0], STO[1]
    else:
        atoms, cell = silicon110()
        numbers, basis = [14] * 8, DIAMOND
    lx, ly, lz = np.asarray(atoms.cell)
    grid = Grid.over((ly, lx), shape=(96, 90))
    potential = weak(project(atoms, grid, lz, dtype="float64"))
    p = saed(potential, ENERGY)
    assert float(p.intensity.sum()) == pytest.approx(1.0, abs=1e-6)
    spots = find_spots(p, cell)
    expected = structure_factors(numbers, basis, cell, spots.hkl)
    # |σ V_g|² of one projected cell: V_g = F / (κ · area of the cell per period along the beam)
    volume = abs(np.linalg.det(cell))
    amplitude = interaction_constant(ENERGY) * 1e-3 * lz * np.abs(expected) / (KAPPA * volume)
    direct = spots.hkl.index((0, 0, 0))
    others = np.arange(len(spots.hkl)) != direct
    assert len(spots.hkl) > 30
    scale = (amplitude**2)[others].max()
    # exact for the infinite projection up to the second order in the potential
    np.testing.assert_allclose(
        np.asarray(spots.intensity)[others], (amplitude**2)[others], atol=2e-2 * scale
    )
    absent = np.abs(expected) < 1e-9
    if crystal == "silicon110":
        assert absent[spots.hkl.index((0, 0, 2))]
        assert absent[spots.hkl.index((0, 0, 1))]
        assert np.asarray(spots.intensity)[absent].max() < 1e-5 * scale
        assert spots.of(1, -1, 1) > 0.5 * scale
    for hkl, d in zip(spots.hkl, spots.spacings, strict=True):
        if any(hkl):
            length = np.linalg.norm(hkl)
            assert d == pytest.approx((A_STO if crystal == "srtio3" else A_SI) / length)
    np.testing.assert_allclose(
        spots.angles, np.array(spots.k) * 1e3 * wavelength(ENERGY), rtol=1e-12
    )
    # between the spots of the unit cell the supercell's pattern is dark
    assert float(spots.intensity.sum()) == pytest.approx(float(p.intensity.sum()), abs=1e-9)


def test_nanobeam_discs_hold_the_spots_intensities():
    atoms, cell = silicon110(repeats=(4, 6))
    lx, ly, lz = np.asarray(atoms.cell)
    grid = Grid.over((ly, lx), shape=(128, 128))
    potential = project(atoms, grid, lz)
    semiangle = 2.6
    optics = Optics(energy=ENERGY, semiangle=semiangle)
    where = np.array([[[3.0, 4.0], [5.5, 9.0]]])
    p = nanobeam(potential, optics, where)
    assert p.intensity.shape[:2] == (1, 2)
    spots = find_spots(p, cell, radius=semiangle * 1.1, centring="F")
    assert spots.intensity.shape == (1, 2, len(spots.hkl))
    sums = np.asarray(spots.intensity.sum(-1))
    assert (sums > 0.9 * np.asarray(p.intensity.sum((-1, -2)))).all()
    assert (np.asarray(spots.of(0, 0, 0)) > 0.5).all()
    with pytest.warns(UserWarning, match="overlap: the nearest spots are"):
        find_spots(p, cell, radius=9.0, centring="F")
    with pytest.raises(ValueError, match="no spot"):
        spots.of(1, 0, 0)
    with pytest.raises(ValueError, match="no reflection of this cell"):
        find_spots(p, np.eye(3) * 1e-2, centring="F", zones=(1,))


def test_pacbed_is_the_mean_of_the_patterns():
    atoms, _ = silicon110(repeats=(1, 2))
    grid = Grid.over((float(atoms.cell[1]), float(atoms.cell[0])), shape=(32, 40))
    potential = project(atoms, grid, 2.0)
    optics = Optics(energy=ENERGY, semiangle=10.0)
    where = np.random.default_rng(0).uniform(0, 5, (3, 3, 2))
    each = np.asarray(cbed(potential, optics, where.reshape(-1, 2)))
    expected = patterns(each.mean(axis=0), grid, ENERGY)
    for batch in (4, 100, None):
        made = pacbed(potential, optics, where, batch=batch)
        np.testing.assert_allclose(made.intensity, expected.intensity, rtol=2e-4, atol=1e-9)
    assert made.first == expected.first
    whole = pacbed(potential, optics)
    steps = [np.arange(n) * s for n, s in zip(grid.shape[::-1], grid.sampling[::-1], strict=True)]
    everywhere = np.stack(np.meshgrid(*steps), -1)
    scanned = pacbed(potential, optics, everywhere)
    np.testing.assert_allclose(scanned.intensity, whole.intensity, rtol=2e-4, atol=1e-8)

    def brightest(slices):
        changed = replace(potential, slices=slices)
        return pacbed(changed, optics, where, batch=4).intensity.max()

    gradient = jax.jit(jax.grad(brightest))(potential.slices)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_disc_sums_have_gradients():
    grid = Grid.over((20.0, 20.0), shape=(48, 48))
    image = np.random.default_rng(0).uniform(size=(2, 48, 48)).astype(np.float32)

    def total(image):
        p = patterns(image, grid, ENERGY, crop="full")
        return find_spots(p, [4.0, 4.0, 4.0], radius=2.0).intensity.sum()

    gradient = np.asarray(jax.jit(jax.grad(total))(image))
    assert set(np.unique(gradient)) == {0.0, 1.0}
