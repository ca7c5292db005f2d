"""Ptychography: the forward model against multislice, its gradients, and what a fit recovers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from emjax.retrieval.gradient import Rates, reconstruct, with_shifts
from emjax.retrieval.likelihoods import LIKELIHOODS, misfit_of, readout
from emjax.retrieval.ptychography import Unknowns, make_frame, rates, start
from emjax.retrieval.scan_data import ScanError, make_scan
from simulators.electron import interaction_constant
from simulators.multislice import multislice
from simulators.optics import Optics, probe
from simulators.potential import Potential
from simulators.tree import replace

N, SAMPLING, ENERGY, DOSE = 32, 0.3, 80e3, 9000.0
OPTICS = Optics(energy=ENERGY, semiangle=22.0, C10=60.0)


def _scan(side=5, step=0.8, counts=None):
    from simulators.electron import wavelength

    y, x = np.mgrid[:side, :side] * step
    positions = np.stack([x.ravel(), y.ravel()], axis=1) + 0.07
    if counts is None:
        counts = np.full((side**2, N, N), DOSE / N**2, np.float32)
    angle = 1e3 * wavelength(ENERGY) / (N * SAMPLING)
    return make_scan(counts, positions, energy=ENERGY, angle_step=angle, centred=False)


def _object(frame, slices=1, size=0.6):
    ny, nx = frame.shape
    y, x = np.mgrid[:ny, :nx]
    waves = [
        np.sin(2 * np.pi * (x / (7 + s) + y / (9 - s))) * np.cos(2 * np.pi * y / (8 + 2 * s))
        for s in range(slices)
    ]
    return size * np.stack(waves)


def _truth(slices=1, **changes):
    data = _scan(**changes)
    frame = make_frame(data, OPTICS)
    found = start(data, frame, OPTICS, slices=slices, thickness=8.0 * slices)
    t = np.exp(1j * _object(frame, slices))
    known = replace(found, transmission=jnp.asarray(np.stack([t.real, t.imag]), jnp.float32))
    return data, frame, known


@pytest.mark.parametrize("slices", [1, 3])
def test_rates_are_those_of_multislice(slices):
    data, frame, unknowns = _truth(slices)
    tilt = jnp.asarray([3.0, -5.0])
    unknowns = replace(unknowns, tilt=tilt)
    positions = jnp.asarray(data.positions[[0, 7, 23]])
    found = np.asarray(rates(unknowns, frame, positions))
    for position, pattern in zip(np.asarray(positions, float), found, strict=True):
        pixel = position[::-1] / SAMPLING - np.array(frame.origin)
        corner = np.floor(pixel).astype(int) - N // 2
        cut = _object(frame, slices)[:, corner[0] :][:, :N, corner[1] :][:, :, :N]
        slabs = np.full(slices, 8.0, np.float32)
        potential = Potential(
            jnp.asarray(cut / interaction_constant(ENERGY), jnp.float32), slabs, frame.grid
        )
        place = (pixel - corner)[::-1] * SAMPLING
        wave = probe(OPTICS, frame.grid, place[None])[0]
        wave = multislice(wave, potential, ENERGY, tilt=tilt, bandlimit=False)
        expected = np.abs(np.fft.fft2(wave)) ** 2 * DOSE
        difference = np.linalg.norm(pattern - expected) / np.linalg.norm(expected)
        print(f"{slices} slices: relative difference {difference:.1e}")
        assert difference < 2e-6  # the propagator behind the last slice only turns phases


def test_a_phase_object_loses_no_electrons():
    data, frame, unknowns = _truth(2)
    total = np.asarray(rates(unknowns, frame, jnp.asarray(data.positions))).sum((1, 2))
    np.testing.assert_allclose(total, DOSE, rtol=1e-4)
    modes = start(data, frame, OPTICS, modes=3)
    assert modes.probe.shape[:2] == (2, 3)
    total = np.asarray(rates(modes, frame, jnp.asarray(data.positions[:2]))).sum((1, 2))
    np.testing.assert_allclose(total, DOSE, rtol=1e-4)


def test_gradient_of_every_leaf():
    data, frame, truth = _truth(2, side=2)
    positions = jnp.asarray(data.positions)
    counts = rates(truth, frame, positions)
    rng = np.random.default_rng(0)
    sizes = Unknowns(0.05, 0.3, 0.05, 1.0, 3.0)
    here = jax.tree.map(lambda u, s: u + s * rng.normal(size=u.shape), truth, sizes)

    def loss(u):
        found = rates(u, frame, positions + u.shifts)
        return misfit_of("anscombe")(found, counts).mean()

    value, slope = jax.jit(jax.value_and_grad(loss))(here)
    assert value > 0.01
    run = jax.jit(loss)
    for field in dataclasses.fields(here):
        name = field.name
        way = np.asarray(getattr(slope, name))
        way = way / np.linalg.norm(way)
        expected = float((np.asarray(getattr(slope, name)) * way).sum())
        h = 0.02 * float(getattr(sizes, name)) * np.sqrt(way.size)
        up, down = (
            run(replace(here, **{name: getattr(here, name) + sign * h * way})) for sign in (1, -1)
        )
        found = float(up - down) / (2 * h)
        print(f"{name}: gradient {expected:.4g}, difference quotient {found:.4g}")
        assert abs(found - expected) < 0.03 * abs(expected), name


def test_a_fit_recovers_object_probe_and_positions():
    data, frame, truth = _truth(side=7, step=0.7)
    key = jax.random.key(1)
    wrong = 0.08 * jax.random.normal(jax.random.key(2), data.positions.shape)
    moved = replace(data, positions=np.asarray(data.positions + wrong))
    rate = rates(truth, frame, jnp.asarray(moved.positions))
    counts = np.asarray(jax.random.poisson(key, rate)).astype(np.uint16)
    data = replace(data, counts=counts)
    unknowns = start(data, frame, OPTICS)
    free = Unknowns(True, True, True, False, False)
    found, history = reconstruct(
        data, frame, unknowns, key, epochs=40, batch=12, free=free, learning=Rates(shifts=1e-2)
    )
    assert history.misfit[-1] < history.misfit[0]
    inner = (slice(None), *(slice(n // 2 - 6, n // 2 + 6) for n in frame.shape))
    smooth = [gaussian_filter(image, (0, 1, 1)) for image in (_object(frame), found.phase())]
    true, got = (image[inner] for image in smooth)
    r = np.corrcoef(true.ravel(), got.ravel())[0, 1]
    left = with_shifts(data, found).positions - moved.positions
    left = np.std(left - left.mean(0))
    print(f"phase r = {r:.4f}; positions wrong by {float(wrong.std()):.3f} Å, now {left:.3f} Å")
    assert r > 0.98
    assert left < 0.5 * float(wrong.std())
    np.testing.assert_array_equal(found.tilt, 0)


def test_a_batch_that_is_filled_up_counts_nothing_twice():
    data, frame, unknowns = _truth(side=3)
    history = [
        reconstruct(data, frame, unknowns, jax.random.key(0), epochs=1, batch=b, learning=still)[1]
        for b in (9, 4)
        for still in [Rates(0, 0, 0, 0, 0)]
    ]
    np.testing.assert_allclose(history[0].misfit, history[1].misfit, rtol=1e-5)


def test_likelihoods_are_best_at_the_truth():
    rate = jnp.linspace(3.0, 60.0, 20)
    for misfit in (*LIKELIHOODS.values(), readout(0.5)):
        slope = jax.grad(lambda r, m=misfit: m(r, rate).sum())(rate)
        print(misfit.__name__, float(jnp.abs(slope).max()))
        assert float(jnp.abs(slope).max()) < 0.2  # of the curvature's 1 / rate per electron
    with pytest.raises(ValueError, match="choose poisson"):
        misfit_of("poison")


def test_scans_that_cannot_be():
    good = np.ones((4, 8, 8))
    at = np.zeros((4, 2))
    told = {"energy": 80e3, "angle_step": 1.0}
    assert make_scan(good, at, **told).counts.dtype == np.uint16
    assert make_scan(0.5 * good, at, **told).counts.dtype == np.float32
    for patterns, positions, more, message in [
        (-good, at, {}, "negative values"),
        (0 * good, at, {}, "no electrons"),
        (good, at[:3], {}, "one \\(x, y\\)"),
        (good, at + np.nan, {}, "not finite"),
        (good[0], at, {}, "shape"),
        (good, at, {"mask": np.ones((3, 3))}, "mask"),
        (good, at, {"angle_step": 0.0}, "positive"),
    ]:
        with pytest.raises(ScanError, match=message):
            make_scan(patterns, positions, **{**told, **more})
    broken = good.copy()
    broken[2, 3, 3] = np.nan
    with pytest.warns(UserWarning, match="masked"):
        data = make_scan(broken, at, **told)
    assert data.mask is not None
    assert data.mask.sum() == 63
    with pytest.raises(ScanError, match="pixels of the detector"):
        make_frame(_scan(), Optics(energy=ENERGY, semiangle=80.0))
