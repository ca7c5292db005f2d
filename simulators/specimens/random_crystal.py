"""Random scenes of a crystal with defects, inside `jit`: one procedure for every material.

What distinguishes materials (`Material`) is data, not code, so materials can be stacked along an
axis and a batch can hold a different one in every image without compiling each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms
from simulators.scattering import atomic_number
from simulators.specimens.lattice import Lattice, cells_needed, pad_lattice, patch
from simulators.tree import pytree, replace

LARGEST = 0.105
"""Largest static displacement in each direction [Å]: the atoms of one column remain one column
(two of them move apart by at most 2√2 · this, and `columns.TOLERANCE` is 0.3)."""


@pytree
class Material:
    """A lattice and the point defects that it is prone to.

    Attributes
    ----------
    lattice : Lattice
    vacancy : float [n]
        Relative chance of a vacancy on each row of the lattice, 0 to 1.
    substitute : int [n]
        Element that may sit there instead; 0 for none.
    """

    lattice: Lattice
    vacancy: Any
    substitute: Any


@pytree
class Disorder:
    """How imperfect random scenes are; every value is the upper end of a range from (near) 0.

    Attributes
    ----------
    vacancies, substitutions : float
        Chance per site; the scene's own is drawn log-uniformly over a decade (two for
        substitutions) below.
    damage : float
        Chance of a damaged spot in the scene: a disc where vacancies are common.
    strain : float
        Standard deviation of the components of the displacement gradient.
    displacement : float
        Static displacement of every atom, standard deviation in Å.
    boundary : float
        Chance of a grain boundary in the scene.
    edge : float
        Chance of an edge to vacuum in the scene.
    """

    vacancies: Any = 0.1
    substitutions: Any = 0.1
    damage: Any = 0.15
    strain: Any = 0.015
    displacement: Any = 0.06
    boundary: Any = 0.15
    edge: Any = 0.15


def material(
    lattice: Lattice,
    *,
    vacancies: Mapping[str, float] | None = None,
    substitutes: Mapping[str, str] | None = None,
) -> Material:
    """A material; elements may be missing {symbol: relative chance} or replaced {old: new}."""
    numbers = np.asarray(lattice.numbers)
    missing = {atomic_number(s): chance for s, chance in (vacancies or {}).items()}
    vacancy = np.array([missing.get(int(z), 0.0) for z in numbers])
    swap = {atomic_number(a): atomic_number(b) for a, b in (substitutes or {}).items()}
    unknown = (set(missing) | set(swap)) - set(numbers.tolist())
    if unknown:
        raise ValueError(f"the lattice has no atoms of Z = {sorted(unknown)}")
    substitute = np.array([swap.get(int(z), 0) for z in numbers])
    elements = tuple(sorted({*lattice.elements, *swap.values()}))
    return Material(replace(lattice, elements=elements), vacancy, substitute)


def stack(materials: Sequence[Material]) -> Material:
    """Materials along a new first axis; pick one with ``jax.tree.map(lambda x: x[i], ...)``."""
    rows = max(m.lattice.n for m in materials)
    elements = tuple(sorted({z for m in materials for z in m.lattice.elements}))

    def padded(m: Material) -> Material:
        extra = (0, rows - m.lattice.n)
        return Material(
            pad_lattice(m.lattice, rows, elements),
            np.pad(m.vacancy, extra),
            np.pad(m.substitute, extra),
        )

    return jax.tree.map(lambda *leaves: np.stack(leaves), *map(padded, materials))


def most_cells(materials: Sequence[Material], extent: tuple[float, float]) -> tuple[int, int]:
    """`cells_needed` for any of the materials."""
    needs = [cells_needed(m.lattice, extent) for m in materials]
    return max(n[0] for n in needs), max(n[1] for n in needs)


def random_crystal(
    key: jax.Array,
    material: Material,
    extent: tuple[float, float],
    *,
    n_max: int,
    disorder: Disorder | None = None,
    cells: tuple[int, int] | None = None,
) -> Atoms:
    """A randomly turned, placed, strained and damaged piece of a crystal.

    Parameters
    ----------
    key : random key.
    material : Material
        May be traced (one of a stack) if `cells` is given.
    extent : (y, x)
        Box in Å.
    n_max : int
        Rows of the result; see `patch`.
    disorder : Disorder
    cells : see `patch` and `most_cells`.

    Returns
    -------
    Atoms
        [n_max], inside the box apart from their static displacements. A vacancy is a row with the
        number of the missing atom and no occupancy.
    """
    disorder = Disorder() if disorder is None else disorder
    keys = jax.random.split(key, 8)
    lattice = material.lattice
    turn = jax.random.uniform(keys[0], (2,), maxval=2 * math.pi)
    shift = jax.random.uniform(keys[1], (2, 2), minval=-0.5, maxval=0.5)
    shift = shift @ jnp.asarray(lattice.cell, shift.dtype)
    strain = disorder.strain * jax.random.normal(keys[2], (2, 2))
    sides = jnp.asarray([extent[1], extent[0]]) / 2

    # two grains, one on each side of a random line; without a boundary all belongs to the first
    line_key, place_key, choice_key = jax.random.split(keys[3], 3)
    angle = jax.random.uniform(line_key, maxval=2 * math.pi)
    normal = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    place = jax.random.uniform(place_key, (2,), minval=-0.7, maxval=0.7) * sides.min()
    choice = jax.random.uniform(choice_key, (2,))
    line = jnp.where(choice[0] < disorder.boundary, place[0], jnp.inf)
    vacuum = jnp.where(choice[1] < disorder.edge, place[1], jnp.inf)

    def grain(rotation: jax.Array, origin: jax.Array) -> tuple[Atoms, jax.Array, jax.Array]:
        atoms, sites = patch(
            lattice,
            extent,
            n_max=n_max,
            rotation=rotation,
            strain=strain,
            origin=origin,
            cells=cells,
        )
        return atoms, sites, (atoms.positions[:, :2] - sides[None]) @ normal

    first, sites_a, depth_a = grain(turn[0], shift[0])
    second, sites_b, depth_b = grain(turn[1], shift[1])
    keep_a = (first.occupancy > 0) & (depth_a < line)
    keep_b = (second.occupancy > 0) & (depth_b >= line)
    keep_b &= depth_b > line + 0.9  # grains do not interpenetrate: half a bond of room
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
    keep = jnp.concatenate([keep_a, keep_b])
    _, order = jax.lax.top_k(keep.astype(jnp.int8), n_max)
    keep, sites = keep[order], jnp.concatenate([sites_a, sites_b])[order]
    positions, numbers = both.positions[order], both.numbers[order]

    # an edge along a lattice-independent line, rough by half an ångström
    ragged = 0.5 * jax.random.normal(keys[4], (n_max,))
    across = (positions[:, :2] - sides[None]) @ jnp.stack([-normal[1], normal[0]])
    keep &= across + ragged < vacuum

    rate = 10.0 ** jax.random.uniform(keys[5], (2,), minval=jnp.asarray([-1.0, -2.0]), maxval=0.0)
    dice = jax.random.uniform(keys[6], (2, n_max))
    # half of the scenes lose whole columns, the others single atoms of them
    apart = positions[None, :, :2] - positions[:, None, :2]
    partner = jnp.argmax(jnp.square(apart).sum(-1) < 0.01, axis=1)
    whole = jax.random.uniform(jax.random.fold_in(keys[6], 1)) < 0.5
    dice = dice.at[0].set(jnp.where(whole, dice[0][partner], dice[0]))
    missing = disorder.vacancies * rate[0]
    chance = _damaged(jax.random.fold_in(keys[5], 1), positions[:, :2], extent, missing, disorder)
    chance *= jnp.asarray(material.vacancy)[sites]
    present = keep & (dice[0] >= chance)
    new = jnp.asarray(material.substitute)[sites]
    swap = (new > 0) & (dice[1] < disorder.substitutions * rate[1])
    numbers = jnp.where(keep, jnp.where(swap, new, numbers), 0)
    jitter = disorder.displacement * jax.random.normal(keys[7], (n_max, 3))
    jitter = jnp.clip(jitter, -LARGEST, LARGEST)
    positions = jnp.where(keep[:, None], positions + jitter, 0)
    return Atoms(
        positions,
        numbers,
        jnp.where(present, both.occupancy[order], 0),
        jnp.where(keep, both.sigma[order], 0),
        first.cell,
        lattice.elements,
    )


def _damaged(
    key: jax.Array,
    xy: jax.Array,
    extent: tuple[float, float],
    chance: jax.Array,
    disorder: Disorder,
) -> jax.Array:
    """Chance of a vacancy at every point [n, 2]: more in the spot that the beam has damaged."""
    there, radius, y, x, worse = jax.random.uniform(key, (5,))
    middle = jnp.stack([x * extent[1], y * extent[0]])
    inside = jnp.square(xy - middle[None]).sum(-1) < jnp.square(1.5 + 4.0 * radius)
    inside &= there < disorder.damage
    return jnp.where(inside, jnp.maximum(chance, 0.3 + 0.7 * worse), chance)
