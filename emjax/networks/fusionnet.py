"""FusionNet: a fully residual U-Net whose long connections are summed.

Quan, Hildebrand & Jeong, arXiv:1612.05360 (2016), Frontiers in Computer Science 2021: every level
is a convolution, a residual block of three, and a convolution; what the encoder saw is added to the
decoder's features and not concatenated.
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
    max_pool,
    norm,
    pad_to_multiple,
    transposed,
)
from emjax.networks.unet_classic import HE


class Unit(nnx.Module):
    """relu(norm(conv(x)))."""

    def __init__(self, inputs: int, outputs: int, *, normalise: bool, **how: Any) -> None:
        self.layer = conv(inputs, outputs, 3, init=HE, **how)
        kind = {"dtype": how["dtype"], "rngs": how["rngs"]}
        self.norms = nnx.List([norm(outputs, **kind)] if normalise else [])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.layer(x)
        return nnx.relu(self.norms[0](x) if self.norms else x)


class FusionBlock(nnx.Module):
    """conv, x + conv³(x), conv."""

    def __init__(self, inputs: int, outputs: int, **how: Any) -> None:
        self.enter = Unit(inputs, outputs, **how)
        self.residual = nnx.List([Unit(outputs, outputs, **how) for _ in range(3)])
        self.leave = Unit(outputs, outputs, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = y = self.enter(x)
        for unit in self.residual:
            y = unit(y)
        return self.leave(x + y)


class FusionNet(nnx.Module):
    """Image to image, any size (continued to whole strides and cropped back).

    ``widths=(64, 128, 256, 512, 1024), normalise=True`` is the published size: 78,529,729
    parameters for one channel in and out.

    Parameters
    ----------
    inputs, outputs : channels.
    widths : channels of the levels, finest first; each level halves the resolution.
    normalise : group normalisation after each convolution.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : no levels, or levels without channels.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (8, 16, 32),
        *,
        normalise: bool = False,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"a FusionNet needs levels with channels; widths: {widths}")
        self.inputs, self.ndim, self.stride = inputs, ndim, 2 ** (len(widths) - 1)
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        block = {"normalise": normalise, **how}
        self.down = nnx.List(
            [FusionBlock(a, b, **block) for a, b in itertools.pairwise((inputs, *widths))]
        )
        pairs = list(itertools.pairwise(widths))
        self.grow = nnx.List([transposed(b, a, 3, init=HE, **how) for a, b in pairs])
        self.up = nnx.List([FusionBlock(a, a, **block) for a, _ in pairs])
        self.leave = conv(widths[0], outputs, 3, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        check_channels(x, self.inputs, "this FusionNet", self.ndim)
        x, shape = pad_to_multiple(x, self.stride)
        skips = []
        for level, block in enumerate(self.down):
            if level:
                skips.append(x)
                x = max_pool(x)
            x = block(x)
        for level in reversed(range(len(self.up))):
            # the mean, as published: the sum of two equal things has their size
            x = self.up[level]((skips[level] + nnx.relu(self.grow[level](x))) / 2)
        return crop(self.leave(x), shape).astype(jnp.float32)
