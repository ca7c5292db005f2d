"""Restormer: a U-shaped restorer with attention between channels, linear in the pixels.

Zamir, Arora, Khan, Hayat, Khan & Yang, CVPR 2022 (arXiv:2111.09881).
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
    space_to_depth,
)
from emjax.networks.rdn import SMALL
from emjax.networks.restoring import adds_input, finish


class ChannelAttention(nnx.Module):
    """Channels of one head mix by how alike they are over all pixels."""

    def __init__(self, channels: int, heads: int, **how: Any) -> None:
        self.heads = heads
        self.mix = conv(channels, 3 * channels, 1, bias=False, **how)
        self.look = conv(3 * channels, 3 * channels, 3, groups=3 * channels, bias=False, **how)
        self.temperature = nnx.Param(jnp.ones(heads))
        self.leave = conv(channels, channels, 1, bias=False, init=SMALL, **how)
        self.precision = how["precision"]

    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape
        parts = jnp.split(self.look(self.mix(x)), 3, axis=-1)
        # [b, pixels, head, channels of the head]
        q, k, v = (
            part.reshape(shape[0], -1, self.heads, shape[-1] // self.heads) for part in parts
        )
        alike = jnp.einsum("bphc,bphd->bhcd", _unit(q), _unit(k), precision=self.precision)
        alike = alike * self.temperature[...].reshape(1, -1, 1, 1)
        weights = jax.nn.softmax(alike.astype(jnp.float32), axis=-1).astype(v.dtype)
        mixed = jnp.einsum("bhcd,bphd->bphc", weights, v, precision=self.precision)
        return self.leave(mixed.reshape(shape))


class GatedForward(nnx.Module):
    """gelu(a)·b of two widened, locally mixed copies."""

    def __init__(self, channels: int, expansion: float, **how: Any) -> None:
        twice = 2 * int(channels * expansion)
        self.widen = conv(channels, twice, 1, bias=False, **how)
        self.look = conv(twice, twice, 3, groups=twice, bias=False, **how)
        self.leave = conv(twice // 2, channels, 1, bias=False, init=SMALL, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        a, b = jnp.split(self.look(self.widen(x)), 2, axis=-1)
        return self.leave(nnx.gelu(a) * b)


class Block(nnx.Module):
    """x + attention(norm(x)), then x + forward(norm(x))."""

    def __init__(self, channels: int, heads: int, expansion: float, **how: Any) -> None:
        kind = {"dtype": how["dtype"], "rngs": how["rngs"]}
        more = {"epsilon": EPSILON, "use_fast_variance": False, **kind}
        self.norm1 = nnx.LayerNorm(channels, **more)
        self.attention = ChannelAttention(channels, heads, **how)
        self.norm2 = nnx.LayerNorm(channels, **more)
        self.forward = GatedForward(channels, expansion, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.forward(self.norm2(x))


class Restormer(nnx.Module):
    """Image to image, any size (continued to whole strides and cropped back).

    ``width=48, blocks=(4, 6, 6, 8), heads=(1, 2, 4, 8), refinement=4, expansion=2.66, inputs=3,
    outputs=3`` is the published size: 26,126,644 parameters. Attention is over the whole picture: a
    tile of it does not give exactly what the whole gives.

    Parameters
    ----------
    inputs, outputs : channels.
    width : channels at the full resolution; each level doubles them and halves the resolution.
    blocks, heads : of the levels, finest first.
    refinement : blocks at the end, at full resolution.
    expansion : of the channels inside the feed-forward part.
    residual : add the input to the output; None: where they have as many channels.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : heads that are not as many as levels or do not divide their channels, a width
        that 2^(ndim - 1) does not divide, or an input that cannot be added.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 8,
        *,
        blocks: Sequence[int] = (1, 1),
        heads: Sequence[int] = (1, 2),
        refinement: int = 1,
        expansion: float = 2.0,
        residual: bool | None = None,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        widths = [width * 2**level for level in range(len(blocks))]
        if len(blocks) < 2 or len(heads) != len(blocks) or width < 1 or 2 * width % 2**ndim:
            raise ValueError(
                f"a Restormer needs two levels or more, blocks {blocks} and heads {heads} of each, "
                f"and a width ({width}) that {2 ** (ndim - 1)} divides"
            )
        if any(c % h for c, h in zip(widths, heads, strict=True)):
            raise ValueError(f"heads {heads} do not divide the channels of the levels, {widths}")
        self.inputs, self.ndim, self.stride = inputs, ndim, 2 ** (len(blocks) - 1)
        self.residual = adds_input(residual, inputs, outputs, "Restormer")
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}

        def chain(c: int, head: int, n: int) -> nnx.List:
            return nnx.List([Block(c, head, expansion, **how) for _ in range(n)])

        # the finest level on the way up keeps both halves: twice the width
        above = [2 * width, *widths[1:-1]]
        self.enter = conv(inputs, width, 3, bias=False, **how)
        self.down = nnx.List([chain(*each) for each in zip(widths, heads, blocks, strict=True)])
        self.shrink = nnx.List(
            [conv(c, 2 * c // 2**ndim, 3, bias=False, **how) for c in widths[:-1]]
        )
        self.grow = nnx.List([conv(2 * c, c * 2**ndim, 3, bias=False, **how) for c in widths[:-1]])
        self.merge = nnx.List([conv(2 * c, c, 1, bias=False, **how) for c in widths[1:-1]])
        self.up = nnx.List(
            [chain(*each) for each in zip(above, heads[:-1], blocks[:-1], strict=True)]
        )
        self.refine = chain(2 * width, heads[0], refinement)
        self.leave = conv(2 * width, outputs, 3, bias=False, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        check_channels(x, self.inputs, "this Restormer", self.ndim)
        y, _ = pad_to_multiple(x, self.stride)
        y, skips = self.enter(y), []
        for level, blocks in enumerate(self.down):
            if level:
                skips.append(y)
                y = space_to_depth(self.shrink[level - 1](y), 2)
            for block in blocks:
                y = block(y)
        for level in reversed(range(len(self.up))):
            y = jnp.concatenate([depth_to_space(self.grow[level](y), 2), skips[level]], axis=-1)
            if level:
                y = self.merge[level - 1](y)
            for block in self.up[level]:
                y = block(y)
        for block in self.refine:
            y = block(y)
        return finish(self.leave(y), x, self.residual)


def _unit(x: jax.Array) -> jax.Array:
    """Each channel to length 1 over the pixels; zeros stay zeros, with a finite gradient."""
    square = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=1, keepdims=True)
    return (x * jax.lax.rsqrt(square + EPSILON)).astype(x.dtype)
