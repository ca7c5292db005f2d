"""One function over many probes or beams: in batches that bound memory, on all devices at once.

XLA runs the Fourier transforms of one compiled program on one core, so on a CPU the batches are
split over the devices that the process was given (`--xla_force_host_platform_device_count=2` in
`XLA_FLAGS` before jax starts). With one device nothing is split.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

AXIS = "batches"

CACHE = 2 * 2**20
"""Bytes of waves that are computed together on a CPU: at 256² four waves took 2/3 of the time that
sixteen took."""

ACCELERATOR = 256 * 2**20
"""The same on an accelerator, which wants work for all its cores."""


def batch_size(batch: int | None, pixels: int, real: int = 4) -> int:
    """`batch`, or how many complex waves of so many pixels and bytes a real number suit the device.

    >>> batch_size(5, 1), batch_size(None, 2**30)
    (5, 1)
    """
    if batch is not None:
        if batch < 1:
            raise ValueError(f"a batch holds at least 1 wave, got batch={batch}")
        return int(batch)
    room = CACHE if jax.default_backend() == "cpu" else ACCELERATOR
    return max(1, room // (2 * real * pixels))


def mapped(
    function: Callable[[Any, Any], Any],
    items: Any,
    shared: Any,
    *,
    batch: int,
    devices: int = 1,
    forget: bool = False,
) -> Any:
    """function(item, shared) for every item along the first axis; to be called under `jit`.

    Parameters
    ----------
    items : pytree of arrays [n, ...]
    shared : pytree
        What all items need.
    batch : int
        At most so many items together.
    devices : int
        Devices to split the items over (`count_devices`).
    forget : bool
        Under differentiation, compute an item again in the backward pass instead of keeping what
        it computed: memory of one batch instead of all, for a third more time.

    Returns
    -------
    pytree of arrays [n, ...]
    """
    n = jax.tree_util.tree_leaves(items)[0].shape[0]
    function = jax.checkpoint(function) if forget else function

    def some(part: Any, shared: Any) -> Any:
        together = None if size == 1 else size
        return jax.lax.map(lambda item: function(item, shared), part, batch_size=together)

    padded, size = _layout(n, batch, devices)
    items = _pad(items, padded - n)
    result = _split(some, devices, summed=False)(items, shared)
    return jax.tree_util.tree_map(lambda leaf: leaf[:n], result)


def summed(
    function: Callable[[Any, Any], Any], items: Any, shared: Any, *, batch: int, devices: int = 1
) -> Any:
    """Σ over batches of function(batch of items, shared); to be called under `jit`.

    Items that fill up the last batch are zeros, of which `function` must make zero. Nothing of a
    batch is kept for a backward pass.
    """
    n = jax.tree_util.tree_leaves(items)[0].shape[0]
    padded, size = _layout(n, batch, devices)
    function = jax.checkpoint(function)

    def some(part: Any, shared: Any) -> Any:
        def add(total: Any, one: Any) -> tuple[Any, None]:
            return jax.tree_util.tree_map(jnp.add, total, function(one, shared)), None

        batches = jax.tree_util.tree_map(lambda x: x.reshape(-1, size, *x.shape[1:]), part)
        first = function(jax.tree_util.tree_map(lambda x: x[0], batches), shared)
        rest = jax.tree_util.tree_map(lambda x: x[1:], batches)
        return jax.lax.scan(add, first, rest)[0]

    return _split(some, devices, summed=True)(_pad(items, padded - n, zeros=True), shared)


def count_devices(*leaves: Any) -> int:
    """How many devices a computation on these arrays may be split over.

    One where an array was put on a device by hand, inside somebody else's `shard_map`, and where
    there is one.
    """
    known = [x for x in jax.tree_util.tree_leaves(leaves) if isinstance(x, jax.Array)]
    placed = [x for x in known if not isinstance(x, jax.core.Tracer) and x.committed]
    if any(len(x.devices()) == 1 for x in placed) or not jax.sharding.get_abstract_mesh().empty:
        return 1
    return jax.local_device_count()


def gathered(result: jax.Array) -> jax.Array:
    """A result that lies on several devices, put on the default one: it combines with anything."""
    if isinstance(result, jax.core.Tracer) or len(result.devices()) == 1:
        return result
    return jnp.asarray(np.asarray(result))


def _layout(n: int, batch: int, devices: int) -> tuple[int, int]:
    """(items after filling up, items in a batch): batches of one size, equally many a device."""
    each = math.ceil(n / devices)
    rounds = math.ceil(each / max(1, min(batch, each)))
    size = math.ceil(each / rounds)
    return size * rounds * devices, size


def _pad(items: Any, more: int, zeros: bool = False) -> Any:
    """`more` items at the end: zeros or copies of the last one."""

    def pad(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        filling = jnp.broadcast_to(leaf[-1:], (more, *leaf.shape[1:]))
        return jnp.concatenate([leaf, jnp.zeros_like(filling) if zeros else filling])

    return jax.tree_util.tree_map(pad, items) if more else items


def _split(function: Callable, devices: int, *, summed: bool) -> Callable:
    """function(items, shared) with the items spread over devices, results put or added together."""
    if devices == 1:
        return function

    def local(part: Any, shared: Any) -> Any:
        result = function(part, shared)
        return jax.lax.psum(result, AXIS) if summed else result

    mesh = Mesh(np.array(jax.local_devices()[:devices]), (AXIS,))
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(PartitionSpec(AXIS), PartitionSpec()),
        out_specs=PartitionSpec() if summed else PartitionSpec(AXIS),
        check_vma=False,
    )
