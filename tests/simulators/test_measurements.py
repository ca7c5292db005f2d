"""Centre of mass, iCOM, DPC, iDPC: against shifts, phase objects, and abTEM's arrays."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.detectors import (
    Annular,
    CentreOfMass,
    Flexible,
    Segmented,
    detector_matrix,
    split,
)
from simulators.electron import interaction_constant
from simulators.grid import Grid
from simulators.imaging import cbed
from simulators.measurements import (
    centre_of_mass,
    com_from_moments,
    dpc,
    dpc_weights,
    find_rotation,
    icom,
    idpc,
    integrate_gradient,
    rotate_vectors,
)
from simulators.optics import Optics, probe_coefficients
from simulators.patterns import patterns, position_average
from simulators.positions import nyquist_step, periodic_scan, scan_step
from simulators.potential import Potential, project

GRID, ENERGY = Grid.over((24.0, 20.0), shape=(96, 80)), 100e3


def disc(shift, radius=0.5):
    """A soft disc of `radius` 1/Å shifted by (x, y) 1/Å, FFT order."""
    ky, kx = GRID.frequencies()
    r = np.hypot(ky[:, None] - shift[1], kx[None, :] - shift[0])
    return 1 / (1 + np.exp((r - radius) / 0.02))


def test_the_centre_of_mass_of_a_shifted_disc_is_the_shift():
    shifts = [(0.0, 0.0), (0.13, -0.21), (-0.02, 0.3)]
    p = patterns(np.stack([disc(s) for s in shifts]) * 7.0, GRID, ENERGY, crop="valid")
    np.testing.assert_allclose(centre_of_mass(p), shifts, atol=2e-4)
    mrad = centre_of_mass(p, unit="mrad")
    np.testing.assert_allclose(mrad, np.array(shifts) * 37.01437, atol=1e-2)
    rows = detector_matrix([CentreOfMass()], GRID, ENERGY)
    moments = rows @ np.stack([disc(s).ravel() for s in shifts]).T
    np.testing.assert_allclose(com_from_moments(moments), centre_of_mass(p), atol=1e-12)
    with pytest.raises(ValueError, match="expected 3 rows"):
        com_from_moments(moments[:2])
    with pytest.raises(ValueError, match="unit must be"):
        centre_of_mass(p, unit="rad")


def wave(y, x, ly, lx):
    """A smooth image of the periods (ly, lx) and its gradient (x, y)."""
    u, v = 2 * np.pi * y / ly, 2 * np.pi * x / lx
    image = np.cos(2 * u - 0.3) * np.sin(v) + 0.5 * np.cos(3 * v + u)
    along_x = np.cos(2 * u - 0.3) * np.cos(v) - 1.5 * np.sin(3 * v + u)
    along_y = -2 * np.sin(2 * u - 0.3) * np.sin(v) - 0.5 * np.sin(3 * v + u)
    return image, np.stack([along_x * 2 * np.pi / lx, along_y * 2 * np.pi / ly], -1)


@pytest.mark.parametrize("shape", [(14, 12), (13, 15)])
def test_a_periodic_gradient_is_integrated_exactly(shape):
    y, x = np.arange(shape[0])[:, None] * 0.4, np.arange(shape[1])[None, :] * 0.3
    image, field = wave(y, x, shape[0] * 0.4, shape[1] * 0.3)
    made = integrate_gradient(field, (0.4, 0.3))
    np.testing.assert_allclose(made, image - image.min(), atol=1e-12)
    stack = integrate_gradient(np.stack([field, 2 * field]), (0.4, 0.3))
    np.testing.assert_allclose(stack[1], 2 * made, atol=1e-12)


def test_a_cut_out_gradient_is_integrated_with_mirrors():
    y, x = np.arange(40)[:, None] * 0.05, np.arange(50)[None, :] * 0.05
    image, field = wave(y + 0.2, x, 3.7, 4.1)
    made = integrate_gradient(field, 0.05, periodic=False)
    image = image - image.min()
    assert np.corrcoef(made.ravel(), image.ravel())[0, 1] > 0.999
    wrong = integrate_gradient(field, 0.05)
    assert np.abs(made - image).max() < 0.4 * np.abs(wrong - image).max()
    with pytest.raises(ValueError, match="vector field is"):
        integrate_gradient(image, 0.05)
    with pytest.raises(ValueError, match="positive Å"):
        integrate_gradient(field, 0.0)


def test_the_rotation_of_a_detector_is_found():
    y, x = np.arange(24)[:, None] * 0.25, np.arange(20)[None, :] * 0.25
    peaks = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 0.5) for a, b in ((2, 1.5), (3.8, 3.2)))
    ky, kx = np.fft.fftfreq(24, 0.25)[:, None], np.fft.fftfreq(20, 0.25)[None, :]
    spectrum = np.fft.fft2(peaks)
    field = np.stack([np.fft.ifft2(2j * np.pi * k * spectrum).real for k in (kx, ky)], -1)
    for angle in (-2.8, -1.0, 0.0, 0.7, 2.2):
        found = find_rotation(rotate_vectors(field, angle), 0.25)
        assert float(found) == pytest.approx(-angle, abs=1e-6)
    found = jax.jit(lambda f: find_rotation(f, 0.25))(jnp.asarray(field, jnp.float32))
    assert float(found) == pytest.approx(0.0, abs=1e-3)


def test_segments_of_a_shifted_disc_give_its_shift():
    detector = Segmented(0, 30.0, radial=2, azimuthal=4, rotation=0.3)
    weights = dpc_weights(detector, 20.0)
    y, x = np.linspace(-32, 32, 1201)[:, None], np.linspace(-32, 32, 1201)[None, :]
    segment = detector.segment_at(*np.broadcast_arrays(y, x)).ravel()
    for shift in ((0.5, 0.0), (-0.3, 0.8)):
        lit = (np.hypot(y - shift[1], x - shift[0]) < 20.0).ravel()
        signal = np.bincount(segment[lit], minlength=8)
        np.testing.assert_allclose(weights @ signal / signal.sum(), shift, atol=0.02)
    with pytest.raises(ValueError, match="do not notice a"):
        dpc_weights(Segmented(0, 15.0), 20.0)
    with pytest.raises(ValueError, match="has 8 segments but the signal 3 rows"):
        dpc(np.ones((3, 2)), detector, 20.0, ENERGY)


def weak_phase(semiangle, strength):
    """Patterns [ny, nx, qy, qx] of a weak phase object, grid, positions, its phase at these."""
    grid = Grid.over((8.0, 7.0), shape=(64, 56))
    rng = np.random.default_rng(0)
    y, x = np.arange(64)[:, None] * 0.125, np.arange(56)[None, :] * 0.125
    v = np.zeros(grid.shape)
    for a, b, height in rng.uniform((0, 0, 0.5), (8, 7, 1.5), (5, 3)):
        dy, dx = (y - a + 4) % 8 - 4, (x - b + 3.5) % 7 - 3.5
        v += height * np.exp(-(dy**2 + dx**2) / 1.2)
    thin = jnp.array([1e-6])
    phase = interaction_constant(ENERGY) * strength * v
    potential = Potential(jnp.asarray(v[None] * strength, jnp.float32), thin, grid)
    where = periodic_scan(grid, shape=(32, 28))
    optics = Optics(energy=ENERGY, semiangle=semiangle)
    made = cbed(potential, optics, where.reshape(-1, 2))
    return np.asarray(made, float).reshape(32, 28, *grid.shape), grid, where, phase[::2, ::2]


def test_icom_and_idpc_of_a_weak_phase_object_are_its_projected_potential():
    semiangle = 25.0
    pattern, grid, where, phase = weak_phase(semiangle, 20.0)  # up to 0.03 rad
    step = scan_step(where)
    image = 2 * np.pi * icom(patterns(pattern, grid, ENERGY, crop="cutoff"), step)
    assert np.corrcoef(image.ravel(), phase.ravel())[0, 1] > 0.99

    # and in numbers: the phase convolved with the probe's intensity (Lazić et al. 2016, eq. 20)
    coefficients = probe_coefficients(Optics(ENERGY, semiangle), grid)
    transfer = np.fft.fft2(np.abs(np.fft.ifft2(coefficients)) ** 2).conj()
    orders = [np.rint(np.fft.fftfreq(n, 1 / n)).astype(int) for n in phase.shape]
    transfer = (transfer / transfer[0, 0])[np.ix_(*orders)]
    expected = np.fft.ifft2(np.fft.fft2(phase) * transfer).real
    expected = expected - expected.min()
    np.testing.assert_allclose(image, expected, atol=0.01 * expected.max())

    detector = Segmented(0, 30.0, radial=1, azimuthal=4, rotation=0.2)
    signal = detector_matrix([detector], grid, ENERGY) @ pattern.reshape(-1, 64 * 56).T
    segments = signal.reshape(4, *phase.shape)
    image = idpc(segments, detector, semiangle, ENERGY, step)
    assert np.corrcoef(image.ravel(), phase.ravel())[0, 1] > 0.99
    turned = idpc(segments, detector, semiangle, ENERGY, step, rotation=np.pi)
    assert np.corrcoef(turned.ravel(), phase.ravel())[0, 1] < -0.99


def test_gradients_against_finite_differences(x64):
    grid = Grid.over((9.0, 8.0), shape=(24, 20))
    rng = np.random.default_rng(1)
    image = jnp.asarray(rng.uniform(size=(3, 4, 24, 20)))
    weight = jnp.asarray(rng.normal(size=(3, 4)))
    segments = Segmented(0, 18.0, azimuthal=3)
    rows = jnp.asarray(detector_matrix([segments], grid, ENERGY))

    @jax.jit
    def by_com(i):
        return (icom(patterns(i, grid, ENERGY, crop="full"), 0.4, periodic=False) * weight).sum()

    @jax.jit
    def by_dpc(i):
        signal = (rows @ i.reshape(12, -1).T).reshape(3, 3, 4)
        return (idpc(signal, segments, 15.0, ENERGY, 0.4, rotation=0.2) * weight).sum()

    for loss in (by_com, by_dpc):
        gradient = jax.grad(loss)(image)
        direction = jnp.asarray(rng.normal(size=image.shape))
        difference = (loss(image + 1e-6 * direction) - loss(image - 1e-6 * direction)) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-6)


def complex_xy(com):
    """Our [y, x, 2] as abTEM's complex [x, y]."""
    return (com[..., 0] + 1j * com[..., 1]).T


@pytest.mark.parametrize(("precision", "gate"), [("float64", 1e-6), ("float32", 2e-5)])
def test_agreement_with_abtem(shared, precision, gate, request):
    if precision == "float64":
        request.getfixturevalue("x64")
    with np.load(shared / "data" / "abtem_refs" / "dev_stem_mos2.npz") as file:
        data = dict(file)
    meta = json.loads(str(data["meta"]))
    nx, ny = meta["gpts"]
    grid = Grid.over((data["cell"][1], data["cell"][0]), shape=(ny, nx))
    atoms = make_atoms(data["positions"], data["numbers"], data["cell"])
    potential = project(atoms, grid, meta["slice_thickness"], mode="abtem", dtype=precision)
    optics = Optics(energy=60e3, semiangle=31.0, C10=-15.0, C30=-1e4, C12=8.0, phi12=0.3)
    where = np.swapaxes(data["scan_positions"], 0, 1)
    made = cbed(potential, optics, where.reshape(-1, 2), validate=False)
    made = np.asarray(made).reshape(12, 8, ny, nx)

    detectors = [
        Annular(0, 20, (12.0, -7.0)),
        Segmented(10, 31, radial=2, azimuthal=4, rotation=0.35),
        Flexible(10.0),
        CentreOfMass(),
    ]
    rows = detector_matrix(detectors, grid, 60e3).astype(precision)
    signal = (rows @ made.reshape(96, -1).T).reshape(-1, 12, 8)
    offset, segments, rings, moments = split(signal, detectors)
    p = patterns(made, grid, 60e3)
    com = centre_of_mass(p)
    results = {
        "out_offset_bf": offset.T,
        "out_segmented": np.moveaxis(segments.reshape(2, 4, 12, 8), (0, 1), (2, 3)).swapaxes(0, 1),
        "out_flexible": np.moveaxis(rings, 0, -1).swapaxes(0, 1)[..., None],
        "out_com": complex_xy(com),
        "out_icom": integrate_gradient(com, scan_step(where)).T,
        "out_pacbed": position_average(p).intensity.T,
    }
    for name, result in results.items():
        error = np.abs(result - data[name]).max() / np.abs(data[name]).max()
        assert error < gate, (name, error)
    np.testing.assert_allclose(com_from_moments(moments), com, atol=gate)


def test_the_scan_of_a_whole_period_averages_to_one_pattern():
    # the PACBED pattern of a perfect crystal does not depend on where the scan begins
    grid = Grid.over((4.0, 4.0), shape=(32, 32))
    atoms = make_atoms([[1.0, 1.0, 1.0], [3.0, 2.5, 1.0]], [14, 8], [4.0, 4.0, 2.0])
    potential = project(atoms, grid, 2.0)
    optics = Optics(energy=ENERGY, semiangle=20.0)
    step = nyquist_step(20.0, ENERGY)
    scan = periodic_scan(grid, step=step)
    means = [
        cbed(potential, optics, (scan + offset).reshape(-1, 2)).mean(axis=0)
        for offset in (0.0, np.array([0.13, 0.31]))
    ]
    np.testing.assert_allclose(means[0], means[1], atol=1e-6)
