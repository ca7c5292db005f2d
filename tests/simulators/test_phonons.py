"""Frozen phonons: statistics of the displacements, means over configurations, Debye–Waller."""

from __future__ import annotations

import json

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.detectors import Annular, crop_pattern, crop_shape
from simulators.electron import interaction_constant
from simulators.grid import Grid
from simulators.imaging import cbed, diffraction, stem
from simulators.multislice import multislice
from simulators.optics import Optics, plane_wave
from simulators.phonons import configurations, frozen_each, frozen_mean, snapshot, trajectory
from simulators.potential import project
from simulators.tree import replace

CELL = (4.0, 5.0, 3.0)
GRID = Grid.over((5.0, 4.0), shape=(20, 16))


def some_atoms(**settings):
    where = np.array([[0.1, 1.0, 1.0], [2.0, 4.9, 2.9], [3.2, 2.5, 0.5]])
    return make_atoms(where, [6, 14, 6], CELL, **settings)


def shifts(atoms, n=40_000, **settings):
    moved = configurations(jax.random.key(0), atoms, n, **settings)
    assert moved.positions.shape == (n, 3, 3)
    assert not np.any(moved.sigma)
    return np.asarray(moved.positions) - np.asarray(atoms.positions)[None]


def test_a_snapshot_is_the_first_configuration():
    atoms, key = some_atoms(sigma=[0.05, 0.1, 0.2]), jax.random.key(3)
    several = configurations(key, atoms, 4)
    first = snapshot(jax.random.split(key, 4)[0], atoms)
    assert isinstance(first.positions, np.ndarray)
    np.testing.assert_array_equal(several.positions[0], first.positions)
    compiled = jax.jit(lambda k, a: configurations(k, a, 4).positions)(key, atoms)
    np.testing.assert_allclose(compiled, several.positions, atol=1e-6)
    assert several.numbers is atoms.numbers, "shared"
    by_key = jax.vmap(lambda k: snapshot(k, atoms).positions)(jax.random.split(key, 4))
    np.testing.assert_allclose(by_key, several.positions, atol=1e-6)
    plain = jax.random.normal(jax.random.key(5), (3, 3))
    moved = snapshot(jax.random.key(5), atoms).positions - atoms.positions
    np.testing.assert_allclose(moved, np.asarray(plain) * atoms.sigma[:, None], rtol=1e-6)


def test_four_moments_of_isotropic_motion():
    sigma = np.array([0.05, 0.1, 0.2])
    shift = shifts(some_atoms(sigma=sigma)) / sigma[None, :, None]
    for column in shift.reshape(len(shift), 9).T:
        for order, expected, v in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            assert abs((column**order).mean() - expected) <= 3.6 * np.sqrt(v / len(column))


def test_configurations_atoms_and_directions_are_independent():
    shift = shifts(some_atoms(sigma=0.1)).reshape(-1, 9) / 0.1
    correlation = np.corrcoef(shift.T)
    np.testing.assert_allclose(correlation, np.eye(9), atol=4 / np.sqrt(len(shift)))
    neighbours = (shift[1:] * shift[:-1]).mean(axis=0)
    np.testing.assert_allclose(neighbours, 0, atol=4 / np.sqrt(len(shift)))


def test_anisotropic_motion_has_its_tensor():
    root = np.random.default_rng(1).normal(size=(3, 3, 3)) * 0.1
    tensor = root @ root.transpose(0, 2, 1)
    tensor[2] = np.diag([0.04, 0.01, 0.0])  # an atom that moves in a plane
    for settings, atoms in (
        ({"sigma": tensor}, some_atoms(sigma=0.3)),
        ({}, some_atoms(tensor=tensor)),
    ):
        moved = configurations(jax.random.key(1), atoms, 2, **settings)
        assert moved.tensor is None
        shift = shifts(atoms, **settings)
        seen = np.einsum("cni,cnj->nij", shift, shift) / len(shift)
        # variance of a sample covariance: (U_ii U_jj + U_ij²)/n
        diagonal = np.einsum("nii->ni", tensor)
        error = np.sqrt((diagonal[:, :, None] * diagonal[:, None] + tensor**2) / len(shift))
        assert (np.abs(seen - tensor) <= 3.6 * error + 1e-12).all()
        assert not shift[:, 2, 2].any()


def test_traced_tensors_are_differentiable(x64):
    atoms, tensor = some_atoms(), np.tile(np.diag([0.01, 0.02, 0.03]), (3, 1, 1))

    def loss(scale):
        moved = configurations(jax.random.key(2), atoms, 3, sigma=scale * jnp.asarray(tensor))
        return (moved.positions**2).sum()

    h = 1e-6
    numeric = (loss(1 + h) - loss(1 - h)) / (2 * h)
    assert float(jax.grad(loss)(1.0)) == pytest.approx(float(numeric), rel=1e-7)


def test_motion_by_direction_and_by_element():
    atoms = some_atoms(sigma=0.1)
    flat = shifts(atoms, n=500, directions="xy")
    assert not flat[..., 2].any()
    assert flat[..., :2].std() == pytest.approx(0.1, rel=0.05)
    size = shifts(atoms, n=4000, sigma={"C": 0.05, 14: (0.1, 0.2, 0.0)}).std(axis=0)
    expected = [[0.05] * 3, [0.1, 0.2, 0.0], [0.05] * 3]
    np.testing.assert_allclose(size, expected, rtol=0.05)
    size = shifts(atoms, n=4000, sigma=np.array(expected)).std(axis=0)
    np.testing.assert_allclose(size, expected, rtol=0.05)
    np.testing.assert_allclose(shifts(atoms, n=4000, sigma=0.02).std(), 0.02, rtol=0.05)


def test_displaced_atoms_are_wrapped():
    atoms = some_atoms(sigma=0.3)
    moved = configurations(jax.random.key(4), atoms, 5)
    assert (moved.positions < 0).any(), "displacement comes first, wrapping after"
    inside = np.mod(moved.positions, np.array(CELL))
    for a, b in zip(moved.positions, inside, strict=True):
        seen, expected = (project(replace(atoms, positions=p), GRID, 1.0).slices for p in (a, b))
        np.testing.assert_allclose(seen, expected, atol=2e-4 * float(jnp.abs(expected).max()))


def pattern(atoms):
    potential = project(atoms, GRID, 1.5, depth=CELL[2])
    return diffraction(multislice(plane_wave(GRID), potential, 100e3)) / (20 * 16) ** 2


@pytest.mark.parametrize("batch", [None, 2, 3, 50])
def test_mean_and_error_are_those_of_all_patterns(batch, x64):
    moved = configurations(jax.random.key(6), some_atoms(sigma=0.1), 7)
    every = np.asarray(frozen_each(pattern, moved, compiled=False))
    mean, error = frozen_mean(pattern, moved, batch=batch)
    np.testing.assert_allclose(mean, every.mean(axis=0), rtol=1e-10, atol=1e-15)
    expected = every.std(axis=0, ddof=1) / np.sqrt(7)
    np.testing.assert_allclose(error, expected, rtol=1e-6, atol=1e-14)
    if batch == 2:
        again = frozen_mean(pattern, moved, compiled=False)
        np.testing.assert_allclose(again[0], mean, rtol=1e-10, atol=1e-15)
        np.testing.assert_allclose(again[1], error, rtol=1e-6, atol=1e-14)
        np.testing.assert_allclose(
            frozen_each(pattern, moved, batch=3), every, rtol=1e-9, atol=1e-15
        )


def test_a_tree_of_signals_and_a_tree_of_configurations():
    keys = jax.random.split(jax.random.key(7), 4000)

    def model(key):
        return {"a": jax.random.normal(key, (3,)), "b": 1000.0 + jax.random.uniform(key)}

    mean, error = frozen_mean(model, keys, batch=100)
    assert mean["a"].shape == (3,)
    np.testing.assert_allclose(mean["a"], 0, atol=0.06)
    np.testing.assert_allclose(error["a"], 1 / np.sqrt(4000), rtol=0.05)
    # nothing cancels on a large background
    assert float(error["b"]) == pytest.approx(np.sqrt(1 / 12 / 4000), rel=0.03)
    one, unknown = frozen_mean(model, keys[:1])
    assert np.isfinite(one["a"]).all()
    assert np.isinf(unknown["a"]).all()


def test_gradient_of_a_mean_over_configurations(x64):
    atoms = some_atoms(sigma=0.1)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(20, 16)))
    direction = np.random.default_rng(1).normal(size=(3, 3))

    @jax.jit
    def loss(step):
        still = replace(atoms, positions=atoms.positions + step * jnp.asarray(direction))
        moved = configurations(jax.random.key(8), still, 3)
        return (weights * frozen_mean(pattern, moved, batch=2)[0]).sum() * 1e3

    h = 1e-5
    numeric = (loss(h) - loss(-h)) / (2 * h)
    assert float(jax.grad(loss)(0.0)) == pytest.approx(float(numeric), rel=1e-6)


def test_the_mean_amplitude_of_a_weak_object_is_damped_by_debye_waller(x64):
    """<exp(2πi k·u)> = exp(-2π²σ²k²), CONVENTIONS 4: 4e4 snapshots, 1e-3 of the amplitude."""
    sigma, n = 0.12, 40_000
    weak = make_atoms([[2.0, 2.5, 1.0]], [6], CELL, occupancy=1e-4, sigma=sigma)

    def amplitude(atoms):
        potential = project(atoms, GRID, CELL[2], depth=CELL[2])
        wave = multislice(plane_wave(GRID), potential, 100e3)
        return jnp.fft.fft2(wave) / (20 * 16)

    mean, error = frozen_mean(amplitude, configurations(jax.random.key(9), weak, n), batch=400)
    smeared = project(weak, GRID, CELL[2]).slices[0]
    still = project(replace(weak, sigma=np.zeros(1)), GRID, CELL[2]).slices[0]
    kinematic = 1j * interaction_constant(100e3) * np.fft.fft2(smeared) / (20 * 16)
    rigid = interaction_constant(100e3) * np.abs(np.fft.fft2(still)) / (20 * 16)
    ky, kx = np.fft.fftfreq(20, 0.25)[:, None], np.fft.fftfreq(16, 0.25)[None, :]
    k = np.hypot(ky, kx)
    near = (k > 0) & (k < 1.2)  # inside the band limit
    # without its propagation phase, which the amplitude gains behind the slice
    difference = np.abs(np.abs(mean) - np.abs(kinematic))[near] / rigid[near]
    assert difference.max() < 5e-3 + 4 * float((error[near] / rigid[near]).max())
    assert difference.mean() < 2e-3
    damping = (np.abs(mean) / rigid)[near]
    np.testing.assert_allclose(damping, np.exp(-2 * np.pi**2 * sigma**2 * k[near] ** 2), atol=0.02)
    assert damping.min() < 0.7, "it is no small effect"


def test_trajectories():
    atoms = some_atoms(sigma=0.1)
    where = atoms.positions[None] + np.arange(4)[:, None, None] * 0.01
    moved = trajectory(where, atoms)
    np.testing.assert_array_equal(moved.positions, where)
    assert not np.any(moved.sigma)
    frames = [ase.Atoms([6, 14, 6], positions=p, cell=CELL, pbc=True) for p in where]
    from_ase = trajectory(frames)
    np.testing.assert_array_equal(from_ase.positions, where)
    np.testing.assert_array_equal(from_ase.numbers, atoms.numbers)
    np.testing.assert_array_equal(from_ase.cell, atoms.cell)
    mean, _ = frozen_mean(lambda a: a.positions, moved)
    np.testing.assert_allclose(mean, where.mean(axis=0), rtol=1e-6)


def test_what_is_no_trajectory():
    atoms = some_atoms()
    frames = [ase.Atoms([6, 14, 6], positions=atoms.positions, cell=CELL) for _ in range(2)]
    frames[1].numbers[0] = 7
    with pytest.raises(ValueError, match="other atoms than frame 0"):
        trajectory(frames)
    frames[1].numbers[0] = 6
    frames[1].set_cell((4.1, 5.0, 3.0))
    with pytest.raises(ValueError, match="cell of frame 1 differs"):
        trajectory(frames)
    with pytest.raises(ValueError, match="which atoms they are"):
        trajectory(np.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match=r"are \[configs, 3, 3\]"):
        trajectory(np.zeros((2, 4, 3)), atoms)
    with pytest.raises(ValueError, match="no frames"):
        trajectory([], atoms)
    bad = np.zeros((2, 3, 3))
    bad[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="configuration 1 holds positions"):
        trajectory(bad, atoms)


def test_what_is_no_ensemble():
    atoms, key = some_atoms(sigma=0.1), jax.random.key(0)
    with pytest.raises(ValueError, match="at least one configuration"):
        configurations(key, atoms, 0)
    with pytest.raises(ValueError, match="x, y and z"):
        configurations(key, atoms, 1, directions="xq")
    with pytest.raises(ValueError, match="no entry for the elements"):
        configurations(key, atoms, 1, sigma={"C": 0.1})
    with pytest.raises(ValueError, match="sigma of 3 atoms"):
        configurations(key, atoms, 1, sigma=np.zeros(4))
    negative = np.tile(np.diag([0.1, 0.1, -0.1]), (3, 1, 1))
    with pytest.raises(ValueError, match="not positive"):
        configurations(key, atoms, 1, sigma=negative)
    with pytest.raises(ValueError, match="one configuration"):
        frozen_mean(lambda a: a.positions, atoms)
    with pytest.raises(ValueError, match="at least one configuration"):
        frozen_mean(lambda k: k, jnp.zeros(3), batch=0)
    with pytest.raises(ValueError, match="no configurations"):
        frozen_mean(lambda k: k, jnp.zeros((0, 3)))
    with pytest.raises(ValueError, match="one leading axis"):
        frozen_mean(lambda k: k, (jnp.zeros(3), jnp.zeros(4)))


@pytest.mark.parametrize("compiled", [False, True])
def test_abtems_frozen_phonons(compiled, shared, x64):
    """dev_phonons_srtio3: a line scan per configuration and the mean CBED, to 1e-6."""
    with np.load(shared / "data" / "abtem_refs" / "dev_phonons_srtio3.npz") as file:
        data = dict(file)
    meta = json.loads(str(data["meta"]))
    nx, ny = meta["gpts"]
    cell = data["cell"]
    grid = Grid.over((float(cell[1]), float(cell[0])), shape=(ny, nx))
    optics = Optics(energy=meta["energy"], semiangle=meta["semiangle_cutoff"])
    moved = trajectory(
        data["positions_configs"], make_atoms(data["positions"], data["numbers"], cell)
    )
    rings = [Annular(*map(float, meta["annular"][name])) for name in ("haadf", "bf")]

    def potential(atoms):
        depth = float(cell[2])
        return project(atoms, grid, meta["slice_thickness"], mode="abtem", depth=depth)

    def signal(atoms):
        return stem(potential(atoms), optics, data["scan_positions"], rings, validate=False)

    seen = np.asarray(frozen_each(signal, moved, compiled=compiled))
    for i, name in enumerate(("out_haadf_configs", "out_bf_configs")):
        error = np.abs(seen[:, i] - data[name]).max() / np.abs(data[name]).max()
        print(f"compiled={compiled} {name} {error:.2e}")
        assert error < 1e-6

    def one(atoms):
        where = data["cbed_position"][None]
        return cbed(potential(atoms), optics, where, validate=False)[0]

    mean, _ = frozen_mean(one, moved, compiled=compiled)
    shape = crop_shape(grid, meta["energy"], "cutoff")
    mean = crop_pattern(np.fft.fftshift(np.asarray(mean)), shape).T
    error = np.abs(mean - data["out_cbed_mean"]).max() / data["out_cbed_mean"].max()
    print(f"compiled={compiled} out_cbed_mean {error:.2e}")
    assert error < 1e-6
