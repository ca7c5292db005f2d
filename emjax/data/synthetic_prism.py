"""Training images from scattering matrices: dynamical scattering inside the training step.

A bank of random specimens is sent through multislice once, before the training. Inside the step,
one specimen's matrix makes the image for any probe, position, rotation and pixel size
(`simulators.gram`), so no two images are alike. A specimen costs some 10 MB. The beam energy is
that of the optics; resolutions vary with the aperture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from emjax.config import SceneConfig
from emjax.data.synthetic_scan import NATIVE, Expose, random_optics
from simulators.atoms import make_atoms, wrapped
from simulators.detectors import Annular
from simulators.electron import wavelength
from simulators.gram import Gram, beams_in, gram, image_series
from simulators.grid import ANTIALIAS_CUTOFF, Grid
from simulators.optics import Optics
from simulators.phonons import snapshot
from simulators.potential import project
from simulators.series import blurred, read_raster
from simulators.specimens import Disorder, Material, columns, generic, random_crystal
from simulators.specimens.materials import LAYER_DEPTH
from simulators.tree import pytree, replace, static

LAYERS = 10
"""Most periods of a crystal along the beam."""


VACANT = -2
"""In place of the class: a site that has lost its column."""


@pytree
class Bank:
    """Scattering matrices of `n` specimens with their columns.

    Attributes
    ----------
    matrices : complex [n, beams, beams]
    xy : float [n, m, 2]
        Columns, Å from the middle of the box.
    kind : int [n, m]
        Class; -1 where there is no column to find, `VACANT` where one is missing.
    semiangle, energy : float, static
        mrad and eV; the beams are those of `prism.beams_in`.
    grid : Grid, static
    """

    matrices: Any
    xy: Any
    kind: Any
    semiangle: float = static()
    energy: float = static()
    grid: Grid = static()


def make_bank(
    key: jax.Array,
    scene: SceneConfig,
    optics: Optics,
    materials: Mapping[str, Material],
    labels: np.ndarray,
    count: int,
    *,
    disorder: Disorder,
    box: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Bank:
    """Send `count` random specimens through multislice.

    Parameters
    ----------
    labels : of `synthetic.class_table`.
    box : side of the specimens [Å]; by default the patch fits in at any rotation.
    """
    window = scene.patch * scene.sampling
    box = float(np.hypot(window, window) + 3.0) if box is None else box
    pixel = ANTIALIAS_CUTOFF * wavelength(optics.energy) * 1e3 / (2 * 4 / 3 * scene.outer)
    side = scipy.fft.next_fast_len(int(np.ceil(box / pixel)))
    grid = Grid.over((box, box), shape=(side, side))
    semiangle = optics.semiangle * scene.semiangle[1]
    detector = [Annular(scene.inner, scene.outer)]
    known, n_max = list(materials.values()), int(0.48 * box**2)
    entries, matrix = [], None
    for number in range(count):
        one = jax.random.fold_in(key, number)
        rng = np.random.default_rng(int(jax.random.randint(one, (), 0, 2**31 - 1)))
        unnamed = rng.uniform() < scene.generic
        index = len(known) if unnamed else int(rng.integers(len(known)))
        chosen = (
            jax.tree.map(np.asarray, generic(jax.random.fold_in(one, 1)))
            if unnamed
            else known[index]
        )
        flat = random_crystal(
            jax.random.fold_in(one, 2), chosen, (box, box), n_max=n_max, disorder=disorder
        )
        layer = not unnamed and chosen.lattice.height == LAYER_DEPTH
        # a layer is seen where its atoms are, a thick crystal where they are on average
        shown = snapshot(jax.random.fold_in(one, 3), flat) if layer else flat
        found = columns(flat, shown=shown)
        kind = np.where(np.asarray(found.present), labels[index][np.asarray(found.numbers)], -1)
        empty = np.asarray(flat.occupancy) == 0
        kind[empty & (labels[index][np.asarray(flat.numbers)] >= 0)] = VACANT
        periods = 1 if layer else int(rng.integers(1, LAYERS + 1))
        thick = wrapped(snapshot(jax.random.fold_in(one, 4), _thick(shown, periods)))
        potential = project(thick, grid, 2.4 if layer else 2.0)
        matrix = gram(potential, optics.energy, semiangle, detector)
        xy = np.asarray(found.xy, np.float32) - box / 2
        entries.append((np.asarray(matrix.matrices[0]), xy, kind))
        if progress is not None:
            progress(number + 1, count)
    if matrix is None:
        raise ValueError("a bank needs at least one specimen")
    matrices, xy, kind = (jnp.asarray(np.stack(leaf)) for leaf in zip(*entries, strict=True))
    return Bank(matrices, xy, kind, semiangle, optics.energy, grid)


def _thick(flat: Any, periods: int) -> Any:
    """The same specimen `periods` times along the beam."""
    there = np.asarray(flat.occupancy) > 0
    height = float(flat.cell[2])
    positions = np.asarray(flat.positions, float)[there]
    every = np.concatenate([positions + np.array([0, 0, height * i]) for i in range(periods)])
    cell = np.asarray(flat.cell, float) * [1, 1, periods]
    if not len(every):  # an empty box: one atom that is not there
        return make_atoms(np.zeros((1, 3)), np.array([6]), cell, occupancy=np.zeros(1))
    numbers, sigma = (np.asarray(leaf)[there] for leaf in (flat.numbers, flat.sigma))
    return make_atoms(
        every, np.tile(numbers, periods), cell, sigma=np.tile(sigma, periods).astype(float)
    )


def exposure(
    bank: Bank,
    index: jax.Array,
    turn: jax.Array,
    offset: jax.Array,
    scene: SceneConfig,
    lens: Optics,
) -> tuple[Expose, jax.Array]:
    """The image of specimen `index` for `record`, and its columns [m, 2] in the scan's axes.

    Parameters
    ----------
    turn : rotation of the scan, rad.
    offset : (x, y) of the scan's middle from that of the box, Å.
    """
    beams = beams_in(bank.grid, bank.energy, bank.semiangle)
    matrix = Gram(bank.matrices[index][None], beams, bank.grid, bank.energy, (0.0, 0.0))
    middle = jnp.asarray(bank.grid.extent[::-1]) / 2 + offset
    c, s = jnp.cos(turn), jnp.sin(turn)
    axes = jnp.stack([jnp.stack([c, s]), jnp.stack([-s, c])])

    def expose(key: jax.Array, pixel: jax.Array, shift: jax.Array) -> jax.Array:
        optics = random_optics(key, scene, lens)
        optics = replace(
            optics, energy=bank.energy, semiangle=jnp.minimum(optics.semiangle, bank.semiangle)
        )
        series = blurred(image_series(matrix, optics), optics.source_size)
        half = jnp.full(2, NATIVE / 2) * pixel
        return read_raster(
            series,
            (NATIVE, NATIVE),
            pixel,
            origin=middle - half @ axes,
            rotation=turn,
            shift=shift @ axes,
        )[0]

    return expose, (bank.xy[index] - offset) @ axes.T
