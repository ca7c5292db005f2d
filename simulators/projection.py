"""The exact infinite projection: structure factors of every slice and element.

Where the atoms are known, each slice deposits its own atoms only, in a loop. Where positions are
traced but the slice of every atom is known (`layers`), the same atoms are gathered into a padded
table. Where nothing is known, every slice masks all atoms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms, rows
from simulators.deposit import deposit, empty, image, quarter_k
from simulators.grid import Grid
from simulators.scattering import projected_scattering_factor

GROUPS = 64
"""Different displacement tensors that are worth a factor each; more are done atom by atom."""


def is_traced(*values: Any) -> bool:
    """True when any leaf is a tracer: its numbers are not known yet."""
    return any(isinstance(v, jax.core.Tracer) for v in jax.tree_util.tree_leaves(values))


def element_factors(
    elements: tuple[int, ...], grid: Grid, parametrization: Any, dtype: Any
) -> dict[int, jax.Array]:
    """Transform of one atom of each element on the quadrants [hy, hx], V Å per pixel's area."""
    ky, kx = quarter_k(grid)
    area = grid.sampling[0] * grid.sampling[1]
    factor = projected_scattering_factor
    return {
        z: jnp.asarray(factor(z, ky**2 + kx**2, parametrization) / area, dtype) for z in elements
    }


def stands_still(atoms: Atoms) -> bool:
    """True where it is known that no atom has thermal motion."""
    moving = atoms.sigma if atoms.tensor is None else atoms.tensor
    return not is_traced(moving) and not np.any(np.asarray(moving))


def thermal_widths(atoms: Atoms) -> tuple[Any, Any, Any]:
    """2π² U_yy, U_xx, U_zz of each atom [n] in Å²."""
    if atoms.tensor is None:
        width = 2 * np.pi**2 * atoms.sigma**2
        return width, width, width
    y, x, z = (2 * np.pi**2 * atoms.tensor[:, axis, axis] for axis in (1, 0, 2))
    return y, x, z


def rows_by_slice(atoms: Atoms, index: np.ndarray, nz: int) -> dict[int, list[np.ndarray]]:
    """Rows of each element in each slice; atoms of occupancy 0 are left out."""
    found = {}
    for element in atoms.elements:
        which = np.flatnonzero((atoms.numbers == element) & (atoms.occupancy != 0))
        which = which[np.argsort(index[which], kind="stable")]
        found[element] = np.split(which, np.searchsorted(index[which], np.arange(1, nz)))
    return found


def add_atoms(total: Any, atoms: Atoms, weight: Any, factor: Any, grid: Grid, still: bool) -> Any:
    """Quadrants with atoms of one element added; thermal motion smears each by its own amount.

    `still` says that nothing moves, so that no damping is computed.
    """
    if atoms.tensor is not None and is_traced(atoms.tensor):
        return _one_by_one(total, atoms, weight, factor, grid)
    points = (atoms.positions[:, 1], atoms.positions[:, 0])
    if atoms.tensor is None or not np.any(np.asarray(atoms.tensor)[:, 0, 1]):
        width = None if still else thermal_widths(atoms)[:2]
        return deposit(total, points, weight, grid, width=width, factor=factor)
    tensor = np.asarray(atoms.tensor)
    kinds, which = np.unique(tensor[:, :2, :2].reshape(-1, 4), axis=0, return_inverse=True)
    if len(kinds) > GROUPS:
        return _one_by_one(total, atoms, weight, factor, grid)
    for i, kind in enumerate(kinds):
        part = np.flatnonzero(which.ravel() == i)
        even, odd = tensor_factors(kind.reshape(2, 2), grid, np)
        even, odd = (jnp.asarray(part, total.dtype) * factor for part in (even, odd))
        some = tuple(x[part] for x in points)
        total = deposit(total, some, weight[part], grid, factor=even, odd=odd)
    return total


def tensor_factors(tensor: Any, grid: Grid, xp: Any) -> tuple[Any, Any]:
    """exp(-2π² k·U·k) for (xx, xy; yx, yy) as parts even and odd in kx and ky, [hy, hx].

    The factor does not split into one of kx and one of ky where U_xy is not 0.
    """
    ky, kx = quarter_k(grid)
    along = tensor[0, 0] * kx**2 + tensor[1, 1] * ky**2
    across = 2 * tensor[0, 1] * kx * ky
    plus = xp.exp(-2 * np.pi**2 * (along + across))
    minus = xp.exp(-2 * np.pi**2 * (along - across))
    odd = (plus - minus) / 2
    # at the Nyquist frequency of a real image both signs are one term: their mean
    keep = np.ones(odd.shape)
    if grid.shape[0] % 2 == 0:
        keep[-1] = 0
    if grid.shape[1] % 2 == 0:
        keep[:, -1] = 0
    return (plus + minus) / 2, odd * keep


def _one_by_one(total: Any, atoms: Atoms, weight: Any, factor: Any, grid: Grid) -> Any:
    """As `add_atoms` with a displacement tensor for each: two exponentials a pixel and atom."""

    @jax.checkpoint
    def step(total: Any, one: tuple) -> tuple[Any, None]:
        x, y, w, tensor = one
        even, odd = tensor_factors(tensor.astype(total.dtype), grid, jnp)
        even, odd = (part.astype(total.dtype) * factor for part in (even, odd))
        return deposit(total, (y[None], x[None]), w[None], grid, factor=even, odd=odd), None

    leaves = (atoms.positions[:, 0], atoms.positions[:, 1], weight, atoms.tensor)
    return jax.lax.scan(step, total, jax.tree_util.tree_map(jnp.asarray, leaves))[0]


def known_slices(one: Callable[[int], Any], nz: int) -> jax.Array:
    """Slices [nz, ny, nx] of known atoms, made one after another."""
    return jnp.stack([one(i) for i in range(nz)])


def traced_slices(one: Callable[[Any], Any], xs: Any, nz: int) -> jax.Array:
    """Slices of traced atoms; the gradient recomputes each slice instead of keeping its rows."""
    if nz == 1:
        return one(jax.tree_util.tree_map(lambda x: x[0], xs))[None]
    return jax.lax.map(jax.checkpoint(one), xs)


def infinite(
    atoms: Atoms, grid: Grid, index: Any, nz: int, parametrization: Any, dtype: Any
) -> jax.Array:
    """Projected potentials [nz, ny, nx] in V Å; `index` is the slice of each atom."""
    factors = element_factors(atoms.elements, grid, parametrization, dtype)
    still = stands_still(atoms)
    if not is_traced(atoms):
        atoms = jax.tree_util.tree_map(np.asarray, atoms)
        found = rows_by_slice(atoms, np.asarray(index), nz)

        def known(i: int) -> Any:
            total = empty(grid, dtype)
            for element, lists in found.items():
                if len(lists[i]):
                    part = rows(atoms, lambda leaf, which=lists[i]: leaf[which])
                    total = add_atoms(total, part, part.occupancy, factors[element], grid, still)
            return image(total, grid)

        return known_slices(known, nz)
    tables = row_tables(atoms, index, nz)

    def traced(xs: tuple) -> Any:
        i, chosen = xs
        total = empty(grid, dtype)
        for element in atoms.elements:
            which, valid = chosen[element]
            part = rows(atoms, lambda leaf, which=which: jnp.asarray(leaf)[which])
            weight = jnp.where(valid & (part.numbers == element), part.occupancy, 0.0)
            if is_traced(index):
                weight = jnp.where(jnp.asarray(index)[which] == i, weight, 0.0)
            total = add_atoms(total, part, weight, factors[element], grid, still)
        return image(total, grid)

    return traced_slices(traced, (jnp.arange(nz), tables), nz)


def row_tables(atoms: Atoms, index: Any, nz: int) -> dict[int, tuple[Any, Any]]:
    """For each element: rows [nz, m] that may matter to a slice, and which of them are real."""
    n = atoms.n
    numbers = None if is_traced(atoms.numbers) else np.asarray(atoms.numbers)
    layers = None if is_traced(index) else np.asarray(index)
    tables = {}
    for element in atoms.elements:
        mine = np.ones(n, bool) if numbers is None else numbers == element
        if layers is None:
            lists = [np.flatnonzero(mine)] * nz
        else:
            lists = [np.flatnonzero(mine & (layers == i)) for i in range(nz)]
        m = max(1, max(len(one) for one in lists))
        table, valid = np.zeros((nz, m), int), np.zeros((nz, m), bool)
        for i, one in enumerate(lists):
            table[i, : len(one)], valid[i, : len(one)] = one, True
        tables[element] = (jnp.asarray(table), jnp.asarray(valid))
    return tables
