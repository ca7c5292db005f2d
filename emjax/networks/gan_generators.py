"""Generators of adversarial networks: from an image to an image, and from noise to an image.

With residual blocks between strided convolutions: Johnson, Alahi & Fei-Fei, ECCV 2016, as in cycle
GANs (Zhu et al., ICCV 2017); from noise: DCGAN (Radford, Metz & Chintala, ICLR 2016). Any other
image-to-image network is a generator as well: pix2pix (Isola et al., CVPR 2017) uses a U-Net.
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
    crop,
    dense,
    norm,
    pad_to_multiple,
    transposed,
    upsample,
)


def instance_norm(x: jax.Array) -> jax.Array:
    """Each channel of each image to mean 0 and variance 1 (Ulyanov et al. 2016); no parameters.

    Computed in float32. A constant channel becomes 0. Brightness and contrast are lost.
    """
    pixels = tuple(range(1, x.ndim - 1))
    wide = x.astype(jnp.float32)
    wide = wide - wide.mean(pixels, keepdims=True)
    variance = jnp.square(wide).mean(pixels, keepdims=True)
    return (wide * jax.lax.rsqrt(variance + EPSILON)).astype(x.dtype)


class ResnetGenerator(nnx.Module):
    """Image to image, any size (continued to whole strides and cropped back).

    ``inputs=3, outputs=3, widths=(64, 128, 256), blocks=9, normalise=True, bounded=True`` is the
    generator of the cycle GAN: 11,378,179 parameters. Nearest-neighbour enlargement and a
    convolution stand where it has transposed convolutions, which leave chequerboards (Odena et al.,
    Distill 2016); the picture is continued by zeros, not mirrored.

    Parameters
    ----------
    inputs, outputs : channels.
    widths : channels of the levels, finest first; each level halves the resolution.
    blocks : residual blocks at the coarsest level.
    normalise : instance normalisation after each convolution. It hides how bright a picture is and
        lets every pixel see all others: off for quantitative intensities and tiled inference.
    bounded : end with tanh, for images scaled to -1 … 1.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (16, 24),
        *,
        blocks: int = 2,
        normalise: bool = False,
        bounded: bool = False,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not widths or min(widths) < 1 or blocks < 0:
            raise ValueError(f"a generator needs widths ({widths}) and blocks ({blocks}), none < 0")
        self.inputs, self.ndim, self.bounded = inputs, ndim, bounded
        self.stride, self.normalise = 2 ** (len(widths) - 1), normalise
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        pairs = list(itertools.pairwise(widths))
        self.enter = conv(inputs, widths[0], 7, **how)
        self.shrink = nnx.List([conv(a, b, 3, strides=2, **how) for a, b in pairs])
        self.first = nnx.List([conv(widths[-1], widths[-1], 3, **how) for _ in range(blocks)])
        # without normalisation each block may add a little only, or depth makes the sum explode
        small = nnx.initializers.variance_scaling(1.0 if normalise else 0.1, "fan_in", "normal")
        self.second = nnx.List(
            [conv(widths[-1], widths[-1], 3, init=small, **how) for _ in range(blocks)]
        )
        self.grow = nnx.List([conv(b, a, 3, **how) for a, b in reversed(pairs)])
        self.leave = conv(widths[0], outputs, 7, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        check_channels(x, self.inputs, "this generator", self.ndim)

        def settle(y: jax.Array) -> jax.Array:
            return instance_norm(y) if self.normalise else y

        x, shape = pad_to_multiple(x, self.stride)
        x = nnx.relu(settle(self.enter(x)))
        for layer in self.shrink:
            x = nnx.relu(settle(layer(x)))
        for first, second in zip(self.first, self.second, strict=True):
            x = x + settle(second(nnx.relu(settle(first(x)))))
        for layer in self.grow:
            x = nnx.relu(settle(layer(upsample(x))))
        x = crop(self.leave(x), shape).astype(jnp.float32)
        return jnp.tanh(x) if self.bounded else x


class LatentGenerator(nnx.Module):
    """Noise to images (DCGAN).

    Noise is a picture as well, [b, y, x, latent] with one pixel (y = x = 1) for one image; more
    pixels make a larger image, whose parts know of each other at their borders only.

    ``latent=100, outputs=3, widths=(512, 256, 128, 64), start=(4, 4)`` has the published sizes for
    64 x 64 pixels: 3,576,704 parameters.

    Parameters
    ----------
    latent : values of noise for each pixel, drawn from a normal distribution.
    outputs : channels.
    widths : channels of the levels, coarsest first; each level doubles the resolution, and the last
        layer doubles it once more.
    start : pixels (y, x) of the coarsest level that each pixel of noise becomes; an image has
        ``2 ** len(widths)`` times as many.
    bounded : end with tanh, for images scaled to -1 … 1.
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        latent: int = 16,
        outputs: int = 1,
        widths: Sequence[int] = (32, 16),
        *,
        start: Sequence[int] = (4, 4),
        bounded: bool = True,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not widths or min(widths) < 1 or latent < 1 or min(start) < 1:
            raise ValueError(f"a generator needs widths ({widths}) and latent values ({latent})")
        self.latent, self.start, self.bounded = latent, tuple(start), bounded
        how = {"bias": False, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.enter = dense(latent, start[0] * start[1] * widths[0], **how)
        self.norms = nnx.List([norm(c, dtype=dtype, rngs=rngs) for c in widths])
        pairs = itertools.pairwise(widths)
        self.grow = nnx.List([transposed(a, b, 4, **how) for a, b in pairs])
        self.leave = transposed(widths[-1], outputs, 4, **how)

    def __call__(self, noise: jax.Array) -> jax.Array:
        """[b, y, x, latent] -> [b, y * start * 2^n, x * start * 2^n, outputs]."""
        check_channels(noise, self.latent, "this generator", 2)
        b, h, w, _ = noise.shape
        sy, sx = self.start
        x = self.enter(noise).reshape(b, h, w, sy, sx, -1)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * sy, w * sx, -1)
        x = nnx.relu(self.norms[0](x))
        for layer, settle in zip(self.grow, self.norms[1:], strict=True):
            x = nnx.relu(settle(layer(x)))
        x = self.leave(x).astype(jnp.float32)
        return jnp.tanh(x) if self.bounded else x
