"""Beam tilt and specimen tilt: signs and equivalence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.grid import Grid
from simulators.multislice import multislice
from simulators.optics import plane_wave
from simulators.potential import project
from simulators.tilt import beam_tilt_for, bragg_tilt, leaning, rotated

ENERGY = 200e3
CELL = (10.0, 9.0, 40.0)


def columns(sigma: float = 0.25):
    z = np.arange(0.5, 40.0, 1.0)
    at = np.repeat([[4.0, 4.0], [6.0, 5.0]], len(z), axis=0)
    positions = np.column_stack([at, np.tile(z, 2)])
    return make_atoms(positions, [14] * len(positions), CELL, sigma=np.full(len(positions), sigma))


def exit_spectrum(atoms, tilt=(0.0, 0.0)):
    grid = Grid.over((9.0, 10.0), shape=(60, 64))
    potential = project(atoms, grid, 1.0)
    options = {"bandlimit": False, "step": "symmetric", "tilt": tilt}
    wave = multislice(plane_wave(grid), potential, ENERGY, **options)
    return np.fft.fft2(np.asarray(wave)), grid


def test_a_leaning_specimen_is_a_tilted_beam_of_the_opposite_sign(x64):
    tilt = (12.0, -7.0)
    leaned, grid = exit_spectrum(leaning(columns(), tilt))
    upright, _ = exit_spectrum(columns(), beam_tilt_for(tilt))
    ky, kx = grid.frequencies()
    shift = 40.0 * np.tan(np.array(tilt) * 1e-3)
    ramp = np.exp(-2j * np.pi * (kx[None] * shift[0] + ky[:, None] * shift[1]))
    scattered = np.linalg.norm(upright * (grid.k2() > 0))

    def distance(wave):
        return np.linalg.norm(wave - leaned) / scattered

    print(distance(upright * ramp))
    assert distance(upright * ramp) < 1e-4
    wrong, _ = exit_spectrum(columns(), tilt)
    assert distance(wrong * ramp) > 0.1


def test_rigid_rotation_leans_columns_the_same_way(x64):
    atoms = columns()
    tilt = (20.0, -10.0)
    turned, sheared = rotated(atoms, tilt), leaning(atoms, tilt)
    middle = np.array(CELL) / 2
    offset = middle[2] * np.tan(np.array(tilt) * 1e-3)
    difference = turned.positions[:, :2] - (sheared.positions[:, :2] - offset)
    assert np.abs(difference).max() < 2e-3, "second order in the angle"
    before = np.linalg.norm(atoms.positions - atoms.positions[3], axis=1)
    after = np.linalg.norm(turned.positions - turned.positions[3], axis=1)
    np.testing.assert_allclose(after, before, atol=1e-12)
    back = rotated(turned, tilt=(0.0, 0.0))
    np.testing.assert_allclose(back.positions, turned.positions, atol=1e-12)
    # intensities of the diffraction pattern do not know where the specimen ends
    rigid, _ = exit_spectrum(turned)
    tilted, grid = exit_spectrum(atoms, beam_tilt_for(tilt))
    difference = np.abs(rigid) ** 2 - np.abs(tilted) ** 2
    beams = grid.k2() > 0
    assert np.abs(difference[beams]).max() < 0.02 * (np.abs(tilted[beams]) ** 2).max()


def test_the_bragg_tilt_is_half_the_way_against_g():
    x, y = bragg_tilt((0.5, -0.2), ENERGY)
    assert x < 0 < y
    lam = 0.0250793
    assert (np.tan(x * 1e-3) + lam * 0.25) == pytest.approx(0, abs=1e-7)
    assert (np.tan(y * 1e-3) - lam * 0.1) == pytest.approx(0, abs=1e-7)


def test_tilts_that_cannot_be():
    with pytest.raises(ValueError, match="200 mrad"):
        leaning(columns(), (300.0, 0.0))
    with pytest.raises(ValueError, match=r"\d+ of 80 atoms leave the cell of 10"):
        rotated(columns(), (400.0, 0.0))


def test_traced_tilts(x64):
    atoms = columns()

    def spread(angle):
        return (rotated(atoms, (angle, 0.0)).positions[:, 0] ** 2).sum() + (
            leaning(atoms, (angle, 0.0)).positions[:, 0] ** 2
        ).sum()

    slope = jax.grad(spread)(jnp.asarray(5.0))
    numeric = (spread(5.001) - spread(4.999)) / 0.002
    assert float(slope) == pytest.approx(float(numeric), rel=1e-6)
