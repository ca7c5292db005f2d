"""Two-dimensional crystals with labelled defects, inside `jit`: graphene, hBN, MX2 alloys.

In this order: grains, an edge, Stone–Wales defects, substitution and antisites, vacancies, and at
last a smooth strain field. A vacancy keeps its row, so that its label has a place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms
from simulators.scattering import atomic_number
from simulators.specimens.cut import apart, assemble, checked_extent, pushed_apart, ranked, spaced
from simulators.specimens.labels import KIND, Sites
from simulators.specimens.lattice import Lattice, patch
from simulators.specimens.materials import graphene, hbn, mx2
from simulators.specimens.strain import StrainField, largest_shift, random_strain
from simulators.tree import pytree

MERGED, RESTING, FLOOR = 1.0, 1.38, 1.25
"""Across a grain boundary [Å]: atoms nearer than the first are one; those nearer than the second
push each other away; whoever is then still nearer than the third goes."""

LARGEST_STRAIN = 0.04
"""Keeps atoms of a boundary 1.2 Å apart."""


@pytree
class LayerLabels:
    """What a scene of a two-dimensional crystal holds.

    Attributes
    ----------
    sites : Sites
        Every lattice site with its kind of defect; vacancies have a row.
    grain : int [n]
        0 or 1; -1 in padding rows.
    rotation : float [2]
        Of the two grains, rad from +x towards +y.
    boundary : float [3]
        Normal (x, y) and offset from the middle of the box [Å] of the line between the grains, in
        the unstrained crystal; the offset is infinite where there is one grain.
    edge : float [3]
        Likewise of the edge: vacuum lies beyond it.
    chances : float [k]
        Drawn chance of each substitution, in the order in which they are given.
    field : StrainField
        Imposed displacement; ``field.gradient(field.reference(r))`` is the strain at any point r.
    gradient : float [n, 2, 2]
        Exact displacement gradient ∂u/∂X at every site.
    """

    sites: Sites
    grain: Any
    rotation: Any
    boundary: Any
    edge: Any
    chances: Any
    field: StrainField
    gradient: Any


def _line(key: jax.Array, chance: Any, reach: float) -> jax.Array:
    """A random line [3] that exists with a chance."""
    turn, place, dice = jax.random.uniform(key, (3,))
    offset = jnp.where(dice < chance, (2 * place - 1) * reach, jnp.inf)
    angle = 2 * math.pi * turn
    return jnp.stack([jnp.cos(angle), jnp.sin(angle), offset])


def _stone_wales(
    key: jax.Array, positions: jax.Array, there: jax.Array, bond: float, most: int, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Up to `most` bonds turned by 90°, far from each other and from every irregularity."""
    length = jnp.where(there[:, None] & there[None], apart(positions[:, :2]), jnp.inf)
    bonded = length < 1.2 * bond
    full = there & (bonded.sum(1) == 3)
    free = full & (bonded @ full.astype(positions.dtype) > 2.5)
    turned = jnp.zeros_like(there)
    for i in range(most):
        score = jax.random.uniform(jax.random.fold_in(key, i), there.shape)
        one = jnp.argmax(jnp.where(free, score, -1))
        two = jnp.argmax(jnp.where(bonded[one] & free, score, -1))
        happens = (i < count) & free[one] & bonded[one, two] & free[two]
        middle = (positions[one, :2] + positions[two, :2]) / 2
        half = (positions[two, :2] - positions[one, :2]) / 2
        half = jnp.stack([-half[1], half[0]])
        moved = positions.at[one, :2].set(middle - half).at[two, :2].set(middle + half)
        # near a boundary a bond may have no room to turn
        new = jnp.stack([moved[one, :2], moved[two, :2]])
        room = jnp.square(new[:, None] - positions[None, :, :2]).sum(-1)
        others = there.at[one].set(False).at[two].set(False)
        happens &= jnp.where(others[None], room, jnp.inf).min() > FLOOR**2
        positions = jnp.where(happens, moved, positions)
        turned = jnp.where(happens, turned.at[one].set(True).at[two].set(True), turned)
        free &= ~(happens & (length[one] < 4.5 * bond))
    return positions, turned


def layer(
    key: jax.Array,
    lattice: Lattice,
    extent: tuple[float, float],
    *,
    n_max: int,
    swaps: Mapping[tuple[str, str], Any] | None = None,
    antisites: Mapping[str, str] | None = None,
    antisite: Any = 0.02,
    vacancies: Mapping[str, Any] | None = None,
    stone_wales: int = 0,
    boundary: float = 0.0,
    edge: Any = 0.0,
    strain: float = 0.02,
) -> tuple[Atoms, LayerLabels]:
    """A randomly turned, strained and defective piece of a two-dimensional crystal.

    Parameters
    ----------
    key : random key.
    lattice : Lattice
        Concrete.
    extent : (y, x)
        Of the box, Å.
    n_max : int
        Rows of the result, of which vacancies take one each; the outermost are left out.
    swaps : {(old, new): largest chance}
        Substitution; the scene's chance is drawn uniformly below. Chances of one element sum to at
        most 1.
    antisites : {old: new}
    antisite : float
        Largest chance of each site.
    vacancies : {symbol: largest chance}
    stone_wales : int
        Largest number of turned bonds (flat, threefold lattices only).
    boundary, edge : float
        Chance of a grain boundary (flat lattices only), of an edge to vacuum.
    strain : float
        Largest norm of the displacement gradient.

    Raises
    ------
    ValueError
        A box too small, a strain too large, an element that the lattice has not, defects of flat
        lattices in one that is not flat.
    """
    y, x = checked_extent(extent, 6.0, "a layer with defects")
    if not 0 <= strain <= LARGEST_STRAIN:
        raise ValueError(f"strain must be between 0 and {LARGEST_STRAIN}, got {strain}")
    swaps, antisites, vacancies = dict(swaps or {}), dict(antisites or {}), dict(vacancies or {})
    known = {int(z) for z in np.asarray(lattice.numbers)}
    for symbol in [*(old for old, _ in swaps), *antisites, *vacancies]:
        if atomic_number(symbol) not in known:
            raise ValueError(f"the layer has no {symbol} that could change or go missing")
    flat = np.ptp(np.asarray(lattice.positions)[:, 2]) < 1e-6
    if not flat and (stone_wales or boundary):
        raise ValueError("Stone–Wales defects and grain boundaries need a flat layer")
    keys = jax.random.split(key, 9)
    margin = largest_shift((y, x), strain) + 0.01
    wide = (y + 2 * margin, x + 2 * margin)
    cell = np.asarray(lattice.cell, float)
    diagonal = float(np.linalg.norm(np.abs(cell).sum(0)))
    density = lattice.n / abs(np.linalg.det(cell))
    rows = math.ceil(density * (wide[0] + diagonal) * (wide[1] + diagonal))
    box = (wide[1], wide[0], float(lattice.height))
    turns = jax.random.uniform(keys[0], (2,), maxval=2 * math.pi)
    shifts = jax.random.uniform(keys[1], (2, 2), minval=-0.5, maxval=0.5) @ jnp.asarray(cell)
    middle = jnp.asarray(box[:2]) / 2
    joint = _line(keys[2], boundary, 0.3 * min(y, x))

    def grown(i: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        piece, sites = patch(lattice, wide, n_max=rows, rotation=turns[i], origin=shifts[i])
        return piece.positions, sites, piece.occupancy > 0

    positions, sites, there = grown(0)
    grain = jnp.zeros(rows, int)
    if not (isinstance(boundary, (int, float)) and boundary == 0):
        other, other_sites, there_b = grown(1)
        here = (positions[:, :2] - middle[None]) @ joint[:2] < joint[2]
        beyond = (other[:, :2] - middle[None]) @ joint[:2] >= joint[2]
        both = jnp.concatenate([positions, other])
        keep = spaced(both, jnp.concatenate([there & here, there_b & beyond]), MERGED)
        order, there = ranked(both, keep, box, rows)
        positions, grain = both[order], order // rows
        sites = jnp.concatenate([sites, other_sites])[order]
        # an atom of one grain precedes those of the other again, which `spaced` goes by
        flat_xy = pushed_apart(positions[:, :2], there, RESTING, steps=25)
        positions = jnp.concatenate([flat_xy, positions[:, 2:]], axis=1)
        there = spaced(positions, there, FLOOR)
    rim = _line(keys[3], edge, 0.3 * min(y, x))
    there &= (positions[:, :2] - middle[None]) @ rim[:2] < rim[2]

    turned = jnp.zeros_like(there)
    if stone_wales:
        count = jax.random.randint(keys[4], (), 0, stone_wales + 1)
        bond = float(_bond(lattice))
        positions, turned = _stone_wales(keys[4], positions, there, bond, stone_wales, count)
    ideal = jnp.where(there, jnp.asarray(lattice.numbers)[sites], 0)
    numbers, kind = ideal, jnp.where(there, KIND["regular"], 0)
    chances = _share(keys[5], list(swaps.values()))
    dice, other_dice, hole_dice = jax.random.uniform(keys[6], (3, rows))
    passed = {old: jnp.zeros(()) for old, _ in swaps}
    for i, (old, new) in enumerate(swaps):
        low, passed[old] = passed[old], passed[old] + chances[i]
        hit = (ideal == atomic_number(old)) & (dice >= low) & (dice < passed[old]) & ~turned
        numbers = jnp.where(hit, atomic_number(new), numbers)
        kind = jnp.where(hit, KIND["substitution"], kind)
    chance = antisite * jax.random.uniform(keys[7])
    for old, new in antisites.items():
        hit = (ideal == atomic_number(old)) & (other_dice < chance) & ~turned
        numbers = jnp.where(hit, atomic_number(new), numbers)
        kind = jnp.where(hit, KIND["antisite"], kind)
    gone = jnp.zeros_like(there)
    rates = _share(jax.random.fold_in(keys[7], 1), list(vacancies.values()))
    for i, symbol in enumerate(vacancies):
        gone |= (ideal == atomic_number(symbol)) & (hole_dice < rates[i]) & ~turned & there
    kind = jnp.where(gone, KIND["vacancy"], jnp.where(turned, KIND["stone_wales"], kind))

    field = random_strain(keys[8], (y, x), strain)
    start = positions - jnp.asarray([margin, margin, 0.0])[None]
    gradient = field.gradient(start)
    moved = start.at[:, :2].add(field.displacement(start))
    order, inside = ranked(moved, there, (x, y, box[2]), n_max)
    elements = {*lattice.elements, *(atomic_number(new) for _, new in swaps)}
    atoms = assemble(
        moved[order],
        numbers[order],
        jnp.asarray(lattice.sigma)[sites[order]],
        inside & ~gone[order],
        (x, y, box[2]),
        tuple(elements),
    )
    places = Sites(
        jnp.where(inside[:, None], moved[order], 0),
        jnp.where(inside, kind[order], 0),
        jnp.where(inside, ideal[order], 0),
    )
    labels = LayerLabels(
        places,
        jnp.where(inside, grain[order], -1),
        turns,
        joint,
        rim,
        chances,
        field,
        jnp.where(inside[:, None, None], gradient[order], 0),
    )
    return atoms, labels


def _share(key: jax.Array, largest: list) -> jax.Array:
    """Chances drawn uniformly below the largest ones; [k]."""
    if not largest:
        return jnp.zeros(0)
    return jnp.stack([jnp.asarray(v, float) for v in largest]) * jax.random.uniform(
        key, (len(largest),)
    )


def _bond(lattice: Lattice) -> float:
    """Distance of nearest neighbours in a flat lattice, Å."""
    flat = np.asarray(lattice.positions)[:, :2]
    steps = np.stack(np.meshgrid(*[(-1, 0, 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    every = (flat[:, None] + (steps @ np.asarray(lattice.cell))[None]).reshape(-1, 2)
    length = np.linalg.norm(flat[:, None] - every[None], axis=-1)
    return length[length > 0.1].min()


def graphene_layer(
    key: jax.Array, extent: tuple[float, float], *, n_max: int, **options: Any
) -> tuple[Atoms, LayerLabels]:
    """Graphene with Si and N, vacancies, Stone–Wales defects, a grain boundary, an edge.

    Parameters as in `layer`; any of them can be given.
    """
    default = {
        "swaps": {("C", "Si"): 0.04, ("C", "N"): 0.06},
        "vacancies": {"C": 0.04},
        "stone_wales": 2,
        "boundary": 0.3,
        "edge": 0.2,
    }
    return layer(key, graphene(), extent, n_max=n_max, **default | options)


def hbn_layer(
    key: jax.Array, extent: tuple[float, float], *, n_max: int, **options: Any
) -> tuple[Atoms, LayerLabels]:
    """Hexagonal boron nitride with C, vacancies, antisites, a grain boundary, an edge."""
    default = {
        "swaps": {("B", "C"): 0.05, ("N", "C"): 0.05},
        "antisites": {"B": "N", "N": "B"},
        "vacancies": {"B": 0.06, "N": 0.03},
        "boundary": 0.2,
        "edge": 0.2,
    }
    return layer(key, hbn(), extent, n_max=n_max, **default | options)


def mx2_layer(
    key: jax.Array,
    extent: tuple[float, float],
    *,
    n_max: int,
    metal: str = "Mo",
    chalcogen: str = "S",
    alloy: tuple[str, str] = ("W", "Se"),
    alloying: float = 1.0,
    **options: Any,
) -> tuple[Atoms, LayerLabels]:
    """A 2H dichalcogenide alloy (M, M')(X, X')2 with vacancies, antisites and imposed strain.

    The scene's concentrations of M' and X' are drawn uniformly up to `alloying` and are the two
    `chances` of its labels; every chalcogen atom of a pair is drawn by itself.
    """
    default = {
        "swaps": {(metal, alloy[0]): alloying, (chalcogen, alloy[1]): alloying},
        "antisites": {metal: chalcogen, chalcogen: metal},
        "vacancies": {metal: 0.03, chalcogen: 0.08},
        "edge": 0.2,
        "strain": 0.03,
    }
    return layer(key, mx2(metal, chalcogen), extent, n_max=n_max, **default | options)
