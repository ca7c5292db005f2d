"""A U-Net of ConvNeXt blocks: large depthwise windows, few normalisations, wide pointwise layers.

Liu, Mao, Wu, Feichtenhofer, Darrell & Xie, CVPR 2022 (arXiv:2201.03545), whose network is the
encoder here; decoder as in the U-Net.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import (
    EPSILON,
    check_channels,
    conv,
    depth_to_space,
    pad_to_multiple,
    upsample,
)
from emjax.networks.restoring import adds_input, finish


def _norm(channels: int, how: dict[str, Any]) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        channels, epsilon=EPSILON, use_fast_variance=False, dtype=how["dtype"], rngs=how["rngs"]
    )


class ConvNeXtBlock(nnx.Module):
    """x + scale·(depthwise `size`, norm, widen four times, gelu, narrow).

    The learned `scale` of each channel starts at 0.1 (1e-6 in the paper, whose networks are deeper
    and train longer).
    """

    def __init__(self, channels: int, *, size: int = 7, **how: Any) -> None:
        self.look = conv(channels, channels, size, groups=channels, **how)
        self.norm = _norm(channels, how)
        self.widen = conv(channels, 4 * channels, 1, **how)
        self.narrow = conv(4 * channels, channels, 1, **how)
        self.scale = nnx.Param(jnp.full(channels, 0.1))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.narrow(nnx.gelu(self.widen(self.norm(self.look(x)))))
        return x + y * self.scale[...].astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


class ConvNeXtEncoder(nnx.Module):
    """Features at every level, finest first: a list of [b, y/s, x/s, widths[i]].

    ``widths=(96, 192, 384, 768), blocks=(3, 3, 9, 3), stem=4, inputs=3`` is ConvNeXt-T without its
    classifier: 27,818,592 parameters.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        *,
        stem: int = 2,
        size: int = 7,
        **how: Any,
    ) -> None:
        self.enter = conv(inputs, widths[0], stem, strides=stem, **how)
        pairs = list(itertools.pairwise(widths))
        self.norms = nnx.List([_norm(c, how) for c in (widths[0], *widths[:-1])])
        self.shrink = nnx.List([conv(a, b, 2, strides=2, **how) for a, b in pairs])
        self.levels = nnx.List(
            [
                nnx.List([ConvNeXtBlock(c, size=size, **how) for _ in range(n)])
                for c, n in zip(widths, blocks, strict=True)
            ]
        )

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        x, features = self.norms[0](self.enter(x)), []
        for level, blocks in enumerate(self.levels):
            if level:
                x = self.shrink[level - 1](self.norms[level](x))
            for block in blocks:
                x = block(x)
            features.append(x)
        return features


class ConvNeXtUNet(nnx.Module):
    """Image to image, any size (continued to whole strides and cropped back).

    Parameters
    ----------
    inputs, outputs : channels.
    widths, blocks : channels and blocks of the encoder's levels, finest first; each level halves
        the resolution. One block for each level on the way up.
    stem : the finest level has 1/stem of the picture's resolution (4 as published).
    size : of the depthwise windows, pixels.
    residual : add the input to the output; None: where they have as many channels.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : widths and blocks of different length, or an input that cannot be added.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (16, 32),
        *,
        blocks: Sequence[int] = (1, 1),
        stem: int = 2,
        size: int = 7,
        residual: bool | None = None,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not widths or min(widths) < 1 or len(blocks) != len(widths) or stem < 1:
            raise ValueError(
                f"a ConvNeXt U-Net needs widths {widths} and blocks {blocks} of as many levels, "
                f"and a stem ({stem}) of at least 1"
            )
        self.inputs, self.ndim, self.stem = inputs, ndim, stem
        self.stride = stem * 2 ** (len(widths) - 1)
        self.residual = adds_input(residual, inputs, outputs, "ConvNeXt U-Net")
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        pairs = list(itertools.pairwise(widths))
        self.encoder = ConvNeXtEncoder(inputs, widths, blocks, stem=stem, size=size, **how)
        self.grow = nnx.List([conv(b, a, 1, **how) for a, b in pairs])
        self.merge = nnx.List([conv(2 * a, a, 1, **how) for a, _ in pairs])
        self.up = nnx.List([ConvNeXtBlock(a, size=size, **how) for a, _ in pairs])
        # what lies between the pixels of the finest level, from it and from the picture itself
        self.leave = conv(widths[0], widths[0] * stem**ndim, 1, **how)
        self.last = conv(widths[0] + inputs, outputs, 3, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        check_channels(x, self.inputs, "this ConvNeXt U-Net", self.ndim)
        whole, _ = pad_to_multiple(x, self.stride)
        *skips, y = self.encoder(whole)
        for level in reversed(range(len(self.up))):
            y = jnp.concatenate([skips[level], upsample(self.grow[level](y))], axis=-1)
            y = self.up[level](self.merge[level](y))
        y = nnx.gelu(depth_to_space(self.leave(y), self.stem))
        y = self.last(jnp.concatenate([y, whole.astype(y.dtype)], axis=-1))
        return finish(y, x, self.residual)
