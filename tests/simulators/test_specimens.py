"""Columns, materials with defects, stacks of materials, and crystals that nobody has made."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.specimens import (
    MATERIALS,
    Disorder,
    columns,
    generic,
    generic_cells,
    material,
    random_crystal,
    supercell,
)
from simulators.specimens.lattice import cells_needed, pad_lattice
from simulators.specimens.materials import (
    graphene,
    hbn,
    mx2,
    perovskite,
)
from simulators.specimens.random_crystal import most_cells, stack
from simulators.tree import replace

PERFECT = Disorder(*[0.0] * 7)

# most of the time of these tests would otherwise be the optimisation of programs that run once
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# ---------------------------------------------------------------- columns


@functools.partial(compiled, static_argnames=("tolerance", "periodic"))
def found_in(atoms, **options):
    return columns(atoms, **options)


def points(xy, numbers, cell=(10.0, 10.0, 10.0), **kwargs):
    xyz = np.column_stack([np.asarray(xy, float), np.linspace(1, 9, len(xy))])
    return make_atoms(xyz, numbers, cell, **kwargs)


def test_atoms_above_each_other_are_one_column():
    found = found_in(supercell(mx2("Mo", "S"), (3, 2, 1)))
    present = np.asarray(found.present)
    assert present.sum() == 24
    numbers, atoms = np.asarray(found.numbers)[present], np.asarray(found.atoms)[present]
    assert (atoms[numbers == 16] == 2).all()
    assert (atoms[numbers == 42] == 1).all()
    assert (numbers == 42).sum() == 12


def test_a_column_is_named_by_its_heaviest_atom():
    found = found_in(supercell(perovskite(), (2, 2, 3)))
    present = np.asarray(found.present)
    kinds, counts = np.unique(np.asarray(found.numbers)[present], return_counts=True)
    assert dict(zip(kinds.tolist(), counts.tolist(), strict=True)) == {8: 8, 22: 4, 38: 4}
    by = {z: set(np.asarray(found.atoms)[present & (found.numbers == z)]) for z in (8, 22, 38)}
    assert by == {8: {3}, 22: {6}, 38: {3}}


def test_columns_lie_at_the_mean_of_their_atoms():
    found = found_in(points([(5.0, 5.0), (5.2, 5.1), (8.0, 2.0)], [6, 14, 6]))
    assert np.asarray(found.present).tolist() == [True, False, True]
    np.testing.assert_allclose(found.xy[0], [5.1, 5.05], atol=1e-6)
    np.testing.assert_allclose(found.xy[2], [8.0, 2.0], atol=1e-6)
    assert np.asarray(found.numbers).tolist() == [14, 14, 6]
    assert np.asarray(found.atoms).tolist() == [2, 2, 1]


def test_tolerance():
    pair = points([(5.0, 5.0), (5.4, 5.0)], [6, 6])
    assert int(found_in(pair).present.sum()) == 2
    assert int(found_in(pair, tolerance=0.5).present.sum()) == 1


def test_columns_across_the_sides_of_a_periodic_cell():
    pair = points([(0.05, 5.0), (9.95, 5.0)], [6, 6])
    assert int(found_in(pair).present.sum()) == 2
    found = found_in(pair, periodic=True)
    assert np.asarray(found.present).tolist() == [True, False]
    np.testing.assert_allclose(found.xy[0], [0.0, 5.0], atol=1e-6)


def test_absent_atoms_are_no_columns():
    atoms = points([(5.0, 5.0), (5.1, 5.0), (8.0, 2.0)], [79, 6, 6], occupancy=[0.0, 1.0, 0.0])
    found = found_in(atoms)
    assert np.asarray(found.present).tolist() == [False, True, False]
    assert int(found.numbers[1]) == 6, "not named by an atom that is not there"
    assert int(found.atoms[1]) == 1


# ---------------------------------------------------------------- materials in one stack

EXTENT, ROWS = (12.0, 10.0), 80
STACK = {
    **{name: MATERIALS[name] for name in ("graphene", "mos2", "srtio3")},
    "damaged": material(hbn(), vacancies={"B": 1.0}, substitutes={"N": "C"}),
}


@functools.cache
def stack_sampler():
    """``(keys [n], index of the material, disorder) -> Atoms [n, ...]``: compiled once for all."""
    stacked = stack(list(STACK.values()))
    cells = most_cells(list(STACK.values()), EXTENT)

    def one(key, index, disorder):
        picked = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], stacked)
        return random_crystal(key, picked, EXTENT, n_max=ROWS, disorder=disorder, cells=cells)

    return compiled(jax.vmap(one, in_axes=(0, None, None)))


def scenes(name, disorder):
    keys = jax.random.split(jax.random.key(7), 200)
    settings = jax.tree.map(jnp.asarray, disorder)
    return stack_sampler()(keys, list(STACK).index(name), settings)


def test_one_of_a_stack_is_what_it_is_alone():
    name = "graphene"  # the stack has more rows than it needs
    chosen = scenes(name, Disorder())
    assert chosen.elements == (5, 6, 7, 8, 14, 16, 22, 34, 38, 42, 74)
    keys = jax.random.split(jax.random.key(7), 200)
    alone = compiled(jax.vmap(lambda key: random_crystal(key, STACK[name], EXTENT, n_max=ROWS)))(
        keys
    )
    for leaf in ("positions", "numbers", "occupancy", "sigma", "cell"):
        np.testing.assert_allclose(getattr(chosen, leaf), getattr(alone, leaf), atol=1e-4)


@pytest.mark.parametrize("name", ["mos2", "srtio3"])
def test_static_displacements_do_not_split_columns(name):
    # far larger displacements than usual, so that nearly all lie at the cut-off
    count = compiled(jax.vmap(lambda atoms: columns(atoms).present.sum()))
    still, moved = (
        count(replace(scenes(name, disorder), elements=()))
        for disorder in (PERFECT, replace(PERFECT, displacement=1.0))
    )
    np.testing.assert_array_equal(still, moved)


def test_defects_only_where_the_material_has_them():
    damaged = STACK["damaged"]
    assert damaged.lattice.elements == (5, 6, 7)
    np.testing.assert_array_equal(damaged.vacancy, [1, 0, 1, 0])
    np.testing.assert_array_equal(damaged.substitute, [0, 6, 0, 6])
    ideal = np.asarray(scenes("damaged", PERFECT).numbers)
    much = replace(PERFECT, vacancies=1.0, substitutions=1.0)
    result = scenes("damaged", much)
    drawn = np.where(np.asarray(result.occupancy) > 0, result.numbers, 0)
    vacant = np.where(np.asarray(result.occupancy) == 0, result.numbers, 0)
    full = {z: int((ideal == z).sum()) for z in (5, 6, 7)}
    left = {z: int((drawn == z).sum()) for z in (5, 6, 7)}
    assert full[6] == 0
    assert 0.4 * full[5] < left[5] < 0.95 * full[5], "boron goes missing, log-uniformly"
    assert left[5] + (vacant == 5).sum() == full[5], "a vacancy tells what is missing"
    assert left[6] + left[7] == full[7], "nitrogen does not"
    assert left[6] > 0.05 * full[7], "but turns into carbon"


def test_edges_leave_vacuum_on_one_side():
    whole = (np.asarray(scenes("graphene", PERFECT).occupancy) > 0).sum(1)
    cut = (np.asarray(scenes("graphene", replace(PERFECT, edge=1.0)).occupancy) > 0).sum(1)
    assert (cut <= whole).all()
    assert (cut > 0).all()
    assert 0.3 < cut.mean() / whole.mean() < 0.7


def test_materials_that_make_no_sense():
    with pytest.raises(ValueError, match=r"the lattice has no atoms of Z = \[14, 79\]"):
        material(graphene(), vacancies={"Au": 1.0}, substitutes={"Si": "C"})


def test_stacks_need_enough_rows():
    with pytest.raises(ValueError, match="6 atoms does not fit into 5 rows"):
        pad_lattice(mx2(), 5, ())


# ---------------------------------------------------------------- random crystals


@functools.cache
def random_materials():
    keys = jax.random.split(jax.random.key(2), 500)
    return jax.tree.map(np.asarray, compiled(jax.vmap(generic))(keys))


def test_random_crystals_keep_their_columns_apart():
    drawn = random_materials()
    steps = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 2, indexing="ij"), -1).reshape(-1, 2)
    steps = steps[np.abs(steps).sum(1) > 0]
    kinds = []
    for i in range(500):
        cell, visible = drawn.lattice.cell[i], drawn.lattice.occupancy[i][:3] > 0
        flat, shifts = drawn.lattice.positions[i][:3][visible][:, :2], steps @ cell
        apart = flat[:, None] - flat[None]
        images = np.linalg.norm(apart[:, :, None] + shifts[None, None], axis=-1)
        itself = np.linalg.norm(apart, axis=-1) + 10 * np.eye(len(flat))
        assert min(images.min(), itself.min()) > 1.25 - 1e-5
        kinds.append(int(visible.sum()))
    assert set(kinds) == {1, 2, 3}


def test_random_crystals_are_within_their_limits():
    drawn = random_materials()
    lattice = drawn.lattice
    a, b = lattice.cell[:, 0], lattice.cell[:, 1]
    sides = np.linalg.norm(lattice.cell, axis=-1)
    assert sides.min() > 2.4 - 1e-5
    assert sides.max() < 5.6 + 1e-5
    angle = np.degrees(np.arccos((a * b).sum(1) / sides.prod(1)))
    assert angle.min() > 60 - 1e-3
    assert 0.4 < (np.abs(angle - 90) < 1e-3).mean() < 0.6, "every other one is a right angle"
    numbers = lattice.numbers
    visible = lattice.occupancy[:, :3] > 0
    assert numbers[:, :3][visible].min() >= 13
    assert numbers.max() < 80
    assert (numbers[:, :3][~visible] == 0).all()
    assert (numbers[:, 3] == 8).all()
    np.testing.assert_allclose(drawn.vacancy[:, :3], 0.5 * visible)
    assert (drawn.vacancy[:, 3] == 0).all()


@pytest.mark.parametrize("extent", [(16.0, 14.0), (36.0, 30.0)])
def test_enough_cells_of_any_random_crystal(extent):
    every = random_materials().lattice
    most = generic_cells(extent)
    for i in range(500):
        needed = cells_needed(jax.tree.map(lambda leaf, i=i: leaf[i], every), extent)
        assert max(needed) <= most[0]
    assert generic_cells(extent, (5.0, 6.0)) < most


def test_a_random_crystal_fits_a_stack():
    stacked = stack(list(STACK.values()))
    rows, elements = stacked.lattice.n, stacked.lattice.elements
    drawn = jax.eval_shape(
        lambda key: generic(key, rows=rows, elements=elements), jax.random.key(0)
    )
    assert jax.tree.structure(drawn) == jax.tree.structure(stacked)
    for mine, theirs in zip(jax.tree.leaves(drawn), jax.tree.leaves(stacked), strict=True):
        assert mine.shape == theirs.shape[1:]
