"""Vision transformer with a convolutional stem, for classes or for pictures.

Dosovitskiy et al., ICLR 2021; the stem of strided 3×3 convolutions of Xiao et al. (NeurIPS 2021),
which trains more steadily than one large patch; positions as sines and cosines (Vaswani et al.,
2017) along each axis, which hold for any picture size and have no weights.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emjax.networks.layers import (
    EPSILON,
    HE,
    SMALL,
    check_channels,
    conv,
    crop,
    dense,
    depth_to_space,
    norm,
    pad_to_multiple,
)

VIT_TINY: dict[str, Any] = {
    "inputs": 3,
    "outputs": 1000,
    "width": 192,
    "depth": 12,
    "heads": 3,
    "patch": 16,
    "stem": "patch",
    "head": "classes",
}
"""ViT-Ti/16, which has 5,717,416 weights; 5,679,400 without its class token and learnt positions.
(ViT-S: width 384, 6 heads.) With ``stem="conv"`` the stem of Xiao et al."""


def positions(shape: tuple[int, ...], width: int) -> np.ndarray:
    """[(z,) y, x, width]: sines and cosines of the coordinates, at wavelengths from 2π to 20000π.

    The channels are divided evenly among the axes: `width` is a multiple of twice their number.
    """
    each = width // (2 * len(shape))
    frequencies = 1e4 ** (-np.arange(each) / each)
    parts = []
    for axis, n in enumerate(shape):
        phase = np.arange(n)[:, None] * frequencies
        wave = np.concatenate([np.sin(phase), np.cos(phase)], axis=-1)
        wave = wave.reshape(*(n if i == axis else 1 for i in range(len(shape))), 2 * each)
        parts.append(np.broadcast_to(wave, (*shape, 2 * each)))
    return np.concatenate(parts, axis=-1).astype(np.float32)


class Attention(nnx.Module):
    """Every token looks at every other one: [b, n, width] -> the same shape; n² memory."""

    def __init__(
        self, width: int, heads: int, *, dtype: Any, precision: Any, rngs: nnx.Rngs
    ) -> None:
        more = {"dtype": dtype, "precision": precision, "rngs": rngs}
        self.heads, self.precision = heads, precision
        self.enter = dense(width, 3 * width, **more)
        self.leave = dense(width, width, init=SMALL, **more)

    def __call__(self, x: jax.Array) -> jax.Array:
        b, n, c = x.shape
        query, key, value = jnp.moveaxis(self.enter(x).reshape(b, n, 3, self.heads, -1), 2, 0)
        score = jnp.einsum("bqhd,bkhd->bhqk", query, key, precision=self.precision)
        score = score.astype(jnp.float32) / math.sqrt(c // self.heads)
        weight = jax.nn.softmax(score, axis=-1).astype(value.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weight, value, precision=self.precision)
        return self.leave(mixed.reshape(b, n, c))


class Layer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): 12 width² + 13 width weights."""

    def __init__(
        self, width: int, heads: int, *, dtype: Any, precision: Any, rngs: nnx.Rngs
    ) -> None:
        more = {"dtype": dtype, "precision": precision, "rngs": rngs}
        self.norms = nnx.List([_layer_norm(width, dtype, rngs) for _ in range(2)])
        self.attention = Attention(width, heads, **more)
        self.widen = dense(width, 4 * width, init=HE, **more)
        self.narrow = dense(4 * width, width, init=SMALL, **more)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norms[0](x))
        return x + self.narrow(nnx.gelu(self.widen(self.norms[1](x))))


class ViT(nnx.Module):
    """[b, (z,) y, x, inputs] -> [b, outputs], or an image of `outputs` channels; any size.

    Published size: `VIT_TINY`.

    Parameters
    ----------
    inputs, outputs : channels, and classes (scores) or channels.
    width, depth, heads : channels of a token, number of layers, of attention heads in each.
    patch : pixels of a token along each axis; with the convolutional stem a power of two.
    stem : 'conv': 3×3 convolutions of stride 2, widths doubling up to `width`; 'patch': one linear
        map of the patch.
    head : 'classes': the mean of the tokens -> [b, outputs]. 'image': each token makes its patch
        -> [b, (z,) y, x, outputs].
    ndim : number of spatial axes: 1, 2 or 3.
    dtype, precision : of the computation; parameters and result are float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 2,
        *,
        width: int = 32,
        depth: int = 2,
        heads: int = 2,
        patch: int = 4,
        stem: str = "conv",
        head: str = "classes",
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if width % heads or width % (2 * ndim):
            raise ValueError(
                f"the width of a ViT ({width}) is a multiple of its heads ({heads}) and of twice "
                f"the number of axes ({2 * ndim})"
            )
        if stem not in ("conv", "patch") or head not in ("classes", "image"):
            raise ValueError(
                f"a ViT has a stem 'conv' or 'patch' and a head 'classes' or 'image', not "
                f"{stem!r}, {head!r}"
            )
        halvings = patch.bit_length() - 1
        if stem == "conv" and patch != 2**halvings:
            raise ValueError(
                f"a convolutional stem makes patches of 2, 4, 8, .. pixels, not {patch}"
            )
        more: dict[str, Any] = {"dtype": dtype, "precision": precision, "rngs": rngs}
        self.inputs, self.ndim, self.patch, self.dense = inputs, ndim, patch, head == "image"
        sizes = [max(width >> (halvings - i), 1) for i in range(1, halvings + 1)]
        if stem == "patch":
            sizes = []
        self.stem = nnx.List(
            [
                conv(a, b, ndim=ndim, strides=2, init=HE, **more)
                for a, b in itertools.pairwise((inputs, *sizes))
            ]
        )
        self.norms = nnx.List([norm(b, dtype=dtype, rngs=rngs) for b in sizes])
        step = patch if stem == "patch" else 1
        self.enter = conv(
            sizes[-1] if sizes else inputs, width, step, ndim=ndim, strides=step, **more
        )
        self.layers = nnx.List([Layer(width, heads, **more) for _ in range(depth)])
        self.norm = _layer_norm(width, dtype, rngs)
        self.leave = dense(width, outputs * patch**ndim if self.dense else outputs, **more)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_channels(x, self.inputs, "a ViT", self.ndim)
        x, shape = pad_to_multiple(x, self.patch)
        for layer, normalise in zip(self.stem, self.norms, strict=True):
            x = nnx.relu(normalise(layer(x)))
        x = self.enter(x)
        b, *grid, c = x.shape
        x = x + jnp.asarray(positions(tuple(grid), c), x.dtype)[None]
        x = x.reshape(b, -1, c)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        if not self.dense:
            return self.leave(x.mean(axis=1)).astype(jnp.float32)
        x = depth_to_space(self.leave(x).reshape(b, *grid, -1), self.patch)
        return crop(x, shape).astype(jnp.float32)


def _layer_norm(width: int, dtype: Any, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=EPSILON, use_fast_variance=False, dtype=dtype, rngs=rngs)
