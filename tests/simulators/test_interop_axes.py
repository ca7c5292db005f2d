"""Axes in front of [y, x]: scans, thicknesses, phonons, positions, from abTEM and back."""

from __future__ import annotations

from types import ModuleType

import ase
import numpy as np
import pytest

from simulators import interop
from simulators.grid import Grid
from simulators.interop_axes import EnsembleAxis
from simulators.multislice import multislice
from simulators.optics import Optics, plane_wave, probe
from simulators.patterns import Patterns, binned
from simulators.patterns import patterns as as_patterns

GRID = Grid((40, 28), (0.15, 0.2))
"""(y, x): neither square nor equally sampled."""

ENERGY = 100e3
LENGTHS = (GRID.extent[1], GRID.extent[0], 6.0)


@pytest.fixture(scope="module")
def abtem() -> ModuleType:
    module = pytest.importorskip("abtem")
    module.config.set({"visualize.autoshow": False, "diagnostics.progress_bar": False})
    return module


@pytest.fixture(scope="module")
def theirs(abtem):
    """Three slices of 2 Å with waves taken before, in the middle and behind."""
    places = np.random.default_rng(1).uniform(0, 1, (5, 3)) * LENGTHS
    atoms = ase.Atoms([14, 6, 79, 8, 14], places, cell=LENGTHS, pbc=True)
    made = abtem.Potential(
        atoms, gpts=GRID.shape[::-1], slice_thickness=2.0, exit_planes=(-1, 0, 2)
    )
    return made.build(lazy=False)


def some(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def close(made, reference, tolerance: float = 2e-5) -> bool:
    made, reference = np.asarray(made), np.asarray(reference)
    assert made.shape == reference.shape
    return np.abs(made - reference).max() <= tolerance * np.abs(reference).max()


def same_axes(made, reference) -> bool:
    """The two objects of abTEM describe their axes in front alike."""
    pairs = zip(made.ensemble_axes_metadata, reference.ensemble_axes_metadata, strict=True)
    return all(
        type(a) is type(b)
        and np.allclose(a.coordinates(3), b.coordinates(3))
        and (a.units or "") == (b.units or "")
        for a, b in pairs
    )


def test_a_thickness_series(abtem, theirs):
    waves = abtem.PlaneWave(energy=ENERGY).multislice(theirs).compute()
    (axis,) = interop.ensemble_axes(waves)
    assert (axis.kind, axis.units, axis.values.tolist()) == ("thickness", "Å", [0.0, 2.0, 6.0])
    wave, grid, _ = interop.wave_from_abtem(waves)
    potential = interop.potential_from_abtem(theirs)
    assert close(multislice(plane_wave(grid), potential, ENERGY, planes=(-1, 0, 2)), wave)
    again = interop.wave_to_abtem(wave, grid, ENERGY, axes=(axis,))
    assert same_axes(again, waves)
    np.testing.assert_array_equal(again.array, waves.array)


def test_thickness_and_scan_together(abtem, theirs):
    scan = abtem.GridScan(start=(1.0, 2.0), end=(2.5, 6.0), gpts=(3, 4), endpoint=False)
    beam = abtem.Probe(energy=ENERGY, semiangle_cutoff=30.0)
    detectors = [abtem.PixelatedDetector(max_angle="full"), abtem.AnnularDetector(30, 60)]
    patterns, images = beam.scan(theirs, scan=scan, detectors=detectors).compute()

    axes = interop.ensemble_axes(patterns)
    assert [axis.kind for axis in axes] == ["thickness", "scan", "scan"]
    assert [axis.label for axis in axes[1:]] == ["y", "x"]
    np.testing.assert_allclose(axes[1].values, [2.0, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(axes[2].values, [1.0, 1.5, 2.0])
    made, grid, energy = interop.patterns_from_abtem(patterns)
    assert made.shape == (3, 4, 3, *GRID.shape)

    where = np.stack(np.meshgrid(axes[2].values, axes[1].values), -1).reshape(-1, 2)  # (x, y)
    waves = multislice(
        probe(Optics(energy=ENERGY, semiangle=30.0), grid, where),
        interop.potential_from_abtem(theirs),
        ENERGY,
        planes=(-1, 0, 2),
    )
    ours = np.abs(np.fft.fft2(np.asarray(waves))) ** 2
    assert close(ours.reshape(made.shape), made)

    again = interop.patterns_to_abtem(made, grid, energy, axes=axes)
    assert same_axes(again, patterns)
    np.testing.assert_array_equal(again.array, patterns.array)
    ring = again.integrate_radial(30, 60)
    np.testing.assert_allclose(ring.array, images.array, rtol=1e-4, atol=1e-7)

    image, pixels = interop.image_from_abtem(images)
    assert image.shape == (3, 4, 3)
    assert pixels.sampling == pytest.approx((1.0, 0.5))
    (thickness,) = interop.ensemble_axes(images)
    back = interop.image_to_abtem(image, pixels, axes=(thickness,))
    assert same_axes(back, images)
    np.testing.assert_array_equal(back.array, images.array)


def test_positions_and_a_line(abtem, theirs):
    beam = abtem.Probe(energy=ENERGY, semiangle_cutoff=30.0)
    points = [(0.5, 1.5), (3.0, 2.0), (4.0, 5.0)]
    waves = beam.multislice(theirs, scan=abtem.CustomScan(points)).compute()
    axis = interop.ensemble_axes(waves)[-1]
    assert axis.kind == "positions"
    np.testing.assert_allclose(axis.values, points)
    wave, grid, _ = interop.wave_from_abtem(waves)
    assert wave.shape == (3, 3, *GRID.shape)
    again = interop.wave_to_abtem(wave, grid, ENERGY, axes=interop.ensemble_axes(waves))
    assert same_axes(again, waves)

    line = abtem.LineScan(start=(0.5, 1.0), end=(3.5, 5.0), gpts=5, endpoint=False)
    patterns = beam.scan(
        theirs, scan=line, detectors=abtem.PixelatedDetector(max_angle="full")
    ).compute()
    made, _, _ = interop.patterns_from_abtem(patterns)
    assert made.shape == (3, 5, *GRID.shape), "one scan axis is a line: nothing to exchange"
    assert [a.kind for a in interop.ensemble_axes(patterns)] == ["thickness", "scan"]


def test_frozen_phonons_and_focal_series(abtem):
    places = np.random.default_rng(1).uniform(0, 1, (3, 3)) * LENGTHS
    atoms = ase.Atoms([14, 6, 8], places, cell=LENGTHS, pbc=True)
    phonons = abtem.FrozenPhonons(atoms, num_configs=2, sigmas=0.1, seed=0)
    potential = abtem.Potential(phonons, gpts=GRID.shape[::-1], slice_thickness=6.0)
    waves = abtem.PlaneWave(energy=ENERGY).multislice(potential).compute()
    assert [a.kind for a in interop.ensemble_axes(waves)] == ["phonons"]
    foci = waves.apply_ctf(abtem.CTF(defocus=np.array([10.0, 30.0, 50.0]), energy=ENERGY))
    images = foci.intensity().compute()
    axes = interop.ensemble_axes(images)
    assert {a.kind for a in axes} == {"phonons", "parameter"}
    series = next(a for a in axes if a.kind == "parameter")
    np.testing.assert_allclose(np.abs(series.values), [10, 30, 50])
    image, grid = interop.image_from_abtem(images)
    again = interop.image_to_abtem(image, grid, axes=axes)
    np.testing.assert_array_equal(again.array, images.array)
    assert [type(a).__name__ for a in again.ensemble_axes_metadata] == [
        type(a).__name__.replace("NonLinearAxis", "ParameterAxis")
        for a in images.ensemble_axes_metadata
    ]


def test_a_scan_keeps_its_origin_and_its_step(abtem):
    wave = some(1, 4, *GRID.shape)
    there = interop.wave_to_abtem(
        wave, GRID, ENERGY, scan_sampling=(0.4, 0.7), scan_origin=(1.0, 2.0)
    )
    x, y = there.ensemble_axes_metadata
    assert (x.label, x.sampling, x.offset, y.label, y.sampling, y.offset) == (
        *("x", 0.7, 1.0),
        *("y", 0.4, 2.0),
    )
    assert there.array.shape == (4, 1, *GRID.shape[::-1])
    back = interop.ensemble_axes(there)
    assert (back[0].step, back[1].step) == (0.4, 0.7), "one line has no step but that of its axis"
    assert same_axes(interop.wave_to_abtem(wave, GRID, ENERGY, axes=back), there)


def test_our_patterns(abtem):
    intensity = np.abs(some(3, *GRID.shape)) ** 2
    ours = as_patterns(intensity, GRID, ENERGY, crop="cutoff")
    there = interop.patterns_to_abtem(ours)
    assert there.array.shape == np.swapaxes(ours.intensity, 1, 2).shape
    assert there.sampling == pytest.approx(ours.sampling[::-1])
    ky, kx = ours.frequencies()
    np.testing.assert_allclose(there.axes_metadata[-1].coordinates(len(ky)), ky, atol=1e-12)
    np.testing.assert_allclose(there.axes_metadata[-2].coordinates(len(kx)), kx, atol=1e-12)
    back = interop.centred_patterns_from_abtem(there)
    assert isinstance(back, Patterns)
    np.testing.assert_array_equal(back.intensity, ours.intensity)
    assert back.first == pytest.approx(ours.first)
    assert (back.energy, back.sampling) == (ENERGY, pytest.approx(ours.sampling))
    with pytest.raises(ValueError, match="no pixel at zero frequency in the middle"):
        interop.patterns_to_abtem(binned(as_patterns(intensity, GRID, ENERGY, crop="full"), 2))


def test_metadata_goes_along(abtem):
    there = interop.image_to_abtem(
        np.ones(GRID.shape), GRID, metadata={"energy": ENERGY, "label": "dose", "units": "e/Å²"}
    )
    assert (there.metadata["energy"], there.metadata["units"]) == (ENERGY, "e/Å²")
    patterns = interop.patterns_to_abtem(
        np.ones(GRID.shape), GRID, ENERGY, metadata={"semiangle_cutoff": 20.0}
    )
    assert patterns.metadata["semiangle_cutoff"] == 20.0
    assert patterns.metadata["energy"] == ENERGY


def scan(values, **more) -> EnsembleAxis:
    return EnsembleAxis("scan", "y", np.asarray(values, float), "Å", **more)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": [scan([0, 1, 2])], "scan_sampling": 0.1}, "either axes or scan_sampling"),
        ({"axes": []}, r"0 axes describe an array of shape \(3, 40, 28\), which has 1 in front"),
        ({"axes": [scan([0, 1])]}, "axis 'y' has 2 values for 3 entries"),
        ({"axes": [scan([0, 1, 4])]}, "scan axis 'y' has no constant step"),
        ({"axes": [scan([0, 1, 2], step=2.0)]}, "no constant step"),
        ({"axes": [EnsembleAxis("time", "t", [0, 1, 2])]}, "kind 'time' is none of"),
        ({"scan_sampling": 0.3}, r"two scan axes \[y, x\] in front"),
    ],
)
def test_axes_that_do_not_fit(abtem, options, message):
    with pytest.raises(ValueError, match=message):
        interop.wave_to_abtem(some(3, *GRID.shape), GRID, ENERGY, **options)


def test_what_patterns_need(abtem):
    with pytest.raises(ValueError, match="give the grid and the energy of the waves"):
        interop.patterns_to_abtem(np.ones(GRID.shape), GRID)
    there = interop.patterns_to_abtem(np.ones(GRID.shape), GRID, ENERGY)
    there.metadata.pop("energy")
    with pytest.raises(ValueError, match="have no energy"):
        interop.centred_patterns_from_abtem(there)
