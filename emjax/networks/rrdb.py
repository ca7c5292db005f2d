"""Residual-in-residual dense blocks (RRDB), the generator of ESRGAN.

Wang, Yu, Wu, Gu, Liu, Dong, Qiao & Loy, ECCV Workshops 2018 (arXiv:1809.00219): three dense
residual blocks inside one more residual, each branch times 0.2.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import check_channels, conv, upsample
from emjax.networks.rdn import DenseResidual, doublings
from emjax.networks.restoring import adds_input, finish

SCALE = 0.2
"""Of every residual branch: without normalisation, deep sums would explode."""

_leaky = functools.partial(nnx.leaky_relu, negative_slope=0.2)


class ResidualInResidual(nnx.Module):
    """x + 0.2·(three dense residual blocks of x)."""

    def __init__(self, channels: int, growth: int, layers: int, **how: Any) -> None:
        self.blocks = nnx.List(
            [
                DenseResidual(
                    channels, growth, layers, fuse=3, scale=SCALE, activation=_leaky, **how
                )
                for _ in range(3)
            ]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x
        for block in self.blocks:
            y = block(y)
        return x + SCALE * y


class RRDB(nnx.Module):
    """Image to image of the same size, or `factor` times as large.

    ``width=64, growth=32, blocks=23, layers=4, factor=4, inputs=3, outputs=3`` is the published
    size: 16,697,987 parameters.

    Parameters
    ----------
    inputs, outputs : channels.
    width, growth : channels of the chain of blocks, and those that each layer of a block adds.
    blocks, layers : number of blocks of three dense blocks, and of growing layers in a dense block.
    factor : the output is as many times as large along each axis; a power of 2.
    residual : add the input to the output; None: where they have as many channels and one size.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : no blocks or layers, a factor that is no power of 2, an input that cannot be added.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 16,
        *,
        growth: int = 8,
        blocks: int = 2,
        layers: int = 2,
        factor: int = 1,
        residual: bool | None = None,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if min(width, growth, blocks, layers) < 1:
            raise ValueError("RRDB needs width, growth, blocks and layers of at least 1")
        steps = doublings(factor)
        if steps and residual:
            raise ValueError(f"RRDB cannot add its input to an output {factor} times as large")
        self.inputs, self.ndim = inputs, ndim
        self.residual = not steps and adds_input(residual, inputs, outputs, "RRDB")
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.enter = conv(inputs, width, 3, **how)
        self.blocks = nnx.List(
            [ResidualInResidual(width, growth, layers, **how) for _ in range(blocks)]
        )
        self.trunk = conv(width, width, 3, **how)
        self.grow = nnx.List([conv(width, width, 3, **how) for _ in range(steps)])
        self.fine = conv(width, width, 3, **how)
        self.leave = conv(width, outputs, 3, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (factor·z,) factor·y, factor·x, outputs]."""
        check_channels(x, self.inputs, "this RRDB network", self.ndim)
        y = first = self.enter(x)
        for block in self.blocks:
            y = block(y)
        y = first + self.trunk(y)
        for layer in self.grow:
            y = _leaky(layer(upsample(y)))
        y = self.leave(_leaky(self.fine(y)))
        return finish(y, x, self.residual) if not self.grow else y.astype(jnp.float32)
