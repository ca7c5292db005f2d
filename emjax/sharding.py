"""How arrays lie on several devices: weights on every device, a batch in equal parts.

`emjax.training.make_step` uses all devices that jax has, without a word in the script. The compiled
update is written for the whole batch (jax's automatic sharding), so its result does not depend on
the number of devices but for the order of sums.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from emjax.checkpoints import named_leaves

DATA = "data"
"""Name of the mesh's axis, along which batches are split."""


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """A row of devices (default: all, those of other processes included); None if it is one."""
    chosen = list(jax.devices() if devices is None else devices)
    if len(set(chosen)) != len(chosen) or not chosen:
        raise ValueError(f"devices {chosen} must be different ones, at least one")
    if len(chosen) == 1 and devices is None:
        return None
    return jax.make_mesh((len(chosen),), (DATA,), axis_types=(AxisType.Auto,), devices=chosen)


def everywhere(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Every leaf whole on every device. Nothing is done to leaves that are there already.

    With several processes each must give the same values.
    """
    sharding = everywhere(mesh)

    def place(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if jax.dtypes.issubdtype(getattr(leaf, "dtype", np.float32), jax.dtypes.prng_key):
            data = place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(place, tree)


def on_one_device(tree: Any) -> Any:
    """What `replicate` spread, on this process's first device: for evaluation and for files.

    The arrays share memory with those given, so they are gone when those are donated.
    """

    def take(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
            return leaf.addressable_data(0)
        return leaf

    return jax.tree.map(take, tree)


def batch_size(batch: Any, shared: Sequence[str] = ()) -> int:
    """Images in a batch: the most common first axis of its leaves (the longest, if tied).

    >>> batch_size({"image": np.zeros((8, 4, 4)), "label": np.zeros(8), "weight": 1.0})
    8
    """
    whole = named_as_shared(batch, shared)
    leaves = zip(jax.tree.leaves(batch), whole, strict=True)
    sizes = collections.Counter(np.shape(x)[0] for x, named in leaves if np.ndim(x) and not named)
    return max(sizes, key=lambda size: (sizes[size], size)) if sizes else 1


def named_as_shared(batch: Any, shared: Sequence[str]) -> list[bool]:
    """For each leaf: is its path, or a part of the tree that it lies in, one of `shared`?

    >>> named_as_shared({"image": 0, "noise": {"table": 1, "tables": 2}}, ["noise/table"])
    [False, True, False]
    """
    tops = [name.rstrip("/") for name in shared]
    names = named_leaves(batch) if tops else [""] * len(jax.tree.leaves(batch))
    return [any(name == top or name.startswith(top + "/") for top in tops) for name in names]


def check_shared(batch: Any, shared: Sequence[str]) -> None:
    """Raises ValueError where the batch holds nothing of one of these names."""
    for name in shared:
        if not any(named_as_shared(batch, [name])):
            raise ValueError(
                f"shared={name!r} names nothing in the batch, which holds "
                f"{', '.join(named_leaves(batch))}"
            )


def split_over_devices(batch: Any, mesh: Mesh, shared: Sequence[str] = ()) -> Any:
    """Inside a compiled function: leaves as long as the batch are split, others are everywhere.

    A batch that the devices do not divide evenly stays whole on each of them: right, not fast. So
    does what is named as `shared`.
    """
    return jax.tree.map(jax.lax.with_sharding_constraint, batch, _shardings(batch, mesh, shared))


def place_batch(batch: Any, mesh: Mesh, shared: Sequence[str] = ()) -> Any:
    """The same for arrays of the host: each device gets its part, and nothing else is sent.

    Every process gives the whole batch, of which it uses the part of its own devices.
    """

    def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(place, batch, _shardings(batch, mesh, shared))


def _shardings(batch: Any, mesh: Mesh, shared: Sequence[str]) -> Any:
    size, leaves = batch_size(batch, shared), jax.tree.leaves(batch)

    def sharding(leaf: Any, whole: bool) -> NamedSharding:
        long = np.ndim(leaf) and np.shape(leaf)[0] == size and not whole
        split = long and size % mesh.size == 0
        return NamedSharding(mesh, PartitionSpec(DATA) if split else PartitionSpec())

    whole = named_as_shared(batch, shared)
    return jax.tree.unflatten(jax.tree.structure(batch), map(sharding, leaves, whole))


def vmap_over_devices(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.vmap` over the first axis that is split over the devices of the training step.

    For `draw` functions that contain Fourier transforms or other operations that XLA does not
    split by itself but would repeat on every device (its FFT): each device makes its own images.
    Outside of a step, on one device, and where the devices do not divide the axis, it is
    `jax.vmap`; the values are the same.

    Parameters
    ----------
    function
        ``(key, …) -> pytree``, of one image. Arrays that it closes over are whole on each device.
    """
    mapped = jax.vmap(function)

    def split(*args: Any) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        size = np.shape(jax.tree.leaves(args)[0])[0]
        if mesh.empty or DATA not in mesh.axis_names or size % mesh.shape[DATA]:
            return mapped(*args)
        spec = PartitionSpec(DATA)
        return jax.shard_map(mapped, in_specs=spec, out_specs=spec, check_vma=False)(*args)

    return split
