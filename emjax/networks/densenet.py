"""DenseNet: every layer sees what all layers before it made.

Huang et al., CVPR 2017. The FC-DenseNet is made of the same `DenseBlock`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import (
    HE,
    avg_pool,
    check_channels,
    conv,
    dense,
    global_pool,
    max_pool,
    norm,
)

DENSENET121: dict[str, Any] = {
    "inputs": 3,
    "outputs": 1000,
    "growth": 32,
    "depths": (6, 12, 24, 16),
    "first": 64,
    "bottleneck": 4,
    "stem": 7,
}
"""The published network: 7,978,856 weights."""


class DenseLayer(nnx.Module):
    """Normalisation, relu, convolution; with a `bottleneck`, a 1×1 convolution of the same kind to
    `bottleneck` × `growth` channels comes first."""

    def __init__(
        self,
        inputs: int,
        growth: int,
        *,
        bottleneck: int = 0,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        middle = bottleneck * growth
        sizes = [(inputs, middle, 1), (middle, growth, 3)] if middle else [(inputs, growth, 3)]
        more = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.norms = nnx.List([norm(a, groups=groups, dtype=dtype, rngs=rngs) for a, _, _ in sizes])
        self.convs = nnx.List(
            [conv(a, b, size, bias=not groups, init=HE, **more) for a, b, size in sizes]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer, normalise in zip(self.convs, self.norms, strict=True):
            x = layer(nnx.relu(normalise(x)))
        return x


class DenseBlock(nnx.Module):
    """`depth` layers that add `growth` channels each: [.., inputs] -> [.., outputs].

    `outputs` (attribute) is ``inputs + depth * growth``. With ``new=True`` in the call the input is
    left out of the result: ``depth * growth`` channels.
    """

    def __init__(
        self,
        inputs: int,
        growth: int,
        depth: int,
        *,
        bottleneck: int = 0,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more = {"ndim": ndim, "groups": groups, "dtype": dtype, "precision": precision}
        self.inputs, self.outputs = inputs, inputs + depth * growth
        self.layers = nnx.List(
            [
                DenseLayer(inputs + i * growth, growth, bottleneck=bottleneck, **more, rngs=rngs)
                for i in range(depth)
            ]
        )

    def __call__(self, x: jax.Array, *, new: bool = False) -> jax.Array:
        for layer in self.layers:
            x = jnp.concatenate([x, layer(x)], axis=-1)
        return x[..., self.inputs :] if new else x


class Transition(nnx.Module):
    """Between two blocks: normalisation, relu, 1×1 convolution; then half the resolution.

    `pool` is 'mean' (DenseNet) or 'max' (FC-DenseNet).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        pool: str = "mean",
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.norm = norm(inputs, groups=groups, dtype=dtype, rngs=rngs)
        self.conv = conv(inputs, outputs, 1, bias=not groups, init=HE, **more)
        self.pool = pool

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv(nnx.relu(self.norm(x)))
        return max_pool(x) if self.pool == "max" else avg_pool(x)


class DenseNet(nnx.Module):
    """Classifier, [b, (z,) y, x, inputs] -> [b, outputs]; any size. Published size: `DENSENET121`.

    Parameters
    ----------
    inputs, outputs : channels and classes (scores, before softmax or sigmoid).
    growth : channels that each layer adds.
    depths : layers of the blocks; the resolution halves between blocks.
    first : channels of the first convolution.
    bottleneck : each 3×3 convolution sees `bottleneck` × `growth` channels; 0: all.
    compression : channels that a transition keeps, of those it gets.
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
        growth: int = 4,
        depths: Sequence[int] = (2, 2),
        *,
        first: int = 8,
        bottleneck: int = 4,
        compression: float = 0.5,
        stem: int = 3,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not depths or min(growth, first, *depths) < 1 or not 0 < compression <= 1:
            raise ValueError(
                f"a DenseNet needs growth ({growth}), first ({first}) and depths ({tuple(depths)}) "
                f"of at least 1, and a compression ({compression}) in (0, 1]"
            )
        more = {"dtype": dtype, "precision": precision, "rngs": rngs, "ndim": ndim}
        self.inputs, self.ndim, self.pool = inputs, ndim, stem > 3
        strides = 2 if self.pool else 1
        self.enter = conv(inputs, first, stem, strides=strides, bias=not groups, init=HE, **more)
        self.norm = norm(first, groups=groups, dtype=dtype, rngs=rngs)
        blocks, transitions, channels = [], [], first
        for i, depth in enumerate(depths):
            if i:
                kept = max(1, int(compression * channels))
                transitions.append(Transition(channels, kept, groups=groups, **more))
                channels = kept
            blocks.append(
                DenseBlock(channels, growth, depth, bottleneck=bottleneck, groups=groups, **more)
            )
            channels = blocks[-1].outputs
        self.blocks, self.transitions = nnx.List(blocks), nnx.List(transitions)
        self.last = norm(channels, groups=groups, dtype=dtype, rngs=rngs)
        self.leave = dense(channels, outputs, dtype=dtype, precision=precision, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_channels(x, self.inputs, "a DenseNet", self.ndim)
        x = nnx.relu(self.norm(self.enter(x)))
        if self.pool:
            x = max_pool(x, 3, strides=2)
        for i, block in enumerate(self.blocks):
            x = block(self.transitions[i - 1](x) if i else x)
        return self.leave(global_pool(nnx.relu(self.last(x)))).astype(jnp.float32)
