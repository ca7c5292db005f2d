"""The contrast transfer function: abTEM's numbers, its envelopes, its filters."""

from __future__ import annotations

import json

import numpy as np
import pytest

from simulators.ctf import ctf, spatial_envelope, temporal_envelope
from simulators.electron import wavelength
from simulators.grid import Grid
from simulators.hrtem import image
from simulators.optics import Optics
from simulators.tree import replace

GRID = Grid((64, 48), (0.2, 0.25))
LENS = Optics(
    energy=80e3,
    semiangle=40.0,
    C10=90.0,
    C12=20.0,
    phi12=0.5,
    C30=-2e5,
    focal_spread=35.0,
    angular_spread=0.4,
)


@pytest.mark.parametrize("name", ["coherent", "partial", "noaperture"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_abtems_transfer_functions_and_images(shared, name, precision, request):
    if precision == "float64":
        request.getfixturevalue("x64")
    with np.load(shared / "data" / "abtem_refs" / "dev_hrtem_graphene_si.npz") as stored:
        data = dict(stored)
    meta = json.loads(str(data["meta"]))
    (nx, ny), cell = meta["gpts"], data["cell"]
    grid = Grid.over((float(cell[1]), float(cell[0])), shape=(ny, nx))
    lens = dict(meta["recipes"][f"out_ctf_{name}"]["ctf"])
    aberrations = lens.pop("aberrations")
    lens["aperture"] = lens["aperture"] or "soft"
    optics = Optics(energy=meta["energy"], **lens, **aberrations)
    mark = {"float32": 2e-5, "float64": 1e-12}[precision]
    kind = {"float32": np.complex64, "float64": np.complex128}[precision]
    made = np.asarray(ctf(optics, grid)).astype(kind).T
    assert np.abs(made - data[f"out_ctf_{name}"]).max() < mark
    picture = image(data["out_exit_wave"].T.astype(kind), optics, grid)
    reference = data[f"out_image_{name}"].T
    assert np.abs(picture - reference).max() / reference.max() < mark


def test_envelopes_are_averages_over_the_distributions():
    # exp(-(δ/Δ)²) in defocus; exp(-(θ/β)²) in angle, to first order in the angle
    lam, k2 = wavelength(80e3), GRID.k2()
    x = np.linspace(-6, 6, 4001)
    weights = np.exp(-(x**2))
    weights /= weights.sum()
    pick = np.linspace(0, GRID.shape[0] * GRID.shape[1] - 1, 40).astype(int)
    phase = np.pi * lam * k2.ravel()[pick]
    explicit = (weights[:, None] * np.exp(-1j * np.outer(x * 35.0, phase))).sum(0).real
    envelope = temporal_envelope(LENS, GRID).ravel()[pick]
    np.testing.assert_allclose(envelope, explicit, atol=1e-12)
    # uniaxial in closed form: χ = πC10 λk², slope 2πC10 α/λ
    lens = Optics(energy=80e3, C10=500.0, angular_spread=0.3)
    slope = 2 * np.pi / lam * 500.0 * lam * np.sqrt(k2)
    np.testing.assert_allclose(
        spatial_envelope(lens, GRID), np.exp(-((0.15e-3 * slope) ** 2)), rtol=1e-12
    )


def test_filters():
    transfer = ctf(LENS, GRID)
    flipped = ctf(LENS, GRID, flip_phase=True)
    assert (flipped.imag <= 0).all()
    np.testing.assert_allclose(np.abs(flipped), np.abs(transfer))
    np.testing.assert_allclose(flipped.real, transfer.real)
    restored = ctf(LENS, GRID, wiener_snr=10.0)
    np.testing.assert_allclose(restored, 1.1 * transfer**2 / (transfer**2 + 0.1))
    np.testing.assert_array_equal(ctf(LENS, GRID, wiener_snr=10.0, flip_phase=True), restored)
    with pytest.raises(ValueError, match="wiener_snr must be positive"):
        ctf(LENS, GRID, wiener_snr=-1.0)


def test_off_axis_illumination_is_the_lens_at_shifted_frequencies():
    lens = replace(LENS, semiangle=None)
    lam, n = wavelength(80e3), 3
    angle = 1e3 * np.arctan(n * lam / GRID.extent[1])  # three pixels in x
    shifted = ctf(lens, GRID, off_axis=(angle, 0.0))
    plain = ctf(lens, GRID)
    inner = np.abs(np.fft.fftfreq(48, 1 / 48)) < 15
    expected = np.roll(plain, -n, axis=1) / np.exp(1j * np.angle(plain[0, n]))
    np.testing.assert_allclose(shifted[:, inner], expected[:, inner], atol=1e-9)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"the wave is \(8, 8\) pixels"):
        image(np.ones((8, 8), complex), LENS, GRID)
