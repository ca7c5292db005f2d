"""NAFNet: a U-shaped restorer without activation functions; products of channels take their place.

Chen, Chu, Zhang & Sun, ECCV 2022 (arXiv:2204.04676).
"""

from __future__ import annotations

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
)
from emjax.networks.restoring import adds_input, finish


class NAFBlock(nnx.Module):
    """Two gated branches, each with a learned weight per channel that starts at 0."""

    def __init__(self, channels: int, *, attention: bool = True, **how: Any) -> None:
        kind = {"dtype": how["dtype"], "rngs": how["rngs"]}
        more = {"epsilon": EPSILON, "use_fast_variance": False, **kind}
        twice = 2 * channels
        self.norm1 = nnx.LayerNorm(channels, **more)
        self.widen1 = conv(channels, twice, 1, **how)
        self.look = conv(twice, twice, 3, groups=twice, **how)
        self.attend = conv(channels, channels, 1, **how) if attention else None
        self.narrow1 = conv(channels, channels, 1, **how)
        self.norm2 = nnx.LayerNorm(channels, **more)
        self.widen2 = conv(channels, twice, 1, **how)
        self.narrow2 = conv(channels, channels, 1, **how)
        self.beta = nnx.Param(jnp.zeros(channels))
        self.gamma = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = gate(self.look(self.widen1(self.norm1(x))))
        if self.attend is not None:
            pixels = tuple(range(1, x.ndim - 1))
            y = y * self.attend(y.mean(axis=pixels, keepdims=True))
        x = x + self.narrow1(y) * _weights(self.beta, x)
        y = gate(self.widen2(self.norm2(x)))
        return x + self.narrow2(y) * _weights(self.gamma, x)


class NAFNet(nnx.Module):
    """Image to image, any size (continued to whole strides and cropped back).

    ``width=32, encoder=(1, 1, 1, 28), middle=1, decoder=(1, 1, 1, 1), inputs=3, outputs=3`` is the
    published size for deblurring: 17,111,907 parameters; ``encoder=(2, 2, 4, 8), middle=12,
    decoder=(2, 2, 2, 2)`` that for denoising: 29,159,715.

    Parameters
    ----------
    inputs, outputs : channels.
    width : channels at the full resolution; each level doubles them and halves the resolution.
    encoder, middle, decoder : blocks of the levels, finest first; between them; on the way up.
    attention : weight channels by their means over the whole picture. Then a tile of a picture does
        not give what the whole gives: switch it off for tiled inference to be exact.
    residual : add the input to the output; None: where they have as many channels.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : encoder and decoder of different depth, or an input that cannot be added.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 12,
        *,
        encoder: Sequence[int] = (1, 1),
        middle: int = 1,
        decoder: Sequence[int] = (1, 1),
        attention: bool = True,
        residual: bool | None = None,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if len(encoder) != len(decoder) or width < 1:
            raise ValueError(
                f"a NAFNet needs as many levels on the way down ({encoder}) as up ({decoder}), and "
                f"channels ({width})"
            )
        self.inputs, self.ndim, self.stride = inputs, ndim, 2 ** len(encoder)
        self.residual = adds_input(residual, inputs, outputs, "NAFNet")
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        widths = [width * 2**level for level in range(len(encoder) + 1)]

        def chain(c: int, n: int) -> nnx.List:
            return nnx.List([NAFBlock(c, attention=attention, **how) for _ in range(n)])

        self.enter = conv(inputs, width, 3, **how)
        self.down = nnx.List([chain(c, n) for c, n in zip(widths, encoder, strict=False)])
        self.shrink = nnx.List([conv(c, 2 * c, 2, strides=2, **how) for c in widths[:-1]])
        self.middle = chain(widths[-1], middle)
        self.grow = nnx.List([conv(2 * c, c * 2**ndim, 1, bias=False, **how) for c in widths[:-1]])
        self.up = nnx.List([chain(c, n) for c, n in zip(widths, decoder, strict=False)])
        self.leave = conv(width, outputs, 3, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        check_channels(x, self.inputs, "this NAFNet", self.ndim)
        y, _ = pad_to_multiple(x, self.stride)
        y, skips = self.enter(y), []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            for block in blocks:
                y = block(y)
            skips.append(y)
            y = shrink(y)
        for block in self.middle:
            y = block(y)
        for level in reversed(range(len(self.up))):
            y = skips[level] + depth_to_space(self.grow[level](y), 2)
            for block in self.up[level]:
                y = block(y)
        return finish(self.leave(y), x, self.residual)


def gate(x: jax.Array) -> jax.Array:
    """Half of the channels times the other half."""
    a, b = jnp.split(x, 2, axis=-1)
    return a * b


def _weights(values: nnx.Param, like: jax.Array) -> jax.Array:
    """[c] -> [1, 1, 1, c], in the type of the computation."""
    return values[...].astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))
