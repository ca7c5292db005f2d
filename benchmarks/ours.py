"""Our side of `benchmarks.simulators`: float32, compiled, on as many devices as there are cores."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={cores}"
)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.scenes import ENERGY, SCENES, SEEN, SEMIANGLE, Scene  # noqa: E402
from simulators.atoms import Atoms, make_atoms  # noqa: E402
from simulators.detectors import Annular  # noqa: E402
from simulators.grid import Grid  # noqa: E402
from simulators.imaging import cbed, stem  # noqa: E402
from simulators.multislice import multislice  # noqa: E402
from simulators.optics import Optics, plane_wave  # noqa: E402
from simulators.potential import project  # noqa: E402
from simulators.slicing import slice_index, slice_thicknesses  # noqa: E402
from simulators.tree import replace  # noqa: E402

OPTICS = Optics(energy=ENERGY, semiangle=SEMIANGLE)


def prepare(scene: Scene, name: str) -> tuple[Callable[[], Any], float, Callable[[], np.ndarray]]:
    """What is timed, the factor that its time counts, and its values at the probed positions."""
    grid, atoms = grid_of(scene), atoms_of(scene)
    if name == "d":
        return lambda: done(project(atoms, grid, scene.slice_thickness)), 1.0, _nothing
    potential = done(project(atoms, grid, scene.slice_thickness))
    ring = [Annular(*scene.detector)]
    if name == "a":
        wave = plane_wave(grid)
        return lambda: done(multislice(wave, potential, ENERGY)), 1.0, _nothing
    if name == "e":
        middle = np.array([[scene.box[0] / 2, scene.box[1] / 2]])
        return lambda: done(cbed(potential, OPTICS, middle)), 1.0, _nothing
    if name == "c":
        from simulators.smatrix import build_smatrix, smatrix_stem

        def prism() -> Any:
            matrix = build_smatrix(potential, ENERGY, SEMIANGLE, interpolation=scene.interpolation)
            return done(smatrix_stem(matrix, OPTICS, scene.scan_positions(), ring))

        return prism, 1.0, _nothing

    def scan(detectors: list[Annular]) -> Any:
        return done(stem(potential, OPTICS, scene.scan_positions(), detectors))

    return lambda: scan(ring), 1.0, lambda: _probed(scan([Annular(*SEEN)])[0], scene)


def converged(name: str) -> np.ndarray:
    """The signal at the probed positions with twice the sampling and half the slices."""
    scene = SCENES[name]
    grid = Grid.over((scene.box[1], scene.box[0]), shape=(2 * scene.gpts, 2 * scene.gpts))
    potential = project(atoms_of(scene), grid, scene.slice_thickness / 2)
    signal = stem(
        potential,
        OPTICS,
        scene.probed(),
        [Annular(*SEEN)],
        step="symmetric",
        method="multislice",
        batch=4,
    )
    return np.asarray(signal[0], float)


def alone(name: str) -> dict[str, float]:
    """The scenes that have no peer."""
    return {"f": _training_images, "g": _gradient}[name]()


def _training_images() -> dict[str, float]:
    """Labelled images a second: linear at 64² and 128² of the network, and multislice at 128²."""
    from emjax.config import SceneConfig
    from emjax.data.synthetic import make_draw
    from simulators.specimens import MATERIALS

    classes = ("C", "Si", "S", "Se", "Mo", "W", "other")
    materials = {name: MATERIALS[name] for name in ("graphene", "mos2")}
    result = {}
    for config, batch in ((SceneConfig(), 32), (SceneConfig(patch=128, sampling=0.1), 16)):
        linear = jax.jit(make_draw(config, materials, classes, batch))
        seconds = median_time(lambda k, draw=linear: done(draw(jax.random.key(k))))
        result[f"linear_{config.patch}_per_s"] = batch / seconds
    for name in materials:
        result[f"multislice_128_{name}_per_s"] = 1 / _multislice_image(name)
    return result


def _multislice_image(name: str) -> float:
    """Seconds for one 128² image of a random specimen by multislice, its labels included."""
    from simulators.scan import raster
    from simulators.specimens import MATERIALS, columns
    from simulators.specimens.random_crystal import random_crystal

    extent, grid = (12.8, 12.8), Grid((192, 192), (12.8 / 192, 12.8 / 192))
    optics = Optics(energy=80e3, semiangle=25.0)
    ring = [Annular(60.0, 180.0)]
    positions = raster(extent, (128, 128))

    def image(key: int) -> Any:
        atoms = random_crystal(jax.random.key(key), MATERIALS[name], extent, n_max=96)
        potential = project(atoms, grid, 2.4, depth=7.2)
        return done((stem(potential, optics, positions, ring), columns(atoms)))

    return median_time(image)


def _gradient() -> dict[str, float]:
    """A loss of 8 × 8 positions of scene b, and its gradient with respect to the atoms."""
    scene = SCENES["b"]
    grid, atoms = grid_of(scene), atoms_of(scene)
    ring = [Annular(*scene.detector)]
    positions = scene.scan_positions()[::4, ::4]
    thickness = slice_thicknesses(scene.box[2], scene.slice_thickness)
    layers = slice_index(atoms.positions[:, 2], scene.box[2], thickness)

    def loss(places: jax.Array) -> jax.Array:
        moved = replace(atoms, positions=places)
        potential = project(moved, grid, scene.slice_thickness, depth=scene.box[2], layers=layers)
        return jnp.sum(stem(potential, OPTICS, positions, ring, method="multislice") ** 2)

    forward, backward = jax.jit(loss), jax.jit(jax.grad(loss))
    places = jnp.asarray(atoms.positions, jnp.float32)
    there = median_time(lambda _: done(forward(places)))
    back = median_time(lambda _: done(backward(places)))
    return {"forward_s": there, "gradient_s": back, "gradient_over_forward": back / there}


def grid_of(scene: Scene) -> Grid:
    return Grid.over((scene.box[1], scene.box[0]), shape=(scene.gpts, scene.gpts))


def atoms_of(scene: Scene) -> Atoms:
    numbers, positions = scene.atoms()
    return make_atoms(positions, numbers, np.asarray(scene.box))


def _probed(image: Any, scene: Scene) -> np.ndarray:
    step = scene.scan // scene.probed().shape[0]
    return np.asarray(image, float)[::step, ::step]


def done(result: Any) -> Any:
    return jax.block_until_ready(result)


def median_time(call: Callable[[int], Any], n: int = 3) -> float:
    """Seconds of a call, the first left out."""
    call(0)
    times = []
    for k in range(1, n + 1):
        start = time.perf_counter()
        call(k)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _nothing() -> np.ndarray:
    return np.zeros(0)
