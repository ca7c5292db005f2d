"""To abTEM and back, with grids that are not square; and both programs on the same specimen."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import ase
import jax.numpy as jnp
import numpy as np
import pytest

from simulators import interop
from simulators.detectors import Annular
from simulators.grid import Grid
from simulators.imaging import cbed, stem
from simulators.multislice import multislice
from simulators.optics import Optics, plane_wave, probe
from simulators.potential import Potential
from simulators.scan import raster

GRID = Grid.over((9.0, 6.0), shape=(72, 60))
"""(y, x): neither square nor equally sampled."""

ENERGY = 100e3
PARITY = 2e-5
"""max|a - b| / max|b| against abTEM in float32, as in benchmarks/abtem_parity.py."""


@pytest.fixture(scope="module")
def abtem() -> ModuleType:
    module = pytest.importorskip("abtem")
    module.config.set({"visualize.autoshow": False, "diagnostics.progress_bar": False})
    return module


def some(*shape: int, kind: type = float) -> np.ndarray:
    rng = np.random.default_rng(0)
    array = rng.normal(size=shape)
    return array + 1j * rng.normal(size=shape) if kind is complex else array


def specimen() -> ase.Atoms:
    rng = np.random.default_rng(1)
    places = rng.uniform(0, 1, (7, 3)) * [6.0, 9.0, 8.0]
    return ase.Atoms([14, 6, 79, 8, 14, 38, 6], places, cell=[6.0, 9.0, 8.0], pbc=True)


def abtem_potential(abtem: ModuleType):
    nx, ny = GRID.shape[::-1]
    return abtem.Potential(specimen(), gpts=(nx, ny), slice_thickness=2.0)


def error_of(made: np.ndarray, reference: np.ndarray) -> float:
    made, reference = np.asarray(made), np.asarray(reference)
    assert made.shape == reference.shape
    return float(np.abs(made - reference).max() / np.abs(reference).max())


def test_abtem_is_not_imported_with_the_module(root):
    code = "import sys, simulators.interop; print('abtem' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.strip() == "False", result.stderr


def test_without_abtem_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "abtem", None)
    for call in (
        lambda: interop.wave_to_abtem(some(72, 60, kind=complex), GRID, ENERGY),
        lambda: interop.image_to_abtem(some(72, 60), GRID),
        lambda: interop.patterns_from_abtem(None),
        lambda: interop.potential_from_abtem(None),
    ):
        with pytest.raises(ModuleNotFoundError, match="not installed: pip install abtem"):
            call()


def test_potential_there_and_back(abtem, x64):
    ours = Potential(jnp.asarray(some(3, 72, 60)), np.array([1.0, 2.5, 0.5]), GRID)
    there = interop.potential_to_abtem(ours)
    assert there.array.shape == (3, 60, 72), "abTEM has [z, x, y]"
    assert there.extent == pytest.approx((6.0, 9.0))
    assert there.slice_thickness == pytest.approx((1.0, 2.5, 0.5))
    assert there.array[1, 7, 30] == ours.slices[1, 30, 7]
    back = interop.potential_from_abtem(there)
    np.testing.assert_array_equal(back.slices, ours.slices)
    np.testing.assert_array_equal(back.thickness, ours.thickness)
    assert back.grid.shape == GRID.shape
    assert back.grid.sampling == pytest.approx(GRID.sampling)


def test_a_potential_is_built_in_jaxs_precision(abtem):
    there = abtem_potential(abtem)
    ours = interop.potential_from_abtem(there)
    assert ours.slices.dtype == jnp.float32
    assert ours.slices.shape == (4, 72, 60)
    np.testing.assert_array_equal(ours.slices, np.swapaxes(there.build(lazy=False).array, 1, 2))
    lazy = there.build(lazy=True)
    assert lazy.is_lazy
    np.testing.assert_array_equal(interop.potential_from_abtem(lazy).slices, ours.slices)


def test_an_ensemble_of_potentials_is_refused(abtem):
    phonons = abtem.FrozenPhonons(specimen(), num_configs=2, sigmas=0.1, seed=0)
    ensemble = abtem.Potential(phonons, gpts=GRID.shape[::-1], slice_thickness=4.0)
    with pytest.raises(ValueError, match=r"ensemble of shape \(2,\): take one configuration"):
        interop.potential_from_abtem(ensemble)
    one = interop.potential_from_abtem(ensemble.build(lazy=False)[0])
    assert one.slices.shape == (2, 72, 60)


@pytest.mark.parametrize("front", [(), (3,), (2, 4)])
def test_waves_there_and_back(abtem, front):
    wave = some(*front, 72, 60, kind=complex)
    there = interop.wave_to_abtem(wave, GRID, ENERGY)
    assert there.array.shape == (*front, 60, 72)
    assert there.sampling == pytest.approx(GRID.sampling[::-1])
    back, grid, energy = interop.wave_from_abtem(there)
    np.testing.assert_array_equal(back, wave)
    assert (grid.shape, energy) == (GRID.shape, ENERGY)
    assert grid.sampling == pytest.approx(GRID.sampling)
    reciprocal, _, _ = interop.wave_from_abtem(there.ensure_reciprocal_space())
    np.testing.assert_allclose(reciprocal, wave, atol=1e-12)


@pytest.mark.parametrize("front", [(), (3,)])
def test_images_there_and_back(abtem, front):
    image = some(*front, 72, 60)
    there = interop.image_to_abtem(image, GRID, metadata={"label": "dose"})
    assert there.array.shape == (*front, 60, 72)
    assert there.extent == pytest.approx((6.0, 9.0))
    assert there.metadata["label"] == "dose"
    back, grid = interop.image_from_abtem(there)
    np.testing.assert_array_equal(back, image)
    assert grid.shape == GRID.shape
    assert grid.sampling == pytest.approx(GRID.sampling)


@pytest.mark.parametrize("front", [(), (3,), (2, 4)])
def test_patterns_there_and_back(abtem, front):
    patterns = some(*front, 72, 60)
    scan = (0.4, 0.7) if len(front) == 2 else None
    there = interop.patterns_to_abtem(patterns, GRID, ENERGY, scan_sampling=scan)
    assert there.array.shape == (*front[::-1], 60, 72)
    assert there.sampling == pytest.approx((1 / 6.0, 1 / 9.0))
    assert there.fftshift
    np.testing.assert_array_equal(there.array[..., 30, 36].T, patterns[..., 0, 0])
    if scan:
        assert [a.sampling for a in there.ensemble_axes_metadata] == [0.7, 0.4], "(x, y)"
    back, grid, energy = interop.patterns_from_abtem(there)
    np.testing.assert_array_equal(back, patterns)
    assert (grid.shape, energy) == (GRID.shape, ENERGY)
    assert grid.sampling == pytest.approx(GRID.sampling)


def test_odd_patterns_keep_their_centre(abtem):
    grid = Grid((7, 5), (0.2, 0.3))
    pattern = np.zeros(grid.shape)
    pattern[0, 0] = 1
    there = interop.patterns_to_abtem(pattern, grid, ENERGY)
    assert there.array[2, 3] == 1
    np.testing.assert_array_equal(interop.patterns_from_abtem(there)[0], pattern)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_abtems_potential_gives_abtems_exit_wave(abtem, precision, request):
    if precision == "float64":
        request.getfixturevalue("x64")
    with abtem.config.set({"precision": precision}):
        theirs = abtem_potential(abtem).build(lazy=False)
        exit_wave = abtem.PlaneWave(energy=ENERGY).multislice(theirs).compute()
    potential = interop.potential_from_abtem(theirs)
    made = multislice(plane_wave(potential.grid), potential, ENERGY)
    reference, grid, energy = interop.wave_from_abtem(exit_wave)
    assert (grid.shape, energy) == (potential.grid.shape, ENERGY)
    error = error_of(made, reference)
    print(f"exit wave, {precision}: {error:.1e}")
    assert error < (PARITY if precision == "float32" else 1e-6)
    assert error_of(reference.real, np.ones_like(reference.real)) > 0.1, "the specimen scatters"


def test_our_potential_gives_our_exit_wave_in_abtem(abtem):
    ours = interop.potential_from_abtem(abtem_potential(abtem))
    there = interop.potential_to_abtem(ours)
    wave = abtem.PlaneWave(energy=ENERGY).multislice(there).compute()
    made = multislice(plane_wave(GRID), ours, ENERGY)
    assert error_of(interop.wave_from_abtem(wave)[0], made) < PARITY
    lens = Optics(energy=ENERGY, semiangle=20.0, C10=-30.0, C21=500.0)
    incident = probe(lens, GRID, np.array([[1.0, 2.0], [4.0, 7.5]]))
    sent = interop.wave_to_abtem(incident, GRID, ENERGY).multislice(there).compute()
    assert error_of(interop.wave_from_abtem(sent)[0], multislice(incident, ours, ENERGY)) < PARITY


def test_four_dimensional_stem_has_the_same_axes_in_both(abtem):
    theirs = abtem_potential(abtem).build(lazy=False)
    beam = abtem.Probe(energy=ENERGY, semiangle_cutoff=20.0)
    scan = abtem.GridScan(start=(1.0, 2.0), end=(2.5, 6.0), gpts=(3, 4), endpoint=False)
    detectors = [abtem.PixelatedDetector(max_angle="full"), abtem.AnnularDetector(30, 90)]
    patterns, image = beam.scan(theirs, scan=scan, detectors=detectors).compute()
    potential = interop.potential_from_abtem(theirs)
    optics = Optics(energy=ENERGY, semiangle=20.0)
    where = raster((4, 3), (1.0, 0.5), origin=(1.0, 2.0))

    reference, grid, energy = interop.patterns_from_abtem(patterns)
    made = cbed(potential, optics, where.reshape(-1, 2)).reshape(4, 3, *GRID.shape)
    assert error_of(made, reference) < PARITY
    assert (grid.shape, energy) == (GRID.shape, ENERGY)

    bright, pixels = interop.image_from_abtem(image)
    signal = stem(potential, optics, where, [Annular(30, 90)])[0]
    assert error_of(signal, bright) < PARITY
    assert pixels.sampling == pytest.approx((1.0, 0.5))

    sent = interop.patterns_to_abtem(made, GRID, ENERGY, scan_sampling=(1.0, 0.5))
    ring, _ = interop.image_from_abtem(sent.integrate_radial(30, 90))
    assert error_of(ring, signal) < PARITY, "abTEM's angles on our patterns"


def test_cropped_patterns_have_a_coarser_grid_of_the_same_extent(abtem):
    wave = interop.wave_to_abtem(some(72, 60, kind=complex), GRID, ENERGY)
    cropped = wave.diffraction_patterns(max_angle=60.0)
    made, grid, _ = interop.patterns_from_abtem(cropped)
    assert made.shape == grid.shape < GRID.shape
    assert grid.extent == pytest.approx(GRID.extent)
    full = np.abs(np.fft.fft2(some(72, 60, kind=complex))) ** 2
    np.testing.assert_allclose(made[:3, -3:], full[:3, -3:], rtol=1e-6)


def test_what_does_not_fit_is_said(abtem):
    with pytest.raises(ValueError, match=r"shape \(60, 72\) do not lie on the grid of \(72, 60\)"):
        interop.image_to_abtem(some(60, 72), GRID)
    with pytest.raises(ValueError, match="a wave is complex, got float64"):
        interop.wave_to_abtem(some(72, 60), GRID, ENERGY)
    with pytest.raises(ValueError, match=r"two scan axes \[y, x\] in front"):
        interop.patterns_to_abtem(some(5, 72, 60), GRID, ENERGY, scan_sampling=0.3)
    image = interop.image_to_abtem(some(72, 60), GRID)
    with pytest.raises(TypeError, match=r"expected abTEM's Waves, got abtem\.measurements\.Images"):
        interop.wave_from_abtem(image)
    with pytest.raises(TypeError, match=r"expected a potential, got builtins\.float"):
        interop.potential_from_abtem(3.0)
    with pytest.raises(ValueError, match="have no energy"):
        interop.wave_from_abtem(abtem.Waves(some(8, 9, kind=complex), sampling=0.1))
