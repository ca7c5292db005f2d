"""Multi-resolution convolutional network: windows of several sizes side by side, coarse outputs.

Wang, Eljarrat, Müller, Henninen, Erni & Koch, Scientific Reports 10 (2020) 5730
(arXiv:1810.12183): a U-Net whose blocks concatenate branches of 3, 5, 7 and 9 pixels wide
convolutions, whose connections are summed, and whose decoder answers at every resolution: the
coarse answers are compared with the truth at low resolution, which speeds the training up.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import (
    EPSILON,
    avg_pool,
    check_channels,
    conv,
    crop,
    pad_to_multiple,
    transposed,
    upsample,
)

_leaky = functools.partial(nnx.leaky_relu, negative_slope=0.2)


class Branches(nnx.Module):
    """Two convolutions of each size, with leaky relu; the branches' results concatenated."""

    def __init__(
        self, inputs: int, outputs: int, sizes: Sequence[int], *, normalise: bool, **how: Any
    ) -> None:
        width = outputs // len(sizes)
        kind = {"dtype": how["dtype"], "rngs": how["rngs"]}
        self.first = nnx.List([conv(inputs, width, size, **how) for size in sizes])
        self.second = nnx.List([conv(width, width, size, **how) for size in sizes])
        # one group a channel; `layers.norm` would put four into each
        alone = {"epsilon": EPSILON, "use_fast_variance": False, **kind}
        norms = 2 if normalise else 0
        self.norms = nnx.List(
            [nnx.GroupNorm(outputs, num_groups=outputs, **alone) for _ in range(norms)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        parts = self._level(jnp.concatenate([layer(x) for layer in self.first], axis=-1), 0)
        parts = jnp.split(parts, len(self.first), axis=-1)
        pairs = zip(self.second, parts, strict=True)
        return self._level(jnp.concatenate([layer(part) for layer, part in pairs], axis=-1), 1)

    def _level(self, x: jax.Array, i: int) -> jax.Array:
        return _leaky(self.norms[i](x) if self.norms else x)


class MCNN(nnx.Module):
    """Image to image, any size (continued to whole strides and cropped back).

    ``widths=(64, 128, 256, 512), sizes=(3, 5, 7, 9), inputs=3, outputs=3, normalise=True,
    coarse=True`` is the published size, with 18,586,249 parameters here.

    Parameters
    ----------
    inputs, outputs : channels.
    widths : channels of the levels, finest first, multiples of the number of sizes; each level
        halves the resolution.
    sizes : of the windows that look side by side, pixels.
    coarse : also give the answers of the coarser levels, each pixel repeated to the full size:
        outputs·(levels - 1) channels, the finest in ``[:outputs]``, half the resolution in
        ``[outputs : 2 * outputs]``, and so on; the coarsest level gives none.
    normalise : normalise each channel of each picture after each convolution of a block. A level
        of a single pixel then knows nothing: pictures need more pixels than 2^(levels - 1).
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : fewer than two levels, or channels that do not divide among the sizes.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (8, 16),
        *,
        sizes: Sequence[int] = (3, 5),
        coarse: bool = False,
        normalise: bool = False,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if len(widths) < 2 or not sizes or any(w < 1 or w % len(sizes) for w in widths):
            raise ValueError(
                f"a multi-resolution network needs two levels or more, of channels ({widths}) that "
                f"divide among its {len(sizes)} window size(s)"
            )
        self.inputs, self.ndim, self.coarse = inputs, ndim, coarse
        self.stride = 2 ** (len(widths) - 1)
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        block = {"sizes": sizes, "normalise": normalise, **how}
        self.down = nnx.List(
            [Branches(a, b, **block) for a, b in itertools.pairwise((inputs, *widths))]
        )
        pairs = list(itertools.pairwise(widths))
        self.grow = nnx.List([transposed(b, a, 4, **how) for a, b in pairs])
        self.smooth = nnx.List([conv(a, a, 3, **how) for a, _ in pairs])
        self.up = nnx.List([Branches(a, a, **block) for a, _ in pairs])
        heads = pairs if coarse else pairs[:1]
        self.leave = nnx.List([conv(a, outputs, 3, **how) for a, _ in heads])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs·(levels - 1 if coarse else 1)]."""
        check_channels(x, self.inputs, "this network", self.ndim)
        x, shape = pad_to_multiple(x, self.stride)
        skips = []
        for level, block in enumerate(self.down):
            if level:
                skips.append(x)
                x = avg_pool(x)
            x = block(x)
        results = []
        for level in reversed(range(len(self.up))):
            x = _leaky(self.smooth[level](_leaky(self.grow[level](x))))
            x = skips[level] + self.up[level](x)
            if level < len(self.leave):
                answer = self.leave[level](x).astype(jnp.float32)
                results.append(upsample(answer, 2**level) if level else answer)
        return crop(jnp.concatenate(results[::-1], axis=-1), shape)
