"""The exact finite projection: sums, smoothness in depth, and the closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import make_atoms, tile_atoms
from simulators.electron import KAPPA
from simulators.finite import gaussians
from simulators.grid import Grid
from simulators.potential import project, tile
from simulators.scattering import coefficients, radial_potential, scattering_factor
from simulators.tree import replace

TABLES = ("lobato", "kirkland", "peng")


def scene(n: int = 6, sigma: float = 0.0) -> tuple:
    rng = np.random.default_rng(8)
    cell = [4.0, 5.0, 6.0]
    atoms = make_atoms(
        rng.uniform(0, 1, (n, 3)) * cell, rng.choice([6, 14, 79], n), cell, sigma=sigma
    )
    return atoms, Grid.over((5.0, 4.0), shape=(30, 28))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("thickness", [1.5, [0.3, 2.7, 1.0, 2.0]])
def test_slices_add_up_to_the_infinite_projection(table, thickness, x64):
    atoms, grid = scene(sigma=0.07)
    finite, infinite = (
        project(atoms, grid, thickness, projection=kind, parametrization=table).slices.sum(0)
        for kind in ("finite", "infinite")
    )
    assert float(jnp.abs(finite - infinite).max() / infinite.max()) < 1e-12


@pytest.mark.parametrize("element", ["H", "C", "Sr", "Au"])
@pytest.mark.parametrize("table", ["lobato", "kirkland"])
def test_lorentzians_as_gaussians(element, table):
    c, t = gaussians(element, table)
    k2 = np.linspace(0, 6, 50) ** 2
    exact = scattering_factor(element, k2, table)
    # what is missing is what varies over less than the narrowest: as t k²
    assert np.abs((c[:, None] * np.exp(-t[:, None] * k2)).sum(0) / exact - 1).max() < 2e-2
    assert abs(c.sum() / exact[0] - 1) < 2e-4


def closed_form(element: str, k2: np.ndarray, z: float) -> np.ndarray:
    """∫ from the nucleus to z of Lobato's potential, transformed in the plane [V Å³]."""
    total = 0.0
    for a, b in coefficients(element, "lobato").T:
        q2 = k2 + 1 / b
        u = 2 * np.pi * np.sqrt(q2) * abs(z)
        total = total + a / (2 * b * q2) * (1 - np.exp(-u))
        total = total + a / (2 * (b * q2) ** 2) * (1 - np.exp(-u) * (1 + u / 2))
    return np.sign(z) * total / KAPPA


@pytest.mark.parametrize("element", ["H", "C", "Sr", "Au"])
@pytest.mark.parametrize("place", [0.0, 0.9, 0.999, 1.3])
def test_a_slice_against_the_closed_form(element, place, x64):
    grid, depth = Grid.over((4.0, 4.0), shape=(64, 60)), 50.0
    from simulators.scattering import atomic_number

    atoms = make_atoms([[0.0, 0.0, depth / 2 + place]], [atomic_number(element)], [4.0, 4.0, depth])
    slices = [depth / 2 - 1, 2.0, depth / 2 - 1]
    made = np.fft.fft2(project(atoms, grid, slices, projection="finite").slices[1])
    made = made * grid.sampling[0] * grid.sampling[1]
    low, high = -1 - place, 1 - place
    expected = closed_form(element, grid.k2(), high) - closed_form(element, grid.k2(), low)
    # a nucleus one picometre inside the slice: its depth is smeared by half of that
    gate = 5e-5 if place == 0.999 else 1e-5
    assert np.abs(made - expected).max() / np.abs(expected).max() < gate


def test_a_thin_slice_is_the_potential_of_its_plane(x64):
    # V(r) in the middle of a slice of 0.02 Å, half an Å above the nucleus, away from the pole
    grid = Grid.over((12.0, 12.0), shape=(120, 120))
    atoms = make_atoms([[6.0, 6.0, 10.0]], [14], [12.0, 12.0, 20.0])
    slices = [10.49, 0.02, 9.49]
    made = np.asarray(project(atoms, grid, slices, projection="finite").slices[1][60]) / 0.02
    r = np.hypot(0.5, (np.arange(120) - 60) * 0.1)
    assert np.abs(made - radial_potential("Si", r)).max() / made.max() < 5e-4


def test_the_potential_is_periodic_in_depth(x64):
    atoms, grid = scene()
    moved = replace(atoms, positions=atoms.positions + np.array([0.0, 0.0, 1.5]))
    one = project(atoms, grid, 1.5, projection="finite").slices
    two = project(moved, grid, 1.5, projection="finite").slices
    np.testing.assert_allclose(two, jnp.roll(one, 1, axis=0), atol=1e-9 * float(one.max()))


def test_tiles_of_a_finite_projection(x64):
    atoms, grid = scene(3)
    cell = project(atoms, grid, 2.0, projection="finite")
    many = project(
        tile_atoms(atoms, y=2, z=2), Grid((60, 28), grid.sampling), 2.0, projection="finite"
    )
    np.testing.assert_allclose(
        tile(cell, y=2, z=2).slices, many.slices, atol=1e-9 * float(cell.slices.max())
    )


def test_traced_and_known_atoms_give_one_potential(x64):
    atoms, grid = scene(4, sigma=0.05)
    options = {"projection": "finite", "depth": 6.0}
    known = project(atoms, grid, 3.0, **options).slices
    traced = jax.jit(lambda a: project(a, grid, 3.0, **options).slices)(atoms)
    np.testing.assert_allclose(traced, known, atol=1e-10 * float(known.max()))
    single = project(atoms, grid, 3.0, dtype=np.float32, **options).slices
    assert float(jnp.abs(single - known).max() / known.max()) < 5e-6


def test_gradients_of_the_finite_projection(x64):
    atoms, grid = scene(3, sigma=0.08)
    rng = np.random.default_rng(1)
    weights = jnp.asarray(rng.normal(size=(3, *grid.shape)))
    scale = {"positions": 1.0, "occupancy": 1.0, "sigma": 0.1}
    at = {name: jnp.asarray(getattr(atoms, name)) for name in scale}

    def objective(leaves):
        moved = replace(atoms, **leaves)
        options = {"projection": "finite", "parametrization": "kirkland", "depth": 6.0}
        return (weights * project(moved, grid, 2.0, **options).slices).sum()

    value = jax.jit(objective)
    gradient = jax.jit(jax.grad(objective))(at)
    h = 1e-5
    for name, size in scale.items():
        step = size * rng.normal(size=at[name].shape)
        there, back = (value({**at, name: at[name] + s * step}) for s in (h, -h))
        slope = float((gradient[name] * step).sum())
        assert slope == pytest.approx(float(there - back) / (2 * h), rel=1e-6), name


def test_the_potential_is_smooth_where_an_atom_crosses_a_boundary(x64):
    grid = Grid.over((4.0, 4.0), shape=(24, 24))
    z = jnp.linspace(1.97, 2.03, 13)

    @jax.jit
    def upper(z):
        atoms = make_atoms(
            jnp.stack([jnp.full(1, 2.0), jnp.full(1, 2.0), z[None]], axis=1),
            np.array([14]), jnp.array([4.0, 4.0, 4.0]), elements=(14,),
        )  # fmt: skip
        return project(atoms, grid, 2.0, projection="finite", depth=4.0).slices[0, 12, 12]

    values = np.asarray(jax.lax.map(upper, z))
    assert (np.diff(values) < 0).all()
    slope = np.diff(values) / np.diff(z)
    assert abs(slope.max() / slope.min()) > 0.6, "no jump: the share moves over gradually"


def test_what_the_finite_projection_does_not_take():
    atoms, grid = scene(2)
    with pytest.raises(ValueError, match="unknown projection 'half'"):
        project(atoms, grid, 2.0, projection="half")
    with pytest.raises(ValueError, match="finite_gaussian is abTEM's"):
        project(atoms, grid, 2.0, projection="finite_gaussian")
    skew = np.array([[0.01, 0.0, 0.004], [0.0, 0.01, 0.0], [0.004, 0.0, 0.01]])
    moving = replace(atoms, tensor=np.stack([skew] * 2))
    with pytest.raises(ValueError, match="along x, y and z only"):
        project(moving, grid, 2.0, projection="finite")
