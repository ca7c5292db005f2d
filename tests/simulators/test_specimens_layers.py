"""Two-dimensional crystals with labelled defects, and imposed strain fields."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from simulators.specimens.labels import KIND
from simulators.specimens.layers import graphene_layer, hbn_layer, layer, mx2_layer
from simulators.specimens.materials import graphene, mx2
from simulators.specimens.strain import random_strain, rotation_of, strain_of

EXTENT, ROWS, DRAWS = (18.0, 16.0), 170, 200

compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def drawn(function, **options):
    def one(key):
        return function(key, EXTENT, n_max=ROWS, **options)

    keys = jax.random.split(jax.random.key(3), DRAWS)
    return jax.tree.map(np.asarray, compiled(lambda k: jax.lax.map(one, k, batch_size=50))(keys))


@pytest.mark.parametrize("function", [graphene_layer, hbn_layer, mx2_layer])
def test_labels_are_what_the_atoms_are(function):
    atoms, labels = drawn(function)
    sites, there = labels.sites, atoms.occupancy > 0
    vacant = sites.kind == KIND["vacancy"]
    np.testing.assert_array_equal(there | vacant, sites.kind > 0)
    assert not (there & vacant).any()
    np.testing.assert_array_equal((sites.ideal > 0), sites.kind > 0)
    np.testing.assert_array_equal(atoms.positions[there], sites.xyz[there])
    same = (sites.kind == KIND["regular"]) | (sites.kind == KIND["stone_wales"])
    np.testing.assert_array_equal(atoms.numbers[same], sites.ideal[same])
    other = (sites.kind == KIND["substitution"]) | (sites.kind == KIND["antisite"])
    assert (atoms.numbers[other] != sites.ideal[other]).all()
    assert other.sum() > 100
    assert vacant.sum() > 100
    assert (labels.grain[sites.kind > 0] >= 0).all()
    assert (labels.grain[sites.kind == 0] == -1).all()
    # each vacant place is as far from the atoms as an atom would be
    for i in np.flatnonzero(vacant.any(1))[:20]:
        gap = cKDTree(atoms.positions[i][there[i]]).query(sites.xyz[i][vacant[i]])[0]
        assert gap.min() > 1.2


def test_perfect_graphene_has_perfect_bonds():
    with jax.enable_x64(True):
        make = compiled(lambda key: layer(key, graphene(), EXTENT, n_max=ROWS, strain=0.0))
        atoms, labels = make(jax.random.key(1))
    points = np.asarray(atoms.positions)[np.asarray(atoms.occupancy) > 0]
    length = cKDTree(points).query(points, k=2)[0][:, 1]
    np.testing.assert_allclose(length[length < 1.5], 2.46 / 3**0.5, atol=1e-9)
    assert len(points) == pytest.approx(2 / (2.46**2 * 3**0.5 / 2) * 18 * 16, rel=0.06)
    assert set(np.asarray(labels.sites.kind).tolist()) == {0, KIND["regular"]}
    np.testing.assert_allclose(labels.gradient, 0, atol=1e-12)


def test_stone_wales_bonds_are_turned_and_far_apart():
    _, labels = drawn(graphene_layer)
    turned = labels.sites.kind == KIND["stone_wales"]
    count = turned.sum(1)
    assert set(np.unique(count)) <= {0, 1, 2, 3, 4}, "an atom of a pair may lie beyond the box"
    assert (count >= 2).mean() > 0.4
    for i in np.flatnonzero(count == 2)[:40]:
        pair = labels.sites.xyz[i][turned[i]]
        if np.linalg.norm(pair[0] - pair[1]) < 2:
            assert np.linalg.norm(pair[0] - pair[1]) == pytest.approx(1.42, rel=0.03)


def test_two_grains_meet_without_crowding():
    atoms, labels = drawn(graphene_layer)
    two = np.isfinite(labels.boundary[:, 2])
    assert 0.2 < two.mean() < 0.4
    assert (labels.grain[~two] < 1).all()
    both = (labels.grain == 0).any(1) & (labels.grain == 1).any(1)
    assert both[two].mean() > 0.8
    widest = []
    for i in np.flatnonzero(both):
        there = atoms.occupancy[i] > 0
        points = atoms.positions[i][there]
        assert cKDTree(points).query(points, k=2)[0][:, 1].min() > 1.2
        sites = labels.sites.xyz[i][labels.sites.kind[i] > 0]
        widest.append(cKDTree(sites).query(sites, k=2)[0][:, 1].max())
    assert np.median(widest) < 1.75, "no gap as wide as a missing row"


def test_edges_leave_vacuum():
    _, labels = drawn(graphene_layer)
    cut = np.isfinite(labels.edge[:, 2])
    count = (labels.sites.kind > 0).sum(1)
    assert 0.1 < cut.mean() < 0.3
    assert count[cut].mean() < 0.8 * count[~cut].mean()


def test_alloys_have_their_concentration():
    atoms, labels = drawn(mx2_layer)
    sites = labels.sites
    for i, (old, new) in enumerate(((42, 74), (16, 34))):
        site = (sites.ideal == old) & (sites.kind > 0)
        share = ((atoms.numbers == new) & (sites.kind == KIND["substitution"]) & site).sum(1)
        share = share / site.sum(1)
        # vacancies and antisites take a few per cent
        assert np.abs(share - labels.chances[:, i]).mean() < 0.06
        assert np.corrcoef(share, labels.chances[:, i])[0, 1] > 0.95


def test_strain_labels_are_exact():
    with jax.enable_x64(True):
        make = compiled(lambda key: layer(key, mx2(), EXTENT, n_max=ROWS, strain=0.04))
        _, labels = make(jax.random.key(4))
        there = np.asarray(labels.sites.kind) > 0
        now = jnp.asarray(labels.sites.xyz)[there]
        before = labels.field.reference(now)
        np.testing.assert_allclose(
            before + labels.field.displacement(before), now[:, :2], atol=1e-9
        )
        np.testing.assert_allclose(labels.field.gradient(before), labels.gradient[there], atol=1e-9)
        # undone, the metals are at the distance of the perfect crystal
        metal = np.asarray(labels.sites.ideal)[there] == 42
        plain = np.asarray(before)[metal]
    length = cKDTree(plain).query(plain, k=2)[0][:, 1]
    np.testing.assert_allclose(length[length < 3.5], 3.16, atol=1e-6)


def test_strain_fields(x64):
    for seed in range(20):
        field = random_strain(jax.random.key(seed), EXTENT, 0.03)
        points = jax.random.uniform(jax.random.key(100 + seed), (50, 2), maxval=18.0)
        exact = jax.vmap(jax.jacfwd(lambda p, f=field: f.displacement(p[None])[0]))(points)
        np.testing.assert_allclose(field.gradient(points), exact, atol=1e-12)
        assert jnp.linalg.norm(exact, axis=(1, 2)).max() <= 0.03
    step = 1e-5
    moved = [field.displacement(points.at[:, 0].add(s * step)) for s in (1, -1)]
    np.testing.assert_allclose((moved[0] - moved[1]) / (2 * step), exact[..., 0], atol=1e-9)


def test_parts_of_a_gradient():
    gradient = jnp.array([[[0.01, 0.02], [0.04, -0.03]]])
    np.testing.assert_allclose(strain_of(gradient)[0], [[0.01, 0.03], [0.03, -0.03]], atol=1e-7)
    np.testing.assert_allclose(rotation_of(gradient), [0.01], atol=1e-7)


@pytest.mark.parametrize(
    ("lattice", "options", "message"),
    [
        (graphene(), {"vacancies": {"Si": 0.1}}, "the layer has no Si"),
        (graphene(), {"strain": 0.5}, "strain must be between 0 and 0.04"),
        (mx2(), {"stone_wales": 1}, "need a flat layer"),
        (mx2(), {"boundary": 0.5}, "need a flat layer"),
    ],
)
def test_layers_that_make_no_sense(lattice, options, message):
    with pytest.raises(ValueError, match=message):
        layer(jax.random.key(0), lattice, EXTENT, n_max=ROWS, **options)
