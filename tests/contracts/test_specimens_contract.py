"""Every random crystal of `SPECIMENS` through one battery: a thousand scenes, JAX's transforms.

The labelled families of `SCENES` have theirs in test_scenes_contract.py.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from simulators.specimens import MATERIALS, SCENES, SPECIMENS, Disorder
from simulators.specimens.columns import TOLERANCE
from simulators.specimens.generic import LIGHT, SIDES
from simulators.specimens.random_crystal import LARGEST

EXTENT = (16.0, 14.0)
ROWS = 140
DRAWS = 1000
CELLS = (8, 8)
"""More than enough; of one number, so that materials share what is compiled."""

PERFECT = Disorder(*[0.0] * 7)
ONE_GRAIN = Disorder(boundary=0.0)
TWO_GRAINS = Disorder(boundary=1.0)

GAP = 0.9
"""Between the half-planes of two grains, Å: the least distance across a boundary, unrelaxed."""

MOVED = 2 * 2**0.5 * LARGEST
"""How much nearer static displacements can bring two columns, Å."""

STRAINED = 0.06
"""Four standard deviations of the strain of a random scene."""

names = pytest.mark.parametrize("name", [name for name in SPECIMENS if name not in SCENES])


@functools.cache
def sampler(name):
    def one(key, disorder):
        return SPECIMENS[name](key, EXTENT, n_max=ROWS, disorder=disorder)

    return jax.jit(jax.vmap(one, in_axes=(0, None)))


def keys(seed=0):
    return jax.random.split(jax.random.key(seed), DRAWS)


@functools.cache
def draws(name, kind="default"):
    """[1000, ...] scenes as NumPy arrays."""
    kinds = {"default": Disorder(), "perfect": PERFECT, "one": ONE_GRAIN, "two": TWO_GRAINS}
    return jax.tree.map(np.asarray, sampler(name)(keys(), jax.tree.map(jnp.asarray, kinds[kind])))


def between_columns(name, kind, reach):
    """Projected distances of all pairs of atoms below `reach` that are not of one column, Å."""
    atoms = draws(name, kind)
    there = atoms.occupancy > 0
    if name == "generic":  # its faint columns may lie anywhere
        there &= atoms.numbers != LIGHT
    scene = 1e3 * np.nonzero(there)[0]  # scenes above each other, far apart: one tree for all
    points = np.column_stack([atoms.positions[there][:, :2], scene])
    pairs = cKDTree(points).query_pairs(reach, output_type="ndarray")
    apart = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    return apart[apart > TOLERANCE]


def spacing(name):
    """Distance of neighbouring columns in projection, Å."""
    if name == "generic":
        return 1.25
    lattice = MATERIALS[name].lattice
    steps = np.stack(np.meshgrid(*[(-1, 0, 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    flat = np.asarray(lattice.positions)[:, :2]
    everything = (flat[:, None] + (steps @ lattice.cell)[None]).reshape(-1, 2)
    apart = np.linalg.norm(flat[:, None] - everything[None], axis=-1)
    return apart[apart > 0.01].min()


@names
def test_a_thousand_scenes_are_valid(name):
    atoms = draws(name)
    assert atoms.positions.shape == (DRAWS, ROWS, 3)
    for leaf in (atoms.positions, atoms.occupancy, atoms.sigma, atoms.cell):
        assert np.isfinite(leaf).all()
    there = atoms.occupancy > 0
    assert there.any(1).all(), "an empty scene teaches nothing"
    assert there.sum(1).max() < ROWS, "n_max suffices here, so nothing was left out"
    np.testing.assert_allclose(atoms.cell[:, :2], [EXTENT[::-1]] * DRAWS)
    places = atoms.positions[there]
    assert (places[:, :2] > -0.12).all()
    assert (places[:, :2] < np.add(EXTENT[::-1], 0.12)).all()
    assert (atoms.sigma[there] > 0).all()
    assert set(np.unique(atoms.numbers[there])) <= set(atoms.elements)
    padding = atoms.numbers == 0
    assert not (there & padding).any()
    for leaf in (atoms.sigma, atoms.positions[..., 0]):
        assert (leaf[padding] == 0).all(), "padding rows hold nothing"


@names
def test_columns_keep_their_distance(name):
    # within a grain that of the lattice; across a boundary half a bond, since nothing is relaxed
    inside = spacing(name) * (1 - STRAINED) - MOVED
    across = min(GAP, spacing(name) * (1 - STRAINED)) - MOVED
    assert len(between_columns(name, "one", inside)) == 0
    assert len(between_columns(name, "two", across)) == 0
    if name != "generic":  # what comes of it in a thousand scenes
        assert len(between_columns(name, "one", 0.95)) == 0
        assert len(between_columns(name, "two", 0.65)) == 0
    assert len(between_columns(name, "one", 2 * spacing(name))) > 1000, "the measure measures"


@names
def test_perfect_scenes_have_the_density_of_the_crystal_and_no_holes(name):
    atoms = draws(name, "perfect")
    count = (atoms.occupancy > 0).sum(1)
    if name == "generic":
        assert len(np.unique(count)) > 50, "every scene is another crystal"
        radius = 0.5 * 3**0.5 * SIDES[1]
    else:
        lattice = MATERIALS[name].lattice
        ideal = lattice.n / abs(np.linalg.det(lattice.cell)) * EXTENT[0] * EXTENT[1]
        assert abs(count.mean() / ideal - 1) < 0.005
        assert np.abs(count / ideal - 1).mean() < 0.1
        radius = 0.5 * np.hypot(*np.diag(lattice.cell))
    # a disc of half the cell's diagonal holds a lattice point: such discs in the four corners
    ends = [(radius, side - radius) for side in EXTENT[::-1]]
    for x in ends[0]:
        for y in ends[1]:
            gap = np.linalg.norm(atoms.positions[..., :2] - np.array([x, y]), axis=-1)
            nearest = np.where(atoms.occupancy > 0, gap, np.inf).min(1)
            assert (nearest < radius + 1e-3).all()


@names
def test_scenes_are_functions_of_their_key_alone(name):
    batch, again = draws(name), sampler(name)(keys(), jax.tree.map(jnp.asarray, Disorder()))
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    count = (batch.occupancy > 0).sum(1)
    assert len(np.unique(count)) > 10, "and keys give different scenes"


@names
def test_compiled_batches_equal_a_loop_without_compilation(name):
    batch = draws(name)
    for i in (0, 1, 999):
        alone = SPECIMENS[name](keys()[i], EXTENT, n_max=ROWS, cells=CELLS)
        assert alone.elements == batch.elements
        for leaf, expected in zip(*map(jax.tree.leaves, (alone, batch)), strict=True):
            np.testing.assert_allclose(leaf, expected[i], rtol=1e-5, atol=2e-5)


@names
def test_too_small_a_table_drops_atoms_at_the_edges(name):
    few, middle = 12, np.array(EXTENT[::-1]) / 2
    full = jax.tree.map(lambda leaf: leaf[3], draws(name, "perfect"))
    part = SPECIMENS[name](keys()[3], EXTENT, n_max=few, disorder=PERFECT, cells=CELLS)
    assert (np.asarray(part.occupancy) > 0).all()
    depth = (np.abs(full.positions[:, :2] - middle) / middle).max(1)
    inner = np.sort(depth[full.occupancy > 0])[:few]
    kept = np.sort((np.abs(np.asarray(part.positions)[:, :2] - middle) / middle).max(1))
    np.testing.assert_allclose(kept, inner, atol=1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(height=st.floats(3, 20), width=st.floats(3, 20), seed=st.integers(0, 2**31 - 1))
def test_any_extent(height, width, seed):
    scene = SPECIMENS["silicon110"](
        jax.random.key(seed), (height, width), n_max=ROWS, disorder=PERFECT, cells=CELLS
    )
    xy = np.asarray(scene.positions)[np.asarray(scene.occupancy) > 0, :2]
    assert (xy >= 0).all()
    assert (xy <= np.float32([width, height])).all()
    # of the cells that the sides cut it may hold all or none
    density, reach = 4 / (5.431**2 / 2**0.5), np.hypot(5.431, 5.431 / 2**0.5) / 2
    assert len(xy) <= density * (height + 2 * reach) * (width + 2 * reach)
    assert len(xy) >= density * max(height - 2 * reach, 0) * max(width - 2 * reach, 0)
    if len(xy) > 1:
        assert cKDTree(xy).query(xy, k=2)[0][:, 1].min() > 1.357
