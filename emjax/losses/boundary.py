"""Outlines: the distance to them, and a loss that pulls a prediction towards them.

Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019 / Med. Image Anal.
2021. Regional losses (Dice) count pixels; this one weighs them with their distance from the true
outline. By itself it can be fooled by an empty prediction: use it with `dice`, its weight rising
from 0 (`emjax.schedules`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from emjax.losses.basics import alike, average, wide


def boundary(logits: jax.Array, distance: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Mean of p · distance.

    Parameters
    ----------
    logits : [b, y, x, k]; p is their softmax, or with k = 1 their sigmoid.
    distance : [b, y, x, k] of `signed_distance`, a channel a class.
    weight : see `basics.average`.
    """
    _, distance = alike(logits, distance, weight)
    logits = wide(logits)
    p = jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)
    return average(p * distance, weight)


def signed_distance(mask: jax.Array) -> jax.Array:
    """Exact Euclidean distance to the outline in pixels: positive outside, negative inside.

    The outline runs between pixels, so that a pixel beside it is at ±1/2. In jit, on any device:
    lower envelopes of parabolas, axis by axis (Felzenszwalb & Huttenlocher 2012), here by trying
    all; time grows with the cube of the side.

    Parameters
    ----------
    mask : [b, y, x] or [b, z, y, x], true inside; of classes [b, y, x, k], as `boundary` takes
        them, ``jax.vmap(signed_distance, -1, -1)(one_hot)``.

    Returns
    -------
    jax.Array : float32 of the same shape; 0 everywhere in a picture that is all inside or all
        outside, for there is no outline to go to.
    """
    mask = jnp.asarray(mask).astype(bool)
    inside = tuple(range(1, mask.ndim))
    to_mask, to_rest = _distance(mask), _distance(~mask)
    signed = jnp.where(mask, 0.5 - to_rest, to_mask - 0.5)
    outlined = mask.any(inside, keepdims=True) & ~mask.all(inside, keepdims=True)
    return jnp.where(outlined, signed, 0.0)


def _distance(mask: jax.Array) -> jax.Array:
    """From every pixel to the nearest one that is true."""
    far = float(sum(n**2 for n in mask.shape[1:]) + 1)
    squares = jnp.where(mask, 0.0, far).astype(jnp.float32)
    for axis in range(1, mask.ndim):
        squares = _envelope(squares, axis)
    return jnp.sqrt(squares)


def _envelope(f: jax.Array, axis: int) -> jax.Array:
    """min over j of f[j] + (i - j)² along an axis."""
    n = f.shape[axis]
    shape = [1] * f.ndim
    shape[axis] = n
    place = jnp.arange(n, dtype=f.dtype).reshape(shape)

    def lower(j: jax.Array, best: jax.Array) -> jax.Array:
        here = jax.lax.dynamic_index_in_dim(f, j, axis)
        return jnp.minimum(best, here + jnp.square(place - j.astype(f.dtype)))

    return jax.lax.fori_loop(0, n, lower, jnp.full_like(f, jnp.inf))
