"""A blind-spot network: every pixel is predicted from all others, never from itself.

Laine, Karras, Lehtinen & Aila, NeurIPS 2019 (arXiv:1901.10277): a U-Net that looks only upwards is
given the picture in four orientations; its answers, moved by a pixel, are turned back and joined.
What is independent from pixel to pixel cannot be predicted: trained on noisy pictures alone, it
denoises. (The other way, masking pixels of an ordinary network, is a matter of the loss.)
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import check_channels, conv, crop, max_pool, upsample
from emjax.networks.unet_classic import HE

TURNS = {"up": 0, "right": 1, "down": 2, "left": 3}
"""Quarter turns after which a network that looks up looks there."""

_leaky = functools.partial(nnx.leaky_relu, negative_slope=0.1)


class UpwardConv(nnx.Module):
    """A 3×3 convolution that sees its own row and the two above it."""

    def __init__(self, inputs: int, outputs: int, **how: Any) -> None:
        self.layer = conv(inputs, outputs, 3, init=HE, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        return _leaky(self.layer(jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0))))[:, :-1])


class UpwardUNet(nnx.Module):
    """Row y of the result depends on rows ≤ y of the picture; size a multiple of 2^levels."""

    def __init__(self, inputs: int, width: int, levels: int, **how: Any) -> None:
        twice = 2 * width
        self.enter = UpwardConv(inputs, width, **how)
        self.down = nnx.List([UpwardConv(width, width, **how) for _ in range(levels)])
        self.bottom = UpwardConv(width, width, **how)
        # finest first; the finest level sees the picture itself
        skips = [inputs, *[width] * (levels - 1)]
        below = [twice] * (levels - 1) + [width]
        self.first = nnx.List(
            [UpwardConv(a + b, twice, **how) for a, b in zip(skips, below, strict=True)]
        )
        self.second = nnx.List([UpwardConv(twice, twice, **how) for _ in range(levels)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, y, x, inputs] -> [b, y, x, 2·width]."""
        skips, y = [x], self.enter(x)
        for layer in self.down:
            # moved down a row: a window of two rows would else tell the upper one of the lower
            y = max_pool(_down(layer(y)))
            skips.append(y)
        y = self.bottom(y)
        for level in reversed(range(len(self.first))):
            y = jnp.concatenate([upsample(y), skips[level]], axis=-1)
            y = self.second[level](self.first[level](y))
        return y


class BlindSpotNet(nnx.Module):
    """Image to image, any size (continued with zeros to whole strides and cropped back).

    There is no normalisation: the mean and spread of a picture know its pixels, and the spot would
    not be blind. ``width=48, levels=5, inputs=3, outputs=3`` is the published size: 1,268,547
    parameters.

    Parameters
    ----------
    inputs, outputs : channels. All input channels of a pixel are invisible to its outputs.
    width : channels of the encoder; twice as many in the decoder.
    levels : how often the resolution is halved.
    directions : where the network looks, of "up", "right", "down" and "left". All four see all but
        the pixel; ``("up", "down")`` sees all but the pixel's row, for noise that is correlated
        along the rows (the fast scan axis of STEM).
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : no levels or channels; directions that do not exist, or none.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 12,
        *,
        levels: int = 2,
        directions: Sequence[str] = ("up", "right", "down", "left"),
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if levels < 1 or width < 1:
            raise ValueError(f"a blind-spot network needs levels ({levels}) and width ({width})")
        if not directions or set(directions) - set(TURNS) or len(set(directions)) < len(directions):
            raise ValueError(f"directions {directions}: choose some of {list(TURNS)}, each once")
        self.inputs, self.stride = inputs, 2**levels
        self.turns = tuple(TURNS[name] for name in directions)
        how = {"dtype": dtype, "precision": precision, "rngs": rngs}
        wide = 2 * width * len(self.turns)
        self.half = UpwardUNet(inputs, width, levels, **how)
        self.join = conv(wide, wide, 1, init=HE, **how)
        self.narrow = conv(wide, 2 * width, 1, init=HE, **how)
        self.leave = conv(2 * width, outputs, 1, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, y, x, inputs] -> [b, y, x, outputs]."""
        check_channels(x, self.inputs, "this blind-spot network", 2)
        shape = x.shape[1:-1]
        # with zeros: an edge that is continued would show a pixel to itself
        rest = [(0, -n % self.stride) for n in shape]
        x = jnp.pad(x, ((0, 0), *rest, (0, 0)))
        turned = [jnp.rot90(x, turn, axes=(1, 2)) for turn in self.turns]
        seen = [_down(y) for y in self._halves(turned)]
        pairs = zip(seen, self.turns, strict=True)
        y = jnp.concatenate([jnp.rot90(y, -turn, axes=(1, 2)) for y, turn in pairs], axis=-1)
        y = _leaky(self.narrow(_leaky(self.join(y))))
        return crop(self.leave(y), shape).astype(jnp.float32)

    def _halves(self, pictures: list[jax.Array]) -> list[jax.Array]:
        """The upward network's results; pictures of one shape go through it as one batch."""
        results: dict[int, jax.Array] = {}
        for shape in dict.fromkeys(x.shape for x in pictures):
            which = [i for i, x in enumerate(pictures) if x.shape == shape]
            batch = self.half(jnp.concatenate([pictures[i] for i in which], axis=0))
            results |= dict(zip(which, jnp.split(batch, len(which), axis=0), strict=True))
        return [results[i] for i in range(len(pictures))]


def _down(x: jax.Array) -> jax.Array:
    """Moved down by a row; zeros come in at the top."""
    return jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
