"""FC-DenseNet: a U-Net whose stages are dense blocks.

Jégou et al., CVPR Workshops 2017 ("One hundred layers tiramisu"). On the way up only what a block
has newly made is carried on: the rest comes over the connection between equal resolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.densenet import DenseBlock, Transition
from emjax.networks.layers import HE, check_channels, conv, crop, pad_to_multiple, transposed

FC_DENSENET103: dict[str, Any] = {
    "inputs": 3,
    "outputs": 11,
    "growth": 16,
    "depths": (4, 5, 7, 10, 12),
    "bottom": 15,
    "first": 48,
}
"""The published network for 11 classes: 9,318,907 weights."""


class FCDenseNet(nnx.Module):
    """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs], any size. Published: `FC_DENSENET103`.

    Parameters
    ----------
    inputs, outputs : channels and classes (scores, before softmax or sigmoid).
    growth : channels that each layer adds.
    depths : layers of the blocks on the way down, and in reverse on the way up; each level halves
        the resolution.
    bottom : layers of the block at the coarsest level.
    first : channels of the first convolution.
    ndim : number of spatial axes: 1, 2 or 3.
    groups : of the normalisation; 0 for none.
    dtype, precision : of the computation; parameters and result are float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        growth: int = 8,
        depths: Sequence[int] = (2, 2),
        *,
        bottom: int = 2,
        first: int = 16,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not depths or min(growth, first, bottom, *depths) < 1:
            raise ValueError(
                f"an FC-DenseNet needs growth ({growth}), first ({first}), bottom ({bottom}) and "
                f"depths ({tuple(depths)}) of at least 1"
            )
        more = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.inputs, self.ndim, self.stride = inputs, ndim, 2 ** len(depths)
        self.enter = conv(inputs, first, **more)
        down, shrink, skips, channels = [], [], [], first
        for depth in depths:
            down.append(DenseBlock(channels, growth, depth, groups=groups, **more))
            channels = down[-1].outputs
            skips.append(channels)
            shrink.append(Transition(channels, channels, pool="max", groups=groups, **more))
        self.bottom = DenseBlock(channels, growth, bottom, groups=groups, **more)
        grow, up, new = [], [], bottom * growth
        for depth, skip in zip(reversed(depths), reversed(skips), strict=True):
            grow.append(transposed(new, new, 3, init=HE, **more))
            up.append(DenseBlock(new + skip, growth, depth, groups=groups, **more))
            new = depth * growth
        self.down, self.shrink = nnx.List(down), nnx.List(shrink)
        self.grow, self.up = nnx.List(grow), nnx.List(up)
        self.leave = conv(up[-1].outputs, outputs, 1, **more)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_channels(x, self.inputs, "an FC-DenseNet", self.ndim)
        x, shape = pad_to_multiple(x, self.stride)
        x = self.enter(x)
        skips = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            x = block(x)
            skips.append(x)
            x = shrink(x)
        x = self.bottom(x, new=True)
        last = len(self.up) - 1
        for i, (grow, block) in enumerate(zip(self.grow, self.up, strict=True)):
            x = jnp.concatenate([grow(x), skips.pop()], axis=-1)
            x = block(x, new=i < last)
        return crop(self.leave(x), shape).astype(jnp.float32)
