"""Atom columns: what an image along the beam can show of a specimen. The exact labels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from simulators.atoms import Atoms
from simulators.tree import pytree

TOLERANCE = 0.3
"""Atoms closer than this in projection [Å] are one column."""


@pytree
class Columns:
    """Atom columns; one row an atom, of which the first of each column is marked present.

    Attributes
    ----------
    xy : float [n, 2]
        Mean position of the column's atoms, Å.
    numbers : int [n]
        Atomic number of its heaviest atom: what an annular dark-field image is bright for.
    atoms : int [n]
        How many atoms it has.
    present : bool [n]
    """

    xy: Any
    numbers: Any
    atoms: Any
    present: Any


def columns(
    atoms: Atoms,
    *,
    tolerance: float = TOLERANCE,
    periodic: bool = False,
    shown: Atoms | None = None,
) -> Columns:
    """Merge atoms that lie above each other (O(n²), inside `jit`).

    Parameters
    ----------
    atoms : Atoms
        Rows with occupancy 0 are not there.
    tolerance : float
        Å in projection.
    periodic : bool
        Columns reach across the cell's sides.
    shown : Atoms, optional
        The same atoms where they really are (a thermal snapshot): which atoms make a column is
        decided by `atoms`, where the column is by these.
    """
    xy = jnp.asarray(atoms.positions)[:, :2]
    there = (jnp.asarray(atoms.occupancy) > 0) & (jnp.asarray(atoms.numbers) > 0)
    apart = xy[None, :, :] - xy[:, None, :]
    if periodic:
        sides = jnp.asarray(atoms.cell, xy.dtype)[None, None, :2]
        apart = apart - sides * jnp.round(apart / sides)
    near = (jnp.square(apart).sum(-1) < tolerance**2) & there[None, :] & there[:, None]
    count = near.sum(1)
    mean = xy + jnp.where(near[..., None], apart, 0).sum(1) / jnp.maximum(count, 1)[:, None]
    if shown is not None:
        moved = jnp.asarray(shown.positions)[:, :2] - xy
        mean = mean + near.astype(xy.dtype) @ moved / jnp.maximum(count, 1)[:, None]
    heaviest = jnp.where(near, jnp.asarray(atoms.numbers)[None, :], 0).max(1)
    index = jnp.arange(atoms.n)
    first = jnp.where(near, index[None, :], atoms.n).min(1) == index
    return Columns(jax.lax.stop_gradient(mean), heaviest, count, there & first)
