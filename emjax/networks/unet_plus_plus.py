"""U-Net++: the connections of a U-Net become chains of convolutions, densely wired.

Zhou, Siddiquee, Tajbakhsh & Liang, DLMIA 2018 (arXiv:1807.10165). Node (i, j) lies at level i and
sees all nodes (i, 0 … j-1) before it and node (i + 1, j - 1) below it; L levels have L(L + 1)/2.
"""

from __future__ import annotations

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
    transposed,
)
from emjax.networks.unet_classic import Pair


class UNetPlusPlus(nnx.Module):
    """Image to image, any size (continued to whole strides and cropped back).

    ``widths=(32, 64, 128, 256, 512), inputs=1, outputs=1`` is the published size: 9,041,700
    parameters (9.04 million in the paper).

    Parameters
    ----------
    inputs, outputs : channels.
    widths : channels of the levels, finest first; each level halves the resolution; at least two.
    heads : "mean" of the outputs of nodes (0, 1), (0, 2) … (deep supervision); the "last" of them;
        or "stacked": all of them, outputs·(levels - 1) channels, head j = 1, 2 … in channels
        ``[(j - 1) * outputs : j * outputs]``, for a loss of each.
    depth : take only the first heads, up to (0, depth): what lies right of it is not computed
        (pruning after training); None is all.
    normalise : group normalisation after each convolution.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.

    Raises
    ------
    ValueError : fewer than two levels, no such kind of heads, or no such depth.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (8, 16, 32),
        *,
        heads: str = "mean",
        depth: int | None = None,
        normalise: bool = False,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        levels = len(widths)
        if levels < 2 or min(widths) < 1:
            raise ValueError(f"U-Net++ needs two levels or more, with channels; widths: {widths}")
        if heads not in ("mean", "last", "stacked"):
            raise ValueError(f"heads {heads!r} of U-Net++: choose mean, last or stacked")
        if depth is not None and not 1 <= depth < levels:
            raise ValueError(f"depth {depth} of U-Net++ must lie in 1 … {levels - 1}")
        self.inputs, self.ndim, self.stride = inputs, ndim, 2 ** (levels - 1)
        self.heads, self.depth = heads, depth or levels - 1
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}

        def node(i: int, j: int) -> Pair:
            width = widths[i]
            seen = (j + 1) * width if j else (inputs, *widths)[i]
            return Pair(seen, width, width, normalise=normalise, **how)

        # nodes[j][i]: the j-th diagonal, which needs nothing right of it
        self.nodes = nnx.List(
            [nnx.List([node(i, j) for i in range(levels - j)]) for j in range(levels)]
        )
        self.grow = nnx.List(
            [
                nnx.List([transposed(widths[i + 1], widths[i], **how) for i in range(levels - j)])
                for j in range(1, levels)
            ]
        )
        self.leave = nnx.List([conv(widths[0], outputs, 1, **how) for _ in range(levels - 1)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        check_channels(x, self.inputs, "this U-Net++", self.ndim)
        x, shape = pad_to_multiple(x, self.stride)
        levels: list[list[jax.Array]] = []
        for i, node in enumerate(list(self.nodes[0])[: self.depth + 1]):
            x = node(max_pool(x) if i else x)
            levels.append([x])
        for j in range(1, self.depth + 1):
            for i in range(self.depth + 1 - j):
                below = self.grow[j - 1][i](levels[i + 1][j - 1])
                levels[i].append(self.nodes[j][i](jnp.concatenate([*levels[i], below], axis=-1)))
        results = [
            self.leave[j - 1](levels[0][j]).astype(jnp.float32)
            for j in range(self.depth if self.heads == "last" else 1, self.depth + 1)
        ]
        if self.heads == "stacked":
            return crop(jnp.concatenate(results, axis=-1), shape)
        return crop(sum(results[1:], results[0]) / len(results), shape)
