"""Gradients of a batch in several parts, and with fewer intermediate results kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emjax.sharding import batch_size

Gradient = Callable[[Any, Any], tuple[tuple[jax.Array, dict[str, jax.Array]], Any]]


def value_and_grad(
    loss: Callable[[Any, Any], tuple[jax.Array, Any]],
    *,
    accumulate: int = 1,
    remat: bool = False,
    unroll: bool = False,
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
    remat
        Keep the results of convolutions and matrix products alone for the way back, and compute
        all between them (normalisations, activations) once more: about a third of the memory for
        a few per cent of time. The gradient is the same.
    unroll
        Write the parts one after the other instead of in a `lax.scan` (XLA's convolutions on the
        CPU are slow in loops).

    Raises
    ------
    ValueError
        When it is called: the batch cannot be cut into so many equal parts.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate {accumulate} must be at least 1")
    if remat:
        loss = jax.checkpoint(loss, policy=_is_product)
    whole = jax.value_and_grad(loss, has_aux=True)
    if accumulate == 1:
        return whole

    def accumulated(params: Any, batch: Any) -> Any:
        parts, join = _cut(batch, accumulate)
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


def _cut(batch: Any, parts: int) -> tuple[list[jax.Array], Callable[[list[jax.Array], Any], Any]]:
    """Leaves as long as the batch as [parts, batch / parts, …]; ``(part, number) -> batch``."""
    leaves, tree = jax.tree.flatten(batch)
    size = batch_size(batch)
    if size % parts:
        raise ValueError(
            f"a batch of {size} cannot be cut into accumulate = {parts} equal parts: "
            f"make it {size - size % parts or parts} or {size + parts - size % parts}"
        )
    long = [np.ndim(x) > 0 and np.shape(x)[0] == size for x in leaves]
    # every parts-th image: split over devices, each device keeps the images that it has
    stacked = [
        jnp.moveaxis(x.reshape(size // parts, parts, *x.shape[1:]), 1, 0)
        for x, cut in zip(leaves, long, strict=True)
        if cut
    ]

    def join(part: list[jax.Array], number: Any) -> Any:
        left = iter(part)
        return tree.unflatten(
            [next(left) if cut else _shared(x, number) for x, cut in zip(leaves, long, strict=True)]
        )

    return stacked, join


def _shared(leaf: Any, number: Any) -> Any:
    """What is not cut, for one part: a single random key must not give all the same noise."""
    dtype = getattr(leaf, "dtype", np.float32)
    if np.ndim(leaf) == 0 and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(leaf, number)
    return leaf
