"""Single, well-defined defects in a given specimen (NumPy; for validation and for questions).

Each takes concrete `Atoms` and returns others; positions are not relaxed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simulators.atoms import Atoms
from simulators.scattering import atomic_number
from simulators.tree import replace


def _apart(atoms: Atoms, at: Any) -> np.ndarray:
    """Vectors (x, y) [n, 2] in Å from a point to all atoms, periodic."""
    gap = np.asarray(atoms.positions, float)[:, :2] - np.asarray(at, float)
    sides = np.asarray(atoms.cell, float)[:2]
    return gap - sides * np.round(gap / sides)


def _find(atoms: Atoms, at: tuple[float, float], symbol: str | None = None) -> np.ndarray:
    """Rows by distance in projection (periodic) from `at`, present and of this element."""
    gap = _apart(atoms, at)
    there = np.asarray(atoms.occupancy) > 0
    if symbol is not None:
        there &= np.asarray(atoms.numbers) == atomic_number(symbol)
    if not there.any():
        raise ValueError(f"the specimen has no {symbol or 'atom'}")
    distance = np.where(there, np.hypot(*gap.T), np.inf)
    return np.argsort(distance, kind="stable")[: int(there.sum())]


def remove(
    atoms: Atoms, at: tuple[float, float], *, symbol: str | None = None, count: int = 1
) -> Atoms:
    """Without the `count` atoms (of one element) nearest to a point (x, y) in Å."""
    occupancy = np.array(atoms.occupancy)
    occupancy[_find(atoms, at, symbol)[:count]] = 0
    return replace(atoms, occupancy=occupancy)


def substitute(
    atoms: Atoms,
    at: tuple[float, float],
    new: str,
    *,
    symbol: str | None = None,
    count: int = 1,
) -> Atoms:
    """With another element on the `count` atoms nearest to a point (x, y) in Å."""
    numbers = np.array(atoms.numbers)
    numbers[_find(atoms, at, symbol)[:count]] = atomic_number(new)
    elements = tuple(sorted({*atoms.elements, atomic_number(new)}))
    return replace(atoms, numbers=numbers, elements=elements)


def stone_wales(atoms: Atoms, at: tuple[float, float]) -> Atoms:
    """The bond nearest to a point turned by 90° in the plane (Stone–Wales, graphene's 5-7 pairs).

    Stone & Wales, Chem. Phys. Lett. 128, 501 (1986).
    """
    first = _find(atoms, at)[0]
    positions = np.array(atoms.positions, float)
    bonds = _apart(atoms, positions[first, :2])
    lengths = np.hypot(*bonds.T)
    order = _find(atoms, tuple(positions[first, :2]))[1:]
    near = order[lengths[order] < 1.2 * lengths[order[0]]]
    from_middle = _apart(atoms, at)[first] + bonds[near] / 2
    second = near[np.argmin(np.hypot(*from_middle.T))]
    bond = bonds[second]
    middle = positions[first, :2] + bond / 2
    turned = np.array([-bond[1], bond[0]]) / 2
    positions[first, :2], positions[second, :2] = middle - turned, middle + turned
    return replace(atoms, positions=positions)


def vacancy_line(
    atoms: Atoms, start: tuple[float, float], step: tuple[float, float], length: int, symbol: str
) -> Atoms:
    """Without every atom of an element in the column nearest to each point of a row of points."""
    for i in range(length):
        at = (start[0] + i * step[0], start[1] + i * step[1])
        column = np.asarray(atoms.positions)[_find(atoms, at, symbol)[0], :2]
        here = np.hypot(*_apart(atoms, column).T) < 0.3
        here &= np.asarray(atoms.numbers) == atomic_number(symbol)
        atoms = replace(atoms, occupancy=np.where(here, 0, atoms.occupancy))
    return atoms
