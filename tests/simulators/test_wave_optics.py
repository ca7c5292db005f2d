"""Probe, propagation and potential against closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import j1

from simulators.atoms import make_atoms
from simulators.electron import wavelength
from simulators.engines import exit_wave
from simulators.grid import Grid
from simulators.multislice import fresnel_propagator, multislice
from simulators.optics import Optics, check_probe, plane_wave, probe
from simulators.potential import Potential, project, slice_thicknesses


def silicon_row(n: int = 3) -> tuple:
    rng = np.random.default_rng(3)
    positions = rng.uniform(0, 8, (n, 3))
    return make_atoms(positions, rng.choice([6, 14, 79], n), [8.0, 9.0, 8.0]), Grid.over(
        (9.0, 8.0), shape=(72, 64)
    )


def test_probes_are_normalised_at_any_position():
    grid = Grid((64, 80), (0.12, 0.1))
    waves = probe(
        Optics(energy=80e3, semiangle=25.0, C10=30.0), grid, np.array([[0, 0], [3.3, 1.7]])
    )
    total = (jnp.abs(jnp.fft.fft2(waves)) ** 2).sum((-1, -2))
    np.testing.assert_allclose(total, 1.0, rtol=2e-6)


def test_the_focused_probe_is_the_airy_pattern(x64):
    grid = Grid((512, 512), (0.1, 0.1))
    image = np.abs(probe(Optics(energy=100e3, semiangle=20.0), grid)) ** 2
    r = np.arange(1, 60) * 0.1
    x = 2 * np.pi * 20e-3 * r / wavelength(100e3)
    airy = (2 * j1(x) / x) ** 2
    assert np.abs(image[0, 1:60] / image[0, 0] - airy).max() < 3e-4


def test_on_axis_intensity_of_a_defocused_probe(x64):
    grid = Grid((512, 512), (0.1, 0.1))
    peak = np.abs(probe(Optics(energy=100e3, semiangle=20.0), grid))[0, 0] ** 2
    for defocus in (30.0, 60.0, -90.0):
        wave = probe(Optics(energy=100e3, semiangle=20.0, C10=-defocus), grid)
        expected = np.sinc((20e-3) ** 2 * defocus / (2 * wavelength(100e3))) ** 2
        assert abs(np.abs(wave)[0, 0] ** 2 / peak - expected) < 1e-3


def test_positive_defocus_focuses_behind_the_entrance_plane(x64):
    grid = Grid((96, 128), (0.15, 0.1))
    lens = {"energy": 60e3, "semiangle": 20.0}
    wave = probe(Optics(C10=-100.0, **lens), grid)
    propagator = fresnel_propagator(grid, 100.0, 60e3)
    focused = np.fft.ifft2(np.fft.fft2(np.asarray(wave)) * propagator)
    reference = np.asarray(probe(Optics(**lens), grid))
    assert np.abs(focused - reference).max() / np.abs(reference).max() < 1e-14


@pytest.mark.parametrize("mode", ["exact", "abtem"])
def test_the_potential_integrates_to_the_forward_scattering_factor(mode, x64):
    from simulators.scattering import projected_scattering_factor

    atoms, grid = silicon_row(5)
    slices = project(atoms, grid, 2.0, mode=mode).slices
    area = grid.sampling[0] * grid.sampling[1]
    expected = sum(projected_scattering_factor(int(z), 0.0) for z in atoms.numbers)
    assert float(slices.sum()) * area == pytest.approx(expected, rel=1e-10)


def test_the_exact_potential_follows_a_sub_pixel_shift(x64):
    grid = Grid.over((6.0, 5.0), shape=(48, 50))
    place = np.array([[2.0, 3.0, 1.0]])
    shift = np.array([0.0373, -0.0519])

    def image(xy):
        atoms = make_atoms(np.column_stack([xy[None], [[1.0]]]), [14], [5.0, 6.0, 2.0], sigma=0.1)
        return np.asarray(project(atoms, grid, 2.0).slices[0])

    ky, kx = grid.frequencies()
    ramp = np.exp(-2j * np.pi * (ky[:, None] * shift[1] + kx[None] * shift[0]))
    moved = np.fft.ifft2(np.fft.fft2(image(place[0, :2])) * ramp).real
    error = np.abs(moved - image(place[0, :2] + shift)).max() / moved.max()
    assert error < 2e-3, "only the Nyquist terms, which a real image cannot shift"


def test_debye_waller_factor(x64):
    grid = Grid.over((6.0, 6.0), shape=(60, 60))
    still, moving = (
        make_atoms([[1.0, 2.0, 0.5]], [38], [6.0, 6.0, 1.0], sigma=s) for s in (0.0, 0.12)
    )
    ratio = np.fft.fft2(project(moving, grid, 1.0).slices[0]) / np.fft.fft2(
        project(still, grid, 1.0).slices[0]
    )
    expected = np.exp(-2 * np.pi**2 * 0.12**2 * grid.k2())
    assert np.abs(ratio - expected)[1:29, 1:29].max() < 1e-10


def test_traced_and_known_atoms_give_one_potential(x64):
    atoms, grid = silicon_row(7)
    for mode in ("exact", "abtem"):
        known = project(atoms, grid, 1.7, mode=mode).slices
        traced = jax.jit(lambda a, m=mode: project(a, grid, 1.7, mode=m, depth=8.0).slices)(atoms)
        np.testing.assert_allclose(traced, known, atol=1e-10 * float(known.max()))


def test_flux_is_conserved_without_the_band_limit(x64):
    atoms, grid = silicon_row(9)
    potential = project(atoms, grid, 1.0)
    wave = exit_wave(plane_wave(grid), potential, 200e3, bandlimit=False)
    assert abs(float((jnp.abs(wave) ** 2).mean()) - 1) < 1e-12
    with_limit = float((jnp.abs(exit_wave(plane_wave(grid), potential, 200e3)) ** 2).mean())
    assert with_limit < 1


@pytest.mark.parametrize("leaf", ["positions", "occupancy", "sigma"])
def test_gradients_to_atoms(leaf, x64):
    atoms, grid = silicon_row(4)
    atoms = jax.tree_util.tree_map(jnp.asarray, atoms)
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=grid.shape))
    direction = rng.normal(size=getattr(atoms, leaf).shape)
    if leaf == "positions":
        direction[:, 2] = 0.0
    from simulators.tree import replace

    def objective(step):
        moved = replace(atoms, **{leaf: getattr(atoms, leaf) + 0.05 * (leaf == "sigma")})
        moved = replace(moved, **{leaf: getattr(moved, leaf) + step * jnp.asarray(direction)})
        potential = project(moved, grid, 2.0, depth=8.0)
        return (weights * jnp.abs(exit_wave(plane_wave(grid), potential, 80e3)) ** 2).sum()

    h = 1e-5
    numeric = (objective(h) - objective(-h)) / (2 * h)
    assert float(jax.grad(objective)(0.0)) == pytest.approx(float(numeric), rel=1e-6)


@pytest.mark.parametrize("name", ["energy", "semiangle", "C10", "C12", "phi12", "C30", "C56"])
def test_gradients_to_optics(name, x64):
    from simulators.tree import replace

    grid = Grid((48, 40), (0.2, 0.25))
    optics = Optics(energy=80e3, semiangle=18.0, C10=50.0, C12=20.0, phi12=0.3, C30=1e5, C56=1e6)
    base = getattr(optics, name)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=grid.shape))

    def objective(scale):
        lens = replace(optics, **{name: base * scale})
        return (weights * jnp.abs(probe(lens, grid, validate=False)) ** 2).sum()

    h = 1e-6
    numeric = (objective(1 + h) - objective(1 - h)) / (2 * h)
    assert float(jax.grad(objective)(1.0)) == pytest.approx(float(numeric), rel=1e-6)


def test_gradients_to_thickness_and_tilt(x64):
    atoms, grid = silicon_row(4)
    potential = project(atoms, grid, 2.0)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=grid.shape))

    def objective(values):
        slab = Potential(potential.slices, potential.thickness * values[0], grid)
        wave = multislice(plane_wave(grid), slab, 80e3, tilt=(values[1], values[2]))
        return (weights * jnp.abs(wave) ** 2).sum()

    at = np.array([1.0, 5.0, -3.0])
    gradient = jax.grad(objective)(jnp.asarray(at))
    for i in range(3):
        step = np.zeros(3)
        step[i] = 1e-5
        numeric = (objective(jnp.asarray(at + step)) - objective(jnp.asarray(at - step))) / 2e-5
        assert float(gradient[i]) == pytest.approx(float(numeric), rel=1e-6)


def test_vmap_over_specimens_equals_a_loop(x64):
    from simulators.tree import replace

    atoms, grid = silicon_row(4)
    atoms = jax.tree_util.tree_map(jnp.asarray, atoms)
    shifts = jnp.asarray(np.random.default_rng(4).uniform(-1, 1, (3, 4, 3)))

    def wave(shift):
        moved = replace(atoms, positions=atoms.positions + shift)
        return exit_wave(plane_wave(grid), project(moved, grid, 4.0, depth=8.0), 60e3)

    batch = jax.jit(jax.vmap(wave))(shifts)
    for one, shift in zip(batch, shifts, strict=True):
        np.testing.assert_allclose(one, wave(shift), atol=1e-12)


def test_probes_that_do_not_fit_the_grid():
    grid = Grid((64, 64), (0.2, 0.2))
    with pytest.raises(ValueError, match=r"60 mrad does not fit the grid.*sampling of 0\.1"):
        check_probe(Optics(energy=200e3, semiangle=60.0), grid)
    with pytest.raises(ValueError, match="overlaps itself"):
        check_probe(Optics(energy=200e3, semiangle=20.0, C10=-600.0), grid)
    with pytest.raises(ValueError, match="needs a semiangle"):
        probe(Optics(energy=200e3), grid)
    with pytest.raises(ValueError, match="in mrad, not rad"):
        Optics(energy=200e3, semiangle=0.02)


def test_specimens_that_do_not_fit_the_grid():
    atoms, grid = silicon_row()
    with pytest.raises(ValueError, match=r"spans 9\.000000 Å in x but the cell is 8"):
        project(atoms, Grid.over((8.0, 9.0), shape=(64, 64)), 2.0)
    with pytest.raises(ValueError, match="unknown mode"):
        project(atoms, grid, 2.0, mode="precise")
    with pytest.raises(ValueError, match="add up to 4"):
        project(atoms, grid, [2.0, 2.0])
    with pytest.raises(ValueError, match="pixels"):
        multislice(jnp.ones((8, 8), complex), project(atoms, grid, 8.0), 80e3)
    with pytest.raises(ValueError, match="planes must be"):
        multislice(plane_wave(grid), project(atoms, grid, 8.0), 80e3, planes=(1,))
    with pytest.raises(ValueError, match="unknown engine"):
        exit_wave(plane_wave(grid), project(atoms, grid, 8.0), 80e3, engine="bloch")


def test_scalar_slice_thickness_makes_equal_slices():
    np.testing.assert_allclose(slice_thicknesses(7.0, 2.0), 1.75)
    with pytest.raises(ValueError, match="must be positive"):
        slice_thicknesses(7.0, 0.0)
