"""ResUNet and ResUNet-a: a U-Net of residual blocks.

Zhang, Liu & Wang, IEEE Geoscience and Remote Sensing Letters 2018 (ResUNet); Diakogiannis et al.,
ISPRS Journal 2020 (ResUNet-a: each block has parallel branches of several dilations, and pyramid
pooling at the coarsest and at the finest level). The blocks are ResNet's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import (
    adaptive_pool,
    check_channels,
    conv,
    crop,
    norm,
    pad_to_multiple,
    resize,
    upsample,
)
from emjax.networks.resnet import Block

RESUNET: dict[str, Any] = {"inputs": 3, "outputs": 1, "widths": (64, 128, 256, 512)}
"""The published ResUNet: 7.8 million weights in its 3×3 convolutions, 8.25 in all."""

RESUNET_A: dict[str, Any] = {
    "inputs": 3,
    "outputs": 6,
    "widths": (32, 64, 128, 256, 512, 1024),
    "dilations": ((1, 3, 15, 31), (1, 3, 15, 31), (1, 3, 15), (1, 3, 15), (1,), (1,)),
    "pyramid": (1, 2, 4, 8),
}
"""ResUNet-a d6 with one head; 45 million weights."""


class PyramidPooling(nnx.Module):
    """Features beside their means over coarser and coarser grids (Zhao et al., CVPR 2017).

    [b, (z,) y, x, c] -> the same shape. `grids` are numbers of windows along each axis; 1 is the
    mean of the whole picture.
    """

    def __init__(
        self,
        channels: int,
        grids: Sequence[int] = (1, 2, 4, 8),
        *,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        part = max(channels // len(grids), 1)
        self.grids = tuple(grids)
        self.parts = nnx.List([conv(channels, part, 1, **more) for _ in grids])
        self.merge = conv(channels + part * len(grids), channels, 1, **more)

    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[1:-1]
        parts = [x]
        for grid, part in zip(self.grids, self.parts, strict=True):
            parts.append(resize(part(adaptive_pool(x, grid)), shape))
        return self.merge(jnp.concatenate(parts, axis=-1))


class ResUNet(nnx.Module):
    """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs], any size.

    Published sizes: `RESUNET` and `RESUNET_A`.

    Parameters
    ----------
    inputs, outputs : channels.
    widths : channels of the levels, finest first; each level halves the resolution.
    dilations : of the parallel branches of the blocks, one tuple for each level; None: one branch
        of dilation 1 everywhere, which is ResUNet.
    pyramid : grids of the pyramid pooling at the coarsest and at the finest level; empty: none.
    ndim : number of spatial axes: 1, 2 or 3.
    groups : of the normalisation; 0 for none.
    dtype, precision : of the computation; parameters and result are float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (16, 32),
        *,
        dilations: Sequence[Sequence[int]] | None = None,
        pyramid: Sequence[int] = (),
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        rates = dilations or ((1,),) * len(widths)
        if not widths or min(widths) < 1 or len(rates) != len(widths):
            raise ValueError(
                f"a ResUNet needs widths ({tuple(widths)}) of at least 1, and a tuple of dilations "
                f"({dilations}) for each"
            )
        more = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        block = {"order": "pre", "groups": groups, **more}
        self.inputs, self.ndim, self.stride = inputs, ndim, 2 ** (len(widths) - 1)
        self.enter = conv(inputs, widths[0], **more)
        down = [Block(widths[0], widths[0], dilations=rates[0], **block)]
        up = []
        for (a, b), fine, coarse in zip(
            itertools.pairwise(widths), rates[:-1], rates[1:], strict=True
        ):
            down.append(Block(a, b, strides=2, dilations=coarse, **block))
            up.append(Block(a + b, a, dilations=fine, **block))
        self.down, self.up = nnx.List(down), nnx.List(up)
        self.bottom = PyramidPooling(widths[-1], pyramid, **more) if pyramid else None
        self.top = PyramidPooling(widths[0], pyramid, **more) if pyramid else None
        self.norm = norm(widths[0], groups=groups, dtype=dtype, rngs=rngs)
        self.leave = conv(widths[0], outputs, 1, **more)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_channels(x, self.inputs, "a ResUNet", self.ndim)
        x, shape = pad_to_multiple(x, self.stride)
        x = self.enter(x)
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        skips.pop()
        if self.bottom is not None:
            x = self.bottom(x)
        for block in reversed(self.up):
            x = block(jnp.concatenate([upsample(x), skips.pop()], axis=-1))
        if self.top is not None:
            x = self.top(x)
        return crop(self.leave(nnx.relu(self.norm(x))), shape).astype(jnp.float32)
