"""Slices: occupancy, thickness, tiles, oversampling, memory, and loops that share one result."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators import deposit, memory
from simulators.atoms import make_atoms, tile_atoms
from simulators.grid import Grid
from simulators.potential import Potential, memory_needed, project, tile
from simulators.slicing import slice_index, slice_thicknesses
from simulators.tree import replace

MODES = ("exact", "abtem")


def scene(n: int = 12, sigma: float | None = None) -> tuple:
    rng = np.random.default_rng(2)
    cell = [4.0, 5.0, 6.0]
    positions = rng.uniform(0, 1, (n, 3)) * cell
    atoms = make_atoms(positions, rng.choice([6, 14, 79], n), cell, sigma=sigma)
    return atoms, Grid.over((5.0, 4.0), shape=(32, 27))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("projection", ["infinite", "finite"])
def test_fractional_sites_add_up(mode, projection, x64):
    grid = Grid.over((5.0, 4.0), shape=(30, 28))
    place, options = [1.3, 2.1, 1.0], {"mode": mode, "projection": projection}

    def made(numbers, occupancy):
        atoms = make_atoms([place] * len(numbers), numbers, [4.0, 5.0, 2.0], occupancy=occupancy)
        return project(atoms, grid, 1.0, **options).slices

    mixed = made([31, 49], [0.7, 0.3])
    expected = 0.7 * made([31], [1.0]) + 0.3 * made([49], [1.0])
    # abTEM's finite potential ends at a radius that the heaviest element shares
    np.testing.assert_allclose(mixed, expected, atol=1e-5 * float(expected.max()))
    np.testing.assert_allclose(
        made([31, 31, 31], [0.2, 0.8, 0.0]), made([31], None), atol=1e-12 * float(expected.max())
    )


@pytest.mark.parametrize("mode", MODES)
def test_unequal_slices_hold_the_same_atoms(mode, x64):
    atoms, grid = scene()
    thickness = [1.0, 0.5, 2.5, 2.0]
    potential = project(atoms, grid, thickness, mode=mode)
    np.testing.assert_allclose(potential.thickness, thickness)
    fine = project(atoms, grid, 0.5, mode=mode).slices
    for i, (first, last) in enumerate([(0, 2), (2, 3), (3, 8), (8, 12)]):
        together = fine[first:last].sum(0)
        np.testing.assert_allclose(potential.slices[i], together, atol=1e-11 * float(fine.max()))


@pytest.mark.parametrize("mode", MODES)
def test_tiles_equal_the_potential_of_tiled_atoms(mode, x64):
    atoms, grid = scene(5)
    repeats = {"x": 3, "y": 2, "z": 2}
    cell = project(atoms, grid, [2.0, 4.0], mode=mode)
    tiled = tile(cell, **repeats)
    whole = project(
        tile_atoms(atoms, **repeats), Grid((64, 81), grid.sampling), [2.0, 4.0, 2.0, 4.0], mode=mode
    )
    assert tiled.grid == whole.grid
    np.testing.assert_allclose(tiled.thickness, whole.thickness)
    # a cell with an even number of pixels keeps the cosine of its Nyquist term alone
    tolerance = 2e-2 if mode == "exact" else 1e-10
    np.testing.assert_allclose(
        tiled.slices, whole.slices, atol=tolerance * float(whole.slices.max())
    )
    odd = Grid.over((5.0, 4.0), shape=(31, 27))
    one = tile(project(atoms, odd, 3.0, mode=mode), x=2, z=2)
    two = project(tile_atoms(atoms, x=2, z=2), Grid((31, 54), odd.sampling), 3.0, mode=mode)
    assert one.slices.shape == two.slices.shape == (4, 31, 54)
    with pytest.raises(ValueError, match="whole numbers from 1"):
        tile(cell, x=0)
    with pytest.raises(ValueError, match="whole numbers from 1"):
        tile_atoms(atoms, y=1.5)


def test_tiled_atoms_are_the_crystal():
    atoms, _ = scene(4)
    many = tile_atoms(atoms, x=2, y=3, z=4)
    assert many.n == 4 * 24
    np.testing.assert_allclose(many.cell, [8.0, 15.0, 24.0])
    np.testing.assert_allclose(many.positions[-4:] - atoms.positions, [[4.0, 10.0, 18.0]] * 4)
    traced = jax.jit(lambda a: tile_atoms(a, x=2, y=3, z=4).positions)(atoms)
    np.testing.assert_allclose(traced, many.positions, rtol=1e-5)


def test_an_oversampled_potential_has_the_same_spectrum(x64):
    atoms, grid = scene()
    coarse, fine = (project(atoms, grid, 3.0, oversample=m) for m in (1, 2))
    assert fine.slices.shape == (2, 64, 54)
    assert (fine.grid, fine.oversample, coarse.oversample) == (grid, 2, 1)
    low = [np.fft.fftfreq(n, 1 / n).astype(int) for n in grid.shape]
    a = np.fft.fft2(coarse.slices[0])
    b = np.fft.fft2(fine.slices[0])[np.ix_(*low)] / 4
    keep = np.abs(low[0]) < grid.shape[0] // 2
    assert np.abs(a - b)[keep].max() < 1e-11 * np.abs(a).max()
    with pytest.raises(ValueError, match="oversample must be a whole number"):
        project(atoms, grid, 3.0, oversample=1.5)
    leaves, structure = jax.tree_util.tree_flatten(fine)
    assert len(leaves) == 2
    assert jax.tree_util.tree_unflatten(structure, leaves).oversample == 2
    assert Potential(fine.slices, fine.thickness, grid).oversample == 1


@pytest.mark.parametrize("mode", MODES)
def test_more_atoms_than_fit_into_one_matrix(mode, x64, monkeypatch):
    atoms, grid = scene(150, sigma=0.05)
    whole = project(atoms, grid, 3.0, mode=mode).slices
    traced = jax.jit(lambda a: project(a, grid, 3.0, mode=mode, depth=6.0).slices)
    once = traced(atoms)
    monkeypatch.setattr(deposit, "ROWS_AT_ONCE", 32)
    from simulators import abtem_projection

    monkeypatch.setattr(abtem_projection, "ROWS_AT_ONCE", 32)
    pieces = project(atoms, grid, 3.0, mode=mode).slices
    again = jax.jit(lambda a: project(a, grid, 3.0, mode=mode, depth=6.0).slices)(atoms)
    for other in (once, pieces, again):
        np.testing.assert_allclose(other, whole, atol=1e-12 * float(whole.max()))


@pytest.mark.parametrize("mode", MODES)
def test_known_slices_of_moving_atoms(mode, x64):
    atoms, grid = scene()
    layers = slice_index(atoms.positions[:, 2], 6.0, slice_thicknesses(6.0, 1.5))
    plain = project(atoms, grid, 1.5, mode=mode).slices

    @jax.jit
    def moving(positions):
        moved = replace(atoms, positions=positions)
        return project(moved, grid, 1.5, mode=mode, layers=layers).slices

    np.testing.assert_allclose(moving(atoms.positions), plain, atol=1e-12 * float(plain.max()))
    with pytest.raises(ValueError, match=r"layers has shape \(3,\) for 12 atoms"):
        project(atoms, grid, 1.5, mode=mode, layers=layers[:3])


def test_gradients_with_known_slices(x64):
    atoms, grid = scene(5, sigma=0.05)
    layers = slice_index(atoms.positions[:, 2], 6.0, slice_thicknesses(6.0, 2.0))
    rng = np.random.default_rng(3)
    weights = jnp.asarray(rng.normal(size=(3, *grid.shape)))
    direction = jnp.asarray(rng.normal(size=(5, 3)) * [1, 1, 0])

    @jax.jit
    def objective(step):
        moved = replace(atoms, positions=atoms.positions + step * direction)
        return (weights * project(moved, grid, 2.0, layers=layers).slices).sum()

    h = 1e-5
    numeric = (objective(h) - objective(-h)) / (2 * h)
    assert float(jax.grad(objective)(0.0)) == pytest.approx(float(numeric), rel=1e-7)


def test_float32_keeps_six_digits(x64):
    atoms, grid = scene(40)
    exact = project(atoms, grid, 2.0).slices
    single = project(atoms, grid, 2.0, dtype=np.float32).slices
    assert single.dtype == np.float32
    assert float(jnp.abs(single - exact).max() / exact.max()) < 1e-6


def test_slices_that_make_no_sense():
    with pytest.raises(ValueError, match="thinner than a picometre"):
        slice_thicknesses(10.0, 0.002)
    with pytest.raises(ValueError, match="thinner than a picometre"):
        slice_thicknesses(2.0, [1.0, 0.999, 0.001])
    with pytest.raises(ValueError, match="list of positive"):
        slice_thicknesses(2.0, [])
    atoms, grid = scene()
    with pytest.raises(ValueError, match="thinner than a picometre"):
        project(atoms, grid, 1e-3)


def test_memory_is_refused_before_the_start(monkeypatch):
    needed = memory_needed(Grid((1024, 1024), (0.1, 0.1)), 40, dtype=np.float32)
    assert needed["slices"] == 40 * 1024**2 * 4
    assert needed["working"] < 60e6, "whatever the number of atoms"
    assert needed["peak"] == 2 * needed["slices"] + needed["working"]
    atoms, grid = scene()
    monkeypatch.setattr(memory, "available_memory", lambda: 100_000)
    told = r"60 slices of 64 × 54 pixels in float32 would take about.*oversample=1 takes 1/4; "
    with pytest.raises(MemoryError, match=told + r"slices of 0\.2 Å halve it"):
        project(atoms, grid, 0.1, oversample=2)
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert project(atoms, grid, 3.0).slices.shape == (2, 32, 27)


def test_memory_that_the_machine_has():
    have = memory.available_memory()
    assert have is None or have > 1e6
    assert memory.as_text(3.2e9) == "3.2 GB"
    assert memory.as_text(5e15) == "5000 TB"
