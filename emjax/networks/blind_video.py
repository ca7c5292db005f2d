"""A blind-spot network for movies: a frame is predicted from itself and the frames about it.

After UDVD (Sheth, Mohan, Vincent, Manzorro, Crozier, Khapra, Simoncelli & Fernandez-Granda, ICCV
2021): the half-plane networks of `blind_spot` look at several frames at once. Only the middle one
has the blind spot, for the noise of the others is another one: they are moved a few rows towards
the direction of sight, and so are seen on the pixel itself and beyond it, where drift takes things.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.blind_spot import BlindSpotNet, _down, _leaky
from emjax.networks.layers import check_channels, crop


class BlindVideoNet(BlindSpotNet):
    """Frames to their middle frame, any size (continued with zeros and cropped back).

    One set of weights serves all four directions. With ``frames=1`` it is `BlindSpotNet`, weights
    and all. UDVD has two such stages, the first shared by three triples of its five frames; here
    all frames enter one, which takes hardly longer than a single frame.

    Parameters
    ----------
    inputs : channels, those of each frame together, frame after frame: ``frames`` divides them.
    outputs : channels of the result, which belongs to the middle frame.
    width : channels of the encoder; twice as many in the decoder.
    frames : how many, odd. The middle one of an output pixel is invisible there.
    ahead : rows beyond the pixel that each direction sees of the other frames; at least as many
        pixels as things move to the farthest of them.
    levels : how often the resolution is halved.
    directions : where the network looks, of "up", "right", "down" and "left".
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : an even number of frames, channels that are not of as many frames, and what
        `BlindSpotNet` refuses.
    """

    def __init__(
        self,
        inputs: int = 5,
        outputs: int = 1,
        width: int = 12,
        *,
        frames: int = 5,
        ahead: int = 3,
        levels: int = 2,
        directions: Sequence[str] = ("up", "right", "down", "left"),
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if frames < 1 or frames % 2 == 0:
            raise ValueError(f"{frames} frames have no middle one: choose 1, 3, 5, …")
        if inputs % frames:
            raise ValueError(f"{inputs} channels are not {frames} frames of as many each")
        if ahead < 0:
            raise ValueError(f"ahead is a number of rows, not {ahead}")
        how = {"levels": levels, "directions": directions, "dtype": dtype, "precision": precision}
        super().__init__(inputs, outputs, width, rngs=rngs, **how)
        self.frames, self.ahead = frames, ahead
        self.room = -(-(1 + ahead) // self.stride) * self.stride if frames > 1 else 0

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, y, x, inputs] -> [b, y, x, outputs]."""
        check_channels(x, self.inputs, "this blind-spot network", 2)
        shape = x.shape[1:-1]
        # with zeros: an edge that is continued would show a pixel to itself
        rest = [(0, -n % self.stride) for n in shape]
        x = jnp.pad(x, ((0, 0), *rest, (0, 0)))
        turned = [self._looking(jnp.rot90(x, turn, axes=(1, 2))) for turn in self.turns]
        seen = [_down(y)[:, self.room :] for y in self._halves(turned)]
        pairs = zip(seen, self.turns, strict=True)
        y = jnp.concatenate([jnp.rot90(y, -turn, axes=(1, 2)) for y, turn in pairs], axis=-1)
        y = _leaky(self.narrow(_leaky(self.join(y))))
        return crop(self.leave(y), shape).astype(jnp.float32)

    def _looking(self, x: jax.Array) -> jax.Array:
        """Under `room` rows of zeros; all frames but the middle one are moved up into them."""
        each = self.inputs // self.frames
        first = each * (self.frames // 2)
        x = jnp.pad(x, ((0, 0), (self.room, 0), (0, 0), (0, 0)))
        before, middle, after = jnp.split(x, [first, first + each], axis=-1)
        return jnp.concatenate([self._up(before), middle, self._up(after)], axis=-1)

    def _up(self, x: jax.Array) -> jax.Array:
        rows = 1 + self.ahead
        return jnp.pad(x, ((0, 0), (0, rows), (0, 0), (0, 0)))[:, rows:]
