"""Single-walled carbon nanotubes (n, m): graphene rolled up, with exact radius and chirality.

The circumference is the chiral vector ``n a1 + m a2`` of graphene, so the diameter is
``a sqrt(n² + n m + m²) / π`` (Saito, Dresselhaus & Dresselhaus, Physical Properties of Carbon
Nanotubes, 1998). Which atoms belong to the tube is decided with integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms, make_atoms
from simulators.specimens.cut import assemble, checked_extent, ranked, translations
from simulators.tree import pytree

LATTICE = 2.46
"""Of graphene, Å."""

_VECTORS = LATTICE * np.array([[1.0, 0.0], [0.5, 3**0.5 / 2]])

THINNEST = 1.5
"""Smallest radius [Å]; thinner tubes have never been seen to stand alone."""


@dataclass(frozen=True)
class Tube:
    """Geometry of a nanotube.

    Attributes
    ----------
    n, m : int
    radius, period : float
        Å; `period` is the length after which it repeats along its axis.
    chiral_angle : float
        rad: 0 for zigzag (n, 0), π/6 for armchair (n, n).
    atoms : int
        Of one period.
    """

    n: int
    m: int
    radius: float
    period: float
    chiral_angle: float
    atoms: int


def tube(n: int, m: int) -> Tube:
    """Geometry of the tube (n, m).

    >>> t = tube(10, 10)
    >>> round(2 * t.radius, 2), t.atoms
    (13.56, 40)

    Raises
    ------
    ValueError
        Indices that are not whole numbers with n ≥ m ≥ 0, or a tube that is too thin.
    """
    if int(n) != n or int(m) != m or not n >= m >= 0 or n < 1:
        raise ValueError(
            f"a nanotube (n, m) has whole numbers with n ≥ m ≥ 0 and n > 0, got ({n}, {m})"
        )
    n, m = int(n), int(m)
    square = n * n + n * m + m * m
    radius = LATTICE * math.sqrt(square) / (2 * math.pi)
    if radius < THINNEST:
        raise ValueError(
            f"the tube ({n}, {m}) would have a radius of {radius:.2f} Å, too thin to exist: take "
            f"a radius of at least {THINNEST} Å, from (4, 0) or (3, 2) up"
        )
    divisor = math.gcd(2 * n + m, 2 * m + n)
    return Tube(
        n,
        m,
        radius,
        LATTICE * math.sqrt(3 * square) / divisor,
        math.atan2(math.sqrt(3) * m, 2 * n + m),
        4 * square // divisor,
    )


def _sheet(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Graphene's atoms within a radius [Å], in thirds of its lattice vectors (two int [n])."""
    steps = np.repeat(translations(_VECTORS, radius), 2, axis=0)
    third = np.tile([0, 1], len(steps) // 2)
    return 3 * steps[:, 0] + third, 3 * steps[:, 1] + third


def _rolled(u: Any, v: Any, n: Any, m: Any) -> tuple[Any, Any, Any]:
    """Integers that place atoms (u, v) on the tube.

    Returns
    -------
    around, turn
        ``around / turn`` is the part of the way round, for atoms of the tube from 0 to below 1.
    along
        Height along the axis in units of ``√3 a² / (6 |C|)``.
    """
    around = 2 * u * n + u * m + v * n + 2 * v * m
    return around, 6 * (n * n + n * m + m * m), v * n - u * m


def nanotube(
    n: int,
    m: int,
    *,
    periods: int = 1,
    roll: float = 0.0,
    vacuum: float = 5.0,
    sigma: float = 0.08,
) -> tuple[Atoms, Tube]:
    """A periodic nanotube along x (NumPy).

    Parameters
    ----------
    n, m : int
        Chiral indices.
    periods : int
        Along the axis.
    roll : float
        Angle about the axis, rad.
    vacuum : float
        Around the tube, Å.
    sigma : float
        Thermal displacement, Å.

    Raises
    ------
    ValueError
        Invalid indices, no period, negative vacuum.
    """
    found = tube(n, m)
    if int(periods) != periods or periods < 1:
        raise ValueError(f"periods must be a whole number from 1 up, got {periods}")
    if not vacuum >= 0:
        raise ValueError(f"vacuum must not be negative, got {vacuum} Å")
    circumference = 2 * math.pi * found.radius
    u, v = _sheet(math.hypot(circumference, found.period) + LATTICE)
    around, turn, along = _rolled(u, v, found.n, found.m)
    divisor = math.gcd(2 * found.n + found.m, 2 * found.m + found.n)
    end = turn // divisor  # the period in units of `along`
    keep = (around >= 0) & (around < turn) & (along >= 0) & (along < end)
    angle = 2 * math.pi * around[keep] / turn + roll
    x = along[keep] / end * found.period
    x = (x[None] + found.period * np.arange(periods)[:, None]).ravel()
    angle = np.tile(angle, periods)
    side = 2 * (found.radius + vacuum)
    positions = np.stack(
        [x, side / 2 + found.radius * np.cos(angle), side / 2 + found.radius * np.sin(angle)], 1
    )
    cell = (found.period * periods, side, side)
    return make_atoms(positions, np.full(len(x), 6), cell, sigma=sigma), found


@pytree
class TubeLabels:
    """Which nanotube a scene holds and how it lies.

    Attributes
    ----------
    n, m : int
    radius : float
        Å.
    chiral_angle : float
        rad.
    roll : float
        About its axis, rad.
    direction : float
        Of its axis, from +x towards +y, rad.
    centre : float [3]
        A point of the axis, Å.
    angle : float [k]
        Where each atom is around the tube, rad, `roll` included; its height along the beam is
        ``centre[2] + radius * sin(angle)``.
    """

    n: Any
    m: Any
    radius: Any
    chiral_angle: Any
    roll: Any
    direction: Any
    centre: Any
    angle: Any


def random_nanotube(
    key: jax.Array,
    extent: tuple[float, float],
    *,
    n_max: int,
    indices: tuple[int, int] = (5, 9),
    sigma: float = 0.08,
) -> tuple[Atoms, TubeLabels]:
    """A random tube that crosses the box, inside `jit`; its axis lies across the beam.

    Parameters
    ----------
    key : random key.
    extent : (y, x)
        Of the box, Å.
    n_max : int
        Rows; the outermost atoms are left out where there are more.
    indices : (low, high)
        Of n; m is 0 to n.
    sigma : float
        Thermal displacement, Å.

    Raises
    ------
    ValueError
        Indices out of order or tubes too thin, a box too small.
    """
    low, high = indices
    tube(low, 0)
    widest = tube(high, high).radius
    if low > high:
        raise ValueError(f"indices must be (low, high), got {indices}")
    y, x = checked_extent(extent, 5.0, "a nanotube")
    depth = 2 * widest + 4.0
    box = (x, y, depth)
    keys = jax.random.split(key, 5)
    n = jax.random.randint(keys[0], (), low, high + 1)
    m = jax.random.randint(keys[1], (), 0, n + 1)
    roll, direction = 2 * math.pi * jax.random.uniform(keys[2], (2,))
    length = math.hypot(x, y)
    reach = math.hypot(2 * math.pi * widest, length / 2 + 0.3 * max(x, y)) + LATTICE
    around, turn, along = _rolled(*_sheet(reach), n, m)
    keep = (around >= 0) & (around < turn)
    chiral = LATTICE * jnp.sqrt(jnp.asarray(turn / 6.0))
    radius = chiral / (2 * math.pi)
    angle = 2 * math.pi * around / turn + roll
    axial = along * (3**0.5 / 6 * LATTICE**2) / chiral
    # a random place along the axis too: the tube is longer than the box
    off = jax.random.uniform(keys[3], (2,), minval=-0.5, maxval=0.5)
    axial = axial + off[0] * LATTICE
    sideways = radius * jnp.cos(angle) + off[1] * 0.4 * min(x, y)
    c, sn = jnp.cos(direction), jnp.sin(direction)
    middle = jnp.asarray(box) / 2
    positions = jnp.stack(
        [
            middle[0] + axial * c - sideways * sn,
            middle[1] + axial * sn + sideways * c,
            middle[2] + radius * jnp.sin(angle),
        ],
        axis=1,
    )
    order, there = ranked(positions, keep, box, n_max)
    atoms = assemble(positions[order], jnp.full(len(order), 6), sigma, there, box, (6,))
    shift = off[1] * 0.4 * min(x, y)
    labels = TubeLabels(
        n,
        m,
        radius,
        jnp.arctan2(3**0.5 * m, 2.0 * n + m),
        roll,
        direction,
        middle + shift * jnp.stack([-sn, c, jnp.zeros(())]),
        jnp.where(there, angle[order], 0),
    )
    return atoms, labels
