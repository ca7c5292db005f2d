"""Losses that jump are capped: adaptive learning rate clipping.

Ede & Beanland, "Adaptive learning rate clipping stabilizes learning", Mach. Learn.: Sci. Technol.
2020. Where a loss L exceeds a threshold T = mean + n σ of the losses before it, it is scaled down
to T by a factor without gradient: the direction of the update stays, its length is bounded, and a
freak batch does not throw the weights away. Small batches and losses of high order need it.

The running moments are an explicit state: `capped` takes and returns them. For a whole batch,
`cap_spikes` is the same as a part of the optimiser, which keeps them with its own state.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Moments(NamedTuple):
    """Running moments of a loss; made by `init_moments`."""

    mean: jax.Array
    """Decaying sum of the losses, float32 scalar."""
    square: jax.Array
    """Decaying sum of their squares."""
    weight: jax.Array
    """Decaying sum of ones, which the two are divided by."""
    count: jax.Array
    """Number of updates made."""


def init_moments(mean: float | None = None, square: float | None = None) -> Moments:
    """Moments before the first loss.

    Parameters
    ----------
    mean, square
        Estimates of the mean and of the mean square of the loss, as in the paper: too high is
        harmless (the moments decay to the right ones), too low is not. Without them the first
        losses themselves are the estimate, and nothing is capped during `capped`'s warm-up.
    """
    if (mean is None) != (square is None):
        raise ValueError("give both moments of the loss, or none")
    if mean is None or square is None:
        return Moments(jnp.float32(0), jnp.float32(0), jnp.float32(0), jnp.int32(0))
    if square < mean**2:
        raise ValueError(f"a mean square of {square} is below the square of the mean ({mean}²)")
    # a count that is beyond every warm-up
    return Moments(jnp.float32(mean), jnp.float32(square), jnp.float32(1), jnp.int32(2**30))


def capped(
    losses: jax.Array,
    moments: Moments,
    *,
    deviations: float = 3.0,
    decay: float = 0.999,
    warmup: int = 100,
) -> tuple[jax.Array, Moments]:
    """Losses with those above mean + n σ scaled down to it, and the new moments.

    Parameters
    ----------
    losses : scalar, or one a picture [b] (the recommended use): each is capped by itself. They are
        meant to be positive; while mean + n σ is not, nothing is capped (scaling a loss to a
        threshold below 0 would turn its gradient round).
    moments : of the losses of the batches before.
    deviations : n, standard deviations above the mean.
    decay : of both moments, 0 to 1.
    warmup : so many batches go uncapped, where the moments were not given.

    Returns
    -------
    losses : of the same shape; the gradient of a capped one is scaled by the same factor.
    moments : with these losses, the capped ones as capped: a spike must not lift the threshold.
        A loss that is not finite does not enter.
    """
    losses = jnp.asarray(losses, jnp.float32)
    scale = _scale(jax.lax.stop_gradient(losses), moments, deviations, warmup)
    losses = losses * scale
    seen = jax.lax.stop_gradient(losses)
    new = Moments(
        decay * moments.mean + (1 - decay) * seen.mean(),
        decay * moments.square + (1 - decay) * jnp.square(seen).mean(),
        decay * moments.weight + (1 - decay),
        jnp.minimum(moments.count, 2**30) + 1,
    )
    finite = jnp.isfinite(new.mean) & jnp.isfinite(new.square)
    return losses, jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, moments)


def cap_spikes(
    *, deviations: float = 3.0, decay: float = 0.999, warmup: int = 100
) -> optax.GradientTransformationExtraArgs:
    """`capped` for the loss of a whole batch, as the first member of an `optax.chain`.

    To scale the loss is to scale its gradient, so the loss itself can stay as it is. The
    optimiser's update is called with ``value=loss``, as `make_step` does.
    """
    cap = functools.partial(capped, deviations=deviations, decay=decay, warmup=warmup)

    def init(params: Any) -> Moments:
        return init_moments()

    def update(
        updates: Any, state: Moments, params: Any = None, *, value: Any = None, **extra: Any
    ) -> tuple[Any, Moments]:
        if value is None:
            raise ValueError("cap_spikes needs the loss: call tx.update(..., value=loss)")
        scale = _scale(jnp.asarray(value, jnp.float32), state, deviations, warmup)
        updates = jax.tree.map(lambda g: (g * scale).astype(g.dtype), updates)
        return updates, cap(value, state)[1]

    return optax.GradientTransformationExtraArgs(init, update)


def _scale(losses: jax.Array, moments: Moments, deviations: float, warmup: int) -> jax.Array:
    """1, or threshold / loss where the loss is above it."""
    weight = jnp.maximum(moments.weight, 1e-12)
    mean, square = moments.mean / weight, moments.square / weight
    threshold = mean + deviations * jnp.sqrt(jnp.maximum(square - jnp.square(mean), 0))
    above = (losses > threshold) & (threshold > 0) & (moments.count >= warmup)
    return jnp.where(above, threshold / jnp.where(above, losses, 1), 1.0)
