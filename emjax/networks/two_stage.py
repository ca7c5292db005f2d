"""Two generators in a row for partial scans: what is large at half the resolution, then the rest.

Ede & Beanland, "Partial scanning transmission electron microscopy with deep learning", Sci. Rep.
10, 8332 (2020): an inner generator sees the picture at half its size, an outer one works at full
size with the inner one's features. A head on the inner one (there a network of its own, the
trainer) makes a coarse picture of these features, so that they are taught directly.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import (
    HE,
    SMALL,
    avg_pool,
    check_channels,
    conv,
    crop,
    pad_to_multiple,
    upsample,
)


class TwoStage(nnx.Module):
    """Image to image, any size (continued to whole strides and cropped back).

    Output channels ``[: outputs]`` are the picture; ``[outputs : 2 * outputs]``, with
    ``coarse=True``, the inner generator's, enlarged by repetition. Residual blocks are plain: the
    published generators (512 x 512 pixels, separable convolutions) have batch normalisation, which
    has no place here. ``width=64, inner=256, blocks=11, shrink=2`` has their proportions.

    Parameters
    ----------
    inputs, outputs : channels.
    width : channels at full size.
    inner : channels of the inner generator.
    blocks : its residual blocks.
    shrink : times that the inner generator halves the resolution of its half-size input.
    coarse : give the inner generator's picture too.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 2,
        outputs: int = 1,
        *,
        width: int = 16,
        inner: int = 28,
        blocks: int = 3,
        shrink: int = 2,
        coarse: bool = True,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if min(width, inner) < 1 or min(blocks, shrink) < 0:
            raise ValueError(
                f"two stages need widths ({width}, {inner}) of at least 1, and no negative number "
                f"of blocks ({blocks}) or of halvings ({shrink})"
            )
        self.inputs, self.ndim, self.coarse = inputs, ndim, coarse
        self.stride = 2 ** (shrink + 1)
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        relu = {"init": HE, **how}
        self.enter = conv(inputs, inner, 5, **relu)
        self.shrink = nnx.List([conv(inner, inner, 3, strides=2, **relu) for _ in range(shrink)])
        self.first = nnx.List([conv(inner, inner, 3, **relu) for _ in range(blocks)])
        self.second = nnx.List([conv(inner, inner, 3, init=SMALL, **how) for _ in range(blocks)])
        self.grow = nnx.List([conv(2 * inner, inner, 3, **relu) for _ in range(shrink)])
        self.trainer = conv(inner, outputs, 3, init=SMALL, **how) if coarse else None
        self.outer = conv(inputs, width, 5, **relu)
        self.join = conv(width + inner, width, 3, **relu)
        self.last = conv(width, width, 3, **relu)
        self.leave = conv(width, outputs, 3, init=SMALL, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs (twice, if coarse)]."""
        check_channels(x, self.inputs, "this network", self.ndim)
        x, shape = pad_to_multiple(x, self.stride)
        large = nnx.relu(self.enter(avg_pool(x)))
        skips = []
        for layer in self.shrink:
            skips.append(large)
            large = nnx.relu(layer(large))
        for first, second in zip(self.first, self.second, strict=True):
            large = large + second(nnx.relu(first(large)))
        for layer in self.grow:
            large = nnx.relu(layer(jnp.concatenate([upsample(large), skips.pop()], axis=-1)))
        fine = nnx.relu(self.outer(x))
        fine = nnx.relu(self.join(jnp.concatenate([fine, upsample(large)], axis=-1)))
        fine = nnx.relu(self.last(fine)) + fine
        result = [self.leave(fine)]
        if self.trainer is not None:
            result.append(upsample(self.trainer(large)))
        return crop(jnp.concatenate(result, axis=-1), shape).astype(jnp.float32)
