"""The U-Net as it was published: pairs of convolutions, max-pooling, concatenated connections.

Ronneberger, Fischer & Brox, MICCAI 2015 (arXiv:1505.04597). Two things differ: convolutions are
padded, so that the output has the input's size, and there is no dropout.
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

HE = nnx.initializers.he_normal()
"""Variance 2 / fan-in keeps the signal's size through relu (He et al., ICCV 2015)."""


class Pair(nnx.Module):
    """Two 3×3 (3×3×3) convolutions, each with relu; between them and it a norm, if asked for."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, *, normalise: bool = False, **how: Any
    ) -> None:
        # a norm has an offset of its own, but the published counts keep both
        self.first = conv(inputs, middle, 3, init=HE, **how)
        self.second = conv(middle, outputs, 3, init=HE, **how)
        kind = {"dtype": how["dtype"], "rngs": how["rngs"]}
        norms = [norm(middle, **kind), norm(outputs, **kind)] if normalise else []
        self.norms = nnx.List(norms)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, layer in enumerate((self.first, self.second)):
            x = layer(x)
            x = nnx.relu(self.norms[i](x) if self.norms else x)
        return x


class ClassicUNet(nnx.Module):
    """Image to image, any size (continued to whole strides and cropped back).

    ``widths=(64, 128, 256, 512, 1024), inputs=1, outputs=2`` is the published size: 31,030,658
    parameters.

    Parameters
    ----------
    inputs, outputs : channels.
    widths : channels of the levels, finest first; each level halves the resolution.
    early : widen before each pooling and not after it (half the width between the two
        convolutions), and keep the width in the transposed convolutions: as the 3D U-Net does.
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
        widths: Sequence[int] = (12, 24, 48),
        *,
        early: bool = False,
        normalise: bool = False,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not widths or min(widths) < 1 + early:
            raise ValueError(f"a U-Net needs levels of at least {1 + early} channels: {widths}")
        self.inputs, self.ndim, self.stride = inputs, ndim, 2 ** (len(widths) - 1)
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        pair = {"normalise": normalise, **how}
        before = (inputs, *widths)
        self.down = nnx.List(
            [Pair(a, b // 2 if early else b, b, **pair) for a, b in itertools.pairwise(before)]
        )
        steps = list(itertools.pairwise(widths))
        self.grow = nnx.List([transposed(b, b if early else a, **how) for a, b in steps])
        self.up = nnx.List([Pair(a + (b if early else a), a, a, **pair) for a, b in steps])
        self.leave = conv(widths[0], outputs, 1, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        check_channels(x, self.inputs, "this U-Net", self.ndim)
        x, shape = pad_to_multiple(x, self.stride)
        skips = []
        for level, pair in enumerate(self.down):
            if level:
                skips.append(x)
                x = max_pool(x)
            x = pair(x)
        for level in reversed(range(len(self.up))):
            x = jnp.concatenate([skips[level], self.grow[level](x)], axis=-1)
            x = self.up[level](x)
        return crop(self.leave(x), shape).astype(jnp.float32)
