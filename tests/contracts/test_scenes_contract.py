"""Every labelled family of `SCENES` through one battery: a thousand valid scenes of each."""

from __future__ import annotations

import functools
import inspect

import jax
import numpy as np
import pytest
from scipy.spatial import cKDTree

from simulators.specimens import SCENES, SPECIMENS, columns

DRAWS = 1000
LARGE = ((26.0, 24.0), 900, 1.0, {})

SMALL_PARTICLE = {"radius": (3.0, 4.0)}
CASES = {
    # extent (y, x) in Å, rows, least distance of two atoms in Å, options
    "graphene_defects": ((16.0, 14.0), 140, 1.2, {}),
    "hbn_defects": ((16.0, 14.0), 140, 1.2, {}),
    "mx2_alloy": ((16.0, 14.0), 140, 2.3, {}),
    "crystal": ((14.0, 12.0), 260, 1.9, {}),
    "particle": ((17.0, 16.0), 280, 1.4, SMALL_PARTICLE),
    "cluster": ((17.0, 16.0), 280, 1.4, SMALL_PARTICLE),
    "core_shell": ((17.0, 16.0), 280, 1.4, SMALL_PARTICLE),
    "nanotube": ((16.0, 14.0), 260, 1.38, {}),
    "interface": ((20.0, 16.0), 360, 1.85, {}),
    "film_on_silicon": ((20.0, 18.0), 240, 1.7, {}),
    "amorphous": ((12.0, 10.0), 120, 1.55, {}),
    "glass_interface": ((14.0, 12.0), 240, 1.55, {}),
}
"""What is known of the families; one that is not listed is drawn in a large box."""

PERIODIC = ("amorphous",)

names = pytest.mark.parametrize("name", SCENES)


@functools.cache
def sampler(name):
    extent, n_max, _, options = CASES.get(name, LARGE)

    def one(key):
        return SCENES[name](key, extent, n_max=n_max, **options)

    return jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=50))


@functools.cache
def everything(name):
    """(atoms, labels) [1000 + 50, ...]: of the last fifty the keys are those of the first."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return jax.tree.map(np.asarray, sampler(name)(jax.numpy.concatenate([keys, keys[:50][::-1]])))


def draws(name):
    """(atoms, labels) [1000, ...] as NumPy arrays."""
    return jax.tree.map(lambda leaf: leaf[:DRAWS], everything(name))


@names
def test_a_thousand_scenes_are_valid(name):
    extent, n_max, _, _ = CASES.get(name, LARGE)
    atoms, _ = draws(name)
    assert atoms.positions.shape == (DRAWS, n_max, 3)
    for leaf in (atoms.positions, atoms.occupancy, atoms.sigma, atoms.cell):
        assert np.isfinite(leaf).all()
    there = atoms.occupancy > 0
    assert there.any(1).all(), "an empty scene teaches nothing"
    assert there.sum(1).max() < n_max, "n_max suffices here, so nothing was left out"
    np.testing.assert_allclose(atoms.cell[:, :2], [extent[::-1]] * DRAWS, rtol=1e-6)
    assert (atoms.positions >= 0).all()
    assert (atoms.positions < atoms.cell[:, None]).all()
    assert (atoms.sigma[there] > 0).all()
    assert set(np.unique(atoms.numbers[there])) <= set(atoms.elements)
    for leaf in (atoms.numbers, atoms.sigma, atoms.positions[..., 0]):
        assert (leaf[~there] == 0).all(), "padding rows hold nothing"


@names
def test_no_two_atoms_are_too_near(name):
    floor = CASES.get(name, LARGE)[2]
    atoms, _ = draws(name)
    there = atoms.occupancy > 0
    if name in PERIODIC:
        for i in range(DRAWS):
            tree = cKDTree(atoms.positions[i][there[i]], boxsize=atoms.cell[i])
            assert not tree.query_pairs(floor - 1e-4)
        return
    # scenes far apart from each other in a fourth dimension: one tree for all
    points = np.column_stack([atoms.positions[there], 1e3 * np.nonzero(there)[0]])
    tree = cKDTree(points)
    assert not tree.query_pairs(floor)
    assert len(tree.query_pairs(2.5 * floor)) > 1000, "the measure measures"


@names
def test_scenes_are_functions_of_their_key_alone(name):
    for leaf in jax.tree.leaves(everything(name)):
        np.testing.assert_array_equal(leaf[:50], leaf[DRAWS:][::-1])
    places = draws(name)[0].positions.sum((1, 2))
    assert len(np.unique(places)) > 0.99 * DRAWS, "and keys give different scenes"


@names
def test_labels_are_arrays_without_nan(name):
    _, labels = draws(name)
    for path, leaf in jax.tree_util.tree_leaves_with_path(labels):
        assert leaf.shape[0] == DRAWS, path
        assert not np.isnan(leaf).any(), path


@names
def test_the_atoms_alone_are_a_specimen(name):
    extent, n_max, _, options = CASES.get(name, LARGE)
    structures = [
        jax.eval_shape(lambda key, f=f: f(key, extent, n_max=n_max, **options), jax.random.key(0))
        for f in (SCENES[name], SPECIMENS[name])
    ]
    assert jax.tree.structure(structures[0][0]) == jax.tree.structure(structures[1])
    marked = jax.eval_shape(columns, structures[1])
    assert marked.xy.shape == (n_max, 2)


@names
def test_signature_and_docstring(name):
    parameters = list(inspect.signature(SCENES[name]).parameters.values())
    assert [p.name for p in parameters[:3]] == ["key", "extent", "n_max"]
    assert parameters[2].kind is inspect.Parameter.KEYWORD_ONLY
    assert SCENES[name].__doc__, "what it is, in words"


@names
def test_a_box_too_small(name):
    with pytest.raises(ValueError, match=r"too small for .* at least"):
        SCENES[name](jax.random.key(0), (1.0, 1.0), n_max=100)
