"""One network, three images: without noise, without background, with narrow columns.

Images are shifted and scaled to mean 0 and standard deviation 1 before the network and back
afterwards, so the result follows any gain and offset of the detector; the network's three channels
are added to the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from emjax.restoration.super_resolution import level

__all__ = ["FLOOR", "OUTPUTS", "sharpen_loss", "sharpener"]

Apply = Callable[[Any, jax.Array], jax.Array]
OUTPUTS = 3
FLOOR = 2e-4
"""Relative error of which `sharpen_loss` asks no more: some 45 dB of the brightest pixel."""


def sharpener(apply: Apply) -> Callable[[Any, jax.Array], jax.Array]:
    """``(params, counts [b, y, x, 1]) -> [b, y, x, 3]`` in the unit of the counts.

    The channels are those of `emjax.data.synthetic_sharp.HEADS`.

    Parameters
    ----------
    apply : a network of one channel in and three out.

    Raises
    ------
    ValueError : when called, a network of other channels.
    """

    def sharpen(params: Any, counts: jax.Array) -> jax.Array:
        mean, size = level(counts)
        return mean + size * _made(apply, params, (counts - mean) / size)

    return sharpen


def sharpen_loss(apply: Apply) -> Callable[[Any, Mapping[str, jax.Array]], tuple[jax.Array, dict]]:
    """Loss for `make_step` on batches of `make_sharp`: mean logarithm of the relative errors.

    Every image and every channel counts alike, whatever its dose and contrast: the error is
    relative to the target's variance (and a tenth of the image's, where the target is flat).
    """

    def loss(params: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict]:
        mean, size = level(batch["counts"])
        made = _made(apply, params, (batch["counts"] - mean) / size)
        target = (batch["targets"] - mean) / size
        error = jnp.square(made - target).mean((1, 2))
        relative = error / (target.var((1, 2)) + 0.1)
        value = jnp.log(relative + FLOOR)
        heads = value.mean(0) * (10 / jnp.log(10.0))
        return value.mean(), {f"dB{i}": heads[i] for i in range(OUTPUTS)}

    return loss


def _made(apply: Apply, params: Any, x: jax.Array) -> jax.Array:
    made = apply(params, x)
    if made.shape[-1] != OUTPUTS:
        raise ValueError(
            f"the network gives {made.shape[-1]} channels: three images need outputs={OUTPUTS}"
        )
    return x + made
