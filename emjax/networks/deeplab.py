"""DeepLab v3+: a dilated encoder, context at several reaches, and a light decoder.

Chen et al., ECCV 2018. Dilated ("atrous") convolutions see far at the same cost; ASPP sets several
dilations side by side. The encoder is the aligned Xception.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import HE, check_channels, conv, crop, norm, pad_to_multiple, resize
from emjax.networks.xception import SeparableConv, Stem, XceptionBlock

DEEPLAB_V3_PLUS: dict[str, Any] = {
    "inputs": 3,
    "outputs": 21,
    "stem": (32, 64),
    "entry": (128, 256, 728),
    "middle": 16,
    "exit": ((728, 1024, 1024), (1536, 1536, 2048)),
    "rates": (6, 12, 18),
    "context": 256,
    "skip": 48,
    "tap": 1,
    "stem_strides": 2,
}
"""The published network (Xception-65, stride 16): 41,055,413 weights, of which 256 are missing here
(the normalisation of the mean of the picture)."""


class ASPP(nnx.Module):
    """Atrous spatial pyramid pooling: [b, (z,) y, x, c] -> [b, (z,) y, x, outputs].

    Side by side a 1×1 convolution, one separable 3×3 for each dilation of `rates` and, with
    `image`, the mean of the whole picture; a 1×1 convolution mixes them. Without `image` and
    normalisation the reach is max(rates) pixels.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rates: Sequence[int] = (6, 12, 18),
        *,
        image: bool = True,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more: dict[str, Any] = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.near = Pointwise(inputs, outputs, groups=groups, **more)
        self.far = nnx.List(
            [SeparableConv(inputs, outputs, dilation=r, groups=groups, **more) for r in rates]
        )
        # not normalised: one pixel has no spread
        self.image = Pointwise(inputs, outputs, groups=0, **more) if image else None
        self.merge = Pointwise((1 + len(rates) + image) * outputs, outputs, groups=groups, **more)

    def __call__(self, x: jax.Array) -> jax.Array:
        parts = [self.near(x), *(nnx.relu(far(x)) for far in self.far)]
        if self.image is not None:
            mean = self.image(x.mean(axis=tuple(range(1, x.ndim - 1)), keepdims=True))
            parts.append(jnp.broadcast_to(mean, parts[0].shape))
        return self.merge(jnp.concatenate(parts, axis=-1))


class Pointwise(nnx.Module):
    """1×1 convolution, normalisation, relu."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        more: dict[str, Any] = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.conv = conv(inputs, outputs, 1, bias=not groups, init=HE, **more)
        self.norm = norm(outputs, groups=groups, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.relu(self.norm(self.conv(x)))


class DeepLab(nnx.Module):
    """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs], any size. Published: `DEEPLAB_V3_PLUS`.

    Parameters
    ----------
    inputs, outputs : channels and classes (scores, before softmax or sigmoid).
    stem : channels of the two first convolutions.
    entry : channels of the blocks that halve the resolution.
    middle : blocks that keep it, the last width of `entry` wide.
    exit : channels of the three separable convolutions of the two last blocks; the second has
        dilation 2 and no shortcut.
    rates : dilations of the `ASPP`, in pixels of the coarsest resolution.
    context : channels of the ASPP and of the decoder.
    skip, tap : the decoder sees `skip` channels made of what entry block `tap` (from 0) has before
        its stride; its scores are interpolated linearly from that resolution.
    stem_strides : of the first convolution. 1 and ``tap=0`` decode at the picture's own
        resolution; 2 and ``tap=1`` at a quarter, as published.
    image : the ASPP sees the mean of the picture.
    ndim : number of spatial axes: 1, 2 or 3.
    groups : of the normalisation; 0 for none (then, without `image`, the reach is bounded).
    dtype, precision : of the computation; parameters and result are float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 2,
        *,
        stem: Sequence[int] = (16, 16),
        entry: Sequence[int] = (16, 24),
        middle: int = 1,
        exit: Sequence[Sequence[int]] = ((24, 24, 32), (32, 32, 32)),
        rates: Sequence[int] = (2, 4, 6),
        context: int = 16,
        skip: int = 16,
        tap: int = 0,
        stem_strides: int = 1,
        image: bool = True,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not 0 <= tap < len(entry):
            raise ValueError(f"tap ({tap}) is an entry block of DeepLab: 0 to {len(entry) - 1}")
        more: dict[str, Any] = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.inputs, self.ndim, self.tap = inputs, ndim, tap
        self.stride = stem_strides * 2 ** len(entry)
        self.stem = Stem(inputs, stem, strides=stem_strides, groups=groups, **more)
        plan = [((width,) * 3, 2, 1) for width in entry]
        plan += [((entry[-1],) * 3, 1, 1)] * middle
        plan += [(exit[0], 1, 1), (exit[1], 1, 2)]
        blocks, channels = [], stem[-1]
        for widths, strides, dilation in plan:
            how = {"strides": strides, "dilation": dilation, "groups": groups}
            how["residual"] = dilation == 1
            blocks.append(XceptionBlock(channels, widths, **how, **more))
            channels = widths[-1]
        self.blocks = nnx.List(blocks)
        self.aspp = ASPP(channels, context, rates, image=image, groups=groups, **more)
        self.skip = Pointwise(entry[tap], skip, groups=groups, **more)
        self.decoder = nnx.List(
            [
                SeparableConv(context + skip, context, groups=groups, **more),
                SeparableConv(context, context, groups=groups, **more),
            ]
        )
        self.leave = conv(context, outputs, 1, **more)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_channels(x, self.inputs, "DeepLab", self.ndim)
        x, shape = pad_to_multiple(x, self.stride)
        whole = x.shape[1:-1]
        x = self.stem(x)
        fine = x
        for i, block in enumerate(self.blocks):
            x, before = block(x)
            if i == self.tap:
                fine = before
        x = resize(self.aspp(nnx.relu(x)), fine.shape[1:-1])
        x = jnp.concatenate([x, self.skip(nnx.relu(fine))], axis=-1)
        for layer in self.decoder:
            x = nnx.relu(layer(x))
        return crop(resize(self.leave(x), whole), shape).astype(jnp.float32)
