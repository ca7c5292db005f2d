"""Engines of ptychography: fixed points, what they recover, and how they are called."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from emjax.retrieval.engines import ENGINES, engine_of, in_turn
from emjax.retrieval.epoch_loop import batches_of
from emjax.retrieval.likelihoods import misfit_of
from emjax.retrieval.ptychography import Unknowns, exit_waves, make_frame, probes, rates, start
from emjax.retrieval.scan_data import make_scan
from emjax.retrieval.wave_pass import backward, cut, detected, forward, on_probe, spread, tangent
from simulators.electron import wavelength
from simulators.optics import Optics
from simulators.tree import replace

N, SAMPLING, ENERGY, DOSE = 32, 0.3, 80e3, 9000.0
BATCH = 6
OPTICS = Optics(energy=ENERGY, semiangle=22.0, C10=60.0)
KEY = jax.random.key(3)
PROJECTING = [name for name in ENGINES if name != "gradient"]


@functools.cache
def _truth(slices=1, modes=1, noise=True):
    """One size for all tests: every engine is compiled once for each number of slices."""
    side = 5
    y, x = 0.8 * np.mgrid[:side, :side]
    positions = np.stack([x.ravel(), y.ravel()], axis=1) + 0.07
    positions += np.random.default_rng(5).uniform(-0.1, 0.1, positions.shape)
    blank = np.full((side**2, N, N), DOSE / N**2, np.float32)
    angle = 1e3 * wavelength(ENERGY) / (N * SAMPLING)
    data = make_scan(blank, positions, energy=ENERGY, angle_step=angle, centred=False)
    frame = make_frame(data, OPTICS)
    first = start(data, frame, OPTICS, slices=slices, thickness=8.0 * slices, modes=modes)
    ny, nx = frame.shape
    y, x = np.mgrid[:ny, :nx]
    waves = [
        np.sin(2 * np.pi * (x / (7 + s) + y / (9 - s))) * np.cos(2 * np.pi * y / (8 + 2 * s))
        for s in range(slices)
    ]
    phase = 0.6 * np.stack(waves)
    pair = np.stack([np.cos(phase), np.sin(phase)])
    known = replace(first, transmission=jnp.asarray(pair, jnp.float32))
    counts = np.asarray(jax.jit(rates)(known, frame, jnp.asarray(data.positions)))
    if noise:
        counts = np.random.default_rng(1).poisson(counts).astype(np.float32)
    return replace(data, counts=counts), frame, first, known, phase


def _far(a, b):
    return float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel()))


def _agreement(found, frame, phase):
    """Correlation of the phases of all slices together, where the scan is."""
    inner = tuple(slice(n // 2 - 6, n // 2 + 6) for n in frame.shape)
    images = (found.phase().sum(0), phase.sum(0))
    true, got = (gaussian_filter(image, 1)[inner].ravel() for image in images)
    return np.corrcoef(true, got)[0, 1]


@pytest.mark.parametrize("slices", [1, 2])
def test_waves_forward_backward_and_tangent(slices):
    data, frame, _, known, _ = _truth(slices, slices)
    positions = jnp.asarray(data.positions[:4])

    @jax.jit
    def run(key):
        waves = forward(known, frame, positions)
        keys = jax.random.split(key, 3)
        residual = jax.random.normal(keys[0], waves.exit.shape, jnp.complex64)
        change = jax.random.normal(keys[1], known.transmission.shape[1:], jnp.complex64)
        probe = jax.random.normal(keys[2], known.probe.shape)
        patches = cut(change, waves.corner, frame.grid.shape)
        moved = probes(replace(known, probe=probe), frame, waves.offset)
        behind, at_probe = backward(waves, residual)
        pull = spread((jnp.conj(waves.incident) * behind).sum(2), waves.corner, frame.shape)
        forwards = [tangent(waves, patches, None), tangent(waves, None, moved)]
        left = [jnp.vdot(f, residual).real for f in forwards]
        right = [
            jnp.vdot(change, pull).real,
            (probe * on_probe(known, frame, waves.offset, at_probe)).sum(),
        ]
        return waves.exit, left, right

    wave, left, right = run(KEY)
    assert _far(wave, jax.jit(exit_waves)(known, frame, positions)) < 1e-6
    print(slices, [float(v) for v in left], [float(v) for v in right])
    np.testing.assert_allclose(left, right, rtol=1e-4)


def test_the_residual_is_the_projection_on_the_counts():
    data, frame, _, known, _ = _truth()
    wave = jax.jit(exit_waves)(known, frame, jnp.asarray(data.positions[:2]))
    counts = jnp.asarray(data.counts[:2])
    value, residual = detected(wave, counts, jnp.ones((2, N, N)), misfit_of("amplitude"))
    spectrum = jnp.fft.fft2(wave + residual, norm="ortho")[:, 0]
    bright = jnp.abs(jnp.fft.fft2(wave, norm="ortho"))[:, 0] ** 2 > 0.1
    np.testing.assert_allclose(jnp.abs(spectrum)[bright] ** 2, counts[bright], atol=0.3)
    dark, none = detected(wave, counts, jnp.zeros((2, N, N)), misfit_of("amplitude"))
    assert float(value) > 0
    assert float(dark) == 0.0
    np.testing.assert_array_equal(none, 0)


CASES = [(name, 1) for name in PROJECTING] + [("epie", 2), ("lsqml", 2)]


@pytest.mark.parametrize(("name", "slices"), CASES)
def test_the_truth_without_noise_stays(name, slices):
    data, frame, _, known, _ = _truth(slices, slices, noise=False)
    settings = {"probe_from": 0} if name in ("dm", "raar") else {}
    free = Unknowns(True, True, name == "lsqml", False, False)
    if name == "lsqml":
        settings["shifts_from"] = 0
    found, _ = ENGINES[name](data, frame, known, KEY, epochs=2, batch=BATCH, free=free, **settings)
    far = {f.name: _far(getattr(found, f.name), getattr(known, f.name)) for f in FITTED}
    print(name, slices, far, float(jnp.abs(found.shifts).max()))
    assert max(far.values()) < 2e-3
    assert float(jnp.abs(found.shifts).max()) < 2e-3


FITTED = [f for f in dataclasses.fields(Unknowns) if f.name in ("transmission", "probe")]
EPOCHS = {"epie": 20, "rpie": 20, "lsqml": 12, "dm": 30, "raar": 30}


@pytest.mark.parametrize("name", PROJECTING)
def test_recovers_an_object(name):
    data, frame, first, known, phase = _truth()
    wrong = replace(first, probe=first.probe * 0.9)  # the probe's strength is found too
    found, history = ENGINES[name](data, frame, wrong, KEY, epochs=EPOCHS[name], batch=BATCH)
    r = _agreement(found, frame, phase)
    strength = float(jnp.linalg.norm(found.probe) / jnp.linalg.norm(known.probe))
    print(f"{name}: r = {r:.4f}, misfit {history.misfit[0]:.4f} to {history.misfit[-1]:.4f}")
    print(f"   probe {strength:.3f} of the truth, {np.mean(history.seconds[1:]):.3f} s an epoch")
    assert r > 0.96
    assert history.misfit[-1] < 0.3 * history.misfit[0]
    np.testing.assert_array_equal(found.shifts, 0)


@pytest.mark.parametrize("name", ["epie", "lsqml"])
def test_several_slices_and_modes(name):
    data, frame, first, _, phase = _truth(2, 2)
    data = replace(data, counts=data.counts.astype(np.uint16))
    found, history = ENGINES[name](data, frame, first, KEY, epochs=20, batch=BATCH)
    r = _agreement(found, frame, phase)
    print(f"{name}, two slices, two modes: r = {r:.4f}, {history.misfit[0]} {history.misfit[-1]}")
    assert r > 0.93
    assert history.misfit[-1] < 0.4 * history.misfit[0]


def test_rpie_with_alpha_one_is_epie():
    data, frame, first, _, _ = _truth()
    made = [
        ENGINES[name](data, frame, first, KEY, epochs=2, batch=BATCH, **settings)[0]
        for name, settings in (("epie", {}), ("rpie", {"alpha": 1.0}), ("rpie", {}))
    ]
    np.testing.assert_array_equal(made[0].transmission, made[1].transmission)
    np.testing.assert_array_equal(made[0].probe, made[1].probe)
    assert _far(made[2].transmission, made[0].transmission) > 1e-2


def test_lsqml_finds_positions():
    data, frame, first, _, _ = _truth()
    wrong = 0.08 * jax.random.normal(jax.random.key(2), data.positions.shape)
    moved = replace(data, positions=data.positions + np.asarray(wrong))
    free = Unknowns(True, True, True, False, False)
    found, _ = ENGINES["lsqml"](moved, frame, first, KEY, epochs=30, batch=BATCH, free=free)
    left = np.asarray(found.shifts + wrong)
    left = float(np.std(left - left.mean(0)))
    print(f"positions wrong by {float(wrong.std()):.3f} Å, now {left:.3f} Å")
    assert left < 0.5 * float(wrong.std())


def test_what_is_not_free_stays_and_batches_do_not_matter_to_projections():
    data, frame, first, _, _ = _truth()
    only_object = Unknowns(True, False, False, False, False)
    for name in PROJECTING:
        found, _ = ENGINES[name](data, frame, first, KEY, epochs=1, batch=BATCH, free=only_object)
        np.testing.assert_array_equal(found.probe, first.probe)
        assert _far(found.transmission, first.transmission) > 1e-2
    made = [
        ENGINES["dm"](data, frame, first, epochs=3, batch=b, probe_from=0)[0].transmission
        for b in (BATCH, 25)
    ]
    assert _far(*made) < 1e-4
    index, real = batches_of(jnp.arange(7), 5)
    assert real.sum() == 7
    np.testing.assert_array_equal(index[1], [5, 6, 0, 1, 2])


def test_engines_one_after_the_other():
    data, frame, first, _, _ = _truth()
    seen = []

    def watch(epoch, unknowns, history):
        seen.append((epoch, len(history.misfit)))
        return epoch == 2

    stages = [("lsqml", {"epochs": 2, "batch": BATCH}), ("gradient", {"epochs": 3, "batch": BATCH})]
    found, history = in_turn(data, frame, first, KEY, stages, watch=watch)
    assert seen == [(0, 1), (1, 2), (2, 3)]
    assert len(history.misfit) == len(history.seconds) == 3
    assert _far(found.transmission, first.transmission) > 1e-2


def test_what_engines_refuse():
    data, frame, first, known, _ = _truth(2, 2)
    with pytest.raises(ValueError, match="choose epie"):
        engine_of("epi")
    assert engine_of(ENGINES["dm"]) is ENGINES["dm"]
    everything = Unknowns(True, True, True, True, True)
    with pytest.raises(ValueError, match="not spacing and tilt"):
        ENGINES["lsqml"](data, frame, first, KEY, free=everything)
    for name in ("dm", "raar"):
        with pytest.raises(ValueError, match="single slice"):
            ENGINES[name](data, frame, known, KEY)
    with pytest.raises(ValueError, match="alpha"):
        ENGINES["rpie"](data, frame, first, KEY, alpha=0.0)
    with pytest.raises(ValueError, match="beta"):
        ENGINES["raar"](data, frame, first, KEY, beta=2.0)
    broken = replace(data, counts=np.full_like(data.counts, np.nan))
    with pytest.raises(FloatingPointError, match="epoch 1"):
        ENGINES["epie"](broken, frame, first, KEY, batch=BATCH)
