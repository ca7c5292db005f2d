"""Crystals that nobody has made: random cells with random columns.

A network that is to meet an unknown crystal must have seen lattices that are none of the known.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from simulators.specimens.lattice import Lattice
from simulators.specimens.random_crystal import Material

SIDES = (2.4, 5.6)
"""Of the cells, Å."""

ROWS = 4
LIGHT = 8
"""Element of the faint last column: too light to be seen beside the others."""


def generic_cells(
    extent: tuple[float, float], sides: tuple[float, float] = SIDES
) -> tuple[int, int]:
    """`cells_needed` by the smallest and most skewed cell of `generic`."""
    narrow = sides[0] * math.sin(math.pi / 3)
    n = math.ceil(0.55 * math.hypot(*extent) / narrow) + 1  # 10 % for strain
    return n, n


def generic(
    key: jax.Array,
    *,
    sides: tuple[float, float] = SIDES,
    apart: float = 1.25,
    numbers: tuple[int, int] = (13, 80),
    height: float = 4.0,
    rows: int = ROWS,
    elements: tuple[int, ...] = (),
) -> Material:
    """A random material of one to three visible kinds of columns, inside `jit`.

    Parameters
    ----------
    key : random key.
    sides : (low, high)
        Of the cell's sides, Å; its angle is 60° to 90°, or a right angle every other time.
    apart : float
        Least distance between visible columns, Å.
    numbers : (low, high)
        Of the atomic numbers.
    height : float
        Period along the beam, Å.
    rows : int
        Of the lattice (at least 4), to stack it with other materials.
    elements : tuple of int
        Written into the result (see `Atoms.elements`); the numbers drawn are not listed there.
    """
    k_side, k_angle, k_place, k_number, k_faint, k_count = jax.random.split(key, 6)
    a, b = jax.random.uniform(k_side, (2,), minval=sides[0], maxval=sides[1])
    angle = jax.random.uniform(k_angle, (3,))
    b = jnp.where(angle[2] < 0.3, a, b)  # squares and rhombs are common in nature
    gamma = jnp.where(angle[0] < 0.5, jnp.pi / 2, jnp.pi * (1 / 3 + angle[1] / 6))
    cell = jnp.stack(
        [
            jnp.stack([a, jnp.zeros_like(a)]),
            jnp.stack([b * jnp.cos(gamma), b * jnp.sin(gamma)]),
        ]
    )
    # candidates are taken in turn where they keep their distance from those before, periodically
    half = jax.random.uniform(k_count, ()) < 0.4  # a centred cell is common too
    fractions = jax.random.uniform(k_place, (3, 2)).at[0].set(0.0)
    fractions = fractions.at[1].set(jnp.where(half, 0.5, fractions[1]))
    shifts = jnp.asarray([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)], cell.dtype)
    there = [jnp.asarray(True)]
    for i in (1, 2):
        ok = jnp.asarray(True)
        for j in range(i):
            gap = ((fractions[i] - fractions[j])[None] + shifts) @ cell
            ok &= ~there[j] | (jnp.square(gap).sum(-1).min() > apart**2)
        there.append(ok & (jax.random.uniform(jax.random.fold_in(k_count, i)) < 0.7))
    z = jax.random.randint(k_number, (3,), *numbers)
    same = jax.random.uniform(jax.random.fold_in(k_number, 1)) < 0.4
    z = jnp.where(same, z[0], z)
    faint = jax.random.uniform(k_faint, (2,))

    def tail(x: jax.Array, value: Any) -> jax.Array:
        last = jnp.asarray(value, x.dtype)[None]
        fill = jnp.zeros((rows - 4, *x.shape[1:]), x.dtype)
        return jnp.concatenate([x, last, fill])

    flat = tail(fractions, faint) @ cell
    present = tail(jnp.stack(there).astype(cell.dtype), 1.0)
    positions = jnp.concatenate([flat, jnp.full((rows, 1), height / 2)], axis=1)
    on = present > 0
    lattice = Lattice(
        cell,
        positions,
        jnp.where(on, tail(z, LIGHT), 0),
        present,
        0.08 * present,
        jnp.asarray(height),
        elements,
    )
    none = jnp.zeros(rows, int)
    return Material(lattice, jnp.where(on & (lattice.numbers != LIGHT), 0.5, 0.0), none)
