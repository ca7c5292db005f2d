"""Residual dense network: dense blocks with local and global fusion, for restoring and magnifying.

Zhang, Tian, Kong, Zhong & Fu, CVPR 2018 (arXiv:1802.08797).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import check_channels, conv, depth_to_space
from emjax.networks.restoring import adds_input, finish

SMALL = nnx.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")
"""Residual branches start small: many of them add up."""


class DenseResidual(nnx.Module):
    """x + scale·fuse(all of x and the layers' results); layer i sees all before it.

    Parameters
    ----------
    channels : in and out.
    growth : channels that each layer adds.
    layers : number of 3×3 convolutions before the fusion.
    fuse : size of the convolution that fuses.
    scale : of the branch.
    activation : after each layer but the fusion.
    """

    def __init__(
        self,
        channels: int,
        growth: int,
        layers: int,
        *,
        fuse: int = 1,
        scale: float = 1.0,
        activation: Callable[[jax.Array], jax.Array] = nnx.relu,
        **how: Any,
    ) -> None:
        self.scale, self.activation = scale, activation
        self.layers = nnx.List(
            [conv(channels + i * growth, growth, 3, **how) for i in range(layers)]
        )
        self.fuse = conv(channels + layers * growth, channels, fuse, init=SMALL, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        seen = x
        for layer in self.layers:
            seen = jnp.concatenate([seen, self.activation(layer(seen))], axis=-1)
        return x + self.scale * self.fuse(seen)


class RDN(nnx.Module):
    """Image to image of the same size, or `factor` times as large.

    ``width=64, growth=64, blocks=16, layers=8, factor=2, inputs=3, outputs=3`` is the published
    size: 22,123,395 parameters.

    Parameters
    ----------
    inputs, outputs : channels.
    width, growth : channels of the chain of blocks, and those that each layer of a block adds.
    blocks, layers : number of dense blocks, and of convolutions in each.
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
        blocks: int = 3,
        layers: int = 3,
        factor: int = 1,
        residual: bool | None = None,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if min(width, growth, blocks, layers) < 1:
            raise ValueError("RDN needs width, growth, blocks and layers of at least 1")
        steps = doublings(factor)
        self.inputs, self.ndim = inputs, ndim
        self.residual = not steps and adds_input(residual, inputs, outputs, "RDN")
        if steps and residual:
            raise ValueError(f"RDN cannot add its input to an output {factor} times as large")
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.enter = conv(inputs, width, 3, **how)
        self.shallow = conv(width, width, 3, **how)
        self.blocks = nnx.List([DenseResidual(width, growth, layers, **how) for _ in range(blocks)])
        self.gather = conv(blocks * width, width, 1, **how)
        self.fuse = conv(width, width, 3, **how)
        self.grow = nnx.List([conv(width, width * 2**ndim, 3, **how) for _ in range(steps)])
        self.leave = conv(width, outputs, 3, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (factor·z,) factor·y, factor·x, outputs]."""
        check_channels(x, self.inputs, "this RDN", self.ndim)
        first = self.enter(x)
        y, results = self.shallow(first), []
        for block in self.blocks:
            y = block(y)
            results.append(y)
        y = first + self.fuse(self.gather(jnp.concatenate(results, axis=-1)))
        for layer in self.grow:
            y = depth_to_space(layer(y), 2)
        y = self.leave(y)
        return finish(y, x, self.residual) if not self.grow else y.astype(jnp.float32)


def doublings(factor: int) -> int:
    """log2 of a magnification. Raises a ValueError where it is no power of 2."""
    if factor < 1 or factor & (factor - 1):
        raise ValueError(f"factor {factor}: the output can be 1, 2, 4, 8 … times as large")
    return factor.bit_length() - 1
