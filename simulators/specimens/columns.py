"""Atom columns: what an image along the beam can show of a specimen. The exact labels."""

from __future__ import annotations

from typing import Any

from simulators.atoms import Atoms
from simulators.backend import array_module
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
    xp = array_module(atoms, shown)
    xy = xp.asarray(atoms.positions)[:, :2]
    there = (xp.asarray(atoms.occupancy) > 0) & (xp.asarray(atoms.numbers) > 0)
    apart = xy[None, :, :] - xy[:, None, :]
    if periodic:
        sides = xp.asarray(atoms.cell, xy.dtype)[None, None, :2]
        apart = apart - sides * xp.round(apart / sides)
    near = (xp.square(apart).sum(-1) < tolerance**2) & there[None, :] & there[:, None]
    count = near.sum(1)
    mean = xy + xp.where(near[..., None], apart, 0).sum(1) / xp.maximum(count, 1)[:, None]
    if shown is not None:
        moved = xp.asarray(shown.positions)[:, :2] - xy
        mean = mean + near.astype(xy.dtype) @ moved / xp.maximum(count, 1)[:, None]
    heaviest = xp.where(near, xp.asarray(atoms.numbers)[None, :], 0).max(1)
    index = xp.arange(atoms.n)
    first = xp.where(near, index[None, :], atoms.n).min(1) == index
    return Columns(mean, heaviest, count, there & first)
