"""SegNet: a VGG encoder, and a decoder that puts values back where the maxima were.

Badrinarayanan, Kendall & Cipolla, TPAMI 2017. Pooling keeps the place of each maximum; on the way
up a value goes to that place and zero elsewhere, so that edges stay where they were, and nothing
but places passes between equal resolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import (
    check_channels,
    conv,
    crop,
    depth_to_space,
    pad_to_multiple,
    space_to_depth,
)
from emjax.networks.vgg import Stage

SEGNET: dict[str, Any] = {
    "inputs": 3,
    "outputs": 12,
    "widths": (64, 128, 256, 512, 512),
    "depths": (2, 2, 3, 3, 3),
}
"""The published network: the 13 convolutions of VGG-16 and their mirror, 29,449,932 weights."""


def pool_with_places(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maxima of 2×2 (2×2×2) windows, and where they were.

    Parameters
    ----------
    x : [b, (z,) y, x, c] with even sizes.

    Returns
    -------
    maxima : [b, (z/2,) y/2, x/2, c].
    places : the same shape, integers: row-major index in the window; the first of equal values.
    """
    c, n = x.shape[-1], 2 ** (x.ndim - 2)
    deep = space_to_depth(x, 2)
    windows = jnp.swapaxes(deep.reshape(*deep.shape[:-1], n, c), -1, -2)
    places = windows.argmax(axis=-1)
    here = jax.nn.one_hot(places, n, dtype=bool)
    return jnp.where(here, windows, 0).sum(axis=-1), places


def unpool(x: jax.Array, places: jax.Array) -> jax.Array:
    """Twice as large: values at their `places`, zero elsewhere. [b, (z,) y, x, c] both."""
    here = jax.nn.one_hot(places, 2 ** (x.ndim - 2), dtype=bool)
    windows = jnp.swapaxes(jnp.where(here, x[..., None], 0), -1, -2)
    return depth_to_space(windows.reshape(*x.shape[:-1], -1), 2)


class SegNet(nnx.Module):
    """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs], any size. Published: `SEGNET`.

    Parameters
    ----------
    inputs, outputs : channels and classes (scores, before softmax or sigmoid).
    widths, depths : channels and number of convolutions of the encoder's stages, see `VGG`; the
        decoder mirrors them.
    ndim : number of spatial axes: 1, 2 or 3.
    groups : of the normalisation; 0 for none.
    dtype, precision : of the computation; parameters and result are float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 2,
        widths: Sequence[int] = (16, 32),
        depths: Sequence[int] = (2, 2),
        *,
        ndim: int = 2,
        groups: int = 8,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if len(widths) != len(depths) or not widths or min(*widths, *depths) < 1:
            raise ValueError(
                f"SegNet's stages need one depth for each width, of at least 1: widths "
                f"{tuple(widths)}, depths {tuple(depths)}"
            )
        more = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.inputs, self.ndim, self.stride = inputs, ndim, 2 ** len(widths)
        down, up = [], []
        for a, b, depth in zip((inputs, *widths[:-1]), widths, depths, strict=True):
            down.append(Stage(a, (b,) * depth, groups=groups, **more))
        for a, b, depth in zip((widths[0], *widths[:-1]), widths, depths, strict=True):
            # `leave` takes the place of the finest stage's last convolution
            sizes = (b,) * (depth - 1) if not up else (b,) * (depth - 1) + (a,)
            up.append(Stage(b, sizes, groups=groups, **more) if sizes else None)
        self.down, self.up = nnx.List(down), nnx.List(up)
        self.leave = conv(widths[0], outputs, **more)

    def __call__(self, x: jax.Array) -> jax.Array:
        check_channels(x, self.inputs, "a SegNet", self.ndim)
        x, shape = pad_to_multiple(x, self.stride)
        where = []
        for stage in self.down:
            x, places = pool_with_places(stage(x))
            where.append(places)
        for stage in reversed(self.up):
            x = unpool(x, where.pop())
            if stage is not None:
                x = stage(x)
        return crop(self.leave(x), shape).astype(jnp.float32)
