"""Amorphous boxes by random sequential packing with a least distance between any two atoms.

Points are proposed at random and taken unless they are too near to one taken before (Widom, J.
Chem. Phys. 44, 3888 (1966)). Spheres packed so jam at 38 % of the volume; beyond about 33 % the
last ones take forever, so that such densities are refused.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms
from simulators.scattering import atomic_number
from simulators.specimens.cut import assemble, checked_extent
from simulators.tree import pytree

DENSEST = 0.33
"""Fraction of the volume that spheres of the pair distance may fill."""

TRIALS, ROUNDS = 96, 6000
"""Points proposed at once, and how often at most."""

GLASSES: dict[str, tuple[Mapping[str, float], float, float]] = {
    "C": ({"C": 1}, 0.100, 1.40),
    "Si": ({"Si": 1}, 0.0485, 2.20),
    "Ge": ({"Ge": 1}, 0.0430, 2.30),
    "SiO2": ({"Si": 1, "O": 2}, 0.0662, 1.55),
    "Si3N4": ({"Si": 3, "N": 4}, 0.0920, 1.55),
}
"""Composition, atoms per Å³ (carbon 2.0 g/cm³, SiO2 2.2, Si3N4 3.05), pair distance [Å]."""


@pytree
class Packing:
    """What an amorphous box holds.

    Attributes
    ----------
    wanted, placed : int
        Atoms that the density asks for, and how many found a place.
    density : float
        Atoms per Å³ that are there.
    distance : float
        No two atoms are nearer than this, across the periodic sides too, Å.
    """

    wanted: Any
    placed: Any
    density: Any
    distance: Any


def fraction_filled(density: float, distance: float) -> float:
    """Volume of spheres of diameter `distance` [Å] at `density` atoms per Å³, as a fraction."""
    return math.pi / 6 * distance**3 * density


def check_packing(density: float, distance: float, box: Any) -> int:
    """Number of atoms in a box (x, y, z) [Å]; ValueError where they cannot be packed."""
    box = [float(side) for side in box]
    if not (density > 0 and distance > 0):
        raise ValueError(f"density and distance must be positive, got {density} and {distance}")
    if min(box) < 2 * distance:
        raise ValueError(
            f"a box of {' x '.join(f'{s:g}' for s in box)} Å is too small for atoms {distance:g} Å "
            f"apart: at least {2 * distance:g} Å on each side"
        )
    filled = fraction_filled(density, distance)
    if filled > DENSEST:
        most = DENSEST / fraction_filled(1.0, distance)
        shortest = (6 * DENSEST / (math.pi * density)) ** (1 / 3)
        raise ValueError(
            f"{density:g} atoms per Å³ that keep {distance:g} Å apart would fill {filled:.0%} of "
            f"the volume, and random packing reaches {DENSEST:.0%}: at most {most:.4f} atoms per "
            f"Å³, or at most {shortest:.2f} Å"
        )
    return max(1, round(density * math.prod(box)))


def packed(
    key: jax.Array, box: Any, count: int, distance: Any, *, depth: float | None = None
) -> tuple[jax.Array, jax.Array]:
    """Random sequential packing in a periodic box, inside `jit`.

    Parameters
    ----------
    key : random key.
    box : (x, y, z) in Å
    count : int
    distance : float
        Least distance of any two, Å.
    depth : float, optional
        Of a layer at the bottom of the box that alone is filled; not periodic along z then.

    Returns
    -------
    positions : float [count, 3]
        Å.
    there : bool [count]
        False in the last rows where no more place was found.
    """
    sides = jnp.asarray(box, jnp.zeros(()).dtype)
    span = sides if depth is None else sides.at[2].set(depth)
    wrap = jnp.ones(3) if depth is None else jnp.array([1.0, 1.0, 0.0])
    floor = jnp.square(distance * (1 + 1e-5))  # rounding must not break the promise

    def squared(a: jax.Array, b: jax.Array) -> jax.Array:
        gap = a[:, None] - b[None]
        gap = gap - wrap[None, None] * sides[None, None] * jnp.round(gap / sides[None, None])
        return jnp.square(gap).sum(-1)

    def propose(state: tuple) -> tuple:
        taken, n, turn = state
        points = span[None] * jax.random.uniform(jax.random.fold_in(key, turn), (TRIALS, 3))
        alive = ~((squared(points, taken) < floor) & (jnp.arange(count) < n)[None]).any(1)
        tight = squared(points, points) < floor
        earlier = jnp.tril(tight, -1)

        def accept(inner: tuple) -> tuple:
            # all at once whose earlier rivals are gone: the same result as one after the other
            new, alive = inner
            now = alive & ~(earlier & alive[None]).any(1)
            return new | now, alive & ~(tight & now[None]).any(1)

        new, _ = jax.lax.while_loop(
            lambda inner: inner[1].any(), accept, (jnp.zeros(TRIALS, bool), alive)
        )
        row = jnp.where(new, n + jnp.cumsum(new) - 1, count)
        taken = taken.at[row].set(points, mode="drop")
        return taken, jnp.minimum(n + new.sum(), count), turn + 1

    start = (jnp.zeros((count, 3), sides.dtype), jnp.asarray(0), jnp.asarray(0))
    taken, n, _ = jax.lax.while_loop(
        lambda state: (state[1] < count) & (state[2] < ROUNDS), propose, start
    )
    inside = jnp.minimum(taken, jnp.nextafter(span, jnp.zeros_like(span))[None])
    return inside, jnp.arange(count) < n


def mixture(composition: Mapping[str, float], count: int) -> np.ndarray:
    """Atomic numbers [count] in the proportions of a composition, rounded to whole atoms."""
    weights = np.array(list(composition.values()), float)
    if not len(weights) or (weights <= 0).any():
        raise ValueError(f"a composition needs positive parts, got {dict(composition)}")
    ends = np.rint(np.cumsum(weights) / weights.sum() * count).astype(int)
    numbers = [atomic_number(symbol) for symbol in composition]
    return np.repeat(numbers, np.diff(ends, prepend=0))


@functools.lru_cache(maxsize=32)
def glass_of(name: str) -> tuple[Mapping[str, float], float, float]:
    if name not in GLASSES:
        raise ValueError(f"no amorphous material {name!r}. There are: {', '.join(GLASSES)}")
    return GLASSES[name]


def amorphous(
    key: jax.Array,
    extent: tuple[float, float],
    *,
    n_max: int,
    glass: str = "SiO2",
    composition: Mapping[str, float] | None = None,
    density: float | None = None,
    distance: float | None = None,
    thickness: float = 12.0,
    sigma: float = 0.1,
) -> tuple[Atoms, Packing]:
    """A periodic amorphous box, inside `jit`.

    Parameters
    ----------
    key : random key.
    extent : (y, x)
        Of the box, Å.
    n_max : int
        Rows of the result, at least as many as atoms.
    glass : str
        A key of `GLASSES`, for what is not given otherwise.
    composition : {symbol: parts}, optional
    density : float, optional
        Atoms per Å³.
    distance : float, optional
        Least distance of any two atoms, Å.
    thickness : float
        Depth of the box, Å.
    sigma : float
        Thermal displacement, Å.

    Raises
    ------
    ValueError
        An unknown glass, a density that random packing does not reach, a box too small, too few
        rows.
    """
    default = glass_of(glass)
    composition = default[0] if composition is None else composition
    density = default[1] if density is None else float(density)
    distance = default[2] if distance is None else float(distance)
    y, x = checked_extent(extent, 2 * distance, "an amorphous box")
    box = (x, y, float(thickness))
    count = check_packing(density, distance, box)
    if count > n_max:
        raise ValueError(f"the box holds {count} atoms, more than n_max = {n_max}: raise n_max")
    k_place, k_kind = jax.random.split(key)
    positions, there = packed(k_place, box, count, distance)
    numbers = jax.random.permutation(k_kind, jnp.asarray(mixture(composition, count)))
    rows = ((0, n_max - count), (0, 0))
    elements = tuple(atomic_number(symbol) for symbol in composition)
    atoms = assemble(
        jnp.pad(positions, rows),
        jnp.pad(numbers, rows[0]),
        sigma,
        jnp.pad(there, rows[0]),
        box,
        elements,
    )
    placed = there.sum()
    labels = Packing(
        jnp.asarray(count), placed, placed / math.prod(box), jnp.asarray(float(distance))
    )
    return atoms, labels
