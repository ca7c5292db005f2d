"""How the simulators' cost grows with positions, slices, pixels and atoms: a table and a plot.

    python -m benchmarks.simulator_sizes [--out DIR]

One process, float32, warm; straight lines in the plot are powers. A scan's cost stops growing with
the positions where the scattering matrix takes over.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ours import OPTICS, atoms_of, done, grid_of, median_time
from benchmarks.scenes import ENERGY, Scene
from simulators.detectors import Annular
from simulators.imaging import stem
from simulators.multislice import multislice
from simulators.optics import plane_wave
from simulators.potential import project

BOX = (25.6, 25.6, 40.0)


def measure() -> dict[str, tuple[list[int], list[float]]]:
    """{what grows: (sizes, seconds)}."""
    base = Scene("", 500, BOX, 256, 0)
    potential = project(atoms_of(base), grid_of(base), 2.0)
    ring = [Annular(60.0, 80.0)]

    def scan(side: int) -> Any:
        step = np.arange(side) / side * BOX[0]
        positions = np.stack(np.meshgrid(step, step), axis=-1)
        return lambda _: done(stem(potential, OPTICS, positions, ring))

    def slices(n: int) -> Any:
        thin = project(atoms_of(base), grid_of(base), BOX[2] / n)
        return lambda _: done(multislice(plane_wave(thin.grid), thin, ENERGY))

    def pixels(n: int) -> Any:
        scene = Scene("", 500, BOX, n, 0)
        fine = project(atoms_of(scene), grid_of(scene), 2.0)
        return lambda _: done(multislice(plane_wave(fine.grid), fine, ENERGY))

    def atoms(n: int) -> Any:
        scene = Scene("", n, BOX, 256, 0)
        return lambda _: done(project(atoms_of(scene), grid_of(scene), 2.0))

    series = {
        "positions (STEM, 256² × 20)": (scan, [4, 8, 16, 32, 64, 128], lambda n: n * n),
        "slices (plane wave, 256²)": (slices, [5, 10, 20, 40, 80], int),
        "pixels (plane wave, 20 slices)": (pixels, [128, 256, 512, 1024], lambda n: n * n),
        "atoms (potential, 256² × 20)": (atoms, [100, 1000, 10_000, 100_000], int),
    }
    result = {}
    for name, (make, sizes, count) in series.items():
        times = [median_time(make(n)) for n in sizes]
        result[name] = [count(n) for n in sizes], times
        print(name)
        for n, seconds in zip(result[name][0], times, strict=True):
            print(f"    {n:8d}  {seconds:9.4f} s", flush=True)
    return result


def plot(result: dict[str, tuple[list[int], list[float]]], path: Path) -> None:
    """Time against size, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(result), figsize=(4 * len(result), 3.5))
    for axis, (name, (sizes, times)) in zip(axes, result.items(), strict=True):
        axis.loglog(sizes, times, "o-")
        axis.set(xlabel=name, ylabel="seconds")
        axis.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for the plot")
    options = parser.parse_args()
    result = measure()
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        plot(result, options.out / "simulator_sizes.png")


if __name__ == "__main__":
    main()
