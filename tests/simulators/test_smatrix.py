"""PRISM against multislice and against abTEM's arrays."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.detectors import Annular
from simulators.grid import Grid
from simulators.imaging import cbed, stem
from simulators.memory import available_memory
from simulators.multislice import multislice
from simulators.optics import Optics, probe
from simulators.potential import project
from simulators.scan import raster
from simulators.smatrix import build_smatrix, exit_waves, smatrix_cbed, smatrix_stem
from simulators.tree import replace
from simulators.windows import probe_width

ENERGY, SEMIANGLE = 100e3, 20.0
GRID = Grid.over((14.0, 18.0), shape=(56, 72))
LENS = Optics(energy=ENERGY, semiangle=SEMIANGLE, C10=-30.0, C12=8.0, phi12=0.3, C21=100.0)
DETECTORS = [Annular(0, 12), Annular(25, 45)]
POSITIONS = np.random.default_rng(8).uniform(-20, 20, (6, 2))


def specimen(depth=9.0):
    rng = np.random.default_rng(6)
    cell = [18.0, 14.0, depth]
    atoms = make_atoms(rng.uniform(0, 1, (12, 3)) * cell, rng.choice([8, 22, 38], 12), cell)
    return project(atoms, GRID, 3.0)


@functools.cache
def matrix(interpolation=(1, 1), tilt=(0.0, 0.0)):
    return build_smatrix(specimen(), ENERGY, SEMIANGLE, interpolation=interpolation, tilt=tilt)


def error(ours, theirs):
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(theirs).max())


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (12.0, -7.0)], ids=["straight", "tilted"])
def test_interpolation_1_is_multislice(tilt):
    optics = replace(LENS, tilt=tilt)
    made = build_smatrix(specimen(), ENERGY, SEMIANGLE, tilt=tilt, downsample="full")
    assert made.window.shape == made.shape == GRID.shape
    wave = exit_waves(made, optics, POSITIONS)
    incident = probe(optics, GRID, POSITIONS)
    assert error(wave, multislice(incident, specimen(), ENERGY, tilt=tilt)) < 4e-6
    patterns = cbed(specimen(), optics, POSITIONS, method="multislice")
    assert error(smatrix_cbed(made, optics, POSITIONS), patterns) < 4e-6
    signal = stem(specimen(), optics, POSITIONS, DETECTORS, method="multislice")
    assert error(smatrix_stem(made, optics, POSITIONS, DETECTORS), signal) < 2e-6
    if tilt != (0.0, 0.0):
        straight = stem(specimen(), LENS, POSITIONS, DETECTORS, method="multislice")
        assert error(straight, signal) > 1e-4, "tilt does something"


def test_interpolation_1_is_multislice_in_float64(x64):
    optics = replace(LENS, tilt=(12.0, -7.0))
    made = build_smatrix(specimen(), ENERGY, SEMIANGLE, tilt=optics.tilt, step="symmetric")
    assert made.waves.dtype == np.complex128
    direct = stem(specimen(), optics, POSITIONS, DETECTORS, method="multislice", step="symmetric")
    assert error(smatrix_stem(made, optics, POSITIONS, DETECTORS), direct) < 1e-12


@pytest.mark.parametrize("f", [(2, 1), (1, 2), (2, 3)])
def test_a_window_is_the_whole_cell_seen_through_it(f):
    """The waves of every f-th beam, summed over the cell, are f copies of the probe."""
    made = matrix(f)
    assert made.shape == (38, 48)  # 2/3 of the grid, raised to its parity
    assert made.window.shape == (made.shape[0] // f[0], made.shape[1] // f[1])
    assert len(made.beams) < len(matrix().beams) / (f[0] * f[1]) * 1.35
    vectors = made.wave_vectors()
    steps = np.array([f[1] / 18.0, f[0] / 14.0])
    np.testing.assert_allclose(vectors / steps, np.rint(vectors / steps), atol=1e-9)
    empty = project(make_atoms(np.ones((1, 3)), [6], [18.0, 14.0, 3.0], occupancy=[0.0]), GRID, 3.0)
    vacuum = build_smatrix(empty, ENERGY, SEMIANGLE, interpolation=f)
    patterns = smatrix_cbed(vacuum, LENS, POSITIONS)
    np.testing.assert_allclose(patterns.sum((1, 2)), 1.0, rtol=2e-5)
    assert error(patterns, np.broadcast_to(patterns[:1], patterns.shape)) < 2e-5, "an even disc"
    wave = np.abs(np.asarray(exit_waves(vacuum, LENS, POSITIONS)))
    peaks = [np.unravel_index(one.argmax(), one.shape) for one in wave]
    for axis in (0, 1):
        if f[axis] > 1:  # the probe stands in the middle of its window
            middle = made.window.shape[axis] // 2
            assert max(abs(int(peak[axis]) - middle) for peak in peaks) <= 3


def test_interpolation_is_close_to_multislice_and_better_when_finer():
    direct = stem(specimen(), LENS, POSITIONS, DETECTORS[:1], method="multislice")
    errors = [
        error(smatrix_stem(matrix(f), LENS, POSITIONS, DETECTORS[:1]), direct)
        for f in ((2, 3), (2, 1), (1, 1))
    ]
    print(f"relative to multislice at (2, 3), (2, 1), (1, 1): {errors}")
    np.testing.assert_allclose(errors[:2], [0.159, 0.062], rtol=0.05)
    assert errors[2] < 2e-6


def test_batches_shapes_and_jit_do_not_matter():
    made = matrix((2, 1))
    where = raster((2, 3), 1.7, origin=(16.0, 12.5))  # across the cell's edge
    image = smatrix_stem(made, LENS, where, DETECTORS)
    assert image.shape == (2, 2, 3)
    flat = smatrix_stem(made, LENS, where.reshape(-1, 2), DETECTORS, batch=4)
    np.testing.assert_allclose(flat.reshape(2, 2, 3), image, rtol=2e-5)
    patterns = smatrix_cbed(made, LENS, where.reshape(-1, 2), batch=4)
    assert patterns.shape == (6, *made.window.shape)
    traced = jax.jit(lambda p: smatrix_stem(made, LENS, p, DETECTORS))(where.astype(np.float32))
    np.testing.assert_allclose(traced, image, rtol=1e-4)
    away = smatrix_stem(made, LENS, where + np.array([18.0, -14.0]), DETECTORS)
    np.testing.assert_allclose(away, image, rtol=2e-5)


def test_gradients_against_finite_differences(x64):
    rng = np.random.default_rng(3)
    direction = jnp.asarray(rng.normal(size=(3, 56, 72)))
    weights, shift = jnp.asarray(rng.normal(size=(2, 3))), jnp.asarray(rng.normal(size=(3, 2)))
    where, potential = POSITIONS[:3] + 0.031, specimen()

    def objective(step, f):
        moved = replace(potential, slices=potential.slices + step[0] * direction)
        made = build_smatrix(moved, ENERGY, 10.0, interpolation=f)
        optics = replace(LENS, semiangle=10.0, C10=-30.0 + 10 * step[1], C12=8.0 + step[1])
        return (
            weights * smatrix_stem(made, optics, where + 0.1 * step[2] * shift, DETECTORS)
        ).sum()

    quick = {"xla_backend_optimization_level": 0}
    for f in ((2, 3), (1, 1)):
        both = jax.value_and_grad(functools.partial(objective, f=f))
        compiled = jax.jit(both, compiler_options=quick)
        gradient = compiled(jnp.zeros(3))[1]
        for i in range(3):
            values = [float(compiled(jnp.zeros(3).at[i].set(1e-4 * h))[0]) for h in (1, -1, 2, -2)]
            numeric = (8 * (values[0] - values[1]) - values[2] + values[3]) / 12e-4
            assert float(gradient[i]) == pytest.approx(numeric, rel=1e-6)


def test_what_is_refused():
    made = matrix((2, 3))
    wide = replace(LENS, C10=-200.0)
    with pytest.raises(ValueError, match=r"folds the probe: it is .* Use interpolation \(1, 1\)"):
        smatrix_stem(made, wide, POSITIONS, DETECTORS)
    assert smatrix_stem(made, wide, POSITIONS, DETECTORS, validate=False).shape == (2, 6)
    smatrix_stem(matrix(), replace(LENS, C10=-200.0), POSITIONS, DETECTORS)  # nothing to fold
    with pytest.raises(ValueError, match="Nyquist angle is"):
        smatrix_stem(made, LENS, POSITIONS, [Annular(30, 49.5)])
    with pytest.raises(ValueError, match=r"computed for energy = 100000.0 but the probe has 80000"):
        smatrix_stem(made, replace(LENS, energy=80e3), POSITIONS, DETECTORS)
    with pytest.raises(ValueError, match="build it with the probe's tilt"):
        smatrix_cbed(made, replace(LENS, tilt=(3.0, 0.0)), POSITIONS)
    with pytest.raises(ValueError, match=r"holds an aperture of 20 mrad but the probe has 22"):
        exit_waves(made, replace(LENS, semiangle=22.0), POSITIONS)
    with pytest.raises(ValueError, match="positions must be"):
        exit_waves(made, LENS, POSITIONS[0])
    with pytest.raises(ValueError, match="whole number from 1"):
        build_smatrix(specimen(), ENERGY, SEMIANGLE, interpolation=(2, 0))
    with pytest.raises(ValueError, match=r"aperture of 60 mrad does not fit"):
        build_smatrix(specimen(), ENERGY, 60.0)
    with pytest.raises(ValueError, match="needs a known energy"):
        build_smatrix(specimen(), jnp.asarray(ENERGY), SEMIANGLE)


def test_a_matrix_beyond_the_machine_is_refused_before_it_starts(monkeypatch):
    import simulators.memory

    assert available_memory() is None or available_memory() > 0
    monkeypatch.setattr(simulators.memory, "available_memory", lambda: 1_000_000)
    with pytest.raises(MemoryError, match=r"use interpolation \(2, 2\), which takes a quarter"):
        build_smatrix(specimen(), ENERGY, SEMIANGLE)


def test_the_width_of_a_probe():
    focused = Optics(energy=ENERGY, semiangle=20.0)
    airy = 1.22 * 0.03701437 / 0.020
    assert probe_width(focused) == pytest.approx((airy, airy), rel=1e-5)
    out = probe_width(replace(focused, C10=150.0))
    assert out == pytest.approx((airy + 6.0, airy + 6.0), rel=0.03)
    x_only = probe_width(replace(focused, C10=75.0, C12=75.0))  # a line focus
    assert x_only[0] == pytest.approx(airy, abs=0.1)
    assert x_only[1] == pytest.approx(airy + 6.0, rel=0.03)


def reference(shared, dtype):
    """(data, potential, optics) of abTEM's GaAs [110] file."""
    with np.load(shared / "data/abtem_refs/dev_prism_gaas110.npz") as stored:
        data = {key: stored[key] for key in stored.files}
    meta = json.loads(str(data.pop("meta")))
    ny, nx = meta["gpts"][::-1]
    grid = Grid.over((data["cell"][1], data["cell"][0]), shape=(ny, nx))
    atoms = make_atoms(data["positions"], data["numbers"], data["cell"])
    potential = project(atoms, grid, meta["slice_thickness"], mode="abtem", dtype=dtype)
    optics = Optics(energy=120e3, semiangle=22.0, C10=-40.0, C12=15.0, phi12=0.4)
    return data, potential, optics, [Annular(*ring) for ring in meta["annular"].values()]


@pytest.mark.parametrize("f", [1, 2])
def test_abtems_numbers(shared, x64, f):
    data, potential, optics, rings = reference(shared, "float64")
    made = build_smatrix(potential, 120e3, 22.0, interpolation=f)
    assert made.shape == tuple(data[f"out_smatrix_gpts{f}"][::-1])
    assert made.window.shape == tuple(data[f"out_window_gpts{f}"][::-1])
    image = smatrix_stem(made, optics, data["scan_positions"], rings)
    for name, ours in zip(("bf", "abf", "haadf"), image, strict=True):
        assert error(ours, data[f"out_prism{f}_{name}"]) < 5e-6
    vectors, theirs = made.wave_vectors(), data[f"out_wave_vectors{f}"]
    order = [int(np.abs(vectors - v).sum(1).argmin()) for v in theirs]
    assert len(set(order)) == len(vectors) == len(theirs)
    np.testing.assert_allclose(vectors[order], theirs, atol=1e-6)
    if f == 2:
        first = np.swapaxes(np.asarray(made.waves)[order[:3]], 1, 2)
        assert error(first, data["out_smatrix2_first3"]) < 5e-6
