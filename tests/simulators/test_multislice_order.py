"""Steps and propagators against the matrix exponential, slabs in parts, oversampling."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.electron import interaction_constant, wavelength
from simulators.grid import Grid
from simulators.multislice import (
    bandlimited,
    fresnel_propagator,
    multislice,
    prepare,
    thickness_series,
    through,
    transmission,
)
from simulators.optics import Optics, plane_wave, probe
from simulators.potential import Potential, project
from simulators.tree import replace

ENERGY = 100e3
A = 5.431
B = A / np.sqrt(2)


def silicon_110():
    """The mean potential [V] of Si[110] on its smallest cell: 24 × 18 beams."""
    base = np.array([[0, 0, 0], [B / 2, A / 2, B / 2]])
    places = np.concatenate([base, np.add(base, [B / 2, A / 4, 0])]) % [B, A, B]
    atoms = make_atoms(places, [14] * 4, [B, A, B])
    grid = Grid.over((A, B), shape=(24, 18))
    return np.asarray(project(atoms, grid, B).slices[0]) / B, grid


def by_matrix_exponential(volts, grid, depth, order):
    """exp(i t (σV - πλk² - …)) applied to the plane wave, as amplitudes of the beams."""
    n, lam = volts.size, wavelength(ENERGY)
    kinetic = -np.pi * lam * grid.k2()
    if order == 2:
        kinetic = kinetic - np.pi / 4 * lam**3 * grid.k2() ** 2
    dft = np.fft.fft2(np.eye(n).reshape(n, *grid.shape)).reshape(n, n).T / np.sqrt(n)
    hamiltonian = (dft.conj().T * kinetic.ravel()) @ dft
    hamiltonian = hamiltonian + np.diag(interaction_constant(ENERGY) * volts.ravel())
    values, vectors = np.linalg.eigh((hamiltonian + hamiltonian.conj().T) / 2)
    wave = vectors @ (np.exp(1j * depth * values) * (vectors.conj().T @ np.ones(n)))
    return np.fft.fft2(wave.reshape(grid.shape)) / n


@pytest.mark.parametrize("order", [1, 2])
def test_orders_in_the_slice_thickness(order, x64):
    volts, grid = silicon_110()
    depth, errors = 200.0, {"first": [], "symmetric": []}
    exact = by_matrix_exponential(volts, grid, depth, order)
    for step, found in errors.items():
        for dz in (1.0, 0.5, 0.25):
            n = int(depth / dz)
            slab = Potential(jnp.asarray(np.tile(volts * dz, (n, 1, 1))), np.full(n, dz), grid)
            wave = multislice(
                plane_wave(grid), slab, ENERGY, bandlimit=False, step=step, order=order
            )
            beams = np.fft.fft2(np.asarray(wave)) / volts.size
            found.append(np.linalg.norm(beams - exact))
    first, symmetric = (np.array(errors[name]) for name in ("first", "symmetric"))
    print(f"order {order}: first {first}, symmetric {symmetric}")
    np.testing.assert_allclose(np.log2(first[:-1] / first[1:]), 1, atol=0.25)
    np.testing.assert_allclose(np.log2(symmetric[:-1] / symmetric[1:]), 2, atol=0.05)
    assert symmetric[2] < 0.3 * first[2]


def test_the_second_order_propagator(x64):
    grid, thickness = Grid((24, 20), (0.15, 0.2)), [1.0, 3.0]
    empty = Potential(jnp.zeros((2, *grid.shape)), np.array(thickness), grid)
    wave = probe(Optics(energy=60e3, semiangle=30.0), grid)
    result = multislice(wave, empty, 60e3, order=2, bandlimit=False, step="symmetric")
    lam = wavelength(60e3)
    exact = fresnel_propagator(grid, 4.0, 60e3) * np.exp(
        -0.25j * np.pi * lam**3 * 4 * grid.k2() ** 2
    )
    expected = np.fft.ifft2(np.fft.fft2(np.asarray(wave)) * exact)
    np.testing.assert_allclose(result, expected, atol=1e-14)
    # it is the next term of the exact phase 2π (sqrt(1/λ² - k²) - 1/λ)
    k2 = np.array([0.5, 1.0, 2.0])
    phase = -np.pi * lam * k2 - np.pi / 4 * lam**3 * k2**2
    true = 2 * np.pi * (np.sqrt(1 / lam**2 - k2) - 1 / lam)
    np.testing.assert_allclose(phase, true, rtol=1e-5)


@pytest.mark.parametrize("step", ["first", "symmetric"])
@pytest.mark.parametrize("order", [1, 2])
def test_unequal_slices_in_parts_are_the_whole(step, order, x64):
    rng = np.random.default_rng(5)
    grid = Grid((24, 20), (0.2, 0.25))
    thickness = np.array([1.0, 2.0, 0.5, 3.0, 1.5])
    potential = Potential(jnp.asarray(rng.uniform(0, 200, (5, *grid.shape))), thickness, grid)
    wave = probe(Optics(energy=80e3, semiangle=20.0), grid, np.array([[1.0, 2.0], [0.0, 0.3]]))
    slab = prepare(potential, 80e3, tilt=(3.0, -2.0), step=step, order=order)
    whole = through(wave, slab)
    series = thickness_series(wave, slab, (4, -1, 1, 2))
    np.testing.assert_allclose(series[0], whole, atol=1e-13)
    np.testing.assert_allclose(series[1], wave, atol=1e-14)
    # the wave at a plane is that of a specimen that ends there
    thin = Potential(potential.slices[:2], thickness[:2], grid)
    options = {"tilt": (3.0, -2.0), "step": step, "order": order}
    np.testing.assert_allclose(multislice(wave, thin, 80e3, **options), series[2], atol=1e-13)
    np.testing.assert_allclose(slab.part(1, 3).n, 2)


def test_the_symmetric_step_of_unequal_slices_is_of_second_order(x64):
    volts, grid = silicon_110()
    depth = 60.0
    exact = by_matrix_exponential(volts, grid, depth, 1)
    errors = []
    for n in (60, 120):
        pair = np.array([0.6, 1.4]) * depth / n
        thickness = np.tile(pair, n // 2)
        slices = volts[None] * thickness[:, None, None]
        wave = multislice(
            plane_wave(grid),
            Potential(jnp.asarray(slices), thickness, grid),
            ENERGY,
            bandlimit=False,
            step="symmetric",
        )
        errors.append(np.linalg.norm(np.fft.fft2(np.asarray(wave)) / volts.size - exact))
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.3)


def test_an_oversampled_transmission_is_the_cropped_spectrum_of_the_fine_one(x64):
    rng = np.random.default_rng(6)
    grid, factor = Grid((16, 20), (0.2, 0.15)), 2
    fine = rng.uniform(0, 800, (3, 32, 40))
    potential = Potential(jnp.asarray(fine), np.ones(3), grid, oversample=factor)
    made = np.asarray(transmission(potential, 80e3))
    assert made.shape == (3, 16, 20)
    spectrum = np.fft.fft2(np.exp(1j * interaction_constant(80e3) * fine))
    orders = [np.fft.fftfreq(n, 1 / n).astype(int) for n in grid.shape]
    cropped = spectrum[:, orders[0][:, None], orders[1][None]] / factor**2
    expected = np.fft.ifft2(cropped * grid.antialias_mask())
    np.testing.assert_allclose(made, expected, atol=1e-13)
    wave = multislice(plane_wave(grid), potential, 80e3, step="symmetric")
    assert wave.shape == grid.shape
    assert np.isfinite(np.asarray(wave)).all()


def test_a_smooth_potential_needs_no_oversampling(x64):
    grid, rng = Grid((16, 20), (0.2, 0.2)), np.random.default_rng(7)
    few = np.zeros((1, 32, 40), complex)
    for y, x in ((0, 1), (1, 2), (2, 0)):
        few[0, y, x] = 30 * rng.normal() * 32 * 40
    smooth = np.fft.ifft2(few).real
    coarse = Potential(jnp.asarray(smooth[:, ::2, ::2]), np.ones(1), grid)
    fine = Potential(jnp.asarray(smooth), np.ones(1), grid, oversample=2)
    np.testing.assert_allclose(transmission(fine, 80e3), transmission(coarse, 80e3), atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2])
def test_the_band_limit_of_the_potential(factor, x64):
    rng = np.random.default_rng(8)
    grid = Grid((16, 20), (0.2, 0.15))
    fine = rng.uniform(0, 80, (2, 16 * factor, 20 * factor))
    potential = Potential(jnp.asarray(fine), np.ones(2), grid, oversample=factor)
    limited = bandlimited(potential)
    spectrum = np.fft.fft2(np.asarray(limited.slices)) / factor**2
    orders = [np.fft.fftfreq(n, 1 / n).astype(int) for n in grid.shape]
    kept = (np.fft.fft2(fine) / factor**2)[:, orders[0][:, None], orders[1][None]]
    low = spectrum[:, orders[0][:, None], orders[1][None]]
    np.testing.assert_allclose(low, kept * grid.antialias_mask(), atol=1e-9)
    assert np.abs(spectrum).sum() == pytest.approx(np.abs(low).sum())
    direct = transmission(limited, 80e3)
    np.testing.assert_allclose(
        transmission(potential, 80e3, bandlimit_potential=True), direct, atol=1e-13
    )


def test_an_absorbing_potential_loses_electrons(x64):
    grid = Grid((8, 8), (0.5, 0.5))
    slices = jnp.full((2, 8, 8), 100.0 + 50.0j)
    wave = multislice(plane_wave(grid), Potential(slices, np.ones(2), grid), 80e3)
    expected = np.exp(-interaction_constant(80e3) * 100.0)
    np.testing.assert_allclose(jnp.abs(wave), expected, rtol=1e-12)


def test_float32_steps_agree_with_float64():
    volts, grid = silicon_110()
    slices, thickness = np.tile(volts * 2, (20, 1, 1)), np.full(20, 2.0)
    results = {}
    for wide in (False, True):
        with jax.enable_x64(wide):
            potential = Potential(jnp.asarray(slices), jnp.asarray(thickness), grid)
            results[wide] = np.asarray(
                multislice(
                    plane_wave(grid), potential, ENERGY, step="symmetric", order=2, tilt=(2.0, 1.0)
                )
            )
    error = np.abs(results[False] - results[True]).max() / np.abs(results[True]).max()
    assert results[False].dtype == np.complex64
    assert error < 5e-6


def test_settings_that_do_not_exist():
    grid = Grid((8, 8), (0.5, 0.5))
    potential = Potential(jnp.zeros((1, 8, 8)), np.ones(1), grid)
    with pytest.raises(ValueError, match="unknown step 'last': choose one of first, symmetric"):
        prepare(potential, 80e3, step="last")
    with pytest.raises(ValueError, match="order is 1 or 2, got 3"):
        prepare(potential, 80e3, order=3)
    with pytest.raises(ValueError, match=r"oversampled 2 times needs \(16, 16\)"):
        prepare(replace(potential, oversample=2), 80e3)
