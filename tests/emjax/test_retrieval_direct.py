"""Direct methods on thin phase objects: single sideband, Wigner, parallax, centre of mass."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from emjax.retrieval.centre_of_mass import bright_field, icom, raster_of
from emjax.retrieval.direct import ssb, wdd
from emjax.retrieval.parallax import lens_of, parallax, turned
from emjax.retrieval.ptychography import make_frame, rates, start
from emjax.retrieval.scan_data import ScanData, ScanError, make_scan
from simulators.electron import wavelength
from simulators.optics import Optics
from simulators.tree import replace

N, SAMPLING, ENERGY = 32, 0.3, 80e3
WINDOW = N * SAMPLING
ANGLE = 1e3 * wavelength(ENERGY) / WINDOW


def _optics(**aberrations):
    return Optics(energy=ENERGY, semiangle=22.0, **aberrations)


def _waves(seed=0, reach=0.75):
    """Frequencies (x, y) in 1/Å with the period of the window, amplitudes and phases."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 2), -1).reshape(-1, 2)
    index = index[(index[:, 1] > 0) | ((index[:, 1] == 0) & (index[:, 0] > 0))]
    q = index / WINDOW
    q = q[np.linalg.norm(q, axis=1) < reach]
    return q, rng.normal(size=len(q)), rng.uniform(0, 2 * np.pi, len(q))


def _phase(y, x, size, waves):
    """A periodic object at (y, x) in Å with standard deviation `size`."""
    total = sum(
        a * np.cos(2 * np.pi * (q[0] * x + q[1] * y) + p) for q, a, p in zip(*waves, strict=True)
    )
    return size * total / np.sqrt(np.square(waves[1]).sum() / 2)


def _scan(
    optics, size, *, side=16, absorb=0.0, waves=None, dose=1.0
) -> tuple[ScanData, np.ndarray]:
    """A periodic scan over the window, and the object's phase at its points."""
    waves = waves or _waves()
    step = WINDOW / side
    y, x = np.mgrid[:side, :side] * step
    at = np.stack([x.ravel(), y.ravel()], 1)
    blank = np.full((len(at), N, N), dose / N**2, np.float32)
    data = make_scan(blank, at, energy=ENERGY, angle_step=ANGLE, centred=False)
    frame = make_frame(data, optics)
    py, px = (
        (np.arange(n) + o)[:, None] * SAMPLING
        for n, o in zip(frame.shape, frame.origin, strict=True)
    )
    phase = _phase(py, px.T, size, waves)
    t = np.exp(1j * phase - absorb * _phase(py, px.T, size, _waves(5)))
    unknowns = replace(
        start(data, frame, optics),
        transmission=jnp.asarray(np.stack([t.real, t.imag])[:, None], jnp.float32),
    )
    counts = rates(unknowns, frame, jnp.asarray(data.positions))
    return replace(data, counts=np.asarray(counts)), _phase(y, x, size, waves)


def _error(found, true):
    found, true = found - found.mean(), true - true.mean()
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def _r(found, true):
    return float(np.corrcoef(np.ravel(found), np.ravel(true))[0, 1])


LENSES = [{}, {"C10": 80.0}, {"C10": -60.0, "C12": 30.0, "phi12": 0.4, "C21": 3e3, "phi21": 1.0}]


@pytest.mark.parametrize("lens", LENSES)
def test_ssb_is_exact_for_a_weak_phase(lens):
    optics = _optics(**lens)
    data, true = _scan(optics, 2e-3)
    found = ssb(data, optics, floor=1e-6, periodic=True)
    error = _error(found, true)
    print(f"{lens}: relative error {error:.1e}")
    assert error < 5e-3
    wrong = ssb(data, _optics(C10=lens.get("C10", 0.0) + 120.0), floor=1e-6, periodic=True)
    assert _error(wrong, true) > 0.1


def test_ssb_separates_a_weak_absorption():
    optics = _optics(C10=80.0)
    data, true = _scan(optics, 2e-3, absorb=0.5)
    found = ssb(data, optics, floor=1e-6, periodic=True, absorption=True)
    y, x = np.mgrid[:16, :16] * WINDOW / 16
    lost = -0.5 * _phase(y, x, 2e-3, _waves(5))
    errors = _error(found.imag, true), _error(found.real, lost)
    print("relative errors of phase and absorption: {:.1e} {:.1e}".format(*errors))
    assert max(errors) < 0.03
    assert _error(ssb(data, optics, floor=1e-6, periodic=True), true) > errors[0]


def test_ssb_beyond_the_frequencies_of_the_scan():
    optics = _optics(C10=150.0)
    data, _ = _scan(optics, 2e-3, side=8)
    y, x = np.mgrid[:16, :16] * WINDOW / 16
    true = _phase(y, x, 2e-3, _waves())
    r = _r(ssb(data, optics, upsample=2, periodic=True), true)
    coarse = np.kron(ssb(data, optics, periodic=True), np.ones((2, 2)))
    print(f"twice as fine: r = {r:.4f}, as coarse as the scan {_r(coarse, true):.4f}")
    assert r > 0.95
    assert r > _r(coarse, true) + 0.1


def test_wdd_needs_no_weak_object():
    optics = _optics(C10=40.0)
    weak, true = _scan(optics, 2e-3)
    found = wdd(weak, optics, floor=1e-6, limit=60.0, periodic=True)
    error = _error(np.angle(found), true)
    print(f"weak: relative error {error:.3f}")
    assert error < 0.1
    strong, true = _scan(optics, 0.6)
    found = np.angle(wdd(strong, optics, floor=1e-4, limit=60.0, periodic=True))
    linear = ssb(strong, optics, periodic=True)
    print(f"0.6 rad: error of wdd {_error(found, true):.3f}, of ssb {_error(linear, true):.3f}")
    assert _error(found, true) < 0.18
    assert _error(found, true) < 0.6 * _error(linear, true)


def test_icom_is_the_phase_seen_by_the_probe():
    optics = _optics()
    data, true = _scan(optics, 0.3)
    found = icom(data, (16, 16), periodic=True)
    r = _r(found, true)
    print(f"iCOM: r = {r:.4f}")
    assert r > 0.85
    assert found.min() == 0
    # turned and mirrored detectors are put right by the two arguments
    turned_data = replace(data, counts=np.swapaxes(data.counts, 1, 2))
    again = icom(turned_data, rotation=-np.pi / 2, flip=True, periodic=True)
    np.testing.assert_allclose(again, found, atol=2e-3 * np.ptp(found))


def test_parallax_aligns_and_upsamples():
    optics = _optics(C10=150.0)
    data, _ = _scan(optics, 0.1, side=8)
    y, x = np.mgrid[:16, :16] * WINDOW / 16
    true = _phase(y, x, 0.1, _waves())
    r = _r(parallax(data, optics, upsample=2, periodic=True), true)
    wrong = _r(parallax(data, _optics(C10=0.01), upsample=2, periodic=True), true)
    print(f"parallax: r = {r:.3f}, without shifts {wrong:.3f}")
    assert r > 0.65
    assert r > wrong + 0.3


def test_matrix_of_shifts_and_back():
    rng = np.random.default_rng(3)
    for flip in (False, True):
        lens, angle = np.array([200.0, 20.0, -30.0]), rng.uniform(-np.pi, np.pi)
        found = lens_of(turned(angle, flip, lens, ENERGY), ENERGY)
        assert found[1] == flip
        np.testing.assert_allclose(found[0], angle, atol=1e-6)
        np.testing.assert_allclose(found[2], lens, rtol=1e-6)


def test_disc_and_raster():
    data, _ = _scan(_optics(), 2e-3, side=4)
    disc = bright_field(data)
    print(f"disc of {disc.radius:.2f} mrad at {disc.centre}")
    assert abs(disc.radius - 22) < 0.1 * ANGLE
    assert max(np.abs(disc.centre)) < 0.05 * ANGLE
    moved = bright_field(replace(data, counts=np.roll(data.counts, (1, -2), (1, 2))))
    np.testing.assert_allclose(moved.centre, (-2 * ANGLE, ANGLE), atol=0.05 * ANGLE)
    raster = raster_of(data)
    assert raster.shape == (4, 4)
    assert raster.handed == 1
    np.testing.assert_allclose(raster.sampling, WINDOW / 4, rtol=1e-6)
    q = raster.frequencies((4, 4))
    np.testing.assert_allclose(q[1, 2], (-2 / WINDOW, 1 / WINDOW), rtol=1e-5)


def test_what_direct_methods_cannot_do():
    data, _ = _scan(_optics(), 2e-3, side=4)
    with pytest.raises(ScanError, match="correct scan_shape"):
        ssb(data, _optics(), (3, 4))
    rng = np.random.default_rng(0)
    anywhere = replace(data, positions=rng.uniform(0, 9, (16, 2)))
    with pytest.raises(ScanError, match="no raster"):
        ssb(anywhere, _optics(), (4, 4))
    with pytest.raises(ScanError, match="semiangle"):
        ssb(data, Optics(energy=ENERGY))
    with pytest.raises(ScanError, match="round aperture"):
        ssb(data, _optics(inner_semiangle=4.0))
    with pytest.raises(ValueError, match="upsample"):
        ssb(data, _optics(), upsample=0)
    with pytest.raises(ValueError, match="descan"):
        icom(data, descan="all")
    with pytest.raises(ScanError, match="three rows"):
        raster_of(replace(data, positions=data.positions), (16, 1))
