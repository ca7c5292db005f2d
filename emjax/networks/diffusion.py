"""The denoiser of diffusion models: a U-Net that is told how noisy its picture is.

Ho, Jain & Abbeel, NeurIPS 2020 (arXiv:2006.11239). The noise level is the input's last channel, the
same in all pixels, so that this is a network like any other; and any other can be a denoiser.
`emjax.diffusion` trains it and draws samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import (
    check_channels,
    conv,
    crop,
    dense,
    norm,
    pad_to_multiple,
    upsample,
)

NOTHING = nnx.initializers.zeros
"""The last convolution of a branch starts at 0: the network is shallow at first, and trains."""


class ResBlock(nnx.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + level)))."""

    def __init__(self, a: int, b: int, features: int, groups: int, **how: Any) -> None:
        flat = {name: value for name, value in how.items() if name != "ndim"}
        kind = {"groups": groups, "dtype": how["dtype"], "rngs": how["rngs"]}
        self.norm1, self.norm2 = norm(a, **kind), norm(b, **kind)
        self.first = conv(a, b, 3, **how)
        self.level = dense(features, b, **flat)
        self.second = conv(b, b, 3, init=NOTHING, **how)
        self.short = conv(a, b, 1, **how) if a != b else None

    def __call__(self, x: jax.Array, level: jax.Array) -> jax.Array:
        y = self.first(nnx.silu(self.norm1(x)))
        told = self.level(nnx.silu(level))
        y = y + told.reshape(len(told), *(1,) * (y.ndim - 2), -1)
        y = self.second(nnx.silu(self.norm2(y)))
        return y + (x if self.short is None else self.short(x))


class Attention(nnx.Module):
    """x + what each pixel asks of all others (one head)."""

    def __init__(self, channels: int, groups: int, **how: Any) -> None:
        flat = {name: value for name, value in how.items() if name != "ndim"}
        self.norm = norm(channels, groups=groups, dtype=how["dtype"], rngs=how["rngs"])
        self.ask = dense(channels, channels, **flat)
        self.offer = dense(channels, channels, **flat)
        self.value = dense(channels, channels, **flat)
        self.leave = dense(channels, channels, init=NOTHING, **flat)
        self.precision = how["precision"]

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm(x).reshape(len(x), -1, x.shape[-1])
        product = functools.partial(jnp.einsum, precision=self.precision)
        score = product("bqc,bkc->bqk", self.ask(y), self.offer(y)).astype(jnp.float32)
        weight = jax.nn.softmax(score / math.sqrt(x.shape[-1]), axis=-1)
        y = product("bqk,bkc->bqc", weight.astype(y.dtype), self.value(y))
        return x + self.leave(y).reshape(x.shape)


class DiffusionUNet(nnx.Module):
    """Noisy picture, conditions and noise level to what the diffusion model predicts.

    Any size (continued to whole strides and cropped back). ``inputs=4, outputs=3, widths=(128, 256,
    256, 256), blocks=2, attention=(1,), groups=32`` has the published sizes for 32 x 32 pixels of
    three colours: 35,746,307 parameters.

    Parameters
    ----------
    inputs : channels of the picture and of what is known about it, and one for the noise level:
        ln(signal / noise), of which the mean over the pixels is taken.
    outputs : channels of the picture.
    widths : channels of the levels, finest first; each level halves the resolution.
    blocks : residual blocks of each level on the way down; one more on the way up.
    attention : levels at which every pixel sees all others (0 is the finest). There is one such
        layer between both ways in any case.
    groups : of the normalisations, at most.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 2,
        outputs: int = 1,
        widths: Sequence[int] = (16, 24, 32),
        *,
        blocks: int = 1,
        attention: Sequence[int] = (),
        groups: int = 8,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not widths or min(widths) < 2 or blocks < 1 or inputs < 2:
            raise ValueError(
                f"a diffusion network needs widths ({widths}) of at least 2, blocks ({blocks}) of "
                f"at least 1, and at least two inputs ({inputs}): a picture and its noise level"
            )
        self.inputs, self.ndim, self.stride = inputs, ndim, 2 ** (len(widths) - 1)
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        flat = {"dtype": dtype, "precision": precision, "rngs": rngs}
        self.waves, features = widths[0], 4 * widths[0]
        self.level = nnx.List(
            [dense(widths[0], features, **flat), dense(features, features, **flat)]
        )

        def block(a: int, b: int) -> ResBlock:
            return ResBlock(a, b, features, groups, **how)

        def look(k: int) -> Attention | None:
            return Attention(widths[k], groups, **how) if k in attention else None

        self.enter = conv(inputs - 1, widths[0], 3, **how)
        c, skips = widths[0], [widths[0]]
        down, looks, shrink = [], [], []
        for k, width in enumerate(widths):
            for _ in range(blocks):
                down.append(block(c, width))
                looks.append(look(k))
                c = width
                skips.append(c)
            if k + 1 < len(widths):
                shrink.append(conv(c, c, 3, strides=2, **how))
                skips.append(c)
        self.middle = nnx.List([block(c, c), block(c, c)])
        self.middle_look = Attention(c, groups, **how)
        up, up_looks, grow = [], [], []
        for k in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                up.append(block(c + skips.pop(), widths[k]))
                up_looks.append(look(k))
                c = widths[k]
            if k:
                grow.append(conv(c, c, 3, **how))
        self.blocks, self.levels = blocks, len(widths)
        self.down, self.up = nnx.List(down), nnx.List(up)
        self.down_looks, self.up_looks = nnx.List(looks), nnx.List(up_looks)
        self.shrink, self.grow = nnx.List(shrink), nnx.List(grow)
        self.norm = norm(c, groups=groups, dtype=dtype, rngs=rngs)
        self.leave = conv(c, outputs, 3, init=NOTHING, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        check_channels(x, self.inputs, "this diffusion network", self.ndim)
        level = x[..., -1].mean(axis=tuple(range(1, x.ndim - 1)))
        level = self.level[1](nnx.silu(self.level[0](waves_of(level, self.waves))))
        x, shape = pad_to_multiple(x[..., :-1], self.stride)

        x = self.enter(x)
        skips, n = [x], 0
        for k in range(self.levels):
            for _ in range(self.blocks):
                x = _looked(self.down_looks[n], self.down[n](x, level))
                skips.append(x)
                n += 1
            if k + 1 < self.levels:
                x = self.shrink[k](x)
                skips.append(x)
        x = self.middle_look(self.middle[0](x, level))
        x = self.middle[1](x, level)
        n = 0
        for k in range(self.levels):
            for _ in range(self.blocks + 1):
                x = self.up[n](jnp.concatenate([x, skips.pop()], axis=-1), level)
                x = _looked(self.up_looks[n], x)
                n += 1
            if k + 1 < self.levels:
                x = self.grow[k](upsample(x))
        x = self.leave(nnx.silu(self.norm(x)))
        return crop(x, shape).astype(jnp.float32)


def _looked(look: Attention | None, x: jax.Array) -> jax.Array:
    return x if look is None else look(x)


def waves_of(level: jax.Array, count: int) -> jax.Array:
    """[b] -> [b, count]: sines and cosines with periods 1 to 100 (and a 0 if `count` is odd)."""
    half = count // 2
    rates = jnp.exp(jnp.linspace(math.log(2 * math.pi), math.log(2 * math.pi / 100), half))
    phase = level[:, None].astype(jnp.float32) * rates[None]
    waves = jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)
    return jnp.pad(waves, ((0, 0), (0, count % 2)))
