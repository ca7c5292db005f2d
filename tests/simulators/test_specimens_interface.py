"""Interfaces and dislocations: profiles, steps, the Burgers vector, elastic equilibrium."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from simulators.specimens.dislocation import (
    KINDS,
    Dislocation,
    burgers_vector,
    film_on_silicon,
)
from simulators.specimens.interface import PROFILES, interface

EXTENT, DRAWS = (24.0, 20.0), 200

compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def drawn(function, n_max, **options):
    def one(key):
        return function(key, EXTENT, n_max=n_max, **options)

    keys = jax.random.split(jax.random.key(8), DRAWS)
    return jax.tree.map(np.asarray, compiled(lambda k: jax.lax.map(one, k, batch_size=50))(keys))


# ---------------------------------------------------------------- perovskites


def test_film_and_substrate_are_what_is_labelled():
    atoms, labels = drawn(interface, 460)
    there = atoms.occupancy > 0
    metal = there & (atoms.numbers != 8)
    is_film = np.isin(atoms.numbers, (57, 13))
    np.testing.assert_array_equal(is_film[metal], labels.film[metal])
    assert set(labels.profile.tolist()) == set(range(len(PROFILES)))
    assert (labels.cell[~there] == -1).all()


def test_sharp_interfaces_are_sharp():
    atoms, labels = drawn(interface, 460)
    y, x = atoms.positions[..., 1], atoms.positions[..., 0]
    for i in np.flatnonzero(labels.profile < 2):
        metal = (atoms.occupancy[i] > 0) & (atoms.numbers[i] != 8)
        right = x[i] >= labels.step_at[i] - 0.1
        level = labels.height[i] + np.where(right, labels.step[i], 0)
        np.testing.assert_array_equal((y[i] >= level - 0.1)[metal], labels.film[i][metal])
        assert labels.width[i] == 0
        assert set(labels.share[i].tolist()) <= {0.0, 1.0}
    stepped = labels.step[labels.profile == 1]
    assert (np.abs(stepped) > 3.5).all()
    assert (np.abs(stepped) < 8).all()
    assert (labels.step[labels.profile != 1] == 0).all()
    assert (np.sign(stepped) > 0).any()
    assert (np.sign(stepped) < 0).any()


def test_diffuse_interfaces_have_their_width():
    atoms, labels = drawn(interface, 460)
    misses, total = [], 0
    for i in np.flatnonzero(labels.profile == 2):
        metal = (atoms.occupancy[i] > 0) & (atoms.numbers[i] != 8)
        height = atoms.positions[i][metal, 1] - labels.height[i]
        expected = 0.5 * (1 + erf(height / (2**0.5 * labels.width[i])))
        # heights differ from the substrate's lattice by the misfit of 3 %
        np.testing.assert_allclose(labels.share[i][metal], expected, atol=0.04)
        misses.append((labels.film[i][metal] - labels.share[i][metal]).sum())
        total += (labels.share[i][metal] * (1 - labels.share[i][metal])).sum()
    assert abs(np.sum(misses)) < 4 * np.sqrt(total), "as many film atoms as the profile says"
    widths = labels.width[labels.profile == 2]
    assert widths.min() > 1.5
    assert widths.max() < 6


def test_both_crystals_keep_their_lattice():
    atoms, labels = drawn(interface, 460, profiles=("abrupt",))
    for i in range(20):
        for z, spacing in ((38, 3.905), (57, 3.790)):
            heights = atoms.positions[i][atoms.numbers[i] == z][:, 1]
            gaps = np.diff(np.unique(heights.round(2)))
            np.testing.assert_allclose(gaps, spacing, atol=0.011)
            columns = np.unique(atoms.positions[i][atoms.numbers[i] == z][:, 0].round(2))
            np.testing.assert_allclose(np.diff(columns), 3.905, atol=0.011)
    assert (labels.profile == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"film": "Au"}, "two perovskites, and Au is fcc"),
        ({"profiles": ("fuzzy",)}, r"no profile \['fuzzy'\]"),
        ({"width": (5.0, 2.0)}, "width must be"),
        ({"thickness": 0}, "count cells, from 1"),
    ],
)
def test_interfaces_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        interface(jax.random.key(0), EXTENT, n_max=100, **options)


# ---------------------------------------------------------------- dislocations


def line():
    return Dislocation(
        jnp.array([1.3, 0.7, 2.0]), jnp.array([0.3, -0.2]), jnp.array(0.6), jnp.array(0.28)
    )


@pytest.mark.parametrize("radius", [0.5, 3.0, 20.0])
def test_a_circuit_closes_with_the_burgers_vector(x64, radius):
    angle = np.linspace(0, 2 * np.pi, 2001)[:-1]
    circle = radius * np.stack([np.cos(angle), np.sin(angle)], 1) + np.array([[0.3, -0.2]])
    tangent = radius * np.stack([-np.sin(angle), np.cos(angle), 0 * angle], 1) * 2 * np.pi / 2000
    closed = jnp.einsum("nij,nj->i", line().gradient(jnp.asarray(circle)), tangent)
    np.testing.assert_allclose(closed, [1.3, 0.7, 2.0], atol=1e-4)


def test_the_field_is_in_elastic_equilibrium(x64):
    def at(point):
        return line().displacement(point[None])[0]

    for point in ([2.0, 1.5], [-3.0, 4.0], [5.0, -1.0]):
        second = jax.hessian(at)(jnp.array(point))
        laplacian = second[:, 0, 0] + second[:, 1, 1]
        dilatation = jnp.array(
            [second[0, 0, 0] + second[1, 0, 1], second[0, 0, 1] + second[1, 1, 1], 0.0]
        )
        # Navier's equation: (1 - 2ν) ∇²u + ∇(∇·u) = 0
        np.testing.assert_allclose((1 - 2 * 0.28) * laplacian + dilatation, 0, atol=1e-6)


def test_burgers_vectors_are_lattice_vectors():
    a = 5.431
    for side in (1.0, -1.0):
        for kind in (1, 2):
            b = np.asarray(burgers_vector(kind, jnp.asarray(side), a))
            assert np.linalg.norm(b) == pytest.approx(a / 2**0.5)
            x, y, z = np.array([[1, -1, 0], [0, 0, 1], [1, 1, 0]]) / np.array(
                [[2**0.5], [1], [2**0.5]]
            )
            cubic = (b[0] * x + b[1] * y + b[2] * z) / (a / 2)
            np.testing.assert_allclose(np.sort(np.abs(cubic)), [0, 1, 1], atol=1e-5)
        sixty = np.asarray(burgers_vector(1, jnp.asarray(side), a))
        assert sixty[2] / np.linalg.norm(sixty) == pytest.approx(0.5), "60° to the line"
    np.testing.assert_allclose(burgers_vector(0, jnp.asarray(1.0), a), 0)


def test_films_are_coherent_apart_from_the_dislocation():
    atoms, labels = drawn(film_on_silicon, 320)
    assert set(labels.kind.tolist()) == set(range(len(KINDS)))
    assert labels.misfit[0] == pytest.approx(5.653 / 5.431 - 1, rel=1e-5)
    a = 5.431
    for i in range(60):
        there = atoms.occupancy[i] > 0
        film = labels.film[i][there]
        kinds = atoms.numbers[i][there]
        np.testing.assert_array_equal(film, kinds != 14)
        coherent = atoms.positions[i][there] - labels.displacement[i][there]
        height = coherent[:, 1] - labels.dislocation.core[i, 1]
        np.testing.assert_array_equal(height > 0, film)
        # undone, the film and the substrate are one lattice once the film's stretch is undone
        height = np.where(film, height / (1 + labels.expansion[i]), height)
        step = np.stack([coherent[:, 0] * 8**0.5 / a, 4 * height / a, coherent[:, 2] * 8**0.5 / a])
        step = step - step[:, :1]
        np.testing.assert_allclose(step, np.round(step), atol=2e-3)
        size = np.linalg.norm(labels.dislocation.burgers[i])
        assert size == pytest.approx(0 if labels.kind[i] == 0 else a / 2**0.5, rel=1e-5)
        if labels.kind[i] == 0:
            assert (labels.strain[i] == 0).all()
        else:
            assert np.abs(labels.strain[i]).max() > 0.01


def test_away_from_the_core_bonds_are_whole():
    from scipy.spatial import cKDTree

    atoms, labels = drawn(film_on_silicon, 320)
    for i in range(60):
        there = atoms.occupancy[i] > 0
        points = atoms.positions[i][there]
        far = np.linalg.norm(points[:, :2] - labels.dislocation.core[i], axis=1) > 6
        length = cKDTree(points).query(points, k=5)[0][:, 1:]
        assert length[far, 0].min() > 2.2
        inner = (points > 3).all(1) & (points < atoms.cell[i] - 3).all(1) & far
        np.testing.assert_allclose(length[inner], 2.40, atol=0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"film": "Ge"}, "must be a zincblende crystal, Ge is diamond"),
        ({"thickness": 2.0}, "period along the beam"),
    ],
)
def test_films_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        film_on_silicon(jax.random.key(0), EXTENT, n_max=100, **options)
