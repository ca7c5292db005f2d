"""A crystal with any zone axis along the beam, as an orthogonal periodic cell that loses no atom.

The cell is an integer combination of the primitive vectors, and which lattice points it holds is
decided with integers. So the number of atoms is the ratio of the volumes times the atoms of the
primitive cell, exactly, whatever the rounding of positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulators.atoms import Atoms, make_atoms
from simulators.specimens.bulk import Bulk
from simulators.specimens.cut import translations

EXACT = 1e-7
"""Misfit below which a cell counts as orthogonal as it is."""


@dataclass(frozen=True, eq=False)
class Orientation:
    """How a crystal lies in its orthogonal cell.

    Attributes
    ----------
    zone : tuple of int
        Direction [u, v, w] along the beam.
    directions : float [3, 3]
        The cell's sides x, y, z as directions of the crystal (rows, in conventional axes).
    vectors : int [3, 3]
        The same in primitive vectors.
    rotation : float [3, 3]
        From the crystal's Cartesian frame to the image's: ``r = rotation @ r_crystal``.
    strain : float [3, 3]
        What made the cell orthogonal, in the image's frame; 0 where it is so by itself.
    misfit : float
        Largest principal strain in magnitude.
    primitive_cells : int
        Volume in units of the primitive cell, one period.
    axes : float [3, 3]
        The conventional axes a, b, c (rows, Å) as they lie in the image's frame: what
        `spots.find_spots` indexes a pattern with.
    """

    zone: tuple[int, int, int]
    directions: np.ndarray
    vectors: np.ndarray
    rotation: np.ndarray
    strain: np.ndarray
    misfit: float
    primitive_cells: int
    axes: np.ndarray


def _indices(name: str, value: Any) -> np.ndarray:
    index = np.asarray(value)
    if index.shape != (3,) or not np.issubdtype(index.dtype, np.number):
        raise ValueError(f"{name} must be three integers [u, v, w], got {value!r}")
    whole = np.rint(index).astype(int)
    if not np.array_equal(whole, index):
        raise ValueError(f"{name} must be three integers [u, v, w], got {value!r}")
    if not whole.any():
        raise ValueError(f"{name} (0, 0, 0) is no direction: give for instance (1, 1, 0)")
    return whole


def along(crystal: Bulk, zone: Any) -> np.ndarray:
    """The shortest lattice vector in a direction [u, v, w], in primitive vectors; int [3]."""
    index = _indices("zone axis", zone)
    cell = np.asarray(crystal.cell, float)
    steps = index @ np.asarray(crystal.axes, float) @ np.linalg.inv(cell)
    whole = np.rint(steps).astype(int)  # conventional axes are lattice vectors
    return whole // math.gcd(*(int(n) for n in whole))


def frame(crystal: Bulk, zone: Any, across: Any = None) -> np.ndarray:
    """Rotation [3, 3] that brings the zone axis to +z and `across` (or any vector) near +x."""
    z = along(crystal, zone) @ np.asarray(crystal.cell, float)
    z /= np.linalg.norm(z)
    axes = np.asarray(crystal.axes, float)
    if across is None:  # the conventional axis that is most nearly across the beam
        x = axes[np.argmin(np.abs(axes @ z) / np.linalg.norm(axes, axis=1))]
    else:
        x = _indices("across", across) @ axes
    x = x - (x @ z) * z
    if np.linalg.norm(x) < 1e-6:
        raise ValueError(f"across {across} is parallel to the zone axis {zone}")
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def _sides(
    crystal: Bulk, depth: np.ndarray, across: Any, tolerance: float, max_side: float
) -> np.ndarray | None:
    """Two lattice vectors (rows, primitive) across `depth` and each other; the smallest area."""
    cell = np.asarray(crystal.cell, float)
    steps = translations(cell, max_side)
    steps = steps[np.any(steps != 0, axis=1)]
    vectors = steps @ cell
    lengths = np.linalg.norm(vectors, axis=1)
    z = depth @ cell / np.linalg.norm(depth @ cell)
    flat = np.abs(vectors @ z) <= tolerance * lengths
    first = flat
    if across is not None:
        x = frame(crystal, _conventional(crystal, depth), across)[0]
        first = flat & (vectors @ x >= (1 - 0.5 * tolerance**2 - 1e-12) * lengths)
    pools = []
    for pool in (first, flat):
        order = np.flatnonzero(pool)
        # shortest first, and of these the one with more positive indices, for a stable choice
        order = order[np.lexsort((-steps[order].sum(1), lengths[order].round(6)))][:1500]
        pools.append(order)
    one, two = pools
    if not (len(one) and len(two)):
        return None
    cosine = vectors[one] @ vectors[two].T / (lengths[one][:, None] * lengths[two][None])
    area = np.where(np.abs(cosine) <= tolerance, lengths[one][:, None] * lengths[two][None], np.inf)
    # of equal areas the one nearest to a square
    square = np.abs(np.log(lengths[one][:, None] / lengths[two][None]))
    best = np.argmin(area * (1 + 1e-6 * square))
    i, j = np.unravel_index(best, area.shape)
    return steps[[one[i], two[j]]] if np.isfinite(area[i, j]) else None


def _conventional(crystal: Bulk, steps: np.ndarray) -> np.ndarray:
    """Primitive steps as the smallest integers [u, v, w] of the conventional axes."""
    index = steps @ np.asarray(crystal.cell, float) @ np.linalg.inv(np.asarray(crystal.axes, float))
    whole = np.rint(2 * index).astype(int)
    return whole // math.gcd(*(int(n) for n in whole))


def _lattice_points(vectors: np.ndarray) -> np.ndarray:
    """All integer points [det, 3] of the parallelepiped of three integer vectors, exactly."""
    a, b, c = (row.astype(object) for row in vectors)
    cofactors = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1).astype(np.int64)
    volume = int(vectors[0] @ cofactors[:, 0])
    corners = np.stack(np.meshgrid(*[(0, 1)] * 3, indexing="ij"), -1).reshape(-1, 3) @ vectors
    axes = [np.arange(lo, hi + 1) for lo, hi in zip(corners.min(0), corners.max(0), strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    scaled = points @ cofactors
    return points[((scaled >= 0) & (scaled < volume)).all(1)]


def oriented(
    crystal: Bulk,
    zone: Any,
    *,
    across: Any = None,
    repeats: tuple[int, int, int] = (1, 1, 1),
    tolerance: float = 0.02,
    max_side: float = 40.0,
) -> tuple[Atoms, Orientation]:
    """A periodic, orthogonal cell of a crystal with a zone axis along the beam (NumPy).

    The cell is exactly orthogonal where that is possible with sides up to `max_side`. Otherwise
    (hexagonal and tetragonal crystals along general directions) it is the smallest one that a
    strain within `tolerance` makes so; `Orientation.strain` says how much that was.

    Parameters
    ----------
    crystal : Bulk
    zone : three integers
        Along +z, in conventional axes.
    across : three integers, optional
        Direction whose part across the beam lies along +x.
    repeats : (x, y, z)
    tolerance : float
        Largest cosine between two sides that may be strained away.
    max_side : float
        Of the cell across the beam, Å.

    Raises
    ------
    ValueError
        A zone axis (0, 0, 0) or not of integers, `across` along the beam, no cell of this size
        within the tolerance.
    """
    depth = along(crystal, zone)
    if min(repeats) < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    frame(crystal, zone, across)  # complains about a bad `across`
    sides = _sides(crystal, depth, across, EXACT, max_side)
    if sides is None and tolerance > EXACT:
        sides = _sides(crystal, depth, across, tolerance, max_side)
    if sides is None:
        raise ValueError(
            f"no orthogonal cell of {crystal.structure} along {tuple(np.asarray(zone).tolist())} "
            f"has sides below {max_side:g} Å and a misfit below {tolerance:g}: raise max_side or "
            "tolerance" + ("" if across is None else ", or leave out across")
        )
    cell = np.asarray(crystal.cell, float)
    vectors = np.stack([*sides, depth])
    if np.linalg.det(vectors @ cell) < 0:
        vectors[1] *= -1
    if np.linalg.det(vectors) < 0:  # a left-handed primitive cell
        cell, vectors = cell[::-1], vectors[:, ::-1]
    real = vectors @ cell
    lengths = np.linalg.norm(real, axis=1)
    z = real[2] / lengths[2]
    x = real[0] - (real[0] @ z) * z
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    # rows: real @ rotation.T @ stretch = diag(lengths)
    stretch = np.linalg.solve(real @ rotation.T, np.diag(lengths)).T
    strain = (stretch + stretch.T) / 2 - np.eye(3)
    points = _lattice_points(vectors)
    basis = np.asarray(crystal.positions, float) @ np.linalg.inv(cell)
    fractions = (points[:, None] + basis[None]).reshape(-1, 3) @ np.linalg.inv(vectors)
    fractions = np.mod(fractions, 1.0)
    fractions[fractions > 1 - 1e-9] = 0.0  # rounding below a side
    steps = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 3)
    positions = ((steps[:, None] + fractions[None]) * lengths).reshape(-1, 3)
    count = len(steps) * len(points)
    atoms = make_atoms(
        positions,
        np.tile(np.asarray(crystal.numbers), count),
        lengths * np.asarray(repeats),
        sigma=float(crystal.sigma),
        elements=crystal.elements,
    )
    axes = np.asarray(crystal.axes, float)
    label = Orientation(
        (int(zone[0]), int(zone[1]), int(zone[2])),
        np.round(real @ np.linalg.inv(axes), 9),
        vectors,
        rotation,
        np.where(np.abs(strain) < 1e-12, 0, strain),
        float(np.abs(np.linalg.eigvalsh(strain)).max()),
        len(points),
        axes @ rotation.T @ stretch,
    )
    return atoms, label
