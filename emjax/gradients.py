"""Gradients of a batch in several parts, and with fewer intermediate results kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emjax.sharding import batch_size, check_shared, named_as_shared

Gradient = Callable[[Any, Any], tuple[tuple[jax.Array, dict[str, jax.Array]], Any]]


def value_and_grad(
    loss: Callable[[Any, Any], tuple[jax.Array, Any]],
    *,
    accumulate: int = 1,
    remat: bool = False,
    unroll: bool = False,
    shared: Sequence[str] = (),
) -> Gradient:
    """``(params, batch) -> ((loss, metrics), gradient)``.

    Parameters
    ----------
    loss
        ``(params, batch) -> (scalar, metrics)``; a mean over the batch, if `accumulate` > 1.
    accumulate
        Number of equal parts that the batch is cut into. One after the other is differentiated, so
        that the intermediate results of one alone are in memory; loss, metrics and gradient are
        the means. Equal to the whole batch for a loss and metrics that are means over its images.
        A single random key (`jax.random.key`) in the batch becomes another one for each part.
        Arrays whose first axis is as long as the batch are cut, whatever they mean; all else, and
        what `shared` names, goes to each part whole.
    remat
        Keep the results of convolutions and matrix products alone for the way back, and compute
        all between them (normalisations, activations) once more: about a third of the memory for
        a few per cent of time. The gradient is the same.
    unroll
        Write the parts one after the other instead of in a `lax.scan` (XLA's convolutions on the
        CPU are slow in loops).
    shared
        Names of leaves (``"table"``) or of parts of the batch's tree (``"model"``) that are not
        cut, also where they are as long as the batch by chance: a table of noise, a codebook.

    Raises
    ------
    ValueError
        When it is called: the batch cannot be cut into so many equal parts, or holds nothing of
        the name.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate {accumulate} must be at least 1")
    if remat:
        loss = jax.checkpoint(loss, policy=_is_product)
    whole = jax.value_and_grad(loss, has_aux=True)
    if accumulate == 1:
        return whole

    def accumulated(params: Any, batch: Any) -> Any:
        parts, join = _cut(batch, accumulate, shared)
        if unroll:
            total = None
            for i in range(accumulate):
                if total is not None:  # not before the last part is done: that saves the memory
                    params, total = jax.lax.optimization_barrier((params, total))
                new = whole(params, join([part[i] for part in parts], i))
                total = new if total is None else jax.tree.map(jnp.add, total, new)
        else:
            first = jax.eval_shape(whole, params, join([part[0] for part in parts], 0))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)

            def add(total: Any, numbered: tuple[list[jax.Array], Any]) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, whole(params, join(*numbered))), None

            total, _ = jax.lax.scan(add, zeros, (parts, jnp.arange(accumulate)))
        return jax.tree.map(lambda x: x / accumulate, total)

    return accumulated


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("conv_general_dilated", "dot_general")


def _cut(
    batch: Any, parts: int, shared: Sequence[str]
) -> tuple[list[jax.Array], Callable[[list[jax.Array], Any], Any]]:
    """Leaves as long as the batch as [parts, batch / parts, …]; ``(part, number) -> batch``."""
    check_shared(batch, shared)
    leaves, tree = jax.tree.flatten(batch)
    size, named = batch_size(batch, shared), named_as_shared(batch, shared)
    if size % parts:
        raise ValueError(
            f"a batch of {size} cannot be cut into accumulate = {parts} equal parts: "
            f"make it {size - size % parts or parts} or {size + parts - size % parts}"
        )
    first = [np.shape(x)[0] if np.ndim(x) else None for x in leaves]
    long = [n == size and not whole for n, whole in zip(first, named, strict=True)]
    # every parts-th image: split over devices, each device keeps the images that it has
    stacked = [
        jnp.moveaxis(x.reshape(size // parts, parts, *x.shape[1:]), 1, 0)
        for x, cut in zip(leaves, long, strict=True)
        if cut
    ]

    def join(part: list[jax.Array], number: Any) -> Any:
        left, result = iter(part), []
        for x, cut, whole in zip(leaves, long, named, strict=True):
            result.append(next(left) if cut else x if whole else _own_noise(x, number))
        return tree.unflatten(result)

    return stacked, join


def _own_noise(leaf: Any, number: Any) -> Any:
    """What is not cut, for one part: a single random key must not give all the same noise."""
    dtype = getattr(leaf, "dtype", np.float32)
    if np.ndim(leaf) == 0 and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(leaf, number)
    return leaf
