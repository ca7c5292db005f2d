"""Layers that several architectures share, channels last: [b, y, x, c]."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def space_to_depth(x: jax.Array, factor: int) -> jax.Array:
    """[b, y, x, c] -> [b, y/f, x/f, f²c]: nothing is lost, convolutions become f² times cheaper."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // factor, w // factor, factor**2 * c)


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
    """Inverse of `space_to_depth`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, factor, factor, c // factor**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * factor, w * factor, c // factor**2)


def upsample(x: jax.Array, factor: int = 2) -> jax.Array:
    """Nearest neighbour."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
    return x.reshape(b, h * factor, w * factor, c)


def pad_to_multiple(x: jax.Array, multiple: int) -> tuple[jax.Array, tuple[int, int]]:
    """Continue [b, y, x, c] at its lower and right edge to whole strides; and its own size."""
    h, w = x.shape[1:3]
    below, right = -h % multiple, -w % multiple
    if below or right:
        x = jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0)), mode="edge")
    return x, (h, w)
