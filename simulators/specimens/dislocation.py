"""Straight dislocations: their elastic displacement, and III-V films on silicon that hold one.

Isotropic elasticity (Hirth & Lothe, Theory of Dislocations, eqs. 3-45 and 3-2). The displacement
jumps by the Burgers vector across the half of the glide plane behind the line: a slip by a lattice
vector, so the crystal fits together there and no atom is inserted or lost.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms
from simulators.scattering import atomic_number
from simulators.specimens.bulk import bulk
from simulators.specimens.cut import assemble, checked_extent, cloud, ranked, reach, spaced
from simulators.specimens.oriented import frame
from simulators.tree import pytree

KINDS = ("none", "60 degree", "edge")
"""Character of the dislocation: none, a/2<110> inclined to the interface, and in it (Lomer)."""

FLOOR = 1.7
"""No two atoms of the core come nearer, Å; whoever does is removed."""


@pytree
class Dislocation:
    """A straight dislocation along z (the beam).

    Attributes
    ----------
    burgers : float [3]
        Å, x, y, z; the right-handed circuit about +z closes with ∮ du = +burgers.
    core : float [2]
        (x, y), Å.
    glide : float
        Angle of the glide plane's trace from +x, rad; the slipped half lies on its negative side.
    poisson : float
        Poisson's ratio.
    """

    burgers: Any
    core: Any
    glide: Any
    poisson: Any = 0.28

    def displacement(self, points: Any) -> jax.Array:
        """u [n, 3] in Å at points [n, 2 or 3] of the perfect crystal."""
        c, s = jnp.cos(self.glide), jnp.sin(self.glide)
        turn = jnp.stack([jnp.stack([c, s]), jnp.stack([-s, c])])  # into the glide plane's frame
        x, y = ((points[:, :2] - self.core[None]) @ turn.T).T
        b = turn @ self.burgers[:2]
        nu = self.poisson
        square = x * x + y * y + 1e-6  # finite at the core itself
        angle = jnp.arctan2(y, x)
        log = (1 - 2 * nu) / (4 * (1 - nu)) * jnp.log(square)
        bent = 1 / (2 * (1 - nu)) / square
        # an edge along x, and the same turned by 90° for the part of b across the glide plane
        ux = b[0] * (angle + bent * x * y) + b[1] * (log + bent * y * y)
        uy = b[1] * (angle - bent * x * y) - b[0] * (log + bent * x * x)
        flat = jnp.stack([ux, uy], 1) / (2 * math.pi) @ turn
        screw = self.burgers[2] * angle / (2 * math.pi)
        return jnp.concatenate([flat, screw[:, None]], axis=1)

    def gradient(self, points: Any) -> jax.Array:
        """∂u_i/∂X_j [n, 3, 3] at points [n, 2]; ∂/∂z is 0."""
        each = jax.vmap(jax.jacfwd(lambda p: self.displacement(p[None])[0]))(points[:, :2])
        return jnp.concatenate([each, jnp.zeros_like(each[..., :1])], axis=-1)


@pytree
class FilmLabels:
    """What a film on silicon holds.

    Attributes
    ----------
    kind : int
        Index into `KINDS`.
    dislocation : Dislocation
        Its Burgers vector is 0 where there is none.
    interface : float
        Height y of the interface in the unstrained substrate, Å.
    film : bool [n]
        Which atoms are the film's.
    misfit, expansion : float
        (a_film - a_Si)/a_Si, and the strain of the coherent film along y that follows from it.
    displacement : float [n, 3]
        From the coherent crystal to where the atom is, Å.
    strain : float [n, 3, 3]
        Small strain of the dislocation's field at every atom.
    removed : int
        Atoms of the core that had no room.
    """

    kind: Any
    dislocation: Dislocation
    interface: Any
    film: Any
    misfit: Any
    expansion: Any
    displacement: Any
    strain: Any
    removed: Any


def burgers_vector(kind: Any, side: Any, lattice_constant: float) -> jax.Array:
    """a/2<110> in the frame x = [1-10], y = [001], z = [110], Å; float [3].

    Parameters
    ----------
    kind : int
        Index into `KINDS`.
    side : +1 or -1
        Which of the two mirror images.
    """
    a = lattice_constant
    half, quarter = a / 2**0.5, a / 8**0.5
    # a/2[101] = a/2 ([1-10]/2 + [110]/2 + [001]): half of each in-plane vector, and a/2 upwards
    table = jnp.asarray([[0.0, 0.0, 0.0], [quarter, a / 2, quarter], [half, 0.0, 0.0]])
    return table[kind] * jnp.stack([side, jnp.ones_like(side), jnp.ones_like(side)])


@functools.lru_cache(maxsize=8)
def _silicon(radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Atoms [n, 3] around the middle of a channel, in the interface's frame, and sublattice."""
    silicon = bulk("Si")
    turn = frame(silicon, (1, 1, 0), (1, -1, 0))
    a = float(silicon.axes[0, 0])
    basis = np.asarray(silicon.positions) @ turn.T
    cell = np.asarray(silicon.cell) @ turn.T
    # the six-membered ring around the origin; found as the point farthest from all columns
    points, _ = cloud(cell, basis, 4 * a)
    grid = np.stack(np.meshgrid(*[np.linspace(0, a, 33)] * 2, indexing="ij"), -1).reshape(-1, 2)
    gap = np.linalg.norm(grid[:, None] - points[None, :, :2], axis=-1).min(1)
    best = grid[gap > gap.max() - 1e-6]
    middle = best[np.argmin(np.hypot(*best.T))]
    return cloud(cell, basis - np.array([*middle, 0.0]), radius)


def film_on_silicon(
    key: jax.Array,
    extent: tuple[float, float],
    *,
    n_max: int,
    film: str = "GaAs",
    thickness: float = 7.68,
    dislocated: Any = 0.8,
    sigma: float = 0.08,
    poisson: float = 0.28,
) -> tuple[Atoms, FilmLabels]:
    """A zincblende film on Si(001) along [110], with a misfit dislocation in most scenes.

    Inside `jit`. The film is coherent (its misfit along the interface stretches it along y), and
    the dislocation's elastic field lies on top of that. Not periodic at its sides.

    Parameters
    ----------
    key : random key.
    extent : (y, x)
        Of the box, Å; the film grows along +y.
    n_max : int
        Rows; the outermost atoms are left out where there are more.
    film : str
        A zincblende crystal of `bulk.BULKS`.
    thickness : float
        Depth of the box along the beam, Å; the period is 3.84 Å.
    dislocated : float
        Chance of a dislocation.
    sigma : float
        Thermal displacement, Å.
    poisson : float
        Poisson's ratio.

    Raises
    ------
    ValueError
        A film that is not zincblende, a box too small.
    """
    y, x = checked_extent(extent, 10.0, "an interface with a dislocation")
    crystal = bulk(film)
    if crystal.structure != "zincblende":
        raise ValueError(f"the film must be a zincblende crystal, {film} is {crystal.structure}")
    if not thickness >= 3.8:
        raise ValueError(f"the period along the beam is 3.84 Å, got a thickness of {thickness} Å")
    box = (x, y, float(thickness))
    a = float(bulk("Si").axes[0, 0])
    misfit = float(crystal.axes[0, 0]) / a - 1
    # a film strained by -misfit in its plane expands across it (biaxial stress)
    expansion = misfit * (1 + poisson) / (1 - poisson)
    points, sublattice = _silicon(1.15 * reach(box) + 3 * a)
    points, sublattice = jnp.asarray(points), jnp.asarray(sublattice)
    k_kind, k_there, k_place, k_flip = jax.random.split(key, 4)
    kind = jax.random.randint(k_kind, (), 1, len(KINDS))
    kind = jnp.where(jax.random.uniform(k_there) < dislocated, kind, 0)
    side = jnp.where(jax.random.bernoulli(k_flip), 1.0, -1.0)
    place = jax.random.uniform(k_place, (3,), minval=-1.0, maxval=1.0)
    place = jnp.stack([place[0] * 0.25 * x, place[1] * 0.25 * y, place[2] * a / 8**0.5])
    core = place + jnp.asarray(box) / 2
    mirrored = points * jnp.stack([side, jnp.ones(()), jnp.ones(())])[None]
    # mirroring x of the crystal with the Burgers vector gives the other variant; sublattices stay
    above = points[:, 1] > 0
    coherent = mirrored.at[:, 1].multiply(jnp.where(above, 1 + expansion, 1.0))
    glide = jnp.where(kind == 1, jnp.arctan2(2.0**0.5, side), jnp.where(side > 0, 0.0, jnp.pi))
    line = Dislocation(
        burgers_vector(kind, side, a), jnp.zeros(2), glide, jnp.asarray(float(poisson))
    )
    moved = coherent + line.displacement(coherent)
    full = jnp.asarray([atomic_number("Si"), *(int(z) for z in crystal.numbers)])
    numbers = jnp.where(above, full[1:][sublattice], full[0])
    placed = moved + core[None]
    everything = jnp.ones(points.shape[0], bool)
    order, there = ranked(placed, everything, box, n_max)
    kept = spaced(placed[order], there, FLOOR)
    elements = (atomic_number("Si"), *crystal.elements)
    atoms = assemble(placed[order], numbers[order], sigma, kept, box, elements)
    gradient = line.gradient(coherent[order])
    strain = (gradient + jnp.swapaxes(gradient, 1, 2)) / 2
    shift = (moved - coherent)[order]
    labels = FilmLabels(
        kind,
        Dislocation(line.burgers, core[:2], glide, line.poisson),
        core[1],
        kept & above[order],
        jnp.asarray(misfit),
        jnp.asarray(expansion),
        jnp.where(kept[:, None], shift, 0),
        jnp.where(kept[:, None, None], strain, 0),
        (there & ~kept).sum(),
    )
    return atoms, labels
