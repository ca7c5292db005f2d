"""Regularisers are least where they say; constraints make what they say and can be repeated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.retrieval.constraints import CONSTRAINTS, all_of
from emjax.retrieval.ptychography import Frame, Unknowns
from emjax.retrieval.regularisers import REGULARISERS, together, trusted
from simulators.grid import Grid
from simulators.tree import replace

N, SLICES, MODES = 12, 3, 2


def _unknowns(seed=0, size=0.3):
    rng = np.random.default_rng(seed)
    phase = size * rng.normal(size=(SLICES, N, N))
    t = (1 + 0.2 * rng.normal(size=phase.shape)) * np.exp(1j * phase)
    return Unknowns(
        jnp.asarray(np.stack([t.real, t.imag]), jnp.float32),
        jnp.asarray(rng.normal(size=(2, MODES, 5, 5)), jnp.float32),
        jnp.asarray(rng.normal(size=(20, 2)), jnp.float32),
        jnp.float32(5),
        jnp.zeros(2),
    )


def _empty():
    ones = np.ones((SLICES, N, N), np.float32)
    return replace(_unknowns(), transmission=jnp.asarray(np.stack([ones, 0 * ones])))


@pytest.mark.parametrize("name", sorted(REGULARISERS))
def test_regularisers_fall_along_their_gradient(name):
    regulariser = REGULARISERS[name]()
    u = _unknowns()
    value, slope = jax.value_and_grad(regulariser)(u)
    size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope))
    lower = regulariser(jax.tree.map(lambda a, g: a - 0.01 * g / size, u, slope))
    assert float(lower) < float(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    if name != "quiet_probe":
        assert float(regulariser(_empty())) < 0.05 * float(value)
    both = together(regulariser, regulariser)
    np.testing.assert_allclose(both(u), 2 * value, rtol=1e-6)


def test_unit_modulus_by_hand():
    u = _empty()
    u = replace(u, transmission=u.transmission * 1.1)
    np.testing.assert_allclose(
        REGULARISERS["unit_modulus"](0.5)(u), 0.5 * 4 * (1.21 - 1) ** 2, rtol=1e-4
    )


@pytest.mark.parametrize("name", sorted(CONSTRAINTS))
def test_constraints_are_projections_or_filters(name):
    at = np.random.default_rng(1).normal(size=(20, 2))
    arguments = {"blurred": (1.0,), "low_passed": (0.2,), "electrons": (50.0,)}
    arguments["affine_shifts"] = (at,)
    constraint = jax.jit(CONSTRAINTS[name](*arguments.get(name, ())))
    u = _unknowns()
    once = constraint(u)
    twice = constraint(once)
    assert any(
        not np.allclose(a, b)
        for a, b in zip(jax.tree.leaves(u), jax.tree.leaves(once), strict=True)
    )
    if name not in (
        "blurred",
        "low_passed",
        "coupled_slices",
        "positive_phase",
        "orthogonal_modes",
    ):
        for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(twice), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
    assert jax.tree.structure(all_of([constraint, constraint])(u)) == jax.tree.structure(u)


def test_orthogonal_modes_show_the_same_patterns():
    u = _unknowns()
    turned = CONSTRAINTS["orthogonal_modes"]()(u)
    c = [np.asarray(x.probe[0] + 1j * x.probe[1]).reshape(MODES, -1) for x in (u, turned)]
    same = [np.einsum("mi,mj->ij", x, x.conj()) for x in c]  # the density matrix is what is seen
    np.testing.assert_allclose(same[0], same[1], atol=1e-4)
    product = c[1] @ c[1].conj().T
    assert abs(product[0, 1]) < 1e-4 * abs(product[0, 0])
    assert product[0, 0].real >= product[1, 1].real


def test_an_affine_scan_error_survives_what_is_random_does_not():
    rng = np.random.default_rng(3)
    at = rng.uniform(size=(200, 2)) * 20
    affine = at @ np.array([[0.02, -0.01], [0.03, 0.01]]) + 0.1
    u = replace(_unknowns(), shifts=jnp.asarray(affine + 0.1 * rng.normal(size=at.shape)))
    left = np.asarray(CONSTRAINTS["affine_shifts"](at)(u).shifts) - affine
    print("random part", float(left.std()), "of 0.1 Å")
    assert left.std() < 0.03


def test_trust_falls_with_angle_and_thickness():
    frame = Frame(Grid((64, 64), (0.15, 0.15)), (80, 80), (0, 0), 80e3, (9, 9), 25.0)
    thin, thick = trusted(frame, 2.0), trusted(frame, 20.0)
    assert thin[0, 0] == thick[0, 0] == 1
    assert (thick <= thin).all()
    k = np.fft.fftfreq(64, 0.15)[5]
    expected = 1 / (1 + (0.5 * np.pi * 0.0417572 * 20.0 * k**2) ** 2)
    np.testing.assert_allclose(thick[0, 5], expected, rtol=1e-4)
