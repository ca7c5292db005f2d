"""A glass on a crystal inside `jit`, with a rough interface as label: SiO2 on SiC or silicon.

The crystal ends at a rough line across the box; above it lies glass by random sequential packing.
Bonds across the interface are not relaxed: the glass keeps its pair distance from the crystal.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms
from simulators.scattering import atomic_number
from simulators.specimens.amorphous import check_packing, glass_of, mixture, packed
from simulators.specimens.bulk import bulk
from simulators.specimens.cut import assemble, checked_extent, cloud, ranked, reach
from simulators.specimens.oriented import frame
from simulators.tree import pytree

WAVES = 4
"""Harmonics of the rough line; the shortest is a quarter of the box long."""

POINTS = 64
"""Places along x at which the label gives the line."""


@pytree
class GlassInterfaceLabels:
    """Where a crystal ends and a glass begins.

    Attributes
    ----------
    height : float
        Mean y of the interface, Å.
    roughness : float
        Its standard deviation over x, Å.
    line : float [64]
        y of the interface at 64 places from x = 0 to the box's side, Å.
    glass : bool [n]
        Which atoms are of the glass.
    """

    height: Any
    roughness: Any
    line: Any
    glass: Any


@functools.lru_cache(maxsize=16)
def _table(name: str, zone: tuple, across: tuple, radius: float) -> tuple[np.ndarray, ...]:
    b = bulk(name)
    margin = np.linalg.norm(b.cell, axis=1).sum()
    points, sites = cloud(b.cell, b.positions, radius + margin)
    turned = points @ np.asarray(frame(b, zone, across)).T
    cell = np.asarray(b.cell) @ np.asarray(frame(b, zone, across)).T
    return turned, np.asarray(b.numbers)[sites], cell


def glass_interface(
    key: jax.Array,
    extent: tuple[float, float],
    *,
    n_max: int,
    crystal: str = "SiC",
    zone: tuple[int, int, int] = (1, 1, 0),
    across: tuple[int, int, int] = (1, -1, 0),
    glass: str = "SiO2",
    roughness: tuple[float, float] = (0.0, 3.0),
    thickness: float = 8.0,
) -> tuple[Atoms, GlassInterfaceLabels]:
    """A crystal along a zone axis below, a glass above; not periodic.

    Parameters
    ----------
    key : random key.
    extent : (y, x)
        Of the box, Å.
    n_max : int
        Rows; the outermost atoms are left out where there are more.
    crystal : str
        Of `bulk.BULKS`.
    zone, across : three integers
        Direction along the beam, and the one that lies along +x: (1, 1, 0) and (1, -1, 0) make a
        (001) surface of a cubic crystal.
    glass : str
        Of `amorphous.GLASSES`.
    roughness : (low, high)
        Standard deviation of the interface, Å, uniform.
    thickness : float
        Depth of the box, Å.

    Raises
    ------
    ValueError
        An unknown crystal or glass, a roughness out of order, a box too small.
    """
    y, x = checked_extent(extent, 8.0, "a glass on a crystal")
    if not 0 <= roughness[0] <= roughness[1]:
        raise ValueError(f"roughness must be (low, high) in Å, 0 or more, got {roughness}")
    composition, density, distance = glass_of(glass)
    box = (x, y, float(thickness))
    count = check_packing(density, distance, box)
    below = bulk(crystal)
    keys = jax.random.split(key, 6)

    # the line: a few harmonics of random size, scaled to the roughness that was drawn
    order = jnp.arange(1, WAVES + 1)
    size = jax.random.normal(keys[0], (2, WAVES)) / order[None]
    spread = jnp.sqrt(0.5 * jnp.square(size).sum())
    sigma = jax.random.uniform(keys[1], (), minval=roughness[0], maxval=roughness[1] + 1e-9)
    height = y * jax.random.uniform(keys[2], (), minval=0.35, maxval=0.65)

    def line(at: jax.Array) -> jax.Array:
        phase = 2 * math.pi * at[:, None] * order[None] / x
        waves = size[0][None] * jnp.cos(phase) + size[1][None] * jnp.sin(phase)
        return height + sigma * waves.sum(1) / spread

    points, kinds, cell = _table(crystal, tuple(zone), tuple(across), reach(box))
    shift = jax.random.uniform(keys[3], (3,)) @ jnp.asarray(cell)
    solid = jnp.asarray(points) - shift[None] + 0.5 * jnp.asarray(box)[None]
    solid_there = solid[:, 1] < line(solid[:, 0])
    rows, there = ranked(solid, solid_there, box, n_max)

    loose, found = packed(keys[4], box, count, distance)
    found = found & (loose[:, 1] >= line(loose[:, 0]))
    gap = jnp.square(loose[:, None] - solid[rows][None]).sum(-1)
    found = found & ~((gap < distance**2) & there[None]).any(1)
    numbers = jax.random.permutation(keys[5], jnp.asarray(mixture(composition, count)))

    positions = jnp.concatenate([jnp.where(there[:, None], solid[rows], -1.0), loose])
    species = jnp.concatenate([jnp.asarray(kinds)[rows], numbers])
    of_glass = jnp.arange(len(species)) >= n_max
    rows, there = ranked(positions, jnp.concatenate([there, found]), box, n_max)
    elements = (*below.elements, *(atomic_number(symbol) for symbol in composition))
    sigmas = jnp.where(of_glass[rows], 0.1, below.sigma)
    atoms = assemble(positions[rows], species[rows], sigmas, there, box, elements)
    places = jnp.linspace(0, x, POINTS)
    return atoms, GlassInterfaceLabels(height, sigma, line(places), there & of_glass[rows])
