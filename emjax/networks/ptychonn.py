"""PtychoNN: diffraction pattern to amplitude and phase, one encoder and two decoders.

Cherukara, Zhou, Nashed, Enfedaque, Hexemer, Harder & Holt, Applied Physics Letters 117 (2020)
044103 (arXiv:2004.02137).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import (
    check_channels,
    conv,
    crop,
    max_pool,
    pad_to_multiple,
    resize,
)
from emjax.networks.unet_classic import Pair


class Decoder(nnx.Module):
    """Pairs of convolutions, each followed by bilinear interpolation to twice the size."""

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int, **how: Any) -> None:
        self.pairs = nnx.List(
            [Pair(a, b, b, **how) for a, b in itertools.pairwise([inputs, *widths])]
        )
        how.pop("normalise")
        self.leave = conv(widths[-1], outputs, 3, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        for pair in self.pairs:
            x = pair(x)
            x = resize(x, [2 * n for n in x.shape[1:-1]])
        return self.leave(x).astype(jnp.float32)


class PtychoNN(nnx.Module):
    """Patterns to pictures, as many pixels (continued to whole strides and cropped back).

    ``widths=(32, 64, 128), inputs=1, outputs=2`` is the published size: 1,154,210 parameters. There
    are no connections from encoder to decoder: diffraction and real space have no places in common.

    Parameters
    ----------
    inputs : channels; the square root or logarithm of the counts is better than the counts.
    outputs : channels, even: the amplitudes in ``[: outputs // 2]``, the phases (rad) in
        ``[outputs // 2 :]``.
    widths : channels of the encoder's levels, each of which halves the resolution.
    amplitude : "linear", or "sigmoid" for amplitudes of 0 to 1 (as published).
    normalise : group normalisation after each convolution.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : an odd number of outputs, no levels, an amplitude of neither kind.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 2,
        widths: Sequence[int] = (8, 16, 32),
        *,
        amplitude: str = "linear",
        normalise: bool = False,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if outputs < 2 or outputs % 2 or not widths or min(widths) < 1:
            raise ValueError(
                f"PtychoNN gives amplitudes and as many phases, {outputs} outputs do not divide; "
                f"its levels need channels, widths: {widths}"
            )
        if amplitude not in ("linear", "sigmoid"):
            raise ValueError(f"amplitude {amplitude!r}: choose linear or sigmoid")
        self.inputs, self.ndim, self.stride = inputs, ndim, 2 ** len(widths)
        self.kind = amplitude
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        how = {"normalise": normalise, **how}
        self.encoder = nnx.List(
            [Pair(a, b, b, **how) for a, b in itertools.pairwise([inputs, *widths])]
        )
        self.amplitude = Decoder(widths[-1], widths[::-1], outputs // 2, **how)
        self.phase = Decoder(widths[-1], widths[::-1], outputs // 2, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]: amplitudes, then phases in (-π, π)."""
        check_channels(x, self.inputs, "this PtychoNN", self.ndim)
        x, shape = pad_to_multiple(x, self.stride)
        for pair in self.encoder:
            x = max_pool(pair(x))
        amplitude = self.amplitude(x)
        if self.kind == "sigmoid":
            amplitude = nnx.sigmoid(amplitude)
        phase = math.pi * jnp.tanh(self.phase(x))
        return crop(jnp.concatenate([amplitude, phase], axis=-1), shape)
