"""A U-Net that is shown Wiener filters of the whole image beside the image.

What is periodic over the whole picture is known far better than any window of a convolution can
tell; what is not, the filter gets wrong. The network has both and decides at each place. The filter
is that of white noise: Wiener's gain, max(0, 1 - s · noise / power), with the power spectrum of the
image itself, smoothed over neighbouring frequencies, and the noise read off at high frequencies,
where images that sample the probe well hold nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emjax.networks.layers import check_channels
from emjax.networks.unet import UNet

HIGH = 0.4
"""Cycles per pixel above which there is noise alone."""


class FourierUNet(nnx.Module):
    """Image to image, any size.

    Parameters
    ----------
    inputs, outputs, widths, stem, blocks, dtype, precision, rngs : of `UNet`, which sees the image
        and its filtered copies.
    strengths : s of each filtered copy; more is smoother.
    smoothing : of the power spectrum, standard deviation in units of 1 / (128 pixels).
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (16, 24, 32),
        *,
        strengths: Sequence[float] = (1.0, 3.0),
        smoothing: float = 0.7,
        stem: int = 2,
        blocks: int = 1,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not strengths or min(strengths) <= 0 or smoothing < 0:
            raise ValueError(
                f"strengths {tuple(strengths)}: one or more positive numbers; and smoothing "
                f"{smoothing} not negative"
            )
        self.inputs, self.strengths, self.smoothing = inputs, tuple(strengths), smoothing
        how = {"stem": stem, "blocks": blocks, "dtype": dtype, "precision": precision}
        self.unet = UNet(inputs * (1 + len(self.strengths)), outputs, widths, **how, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, y, x, inputs] -> [b, y, x, outputs]."""
        check_channels(x, self.inputs, "this Fourier U-Net", 2)
        copies = wiener_copies(x.astype(jnp.float32), self.strengths, self.smoothing)
        return self.unet(jnp.concatenate([x.astype(jnp.float32), copies], axis=-1))


def wiener_copies(x: jax.Array, strengths: Sequence[float], smoothing: float) -> jax.Array:
    """[b, y, x, c] -> [b, y, x, c · strengths]: Wiener filters from each image's own spectrum."""
    ny, nx = x.shape[1:3]
    mean = x.mean((1, 2), keepdims=True)
    spectrum = jnp.fft.rfft2(x - mean, axes=(1, 2))
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    ky, kx = np.fft.fftfreq(ny)[:, None], np.fft.rfftfreq(nx)[None]
    high = (np.hypot(ky, kx) > HIGH).astype(np.float32)[None, :, :, None]
    noise = (power * high).sum((1, 2), keepdims=True) / max(high.sum(), 1.0)
    # neighbouring frequencies together: a window on the autocorrelation
    y, column = np.fft.fftfreq(ny, 1 / ny)[:, None], np.fft.fftfreq(nx, 1 / nx)[None]
    radius = 2 * np.pi * smoothing / 128 * np.hypot(y, column)
    window = np.exp(-0.5 * radius**2).astype(np.float32)[None, :, :, None]
    correlation = jnp.fft.irfft2(power, s=(ny, nx), axes=(1, 2)) * window
    power = jnp.maximum(jnp.fft.rfft2(correlation, axes=(1, 2)).real, 0) + 1e-6
    copies = [
        jnp.fft.irfft2(spectrum * jnp.maximum(1 - s * noise / power, 0.0), s=(ny, nx), axes=(1, 2))
        for s in strengths
    ]
    return jnp.concatenate(copies, axis=-1) + jnp.concatenate([mean] * len(copies), axis=-1)
