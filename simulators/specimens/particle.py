"""Metal nanoparticles on an amorphous support, inside `jit`: Wulff shapes, random clusters, twins,
stacking faults, core–shell particles.

A particle is what is inside ``max_i n_i · r / d_i = 1`` with facet normals n_i and distances d_i
(Wulff's construction where d_i is proportional to the surface energies).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms
from simulators.scattering import atomic_number
from simulators.specimens.amorphous import GLASSES, check_packing, mixture, packed
from simulators.specimens.bulk import bulk
from simulators.specimens.cut import (
    about,
    assemble,
    checked_extent,
    cloud,
    random_rotation,
    ranked,
)
from simulators.specimens.oriented import frame
from simulators.tree import pytree

FAULTS = ("none", "twin", "stacking fault")
REGIONS = ("none", "core", "shell", "support")

GAP = 2.2
"""Between the top of the support and the lowest atom of the particle, Å."""

ZONES = ((0, 0, 1), (1, 1, 0), (1, 1, 1))


def _signs(direction: tuple[int, ...]) -> np.ndarray:
    """All directions [n, 3] of a cubic family, as unit vectors."""
    every = {
        tuple(s * d for s, d in zip(sign, order, strict=True))
        for order in itertools.permutations(direction)
        for sign in itertools.product((1, -1), repeat=3)
    }
    return np.array(sorted(every)) / np.linalg.norm(direction)


FACETS = np.concatenate([_signs((1, 0, 0)), _signs((1, 1, 1))])
"""Normals [14, 3]: six {100}, then eight {111}."""


def _corner(ratio: float) -> float:
    """Distance of the farthest corner from the centre, in units of the nearest facet's."""
    cube, octahedron = ratio / min(ratio, 1), 3**0.5 / min(ratio, 1)
    x = min(cube, octahedron)
    y = min(cube, octahedron - x)
    return math.hypot(x, y, min(cube, octahedron - x - y))


@pytree
class ParticleLabels:
    """What a particle is.

    Attributes
    ----------
    centre : float [3]
        Å.
    rotation : float [3, 3]
        From the crystal's frame to the image's: ``r = centre + rotation @ r_crystal``.
    facets : float [14]
        Distances of `FACETS` from the centre, Å.
    lattice_constant : float
        Å.
    fault : int
        Index into `FAULTS`.
    plane : float [4]
        Of the fault: normal (image's frame) and distance from the centre, Å; 0 without a fault.
        Atoms beyond it are turned by 180° about the normal (twin) or moved by `slip`.
    slip : float [3]
        Displacement across a stacking fault, a/6<112> in the image's frame, Å.
    core : float
        The core's size as a fraction of the particle's.
    region : int [n]
        Index into `REGIONS` for every atom.
    beyond : bool [n]
        Which atoms lie beyond the fault.
    atoms : int
        Of the particle that are in the scene.
    """

    centre: Any
    rotation: Any
    facets: Any
    lattice_constant: Any
    fault: Any
    plane: Any
    slip: Any
    core: Any
    region: Any
    beyond: Any
    atoms: Any


def particle(
    key: jax.Array,
    extent: tuple[float, float],
    *,
    n_max: int,
    metal: str = "Au",
    shell: str | None = None,
    radius: tuple[float, float] = (4.2, 5.8),
    energies: tuple[float, float] = (0.85, 1.3),
    roughness: Any = 0.0,
    faults: tuple[float, float] = (0.3, 0.3),
    aligned: Any = 0.5,
    support: str | None = "C",
    support_depth: float = 5.0,
) -> tuple[Atoms, ParticleLabels]:
    """An fcc particle of random shape and orientation on a slab of amorphous material.

    Parameters
    ----------
    key : random key.
    extent : (y, x)
        Of the box, Å; the particle stays inside.
    n_max : int
        Rows; at least as many as support and particle have, else the outermost are left out.
    metal : str
        An fcc metal of `bulk.BULKS`.
    shell : str, optional
        Element of the shell, on the same (average) lattice; the core's share is drawn then.
    radius : (low, high)
        Distance of the nearest facets, Å.
    energies : (low, high)
        Surface energy of {100} over that of {111}.
    roughness : float
        Facets of a random cluster lie nearer by up to this fraction, each by itself.
    faults : (twin, stacking fault)
        Chances of a {111} twin plane and of an intrinsic stacking fault through the particle.
    aligned : float
        Chance that [001], [110] or [111] is along the beam; else all orientations are alike.
    support : str, optional
        A key of `amorphous.GLASSES`.
    support_depth : float
        Å.

    Raises
    ------
    ValueError
        A metal that is not fcc, radii or energies out of order, a box too small.
    """
    crystal = bulk(metal)
    if crystal.structure != "fcc":
        raise ValueError(f"particles are fcc metals, and {metal} is {crystal.structure}")
    low, high = (float(r) for r in radius)
    a = float(crystal.axes[0, 0])
    if not 0.5 * a <= low <= high:
        raise ValueError(f"radius must be (low, high) in Å from {0.5 * a:.2f} up, got {radius}")
    if not 0.6 <= energies[0] <= energies[1] <= 1.7:
        raise ValueError(
            f"energies must be (low, high) of γ100/γ111 within 0.6 to 1.7, got {energies}: beyond "
            "that one family of facets vanishes"
        )
    if not (min(faults) >= 0 and sum(faults) <= 1):
        raise ValueError(f"the chances of faults must be 0 to 1 together, got {faults}")
    # a half turned about an atom near the middle sticks out by at most that atom's distance
    corner = high * max(_corner(ratio) for ratio in energies)
    size = corner + a / 6**0.5 + 0.05
    y, x = checked_extent(extent, 2 * size, f"particles of a radius up to {high:g} Å")
    slab = float(support_depth) if support else 0.0
    box = (x, y, slab + (GAP if support else 0.0) + 2 * size)
    glass = GLASSES[support] if support else None
    count = check_packing(glass[1], glass[2], (x, y, slab)) if glass else 0
    keys = jax.random.split(key, 10)

    chosen = low + (high - low) * jax.random.uniform(keys[0])
    ratio = energies[0] + (energies[1] - energies[0]) * jax.random.uniform(keys[1])
    wulff = jnp.concatenate([jnp.full(6, 1.0) * ratio, jnp.full(8, 1.0)]) / jnp.minimum(ratio, 1)
    facets = chosen * wulff * (1 - roughness * jax.random.uniform(keys[2], (14,)))

    points, _ = cloud(crystal.cell, crystal.positions, corner + 0.87 * a)
    shift = jax.random.uniform(keys[3], (3,), minval=-0.5, maxval=0.5) @ jnp.asarray(crystal.cell)
    local = jnp.asarray(points) + shift[None]
    gauge = (local @ jnp.asarray(FACETS.T) / facets[None]).max(1)
    inside = gauge <= 1
    moved, fault, plane, slip, beyond = _faulted(keys[4], local, shift, a, faults)

    core = jax.random.uniform(keys[5], minval=0.4, maxval=0.8) if shell else jnp.ones(())
    is_core = gauge <= core
    zone_frames = jnp.asarray(np.stack([frame(crystal, zone) for zone in ZONES]))
    k_pick, k_turn, k_free, k_how = jax.random.split(keys[6], 4)
    spin = about(jnp.array([0.0, 0.0, 1.0]), jax.random.uniform(k_turn, maxval=2 * math.pi))
    zone = spin @ zone_frames[jax.random.randint(k_pick, (), 0, len(ZONES))]
    rotation = jnp.where(jax.random.uniform(k_how) < aligned, zone, random_rotation(k_free))
    turned = moved @ rotation.T

    room = jnp.asarray([x / 2 - size, y / 2 - size])
    across = jax.random.uniform(keys[7], (2,), minval=-1.0, maxval=1.0) * room
    # a twin's other half may stick out a little: shift what is there into the middle
    ends = [jnp.where(inside[:, None], turned, s * jnp.inf) for s in (1, -1)]
    lowest, highest = ends[0].min(0), ends[1].max(0)
    base = slab + (GAP if support else 0.0) + 0.01
    bottom = jnp.where(support is not None, base, (box[2] - (highest - lowest)[2]) / 2)
    flat = jnp.asarray([x / 2, y / 2]) + across - (lowest + highest)[:2] / 2
    centre = jnp.concatenate([flat, (bottom - lowest[2])[None]])
    placed = turned + centre[None]

    metals = [atomic_number(metal), atomic_number(shell or metal)]
    numbers = jnp.where(is_core, metals[0], metals[1])
    region = jnp.where(is_core, 1, 2)
    sigma = jnp.full(inside.shape, float(crystal.sigma))
    elements = [*metals]
    if glass:
        grains, there = packed(keys[8], (x, y, box[2]), count, glass[2], depth=slab)
        kinds = jax.random.permutation(keys[9], jnp.asarray(mixture(glass[0], count)))
        elements += [atomic_number(s) for s in glass[0]]
        placed = jnp.concatenate([placed, grains])
        inside = jnp.concatenate([inside, there])
        numbers = jnp.concatenate([numbers, kinds])
        region = jnp.concatenate([region, jnp.full(count, 3)])
        beyond = jnp.concatenate([beyond, jnp.zeros(count, bool)])
        sigma = jnp.concatenate([sigma, jnp.full(count, 0.1)])
    order, rows = ranked(placed, inside, box, n_max)
    atoms = assemble(placed[order], numbers[order], sigma[order], rows, box, tuple(elements))
    labels = ParticleLabels(
        centre,
        rotation,
        facets,
        jnp.asarray(a),
        fault,
        jnp.concatenate([rotation @ plane[:3], plane[3:]]),
        rotation @ slip,
        core,
        jnp.where(rows, region[order], 0),
        rows & beyond[order] & (region[order] < 3),
        (rows & (region[order] < 3)).sum(),
    )
    return atoms, labels


def _faulted(
    key: jax.Array, local: jax.Array, origin: jax.Array, a: float, faults: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Atoms beyond a {111} plane near the middle, turned or moved.

    Parameters
    ----------
    local : float [n, 3]
        Atoms, of which one is at `origin`.

    Returns
    -------
    moved [n, 3]; fault; plane [4]; slip [3]; beyond [n].
    """
    k_which, k_normal, k_level, k_slip = jax.random.split(key, 4)
    dice = jax.random.uniform(k_which)
    fault = jnp.where(dice < faults[0], 1, jnp.where(dice < sum(faults), 2, 0))
    normals = jnp.asarray(FACETS[6:])
    pick = jax.random.randint(k_normal, (), 0, 8)
    normal = normals[pick]
    spacing = a / 3**0.5
    level = jax.random.randint(k_level, (), -1, 2)
    # layers of atoms are at normal·origin + k·spacing; the fault is at the atoms of layer `level`
    height = (local - origin[None]) @ normal / spacing
    beyond = (jnp.round(height) > level) & (fault > 0)
    # the atom of that layer that is nearest to the normal through the centre
    across = jnp.square(local - (local @ normal)[:, None] * normal[None]).sum(1)
    pivot = local[jnp.argmin(jnp.where(jnp.round(height) == level, across, jnp.inf))]
    gap = local - pivot[None]
    twin = pivot[None] + 2 * (gap @ normal)[:, None] * normal[None] - gap
    # in-plane part of an a/2<110> step that climbs one layer: it moves B onto C, C onto A
    steps = jnp.asarray(_signs((1, 1, 0)) * 2**0.5) * a / 2
    climbs = (steps @ normal > 0.5 * spacing).astype(local.dtype)
    scores = jnp.where(climbs > 0, jax.random.uniform(k_slip, (12,)), -1)
    step = steps[jnp.argmax(scores)]
    partial = step - (step @ normal) * normal
    other = jnp.where(fault == 1, twin, local + partial[None])
    moved = jnp.where(beyond[:, None], other, local)
    plane = jnp.concatenate([normal, (pivot @ normal)[None]]) * (fault > 0)
    return moved, fault, plane, partial * (fault == 2), beyond


def cluster(
    key: jax.Array, extent: tuple[float, float], *, n_max: int, **options: Any
) -> tuple[Atoms, ParticleLabels]:
    """A random cluster: as `particle`, with each facet at a distance of its own."""
    return particle(key, extent, n_max=n_max, **{"metal": "Pt", "roughness": 0.4} | options)


def core_shell(
    key: jax.Array, extent: tuple[float, float], *, n_max: int, **options: Any
) -> tuple[Atoms, ParticleLabels]:
    """A coherent core–shell particle, Pd in Pt by default; see `particle`."""
    default = {"metal": "Pd", "shell": "Pt", "faults": (0.0, 0.0)}
    return particle(key, extent, n_max=n_max, **default | options)
