"""abTEM's side of `benchmarks.simulators`: its own defaults, float32, warm."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.scenes import ENERGY, SEEN, SEMIANGLE, Scene

PART = 32
"""Larger scans are timed on a part of this many positions a side and scaled."""


def prepare(scene: Scene, name: str) -> tuple[Callable[[], Any], float, Callable[[], np.ndarray]]:
    """What is timed, the factor that its time counts, and its values at the probed positions."""
    warnings.filterwarnings("ignore")
    import abtem
    from ase import Atoms

    abtem.config.set({"precision": "float32", "diagnostics.progress_bar": False})
    numbers, positions = scene.atoms()
    atoms = Atoms(numbers, positions=positions, cell=scene.box, pbc=True)
    potential = abtem.Potential(atoms, gpts=scene.gpts, slice_thickness=scene.slice_thickness)
    if name == "d":
        return lambda: potential.build().compute(), 1.0, _nothing
    built = potential.build(lazy=False)
    side = scene.box[0]
    if name == "a":
        wave = abtem.PlaneWave(energy=ENERGY)
        return lambda: wave.multislice(built).compute(), 1.0, _nothing
    probe = abtem.Probe(energy=ENERGY, semiangle_cutoff=SEMIANGLE)
    if name == "e":
        pixels = abtem.PixelatedDetector(max_angle="cutoff")
        middle = (side / 2, side / 2)
        return (
            lambda: probe.multislice(built, scan=middle, detectors=pixels).compute(),
            1.0,
            _nothing,
        )
    ring = abtem.AnnularDetector(*scene.detector)
    if name == "c":
        matrix = abtem.SMatrix(
            potential=built,
            energy=ENERGY,
            semiangle_cutoff=SEMIANGLE,
            interpolation=scene.interpolation,
        )
        scan = abtem.GridScan(start=(0, 0), end=(side, side), gpts=(scene.scan, scene.scan))
        return lambda: matrix.scan(scan=scan, detectors=ring).compute(), 1.0, _nothing
    part = min(PART, scene.scan)
    end = side * part / scene.scan
    scan = abtem.GridScan(start=(0, 0), end=(end, end), gpts=(part, part))

    def values() -> np.ndarray:
        custom = abtem.CustomScan(scene.probed().reshape(-1, 2))
        whole = abtem.AnnularDetector(*SEEN)
        image = probe.scan(built, scan=custom, detectors=whole).compute()
        return np.asarray(image.array, float)

    return (
        lambda: probe.scan(built, scan=scan, detectors=ring).compute(),
        (scene.scan / part) ** 2,
        values,
    )


def _nothing() -> np.ndarray:
    return np.zeros(0)
