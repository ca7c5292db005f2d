"""Every engine: one signature, and the limit in which it is exact."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.engines import ENGINES, born, exit_wave, multislice_reversed, phase_object
from simulators.grid import Grid
from simulators.multislice import multislice
from simulators.optics import Optics, plane_wave, probe
from simulators.potential import Potential
from simulators.tree import replace

GRID = Grid((20, 24), (0.25, 0.2))
ENERGY = 80e3


def specimen(strength: float = 100.0, nz: int = 4, depth: float = 1.0, factor: int = 1):
    rng = np.random.default_rng(2)
    slices = rng.uniform(0, strength, (nz, GRID.shape[0] * factor, GRID.shape[1] * factor))
    return Potential(
        jnp.asarray(slices), depth * np.array([2.0, 1.0, 3.0, 1.5][:nz]), GRID, oversample=factor
    )


def illumination():
    return probe(Optics(energy=ENERGY, semiangle=20.0, C10=20.0), GRID, np.array([[1.0, 2.2]]))


@pytest.mark.parametrize("name", list(ENGINES))
def test_one_signature(name, x64):
    parameters = inspect.signature(ENGINES[name]).parameters
    assert list(parameters) == list(inspect.signature(multislice).parameters)
    wave = illumination()
    options = {"engine": name, "tilt": (2.0, -1.0), "step": "symmetric", "order": 2}
    series = exit_wave(wave, specimen(), ENERGY, planes=(3, -1, 1), **options)
    assert series.shape == (3, 1, *GRID.shape)
    single = exit_wave(wave, specimen(), ENERGY, **options)
    last = 1 if name == "multislice_reversed" else 0  # it arrives above the first slice
    np.testing.assert_allclose(series[last], single, atol=1e-13)
    fine = exit_wave(wave, specimen(factor=2), ENERGY, engine=name)
    assert fine.shape == wave.shape
    with pytest.raises(ValueError, match="pixels"):
        exit_wave(wave[..., 1:], specimen(), ENERGY, engine=name)
    with pytest.raises(ValueError, match="planes must be"):
        exit_wave(wave, specimen(), ENERGY, engine=name, planes=(4,))


def test_an_engine_that_does_not_exist():
    with pytest.raises(ValueError, match="unknown engine 'bloch': choose one of multislice, "):
        exit_wave(plane_wave(GRID), specimen(), ENERGY, engine="bloch")


@pytest.mark.parametrize("step", ["first", "symmetric"])
@pytest.mark.parametrize("bandlimit", [True, False])
@pytest.mark.parametrize("factor", [1, 2])
def test_born_is_the_first_derivative_of_multislice(step, bandlimit, factor, x64):
    potential, wave = specimen(factor=factor), illumination()
    options = {"tilt": (3.0, 1.0), "step": step, "bandlimit": bandlimit, "order": 2}

    def scaled(strength):
        one = replace(potential, slices=potential.slices * strength)
        return multislice(wave, one, ENERGY, **options)

    unscattered, slope = jax.jvp(scaled, (0.0,), (1.0,))
    result = born(wave, potential, ENERGY, **options)
    np.testing.assert_allclose(result, unscattered + slope, atol=1e-13)


def test_a_specimen_without_depth_is_a_phase_object(x64):
    wave, flat = illumination(), specimen(depth=0.0)
    whole = multislice(wave, flat, ENERGY, bandlimit=False)
    np.testing.assert_allclose(phase_object(wave, flat, ENERGY, bandlimit=False), whole, atol=1e-14)
    weak = exit_wave(wave, flat, ENERGY, engine="weak_phase", bandlimit=False)
    np.testing.assert_allclose(weak, born(wave, flat, ENERGY, bandlimit=False), atol=1e-14)


def test_how_the_errors_grow(x64):
    wave = plane_wave(GRID)

    def error(name, strength, depth):
        potential = specimen(strength, depth=depth)
        exact = multislice(wave, potential, ENERGY, bandlimit=False)
        made = exit_wave(wave, potential, ENERGY, engine=name, bandlimit=False)
        return float(jnp.linalg.norm(made - exact))

    # the phase object: linear in the depth; weak phase and Born: with the square of the potential
    assert error("phase_object", 1.0, 2e-4) / error("phase_object", 1.0, 1e-4) == pytest.approx(
        2, rel=0.01
    )
    for name, depth in (("born", 1.0), ("weak_phase", 0.0)):
        ratio = error(name, 2e-1, depth) / error(name, 1e-1, depth)
        assert ratio == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("step", ["first", "symmetric"])
def test_a_tilted_phase_object_is_multislice_without_diffraction(step, x64):
    # at a high energy λ goes to 0 while tan(tilt) stays: only the displacement is left
    smooth = np.fft.ifft2(
        np.fft.fft2(np.asarray(specimen().slices)) * (GRID.k2() < 1.0)
    ).real  # fields that a shift does not alias
    potential = replace(specimen(), slices=jnp.asarray(smooth * 0.1))
    options = {"tilt": (60.0, -40.0), "step": step, "bandlimit": False}
    wave = illumination()
    straight, tilted = [], []
    for energy in (1e6, 9e6):
        exact = multislice(wave, potential, energy, **options)
        upright = phase_object(wave, potential, energy, bandlimit=False)
        along = phase_object(wave, potential, energy, **options)
        straight.append(float(jnp.linalg.norm(upright - exact) / jnp.linalg.norm(exact)))
        tilted.append(float(jnp.linalg.norm(along - exact) / jnp.linalg.norm(exact)))
    assert tilted[1] < 0.25 * tilted[0]
    assert tilted[1] < 0.1 * straight[1]


@pytest.mark.parametrize("step", ["first", "symmetric"])
def test_the_reversed_engine_is_the_adjoint_and_without_band_limit_the_inverse(step, x64):
    potential, wave = specimen(), illumination()
    options = {"tilt": (4.0, -3.0), "step": step, "order": 2}
    rng = np.random.default_rng(9)
    other = jnp.asarray(rng.normal(size=wave.shape) + 1j * rng.normal(size=wave.shape))
    down = multislice(wave, potential, ENERGY, **options)
    up = multislice_reversed(other, potential, ENERGY, **options)
    assert complex(jnp.vdot(other, down)) == pytest.approx(complex(jnp.vdot(up, wave)), rel=1e-12)
    planes = (-1, 0, 2, 3)
    series = multislice(wave, potential, ENERGY, planes=planes, bandlimit=False, **options)
    back = multislice_reversed(
        series[-1], potential, ENERGY, planes=planes, bandlimit=False, **options
    )
    np.testing.assert_allclose(back, series, atol=1e-13)


def test_engines_in_float32_and_under_jit():
    potential = specimen()
    potential = replace(potential, slices=jnp.asarray(potential.slices, jnp.float32))
    for name in ENGINES:
        run = jax.jit(lambda p, n=name: exit_wave(plane_wave(GRID), p, ENERGY, engine=n))
        wave = run(potential)
        assert wave.dtype == jnp.complex64
        plain = exit_wave(plane_wave(GRID), potential, ENERGY, engine=name)
        np.testing.assert_allclose(wave, plain, atol=1e-5)
