"""Anisotropic thermal motion: displacement tensors in the potential."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import from_ase, make_atoms, pad, tile_atoms, to_ase, wrapped
from simulators.grid import Grid
from simulators.potential import project
from simulators.tree import replace

U = np.array([[0.020, 0.009, 0.002], [0.009, 0.008, -0.001], [0.002, -0.001, 0.005]])


def scene(tensor, n: int = 5) -> tuple:
    rng = np.random.default_rng(4)
    cell = [5.0, 6.0, 4.0]
    atoms = make_atoms(
        rng.uniform(0, 1, (n, 3)) * cell, rng.choice([8, 38], n), cell, tensor=tensor
    )
    return atoms, Grid.over((6.0, 5.0), shape=(40, 36))


def random_tensors(n: int) -> np.ndarray:
    root = np.random.default_rng(7).normal(scale=0.08, size=(n, 3, 3))
    return root @ np.swapaxes(root, 1, 2)


@pytest.mark.parametrize("shape", [(40, 36), (39, 35)])
def test_an_isotropic_tensor_is_sigma(shape, x64):
    isotropic, _ = scene(0.08**2 * np.eye(3))
    grid = Grid.over((6.0, 5.0), shape=shape)
    plain = replace(isotropic, tensor=None, sigma=np.full(5, 0.08))
    for kind in ("infinite", "finite"):
        one, two = (
            project(a, grid, 2.0, projection=kind, parametrization="peng").slices
            for a in (isotropic, plain)
        )
        np.testing.assert_allclose(one, two, atol=1e-12 * float(one.max()))


def test_the_damping_of_one_atom(x64):
    grid = Grid.over((6.0, 5.0), shape=(61, 55))  # odd: no Nyquist term to leave out
    place = [[1.3, 2.2, 1.0]]
    still, moving = (make_atoms(place, [38], [5.0, 6.0, 2.0], tensor=t) for t in (None, U))
    ratio = np.fft.fft2(project(moving, grid, 2.0).slices[0]) / np.fft.fft2(
        project(still, grid, 2.0).slices[0]
    )
    ky, kx = (k.ravel() for k in np.meshgrid(*grid.frequencies(), indexing="ij"))
    k = np.stack([kx, ky, 0 * kx], -1)
    expected = np.exp(-2 * np.pi**2 * np.einsum("ki,ij,kj->k", k, U, k)).reshape(grid.shape)
    assert np.abs(ratio - expected).max() < 1e-12


def test_the_mean_of_displaced_atoms(x64):
    # <exp(2πi k·u)> = exp(-2π² k·U·k): 4e4 displacements of one atom, all laid into one potential
    grid, n = Grid.over((5.0, 5.0), shape=(40, 40)), 40_000
    shift = np.random.default_rng(0).multivariate_normal(np.zeros(3), U, n // 2)
    shift = np.concatenate([shift, -shift])  # pairs, so that the mean is exact
    many = make_atoms(
        np.array([2.0, 2.4, 2.0]) + shift, [38] * n, [5.0, 5.0, 4.0], occupancy=np.full(n, 1 / n)
    )
    mean = project(many, grid, 4.0).slices[0]
    one = make_atoms([[2.0, 2.4, 2.0]], [38], [5.0, 5.0, 4.0], tensor=U)
    smeared = project(one, grid, 4.0).slices[0]
    assert float(jnp.abs(mean - smeared).max() / smeared.max()) < 1e-2
    isotropic = replace(one, tensor=None, sigma=np.full(1, np.sqrt(np.trace(U[:2, :2]) / 2)))
    wrong = project(isotropic, grid, 4.0).slices[0]
    assert float(jnp.abs(mean - wrong).max() / smeared.max()) > 0.1, "the test sees anisotropy"


def test_the_finite_projection_does_not_pass_over_crossed_components():
    grid = Grid.over((5.0, 5.0), shape=(32, 32))
    place, box = [[2.0, 2.4, 2.0]], [5.0, 5.0, 4.0]

    @jax.jit
    def largest(tensor):
        atoms = make_atoms(place, [38], box, tensor=tensor, elements=("Sr",))
        return project(atoms, grid, 2.0, depth=4.0, projection="finite").slices.max()

    with pytest.raises(ValueError, match="components xy, xz or yz"):
        project(make_atoms(place, [38], box, tensor=U), grid, 2.0, projection="finite")
    assert np.isnan(largest(jnp.asarray(U, jnp.float32)))
    assert float(largest(jnp.asarray(np.diag(np.diag(U)), jnp.float32))) > 0


def test_shared_own_and_traced_tensors_are_one_potential(x64):
    atoms, grid = scene(random_tensors(5))
    grouped = project(atoms, grid, 2.0).slices
    traced = jax.jit(lambda a: project(a, grid, 2.0, depth=4.0).slices)(atoms)
    np.testing.assert_allclose(traced, grouped, atol=1e-12 * float(grouped.max()))
    from simulators import projection

    known, projection.GROUPS = projection.GROUPS, 0
    try:
        one_by_one = project(atoms, grid, 2.0).slices
    finally:
        projection.GROUPS = known
    np.testing.assert_allclose(one_by_one, grouped, atol=1e-12 * float(grouped.max()))
    single = project(atoms, grid, 2.0, dtype=np.float32).slices
    assert float(jnp.abs(single - grouped).max() / grouped.max()) < 2e-6


def test_gradients_to_the_tensor(x64):
    atoms, grid = scene(random_tensors(3), 3)
    rng = np.random.default_rng(1)
    weights = jnp.asarray(rng.normal(size=(2, *grid.shape)))
    direction = rng.normal(size=(3, 3, 3))
    direction = jnp.asarray(direction + np.swapaxes(direction, 1, 2))

    @jax.jit
    def objective(step):
        moved = replace(atoms, tensor=atoms.tensor + step * direction)
        return (weights * project(moved, grid, 2.0).slices).sum()

    h = 1e-6
    numeric = (objective(h) - objective(-h)) / (2 * h)
    assert float(jax.grad(objective)(0.0)) == pytest.approx(float(numeric), rel=1e-6)


def test_the_tensor_goes_where_the_atoms_go():
    atoms, _ = scene(random_tensors(5))
    np.testing.assert_allclose(from_ase(to_ase(atoms)).tensor, atoms.tensor)
    assert pad(atoms, 7).tensor.shape == (7, 3, 3)
    assert wrapped(atoms).tensor is atoms.tensor
    twice = tile_atoms(atoms, x=2, z=3)
    np.testing.assert_allclose(twice.tensor[:5], atoms.tensor)
    assert twice.tensor.shape == (30, 3, 3)
    assert make_atoms(np.zeros((2, 3)), [6, 6], np.ones(3), tensor=U).tensor.shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (np.diag([0.01, 0.01, -0.01]), "atom 0 has a negative mean square"),
        (np.array([[0.01, 0.02, 0], [0.02, 0.01, 0], [0, 0, 0.01]]), "positive semidefinite"),
        (np.array([[0.01, 0.002, 0], [0, 0.01, 0], [0, 0, 0.01]]), "not symmetric"),
        (np.zeros((3, 3, 3)), r"must be \[2, 3, 3\] or \[3, 3\]"),
    ],
)
def test_tensors_that_are_none(tensor, message):
    with pytest.raises(ValueError, match=message):
        make_atoms(np.zeros((2, 3)), [6, 6], np.ones(3), tensor=tensor)


def test_sigma_and_tensor_exclude_each_other():
    with pytest.raises(ValueError, match="either sigma"):
        make_atoms(np.zeros((1, 3)), [6], np.ones(3), sigma=0.1, tensor=U)
    with pytest.raises(ValueError, match="sigma must be 0 Å or more"):
        make_atoms(np.zeros((1, 3)), [6], np.ones(3), sigma=-0.1)
    atoms, grid = scene(U)
    with pytest.raises(ValueError, match="need mode='exact'"):
        project(atoms, grid, 2.0, mode="abtem")
