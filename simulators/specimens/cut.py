"""How scenes are cut out of crystals inside `jit`: clouds of candidates, rows by rank, distances.

A cloud is a concrete table of atoms around the origin, made once with NumPy. A scene turns and
moves it, decides which atoms stay, and takes them into a fixed number of rows.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms


def translations(cell: Any, radius: float) -> np.ndarray:
    """Integers [m, d] of all lattice vectors (rows of `cell` [d, d]) no longer than `radius` Å."""
    cell = np.asarray(cell, float)
    # planes of the lattice lie 1/|reciprocal vector| apart, so this many of them reach the radius
    most = np.floor(radius * np.linalg.norm(np.linalg.inv(cell), axis=0) + 1e-9).astype(int)
    axes = [np.arange(-n, n + 1) for n in most]
    steps = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(cell))
    return steps[np.linalg.norm(steps @ cell, axis=1) <= radius + 1e-9]


def cloud(cell: Any, basis: Any, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Every atom of a crystal within `radius` Å of the origin.

    Returns
    -------
    positions : float [n, d]
        Å, the innermost first.
    sites : int [n]
        Row of `basis` [k, d] that each comes from.
    """
    cell, basis = np.asarray(cell, float), np.asarray(basis, float)
    steps = translations(cell, radius + np.linalg.norm(basis, axis=1).max())
    every = ((steps @ cell)[:, None] + basis[None]).reshape(-1, cell.shape[0])
    sites = np.tile(np.arange(len(basis)), len(steps))
    distance = np.linalg.norm(every, axis=1)
    order = np.argsort(distance, kind="stable")
    order = order[distance[order] <= radius]
    return every[order], sites[order]


def reach(box: Any) -> float:
    """Radius of the ball around the middle of a box of these sides, Å."""
    return 0.5 * math.hypot(*(float(side) for side in box))


def ranked(
    positions: jax.Array, keep: jax.Array, box: Any, n_max: int
) -> tuple[jax.Array, jax.Array]:
    """Which candidates come into `n_max` rows: those of `keep` inside the box, innermost first.

    Parameters
    ----------
    positions : float [n, 3]
        From the corner of the box, Å.
    keep : bool [n]
    box : (x, y, z) in Å
    n_max : int

    Returns
    -------
    order : int [n_max]
        Candidate of each row.
    there : bool [n_max]
        False in rows that no candidate is left for.
    """
    half = jnp.asarray(box, positions.dtype) / 2
    depth = jnp.abs(positions - half[None]) / half[None]
    inside = keep & ((positions >= 0) & (positions < 2 * half[None])).all(1)
    depth = jnp.where(inside, depth.max(1), jnp.inf)
    # top_k puts equal depths in the order of the candidates, so results do not depend on chance
    value, order = jax.lax.top_k(-depth, min(n_max, depth.shape[0]))
    missing = n_max - order.shape[0]
    there = jnp.pad(jnp.isfinite(value), (0, missing))
    return jnp.pad(order, (0, missing)), there


def assemble(
    positions: jax.Array,
    numbers: jax.Array,
    sigma: Any,
    there: jax.Array,
    box: Any,
    elements: tuple[int, ...],
) -> Atoms:
    """Padded `Atoms`: rows that are not `there` hold nothing."""
    dtype = positions.dtype
    sigma = jnp.broadcast_to(jnp.asarray(sigma, dtype), there.shape)
    return Atoms(
        jnp.where(there[:, None], positions, 0),
        jnp.where(there, numbers, 0),
        there.astype(dtype),
        jnp.where(there, sigma, 0),
        jnp.asarray(box, dtype),
        tuple(sorted({int(z) for z in elements})),
    )


def apart(positions: jax.Array, box: Any = None) -> jax.Array:
    """Distances [n, n] of all pairs in Å, periodic where a box is given; infinite to itself."""
    gap = positions[:, None] - positions[None]
    if box is not None:
        sides = jnp.asarray(box, positions.dtype)[None, None]
        gap = gap - sides * jnp.round(gap / sides)
    itself = jnp.eye(positions.shape[0], dtype=bool)
    # the square root of zero has no gradient
    return jnp.sqrt(jnp.where(itself, jnp.inf, jnp.square(gap).sum(-1)))


def spaced(positions: jax.Array, there: jax.Array, floor: float) -> jax.Array:
    """Without the later atom of every pair that is nearer than `floor` Å; bool [n]."""
    near = (apart(positions) < floor) & there[:, None] & there[None]
    return there & ~jnp.tril(near, -1).any(1)


def pushed_apart(
    positions: jax.Array, there: jax.Array, distance: float, *, steps: int = 40
) -> jax.Array:
    """Positions [n, d] after atoms nearer than `distance` Å have pushed each other away.

    Gradient descent on the sum of squared overlaps, which moves nothing in a perfect crystal whose
    atoms keep the distance. A remedy for joints that are too tight, not a relaxation of energies.
    """
    pairs = there[:, None] & there[None]
    # who is near stays near; the six nearest are all that can be too near
    closest, rows = jax.lax.top_k(-jnp.where(pairs, apart(positions), jnp.inf), 6)
    real = jnp.isfinite(closest)

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        gap = x[:, None] - x[rows]
        length = jnp.sqrt(jnp.square(gap).sum(-1) + 1e-6)
        overlap = jnp.where(real & (length < distance), distance - length, 0)
        # half of the overlap for each of the two; less, since an atom has several neighbours
        return x + (0.3 * (overlap / length)[..., None] * gap).sum(1), None

    return jax.lax.scan(step, positions, None, length=steps)[0]


def about(axis: Any, angle: Any) -> jax.Array:
    """Rotation matrix [3, 3] (acting on columns) by an angle [rad] about a unit vector."""
    x, y, z = axis
    o = jnp.zeros_like(jnp.asarray(x))
    cross = jnp.stack([jnp.stack([o, -z, y]), jnp.stack([z, o, -x]), jnp.stack([-y, x, o])])
    return jnp.eye(3) + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) * (cross @ cross)


def random_rotation(key: jax.Array) -> jax.Array:
    """A rotation matrix [3, 3], uniformly distributed (a normalised Gaussian quaternion)."""
    q = jax.random.normal(key, (4,))
    w, x, y, z = q / jnp.linalg.norm(q)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row) for row in rows])


def checked_extent(extent: tuple[float, float], smallest: float, what: str) -> tuple[float, float]:
    """(y, x) as floats; ValueError where a side is shorter than `smallest` Å."""
    y, x = (float(side) for side in extent)
    if not min(y, x) >= smallest:
        raise ValueError(
            f"a box of {x:g} x {y:g} Å (x, y) is too small for {what}: at least {smallest:g} Å on "
            "each side"
        )
    return y, x
