"""Frozen phonons: snapshots of the thermal motion.

Loane, Xu & Silcox, Acta Cryst. A 47, 267 (1991).

An electron passes in a time in which atoms stand still, so an image is the mean over snapshots of
displaced atoms. A Debye–Waller factor in the potential gives the elastic part alone: right for low
angles, but an annular dark-field detector sees mostly what it leaves out.

    moved = configurations(key, atoms, 16)                          # or trajectory(frames)
    mean, error = frozen_mean(lambda atoms: cbed(project(atoms, ...), ...), moved)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms, make_atoms
from simulators.backend import array_module, is_concrete
from simulators.tree import replace


def snapshot(key: jax.Array, atoms: Atoms) -> Atoms:
    """One configuration: every atom displaced by its own `sigma`, which is then 0.

    Parameters
    ----------
    key : random key; map over several with `vmap`, and average the intensities.
    atoms : Atoms
        sigma is the standard deviation in each direction, Å; a `tensor` U [n, 3, 3] in Å² takes its
        place where atoms have one.
    """
    return _displaced(jax.random.normal(key, jnp.shape(atoms.positions)), atoms, None, "xyz")


def configurations(
    key: jax.Array,
    atoms: Atoms,
    n: int,
    *,
    sigma: Any = None,
    directions: str = "xyz",
) -> Atoms:
    """`n` independent snapshots as `Atoms` whose positions have a leading axis, [n, atoms, 3].

    Everything else is shared: numbers, occupancies, cell. The first one is
    `snapshot(jax.random.split(key, n)[0], atoms)`, and so on.

    Parameters
    ----------
    key : random key
    atoms : Atoms
        Positions are displaced and not wrapped (`project` wraps).
    n : int
    sigma : optional
        Instead of the atoms' own: a number, [atoms], standard deviations per direction
        [atoms, 3], tensors U [atoms, 3, 3] in Å², or a mapping from elements (symbol or number) to
        a number or to three (x, y, z).
    directions : str
        The directions that move, for instance "xy".

    Raises
    ------
    ValueError
        A sigma of another shape, an element without one, no configuration, a direction that is
        not x, y or z.
    """
    if n < 1:
        raise ValueError(f"at least one configuration is needed, got n = {n}")
    shape = jnp.shape(atoms.positions)
    noise = jax.vmap(lambda k: jax.random.normal(k, shape))(jax.random.split(key, n))
    return _displaced(noise, atoms, sigma, directions)


def trajectory(frames: Any, atoms: Atoms | None = None) -> Atoms:
    """Given configurations as `Atoms` whose positions have a leading axis.

    Parameters
    ----------
    frames : float [configs, n, 3] or sequence of ase.Atoms
        Positions in Å, or an ASE trajectory (anything that yields `ase.Atoms`). Molecular dynamics
        must keep its atoms and its orthogonal cell.
    atoms : Atoms
        Numbers, occupancies and cell of an array of positions; not needed for ASE's.

    Raises
    ------
    ValueError
        Frames of other atoms or another cell, no frames, positions that are not finite.
    """
    if not hasattr(frames, "shape"):
        frames = list(frames)
        if frames and hasattr(frames[0], "positions"):
            atoms, frames = _from_ase(frames, atoms)
        else:
            frames = np.asarray(frames, float)
    if atoms is None:
        raise ValueError("positions alone do not say which atoms they are: give atoms=...")
    if len(frames) == 0:
        raise ValueError("the trajectory has no frames")
    if frames.ndim != 3 or frames.shape[1:] != (atoms.n, 3):
        raise ValueError(
            f"configurations of these atoms are [configs, {atoms.n}, 3] in Å, got {frames.shape}"
        )
    if is_concrete(frames):
        frames = np.asarray(frames, float)
        if not np.isfinite(frames).all():
            bad = int(np.argmax(~np.isfinite(frames).all(axis=(1, 2))))
            raise ValueError(f"configuration {bad} holds positions that are not finite")
    return _still(atoms, frames)


def frozen_mean(
    function: Callable[[Any], Any],
    configs: Any,
    *,
    batch: int | None = None,
    compiled: bool = True,
) -> tuple[Any, Any]:
    """Mean of a forward model over configurations, and its standard error.

    The model is compiled once and runs over the configurations in one loop that keeps two
    accumulators, never all patterns. What does not depend on the configuration (probes, detectors,
    propagators: all that is known before tracing) is made once and shared. Inside the model atoms
    are traced, so `project` needs `depth=`.

    Parameters
    ----------
    function : callable
        From one configuration to an array or a tree of arrays: intensities, for the coherent
        average of amplitudes is another thing (the elastic part).
    configs : Atoms or tree
        `Atoms` of `configurations` or `trajectory` (only positions are mapped), or any tree whose
        leaves all have the leading axis: random keys, slices of potentials.
    batch : int, optional
        Configurations computed together; None: one by one. A remainder runs by itself.
    compiled : bool
        False: a Python loop that calls the function with one configuration as it is. Known atoms
        stay known: phases are float64 also in a float32 run, and `project` puts every atom into
        its slice alone instead of all into all, which pays for many slices.

    Returns
    -------
    mean, error : trees like the function's
        The error is sqrt(Σ |x - mean|² / (n (n - 1))), infinite for one configuration. The mean is
        differentiable (compiled, each configuration is computed again on the way back, so that
        this keeps no patterns either), the error is not.
    """
    mapped, rebuild = _mapped(configs)
    n = _count(mapped)
    size = 1 if batch is None else int(batch)
    if size < 1:
        raise ValueError(f"a batch holds at least one configuration, got batch = {batch}")

    if not compiled:
        carry: Any = None
        for value in _one_by_one(function, mapped, rebuild, n):
            values = jax.tree.map(lambda v: v[None], value)
            carry = _add(carry or _nothing(value), values)
        return _result(carry, n)

    mapped = jax.tree.map(jnp.asarray, mapped)  # an argument of the loop, not a constant in it
    one = jax.checkpoint(lambda config: function(rebuild(config)))
    many = jax.vmap(one)
    carry = _nothing(jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], mapped)))
    whole = n // size * size
    if whole:
        chunks = jax.tree.map(
            lambda leaf: leaf[:whole].reshape(n // size, size, *leaf.shape[1:]), mapped
        )
        carry, _ = jax.lax.scan(lambda c, chunk: (_add(c, many(chunk)), None), carry, chunks)
    if n > whole:
        carry = _add(carry, many(jax.tree.map(lambda leaf: leaf[whole:], mapped)))
    return _result(carry, n)


def frozen_each(
    function: Callable[[Any], Any],
    configs: Any,
    *,
    batch: int | None = None,
    compiled: bool = True,
) -> Any:
    """What a forward model gives for every configuration, with a leading axis [configs, ...].

    For signals that are small; arguments as in `frozen_mean`.
    """
    mapped, rebuild = _mapped(configs)
    n = _count(mapped)
    if not compiled:
        values = list(_one_by_one(function, mapped, rebuild, n))
        return jax.tree.map(lambda *v: jnp.stack(v), *values)
    mapped = jax.tree.map(jnp.asarray, mapped)
    return jax.lax.map(lambda config: function(rebuild(config)), mapped, batch_size=batch)


def _count(mapped: Any) -> int:
    """How many configurations there are."""
    leaves = jax.tree.leaves(mapped)
    if not leaves or len({jnp.shape(leaf)[:1] for leaf in leaves}) != 1 or jnp.ndim(leaves[0]) < 1:
        raise ValueError("configurations need one leading axis, the same for all leaves")
    if jnp.shape(leaves[0])[0] < 1:
        raise ValueError("there are no configurations to take the mean of")
    return jnp.shape(leaves[0])[0]


def _one_by_one(function: Any, mapped: Any, rebuild: Any, n: int) -> Iterator[Any]:
    """The function's values in a Python loop, as JAX arrays."""
    for i in range(n):
        config = rebuild(jax.tree.map(lambda leaf, i=i: leaf[i], mapped))
        yield jax.tree.map(jnp.asarray, function(config))


def _nothing(like: Any) -> tuple:
    """Accumulators for values of these shapes: count, first value, Σ and Σ|·|² of what differs."""
    zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), like)
    return jnp.zeros((), int), zeros, zeros, jax.tree.map(jnp.abs, zeros)


def _add(carry: tuple, values: Any) -> tuple:
    """Accumulators with a batch of values [batch, ...] more."""
    count, first, total, squares = carry
    # about the first value: nothing cancels where patterns hardly differ
    stop = jax.lax.stop_gradient
    first = jax.tree.map(lambda f, v: jnp.where(count == 0, stop(v[0]), f), first, values)
    apart = jax.tree.map(lambda v, f: v - f[None], values, first)
    total = jax.tree.map(lambda t, a: t + a.sum(axis=0), total, apart)
    squares = jax.tree.map(lambda s, a: s + (jnp.abs(stop(a)) ** 2).sum(axis=0), squares, apart)
    return count + jax.tree.leaves(values)[0].shape[0], first, total, squares


def _result(carry: tuple, n: int) -> tuple[Any, Any]:
    """Mean and standard error."""
    _, first, total, squares = carry

    def error(square: jax.Array, t: jax.Array) -> jax.Array:
        if n == 1:
            return jnp.full(square.shape, jnp.inf, square.dtype)
        about = jnp.abs(jax.lax.stop_gradient(t)) ** 2 / n
        return jnp.sqrt(jnp.maximum(square - about, 0.0) / (n * (n - 1)))

    mean = jax.tree.map(lambda f, t: f + t / n, first, total)
    return mean, jax.tree.map(error, squares, total)


def _mapped(configs: Any) -> tuple[Any, Callable[[Any], Any]]:
    """What varies between configurations, and how to make one of it."""
    if isinstance(configs, Atoms):
        if jnp.ndim(configs.positions) != 3:
            raise ValueError(
                f"atoms with positions {jnp.shape(configs.positions)} are one configuration: make "
                "several with configurations(key, atoms, n) or trajectory(frames, atoms)"
            )
        return configs.positions, lambda positions: replace(configs, positions=positions)
    return configs, lambda config: config


def _still(atoms: Atoms, positions: Any) -> Atoms:
    """These positions, without a thermal factor."""
    xp = np if is_concrete(atoms.sigma) else jnp
    changes = {"positions": positions, "sigma": xp.zeros_like(atoms.sigma)}
    if any(field.name == "tensor" for field in dataclasses.fields(atoms)):
        changes["tensor"] = None
    return replace(atoms, **changes)


def _displaced(noise: jax.Array, atoms: Atoms, sigma: Any, directions: str) -> Atoms:
    """Atoms displaced by standard normal numbers [..., n, 3] times their deviations."""
    if not directions or set(directions) - set("xyz"):
        raise ValueError(f'directions is made of x, y and z, for instance "xy", got {directions!r}')
    size = _deviations(atoms, sigma)
    # a traced key with known atoms: float32 displacements, for nothing else can be traced
    concrete = is_concrete(atoms, size) and not isinstance(noise, jax.core.Tracer)
    xp = np if concrete else jnp
    noise = np.asarray(noise, float) if concrete else noise
    if np.ndim(size) == 3:
        shift = xp.einsum("nij,...nj->...ni", size, noise)
    else:
        size = xp.asarray(size)
        size = size[:, None] if size.ndim == 1 else size
        shift = noise * xp.broadcast_to(size, noise.shape)
    if set(directions) != set("xyz"):
        moving = np.array([c in directions for c in "xyz"], float)
        shift = shift * xp.broadcast_to(moving, shift.shape)
    positions = xp.broadcast_to(xp.asarray(atoms.positions), shift.shape) + shift
    return _still(atoms, positions)


def _deviations(atoms: Atoms, sigma: Any) -> Any:
    """Standard deviations [n] or [n, 3], or square roots of U [n, 3, 3]."""
    if sigma is None:
        tensor = getattr(atoms, "tensor", None)
        sigma = atoms.sigma if tensor is None else tensor
    elif isinstance(sigma, Mapping):
        sigma = _per_element(atoms, sigma)
    elif np.ndim(sigma) == 0:
        sigma = sigma * np.ones(atoms.n)
    shape = np.shape(sigma)
    if shape not in ((atoms.n,), (atoms.n, 3), (atoms.n, 3, 3)):
        raise ValueError(
            f"sigma of {atoms.n} atoms is a number, [{atoms.n}], [{atoms.n}, 3] or a tensor "
            f"[{atoms.n}, 3, 3], got shape {shape}"
        )
    if len(shape) < 3:
        return sigma
    xp = array_module(sigma)
    if xp is np:
        values, vectors = np.linalg.eigh(sigma)
        if values.min(initial=0) < -1e-9 * np.abs(values).max(initial=1e-30):
            bad = int(np.argmin(values.min(axis=-1)))
            raise ValueError(f"the displacement tensor of atom {bad} is not positive: {sigma[bad]}")
        root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        return root @ np.swapaxes(vectors, -1, -2)
    return jnp.linalg.cholesky(sigma)  # smooth where eigenvectors of equal values are not


def _per_element(atoms: Atoms, sigma: Mapping[Any, Any]) -> Any:
    """Deviations [n, 3] from a mapping of elements."""
    from simulators.scattering import atomic_number

    known = {(atomic_number(z) if isinstance(z, str) else int(z)): v for z, v in sigma.items()}
    missing = [z for z in atoms.elements if z not in known]
    if missing:
        raise ValueError(f"sigma has no entry for the elements {missing} of these atoms")
    xp = array_module(atoms.numbers, list(known.values()))
    result = xp.zeros((atoms.n, 3))
    for element in atoms.elements:
        row = xp.broadcast_to(xp.asarray(known[element]), (3,))
        result = xp.where((atoms.numbers == element)[:, None], row[None], result)
    return result


def _from_ase(frames: Sequence[Any], atoms: Atoms | None) -> tuple[Atoms, np.ndarray]:
    first = frames[0]
    for i, frame in enumerate(frames):
        if not np.array_equal(frame.numbers, first.numbers):
            raise ValueError(f"frame {i} of the trajectory holds other atoms than frame 0")
        if np.abs(np.asarray(frame.cell) - np.asarray(first.cell)).max() > 1e-6:
            raise ValueError(
                f"the cell of frame {i} differs from that of frame 0: one grid cannot hold both; "
                "use a run at constant volume"
            )
    if atoms is None:
        cell = np.asarray(first.cell, float)
        if np.abs(cell - np.diag(np.diag(cell))).max() > 1e-6:
            raise ValueError("the trajectory's cell is not orthogonal along x, y, z")
        occupancy = first.arrays.get("occupancies")
        atoms = make_atoms(first.positions, first.numbers, np.diag(cell), occupancy=occupancy)
    return atoms, np.stack([frame.positions for frame in frames])
