"""Annular dark-field images of random specimens with their labels, drawn inside the training step.

The image model is the linear one (`simulators.linear`): some hundred images a second on a
laptop core, right for thin specimens. What it gets wrong of thick ones, the brightness of columns
relative to each other, is drawn at random instead (`SceneConfig.contrast`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from emjax.config import OpticsConfig, SceneConfig
from emjax.data.synthetic_scan import NATIVE, Expose, random_optics, record
from emjax.sharding import vmap_over_devices
from simulators.atoms import Atoms
from simulators.grid import Grid
from simulators.linear import cross_section_table, sample_lines, spectrum, transfer
from simulators.optics import Optics
from simulators.specimens import Disorder, Material, columns, generic, random_crystal
from simulators.specimens.generic import generic_cells
from simulators.specimens.materials import LAYER_DEPTH
from simulators.specimens.random_crystal import most_cells, stack

if TYPE_CHECKING:
    from emjax.data.synthetic_prism import Bank

OTHER = "other"
"""Class of the columns of crystals that have no name."""
UNLABELLED = ("H", "He", "Li", "Be", "O")
"""Columns of these alone cannot be seen beside others and are not asked for."""
REACH = 2.2
"""Atoms so far outside the patch [Å] still shine into it."""


def class_table(materials: Mapping[str, Material], classes: tuple[str, ...]) -> np.ndarray:
    """Class index [materials + 1, 99] of every atomic number; -1 is not labelled.

    The last row is that of the generic crystals: all but the lightest columns are `OTHER`.

    Raises
    ------
    ValueError
        A class that is not an element, no class `OTHER`, or an element without a class.
    """
    if OTHER not in classes:
        raise ValueError(f"classes need {OTHER!r} for the columns of unknown crystals: {classes}")
    table = np.full((len(materials) + 1, 99), -1)
    for index, name in enumerate(classes):
        if name == OTHER:
            table[-1, 9:] = index
        elif name in atomic_numbers:
            table[:-1, atomic_numbers[name]] = index
        else:
            raise ValueError(f"the class {name!r} is no element")
    for name, crystal in materials.items():
        heavy = {chemical_symbols[z] for z in crystal.lattice.elements} - set(UNLABELLED)
        if heavy - set(classes):
            missing = ", ".join(sorted(heavy - set(classes)))
            raise ValueError(
                f"{name} has columns of {missing}, which the classes {classes} do not name: add "
                "them to the classes, or leave the crystal out"
            )
    return table


ENGINES = ("linear", "prism")


def make_draw(
    scene: SceneConfig,
    materials: Mapping[str, Material],
    classes: tuple[str, ...],
    batch: int,
    *,
    optics: OpticsConfig | None = None,
    engine: str = "linear",
    specimens: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """``draw(key) -> batch`` of random images with labels, to run inside `jit`.

    Parameters
    ----------
    scene : what the images are like.
    materials : crystals by name, drawn with equal chance (all but `scene.generic`).
    classes : names of the species: elements, and `OTHER`.
    batch : images.
    optics : the microscope that the random probes scatter about.
    engine : "linear", a new specimen in every image; or "prism", the dynamical images of a bank of
        `specimens` (see `synthetic_prism`), which is made here and reported to `progress`.

    Returns
    -------
    draw
        Of a dict: ``image`` [b, y, x, 2] as `normalise` makes it; ``heat`` [b, y, x], Gaussians of
        height 1 on the columns; ``vacant`` [b, y, x], the same on sites that have lost their
        column; ``species`` [b, y, x, k], which of the classes a pixel belongs to.

    Raises
    ------
    ValueError
        No material, an unknown engine, a patch that the simulated scan does not hold.
    """
    if engine not in ENGINES:
        raise ValueError(f"there is no engine {engine!r}: choose from {', '.join(ENGINES)}")
    if not materials or batch < 1:
        raise ValueError("give at least one material and a batch of at least one image")
    window = scene.patch * scene.sampling
    if window + 2 * REACH > NATIVE * scene.pixel[0] + REACH:
        raise ValueError(
            f"a patch of {window:.1f} Å does not fit into {NATIVE} pixels of {scene.pixel[0]} Å: "
            "use a smaller patch or coarser pixels"
        )
    lens = (optics or OpticsConfig()).build()
    side = window + 2 * REACH
    table = jnp.asarray(class_table(materials, classes))
    disorder = disorder_of(scene)

    if engine == "prism":
        from emjax.data import synthetic_prism as prism

        bank = prism.make_bank(
            jax.random.key(0),
            scene,
            lens,
            materials,
            np.asarray(table),
            specimens,
            disorder=disorder,
            progress=progress,
        )

        return jax.tree_util.Partial(
            functools.partial(_draw_dynamical, scene, lens, len(classes), batch), bank
        )

    specimen = make_specimen(scene, materials, (side, side), lens.energy)

    def one(key: jax.Array) -> dict[str, jax.Array]:
        *keys, k_image = jax.random.split(key, 5)
        atoms, index, weights = specimen(*keys)
        labels = table[index]
        expose = _linear(scene, lens, atoms.positions[:, :2] - side / 2, weights)
        image, where = record(k_image, scene, expose)
        found = columns(atoms)
        kind = labels[found.numbers]
        there = found.present & (kind >= 0)
        heat, species = _labels(where(found.xy - side / 2), kind, there, scene, len(classes))
        empty = (atoms.occupancy == 0) & (labels[atoms.numbers] >= 0)
        sites = where(atoms.positions[:, :2] - side / 2)
        vacant = _bumps(sites, empty, scene) * (1 - heat)
        return {"image": image, "heat": heat, "vacant": vacant, "species": species}

    return lambda key: vmap_over_devices(one)(jax.random.split(key, batch))


def disorder_of(scene: SceneConfig) -> Disorder:
    """What is wrong with the crystals of a scene."""
    return Disorder(
        vacancies=scene.vacancies,
        substitutions=scene.substitutions,
        damage=scene.damage,
        strain=scene.shear,
        boundary=scene.boundary,
        edge=scene.edge,
    )


def make_specimen(
    scene: SceneConfig,
    materials: Mapping[str, Material],
    extent: tuple[float, float],
    energy: float,
) -> Callable[..., tuple[Atoms, jax.Array, jax.Array]]:
    """``specimen(k_kind, k_crystal, k_atoms, k_gain) -> (atoms, index, weights)``, inside `jit`.

    A random crystal over `extent` (y, x) Å; `index` of its material, or their number for a generic
    one; `weights` [n], how brightly each atom shines in the linear model.
    """
    stacked = stack(list(materials.values()))
    cells = np.maximum(most_cells(list(materials.values()), extent), generic_cells(extent))
    cross = jnp.asarray(cross_section_table(energy, scene.inner, scene.outer), jnp.float32)
    n_max = int(0.48 * extent[0] * extent[1])  # the densest crystal has 0.4 atoms per Å²
    disorder = disorder_of(scene)

    def specimen(
        k_kind: jax.Array, k_crystal: jax.Array, k_atoms: jax.Array, k_gain: jax.Array
    ) -> tuple[Atoms, jax.Array, jax.Array]:
        coin, pick = jax.random.uniform(k_kind, (2,))
        unnamed = coin < scene.generic
        index = jnp.floor(pick * len(materials)).astype(int)
        known = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], stacked)
        unknown = generic(k_crystal, rows=known.lattice.n, elements=known.lattice.elements)
        chosen = jax.tree.map(lambda a, b: jnp.where(unnamed, a, b), unknown, known)
        atoms = random_crystal(
            k_atoms,
            chosen,
            extent,
            n_max=n_max,
            disorder=disorder,
            cells=(int(cells[0]), int(cells[1])),
        )
        layer = ~unnamed & (chosen.lattice.height == LAYER_DEPTH)
        exponent, own = _brightness(k_gain, scene, layer)
        shine = (cross / cross[6]) ** exponent * own
        return (
            atoms,
            jnp.where(unnamed, len(materials), index),
            (shine[atoms.numbers] * atoms.occupancy),
        )

    return specimen


def _draw_dynamical(
    scene: SceneConfig, lens: Optics, k: int, batch: int, bank: Bank, key: jax.Array
) -> dict[str, jax.Array]:
    """A batch of images of the specimens of a bank."""
    from emjax.data.synthetic_prism import VACANT, exposure

    def one(key: jax.Array) -> dict[str, jax.Array]:
        k_index, k_turn, k_place, k_image = jax.random.split(key, 4)
        index = jax.random.randint(k_index, (), 0, bank.xy.shape[0])
        turn = jax.random.uniform(k_turn, maxval=2 * np.pi)
        offset = jax.random.uniform(k_place, (2,), minval=-1.0, maxval=1.0)
        expose, xy = exposure(bank, index, turn, offset, scene, lens)
        image, where = record(k_image, scene, expose)
        kind, sites = bank.kind[index], where(xy)
        heat, species = _labels(sites, kind, kind >= 0, scene, k)
        vacant = _bumps(sites, kind == VACANT, scene) * (1 - heat)
        return {"image": image, "heat": heat, "vacant": vacant, "species": species}

    return jax.lax.map(one, jax.random.split(key, batch), batch_size=min(16, batch))


def _brightness(
    key: jax.Array, scene: SceneConfig, layer: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Exponent on the cross-sections, and every element's own factor."""
    a, b = jax.random.split(key)
    low, high = jnp.where(layer, jnp.asarray(scene.contrast_layer), jnp.asarray(scene.contrast))
    gain = jnp.where(layer, scene.gain_layer, scene.gain)
    exponent = jax.random.uniform(a, minval=low, maxval=high)
    return exponent, jnp.exp(gain * jax.random.normal(b, (99,)))


def _linear(scene: SceneConfig, lens: Optics, xy: jax.Array, weights: jax.Array) -> Expose:
    """The linear image of atoms at `xy` (about the middle)."""
    # grids are static, pixel sizes are drawn: so all lengths are scaled to a fixed pixel instead
    grid = Grid((NATIVE, NATIVE), (scene.sampling, scene.sampling))

    def expose(key: jax.Array, pixel: jax.Array, shift: jax.Array) -> jax.Array:
        scale = scene.sampling / pixel
        form = spectrum((xy + NATIVE * pixel / 2) * scale, weights, grid)
        probe = transfer(random_optics(key, scene, lens, scale), grid)
        return sample_lines(form * probe, grid, shift * scale)

    return expose


def _labels(
    centres: jax.Array, kind: jax.Array, there: jax.Array, scene: SceneConfig, k: int
) -> tuple[jax.Array, jax.Array]:
    """Heat map [y, x] and shares of the species [y, x, k] of columns at pixels (x, y)."""
    y, x = _profiles(centres, scene)
    one_hot = jax.nn.one_hot(kind, k, dtype=centres.dtype) * there[:, None]
    shares = x.T @ (y[:, None, :] * one_hot[:, :, None]).reshape(len(kind), -1)
    shares = shares.reshape(scene.patch, k, scene.patch).transpose(2, 0, 1)
    total = shares.sum(-1)
    return jnp.minimum(total, 1.0), shares / (total[..., None] + 1e-6)


def _bumps(centres: jax.Array, there: jax.Array, scene: SceneConfig) -> jax.Array:
    """Heat map [y, x] of some of the points."""
    y, x = _profiles(centres, scene)
    return jnp.minimum((y * there[:, None]).T @ x, 1.0)


def _profiles(centres: jax.Array, scene: SceneConfig) -> tuple[jax.Array, jax.Array]:
    """Gaussians of every point along y and along x, [n, pixels] each."""
    pixels = jnp.arange(scene.patch, dtype=centres.dtype)
    away = (pixels[None, None] - centres.T[:, :, None]) * scene.sampling / scene.width
    x, y = jnp.exp(-0.5 * jnp.square(away))
    return y, x
