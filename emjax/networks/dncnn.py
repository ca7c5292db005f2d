"""DnCNN: a chain of convolutions that predicts the noise.

Zhang, Zuo, Chen, Meng & Zhang, IEEE Transactions on Image Processing 26 (2017) 3142.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from emjax.networks.layers import check_channels, conv, norm
from emjax.networks.restoring import adds_input, finish
from emjax.networks.unet_classic import HE


class DnCNN(nnx.Module):
    """Image to image, any size; stride 1, reach `depth` pixels.

    ``width=64, depth=17, normalise=True`` is the published size (DnCNN-S): 556,032 parameters for
    one channel.

    Parameters
    ----------
    inputs, outputs : channels.
    width : channels between the layers.
    depth : 3×3 convolutions, at least 2.
    normalise : group normalisation in all layers but the first and the last. The published one is
        batch normalisation. Off, each layer has an offset instead.
    residual : add the input to the output; None: where they have as many channels.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : fewer than two layers, or an input that cannot be added.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        width: int = 16,
        *,
        depth: int = 6,
        normalise: bool = False,
        residual: bool | None = None,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if depth < 2 or width < 1:
            raise ValueError(f"DnCNN needs 2 layers or more (depth {depth}), of width 1 ({width})")
        self.inputs, self.ndim = inputs, ndim
        self.residual = adds_input(residual, inputs, outputs, "DnCNN")
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        widths = [inputs, *[width] * (depth - 1)]
        self.layers = nnx.List(
            [conv(a, width, 3, init=HE, bias=not normalise, **how) for a in widths[:-1]]
        )
        many = depth - 2 if normalise else 0
        self.norms = nnx.List([norm(width, dtype=dtype, rngs=rngs) for _ in range(many)])
        self.leave = conv(width, outputs, 3, bias=not normalise, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        check_channels(x, self.inputs, "this DnCNN", self.ndim)
        y = x
        for i, layer in enumerate(self.layers):
            y = layer(y)
            y = nnx.relu(self.norms[i - 1](y) if i and self.norms else y)
        return finish(self.leave(y), x, self.residual)
