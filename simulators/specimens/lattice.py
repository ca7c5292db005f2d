"""Crystals seen along one axis: a two-dimensional lattice with atoms at heights.

`patch` cuts an orthogonal box out of the infinite crystal, rotated and strained, inside `jit`;
`supercell` repeats the cell periodically, as multislice needs it.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms, make_atoms
from simulators.backend import is_concrete
from simulators.scattering import atomic_number
from simulators.tree import pytree, replace, static


@pytree
class Lattice:
    """One period of a crystal.

    Attributes
    ----------
    cell : float [2, 2]
        Rows a and b in the plane of the image, Å.
    positions : float [n, 3]
        x, y, z in Å.
    numbers : int [n]
        Atomic numbers; 0 in padding rows.
    occupancy, sigma : float [n]
        As in `Atoms`.
    height : float
        Period along the beam in Å; for a single layer the depth of its cell.
    elements : tuple of int, static
    """

    cell: Any
    positions: Any
    numbers: Any
    occupancy: Any
    sigma: Any
    height: Any
    elements: tuple[int, ...] = static()

    @property
    def n(self) -> int:
        """Rows of one period, padding included."""
        return self.positions.shape[-2]


def make_lattice(
    cell: Any,
    fractions: Any,
    symbols: str | list[str],
    height: float,
    *,
    sigma: float = 0.08,
    elements: tuple[int, ...] = (),
) -> Lattice:
    """A lattice from fractional coordinates.

    Parameters
    ----------
    cell : (a, b) or [2, 2]
        Side lengths of a rectangle, or the two vectors, Å.
    fractions : float [n, 3]
        In units of the two vectors and of `height`.
    symbols : list of str
        Elements of the rows.
    height : float
        Å.
    sigma : float
        Thermal displacement of all atoms, Å.
    elements : tuple of int
        Elements that substitution may bring in.

    Raises
    ------
    ValueError
        An unknown element, shapes that do not fit, a cell without area.
    """
    cell = np.asarray(cell, float)
    cell = np.diag(cell) if cell.ndim == 1 else cell
    fractions = np.asarray(fractions, float).reshape(-1, 3)
    numbers = np.array([atomic_number(s) for s in symbols])
    if cell.shape != (2, 2) or abs(np.linalg.det(cell)) < 1e-6:
        raise ValueError(f"cell must be two side lengths or two vectors in Å, got {cell}")
    if len(numbers) != len(fractions):
        raise ValueError(f"{len(fractions)} positions but {len(numbers)} elements")
    if not height > 0:
        raise ValueError(f"height must be positive Å, got {height}")
    positions = np.concatenate([fractions[:, :2] @ cell, fractions[:, 2:] * height], axis=1)
    known = tuple(sorted({int(z) for z in numbers} | set(elements)))
    one = np.ones(len(numbers))
    return Lattice(cell, positions, numbers, one, sigma * one, float(height), known)


def pad_lattice(lattice: Lattice, n: int, elements: tuple[int, ...]) -> Lattice:
    """The same lattice in `n` rows and with a common list of elements, to be stacked."""
    if n < lattice.n:
        raise ValueError(f"a lattice of {lattice.n} atoms does not fit into {n} rows")

    def tail(leaf: Any) -> np.ndarray:
        return np.concatenate([leaf, np.zeros((n - lattice.n, *leaf.shape[1:]), leaf.dtype)])

    return replace(
        lattice,
        positions=tail(lattice.positions),
        numbers=tail(lattice.numbers),
        occupancy=tail(lattice.occupancy),
        sigma=tail(lattice.sigma),
        elements=elements,
    )


def supercell(lattice: Lattice, repeats: tuple[int, int, int]) -> Atoms:
    """`repeats` (a, b, along the beam) periods as periodic `Atoms`.

    Raises
    ------
    ValueError
        A lattice whose cell is not a rectangle along x and y.
    """
    cell = np.asarray(lattice.cell, float)
    if abs(cell[0, 1]) + abs(cell[1, 0]) > 1e-9:
        raise ValueError("only a rectangular cell can be repeated periodically along x and y")
    if min(repeats) < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    sides = np.array([cell[0, 0], cell[1, 1], float(lattice.height)])
    steps = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 3)
    count = len(steps)
    positions = (steps[:, None] * sides + np.asarray(lattice.positions)[None]).reshape(-1, 3)
    return make_atoms(
        positions,
        np.tile(lattice.numbers, count),
        sides * np.asarray(repeats),
        occupancy=np.tile(lattice.occupancy, count),
        sigma=np.tile(lattice.sigma, count),
        elements=lattice.elements,
    )


def cells_needed(lattice: Lattice, extent: tuple[float, float]) -> tuple[int, int]:
    """Cells to each side of the centre that cover a box (y, x) in Å at any rotation."""
    cell = np.asarray(lattice.cell, float)
    area = abs(np.linalg.det(cell))
    reach = 0.5 * math.hypot(*extent) * 1.1  # 10 % for strain
    # the rows of cells lie area/|b| apart along a, and area/|a| along b
    lengths = np.linalg.norm(cell, axis=1)
    return math.ceil(reach * lengths[1] / area) + 1, math.ceil(reach * lengths[0] / area) + 1


def patch(
    lattice: Lattice,
    extent: tuple[float, float],
    *,
    n_max: int,
    rotation: Any = 0.0,
    strain: Any = None,
    origin: Any = (0.0, 0.0),
    cells: tuple[int, int] | None = None,
) -> tuple[Atoms, jax.Array]:
    """The part of a crystal that lies in a box, not periodic at its edges.

    Parameters
    ----------
    lattice : Lattice
        May be traced if `cells` is given.
    extent : (y, x)
        Of the box, Å.
    n_max : int
        Rows of the result. Where there are more atoms, those nearest to the edges are left out.
    rotation : float
        rad, from +x towards +y.
    strain : float [2, 2], optional
        Displacement gradient ∂u/∂r, acting after the rotation.
    origin : (x, y)
        Where the middle of a cell lies, from the centre of the box, Å.
    cells : (a, b), optional
        Cells on each side of the centre to cut from; see `cells_needed`.

    Returns
    -------
    Atoms
        With `n_max` rows; the cell is the box.
    sites : int [n_max]
        Row of the lattice that every atom comes from.
    """
    if cells is None:
        if not is_concrete(lattice.cell):
            raise ValueError("give cells= for a traced lattice (see cells_needed)")
        cells = cells_needed(lattice, extent)
    i, j = (np.arange(-n, n + 1) for n in cells)
    steps = np.stack(np.meshgrid(i, j, indexing="ij"), -1).reshape(-1, 2)
    base = jnp.asarray(lattice.positions)
    cell = jnp.asarray(lattice.cell, base.dtype)
    flat = (jnp.asarray(steps, base.dtype) @ cell)[:, None] + base[None, :, :2]
    flat = flat.reshape(-1, 2) + _centred(lattice)[None]
    c, s = jnp.cos(rotation), jnp.sin(rotation)
    matrix = jnp.stack([jnp.stack([c, s]), jnp.stack([-s, c])]).astype(base.dtype)
    if strain is not None:
        matrix = matrix @ (jnp.eye(2, dtype=base.dtype) + jnp.asarray(strain, base.dtype)).T
    half = jnp.asarray([extent[1] / 2, extent[0] / 2], base.dtype)
    flat = flat @ matrix + jnp.asarray(origin, base.dtype)[None]
    present = jnp.tile(jnp.asarray(lattice.occupancy) > 0, len(steps))
    depth = jnp.max(jnp.abs(flat) / half[None], axis=1)
    depth = jnp.where(present & (depth < 1), depth, jnp.inf)
    _, order = jax.lax.top_k(-depth, min(n_max, depth.shape[0]))
    if n_max > depth.shape[0]:
        order = jnp.concatenate([order, jnp.zeros(n_max - depth.shape[0], order.dtype)])
    inside = jnp.isfinite(depth[order]) & (jnp.arange(n_max) < depth.shape[0])
    sites = order % lattice.n
    z = base[:, 2][sites]
    positions = jnp.concatenate([flat[order] + half[None], z[:, None]], axis=1)

    def rows(leaf: Any) -> jax.Array:
        return jnp.where(inside, jnp.asarray(leaf)[sites], 0)

    box = jnp.stack([2 * half[0], 2 * half[1], jnp.asarray(lattice.height, base.dtype)])
    atoms = Atoms(
        jnp.where(inside[:, None], positions, 0),
        rows(lattice.numbers),
        rows(lattice.occupancy),
        rows(lattice.sigma),
        box,
        lattice.elements,
    )
    return atoms, sites


def _centred(lattice: Lattice) -> jax.Array:
    """Shift that brings the middle of the cell to the origin: equal reach to all sides."""
    return -0.5 * jnp.asarray(lattice.cell).sum(0)
