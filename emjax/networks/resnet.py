"""ResNet: every block adds something to what it was given.

He et al., CVPR 2016 (normalisation after each convolution) and ECCV 2016 (before). ResUNet and
ResUNet-a are made of the same `Block`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import (
    HE,
    SMALL,
    check_channels,
    conv,
    dense,
    global_pool,
    max_pool,
    norm,
)

_PUBLISHED: dict[str, Any] = {"inputs": 3, "outputs": 1000, "stem": 7}
RESNET18 = {**_PUBLISHED, "widths": (64, 128, 256, 512), "depths": (2, 2, 2, 2)}
"""The published network: 11,689,512 weights."""
RESNET50 = {
    **_PUBLISHED,
    "widths": (256, 512, 1024, 2048),
    "depths": (3, 4, 6, 3),
    "kind": "bottleneck",
}
"""The published network: 25,557,032 weights."""


class Branch(nnx.Module):
    """What a block adds: two 3×3 convolutions, or 1×1, 3×3, 1×1 at a quarter of the width.

    Parameters: see `Block`; `dilation` is of the 3×3 convolutions.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kind: str = "basic",
        order: str = "post",
        strides: int = 1,
        dilation: int = 1,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        middle = max(outputs // 4, 1)
        sizes = {
            "basic": [(inputs, outputs, 3, strides), (outputs, outputs, 3, 1)],
            "bottleneck": [
                (inputs, middle, 1, 1),
                (middle, middle, 3, strides),
                (middle, outputs, 1, 1),
            ],
        }
        if kind not in sizes or order not in ("post", "pre"):
            raise ValueError(
                f"a residual block is 'basic' or 'bottleneck' and 'post' or 'pre', not {kind!r}, "
                f"{order!r}"
            )
        more: dict[str, Any] = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.before = order == "pre"
        convs, norms, last = [], [], len(sizes[kind]) - 1
        for i, (a, b, size, stride) in enumerate(sizes[kind]):
            # the branch starts small: by its last convolution, or off, by its last normalisation
            small = i == last and (self.before or not groups)
            off = i == last and not self.before
            how = {"strides": stride, "dilation": dilation if size > 1 else 1, "bias": not groups}
            convs.append(conv(a, b, size, init=SMALL if small else HE, **how, **more))
            width = a if self.before else b
            norms.append(norm(width, groups=groups, scale=1.0 - off, dtype=dtype, rngs=rngs))
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, (layer, normalise) in enumerate(zip(self.convs, self.norms, strict=True)):
            if self.before:
                x = layer(nnx.relu(normalise(x)))
            else:
                x = normalise(layer(nnx.relu(x) if i else x))
        return x


class Block(nnx.Module):
    """Shortcut + the sum of its branches.

    Parameters
    ----------
    inputs, outputs : channels; where they differ, the shortcut is a 1×1 convolution.
    kind : 'basic' or 'bottleneck'.
    order : 'post': convolution, normalisation, relu; a relu follows the sum. 'pre': normalisation,
        relu, convolution; nothing follows the sum.
    strides : of the block.
    dilations : one branch for each (ResUNet-a has several).
    groups : of the normalisation; 0 for none.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kind: str = "basic",
        order: str = "post",
        strides: int = 1,
        dilations: Sequence[int] = (1,),
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more: dict[str, Any] = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        how = {"kind": kind, "order": order, "strides": strides, "groups": groups}
        self.branches = nnx.List(
            [Branch(inputs, outputs, dilation=rate, **how, **more) for rate in dilations]
        )
        self.after = order == "post"
        shortcut = []
        if strides != 1 or inputs != outputs:
            linear = conv(inputs, outputs, 1, strides=strides, bias=not groups, **more)
            shortcut.append(linear)
            if self.after and groups:
                shortcut.append(norm(outputs, groups=groups, dtype=dtype, rngs=rngs))
        self.shortcut = nnx.List(shortcut)

    def __call__(self, x: jax.Array) -> jax.Array:
        result = x
        for layer in self.shortcut:
            result = layer(result)
        for branch in self.branches:
            result = result + branch(x)
        return nnx.relu(result) if self.after else result


class ResNetEncoder(nnx.Module):
    """[b, (z,) y, x, inputs] -> the features of every stage, each at half the resolution of the
    one before. Parameters: see `ResNet`."""

    def __init__(
        self,
        inputs: int = 1,
        widths: Sequence[int] = (8, 16),
        depths: Sequence[int] = (1, 1),
        *,
        kind: str = "basic",
        stem: int = 3,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if len(widths) != len(depths) or not widths or min(*widths, *depths) < 1:
            raise ValueError(
                f"ResNet stages need one depth for each width, of at least 1: widths "
                f"{tuple(widths)}, depths {tuple(depths)}"
            )
        more = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.inputs, self.ndim, self.pool = inputs, ndim, stem > 3
        first = widths[0] // 4 if kind == "bottleneck" else widths[0]
        strides = 2 if self.pool else 1
        self.enter = conv(inputs, first, stem, strides=strides, bias=not groups, init=HE, **more)
        self.norm = norm(first, groups=groups, dtype=dtype, rngs=rngs)
        stages, channels = [], first
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = []
            for i in range(depth):
                strides = 2 if level and not i else 1
                blocks.append(
                    Block(channels, width, kind=kind, strides=strides, groups=groups, **more)
                )
                channels = width
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        check_channels(x, self.inputs, "a ResNet", self.ndim)
        x = nnx.relu(self.norm(self.enter(x)))
        if self.pool:
            x = max_pool(x, 3, strides=2)
        features = []
        for stage in self.stages:
            for block in stage:
                x = block(x)
            features.append(x)
        return features


class ResNet(nnx.Module):
    """Classifier, [b, (z,) y, x, inputs] -> [b, outputs]; any size.

    Published sizes: `RESNET18`, `RESNET50`.

    Parameters
    ----------
    inputs, outputs : channels and classes (scores, before softmax or sigmoid).
    widths, depths : channels and number of blocks of the stages.
    kind : 'basic' or 'bottleneck' blocks. The stride of a bottleneck is that of its 3×3 convolution
        (in the paper of the first 1×1, which passes three of four pixels by).
    stem : size of the first convolution. Above 3 it has stride 2 and pooling follows, as
        published; 3 keeps the resolution, for small pictures.
    ndim : number of spatial axes: 1, 2 or 3.
    groups : of the normalisation; 0 for none.
    dtype, precision : of the computation; parameters and result are float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 2,
        widths: Sequence[int] = (8, 16),
        depths: Sequence[int] = (1, 1),
        *,
        kind: str = "basic",
        stem: int = 3,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more = {"dtype": dtype, "precision": precision, "rngs": rngs}
        self.encoder = ResNetEncoder(
            inputs, widths, depths, kind=kind, stem=stem, ndim=ndim, groups=groups, **more
        )
        self.leave = dense(widths[-1], outputs, **more)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.leave(global_pool(self.encoder(x)[-1])).astype(jnp.float32)
