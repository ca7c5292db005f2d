"""Layers that several architectures share, channels last: [b, y, x, c]."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


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


class PixelNorm(nnx.Module):
    """Layer normalisation over the channels of every pixel.

    Unlike group normalisation it knows nothing of the rest of the picture, so a network with it
    gives the same result in a tile as in the whole. The floor under the variance bounds how much a
    constant picture (vacuum) is amplified: by 1/√floor.
    """

    def __init__(self, channels: int, *, floor: float = 1e-2) -> None:
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.floor = floor

    def __call__(self, x: jax.Array) -> jax.Array:
        mean = x.mean(-1, keepdims=True)
        centred = x - mean
        variance = jnp.square(centred).mean(-1, keepdims=True)
        scale, bias = (p[...].astype(x.dtype) for p in (self.scale, self.bias))
        normal = centred * jax.lax.rsqrt(variance + self.floor)
        return normal * scale[None, None, None] + bias[None, None, None]
