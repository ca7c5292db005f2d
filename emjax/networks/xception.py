"""Xception: separable convolutions in residual blocks.

Chollet, CVPR 2017; and the "aligned" version of DeepLab v3+ (Chen et al., ECCV 2018), which has
strides and dilations instead of pooling and normalises between the two halves of a separable
convolution.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import (
    HE,
    check_channels,
    conv,
    dense,
    global_pool,
    max_pool,
    norm,
)

XCEPTION: dict[str, Any] = {
    "inputs": 3,
    "outputs": 1000,
    "stem": (32, 64),
    "entry": ((128, 128), (256, 256), (728, 728)),
    "middle": 8,
    "exit": ((728, 1024), (1536, 2048)),
    "stem_strides": 2,
}
"""The published network: 22,855,952 weights."""


class SeparableConv(nnx.Module):
    """One 3×3 kernel for each channel, then a 1×1 convolution between channels.

    [b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]; 9 c + c d weights instead of 9 c d. `between`
    puts a normalisation between the two; another follows in any case.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        strides: int = 1,
        dilation: int = 1,
        between: bool = True,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more: dict[str, Any] = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.depthwise = conv(
            inputs,
            inputs,
            strides=strides,
            dilation=dilation,
            groups=inputs,
            bias=between and not groups,
            **more,
        )
        self.between = norm(inputs, groups=groups * between, dtype=dtype, rngs=rngs)
        self.pointwise = conv(inputs, outputs, 1, bias=not groups, init=HE, **more)
        self.norm = norm(outputs, groups=groups, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.pointwise(self.between(self.depthwise(x))))


class XceptionBlock(nnx.Module):
    """Separable convolutions, each after a relu, beside a shortcut.

    Parameters
    ----------
    inputs : channels.
    widths : channels after each separable convolution.
    strides : of the last of them if `aligned`, else of the pooling that follows.
    dilation : of all.
    relu : before the first.
    aligned : DeepLab's version, else Chollet's.
    residual : with the shortcut.

    Returns
    -------
    result, fine : the sum, and the features at the block's own resolution before its stride (of
        the last convolution but one), which decoders connect to.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        *,
        strides: int = 1,
        dilation: int = 1,
        relu: bool = True,
        aligned: bool = True,
        residual: bool = True,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more: dict[str, Any] = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        last = len(widths) - 1
        self.convs = nnx.List(
            [
                SeparableConv(
                    a,
                    b,
                    strides=strides if aligned and i == last else 1,
                    dilation=dilation,
                    between=aligned,
                    groups=groups,
                    **more,
                )
                for i, (a, b) in enumerate(itertools.pairwise((inputs, *widths)))
            ]
        )
        self.relu, self.residual, self.pool = relu, residual, 1 if aligned else strides
        shortcut = []
        if residual and (strides != 1 or inputs != widths[-1]):
            shortcut = [
                conv(inputs, widths[-1], 1, strides=strides, bias=not groups, **more),
                norm(widths[-1], groups=groups, dtype=dtype, rngs=rngs),
            ]
        self.shortcut = nnx.List(shortcut)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        result = fine = x
        for layer in self.shortcut:
            result = layer(result)
        for i, layer in enumerate(self.convs):
            fine = x
            x = layer(nnx.relu(x) if i or self.relu else x)
        if self.pool > 1:
            x = max_pool(x, 3, strides=self.pool)
        return (result + x if self.residual else x), fine


class Xception(nnx.Module):
    """Classifier, [b, (z,) y, x, inputs] -> [b, outputs]; any size. Published size: `XCEPTION`.

    Parameters
    ----------
    inputs, outputs : channels and classes (scores, before softmax or sigmoid).
    stem : channels of the two first convolutions.
    entry : channels of the blocks that halve the resolution.
    middle : blocks of three separable convolutions that keep it.
    exit : channels of a block that halves it, and of separable convolutions after it.
    stem_strides : of the first convolution; 1 for small pictures, 2 as published.
    ndim : number of spatial axes: 1, 2 or 3.
    groups : of the normalisation; 0 for none.
    dtype, precision : of the computation; parameters and result are float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 2,
        *,
        stem: Sequence[int] = (8, 8),
        entry: Sequence[Sequence[int]] = ((16, 16),),
        middle: int = 1,
        exit: Sequence[Sequence[int]] = ((16, 24), (32,)),
        stem_strides: int = 1,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more: dict[str, Any] = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.inputs, self.ndim = inputs, ndim
        self.stem = Stem(inputs, stem, strides=stem_strides, groups=groups, **more)
        blocks, channels = [], stem[-1]
        plan = [(widths, 2) for widths in entry]
        plan += [((entry[-1][-1],) * 3, 1)] * middle + [(exit[0], 2)]
        for i, (widths, strides) in enumerate(plan):
            how = {"strides": strides, "relu": i > 0, "aligned": False, "groups": groups}
            blocks.append(XceptionBlock(channels, widths, **how, **more))
            channels = widths[-1]
        self.blocks = nnx.List(blocks)
        sizes = itertools.pairwise((channels, *exit[1]))
        self.last = nnx.List(
            [SeparableConv(a, b, between=False, groups=groups, **more) for a, b in sizes]
        )
        self.leave = dense(exit[1][-1], outputs, dtype=dtype, precision=precision, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_channels(x, self.inputs, "an Xception", self.ndim)
        x = self.stem(x)
        for block in self.blocks:
            x, _ = block(x)
        for layer in self.last:
            x = nnx.relu(layer(x))
        return self.leave(global_pool(x)).astype(jnp.float32)


class Stem(nnx.Module):
    """Ordinary convolutions with normalisation and relu, the first with `strides`."""

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        *,
        strides: int = 1,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more: dict[str, Any] = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.convs = nnx.List(
            [
                conv(a, b, strides=1 if i else strides, bias=not groups, init=HE, **more)
                for i, (a, b) in enumerate(itertools.pairwise((inputs, *widths)))
            ]
        )
        self.norms = nnx.List([norm(b, groups=groups, dtype=dtype, rngs=rngs) for b in widths])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer, normalise in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(normalise(layer(x)))
        return x
