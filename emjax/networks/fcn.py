"""Fully convolutional network: VGG's stages, scored at several resolutions.

Long, Shelhamer & Darrell, CVPR 2015. The scores of the coarsest features are doubled in size by
transposed convolutions (which start as bilinear interpolation) and those of finer ones are added,
down to `stride`; from there bilinear interpolation leads to the picture's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emjax.networks.layers import HE, conv, crop, max_pool, pad_to_multiple, resize, transposed
from emjax.networks.vgg import VGGEncoder

FCN8: dict[str, Any] = {
    "inputs": 3,
    "outputs": 21,
    "widths": (64, 128, 256, 512, 512),
    "depths": (2, 2, 3, 3, 3),
    "hidden": 4096,
    "size": 7,
    "stride": 8,
    "groups": 0,
}
"""The published FCN-8s: VGG-16 made convolutional, 134,376,863 weights; also strides 16 and 32."""


def bilinear(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Kernel [4, .., k, k] of a transposed convolution that doubles the size by interpolation."""
    line = np.array([0.25, 0.75, 0.75, 0.25])
    kernel = np.eye(shape[-2], shape[-1])
    for _ in shape[:-2]:
        kernel = np.multiply.outer(line, kernel)
    return jnp.asarray(kernel, dtype)


class FCN(nnx.Module):
    """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs], any size. Published: `FCN8`.

    Parameters
    ----------
    inputs, outputs : channels and classes (scores, before softmax or sigmoid).
    widths, depths : channels and number of convolutions of the stages, see `VGG`.
    hidden : channels of the two layers that were VGG's fully connected ones.
    size : of the first of these.
    stride : the finest features that are scored have 1/stride of the resolution: a power of two up
        to 2^stages. 1 scores the first stage itself.
    ndim : number of spatial axes: 1, 2 or 3.
    groups : of the normalisation; 0 for none, as published.
    dtype, precision : of the computation; parameters and result are float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 2,
        widths: Sequence[int] = (16, 24, 32),
        depths: Sequence[int] = (2, 1, 1),
        *,
        hidden: int = 32,
        size: int = 3,
        stride: int = 1,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        self.stride = 2 ** len(widths)
        if stride < 1 or self.stride % stride:
            raise ValueError(
                f"an FCN of {len(widths)} stages has strides of 1, 2, .. {self.stride}, not "
                f"{stride}"
            )
        more = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.encoder = VGGEncoder(inputs, widths, depths, groups=groups, **more)
        self.hidden = nnx.List(
            [
                conv(widths[-1], hidden, size, init=HE, **more),
                conv(hidden, hidden, 1, init=HE, **more),
            ]
        )
        # of the pooled stages from the coarsest but one to `stride`; the first stage for stride 1
        levels = range(len(widths) - 1, stride.bit_length() - 2, -1)
        self.scored = tuple(levels)
        self.leave = conv(hidden, outputs, 1, **more)
        self.scores = nnx.List([conv(widths[max(i - 1, 0)], outputs, 1, **more) for i in levels])
        self.grow = nnx.List(
            [transposed(outputs, outputs, 4, init=bilinear, bias=False, **more) for _ in levels]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x, shape = pad_to_multiple(x, self.stride)
        whole = x.shape[1:-1]
        features = self.encoder(x)
        x = max_pool(features[-1])
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        x = self.leave(x)
        for level, score, grow in zip(self.scored, self.scores, self.grow, strict=True):
            finer = max_pool(features[level - 1]) if level else features[0]
            x = grow(x) + score(finer)
        return crop(resize(x, whole), shape).astype(jnp.float32)
