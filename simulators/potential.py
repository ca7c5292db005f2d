"""Projected potentials of slices: exact and smooth in the atoms, or with abTEM's numbers.

`exact` deposits atoms by structure factors (deposit.py): shift-invariant and differentiable; the
infinite projection is in projection.py, the finite one in finite.py. `abtem` reproduces abTEM
1.0.11 with its bilinear deltas (abtem_projection.py) and its finite projections (abtem_finite.py).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from simulators import abtem_projection, finite, projection
from simulators.atoms import Atoms, check_inside
from simulators.backend import is_concrete, known, real_dtype
from simulators.deposit import working_memory
from simulators.grid import Grid
from simulators.memory import check_memory
from simulators.slicing import slice_index, slice_thicknesses
from simulators.tree import pytree, static

MODES = ("exact", "abtem")

PROJECTIONS = ("infinite", "finite", "finite_gaussian")


@pytree
class Potential:
    """Projected potential of slices, entrance first.

    Attributes
    ----------
    slices : float [nz, ny · oversample, nx · oversample]
        V Å.
    thickness : float [nz]
        Å; each slice is propagated through by its own thickness.
    grid : Grid, static
        The waves' grid; that of the slices is finer by `oversample`.
    oversample : int, static
        The transmission functions are made on the finer grid and cropped to the waves' grid.
    """

    slices: Any
    thickness: Any
    grid: Grid = static()
    oversample: int = static(default=1)


def project(
    atoms: Atoms,
    grid: Grid,
    slice_thickness: Any,
    *,
    mode: str = "exact",
    projection: str = "infinite",
    parametrization: Any = "lobato",
    oversample: int = 1,
    dtype: Any = None,
    depth: float | None = None,
    layers: Any = None,
) -> Potential:
    """Projected potential of every slice.

    Parameters
    ----------
    atoms : Atoms
        Wrapped into the cell in x, y and z. In exact mode differentiable in positions, occupancy,
        sigma and tensor (with the infinite projection z only chooses the slice).
    grid : Grid
        The waves' grid. Must span the cell in x and y.
    slice_thickness : float or sequence
        Å; a number gives ceil(depth / t) equal slices.
    mode : {"exact", "abtem"}
        `exact`: structure factors, shift-invariant. `abtem`: abTEM's bilinear deltas with its sinc,
        equal to abTEM 1.0.11 to rounding and dependent on where atoms lie between pixels.
    projection : {"infinite", "finite", "finite_gaussian"}
        `infinite`: an atom lies in one slice whole. `finite`: each slice holds the part of every
        atom that lies between its faces, with the periodic images in z; the slices add up to the
        infinite projection. `finite_gaussian` is abTEM's second way (mode "abtem" only, with its
        own tables, Lobato and Peng).
    parametrization : {"lobato", "kirkland", "peng"}, ScatteringTable, dict or path
        Scattering factors; `scattering.read_table` makes a table of one's own.
    oversample : int
        Slices on a grid finer by this factor: 2 removes the dependence of thick specimens on where
        atoms lie between pixels (exp(iσV) has finer detail than V).
    dtype : optional
        float32 or float64.
    depth : float, optional
        Depth of the cell in Å, needed while tracing (`atoms.cell` is then not known).
    layers : int [n], optional
        The slice of each atom, where it is known although positions are traced (infinite
        projection): each slice then costs its own atoms only. `slicing.slice_index` makes it.

    Returns
    -------
    Potential
        Slices in V Å. No band limit, no mean subtraction.

    Raises
    ------
    ValueError
        Unknown mode, projection or element, a grid that does not span the cell, slices that do not
        add up or are thinner than a picometre.
    MemoryError
        Slices that do not fit into memory, before the start.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}: choose one of {', '.join(MODES)}")
    if projection not in PROJECTIONS:
        names = ", ".join(PROJECTIONS)
        raise ValueError(f"unknown projection {projection!r}: choose one of {names}")
    if int(oversample) != oversample or oversample < 1:
        raise ValueError(f"oversample must be a whole number from 1, got {oversample}")
    dtype = real_dtype(dtype)
    atoms = known(atoms)
    if is_concrete(atoms.cell):
        _check_grid(atoms, grid)
    if depth is None:
        if not is_concrete(atoms.cell):
            raise ValueError("inside jit the cell's depth is not known: give depth=... in Å")
        depth = float(atoms.cell[2])
    thickness = slice_thicknesses(depth, slice_thickness)
    _check_fits(grid, thickness, oversample, dtype)
    ny, nx = grid.shape
    dy, dx = grid.sampling
    fine = Grid((ny * oversample, nx * oversample), (dy / oversample, dx / oversample))
    stack = _stack(atoms, fine, depth, thickness, mode, projection, parametrization, dtype, layers)
    return Potential(stack, jnp.asarray(thickness, dtype), grid, int(oversample))


def _stack(
    atoms: Atoms,
    grid: Grid,
    depth: float,
    thickness: np.ndarray,
    mode: str,
    kind: str,
    parametrization: Any,
    dtype: Any,
    layers: Any,
) -> Any:
    """The slices of a mode and a projection."""
    if mode == "abtem" and atoms.tensor is not None:
        raise ValueError("displacement tensors need mode='exact'; abTEM's mode takes sigma alone")
    if kind == "infinite":
        index = layers
        if index is None:
            index = slice_index(atoms.positions[:, 2], depth, thickness)
        elif np.shape(index) != (atoms.n,):
            raise ValueError(f"layers has shape {np.shape(index)} for {atoms.n} atoms")
        elif is_concrete(index) and not (0 <= np.min(index) <= np.max(index) < len(thickness)):
            raise ValueError(f"layers must be slice indices 0 to {len(thickness) - 1}")
        make = projection.infinite if mode == "exact" else abtem_projection.infinite
        return make(atoms, grid, index, len(thickness), parametrization, dtype)
    if mode == "exact":
        if kind == "finite_gaussian":
            raise ValueError(
                "finite_gaussian is abTEM's: with mode='exact' choose projection='finite', with "
                "parametrization='peng' for Gaussians alone"
            )
        return finite.project(atoms, grid, depth, thickness, parametrization, dtype)
    if kind == "finite":
        make = abtem_projection.finite
        return make(atoms, grid, depth, thickness, parametrization, dtype)
    return abtem_projection.finite_gaussian(atoms, grid, depth, thickness, dtype)


def memory_needed(
    grid: Grid, slices: int, *, oversample: int = 1, dtype: Any = None
) -> dict[str, int]:
    """Bytes that `project` needs for a number of slices, whatever the number of atoms.

    Returns
    -------
    dict
        `slices`: the result. `working`: beside it (matrices of at most 512 atoms at a time and some
        planes). `peak`: both, with the slices held twice while they are put together.
    """
    itemsize = np.dtype(real_dtype(dtype)).itemsize
    ny, nx = (n * oversample for n in grid.shape)
    result = itemsize * slices * ny * nx
    working = working_memory(Grid((ny, nx), grid.sampling), itemsize)
    return {"slices": result, "working": working, "peak": 2 * result + working}


def _check_fits(grid: Grid, thickness: np.ndarray, oversample: int, dtype: Any) -> None:
    needed = memory_needed(grid, len(thickness), oversample=oversample, dtype=dtype)["peak"]
    ny, nx = (n * oversample for n in grid.shape)
    advice = [
        f"slices of {2 * float(np.mean(thickness)):.3g} Å halve it",
        f"a sampling of {2 * max(grid.sampling):.3g} Å takes a quarter",
        "so does half the field of view",
    ]
    if oversample > 1:
        advice.insert(0, f"oversample=1 takes 1/{oversample**2}")
    if np.dtype(dtype) == np.float64:
        advice.insert(0, "float32 halves it")
    what = f"{len(thickness)} slices of {ny} × {nx} pixels in {np.dtype(dtype).name}"
    check_memory(needed, what, "; ".join(advice) + "; or project the cell in parts and join them")


def tile(potential: Potential, *, x: int = 1, y: int = 1, z: int = 1) -> Potential:
    """A periodic potential repeated x, y and z times: a crystal from its unit cell.

    The same as projecting `tile_atoms(atoms, x=..., y=..., z=...)` with the same sampling, without
    computing it again.
    """
    if any(int(m) != m or m < 1 for m in (x, y, z)):
        raise ValueError(f"repeats must be whole numbers from 1, got x={x}, y={y}, z={z}")
    ny, nx = potential.grid.shape
    return Potential(
        jnp.tile(potential.slices, (z, y, x)),
        jnp.tile(jnp.asarray(potential.thickness), z),
        Grid((ny * y, nx * x), potential.grid.sampling),
        potential.oversample,
    )


def _check_grid(atoms: Atoms, grid: Grid) -> None:
    ly, lx = grid.extent
    for name, mine, cell in (("x", lx, atoms.cell[0]), ("y", ly, atoms.cell[1])):
        if abs(mine - cell) > 1e-6 * cell:
            raise ValueError(
                f"the grid spans {mine:.6f} Å in {name} but the cell is {float(cell):.6f} Å: "
                "make it with Grid.over((cell_y, cell_x), sampling=...)"
            )


__all__ = [
    "MODES",
    "PROJECTIONS",
    "Potential",
    "check_inside",
    "memory_needed",
    "project",
    "slice_thicknesses",
    "tile",
]
