"""The exact finite projection: what of each atom lies between the faces of each slice.

A Gaussian exp(-t k²) of the scattering factor splits into the plane and the depth: between z = a
and z = b lies the share [erf(π(b - z₀)/√t) - erf(π(a - z₀)/√t)] / 2 of it, smooth in the atom's
depth z₀. Peng's factors are Gaussians. Lobato's and Kirkland's are Lorentzians, which are integrals
over Gaussians, 1/(k² + β) = ∫ exp(-βt) exp(-tk²) dt; the trapezoid rule in ln t with ratio 1.6
takes them to 1e-8 (1e-5 where a table's large coefficients cancel, as for C). What it leaves out is
placed in depth like the narrowest Gaussian, so that the slices add up to the infinite projection to
rounding; nuclei are smeared by half a picometre in depth. Periodic images in z are summed. Thermal
motion widens t by 2π²σ².

The cost is that of the infinite projection times the 20 to 30 Gaussians; wide ones reach several
slices but only low frequencies, and are deposited on a part of the plane.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms
from simulators.deposit import deposit, empty, halves, image, quarter_k
from simulators.electron import KAPPA
from simulators.grid import Grid
from simulators.projection import (
    is_traced,
    known_slices,
    stands_still,
    thermal_widths,
    traced_slices,
)
from simulators.scattering import (
    ScatteringTable,
    as_table,
    atomic_number,
    coefficients,
    projected_scattering_factor,
)
from simulators.tree import replace

RATIO = 1.6
"""Of one width t to the next: the trapezoid rule's error is exp(-π² / ln RATIO) = 1e-9."""

NARROWEST = 2.5e-4
"""t of the narrowest Gaussian [Å²]: its depth of 0.5 pm is no depth."""

REACH = 5.0
"""erf is 1 to 2e-12 beyond this."""

NEGLIGIBLE = 25.0
"""exp(-25) = 1e-11: frequencies of a Gaussian beyond are left out."""

LARGEST_SIGMA = 0.5
"""Å; bounds the images in z where the thermal motion is traced."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Tier:
    """Gaussians c exp(-t k²) of one element that reach the same frequencies (y, x)."""

    c: np.ndarray
    t: np.ndarray
    counts: tuple[int, int]


@functools.lru_cache(maxsize=512)
def _expansion(element: int, table: ScatteringTable) -> tuple[np.ndarray, np.ndarray]:
    rows = coefficients(element, table)
    if table.form == "peng":
        return rows[0], rows[1] / 4
    beta = 1 / rows[1] if table.form == "lobato" else rows[1]
    step = np.log(RATIO)
    last = int(np.ceil(np.log(25 / beta.min() / NARROWEST) / step))
    t = NARROWEST * RATIO ** np.arange(max(last, 1) + 1)
    decay = np.exp(-beta[:, None] * t)
    if table.form == "lobato":  # a (2 + bk²)/(1 + bk²)² = aβ/(k² + β) + aβ²/(k² + β)²
        density = ((rows[0] * beta)[:, None] * decay * (1 + beta[:, None] * t)).sum(0)
        return step * t * density, t
    density = (rows[0][:, None] * decay).sum(0)
    return np.append(step * t * density, rows[2]), np.append(t, rows[3])


def gaussians(element: int | str, parametrization: Any = "lobato") -> tuple[np.ndarray, np.ndarray]:
    """c [g] in Å and t [g] in Å² with f(k²) = Σ c exp(-t k²) nearly.

    Exact for tables of Peng's form; otherwise to about 1e-8 of f at low k. What is
    missing at high k, where the narrowest does not reach, `project` adds.
    """
    return _expansion(atomic_number(element), as_table(parametrization))


def _residue(element: int, k2: np.ndarray, table: ScatteringTable) -> np.ndarray | None:
    """What the Gaussians leave of the projected scattering factor; None where nothing."""
    if table.form == "peng":
        return None
    c, t = _expansion(element, table)
    total = sum(ci * np.exp(-ti * k2) for ci, ti in zip(c, t, strict=True)) / KAPPA
    return projected_scattering_factor(element, k2, table) - total


def share(z: Any, t: Any, low: Any, high: Any, depth: float, images: int) -> Any:
    """Part of a Gaussian of width t [Å²] at z that lies in low … high, images in z included.

    Parameters
    ----------
    z, t : float [...]
        Å, Å².
    low, high : float
        The slice's faces, Å.
    images : int
        Cells on each side.
    """
    xp = np if not any(isinstance(v, jax.Array) for v in (z, t, low, high)) else jnp
    if xp is np:
        from scipy.special import erf
    else:
        erf = jax.scipy.special.erf
    # distance to the middle of the slice in the nearest cell, then the cells around it
    away = z - (low + high) / 2
    away = away - depth * xp.round(away / depth)
    cells = depth * np.arange(-images, images + 1)
    d = xp.expand_dims(away, -1) + xp.asarray(cells, away.dtype).reshape((1,) * away.ndim + (-1,))
    scale, half = (np.pi / xp.sqrt(t))[..., None], (high - low) / 2
    return (erf((half - d) * scale) + erf((half + d) * scale)).sum(-1) / 2


def _images(t: float, depth: float) -> int:
    return int(np.ceil(REACH * np.sqrt(t) / np.pi / depth)) + 1


def _crop(t: float, grid: Grid) -> tuple[int, int]:
    """Frequencies that a Gaussian reaches: the smallest of 1/8, 1/4, 1/2 of the plane, or all."""
    reach = np.sqrt(NEGLIGIBLE / t)
    full = halves(grid)
    for part in (8, 4, 2):
        counts = tuple(-(-n // part) for n in full)
        if all(c / length > reach for c, length in zip(counts, grid.extent, strict=True)):
            return counts  # type: ignore[return-value]
    return full


def project(
    atoms: Atoms, grid: Grid, depth: float, thickness: np.ndarray, parametrization: Any, dtype: Any
) -> jax.Array:
    """Slices [nz, ny, nx] in V Å; differentiable in x, y, z, occupancy and thermal motion.

    Known displacement tensors with components xy, xz or yz are refused; traced ones give NaN.
    """
    table = as_table(parametrization)
    nz = len(thickness)
    edges = np.concatenate([[0.0], np.cumsum(thickness)])
    if atoms.tensor is not None and not is_traced(atoms.tensor):
        _check_diagonal(np.asarray(atoms.tensor))
    elif atoms.tensor is not None:  # what cannot be refused shows: NaN, not a silent approximation
        crossed = jnp.any(_crossed(atoms.tensor))
        atoms = replace(atoms, occupancy=jnp.where(crossed, jnp.nan, atoms.occupancy))
    ky, kx = quarter_k(grid)
    area = grid.sampling[0] * grid.sampling[1]
    residues = {
        z: None if rest is None else jnp.asarray(rest / area, dtype)
        for z in atoms.elements
        for rest in [_residue(z, ky**2 + kx**2, table)]
    }
    still = stands_still(atoms)
    known = not is_traced(atoms)
    if known:
        atoms = jax.tree_util.tree_map(np.asarray, atoms)
        moving = thermal_widths(atoms)[2]
        widest = 0.0 if still else float(moving.max(initial=0.0))
    else:
        widest = 0.0 if still else 2 * np.pi**2 * LARGEST_SIGMA**2
        atoms = jax.tree_util.tree_map(jnp.asarray, atoms)

    def one(faces: Any) -> Any:
        low, high = faces
        total = empty(grid, dtype)
        for element in atoms.elements:
            chosen = _chosen(atoms, element, known)
            for tier in _tiers(element, table, grid):
                pairs = _pairs(chosen, tier, low, high, depth, widest, known)
                if pairs is None:
                    continue
                points, weight, width = pairs
                scale = 1 / KAPPA / area
                total = deposit(
                    total, points, weight * scale, grid, width=width, counts=tier.counts
                )
            if residues[element] is not None:
                narrow = _Tier(np.ones(1), np.array([NARROWEST]), halves(grid))
                pairs = _pairs(chosen, narrow, low, high, depth, widest, known, inside=True)
                if pairs is not None:
                    points, weight, width = pairs
                    width = None if still else width
                    total = deposit(
                        total, points, weight, grid, width=width, factor=residues[element]
                    )
        return image(total, grid)

    if known:
        return known_slices(lambda i: one((edges[i], edges[i + 1])), nz)
    faces = tuple(jnp.asarray(edge, dtype) for edge in (edges[:-1], edges[1:]))
    return traced_slices(one, faces, nz)


@functools.lru_cache(maxsize=512)
def _tiers(element: int, table: ScatteringTable, grid: Grid) -> tuple[_Tier, ...]:
    c, t = _expansion(element, table)
    groups: dict[tuple[int, int], list[int]] = {}
    for i in range(len(t)):
        groups.setdefault(_crop(float(t[i]), grid), []).append(i)
    return tuple(_Tier(c[i], t[i], counts) for counts, i in groups.items())


def _chosen(atoms: Atoms, element: int, known: bool) -> tuple:
    """x, y, z, weight and thermal widths (y, x, z) of the element's atoms."""
    widths = thermal_widths(atoms)
    leaves = (*(atoms.positions[:, i] for i in range(3)), atoms.occupancy, *widths)
    if known:
        which = np.flatnonzero((atoms.numbers == element) & (atoms.occupancy != 0))
        return tuple(leaf[which] for leaf in leaves)
    weight = jnp.where(atoms.numbers == element, atoms.occupancy, 0.0)
    return (*leaves[:3], weight, *leaves[4:])


def _pairs(
    chosen: tuple,
    tier: _Tier,
    low: Any,
    high: Any,
    depth: float,
    widest: float,
    known: bool,
    inside: bool = False,
) -> tuple | None:
    """Points, weights and widths of every atom with every Gaussian that reaches the slice.

    With `inside` the Gaussian's own width stays out of the plane (it only places the residue).
    """
    x, y, z, weight, wide_y, wide_x, wide_z = chosen
    if not known:  # all atoms with all Gaussians, [g, n] at once: few operations to compile
        t = jnp.asarray(tier.t, z.dtype)[:, None]
        images = _images(float(tier.t.max()) + widest, depth)
        part = share(z[None], t + wide_z[None], low, high, depth, images) * weight[None]
        plane = 0.0 * t if inside else t
        wide = (plane + wide_y[None], plane + wide_x[None])
        spread = [jnp.broadcast_to(v[None], part.shape) for v in (y, x)]
        part = part * jnp.asarray(tier.c, z.dtype)[:, None]
        y, x, part, wide_y, wide_x = (v.reshape(-1) for v in (*spread, part, *wide))
        return (y, x), part, (wide_y, wide_x)
    found = []
    away = z - (low + high) / 2
    away = np.abs(away - depth * np.round(away / depth)) - (high - low) / 2
    for c, t in zip(tier.c, tier.t, strict=True):
        rows = np.flatnonzero(away < REACH * np.sqrt(t + widest) / np.pi)
        images = _images(t + widest, depth)
        part = share(z[rows], t + wide_z[rows], low, high, depth, images) * weight[rows] * c
        plane = 0.0 if inside else t
        found.append((y[rows], x[rows], part, plane + wide_y[rows], plane + wide_x[rows]))
    y, x, part, wide_y, wide_x = (np.concatenate(leaves) for leaves in zip(*found, strict=True))
    return ((y, x), part, (wide_y, wide_x)) if len(part) else None


def _crossed(tensor: Any) -> Any:
    """Which tensors [n, 3, 3] have components xy, xz or yz, [n]."""
    return abs(tensor[:, [0, 0, 1], [1, 2, 2]]).max(axis=1) > 0


def _check_diagonal(tensor: np.ndarray) -> None:
    crossed = _crossed(tensor)
    if crossed.any():
        i = int(np.argmax(crossed))
        raise ValueError(
            "the finite projection takes displacement tensors along x, y and z only; that of atom "
            f"{i} has components xy, xz or yz: use projection='infinite', or frozen phonons"
        )
