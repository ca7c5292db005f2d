"""Multilayer perceptron: everything is connected with everything, nothing with its place.

One to three hidden layers on a whole spectrum, pattern or small picture. Moved by a pixel, the same
picture is another input: whoever needs shifts not to matter takes a convolutional network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import HE, dense


def pyramid(features: int, outputs: int, layers: int = 3) -> tuple[int, ...]:
    """Widths of hidden layers that fall geometrically from `features` to `outputs` (Masters, 1993).

    >>> pyramid(1000, 1, layers=2)
    (100, 10)
    """
    ratio = (outputs / features) ** (1 / (layers + 1))
    return tuple(max(1, round(features * ratio**i)) for i in range(1, layers + 1))


class MLP(nnx.Module):
    """[b, *shape, inputs] -> [b, outputs].

    Published: ``shape=(n,), widths=(10, 15, 5)`` for spectra; ``widths=pyramid(n, outputs)``.

    Parameters
    ----------
    shape : of a picture, spectrum or volume, without batch and channels.
    inputs : channels.
    outputs : numbers per picture.
    widths : of the hidden layers; none makes a linear model.
    dtype, precision : of the computation; parameters and result are float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : an input of another shape: the weights belong to places.
    """

    def __init__(
        self,
        shape: Sequence[int] = (16, 16),
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (10, 15, 5),
        *,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if min((*shape, inputs, outputs, *widths)) < 1:
            raise ValueError(f"an MLP of shape {tuple(shape)}, widths {tuple(widths)} is empty")
        self.shape = (*shape, inputs)
        sizes = [math.prod(self.shape), *widths]
        more = {"dtype": dtype, "precision": precision, "rngs": rngs}
        self.hidden = nnx.List([dense(a, b, init=HE, **more) for a, b in itertools.pairwise(sizes)])
        self.leave = dense(sizes[-1], outputs, **more)

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"this MLP takes arrays [batch, {', '.join(map(str, self.shape))}], not of shape "
                f"{x.shape}: crop or resize them, or make one with shape={x.shape[1:-1]}"
            )
        x = x.reshape(x.shape[0], -1)
        for layer in self.hidden:
            x = nnx.silu(layer(x))
        return self.leave(x).astype(jnp.float32)
