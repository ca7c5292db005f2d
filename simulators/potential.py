"""Projected potentials of slices, by structure factors or in abTEM's way.

Both modes deposit the atoms of a slice and an element as one product of two thin matrices, one per
axis: in `exact` mode the rows are phase ramps exp(-2πi k·r) (the structure factor, smooth in the
positions and exactly shift-invariant), in `abtem` mode bilinear hats on the pixel grid (abTEM's
delta functions, whose envelope is then divided out). No scatter, so it is fast on an accelerator.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms, check_inside
from simulators.backend import is_concrete, real_dtype
from simulators.grid import Grid
from simulators.scattering import projected_scattering_factor
from simulators.tree import pytree, replace, static

MODES = ("exact", "abtem")


@pytree
class Potential:
    """Projected potential of slices, entrance first.

    Attributes
    ----------
    slices : float [nz, ny, nx]
        V Å.
    thickness : float [nz]
        Å; each slice is propagated through by its own thickness.
    grid : Grid, static
    """

    slices: Any
    thickness: Any
    grid: Grid = static()


def slice_thicknesses(depth: float, slice_thickness: Any) -> np.ndarray:
    """Thicknesses [nz]: ceil(depth / t) equal slices for a number t, or a checked sequence.

    Raises
    ------
    ValueError
        A thickness that is not positive, or a sequence that does not add up to the cell.
    """
    if np.ndim(slice_thickness) == 0:
        if not slice_thickness > 0:
            raise ValueError(f"slice_thickness must be positive Å, got {slice_thickness}")
        n = max(1, int(np.ceil(depth / float(slice_thickness))))
        return np.full(n, depth / n)
    thickness = np.asarray(slice_thickness, float)
    if thickness.ndim != 1 or not (thickness > 0).all():
        raise ValueError("slice_thickness takes one number or a list of positive thicknesses in Å")
    if abs(thickness.sum() - depth) > 1e-6 * depth + 1e-9:
        raise ValueError(
            f"the slices add up to {thickness.sum():.6f} Å but the cell is {depth:.6f} Å deep"
        )
    return thickness


def slice_index(z: Any, depth: Any, thickness: np.ndarray) -> Any:
    """Slice of each atom; one on an inner boundary belongs to the later slice."""
    xp = np if is_concrete(z, depth) else jnp
    edges = np.cumsum(thickness)[:-1] - 1e-12
    wrapped = _wrap(z, depth, xp)
    return xp.searchsorted(xp.asarray(edges, wrapped.dtype), wrapped, side="right")


def _wrap(x: Any, length: Any, xp: Any) -> Any:
    """x modulo length; within 1e-10 of either end it is 0."""
    x = xp.mod(x, length)
    return xp.where((x < 1e-10) | (x > length - 1e-10), 0.0 * x, x)


def _ramps(x: Any, n: int, length: Any, sigma: Any, half: bool, xp: Any) -> Any:
    """exp(-2πi h x / L) exp(-2π²σ²(h/L)²) [atoms, n or n//2 + 1]; h in FFT order."""
    index = np.arange(n // 2 + 1) if half else np.fft.fftfreq(n, 1 / n)
    fraction = x / length
    turns = fraction[:, None] * xp.asarray(index, fraction.dtype)[None]
    turns = turns - xp.round(turns)
    damping = xp.exp(-2 * (np.pi * sigma / length)[:, None] ** 2 * (index**2)[None])
    ramp = xp.exp(-2j * np.pi * turns) * damping
    if n % 2 == 0:  # the Nyquist term of a real function is a cosine
        nyquist = xp.asarray(np.abs(index) == n // 2)[None]
        ramp = xp.where(nyquist, ramp.real + 0j, ramp)
    return ramp


def _hats(x: Any, n: int, length: Any, xp: Any) -> Any:
    """Bilinear weights [atoms, n] of periodic points."""
    pixel = (_wrap(x, length, xp) / length * n)[:, None]
    distance = pixel - np.arange(n)[None]
    distance = distance - n * xp.round(distance / n)
    return xp.maximum(0.0, 1.0 - xp.abs(distance))


def _factor(
    element: int, grid: Grid, mode: str, parametrization: str
) -> tuple[np.ndarray, np.ndarray]:
    """What the deposited atoms are multiplied by on the half plane; ones for the damping."""
    ny, nx = grid.shape
    ky = np.fft.fftfreq(ny, grid.sampling[0])
    kx = np.fft.rfftfreq(nx, grid.sampling[1])
    k2 = ky[:, None] ** 2 + kx[None, :] ** 2
    factor = projected_scattering_factor(element, k2, parametrization)
    if mode == "exact":
        return factor / (grid.sampling[0] * grid.sampling[1]), k2
    # abTEM divides by sinc of |(kx dx, ky dy)| without π: part of its numbers, not of the physics
    w = np.hypot(ky[:, None] * grid.sampling[0], kx[None, :] * grid.sampling[1])
    sinc = np.where(w == 0, 1.0, np.sin(w) / np.where(w == 0, 1.0, w))
    return factor / (grid.sampling[0] * grid.sampling[1] * sinc), k2


def _group(atoms: Atoms, index: Any, nz: int) -> tuple[Atoms, Any]:
    """Rows packed by slice [nz, m], each slice padded to the fullest one (known atoms only)."""
    present = np.flatnonzero((atoms.occupancy != 0) & (atoms.numbers != 0))
    order = present[np.argsort(index[present], kind="stable")]
    counts = np.bincount(index[order], minlength=nz)
    m = max(1, int(counts.max(initial=0)))
    start = np.concatenate([[0], np.cumsum(counts)[:-1]])
    slot = np.arange(len(order)) - start[index[order]]

    def fill(leaf: Any) -> Any:
        leaf = np.asarray(leaf)
        packed = np.zeros((nz, m, *leaf.shape[1:]), leaf.dtype)
        packed[index[order], slot] = leaf[order]
        return packed

    leaves = (atoms.positions, atoms.numbers, atoms.occupancy, atoms.sigma)
    return Atoms(*(fill(leaf) for leaf in leaves), atoms.cell, atoms.elements), counts


def project(
    atoms: Atoms,
    grid: Grid,
    slice_thickness: Any,
    *,
    mode: str = "exact",
    parametrization: str = "lobato",
    dtype: Any = None,
    depth: float | None = None,
) -> Potential:
    """Projected potential of every slice (infinite projection: an atom lies in one slice whole).

    Parameters
    ----------
    atoms : Atoms
        Wrapped into the cell in x, y and z. Differentiable in positions x and y, occupancy and
        sigma; z only chooses the slice.
    grid : Grid
        Must span the cell in x and y.
    slice_thickness : float or sequence
        Å; a number gives ceil(depth / t) equal slices.
    mode : {"exact", "abtem"}
        `exact`: structure factors, shift-invariant. `abtem`: abTEM's bilinear deltas with its sinc,
        equal to abTEM 1.0.11 to rounding and dependent on where atoms lie between pixels.
    parametrization : {"lobato", "kirkland", "peng"}
    dtype : optional
        float32 or float64.
    depth : float, optional
        Depth of the cell in Å, needed while tracing (`atoms.cell` is then not known).

    Returns
    -------
    Potential
        Slices [nz, ny, nx] in V Å. No band limit, no mean subtraction.

    Raises
    ------
    ValueError
        Unknown mode or element, a grid that does not span the cell, slices that do not add up.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}: choose one of {', '.join(MODES)}")
    dtype = real_dtype(dtype)
    concrete = is_concrete(atoms)
    if concrete:
        _check_grid(atoms, grid)
    if depth is None:
        if not is_concrete(atoms.cell):
            raise ValueError("inside jit the cell's depth is not known: give depth=... in Å")
        depth = float(atoms.cell[2])
    thickness = slice_thicknesses(depth, slice_thickness)
    nz = len(thickness)
    index = slice_index(atoms.positions[:, 2], depth, thickness)
    if concrete:
        packed, _ = _group(atoms, np.asarray(index), nz)
        weight = packed.occupancy
        slices = [
            _slice(
                Atoms(
                    *(leaf[i] for leaf in (packed.positions, packed.numbers)),
                    weight[i],
                    packed.sigma[i],
                    packed.cell,
                    packed.elements,
                ),
                grid,
                mode,
                parametrization,
                dtype,
            )
            for i in range(nz)
        ]
        stack = jnp.stack(slices)
    elif nz == 1:
        stack = _slice(atoms, grid, mode, parametrization, dtype)[None]
    else:

        def one(i: Any) -> Any:
            inside = jnp.where(index == i, atoms.occupancy, 0.0)
            return _slice(replace(atoms, occupancy=inside), grid, mode, parametrization, dtype)

        stack = jax.lax.map(one, jnp.arange(nz))
    return Potential(stack, jnp.asarray(thickness, dtype), grid)


def _slice(atoms: Atoms, grid: Grid, mode: str, parametrization: str, dtype: Any) -> Any:
    """One slice [ny, nx]: Σ over elements of (rows_yᵀ · weights · rows_x) times the factor."""
    xp = np if is_concrete(atoms) else jnp
    ny, nx = grid.shape
    ly, lx = grid.extent
    x, y, sigma = atoms.positions[:, 0], atoms.positions[:, 1], atoms.sigma
    if mode == "exact":
        rows_y = _ramps(y, ny, ly, sigma, False, xp)
        rows_x = _ramps(x, nx, lx, sigma, True, xp)
    else:
        rows_y, rows_x = _hats(y, ny, ly, xp), _hats(x, nx, lx, xp)
    matrix = np.complex128 if dtype == np.float64 else np.complex64
    kind = matrix if mode == "exact" else dtype
    rows_y, rows_x = jnp.asarray(rows_y, kind), jnp.asarray(rows_x, kind)
    total = jnp.zeros((ny, nx // 2 + 1), matrix)
    for element in atoms.elements:
        weight = xp.where(atoms.numbers == element, atoms.occupancy, 0.0)
        if xp is np and not weight.any():
            continue
        weighted = rows_y * jnp.asarray(weight, kind)[:, None]
        deposit = jnp.matmul(weighted.T, rows_x, precision=jax.lax.Precision.HIGHEST)
        factor, k2 = _factor(element, grid, mode, parametrization)
        spectrum = deposit if mode == "exact" else jnp.fft.rfft2(deposit)
        if mode == "abtem" and not (xp is np and not np.any(sigma)):
            spectrum = spectrum * jnp.asarray(_common_damping(atoms, element, k2, xp), dtype)
        total = total + spectrum * jnp.asarray(factor, dtype)
    return jnp.fft.irfft2(total, s=(ny, nx))


def _common_damping(atoms: Atoms, element: int, k2: np.ndarray, xp: Any) -> Any:
    """exp(-2π²σ²k²) with the element's mean σ²: abTEM smears an element, not an atom."""
    weight = xp.where(atoms.numbers == element, atoms.occupancy, 0.0)
    total = xp.maximum(weight.sum(), 1e-30)
    mean = (weight * atoms.sigma**2).sum() / total
    return xp.exp(-2 * np.pi**2 * mean * k2)


def _check_grid(atoms: Atoms, grid: Grid) -> None:
    ly, lx = grid.extent
    for name, mine, cell in (("x", lx, atoms.cell[0]), ("y", ly, atoms.cell[1])):
        if abs(mine - cell) > 1e-6 * cell:
            raise ValueError(
                f"the grid spans {mine:.6f} Å in {name} but the cell is {float(cell):.6f} Å: "
                "make it with Grid.over((cell_y, cell_x), sampling=...)"
            )


__all__ = ["MODES", "Potential", "check_inside", "project", "slice_thicknesses"]
