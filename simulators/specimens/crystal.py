"""Random pieces of known crystals along random zone axes, inside `jit`.

Periodic cells along a given zone axis are made by `oriented`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms
from simulators.specimens.bulk import bulk
from simulators.specimens.cut import about, assemble, checked_extent, cloud, ranked, reach
from simulators.specimens.oriented import frame
from simulators.tree import pytree

CRYSTALS = ("Au", "Fe", "Mg", "Si", "GaAs", "SrTiO3", "TiO2", "CeO2")
"""One of each structure: fcc, bcc, hcp, diamond, zincblende, perovskite, rutile, fluorite."""

ZONES = ((0, 0, 1), (1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 1, 0), (2, 1, 1), (2, 2, 1), (1, 2, 3))


@pytree
class CrystalLabels:
    """How the crystal of a scene lies.

    Attributes
    ----------
    crystal, zone : int
        Which of the names and which of the zone axes.
    rotation : float [3, 3]
        From the crystal's Cartesian frame to the image's: ``r = rotation @ r_crystal``.
    tilt : float [2]
        Of the zone axis away from the beam towards x and y, mrad.
    thickness : float
        Å.
    basis : int [n]
        Row of the primitive cell that every atom comes from; -1 in padding rows.
    """

    crystal: Any
    zone: Any
    rotation: Any
    tilt: Any
    thickness: Any
    basis: Any


@functools.lru_cache(maxsize=16)
def _table(names: tuple[str, ...], zones: tuple, radius: float) -> tuple[np.ndarray, ...]:
    """Clouds [s, n, 3], sites [s, n], numbers [s, n], sigma [s], frames [s, z, 3, 3], cells."""
    crystals = [bulk(name) for name in names]
    frames = np.stack([[frame(b, zone) for zone in zones] for b in crystals])
    # any point of one primitive cell comes into the middle, so the ball reaches farther by a cell
    balls = [
        cloud(b.cell, b.positions, radius + np.linalg.norm(b.cell, axis=1).sum()) for b in crystals
    ]
    most = max(len(sites) for _, sites in balls)
    positions = np.full((len(names), most, 3), np.inf)
    sites = np.full((len(names), most), -1)
    numbers = np.zeros((len(names), most), int)
    for i, (b, (points, rows)) in enumerate(zip(crystals, balls, strict=True)):
        positions[i, : len(rows)], sites[i, : len(rows)] = points, rows
        numbers[i, : len(rows)] = np.asarray(b.numbers)[rows]
    cells = np.stack([b.cell for b in crystals])
    return positions, sites, numbers, np.array([b.sigma for b in crystals]), frames, cells


def crystal(
    key: jax.Array,
    extent: tuple[float, float],
    *,
    n_max: int,
    names: tuple[str, ...] = CRYSTALS,
    zones: tuple[tuple[int, int, int], ...] = ZONES,
    thickness: float = 8.0,
    tilt: Any = 20.0,
) -> tuple[Atoms, CrystalLabels]:
    """A box of a random crystal, cut from the infinite one; not periodic at its sides.

    Parameters
    ----------
    key : random key.
    extent : (y, x)
        Of the box, Å.
    n_max : int
        Rows of the result; where there are more atoms, the outermost are left out.
    names : tuple of str
        Crystals to choose from; see `bulk.BULKS`.
    zones : tuple of [u, v, w]
        Zone axes to choose from.
    thickness : float
        Depth of the box, Å.
    tilt : float
        Standard deviation of the tilt off the zone axis in each direction, mrad.

    Raises
    ------
    ValueError
        An unknown crystal, a zone axis (0, 0, 0), a box too small.
    """
    y, x = checked_extent(extent, 2.0, "a crystal")
    box = (x, y, float(thickness))
    if not thickness >= 1:
        raise ValueError(f"a crystal needs a thickness of at least 1 Å, got {thickness}")
    if not (names and zones):
        raise ValueError("give at least one crystal and one zone axis")
    table = _table(tuple(names), tuple(map(tuple, zones)), reach(box))
    points, sites, numbers, sigma, frames, cells = (jnp.asarray(leaf) for leaf in table)
    k_crystal, k_zone, k_turn, k_tilt, k_shift = jax.random.split(key, 5)
    which = jax.random.randint(k_crystal, (), 0, len(names))
    zone = jax.random.randint(k_zone, (), 0, len(zones))
    tilts = 1e-3 * tilt * jax.random.normal(k_tilt, (2,))
    turn = jax.random.uniform(k_turn, maxval=2 * math.pi)
    # tilting the zone axis towards +x is a rotation about +y, towards +y one about -x
    size = jnp.sqrt(jnp.square(tilts).sum() + 1e-20)
    axis = jnp.stack([-tilts[1] / size, tilts[0] / size, jnp.zeros(())])
    spin = about(jnp.array([0.0, 0.0, 1.0]), turn)
    rotation = about(axis, size) @ spin @ frames[which, zone]
    shift = jax.random.uniform(k_shift, (3,)) @ cells[which]
    middle = jnp.asarray(box) / 2
    placed = (points[which] - shift[None]) @ rotation.T + middle[None]
    order, there = ranked(placed, sites[which] >= 0, box, n_max)
    elements = tuple(z for name in names for z in bulk(name).elements)
    atoms = assemble(placed[order], numbers[which][order], sigma[which], there, box, elements)
    basis = jnp.where(there, sites[which][order], -1)
    labels = CrystalLabels(which, zone, rotation, 1e3 * tilts, jnp.asarray(float(thickness)), basis)
    return atoms, labels
