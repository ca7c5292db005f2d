"""The 3D U-Net for volumes: tomograms, stacks of sections, spectrum images along energy.

Çiçek, Abdulkadir, Lienkamp, Brox & Ronneberger, MICCAI 2016 (arXiv:1606.06650): three poolings,
widened before each of them, normalised. Group instead of batch normalisation, padded convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flax import nnx

from emjax.networks.unet_classic import ClassicUNet


class UNet3D(ClassicUNet):
    """Volume to volume, any size.

    ``widths=(64, 128, 256, 512), inputs=3, outputs=3`` is the published size: 19,075,523
    parameters. The paper counts 19,069,955: it has no scale and offset in its normalisations (4,672
    less) and no offsets in its transposed convolutions (896 less).

    Memory is what limits volumes: `activation_bytes` says what a
    gradient must keep, 0.46 GiB for 64³ voxels at the published size and 7.1 MiB for 32³ voxels at
    the default one, for each volume of a batch.

    Parameters
    ----------
    inputs, outputs : channels.
    widths : channels of the levels, finest first, even; each level halves the resolution.
    normalise : group normalisation after each convolution.
    ndim : 3 for volumes [b, z, y, x, c]; 2 gives the same network for images.
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (8, 16, 32),
        *,
        normalise: bool = True,
        ndim: int = 3,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            inputs,
            outputs,
            widths,
            early=True,
            normalise=normalise,
            ndim=ndim,
            dtype=dtype,
            precision=precision,
            rngs=rngs,
        )


def activation_bytes(
    shape: Sequence[int],
    widths: Sequence[int] = (8, 16, 32),
    *,
    outputs: int = 1,
    bytes_each: int = 4,
) -> int:
    """Bytes that a gradient keeps of the convolutions' results, for one volume.

    Parameters
    ----------
    shape : voxels along each axis, multiples of 2^(levels - 1).
    widths, outputs : of the network.
    bytes_each : 4 for float32, 2 for bfloat16.

    Returns
    -------
    The sum of the outputs of all convolutions. Normalisations keep as much again where the compiler
    does not compute them twice; divide by the number of devices that share a batch.
    """
    voxels = [math.prod(n // 2**level for n in shape) for level in range(len(widths))]
    kept = sum(n * (w // 2 + w) for n, w in zip(voxels, widths, strict=True))
    # on the way up: the transposed convolution keeps the coarser width, then two of the finer
    for level in range(len(widths) - 1):
        kept += voxels[level] * (widths[level + 1] + 2 * widths[level])
    return bytes_each * (kept + voxels[0] * outputs)
