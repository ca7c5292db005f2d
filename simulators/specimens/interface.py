"""Interfaces of two perovskites inside `jit`: abrupt, stepped, diffuse, with the profile as label.

Both crystals share the lattice of the substrate along the interface. Every cell of the film, and
every site of a diffuse interface, is of the film with a chance p that the profile gives:
``p = (1 + erf((y - y0) / (√2 width))) / 2``; cells are as high as their share of the film asks for.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms
from simulators.specimens.bulk import Bulk, bulk
from simulators.specimens.cut import assemble, checked_extent, ranked
from simulators.tree import pytree

PROFILES = ("abrupt", "stepped", "diffuse")


@pytree
class InterfaceLabels:
    """Where the interface is and what it looks like.

    Attributes
    ----------
    profile : int
        Index into `PROFILES`.
    height : float
        y of the interface [Å]: on the left of a step, in the middle of a diffuse profile.
    step : float
        How much higher it is on the right of the step, Å; 0 without one.
    step_at : float
        x of the step, Å.
    width : float
        Standard deviation of the profile's derivative, Å, counted in the substrate's lattice (cells
        of the film differ from its cells by the misfit); 0 where it is sharp.
    film : bool [n]
        Which atoms are of the film (of A and B sites; oxygen goes with its cell's chance).
    share : float [n]
        Chance of the film that the profile gives at every atom.
    cell : int [n, 2]
        Column and layer of cells that every atom belongs to; -1 in padding rows.
    """

    profile: Any
    height: Any
    step: Any
    step_at: Any
    width: Any
    film: Any
    share: Any
    cell: Any


def _perovskite(name: str) -> Bulk:
    found = bulk(name)
    if found.structure != "perovskite":
        raise ValueError(f"interfaces are of two perovskites, and {name} is {found.structure}")
    return found


def interface(
    key: jax.Array,
    extent: tuple[float, float],
    *,
    n_max: int,
    substrate: str = "SrTiO3",
    film: str = "LaAlO3",
    profiles: tuple[str, ...] = PROFILES,
    width: tuple[float, float] = (1.5, 6.0),
    steps: int = 2,
    thickness: int = 2,
) -> tuple[Atoms, InterfaceLabels]:
    """A film on a substrate along [100]; the film grows along +y.

    Not periodic at its sides; periodic along the beam.

    Parameters
    ----------
    key : random key.
    extent : (y, x)
        Of the box, Å.
    n_max : int
        Rows; the outermost atoms are left out where there are more.
    substrate, film : str
        Perovskites of `bulk.BULKS`.
    profiles : tuple of str
        Of `PROFILES`, to choose from.
    width : (low, high)
        Of diffuse profiles, Å.
    steps : int
        Largest height of a step, in cells.
    thickness : int
        Cells along the beam.

    Raises
    ------
    ValueError
        A crystal that is no perovskite, an unknown profile, a box too small, widths out of order.
    """
    below, above = _perovskite(substrate), _perovskite(film)
    a, b = float(below.axes[0, 0]), float(above.axes[0, 0])
    unknown = set(profiles) - set(PROFILES)
    if unknown or not profiles:
        raise ValueError(f"no profile {sorted(unknown)}. There are: {', '.join(PROFILES)}")
    if not 0 < width[0] <= width[1]:
        raise ValueError(f"width must be (low, high) in Å and positive, got {width}")
    if int(thickness) != thickness or thickness < 1 or int(steps) != steps or steps < 1:
        raise ValueError(f"thickness and steps count cells, from 1: got {thickness} and {steps}")
    y, x = checked_extent(extent, 2 * max(a, b), "an interface")
    box = (x, y, thickness * a)
    keys = jax.random.split(key, 8)
    which = jnp.asarray([PROFILES.index(p) for p in profiles])
    profile = which[jax.random.randint(keys[0], (), 0, len(profiles))]
    sign = jnp.where(jax.random.bernoulli(keys[1]), 1, -1)
    jump = sign * jax.random.randint(keys[2], (), 1, steps + 1) * (profile == 1)
    place, at = jax.random.uniform(keys[3], (2,))
    sigma = jnp.where(
        profile == 2, width[0] + (width[1] - width[0]) * jax.random.uniform(keys[4]), 0.0
    )
    # cells around the middle of the box; the origin is a random point of one
    nx, ny = math.ceil(0.5 * x / a) + 1, math.ceil(0.5 * y / min(a, b)) + 2 + steps
    offset = jax.random.uniform(keys[5], (2,), minval=-0.5, maxval=0.5)
    column, layer = jnp.arange(-nx, nx + 1), jnp.arange(-ny, ny + 1)
    first = jnp.round((place - 0.5) * 0.5 * y / a).astype(int)  # lowest layer of the film
    right = column >= jnp.round((at - 0.5) * 0.5 * x / a)
    begins = first + jnp.where(right, jump, 0)
    level = layer[None] - begins[:, None] + 0.5  # of the middle of each cell, [columns, layers]
    share = _share_of(level * a, sigma)
    spacing = a + (b - a) * share
    # heights of the cells' lower corners, counted from the lowest layer, in the substrate
    lower = jnp.cumsum(spacing, axis=1) - spacing
    lower = lower - (ny + 0.5 - offset[1]) * a + 0.5 * y
    edge = jnp.take_along_axis(lower, jnp.clip(begins + ny, 0, 2 * ny)[:, None], axis=1)[:, 0]

    fractions = np.asarray(below.positions) / a
    shape = (2 * nx + 1, 2 * ny + 1, int(thickness), len(fractions))
    depth = jnp.arange(thickness)

    def full(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
        """An array of all atoms out of one that has some of the axes."""
        at_axes = [n if i in axes else 1 for i, n in enumerate(shape)]
        return jnp.broadcast_to(values.reshape(at_axes), shape)

    parts = [full(jnp.asarray(fractions[:, i]), (3,)) for i in range(3)]
    px = (full(column, (0,)) + parts[0] + offset[0]) * a + 0.5 * x
    py = full(lower, (0, 1)) + parts[1] * full(spacing, (0, 1))
    pz = (full(depth, (2,)) + parts[2]) * a
    # where in the profile every atom is, in the units of the layers
    chance = _share_of((full(level, (0, 1)) - 0.5 + parts[1] + 1e-3) * a, sigma)
    dice = jax.random.uniform(keys[6], shape)
    is_film = dice < chance
    species = [full(jnp.asarray(np.asarray(c.numbers)), (3,)) for c in (below, above)]
    numbers = jnp.where(is_film, species[1], species[0])
    positions = jnp.stack([px.ravel(), py.ravel(), pz.ravel()], axis=1)
    order, there = ranked(positions, jnp.ones(positions.shape[0], bool), box, n_max)
    atoms = assemble(
        positions[order],
        numbers.ravel()[order],
        float(below.sigma),
        there,
        box,
        (*below.elements, *above.elements),
    )
    cells = jnp.stack(
        [full(jnp.arange(shape[0]), (0,)).ravel(), full(jnp.arange(shape[1]), (1,)).ravel()], 1
    )
    which_right = jnp.argmax(right)
    labels = InterfaceLabels(
        profile,
        edge[0],
        edge[-1] - edge[0],
        (column[which_right] + offset[0]) * a + 0.5 * x,
        sigma,
        there & is_film.ravel()[order],
        jnp.where(there, chance.ravel()[order], 0),
        jnp.where(there[:, None], cells[order], -1),
    )
    return atoms, labels


def _share_of(height: jax.Array, width: jax.Array) -> jax.Array:
    """Chance of the film at a height [Å] above the interface."""
    sharp = (height >= 0).astype(height.dtype)
    soft = 0.5 * (1 + jax.scipy.special.erf(height / (2**0.5 * jnp.maximum(width, 1e-3))))
    return jnp.where(width > 0, soft, sharp)
