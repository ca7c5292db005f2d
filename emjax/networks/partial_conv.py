"""Inpainting with partial convolutions: only pixels that are known count.

Liu, Reda, Shih, Wang, Tao & Catanzaro, ECCV 2018 (arXiv:1804.07723). For pictures of which a part
was scanned (compressed sensing, spirals), dead pixels, or beam stops.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import check_channels, conv, crop, norm, pad_to_multiple, upsample
from emjax.networks.unet_classic import HE

Part = tuple[jax.Array, jax.Array]
"""Features [b, y, x, c], and where they are known [b, y, x, 1], 0 or 1."""

_leaky = functools.partial(nnx.leaky_relu, negative_slope=0.2)


class PartialConv(nnx.Module):
    """A convolution that counts only what is known, scaled up to whole windows.

    out = W·(x·m) / (known share of the window) + b, and the new mask is 1, where a pixel of the
    window is known; both are 0 elsewhere. What lies beyond the edge is unknown.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, *, strides: int = 1, **how: Any
    ) -> None:
        self.size, self.strides = size, strides
        bias = how.pop("bias", True)
        self.layer = conv(inputs, outputs, size, strides=strides, bias=False, **how)
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None

    def __call__(self, *parts: Part) -> Part:
        """Of the concatenation of the parts, each with a mask of its own."""
        x = jnp.concatenate(
            [features * mask.astype(features.dtype) for features, mask in parts], -1
        )
        n = x.ndim - 2
        # how many of the window's size^n·c values are known
        known = sum(
            features.shape[-1] * _window_sum(mask, self.size, self.strides)
            for features, mask in parts
        )
        mask = (known > 0).astype(jnp.float32)
        share = known / (self.size**n * x.shape[-1])
        y = self.layer(x)
        y = y * (mask / jnp.where(known > 0, share, 1.0)).astype(y.dtype)
        if self.bias is not None:
            bias = self.bias[...].reshape((1,) * (n + 1) + (-1,))
            y = y + (bias * mask).astype(y.dtype)
        return y, mask


class PartialConvNet(nnx.Module):
    """Image and mask to image, any size (continued to whole strides with nothing known).

    ``widths=(64, 128, 256, 512, 512, 512, 512, 512), sizes=(7, 5, 5, 3, 3, 3, 3, 3),
    normalise=True, inputs=4, outputs=3`` is the published size: 32,859,732 parameters.

    Parameters
    ----------
    inputs : channels of the picture, and one more, the last: the mask, above 0.5 where a pixel is
        known. Its values elsewhere have no effect whatever.
    outputs : channels. All pixels are predicted; put the known ones back where they have no noise.
    widths, sizes : channels and window sizes of the levels, each of which halves the resolution.
    normalise : group normalisation, and no offsets, in all layers but the first and the last.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : no channel beside the mask, or widths and sizes of different length.
    """

    def __init__(
        self,
        inputs: int = 2,
        outputs: int = 1,
        widths: Sequence[int] = (16, 24, 32),
        *,
        sizes: Sequence[int] = (5, 3, 3),
        normalise: bool = False,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if inputs < 2:
            raise ValueError(f"{inputs} input channel(s): the last is the mask, it needs one more")
        if not widths or len(widths) != len(sizes) or min(widths) < 1:
            raise ValueError(f"widths {widths} and sizes {sizes} are not of as many levels")
        self.inputs, self.ndim, self.stride = inputs, ndim, 2 ** len(widths)
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        before = (inputs - 1, *widths)
        inner = {"init": HE, "bias": not normalise, **how}

        def scale(channels: int) -> nnx.GroupNorm | None:
            return norm(channels, dtype=dtype, rngs=rngs) if normalise else None

        self.down = nnx.List(
            [
                PartialConv(a, b, size, strides=2, **inner)
                for a, b, size in zip(before[:-1], widths, sizes, strict=True)
            ]
        )
        self.up = nnx.List(
            [PartialConv(b + a, a, 3, **inner) for a, b in itertools.pairwise(widths)]
        )
        self.down_norms = nnx.List([None, *[scale(c) for c in widths[1:]]])
        self.up_norms = nnx.List([scale(c) for c in widths[:-1]])
        self.leave = PartialConv(widths[0] + inputs - 1, outputs, 3, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]; the last input channel is the mask."""
        check_channels(x, self.inputs, "this network", self.ndim)
        x, shape = pad_to_multiple(x, self.stride)
        image = x[..., :-1]
        mask = _inside((x[..., -1:] > 0.5).astype(jnp.float32), shape)
        # not a product: NaN where nothing was measured must not matter
        part: Part = (jnp.where(mask > 0, image, 0.0), mask)
        skips = []
        for layer, scale in zip(self.down, self.down_norms, strict=True):
            skips.append(part)
            y, mask = layer(part)
            part = (nnx.relu(y if scale is None else scale(y)), mask)
        for level in reversed(range(len(self.up))):
            y, mask = self.up[level](_grow(part), skips[level + 1])
            scale = self.up_norms[level]
            part = (_leaky(y if scale is None else scale(y)), mask)
        y, _ = self.leave(_grow(part), skips[0])
        return crop(y, shape).astype(jnp.float32)


def _grow(part: Part) -> Part:
    return upsample(part[0]), upsample(part[1])


def _inside(mask: jax.Array, shape: Sequence[int]) -> jax.Array:
    """What was added to make whole strides is not known."""
    pads = [(0, n - m) for n, m in zip(mask.shape[1:-1], shape, strict=True)]
    return jnp.pad(crop(mask, shape), [(0, 0), *pads, (0, 0)]) if any(map(any, pads)) else mask


def _window_sum(mask: jax.Array, size: int, strides: int) -> jax.Array:
    n = mask.ndim - 2
    return jax.lax.reduce_window(
        mask, 0.0, jax.lax.add, (1, *(size,) * n, 1), (1, *(strides,) * n, 1), "SAME"
    )
