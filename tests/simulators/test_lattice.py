"""Crystals against their known geometry, and the patches cut out of them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.atoms import check_coincident, check_inside
from simulators.specimens import MATERIALS, make_lattice, patch, supercell
from simulators.specimens.materials import (
    diamond110,
    fcc001,
    graphene,
    hbn,
    mx2,
    perovskite,
    rutile001,
)
from simulators.tree import replace

# most of the time of these tests would otherwise be the optimisation of programs that run once
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def neighbours(atoms, first, second, *, projected=False):
    """Distances, ascending, from each atom of one element to all of another, periodic [n, m]."""
    dims = 2 if projected else 3
    cell = np.asarray(atoms.cell)[:dims]
    xyz, numbers = np.asarray(atoms.positions)[:, :dims], np.asarray(atoms.numbers)
    apart = xyz[numbers == first][:, None] - xyz[numbers == second][None]
    apart = np.linalg.norm(apart - cell * np.round(apart / cell), axis=-1)
    apart[apart < 0.01] = np.inf
    return np.sort(apart, axis=1)


# ---------------------------------------------------------------- lattices


@pytest.mark.parametrize(
    ("lattice", "first", "second", "length", "bonds"),
    [
        # lengths as in the literature, Å
        (graphene(), 6, 6, 1.420, 3),
        (hbn(), 5, 7, 1.446, 3),
        (mx2("Mo", "S"), 42, 16, 2.41, 6),
        (mx2("W", "Se"), 74, 34, 2.53, 6),
        (perovskite(), 22, 8, 1.9525, 6),
        (perovskite(), 38, 8, 2.761, 12),
        (diamond110(), 14, 14, 2.352, 4),
        (fcc001(), 79, 79, 2.884, 12),
        (rutile001(), 22, 8, 1.949, 4),
    ],
)
def test_bond_lengths_and_coordination(lattice, first, second, length, bonds):
    atoms = supercell(lattice, (4, 4, 1 if lattice.height > 6 else 4))
    found = neighbours(atoms, first, second)
    np.testing.assert_allclose(
        found[:, :bonds], length, rtol=5e-3 if 42 in lattice.numbers else 1e-3
    )
    assert np.ptp(found[:, :bonds]) < 1e-9
    assert found[:, bonds].min() > length + 0.02, "and no further neighbour at this distance"


def test_the_apical_oxygen_of_rutile_is_the_fifth_and_sixth():
    found = neighbours(supercell(rutile001(), (3, 3, 4)), 22, 8)
    np.testing.assert_allclose(found[:, 4:6], 0.305 * 4.594 * 2**0.5, atol=1e-3)  # 1.98 Å


def test_the_dumbbells_of_silicon():
    atoms = supercell(diamond110(), (3, 3, 1))
    flat = neighbours(atoms, 14, 14, projected=True)
    np.testing.assert_allclose(flat[:, 0], 5.431 / 4, atol=1e-9)
    assert flat[:, 1].min() > 2.3


@pytest.mark.parametrize(
    ("name", "rows", "density"),
    # atoms per Å² of a layer, atoms per Å³ of a crystal (from density and molar mass)
    [
        ("graphene", 4, 0.3816),
        ("hbn", 4, 0.3683),
        ("mos2", 6, 0.3469),
        ("srtio3", 5, 0.0840),
        ("silicon110", 4, 0.04994),
        ("gold001", 4, 0.0590),
        ("rutile001", 6, 0.0961),
    ],
)
def test_atoms_of_a_cell_and_densities(name, rows, density):
    lattice = MATERIALS[name].lattice
    assert lattice.n == rows
    volume = abs(np.linalg.det(lattice.cell)) * (1 if density > 0.2 else lattice.height)
    assert rows / volume == pytest.approx(density, rel=2e-3)


@pytest.mark.parametrize("name", MATERIALS)
def test_supercells_are_periodic(name):
    lattice = MATERIALS[name].lattice
    atoms = supercell(lattice, (3, 2, 2))
    assert atoms.n == 12 * lattice.n
    np.testing.assert_allclose(
        atoms.cell, [*(np.diag(lattice.cell) * [3, 2]), 2 * lattice.height], rtol=1e-12
    )
    assert atoms.elements == lattice.elements, "with those that substitution may bring in"
    check_inside(atoms)
    check_coincident(atoms)
    # moved by one period of the lattice it is the same periodic crystal
    for axis, side in enumerate([*np.diag(lattice.cell), lattice.height]):
        moved = np.array(atoms.positions)
        moved[:, axis] += side
        for a, z in zip(moved, atoms.numbers, strict=True):
            apart = atoms.positions[atoms.numbers == z] - a
            apart -= atoms.cell * np.round(apart / atoms.cell)
            assert np.linalg.norm(apart, axis=1).min() < 1e-9


def test_lattices_that_make_no_sense():
    with pytest.raises(ValueError, match=r"2 positions but 1 elements"):
        make_lattice((3.0, 3.0), [(0, 0, 0), (0.5, 0.5, 0)], ["C"], 3.0)
    with pytest.raises(ValueError, match="two side lengths or two vectors"):
        make_lattice([[1.0, 2.0], [2.0, 4.0]], [(0, 0, 0)], ["C"], 3.0)
    with pytest.raises(ValueError, match="two side lengths or two vectors"):
        make_lattice((3.0, 3.0, 3.0), [(0, 0, 0)], ["C"], 3.0)
    with pytest.raises(ValueError, match="height must be positive"):
        make_lattice((3.0, 3.0), [(0, 0, 0)], ["C"], 0.0)
    with pytest.raises(ValueError, match="Xx"):
        make_lattice((3.0, 3.0), [(0, 0, 0)], ["Xx"], 3.0)
    with pytest.raises(ValueError, match=r"MoTe2 is known; there are MoS2, WS2"):
        mx2("Mo", "Te")


def test_supercells_that_cannot_be_periodic():
    skewed = make_lattice([[2.46, 0.0], [1.23, 2.13]], [(0, 0, 0)], ["C"], 7.0)
    with pytest.raises(ValueError, match="only a rectangular cell"):
        supercell(skewed, (2, 2, 1))
    with pytest.raises(ValueError, match="at least 1"):
        supercell(graphene(), (2, 0, 1))


# ---------------------------------------------------------------- patches


def expected_patch(lattice, extent, rotation=0.0, strain=None, origin=(0.0, 0.0)):
    """Positions and rows of the lattice of a patch by brute force, in float64."""
    cell = np.asarray(lattice.cell, float)
    steps = np.stack(np.meshgrid(*[np.arange(-30, 31)] * 2, indexing="ij"), -1).reshape(-1, 2)
    flat = (steps @ cell)[:, None] + np.asarray(lattice.positions)[None, :, :2] - cell.sum(0) / 2
    rows = np.tile(np.arange(lattice.n), len(steps))
    c, s = np.cos(rotation), np.sin(rotation)
    turn = np.array([[c, -s], [s, c]])
    gradient = np.eye(2) + (0 if strain is None else np.asarray(strain))
    xy = flat.reshape(-1, 2) @ (gradient @ turn).T + np.array(origin)
    half = np.array(extent[::-1]) / 2
    depth = (np.abs(xy) / half).max(1)
    keep = depth < 1
    doubtful = np.abs(depth - 1) < 1e-4
    z = np.asarray(lattice.positions)[rows, 2]
    return np.column_stack([xy + half, z])[keep], rows[keep], int(doubtful.sum())


SKEWED = make_lattice([[3.1, 0.4], [-0.9, 4.2]], [(0, 0, 0), (0.3, 0.6, 0.5)], ["C", "O"], 5.0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["graphene", "srtio3", "skewed"]),
    extent=st.sampled_from([(16.0, 14.0), (6.0, 25.0)]),
    rotation=st.floats(0, 6.28),
    strain=st.lists(st.floats(-0.04, 0.04), min_size=4, max_size=4),
    origin=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
)
def test_patches_are_the_crystal_turned_strained_and_moved(name, extent, rotation, strain, origin):
    lattice = SKEWED if name == "skewed" else MATERIALS[name].lattice
    strain = np.reshape(strain, (2, 2))
    atoms, sites = patch_of(name, extent)(rotation, strain, jnp.asarray(origin))
    there = np.asarray(atoms.occupancy) > 0
    xyz, rows, doubtful = expected_patch(lattice, extent, rotation, strain, origin)
    assert abs(int(there.sum()) - len(xyz)) <= doubtful
    apart = np.linalg.norm(np.asarray(atoms.positions)[there, None] - xyz[None], axis=-1)
    nearest = apart.argmin(1)
    found = apart.min(1) < 2e-4
    assert (~found).sum() <= doubtful
    assert (np.asarray(sites)[there] == rows[nearest])[found].all()
    np.testing.assert_array_equal(
        np.asarray(atoms.numbers)[there], np.asarray(lattice.numbers)[np.asarray(sites)[there]]
    )
    np.testing.assert_allclose(atoms.cell, [extent[1], extent[0], lattice.height])


@functools.cache
def patch_of(name, extent, n_max=160):
    lattice = SKEWED if name == "skewed" else MATERIALS[name].lattice

    @compiled
    def cut(rotation, strain, origin):
        return patch(lattice, extent, n_max=n_max, rotation=rotation, strain=strain, origin=origin)

    return cut


def test_rotation_turns_from_x_towards_y_and_strain_acts_after_it():
    # one atom in the middle of a large cell, and its neighbour along a
    lattice = make_lattice((5.0, 40.0), [(0.5, 0.5, 0.0)], ["C"], 3.0)

    def turned_by(strain, origin):
        atoms, _ = patch(
            lattice, (18.0, 18.0), n_max=9, rotation=np.pi / 2, strain=strain, origin=origin
        )
        xy = np.asarray(atoms.positions)[np.asarray(atoms.occupancy) > 0, :2]
        return xy[np.argsort(xy[:, 1])]

    moved = turned_by(None, (0.5, 0.0))
    np.testing.assert_allclose(moved, [[9.5, 4], [9.5, 9], [9.5, 14]], atol=1e-5)
    strain = [[0.0, 0.1], [0.0, 0.2]]  # u_x = 0.1 y, u_y = 0.2 y: of the turned crystal
    np.testing.assert_allclose(turned_by(strain, (0, 0)), [[8.5, 3], [9, 9], [9.5, 15]], atol=1e-5)


def test_tables_smaller_and_larger_than_the_crystal():
    placed = (0.3, np.zeros((2, 2)), np.array([0.3, 0.2]))
    everything, _ = patch_of("srtio3", (12.0, 12.0))(*placed)
    assert int((everything.occupancy > 0).sum()) < 160
    depth = np.abs(np.asarray(everything.positions)[:, :2] - 6).max(1)
    depth = np.sort(depth[np.asarray(everything.occupancy) > 0])
    few, _ = patch_of("srtio3", (12.0, 12.0), 20)(*placed)
    kept = np.abs(np.asarray(few.positions)[:, :2] - 6).max(1)
    np.testing.assert_allclose(np.sort(kept), depth[:20], atol=1e-5)
    # more rows than there are candidates at all: the rest is padding
    large, _ = patch_of("srtio3", (3.0, 3.0), 700)(*placed)
    there = np.asarray(large.occupancy) > 0
    assert large.n == 700
    assert 0 < there.sum() < 10
    assert (np.asarray(large.positions)[~there] == 0).all()


def test_a_traced_lattice_needs_the_number_of_cells():
    lattice = graphene()
    with pytest.raises(ValueError, match=r"give cells= for a traced lattice"):
        jax.jit(lambda cell: patch(replace(lattice, cell=cell), (5.0, 5.0), n_max=9))(lattice.cell)
