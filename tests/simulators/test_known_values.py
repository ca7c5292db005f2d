"""What a user computed with JAX is checked, and computed with, like what is written as numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import Atoms, make_atoms
from simulators.detectors import Annular
from simulators.diffraction_modes import pacbed
from simulators.grid import Grid
from simulators.imaging import cbed, stem
from simulators.optics import Optics
from simulators.potential import Potential, project
from simulators.specimens import SPECIMENS
from simulators.tree import replace

GRID = Grid.over((8.0, 10.0), sampling=0.2)
LENS = Optics(energy=100e3, semiangle=20.0)
RING = [Annular(0.0, 20.0)]


def atoms() -> Atoms:
    return make_atoms([[5.0, 4.0, 1.0], [2.0, 3.0, 1.5]], [22, 8], [10.0, 8.0, 3.0])


def eager() -> Atoms:
    return jax.tree.map(jnp.asarray, atoms())


def test_a_specimen_of_jax_arrays_needs_no_more_than_one_of_numbers():
    np.testing.assert_allclose(
        project(eager(), GRID, 1.5).slices, project(atoms(), GRID, 1.5).slices, atol=1e-3
    )
    scene = SPECIMENS["graphene"](jax.random.key(0), (12.0, 14.0), n_max=150)
    made = project(scene, Grid.over((12.0, 14.0), sampling=0.2), 2.0)
    assert made.thickness.sum() == pytest.approx(float(scene.cell[2]), rel=1e-6)
    with pytest.raises(ValueError, match="the grid spans"):
        project(scene, Grid.over((14.0, 12.0), sampling=0.2), 2.0)


def test_a_probe_of_jax_numbers_is_checked():
    potential = project(atoms(), GRID, 1.5)
    far = replace(LENS, C10=jnp.asarray(-5000.0))
    with pytest.raises(ValueError, match="does not fit the grid"):
        stem(potential, far, [[1.0, 1.0]], RING)
    same = stem(potential, replace(LENS, energy=jnp.asarray(100e3)), [[1.0, 1.0]], RING)
    np.testing.assert_allclose(same, stem(potential, LENS, [[1.0, 1.0]], RING), rtol=1e-5)


@pytest.mark.parametrize("energy", [80, np.float32(80.0), np.int64(80), np.array(80.0)])
def test_kilovolts_are_refused_whatever_their_type(energy):
    with pytest.raises(ValueError, match="energies are in eV"):
        Optics(energy=energy, semiangle=20.0)


@pytest.mark.parametrize("angle", [0.02, np.array(0.02), np.float32(0.02)])
def test_radians_are_refused_whatever_their_type(angle):
    with pytest.raises(ValueError, match="mrad, not rad"):
        Optics(energy=80e3, semiangle=angle)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([[1.0, np.nan]], "position 0 is not finite"),
        (np.zeros((0, 2)), "at least one"),
        ([[1.0, 2.0, 3.0]], r"must be \[..., 2\]"),
    ],
)
def test_bad_positions(positions, message):
    potential = project(atoms(), GRID, 1.5)
    for function in (
        lambda: stem(potential, LENS, positions, RING),
        lambda: cbed(potential, LENS, positions),
        lambda: pacbed(potential, LENS, positions),
    ):
        with pytest.raises(ValueError, match=message):
            function()


def test_coherence_that_a_probe_does_not_have_is_not_ignored():
    potential = project(atoms(), GRID, 1.5)
    with pytest.raises(ValueError, match="over_focus"):
        stem(potential, replace(LENS, focal_spread=50.0), [[1.0, 1.0]], RING)


def test_a_potential_by_hand_is_checked():
    slices = jnp.zeros((2, *GRID.shape))
    with pytest.raises(ValueError, match="2 slices but thicknesses"):
        stem(Potential(slices, jnp.ones(3), GRID), LENS, [[1.0, 1.0]], RING)


@pytest.mark.parametrize("occupancy", [[-3.0], [np.nan], [1.5]])
def test_occupancies_lie_between_0_and_1(occupancy):
    with pytest.raises(ValueError, match="occupancy must be 0 to 1, atom 0"):
        make_atoms([[1.0, 1.0, 1.0]], [6], [3.0, 3.0, 3.0], occupancy=occupancy)


def test_the_energy_gradient_of_an_image(x64):
    potential = project(atoms(), GRID, 1.5, dtype="float64")
    where = np.array([[5.0, 4.0], [4.0, 3.5]])

    def signal(energy):
        lens = Optics(energy=energy, semiangle=20.0)
        options = {"method": "multislice", "detector_energy": 100e3}
        return stem(potential, lens, where, [Annular(5.0, 15.0)], **options).sum()

    step = 10.0
    slope = (signal(100e3 + step) - signal(100e3 - step)) / (2 * step)
    assert float(jax.grad(signal)(100e3)) == pytest.approx(float(slope), rel=1e-5)
