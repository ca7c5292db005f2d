"""What every loss needs: means with weights, checked shapes, and the way into a training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Loss = Callable[[Any, Mapping[str, jax.Array]], tuple[jax.Array, dict[str, jax.Array]]]
"""``(params, batch) -> (scalar, metrics)``: what `emjax.training.make_step` takes."""

Elementary = Callable[..., jax.Array]
"""``(prediction, target, weight=None) -> scalar``."""


def supervised(
    apply: Callable[[Any, jax.Array], jax.Array],
    loss: Elementary,
    *,
    inputs: str = "image",
    target: str = "target",
    weight: str = "weight",
) -> Loss:
    """A loss for `make_step`: a network's output compared with a target.

    Parameters
    ----------
    apply : network ``(params, x[b, y, x, c]) -> y[b, y, x, k]``.
    loss : elementary loss ``(prediction, target, weight=None) -> scalar``.
    inputs, target : names of the batch's arrays.
    weight : name of the array of weights; it is used where the batch holds one.

    Raises
    ------
    KeyError : the batch lacks an array; names those that it has.
    """

    def compare(params: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict]:
        for name in (inputs, target):
            if name not in batch:
                raise KeyError(f"the batch has no {name!r}; it has {', '.join(sorted(batch))}")
        extra = {"weight": batch[weight]} if weight in batch else {}
        return loss(apply(params, batch[inputs]), batch[target], **extra), {}

    return compare


def average(values: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Mean of `values`, or Σ w v / Σ w.

    Parameters
    ----------
    values : [...].
    weight : ≥ 0, of the same shape or of that of the leading axes; None: all count the same.
        Entries of weight 0 do not count whatever they are (their gradient is 0 only where that of
        `values` is finite, see `alike`); without any weight the mean is 0.

    Raises
    ------
    ValueError : a weight of another shape.
    """
    if weight is None:
        return values.mean()
    weight = spread(weight, values.shape, values.dtype)
    total = weight.sum()
    return (weight * jnp.where(weight > 0, values, 0)).sum() / jnp.where(total > 0, total, 1)


def spread(weight: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A weight of the leading axes of `shape` for all of them."""
    weight = jnp.asarray(weight)
    if weight.ndim == len(shape) and weight.shape == (*shape[:-1], 1):
        weight = weight[..., 0]  # one channel that counts for all
    if weight.shape != tuple(shape[: weight.ndim]):
        raise ValueError(
            f"a weight of shape {weight.shape} does not belong to values of shape {tuple(shape)}: "
            "it has the shape of their first axes"
        )
    weight = weight.reshape(weight.shape + (1,) * (len(shape) - weight.ndim))
    return jnp.broadcast_to(weight, shape).astype(dtype)


def alike(
    prediction: jax.Array, target: jax.Array, weight: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Both in at least float32 (sums of bfloat16 lose their digits).

    With a weight both are 0 where it is 0: leaving a pixel out of the mean is not enough, for NaN
    times the 0 that comes back through it is NaN in every gradient.

    Raises
    ------
    ValueError : shapes that differ. NumPy would broadcast [b, y, x, 1] against [b, y, x] to
        [b, y, x, x] and train on nonsense.
    """
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    if prediction.shape != target.shape:
        raise ValueError(
            f"the prediction has shape {prediction.shape}, the target {target.shape}: they must "
            "be the same, with the channels last"
        )
    prediction, target = wide(prediction), wide(target)
    if weight is not None:
        counted = spread(weight, target.shape) != 0
        prediction, target = jnp.where(counted, prediction, 0), jnp.where(counted, target, 0)
    return prediction, target


def wide(x: jax.Array) -> jax.Array:
    """As float32, or float64 where it is that already."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
