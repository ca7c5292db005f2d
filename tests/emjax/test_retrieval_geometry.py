"""What a simulated scan tells of defocus, rotation, mirrors and its disc."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.retrieval.centre_of_mass import raster_of
from emjax.retrieval.geometry import estimate_geometry, with_geometry
from emjax.retrieval.parallax import (
    band_of,
    fit_shifts,
    lens_of,
    pixel_shifts,
    scan_spectra,
    strongest,
    views_of,
)
from emjax.retrieval.ptychography import make_frame, rates, start
from emjax.retrieval.scan_data import make_scan
from simulators.electron import wavelength
from simulators.measurements import rotate_vectors
from simulators.optics import Optics
from simulators.tree import replace

N, SAMPLING, ENERGY, SIDE, STEP = 32, 0.3, 80e3, 18, 0.7
ANGLE = 1e3 * wavelength(ENERGY) / (N * SAMPLING)


def _optics(**aberrations):
    return Optics(energy=ENERGY, semiangle=22.0, **aberrations)


def _scan(optics, *, rotation=0.0, flip=False, dose=2e4, move=(0, 0)):
    """Counts of atoms at random places; positions as if the scan lay as the detector does."""
    y, x = np.mgrid[:SIDE, :SIDE] * STEP
    at = np.stack([x.ravel(), y.ravel()], 1)
    blank = np.full((len(at), N, N), dose / N**2, np.float32)
    data = make_scan(blank, at, energy=ENERGY, angle_step=ANGLE, centred=False)
    true = replace(data, positions=rotate_vectors(at, rotation).astype(np.float32))
    frame = make_frame(true, optics)
    rng = np.random.default_rng(4)
    ny, nx = frame.shape
    atoms = np.zeros(frame.shape)
    atoms[rng.integers(0, ny, ny * nx // 60), rng.integers(0, nx, ny * nx // 60)] = 1
    ky, kx = np.fft.fftfreq(ny, SAMPLING)[:, None], np.fft.fftfreq(nx, SAMPLING)[None]
    phase = np.fft.ifft2(np.fft.fft2(atoms) * np.exp(-2 * (np.pi * 0.5) ** 2 * (ky**2 + kx**2)))
    t = np.exp(0.3j * phase.real / phase.real.max())
    unknowns = replace(
        start(true, frame, optics),
        transmission=jnp.asarray(np.stack([t.real, t.imag])[:, None], jnp.float32),
    )
    rate = rates(unknowns, frame, jnp.asarray(true.positions))
    counts = np.asarray(jax.random.poisson(jax.random.key(1), rate)).astype(np.uint16)
    if flip:
        counts = np.roll(counts[:, ::-1], 1, axis=1)
    return replace(data, counts=np.roll(counts, move, axis=(1, 2))), true


@pytest.mark.parametrize(
    ("rotation", "flip", "lens", "move"),
    [
        (25.0, True, {"C10": 150.0}, (1, -1)),
        (-110.0, False, {"C10": -120.0, "C12": 25.0, "phi12": 0.5}, (0, 0)),
    ],
)
def test_geometry_of_a_scan(rotation, flip, lens, move):
    optics = _optics(**lens)
    data, true = _scan(optics, rotation=np.radians(rotation), flip=flip, move=move)
    found = estimate_geometry(data, (SIDE, SIDE), _optics(C10=1.2 * lens["C10"]))
    print(f"{lens}, {rotation}°: {found}; significance {found.significance:.1f}")
    assert found.flip == flip
    assert abs(found.defocus + lens["C10"]) < 0.1 * abs(lens["C10"])
    wrong = np.degrees(found.rotation) - rotation
    assert abs((wrong + 180) % 360 - 180) < 1.0
    astigmatism = found.C12 * np.exp(2j * found.phi12)
    expected = lens.get("C12", 0.0) * np.exp(2j * lens.get("phi12", 0.0))
    assert abs(astigmatism - expected) < 10
    assert abs(found.scale - 1) < 0.03
    right, there = with_geometry(data, optics, found, thickness=30.0)
    np.testing.assert_allclose(right.positions, true.positions, atol=0.3)
    assert float(there.C10) == -found.defocus - 15
    alike = np.corrcoef(
        right.counts.sum(0, dtype=float).ravel(),
        (np.roll(data.counts[:, ::-1], 1, 1) if flip else data.counts).sum(0, dtype=float).ravel(),
    )[0, 1]
    assert alike > 0.5


def test_in_focus_the_overlaps_still_tell():
    data, _ = _scan(_optics(), rotation=np.radians(8.0), dose=5e4)
    found = estimate_geometry(data, None, _optics(C10=40.0), flips=(False,), astigmatism=False)
    print(f"in focus: {found}; curl {found.curl:.2f}")
    assert abs(found.defocus) < 8
    assert abs(np.degrees(found.rotation) - 8) < 1.0
    assert found.curl < 0.3


def test_shifts_of_single_views():
    optics = _optics(C10=200.0)
    data, _ = _scan(optics)
    raster = raster_of(data)
    views = views_of(data, raster, 20.0)
    spectra = scan_spectra(
        views.images / views.images.mean(axis=(1, 2), keepdims=True), False, window=True
    )
    band = strongest(band_of(raster, spectra.shape[1:], 0.7), spectra, 120)
    matrix, strength = fit_shifts(views, spectra, band, ENERGY, largest=6.0, flip=False)
    angle, _, lens = lens_of(matrix, ENERGY)
    print(f"angle {np.degrees(angle):.2f}°, lens {lens}, strength {strength:.1f}")
    assert abs(np.degrees(angle)) < 3
    np.testing.assert_allclose(lens, (200, 0, 0), atol=25)
    shifts = pixel_shifts(views, spectra, band, matrix)
    expected = -wavelength(ENERGY) * 200 * views.k
    error = np.sqrt(np.square(shifts - expected).mean())
    print(f"single shifts: {error:.2f} Å rms of {np.abs(expected).max():.1f} Å")
    assert error < 0.5


def test_noise_tells_nothing():
    data, _ = _scan(_optics(C10=100.0), dose=20.0)
    rng = np.random.default_rng(0)
    mixed = replace(data, counts=data.counts[rng.permutation(data.n)])
    with pytest.warns(UserWarning, match="hardly tells"):
        found = estimate_geometry(mixed, None, _optics(), flips=(False,), astigmatism=False)
    print(f"significance of noise {found.significance:.2f}")
