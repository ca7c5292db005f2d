"""Nanotubes: exact radius and chirality, ASE's atoms, labels of random ones."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from simulators.specimens import nanotube, tube
from simulators.specimens.nanotube import random_nanotube

indices = st.integers(4, 14).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


def neighbours(atoms, k):
    shifts = np.array([[s, 0, 0] for s in (-1, 0, 1)]) * atoms.cell
    every = (atoms.positions[:, None] + shifts[None]).reshape(-1, 3)
    return cKDTree(every).query(atoms.positions, k=k + 1)[0][:, 1:]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(chiral=indices)
def test_geometry_is_exact(chiral):
    n, m = chiral
    atoms, found = nanotube(n, m)
    assert atoms.n == found.atoms
    assert 2 * found.radius == 2.46 * math.sqrt(n * n + n * m + m * m) / math.pi
    middle = atoms.cell[1:] / 2
    np.testing.assert_allclose(np.hypot(*(atoms.positions[:, 1:] - middle).T), found.radius)
    lengths = neighbours(atoms, 4)
    # rolling shortens bonds by the chord, b³/(24 R²) at most
    assert (lengths[:, :3] < 1.4203).all()
    assert (lengths[:, :3] > 1.4203 - 1.4203**3 / (24 * found.radius**2) - 1e-3).all()
    assert (lengths[:, 3] > 2.2).all()
    if found.radius > 3.5:
        np.testing.assert_allclose(lengths[:, :3], 1.4203, atol=0.0105)


@pytest.mark.parametrize("chiral", [(5, 5), (9, 0), (6, 4), (7, 3)])
def test_the_same_tube_as_ase(chiral):
    from ase.build import nanotube as of_ase

    ours, found = nanotube(*chiral)
    theirs = of_ase(*chiral, length=1, bond=2.46 / 3**0.5)
    assert len(theirs) == ours.n
    assert theirs.cell[2, 2] == pytest.approx(found.period)
    theirs.center(vacuum=0)
    from simulators.atoms import make_atoms

    turned = make_atoms(theirs.positions[:, [2, 0, 1]], theirs.numbers, ours.cell)
    np.testing.assert_allclose(
        np.sort(neighbours(ours, 6), axis=None),
        np.sort(neighbours(turned, 6), axis=None),
        atol=1e-6,
    )


def test_known_tubes():
    assert tube(10, 10).chiral_angle == pytest.approx(math.pi / 6)
    assert tube(10, 0).chiral_angle == 0
    assert tube(10, 10).period == pytest.approx(2.46)
    assert tube(10, 0).period == pytest.approx(2.46 * 3**0.5)
    assert 2 * tube(10, 10).radius == pytest.approx(13.563, abs=1e-3)


def test_periods_and_roll():
    one, _ = nanotube(6, 3)
    three, _ = nanotube(6, 3, periods=3, roll=0.3)
    assert three.n == 3 * one.n
    assert three.cell[0] == pytest.approx(3 * one.cell[0])
    y, z = one.positions[:, 1:].T - one.cell[1] / 2
    turned = np.stack(
        [math.cos(0.3) * y - math.sin(0.3) * z, math.sin(0.3) * y + math.cos(0.3) * z]
    )
    np.testing.assert_allclose(three.positions[: one.n, 1:], turned.T + one.cell[1] / 2, atol=1e-9)


def test_labels_of_random_tubes():
    def one(key):
        return random_nanotube(key, (18.0, 14.0), n_max=300)

    keys = jax.random.split(jax.random.key(0), 200)
    atoms, labels = jax.tree.map(
        np.asarray, jax.jit(lambda k: jax.lax.map(one, k, batch_size=50))(keys)
    )
    drawn = set()
    for i in range(200):
        found = tube(int(labels.n[i]), int(labels.m[i]))
        drawn.add((found.n, found.m))
        assert labels.radius[i] == pytest.approx(found.radius, rel=1e-6)
        assert labels.chiral_angle[i] == pytest.approx(found.chiral_angle, abs=1e-6)
        there = atoms.occupancy[i] > 0
        gap = atoms.positions[i][there] - labels.centre[i]
        c, s = np.cos(labels.direction[i]), np.sin(labels.direction[i])
        across, height = -s * gap[:, 0] + c * gap[:, 1], gap[:, 2]
        np.testing.assert_allclose(np.hypot(across, height), found.radius, atol=2e-4)
        np.testing.assert_allclose(found.radius * np.sin(labels.angle[i][there]), height, atol=2e-4)
    assert len(drawn) > 25


@pytest.mark.parametrize("chiral", [(0, 0), (3, 5), (5, -1), (5.5, 1)])
def test_tubes_that_do_not_exist(chiral):
    with pytest.raises(ValueError, match="whole numbers with n ≥ m ≥ 0"):
        nanotube(*chiral)


def test_requests_that_make_no_sense():
    with pytest.raises(ValueError, match=r"radius of 0\.78 Å, too thin"):
        tube(2, 0)
    with pytest.raises(ValueError, match="periods must be"):
        nanotube(5, 5, periods=0)
    with pytest.raises(ValueError, match="vacuum must not be negative"):
        nanotube(5, 5, vacuum=-1)
    with pytest.raises(ValueError, match="indices must be"):
        random_nanotube(jax.random.key(0), (18.0, 14.0), n_max=300, indices=(9, 5))
