"""abTEM 1.0.11's finite projections, to rounding: by quadrature of V(r), and by Gaussians.

Both are made in NumPy from known atoms, for comparison. For gradients, or for a result that does
not depend on where an atom lies between pixels, use the exact finite projection (finite.py).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.abtem_projection import bilinear_known, half_plane
from simulators.atoms import Atoms
from simulators.backend import is_concrete
from simulators.electron import KAPPA
from simulators.grid import Grid
from simulators.projection import is_traced, rows_by_slice, stands_still
from simulators.scattering import (
    ScatteringTable,
    as_table,
    coefficients,
    projected_scattering_factor,
    radial_potential,
)
from simulators.slicing import slice_index, wrap

CUTOFF_POTENTIAL = 1e-4
"""V at the radius where an atom ends in the quadrature."""

CUTOFF_GAUSSIAN = 1e-3
"""V at the distance in z beyond which images are left out of the Gaussian projection."""

TAPER = 0.85
"""Fraction of the cutoff radius where the cosine edge begins."""

STEP = 0.02
"""Largest step of the table in z [Å]."""

PIXELS_AT_ONCE = 4_000_000
"""Pixels of atoms' discs in memory at once."""


@functools.lru_cache(maxsize=512)
def cutoff_radius(element: int, table: ScatteringTable, potential: float) -> float:
    """The distance [Å] at which |V| has fallen to `potential` volts."""
    from scipy.optimize import brentq

    return float(
        brentq(
            lambda r: abs(float(radial_potential(element, r, table))) - potential,
            1e-3,
            1e3,
            xtol=1e-12,
        )
    )


@functools.lru_cache(maxsize=128)
def _table(element: int, table: ScatteringTable, smallest: float) -> tuple:
    """Radii [r], depths [z] and ∫ V dz from the first depth to each, tapered, [z, r]."""
    cutoff = cutoff_radius(element, table, CUTOFF_POTENTIAL)
    radii = np.geomspace(smallest, cutoff, int(np.ceil(cutoff / smallest)))
    depths = np.linspace(-cutoff, cutoff, 2 * int(np.ceil(cutoff / STEP)) - 1)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    half = (depths[1] - depths[0]) / 2
    middle = (depths[:-1] + depths[1:]) / 2
    z = middle[:, None] + half * nodes[None]
    steps = np.zeros((len(middle), len(radii)))
    for i in range(len(nodes)):
        r = np.hypot(radii[None], z[:, i, None])
        steps += half * weights[i] * radial_potential(element, r, table)
    inside = TAPER * cutoff
    edge = 0.5 * (1 + np.cos(np.pi * (radii - inside) / (cutoff - inside)))
    taper = np.where(radii < inside, 1.0, edge)
    # the table begins behind the first step, whose slope is therefore not the one prolonged
    return radii, depths[1:], np.cumsum(steps, axis=0) * taper[None], cutoff


def _between(depths: np.ndarray, cumulated: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The cumulated table at z [m], linear, its end segments prolonged, [m, r]."""
    step = depths[1] - depths[0]
    i = np.clip(np.floor((z - depths[0]) / step).astype(int), 0, len(depths) - 2)
    part = ((z - depths[i]) / step)[:, None]
    return cumulated[i] * (1 - part) + cumulated[i + 1] * part


def finite(
    atoms: Atoms, grid: Grid, depth: float, thickness: np.ndarray, parametrization: Any, dtype: Any
) -> jax.Array:
    """Slices [nz, ny, nx] in V Å by quadrature: V(r) cut off, tapered and integrated in z."""
    atoms = _known(atoms, "finite")
    table = as_table(parametrization)
    if not stands_still(atoms):
        raise ValueError(
            "abTEM's finite projection knows no thermal motion: use mode='exact', or frozen phonons"
        )
    # abTEM keeps images up to the largest radius of all elements; beyond an element's own radius
    # its prolonged table still adds to the pixel under the atom
    present = set(np.unique(atoms.numbers[atoms.occupancy != 0])) - {0}
    reach = max((cutoff_radius(int(z), table, CUTOFF_POTENTIAL) for z in present), default=0.0)
    edges = np.concatenate([[0.0], np.cumsum(thickness)])
    out = np.zeros((len(thickness), grid.shape[0] * grid.shape[1]))
    for element in atoms.elements:
        which = np.flatnonzero((atoms.numbers == element) & (atoms.occupancy != 0))
        if not len(which):
            continue
        made = _table(element, table, min(grid.sampling) / 2)
        x, y, z = (wrap(atoms.positions[which, i], length) for i, length in enumerate(atoms.cell))
        for i in range(len(thickness)):
            rows, images = _images(z, edges[i], edges[i + 1], reach, depth)
            if not len(rows):
                continue
            low, high = (_between(made[1], made[2], edges[j] - images) for j in (i, i + 1))
            radial = (high - low) * atoms.occupancy[which][rows, None]
            away = np.maximum(np.maximum(edges[i] - images, images - edges[i + 1]), 0.0)
            lateral = np.sqrt(np.maximum(made[3] ** 2 - away**2, 0.0))
            _add_discs(out[i], x[rows], y[rows], radial, made[0], lateral, grid)
    return jnp.asarray(out.reshape(len(thickness), *grid.shape), dtype)


def _images(
    z: np.ndarray, low: float, high: float, reach: float, depth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and depths of the periodic images within `reach` of a slice."""
    cells = int(np.ceil(reach / depth)) + 1
    many = z[:, None] + depth * np.arange(-cells, cells + 1)[None]
    rows, column = np.nonzero((many > low - reach) & (many < high + reach))
    return rows, many[rows, column]


def _add_discs(
    out: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    radial: np.ndarray,
    radii: np.ndarray,
    lateral: np.ndarray,
    grid: Grid,
) -> None:
    """Add atoms of radial profiles [m, r], cut at lateral radii [m], to the flat image."""
    (ny, nx), (dy, dx) = grid.shape, grid.sampling
    reach = lateral + np.hypot(dy, dx) / 2
    cutoff = float(reach.max())
    oy, ox = (np.arange(-int(cutoff / d) - 1, int(cutoff / d) + 2) for d in (dy, dx))
    oy, ox = (o.ravel() for o in np.meshgrid(oy, ox, indexing="ij"))
    away = np.hypot(oy * dy, ox * dx)  # from the pixel next to the atom
    oy, ox, away = oy[away <= cutoff], ox[away <= cutoff], away[away <= cutoff]
    log_first, log_step = np.log(radii[0]), np.log(radii[-1] / radii[0]) / (len(radii) - 1)
    size = max(1, PIXELS_AT_ONCE // len(oy))
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        iy, ix = np.round(y[part] / dy).astype(int), np.round(x[part] / dx).astype(int)
        py, px = iy[:, None] + oy[None], ix[:, None] + ox[None]
        r = np.hypot(py * dy - y[part, None], px * dx - x[part, None])
        i = np.floor((np.log(np.maximum(r, radii[0])) - log_first) / log_step).astype(int)
        i = np.clip(i, 0, len(radii) - 2)
        share = np.clip((r - radii[i]) / (radii[i + 1] - radii[i]), 0.0, None)
        profile, rows = radial[part], np.arange(len(iy))[:, None]
        value = profile[rows, i] * (1 - share) + profile[rows, i + 1] * share
        value = np.where((away[None] <= reach[part, None]) & (r < radii[-1]), value, 0.0)
        flat = (py % ny) * nx + px % nx
        out += np.bincount(flat.ravel(), value.ravel(), len(out))


def finite_gaussian(
    atoms: Atoms, grid: Grid, depth: float, thickness: np.ndarray, dtype: Any
) -> jax.Array:
    """Slices [nz, ny, nx] in V Å: Peng's Gaussians resolved in z, the rest in one slice.

    The rest is what Lobato's factors have beyond Peng's.
    """
    from scipy.special import erf

    atoms = _known(atoms, "finite_gaussian")
    if not stands_still(atoms):
        raise ValueError(
            "abTEM's finite_gaussian projection knows no thermal motion: use mode='exact'"
        )
    peng, lobato = as_table("peng"), as_table("lobato")
    nz = len(thickness)
    edges = np.concatenate([[0.0], np.cumsum(thickness)])
    k2, sinc = half_plane(grid)
    scale = 1 / (grid.sampling[0] * grid.sampling[1] * sinc)
    index = slice_index(atoms.positions[:, 2], depth, thickness)
    own = rows_by_slice(atoms, index, nz)
    totals = np.zeros((nz, *k2.shape), complex)
    present = set(np.unique(atoms.numbers[atoms.occupancy != 0])) - {0}
    reach = max((cutoff_radius(int(z), peng, CUTOFF_GAUSSIAN) for z in present), default=0.0)

    def spectrum(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
        # abTEM holds these positions, in pixels, in float32 whatever its precision: 1e-6 of V
        points = tuple(
            np.float32(wrap(atoms.positions[rows, axis], length) / step).astype(float) * step
            for axis, length, step in zip((1, 0), grid.extent, grid.sampling, strict=True)
        )
        return np.fft.rfft2(bilinear_known(points, weight, grid))

    for element in atoms.elements:
        which = np.flatnonzero((atoms.numbers == element) & (atoms.occupancy != 0))
        if not len(which):
            continue
        a, b = coefficients(element, peng)
        t = b / 4
        parts = [ai / KAPPA * np.exp(-ti * k2) for ai, ti in zip(a, t, strict=True)]
        core = projected_scattering_factor(element, k2, lobato) - sum(parts)
        z = wrap(atoms.positions[which, 2], depth)
        for i in range(nz):
            rows, images = _images(z, edges[i], edges[i + 1], reach, depth)
            for part, ti in zip(parts, t, strict=True):
                low, high = (erf(np.pi * (edges[j] - images) / np.sqrt(ti)) for j in (i, i + 1))
                weight = atoms.occupancy[which][rows] * np.abs(high - low) / 2
                totals[i] += part * spectrum(which[rows], weight)
            if len(own[element][i]):
                mine = own[element][i]
                totals[i] += core * spectrum(mine, atoms.occupancy[mine])
    return jnp.asarray(np.fft.irfft2(totals * scale, s=grid.shape), dtype)


def _known(atoms: Atoms, name: str) -> Atoms:
    """The atoms as NumPy arrays, or why not."""
    if is_traced(atoms):
        raise ValueError(
            f"abTEM's {name} projection is made from known atoms: under jit or grad use "
            "mode='exact', projection='finite'"
        )
    return atoms if is_concrete(atoms) else jax.tree_util.tree_map(np.asarray, atoms)
