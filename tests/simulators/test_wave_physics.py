"""Dynamical scattering against closed forms: two beams, extinction, reciprocity, weak phases."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.electron import interaction_constant, wavelength
from simulators.grid import Grid
from simulators.hrtem import image
from simulators.multislice import multislice
from simulators.optics import (
    Optics,
    aberration_phase,
    plane_wave,
    point_resolution,
    probe_coefficients,
    scherzer_defocus,
)
from simulators.potential import Potential, project
from simulators.tilt import bragg_tilt


@pytest.mark.parametrize("step", ["first", "symmetric"])
def test_two_beams_at_the_exact_bragg_tilt(step, x64):
    # so fine a period that the third beam is far off: I_g = sin²(σ V_g t) to 1e-4, at any dz
    energy, period, strength, found = 100e3, 0.5, 4.0, []
    grid = Grid((4, 32), (1.0, period / 8))
    x = np.arange(32) * grid.sampling[1]
    cosine = np.broadcast_to(2 * strength * np.cos(2 * np.pi * x / period), grid.shape)
    tilt = bragg_tilt((1 / period, 0.0), energy)
    for dz in (1.0, 2.0):
        n = int(400 / dz)
        potential = Potential(jnp.asarray(np.tile(cosine * dz, (n, 1, 1))), np.full(n, dz), grid)
        planes = tuple(range(int(20 / dz) - 1, n, int(20 / dz)))
        waves = multislice(
            plane_wave(grid),
            potential,
            energy,
            tilt=tilt,
            planes=planes,
            bandlimit=False,
            step=step,
        )
        intensity = np.abs(np.fft.fft2(np.asarray(waves)) / (4 * 32)) ** 2
        depth = (np.array(planes) + 1) * dz
        expected = np.sin(interaction_constant(energy) * strength * depth) ** 2
        assert expected.max() > 0.95
        found.append(np.abs(intensity[:, 0, 4] - expected).max())
        assert intensity[:, 0, -4].max() < 1e-4, "the opposite beam is not excited"
    assert max(found) < 1e-4
    assert found[0] == pytest.approx(found[1], abs=2e-5)


@pytest.mark.parametrize(
    ("number", "a", "diamond", "order", "reference"),
    [
        (13, 4.0495, False, (1, 1), 563.0),
        (29, 3.6149, False, (1, 1), 286.0),
        (79, 4.0782, False, (1, 1), 183.0),
        (14, 5.431, True, (1, 1), 602.0),
        (14, 5.431, True, (0, 2), 757.0),
    ],
)
def test_extinction_distances_at_100_kv(number, a, diamond, order, reference, x64):
    # the [1-10] cell holds 111 at orders (y, x) = (1, 1) and 220 at (0, 2); ξ = π / σV_g
    b = a / np.sqrt(2)
    places = np.array([[0, 0, 0], [b / 2, a / 2, b / 2]])
    if diamond:
        places = np.concatenate([places, np.add(places, [b / 2, a / 4, 0])])
    atoms = make_atoms(places % [b, a, b], [number] * len(places), [b, a, b])
    grid = Grid.over((a, b), shape=(24, 16))
    volts = np.fft.fft2(np.asarray(project(atoms, grid, b).slices[0])) / (24 * 16) / b
    distance = np.pi / (interaction_constant(100e3) * abs(volts[order]))
    assert distance == pytest.approx(reference, rel=0.04)


def random_slab(nz: int = 6) -> Potential:
    rng = np.random.default_rng(11)
    grid = Grid((20, 16), (0.3, 0.35))
    return Potential(
        jnp.asarray(rng.uniform(0, 300, (nz, *grid.shape))), rng.uniform(1, 3, nz), grid
    )


def test_reciprocity_of_bright_field_scanning_and_imaging(x64):
    # a probe through the specimen onto a point detector; a plane wave up through the reversed
    # specimen and the same lens, k -> -k. The symmetric step of a reversed stack is its transpose.
    potential, energy = random_slab(), 80e3
    grid = potential.grid
    lens = Optics(energy=energy, semiangle=25.0, C10=-60.0, C12=30.0, phi12=0.4, C21=500.0)
    options = {"bandlimit": False, "step": "symmetric"}
    coefficients = probe_coefficients(lens, grid)

    def scanning(iy, ix):
        ky, kx = grid.frequencies()
        ramp = np.exp(
            -2j * np.pi * (ky[:, None] * iy * grid.sampling[0] + kx[None] * ix * grid.sampling[1])
        )
        wave = jnp.asarray(np.fft.ifft2(coefficients * ramp))
        return jnp.abs(jnp.fft.fft2(multislice(wave, potential, energy, **options))[0, 0]) ** 2

    upside_down = Potential(potential.slices[::-1], potential.thickness[::-1], grid)
    wave = multislice(plane_wave(grid), upside_down, energy, **options)
    negative = np.ix_(*(np.arange(0, -n, -1) % n for n in grid.shape))
    mirrored = jnp.asarray(coefficients[negative])
    picture = jnp.abs(jnp.fft.ifft2(jnp.fft.fft2(wave) * mirrored)) ** 2
    places = [(0, 0), (3, 5), (11, 2), (19, 15)]
    ratio = np.array([scanning(y, x) / picture[y, x] for y, x in places])
    np.testing.assert_allclose(ratio / ratio[0], 1, rtol=1e-12)


def test_flux_does_not_depend_on_the_potential(x64):
    potential = random_slab()

    def flux(slices):
        slab = Potential(slices, potential.thickness, potential.grid)
        wave = multislice(plane_wave(slab.grid), slab, 80e3, bandlimit=False, step="symmetric")
        return (jnp.abs(wave) ** 2).mean()

    value, slope = jax.value_and_grad(flux)(potential.slices)
    assert float(value) == pytest.approx(1, abs=1e-13)
    assert float(jnp.abs(slope).max()) < 1e-15


def test_contrast_of_a_weak_phase_grating(x64):
    # 2 σV(k) sin χ; the relative error is 0.45 of the largest phase, from the second order
    grid, energy = Grid((32, 48), (0.25, 0.2)), 200e3
    lens = Optics(energy=energy, C10=-500.0, C30=1e7, C12=40.0, phi12=0.7)
    y, x = np.mgrid[:32, :48] * np.array([0.25, 0.2])[:, None, None]
    phase = np.cos(2 * np.pi * (3 * x / 9.6 + 2 * y / 8.0)) + 0.6 * np.sin(2 * np.pi * 5 * x / 9.6)
    spectrum = np.fft.fft2(phase)
    sine = np.sin(aberration_phase(lens, grid))
    expected = 2 * np.fft.ifft2(spectrum * sine).real
    for strength in (6e-3, 6e-4, 6e-5):
        scaled = strength * phase / np.abs(phase).max()
        contrast = np.asarray(image(jnp.exp(1j * jnp.asarray(scaled)), lens, grid)) - 1
        linear = strength * expected / np.abs(phase).max()
        error = np.abs(contrast - linear).max() / np.abs(linear).max()
        assert error < 1.0 * strength


def test_the_scherzer_lens(x64):
    spherical, energy = 1.3e7, 100e3
    defocus = scherzer_defocus(spherical, energy)
    assert defocus == pytest.approx(849.6, abs=0.1)
    resolution = point_resolution(spherical, energy)
    grid = Grid((4, 512), (resolution / 4, resolution / 64))  # 1/resolution is order 8 in x
    chi = aberration_phase(Optics(energy=energy, C10=-defocus, C30=spherical), grid)[0, :20]
    assert abs(chi[8]) < 1e-9
    assert chi[1:8].max() < 0
    assert chi[9:].min() > 0
    assert -0.76 * np.pi < chi.min() < -0.7 * np.pi, "a broad band at -3π/4"
    assert wavelength(energy) == pytest.approx(0.037014, abs=1e-6)
