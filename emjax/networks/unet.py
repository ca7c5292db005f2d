"""U-Net: an encoder and a decoder with connections between equal resolutions.

Ronneberger, Fischer & Brox, MICCAI 2015; with residual blocks, and the finest level folded into
channels (`stem`), where most of the time would go. The network as it was published is
`unet_classic`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import (
    check_channels,
    conv,
    crop,
    depth_to_space,
    pad_to_multiple,
    space_to_depth,
    upsample,
)


class Block(nnx.Module):
    """x + conv(silu(conv(x))): no normalisation, which hides how bright one place is to another."""

    def __init__(self, channels: int, **how: Any) -> None:
        self.first = conv(channels, channels, 3, **how)
        self.second = conv(channels, channels, 3, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.second(nnx.silu(self.first(x)))


class UNet(nnx.Module):
    """Image to image, any size (continued to whole strides and cropped back).

    Parameters
    ----------
    inputs, outputs : channels.
    widths : channels of the levels, finest first; each level halves the resolution.
    stem : the finest level has 1/stem of the picture's resolution: stem² pixels (stem³ voxels) are
        channels of one. 1 is the classical U-Net.
    blocks : residual blocks at each level on the way down; one on the way up.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (16, 24, 32),
        *,
        stem: int = 2,
        blocks: int = 1,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not widths or min(widths) < 1 or stem < 1 or blocks < 1:
            raise ValueError(f"a U-Net needs widths ({widths}), stem and blocks of at least 1")
        self.inputs, self.ndim = inputs, ndim
        self.stem, self.stride = stem, stem * 2 ** (len(widths) - 1)
        pairs = list(itertools.pairwise(widths))
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}

        def chain(c: int, n: int) -> nnx.List:
            return nnx.List([Block(c, **how) for _ in range(n)])

        self.enter = conv(inputs * stem**ndim, widths[0], 3, **how)
        self.down = nnx.List([chain(c, blocks) for c in widths])
        self.shrink = nnx.List([conv(a, b, 2, strides=2, **how) for a, b in pairs])
        self.grow = nnx.List([conv(b, a, 1, **how) for a, b in pairs])
        self.merge = nnx.List([conv(2 * a, a, 1, **how) for a, _ in pairs])
        self.up = nnx.List([chain(a, 1) for a, _ in pairs])
        self.leave = conv(widths[0], outputs * stem**ndim, 1, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        check_channels(x, self.inputs, "this U-Net", self.ndim)
        x, shape = pad_to_multiple(x, self.stride)
        x = self.enter(space_to_depth(x, self.stem))
        skips = []
        for level, blocks in enumerate(self.down):
            if level:
                skips.append(x)
                x = self.shrink[level - 1](x)
            for block in blocks:
                x = block(x)
        for level in reversed(range(len(self.up))):
            x = jnp.concatenate([skips[level], upsample(self.grow[level](x))], axis=-1)
            x = self.merge[level](x)
            for block in self.up[level]:
                x = block(x)
        x = depth_to_space(self.leave(nnx.silu(x)), self.stem)
        return crop(x, shape).astype(jnp.float32)
