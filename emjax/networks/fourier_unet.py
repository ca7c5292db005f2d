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
from emjax.networks.refit import refitted
from emjax.networks.scan_rows import move_rows, row_shifts
from emjax.networks.unet import UNet

HIGH = 0.4
"""Cycles per pixel above which there is noise alone."""
STRONG = 30.0
"""Strength of the filter that leaves the lattice without its jitter."""


class FourierUNet(nnx.Module):
    """Image to image, any size.

    Parameters
    ----------
    inputs, outputs, widths, stem, blocks, dtype, precision, rngs : of `UNet`, which sees the image
        and its filtered copies.
    strengths : s of each filtered copy; more is smoother.
    smoothing : of the power spectrum, standard deviation in units of 1 / (128 pixels).
    rows : the network also sees the image with its rows put straight (`scan_rows`), and filtered
        copies of that; for images whose fast scan is along x
        (False where there is no scan).
    refit : the network also sees a filtered copy whose columns are put where the image has them
        (`refit`).
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (16, 24, 32),
        *,
        strengths: Sequence[float] = (1.0, 3.0),
        smoothing: float = 0.7,
        rows: bool = True,
        refit: bool = True,
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
        self.rows, self.refit = rows, refit
        how = {"stem": stem, "blocks": blocks, "dtype": dtype, "precision": precision}
        seen = inputs * ((1 + len(self.strengths)) * (2 if rows else 1) + bool(refit))
        self.unet = UNet(seen, outputs, widths, **how, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, y, x, inputs] -> [b, y, x, outputs]."""
        check_channels(x, self.inputs, "this Fourier U-Net", 2)
        x = x.astype(jnp.float32)
        copies, noise = _filtered(x, self.strengths, self.smoothing)
        seen = [x, copies]
        if self.rows:
            x = straightened(x, self.smoothing)
            copies, noise = _filtered(x, self.strengths, self.smoothing)
            seen += [x, copies]
        if self.refit:
            seen.append(put_right(x, copies[..., -self.inputs :], noise))
        return self.unet(jnp.concatenate(seen, axis=-1))


def wiener_copies(x: jax.Array, strengths: Sequence[float], smoothing: float) -> jax.Array:
    """[b, y, x, c] -> [b, y, x, c · strengths]: Wiener filters from each image's own spectrum."""
    return _filtered(x, strengths, smoothing)[0]


def straightened(x: jax.Array, smoothing: float) -> jax.Array:
    """[b, y, x, c] with every row moved to where a strong Wiener filter has it; not differentiated.

    Channels are recordings of the same scan: the first one says how the rows lie.
    """
    x = jax.lax.stop_gradient(x)
    guide, noise = _filtered(x[..., :1], (STRONG,), smoothing)
    shifts = row_shifts(x[..., 0], guide[..., 0], noise[:, 0, 0, 0])
    return jnp.stack([move_rows(x[..., i], shifts) for i in range(x.shape[-1])], axis=-1)


def put_right(x: jax.Array, picture: jax.Array, noise: jax.Array) -> jax.Array:
    """A filtered copy of x, both [b, y, x, c], its columns fitted to the image."""
    made = []
    for i in range(x.shape[-1]):
        one = picture[..., i]
        for _ in range(2):  # a displacement of a pixel is not a small one
            one = refitted(x[..., i], one, noise[:, 0, 0, i])
        made.append(one)
    return jnp.stack(made, axis=-1)


def _filtered(
    x: jax.Array, strengths: Sequence[float], smoothing: float
) -> tuple[jax.Array, jax.Array]:
    """The copies, and the variance of the noise in a pixel [b, 1, 1, c]."""
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
    means = jnp.concatenate([mean] * len(copies), axis=-1)
    return jnp.concatenate(copies, axis=-1) + means, noise / (ny * nx)
