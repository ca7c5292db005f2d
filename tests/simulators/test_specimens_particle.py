"""Nanoparticles: shapes, coordination across twins and faults, cores, and crystals in a box."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from scipy.spatial import cKDTree

from simulators.specimens.bulk import bulk
from simulators.specimens.crystal import CRYSTALS, ZONES, crystal
from simulators.specimens.particle import FACETS, REGIONS, cluster, core_shell, particle

EXTENT = (23.0, 22.0)
BOND = 4.078 / 2**0.5

compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def drawn(function, count=200, **options):
    def one(key):
        return function(key, EXTENT, n_max=160, support=None, **options)

    keys = jax.random.split(jax.random.key(5), count)
    return jax.tree.map(np.asarray, compiled(lambda k: jax.lax.map(one, k, batch_size=50))(keys))


def scenes(function, **options):
    """(positions [k, 3] from the centre in the crystal's frame, index) of every scene."""
    atoms, labels = drawn(function, **options)
    for i in range(len(labels.core)):
        there = atoms.occupancy[i] > 0
        yield (atoms.positions[i][there] - labels.centre[i]) @ labels.rotation[i], i


def test_facets():
    assert FACETS.shape == (14, 3)
    np.testing.assert_allclose(np.linalg.norm(FACETS, axis=1), 1)
    np.testing.assert_allclose(FACETS.sum(0), 0, atol=1e-12)


def test_perfect_particles_are_what_the_facets_enclose():
    _, labels = drawn(particle, faults=(0.0, 0.0))
    density = 4 / 4.078**3
    volumes = []
    for local, i in scenes(particle, faults=(0.0, 0.0)):
        gauge = (local @ FACETS.T / labels.facets[i]).max(1)
        assert gauge.max() < 1 + 1e-4
        nearest = cKDTree(local).query(local, k=2)[0][:, 1]
        np.testing.assert_allclose(nearest, BOND, atol=1e-3)
        # all of one lattice: differences are halves of the lattice constant that sum to even
        steps = (local - local[0]) / (4.078 / 2)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
        assert (np.round(steps).sum(1) % 2 == 0).all()
        box = np.random.default_rng(i).uniform(-9, 9, (4000, 3))
        inside = (box @ FACETS.T <= labels.facets[i][None]).all(1).mean()
        volumes.append((len(local), inside * 18**3 * density))
        assert labels.atoms[i] == len(local)
    counted, expected = np.array(volumes).T
    assert counted.mean() == pytest.approx(expected.mean(), rel=0.03)
    assert (labels.fault == 0).all()
    assert (labels.plane == 0).all()


def test_bonds_across_twins_and_faults_are_those_of_the_crystal():
    atoms, labels = drawn(particle, faults=(0.5, 0.5))
    seen = set()
    for local, i in scenes(particle, faults=(0.5, 0.5)):
        seen.add(int(labels.fault[i]))
        length = cKDTree(local).query(local, k=14)[0][:, 1:]
        near = (length < 1.2 * BOND).sum(1)
        assert length.min() > BOND - 1e-3
        assert near.max() == 12
        bonds = length[length < 1.2 * BOND]
        np.testing.assert_allclose(bonds, BOND, atol=2e-3)
        # atoms beyond are those above the plane, in the labelled frame
        there = atoms.occupancy[i] > 0
        normal, level = labels.plane[i][:3], labels.plane[i][3]
        height = (atoms.positions[i][there] - labels.centre[i]) @ normal - level
        np.testing.assert_array_equal(height > 0.5, labels.beyond[i][there])
    assert seen == {1, 2}


def test_faults_are_no_single_crystals_and_can_be_undone():
    atoms, labels = drawn(particle, faults=(0.5, 0.5))
    broken = 0
    for local, i in scenes(particle, faults=(0.5, 0.5)):
        there = atoms.occupancy[i] > 0
        beyond = labels.beyond[i][there]
        if not 3 < beyond.sum() < len(beyond) - 3:
            continue
        normal, level = labels.plane[i][:3] @ labels.rotation[i], labels.plane[i][3]
        slip = labels.slip[i] @ labels.rotation[i]

        def crystalline(points):
            steps = (points - points[0]) / (4.078 / 2)
            whole = np.abs(steps - np.round(steps)).max() < 2e-2
            return whole and bool((np.round(steps).sum(1) % 2 == 0).all())

        start = np.flatnonzero(~beyond)[:1]
        order = np.concatenate([start, np.flatnonzero(beyond), np.flatnonzero(~beyond)])
        assert not crystalline(local[order])
        broken += 1
        if labels.fault[i] == 2:
            assert np.linalg.norm(slip) == pytest.approx(4.078 / 6**0.5, rel=1e-4)
            undone = np.where(beyond[:, None], local - slip, local)
            assert crystalline(undone[order])
        else:
            # a mirror image in the plane of the twin is the same crystal as the other half
            mirrored = local - 2 * ((local @ normal) - level)[:, None] * normal
            undone = np.where(beyond[:, None], mirrored, local)
            assert crystalline(undone[order])
            assert (slip == 0).all()
    assert broken > 80


def test_core_and_shell():
    atoms, labels = drawn(core_shell)
    for local, i in scenes(core_shell):
        there = atoms.occupancy[i] > 0
        gauge = (local @ FACETS.T / labels.facets[i]).max(1)
        is_core = gauge <= labels.core[i]
        sure = np.abs(gauge - labels.core[i]) > 1e-4
        region = labels.region[i][there]
        expected = np.where(is_core, REGIONS.index("core"), REGIONS.index("shell"))
        np.testing.assert_array_equal(region[sure], expected[sure])
        np.testing.assert_array_equal(atoms.numbers[i][there] == 46, region == 1)
    assert labels.core.min() > 0.4
    assert labels.core.max() < 0.8


def test_clusters_are_rougher_than_wulff_shapes():
    _, wulff = drawn(particle, faults=(0.0, 0.0))
    _, random = drawn(cluster)
    for label, many in ((wulff, False), (random, True)):
        kinds = [len(np.unique(row.round(3))) for row in label.facets]
        assert (np.array(kinds) > 10).all() == many
        assert (np.array(kinds) <= 2).all() != many


def test_a_particle_rests_on_its_support():
    make = compiled(lambda key: particle(key, EXTENT, n_max=420, support="SiO2"))
    atoms, labels = jax.tree.map(np.asarray, make(jax.random.key(0)))
    there = atoms.occupancy > 0
    z = atoms.positions[:, 2]
    carrier = labels.region == REGIONS.index("support")
    metal = there & ~carrier
    assert z[carrier].max() < 5.0
    assert z[metal].min() == pytest.approx(5.0 + 2.2 + 0.01, abs=1e-3)
    assert set(atoms.numbers[carrier]) == {8, 14}
    assert carrier.sum() == round(0.0662 * 23 * 22 * 5)
    assert metal.sum() == labels.atoms


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metal": "Fe"}, "particles are fcc metals, and Fe is bcc"),
        ({"radius": (6.0, 5.0)}, "radius must be"),
        ({"energies": (0.1, 2.0)}, "one family of facets vanishes"),
        ({"faults": (0.8, 0.8)}, "chances of faults"),
        ({"radius": (9.0, 10.0)}, "too small for particles of a radius up to 10 Å"),
    ],
)
def test_particles_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        particle(jax.random.key(0), EXTENT, n_max=400, **options)


def test_random_crystals_lie_as_labelled():
    def one(key):
        return crystal(key, (14.0, 12.0), n_max=260)

    keys = jax.random.split(jax.random.key(0), 200)
    atoms, labels = jax.tree.map(
        np.asarray, compiled(lambda k: jax.lax.map(one, k, batch_size=50))(keys)
    )
    assert set(labels.crystal.tolist()) == set(range(len(CRYSTALS)))
    for i in range(200):
        found = bulk(CRYSTALS[labels.crystal[i]])
        there = atoms.occupancy[i] > 0
        points = atoms.positions[i][there].astype(float)
        basis = labels.basis[i][there]
        np.testing.assert_array_equal(atoms.numbers[i][there], found.numbers[basis])
        # in primitive cells, atoms of one row of the basis are whole numbers apart
        steps = (points - points[0]) @ labels.rotation[i] - (
            found.positions[basis] - found.positions[basis[0]]
        )
        steps = steps @ np.linalg.inv(found.cell)
        np.testing.assert_allclose(steps, np.round(steps), atol=2e-3)
        axis = labels.rotation[i] @ (np.array(ZONES[labels.zone[i]]) @ found.axes)
        axis /= np.linalg.norm(axis)
        size = np.linalg.norm(labels.tilt[i]) * 1e-3
        np.testing.assert_allclose(axis[2], np.cos(size), atol=1e-5)
        np.testing.assert_allclose(axis[:2], labels.tilt[i] * 1e-3, atol=1e-4)
        # the box is full: a box of atoms within a cell's reach of the ideal number
        volume = 14 * 12 * 8
        assert len(points) == pytest.approx(found.density * volume, rel=0.35)


def test_crystals_that_make_no_sense():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="no crystal 'Unobtainium'"):
        crystal(key, (14.0, 12.0), n_max=10, names=("Unobtainium",))
    with pytest.raises(ValueError, match=r"\(0, 0, 0\) is no direction"):
        crystal(key, (14.0, 12.0), n_max=10, zones=((0, 0, 0),))
    with pytest.raises(ValueError, match="thickness of at least 1 Å"):
        crystal(key, (14.0, 12.0), n_max=10, thickness=0.0)
    with pytest.raises(ValueError, match="at least one crystal"):
        crystal(key, (14.0, 12.0), n_max=10, names=())
