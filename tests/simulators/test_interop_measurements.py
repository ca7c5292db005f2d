"""abTEM on our potential measures what we measure: float64, unequal slices, an oblong grid."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from simulators import interop
from simulators.atoms import make_atoms
from simulators.detectors import Annular
from simulators.grid import Grid
from simulators.hrtem import hrtem
from simulators.imaging import cbed, stem
from simulators.multislice import multislice
from simulators.optics import Optics, plane_wave
from simulators.potential import Potential, project
from simulators.scan import raster

GRID = Grid((40, 28), (0.15, 0.2))
ENERGY = 100e3
LENGTHS = (GRID.extent[1], GRID.extent[0], 6.0)
PARITY = 1e-6


@pytest.fixture(scope="module")
def abtem() -> ModuleType:
    module = pytest.importorskip("abtem")
    module.config.set({"visualize.autoshow": False, "diagnostics.progress_bar": False})
    return module


def specimen(**options) -> Potential:
    places = np.random.default_rng(1).uniform(0, 1, (6, 3)) * LENGTHS
    atoms = make_atoms(places, [14, 6, 79, 8, 14, 38], LENGTHS, sigma=0.08)
    return project(atoms, GRID, [1.0, 2.5, 0.5, 2.0], **options)


def error_of(made, reference) -> float:
    made, reference = np.asarray(made), np.asarray(reference)
    assert made.shape == reference.shape
    return float(np.abs(made - reference).max() / np.abs(reference).max())


@pytest.fixture
def both(abtem, x64):
    """Our potential and abTEM's copy of it, abTEM in float64."""
    ours = specimen()
    with abtem.config.set({"precision": "float64"}):
        yield ours, interop.potential_to_abtem(ours)


def test_images_of_a_scan(abtem, both):
    ours, theirs = both
    optics = Optics(energy=ENERGY, semiangle=25.0, C10=-40.0, C12=15.0, phi12=0.4, C30=1e4)
    beam = abtem.Probe(
        energy=ENERGY,
        semiangle_cutoff=25.0,
        aberrations={"C10": -40.0, "C12": 15.0, "phi12": 0.4, "C30": 1e4},
    )
    scan = abtem.GridScan(start=(1.0, 2.0), end=(2.5, 6.0), gpts=(3, 4), endpoint=False)
    rings = [(0, 12), (12, 25), (30, 60)]
    detectors = [abtem.AnnularDetector(*ring) for ring in rings]
    measured = beam.scan(theirs, scan=scan, detectors=detectors).compute()
    where = raster((4, 3), (1.0, 0.5), origin=(1.0, 2.0))
    signals = stem(ours, optics, where, [Annular(*ring) for ring in rings])
    for ring, signal, image in zip(rings, signals, measured, strict=True):
        error = error_of(signal, interop.image_from_abtem(image)[0])
        print(f"ring {ring}: {error:.1e}")
        assert error < PARITY


def test_patterns(abtem, both):
    ours, theirs = both
    point = np.array([[1.3, 2.2]])
    beam = abtem.Probe(energy=ENERGY, semiangle_cutoff=25.0)
    waves = beam.multislice(theirs, scan=abtem.CustomScan(point)).compute()
    reference, grid, energy = interop.patterns_from_abtem(
        waves.diffraction_patterns(max_angle="full", parity="same")
    )
    made = cbed(ours, Optics(energy=ENERGY, semiangle=25.0), point)
    assert (grid.shape, energy) == (GRID.shape, ENERGY)
    assert error_of(made, reference) < PARITY


def test_a_high_resolution_image(abtem, both):
    ours, theirs = both
    lens = {"C10": -120.0, "C30": 2e4, "C12": 30.0, "phi12": 0.3}
    optics = Optics(
        energy=ENERGY, semiangle=60.0, aperture="hard", focal_spread=30.0, tilt=(4.0, -3.0), **lens
    )
    made = hrtem(ours, optics)
    wave = abtem.PlaneWave(energy=ENERGY, tilt=(4.0, -3.0)).multislice(theirs)
    transfer = abtem.CTF(
        semiangle_cutoff=60.0, soft=False, focal_spread=30.0, energy=ENERGY, **lens
    )
    seen = wave.apply_ctf(transfer).intensity().compute()
    reference, grid = interop.image_from_abtem(seen)
    assert grid.shape == GRID.shape
    assert grid.sampling == pytest.approx(GRID.sampling)
    assert error_of(made, reference) < PARITY


def test_abtem_images_our_exit_wave(abtem, both):
    ours, _ = both
    wave = multislice(plane_wave(GRID), ours, ENERGY)
    there = interop.wave_to_abtem(wave, GRID, ENERGY)
    seen = there.apply_ctf(abtem.CTF(C10=-120.0, C30=2e4, energy=ENERGY)).intensity().compute()
    made = hrtem(ours, Optics(energy=ENERGY, C10=-120.0, C30=2e4))
    assert error_of(made, interop.image_from_abtem(seen)[0]) < PARITY


def test_an_oversampled_potential_goes_on_its_own_grid(abtem):
    ours = specimen(oversample=2)
    there = interop.potential_to_abtem(ours)
    assert there.array.shape == (4, 56, 80)
    assert there.sampling == pytest.approx((0.1, 0.075))
    assert there.extent == pytest.approx(GRID.extent[::-1])
    plain = interop.potential_to_abtem(specimen())
    means = [np.asarray(p.array).mean((1, 2)) for p in (there, plain)]
    np.testing.assert_allclose(*means, rtol=1e-5, err_msg="the mean potential of each slice")
    back = interop.potential_from_abtem(there)
    assert (back.grid.shape, back.oversample) == ((80, 56), 1)


def test_absorption_is_refused(abtem):
    ours = specimen()
    absorbing = Potential(ours.slices * (1 + 0.1j), ours.thickness, ours.grid)
    with pytest.raises(ValueError, match="abTEM's potentials are real"):
        interop.potential_to_abtem(absorbing)
