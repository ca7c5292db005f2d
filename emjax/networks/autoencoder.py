"""Autoencoders: pictures through a narrow code; denoisers in a cascade that is trained by blocks.

Hinton & Salakhutdinov, Science 2006; denoising: Vincent et al., ICML 2008, block by block: JMLR
2010; in a cascade for electron micrographs: Lei & Yang, Frontiers in Genetics 2021.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import (
    check_channels,
    conv,
    crop,
    dense,
    pad_to_multiple,
    resize,
    transposed,
)


class Encoder(nnx.Module):
    """[b, (z,) y, x, inputs] -> code [b, y/s, x/s, code], or with a `size` [b, code]."""

    def __init__(
        self, inputs: int, code: int, widths: Sequence[int], size: Sequence[int] | None, **how: Any
    ) -> None:
        self.enter = conv(inputs, widths[0], 3, **how)
        self.down = nnx.List(
            [conv(a, b, 3, strides=2, **how) for a, b in itertools.pairwise(widths)]
        )
        self.stride = 2 ** len(self.down)
        self.flat = size is not None
        if size is None:
            self.leave = conv(widths[-1], code, 1, **how)
        else:
            pixels = math.prod(-(-n // self.stride) for n in size)
            self.leave = dense(pixels * widths[-1], code, **_flat(how))

    def __call__(self, x: jax.Array) -> jax.Array:
        x, _ = pad_to_multiple(x, self.stride)
        x = nnx.silu(self.enter(x))
        for layer in self.down:
            x = nnx.silu(layer(x))
        return self.leave(x.reshape(len(x), -1) if self.flat else x)


class Decoder(nnx.Module):
    """The way back; its pictures are whole multiples of the stride."""

    def __init__(
        self, outputs: int, code: int, widths: Sequence[int], size: Sequence[int] | None, **how: Any
    ) -> None:
        self.stride = 2 ** (len(widths) - 1)
        self.shape = None if size is None else (*(-(-n // self.stride) for n in size), widths[-1])
        if self.shape is None:
            self.enter = conv(code, widths[-1], 1, **how)
        else:
            self.enter = dense(code, math.prod(self.shape), **_flat(how))
        pairs = list(itertools.pairwise(widths))[::-1]
        self.grow = nnx.List([transposed(b, a, 2, **how) for a, b in pairs])
        self.smooth = nnx.List([conv(a, a, 3, **how) for a, _ in pairs])
        self.leave = conv(widths[0], outputs, 3, **how)

    def __call__(self, z: jax.Array) -> jax.Array:
        x = self.enter(z)
        if self.shape is not None:
            x = x.reshape(-1, *self.shape)
        for grow, smooth in zip(self.grow, self.smooth, strict=True):
            x = smooth(nnx.silu(grow(nnx.silu(x))))
        return self.leave(nnx.silu(x))


class AutoEncoder(nnx.Module):
    """Image to code to image. A denoiser, if it is trained to give the clean one of a noisy one.

    Parameters
    ----------
    inputs, outputs : channels.
    widths : channels of the levels, finest first; each level halves the resolution.
    code : channels of the code at the coarsest level, for images of any size; with a `size`, the
        number of values for the whole image.
    size : pixels (y, x) of the images, for a code without places. Images of another size are
        resized (linearly) and back.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Notes
    -----
    ``parts(AutoEncoder, key, "encode", "decode", **args)`` gives both halves as functions.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (16, 24, 32),
        *,
        code: int = 8,
        size: Sequence[int] | None = None,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(widths, code, size, ndim)
        self.inputs, self.ndim, self.size = inputs, ndim, None if size is None else tuple(size)
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.encoder = Encoder(inputs, code, widths, size, **how)
        self.decoder = Decoder(outputs, code, widths, size, **how)

    def encode(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> the code, float32."""
        check_channels(x, self.inputs, "this autoencoder", self.ndim)
        x = x if self.size is None else resize(x, self.size)
        return self.encoder(x).astype(jnp.float32)

    def decode(self, code: jax.Array) -> jax.Array:
        """The picture of a code, float32, of `size` (else of whole strides)."""
        x = self.decoder(code)
        return (x if self.size is None else crop(x, self.size)).astype(jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        shape = x.shape[1:-1]
        y = self.decode(self.encode(x))
        return crop(y, shape) if self.size is None else resize(y, shape)


class Cascade(nnx.Module):
    """Autoencoders one after the other; each corrects the picture that the one before has made.

    A block after the first adds to its input, and starts with nothing to add: a cascade is never
    worse than it was before its next block is trained.

    Parameters
    ----------
    inputs, outputs : channels.
    blocks : autoencoders in the cascade.
    widths, code, size, ndim, dtype, precision : of each `AutoEncoder`.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (16, 24),
        *,
        blocks: int = 3,
        code: int = 16,
        size: Sequence[int] | None = None,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if blocks < 1:
            raise ValueError(f"a cascade needs at least one block, not {blocks}")
        more = {"code": code, "size": size, "ndim": ndim, "dtype": dtype, "precision": precision}
        self.blocks = nnx.List(
            [
                AutoEncoder(outputs if k else inputs, outputs, widths, **more, rngs=rngs)
                for k in range(blocks)
            ]
        )
        for block in self.blocks[1:]:
            kernel = block.decoder.leave.kernel
            kernel.set_value(jnp.zeros_like(kernel.get_value()))

    def through(self, x: jax.Array, blocks: int) -> jax.Array:
        """The picture after the first so many blocks."""
        for k, block in enumerate(self.blocks[:blocks]):
            x = x + block(x) if k else block(x)
        return x

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        return self.through(x, len(self.blocks))


def pretrain_blocks(
    key: jax.Array,
    through: Callable[..., jax.Array],
    params: dict[str, Any],
    train: Callable[[jax.Array, Callable, Any], Any],
) -> dict[str, Any]:
    """Train a `Cascade` block after block; fine-tuning all of them together is the usual training.

    Parameters
    ----------
    key : random key; block k is trained with ``fold_in(key, k)``.
    through, params : from ``parts(Cascade, key, "through", …)``.
    train : ``(key, apply, block) -> block`` trains one network: ``apply(block, x)`` is the picture
        after this block, those before it being fixed.

    Returns
    -------
    params : of the whole cascade.
    """
    blocks = dict(params["blocks"])

    def apply(k: int, fixed: dict[str, Any], block: Any, x: jax.Array) -> jax.Array:
        return through({"blocks": {**fixed, str(k): block}}, x, k + 1)

    for k in range(len(blocks)):
        here = functools.partial(apply, k, dict(blocks))
        blocks[str(k)] = train(jax.random.fold_in(key, k), here, blocks[str(k)])
    return {**params, "blocks": blocks}


def check_sizes(
    widths: Sequence[int], code: int, size: Sequence[int] | None, ndim: int = 2
) -> None:
    """Raise a ValueError where an autoencoder cannot be made."""
    if not widths or min(widths) < 1 or code < 1:
        raise ValueError(
            f"an autoencoder needs widths ({widths}) and a code ({code}) of at least 1"
        )
    if size is not None and (len(size) != ndim or min(size) < 1):
        raise ValueError(f"size {tuple(size)} must be {ndim} numbers of pixels, as in (32, 32)")


def _flat(how: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in how.items() if name != "ndim"}
