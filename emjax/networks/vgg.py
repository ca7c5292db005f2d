"""VGG: 3×3 convolutions in stages, each at half the resolution of the one before.

Simonyan & Zisserman, ICLR 2015. SegNet and the FCN use the same stages; what the stages see
(`VGGEncoder`) serves perceptual losses.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import HE, adaptive_pool, check_channels, conv, dense, max_pool, norm

VGG16: dict[str, Any] = {
    "inputs": 3,
    "outputs": 1000,
    "widths": (64, 128, 256, 512, 512),
    "depths": (2, 2, 3, 3, 3),
    "hidden": (4096, 4096),
    "grid": 7,
    "groups": 0,
}
"""The published network: 138,357,544 weights."""


class Stage(nnx.Module):
    """Convolutions at one resolution, each with normalisation and relu.

    Parameters
    ----------
    inputs : channels.
    widths : channels after each convolution.
    groups : of the normalisation; 0 for none.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        *,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        sizes = itertools.pairwise((inputs, *widths))
        self.convs = nnx.List([conv(a, b, init=HE, **more) for a, b in sizes])
        self.norms = nnx.List([norm(b, groups=groups, dtype=dtype, rngs=rngs) for b in widths])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer, normalise in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(normalise(layer(x)))
        return x


class VGGEncoder(nnx.Module):
    """[b, (z,) y, x, inputs] -> the features of every stage (the tap points), before pooling.

    Stage i has 1 / 2^i of the resolution. Parameters: see `VGG`.
    """

    def __init__(
        self,
        inputs: int = 1,
        widths: Sequence[int] = (8, 16, 32),
        depths: Sequence[int] = (1, 1, 2),
        *,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if len(widths) != len(depths) or not widths or min(*widths, *depths) < 1:
            raise ValueError(
                f"VGG stages need one depth for each width, of at least 1: widths {tuple(widths)}, "
                f"depths {tuple(depths)}"
            )
        more = {"ndim": ndim, "groups": groups, "dtype": dtype, "precision": precision}
        self.inputs, self.ndim = inputs, ndim
        self.stages = nnx.List(
            [
                Stage(a, (b,) * depth, **more, rngs=rngs)
                for a, b, depth in zip((inputs, *widths[:-1]), widths, depths, strict=True)
            ]
        )

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        check_channels(x, self.inputs, "VGG", self.ndim)
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(max_pool(x) if i else x)
            features.append(x)
        return features


class VGG(nnx.Module):
    """Classifier, [b, (z,) y, x, inputs] -> [b, outputs]; any size. Published size: `VGG16`.

    Parameters
    ----------
    inputs, outputs : channels and classes (scores, before softmax or sigmoid).
    widths, depths : channels and number of convolutions of the stages.
    hidden : widths of the fully connected layers. The published dropout between them is left out:
        networks here have no state besides their weights.
    grid : the fully connected layers see the last features averaged over grid × grid windows.
    ndim : number of spatial axes: 1, 2 or 3.
    groups : of the normalisation; 0 for none, as published.
    dtype, precision : of the computation; parameters and result are float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 2,
        widths: Sequence[int] = (8, 16, 32),
        depths: Sequence[int] = (1, 1, 2),
        *,
        hidden: Sequence[int] = (32,),
        grid: int = 2,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more = {"dtype": dtype, "precision": precision, "rngs": rngs}
        self.encoder = VGGEncoder(inputs, widths, depths, ndim=ndim, groups=groups, **more)
        self.grid = grid
        sizes = [widths[-1] * grid**ndim, *hidden]
        self.hidden = nnx.List([dense(a, b, init=HE, **more) for a, b in itertools.pairwise(sizes)])
        self.leave = dense(sizes[-1], outputs, **more)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = adaptive_pool(max_pool(self.encoder(x)[-1]), self.grid)
        x = x.reshape(x.shape[0], -1)
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.leave(x).astype(jnp.float32)
