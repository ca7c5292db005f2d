"""Atoms as a padded pytree: what specimens return and every simulator takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase.data import chemical_symbols

from simulators.backend import is_concrete
from simulators.scattering import atomic_number
from simulators.tree import pytree, replace, static

COINCIDENT = 0.1
"""Two atoms closer than this [Å] are one atom entered twice."""


@pytree
class Atoms:
    """`n` atoms in an orthogonal, periodic cell; unused rows have occupancy 0.

    NumPy leaves keep float64 positions whatever JAX's precision is, so that phases 2πk·r are exact;
    under `jit` they become JAX arrays.

    Attributes
    ----------
    positions : float [n, 3]
        x, y, z in Å.
    numbers : int [n]
        Atomic numbers; 0 in padding rows.
    occupancy : float [n]
        Weight of the atom, 0 to 1; 0 removes it.
    sigma : float [n]
        Isotropic thermal displacement per direction, sqrt(<u_x²>) in Å (B = 8π²σ²); 0 for none.
    cell : float [3]
        Side lengths (x, y, z) in Å.
    elements : tuple of int, static
        Atomic numbers that may occur: what a compiled simulator prepares form factors for.
    tensor : float [n, 3, 3], optional
        Mean-square displacements U_ij = <u_i u_j> in Å², used instead of sigma² where given
        (an isotropic atom has U = σ²·1).
    """

    positions: Any
    numbers: Any
    occupancy: Any
    sigma: Any
    cell: Any
    elements: tuple[int, ...] = static()
    tensor: Any = None

    @property
    def n(self) -> int:
        """Number of rows, padding included."""
        return self.positions.shape[-2]


def make_atoms(
    positions: Any,
    numbers: Any,
    cell: Any,
    *,
    occupancy: Any = None,
    sigma: Any = None,
    tensor: Any = None,
    elements: tuple[int | str, ...] | None = None,
) -> Atoms:
    """Checked `Atoms` from arrays.

    `tensor` [n, 3, 3] or [3, 3] (one for all) replaces `sigma`: give one of the two.

    Raises
    ------
    ValueError
        Shapes that do not fit, positions that are not finite, an unknown element, a number that is
        not in `elements`, a cell that is not positive, a negative sigma, a displacement tensor
        that is not symmetric positive semidefinite.
    """
    concrete = is_concrete(positions, numbers, cell, occupancy, sigma, tensor)
    if sigma is not None and tensor is not None:
        raise ValueError(
            "give either sigma (isotropic) or tensor (anisotropic): the tensor would replace sigma"
        )
    xp = np if concrete else jnp
    positions = xp.asarray(positions, float if concrete else None)
    numbers = xp.asarray(numbers)
    cell = xp.asarray(cell, float if concrete else None)
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ValueError(f"positions must be [n, 3] (x, y, z) in Å, got shape {positions.shape}")
    n = positions.shape[0]
    if numbers.shape != (n,):
        raise ValueError(f"{n} positions but numbers of shape {numbers.shape}")
    if cell.shape != (3,):
        raise ValueError(
            f"cell must be three side lengths (x, y, z) in Å, got shape {cell.shape}: "
            "orthogonalise a skewed cell first"
        )
    one = xp.ones(n, positions.dtype)
    occupancy = (
        one if occupancy is None else xp.broadcast_to(xp.asarray(occupancy, one.dtype), (n,))
    )
    sigma = 0 * one if sigma is None else xp.broadcast_to(xp.asarray(sigma, one.dtype), (n,))
    if tensor is not None:
        tensor = xp.asarray(tensor, one.dtype)
        if tensor.shape not in ((3, 3), (n, 3, 3)):
            raise ValueError(f"tensor must be [{n}, 3, 3] or [3, 3] in Å², got {tensor.shape}")
        tensor = xp.broadcast_to(tensor, (n, 3, 3))
    if elements is None:
        if not concrete:
            raise ValueError("elements must be given when numbers are traced, e.g. elements=('C',)")
        elements = tuple(int(z) for z in np.unique(numbers[numbers != 0]))
    known = tuple(atomic_number(z if isinstance(z, str) else int(z)) for z in elements)
    if concrete:
        if not np.isfinite(positions).all():
            bad = int(np.argmax(~np.isfinite(positions).all(axis=1)))
            raise ValueError(f"atom {bad} has a position that is not finite: {positions[bad]}")
        if not (np.isfinite(cell).all() and (cell > 0).all()):
            raise ValueError(f"cell side lengths must be positive Å, got {cell}")
        strange = sorted(set(numbers.tolist()) - set(known) - {0})
        if strange:
            names = [chemical_symbols[z] if 0 < z < 119 else f"Z = {z}" for z in strange]
            raise ValueError(f"atoms hold {names}, which elements={known} does not list")
        if not ((occupancy >= 0) & (occupancy <= 1)).all():
            bad = int(np.argmax(~((occupancy >= 0) & (occupancy <= 1))))
            raise ValueError(f"occupancy must be 0 to 1, atom {bad} has {occupancy[bad]}")
        if not (sigma >= 0).all():
            bad = int(np.argmax(~(sigma >= 0)))
            raise ValueError(f"sigma must be 0 Å or more, atom {bad} has {sigma[bad]}")
        if tensor is not None:
            check_tensor(tensor)
    return Atoms(positions, numbers, occupancy, sigma, cell, known, tensor)


def check_tensor(tensor: np.ndarray) -> None:
    """Raise where a displacement tensor [n, 3, 3] is not symmetric positive semidefinite."""
    scale = np.maximum(np.abs(tensor).max(axis=(-2, -1)), 1e-12)
    skew = np.abs(tensor - np.swapaxes(tensor, -1, -2)).max(axis=(-2, -1)) > 1e-6 * scale
    if not np.isfinite(tensor).all() or skew.any():
        bad = int(np.argmax(~np.isfinite(tensor).all(axis=(-2, -1)) | skew))
        raise ValueError(f"the displacement tensor of atom {bad} is not symmetric: {tensor[bad]}")
    lowest = np.linalg.eigvalsh(tensor)[..., 0]
    if (lowest < -1e-6 * scale).any():
        bad = int(np.argmin(lowest / scale))
        raise ValueError(
            f"the displacement tensor of atom {bad} has a negative mean square "
            f"{lowest[bad]:.2e} Å² along one direction: U must be positive semidefinite"
        )


def from_ase(atoms: Any, *, sigma: Any = None) -> Atoms:
    """`Atoms` from an `ase.Atoms` with an orthogonal cell.

    Occupancies are read from the array "occupancies", thermal displacements (where no sigma is
    given) from "tensors" [n, 3, 3] or "sigmas", if ASE has them. Nothing is wrapped here; files are
    read by `structures.read_atoms`.

    Raises
    ------
    ValueError
        No cell, a skewed cell, atoms outside the cell in a direction that is not periodic, or two
        atoms in one place.
    """
    matrix = np.asarray(atoms.cell, float)
    cell = np.diag(matrix).copy()
    if not np.any(matrix):
        raise ValueError("the structure has no cell: set atoms.cell, or use atoms.center(vacuum=5)")
    for axis, name in enumerate("xyz"):
        if not matrix[axis].any():
            raise ValueError(
                f"the structure has no cell along {name}: use "
                f"atoms.center(vacuum=5, axis={axis}), or set atoms.cell"
            )
    if np.abs(matrix - np.diag(cell)).max() > 1e-6 * np.abs(matrix).max():
        raise ValueError(
            "the cell is not orthogonal along x, y, z: orthogonalise it first, for instance with "
            "simulators.specimens.oriented or ase.build.cut"
        )
    occupancy = atoms.arrays.get("occupancies")
    tensor = atoms.arrays.get("tensors") if sigma is None else None
    if sigma is None and tensor is None:
        sigma = atoms.arrays.get("sigmas")
    result = make_atoms(
        atoms.positions, atoms.numbers, cell, occupancy=occupancy, sigma=sigma, tensor=tensor
    )
    check_inside(result, periodic=tuple(bool(p) for p in atoms.pbc))
    check_coincident(result)
    return result


def to_ase(atoms: Atoms) -> Any:
    """`ase.Atoms` of the rows with occupancy above 0; thermal motion becomes arrays.

    Arrays are "occupancies", "sigmas" (Å) and, where there is a tensor, "tensors" (Å²).
    """
    import ase

    present = (np.asarray(atoms.occupancy) > 0) & (np.asarray(atoms.numbers) > 0)
    result = ase.Atoms(
        np.asarray(atoms.numbers)[present],
        positions=np.asarray(atoms.positions, float)[present],
        cell=np.asarray(atoms.cell, float),
        pbc=True,
    )
    result.set_array("occupancies", np.asarray(atoms.occupancy, float)[present])
    result.set_array("sigmas", np.asarray(atoms.sigma, float)[present])
    if atoms.tensor is not None:
        result.set_array("tensors", np.asarray(atoms.tensor, float)[present])
    return result


def pad(atoms: Atoms, n: int) -> Atoms:
    """The same atoms in `n` rows; rows are added with number and occupancy 0."""
    extra = n - atoms.n
    if extra < 0:
        raise ValueError(f"{atoms.n} atoms do not fit into {n} rows: pad to at least {atoms.n}")
    xp = np if is_concrete(atoms) else jnp

    def tail(leaf: Any) -> Any:
        return xp.concatenate([leaf, xp.zeros((extra, *leaf.shape[1:]), leaf.dtype)])

    return rows(atoms, tail)


def rows(atoms: Atoms, change: Callable[[Any], Any]) -> Atoms:
    """The atoms with `change` applied to every leaf that has a row for each of them."""
    leaves = (atoms.positions, atoms.numbers, atoms.occupancy, atoms.sigma)
    tensor = None if atoms.tensor is None else change(atoms.tensor)
    return Atoms(*(change(leaf) for leaf in leaves), atoms.cell, atoms.elements, tensor)


def tile_atoms(atoms: Atoms, *, x: int = 1, y: int = 1, z: int = 1) -> Atoms:
    """The cell repeated x, y and z times (the companion of `potential.tile`)."""
    repeats = (x, y, z)
    if any(int(m) != m or m < 1 for m in repeats):
        raise ValueError(f"repeats must be whole numbers from 1, got x={x}, y={y}, z={z}")
    xp = np if is_concrete(atoms) else jnp
    count = x * y * z
    steps = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 1, 3)
    cell = xp.asarray(atoms.cell)
    many = rows(atoms, lambda leaf: xp.tile(leaf, (count,) + (1,) * (leaf.ndim - 1)))
    shifts = xp.repeat(steps * cell[None, None], atoms.n, axis=1).reshape(-1, 3)
    return replace(many, positions=many.positions + shifts, cell=cell * np.asarray(repeats))


def wrapped(atoms: Atoms) -> Atoms:
    """The same periodic atoms, all inside the cell."""
    xp = np if is_concrete(atoms) else jnp
    cell = xp.asarray(atoms.cell)
    inside = xp.mod(atoms.positions, cell)
    inside = xp.where(inside >= cell, 0.0, inside)  # mod of -1e-17 rounds to the length itself
    return replace(atoms, positions=inside)


def check_inside(atoms: Atoms, *, periodic: tuple[bool, bool, bool] = (False,) * 3) -> None:
    """Raise where atoms lie outside the cell in a direction that is not periodic."""
    if not is_concrete(atoms):
        return
    for axis, name in enumerate("xyz"):
        if periodic[axis]:
            continue
        x, length = atoms.positions[:, axis], atoms.cell[axis]
        outside = ((x < -1e-6) | (x > length + 1e-6)) & (atoms.occupancy > 0)
        if outside.any():
            i = int(np.argmax(outside))
            raise ValueError(
                f"{int(outside.sum())} atoms lie outside the cell in {name}, the first is atom {i} "
                f"at {name} = {x[i]:.3f} Å (cell 0 to {length:.3f} Å): centre the structure with "
                "vacuum, or set pbc=True where the cell is periodic"
            )


def check_coincident(atoms: Atoms) -> None:
    """Raise where two fully occupied atoms share one place (shared sites must sum to at most 1)."""
    from scipy.spatial import cKDTree

    if not is_concrete(atoms):
        return
    present = np.flatnonzero((atoms.occupancy > 0) & (atoms.numbers > 0))
    wrapped = np.mod(atoms.positions[present], atoms.cell)
    wrapped[wrapped >= atoms.cell] = 0.0  # mod of -1e-17 rounds to the length itself
    for i, j in cKDTree(wrapped, boxsize=atoms.cell).query_pairs(COINCIDENT):
        a, b = present[i], present[j]
        if atoms.occupancy[a] + atoms.occupancy[b] > 1 + 1e-6:
            names = [chemical_symbols[int(atoms.numbers[m])] for m in (a, b)]
            raise ValueError(
                f"atoms {a} ({names[0]}) and {b} ({names[1]}) lie in one place, within "
                f"{COINCIDENT} Å, with occupancies {atoms.occupancy[a]:g} and "
                f"{atoms.occupancy[b]:g}: remove one, or let the occupancies sum to at most 1"
            )


def as_jax(atoms: Atoms) -> Atoms:
    """The same atoms with JAX leaves in JAX's default precision."""
    return jax.tree_util.tree_map(jnp.asarray, atoms)
