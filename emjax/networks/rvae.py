"""Variational autoencoder that knows rotations and shifts: they are latent values by themselves.

The decoder paints a picture point by point from coordinates that are turned and moved; what is left
for the other latent values is the object's shape. Bepler et al., NeurIPS 2019 (spatial-VAE); for
atoms in graphene Kalinin et al., npj Comput. Mater. 2021.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.layers import check_channels, dense, resize
from emjax.networks.vae import bounded, normal_kl


class RVAE(nnx.Module):
    """Image to (angle, shift y, shift x, content), and these to an image.

    Latent values [b, 3 + latent]: the angle [rad] turns the object from the x to the y axis (y is
    down: clockwise on a screen); the shifts move it then, in units of half the longer side; the
    rest is content. Called as a network it gives the image of the mean.

    ``hidden=(128, 128), frequencies=0, latent=2`` with ``activation="tanh"`` are the usual sizes
    in the literature.

    Parameters
    ----------
    inputs, outputs : channels.
    latent : number of content values.
    size : pixels (y, x) that the encoder sees; other images are resized (linearly). The decoder
        paints pictures of any size.
    hidden : widths of the encoder's and the decoder's layers.
    frequencies : waves along each axis that the decoder is given beside the coordinates
        (Tancik et al., NeurIPS 2020): more of them, finer detail. 0: coordinates alone.
    activation : "silu" or "tanh".
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        *,
        latent: int = 2,
        size: Sequence[int] = (16, 16),
        hidden: Sequence[int] = (64, 64),
        frequencies: int = 2,
        activation: str = "silu",
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not hidden or min(hidden) < 1 or latent < 0 or frequencies < 0:
            raise ValueError(
                f"an rVAE needs hidden layers ({hidden}), and latent ({latent}) and frequencies "
                f"({frequencies}) of at least 0"
            )
        if len(size) != 2 or min(size) < 2:
            raise ValueError(f"size {tuple(size)} must be (y, x), at least 2 pixels each")
        if activation not in ("silu", "tanh"):
            raise ValueError(f"activation {activation!r}: choose silu or tanh")
        self.inputs, self.size, self.latent = inputs, tuple(size), latent
        self.frequencies = frequencies
        self.act = {"silu": nnx.silu, "tanh": nnx.tanh}[activation]
        make = functools.partial(dense, dtype=dtype, precision=precision, rngs=rngs)
        pairs = list(itertools.pairwise(hidden))
        features = 2 + 4 * frequencies
        self.enter = make(inputs * math.prod(size), hidden[0])
        self.encoder = nnx.List([make(a, b) for a, b in pairs])
        # means: a direction (its angle has no cut), shift, content; log-variances
        start = nnx.initializers.variance_scaling(0.01, "fan_in", "normal")
        self.mean = make(hidden[-1], 4 + latent, init=start)
        self.log_variance = make(hidden[-1], 3 + latent, init=start)
        self.place = make(features, hidden[0])
        self.content = make(latent, hidden[0], bias=False) if latent else None
        self.decoder = nnx.List([make(a, b) for a, b in pairs])
        self.leave = make(hidden[-1], outputs)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[b, y, x, inputs] -> mean and log-variance, [b, 3 + latent] each."""
        check_channels(x, self.inputs, "this rVAE", 2)
        x = resize(x, self.size)
        x = self.act(self.enter(x.reshape(len(x), -1)))
        for layer in self.encoder:
            x = self.act(layer(x))
        mean = self.mean(x).astype(jnp.float32)
        log_variance = self.log_variance(x).astype(jnp.float32)
        angle = direction_angle(mean[:, :2] + jnp.array([[1.0, 0.0]]))
        mean = jnp.concatenate([angle[:, None], mean[:, 2:]], axis=1)
        # the first pictures are painted at nearly the mean's angle and place
        narrow = jnp.where(jnp.arange(3 + self.latent) < 3, 4.0, 0.0)
        return mean, bounded(log_variance - narrow[None])

    def decode(self, z: jax.Array, shape: Sequence[int] | None = None) -> jax.Array:
        """[b, 3 + latent] -> [b, y, x, outputs], of `shape` (default: `size`)."""
        shape = tuple(shape or self.size)
        points = body_coordinates(z[:, 0], z[:, 1:3], shape)
        waves = jnp.pi * jnp.arange(1, self.frequencies + 1)
        phase = (points[..., None] * waves[None, None, None]).reshape(*points.shape[:2], -1)
        h = self.place(jnp.concatenate([points, jnp.sin(phase), jnp.cos(phase)], axis=-1))
        if self.content is not None:
            h = h + self.content(z[:, 3:])[:, None]
        h = self.act(h)
        for layer in self.decoder:
            h = self.act(layer(h))
        return self.leave(h).reshape(len(z), *shape, -1).astype(jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, y, x, inputs] -> [b, y, x, outputs]."""
        return self.decode(self.encode(x)[0], x.shape[1:3])


def body_coordinates(angle: jax.Array, shift: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Where in the object each pixel lies.

    Parameters
    ----------
    angle : [b], rad, from the x to the y axis.
    shift : [b, 2] (y, x), in units of half the longer side.
    shape : pixels (y, x).

    Returns
    -------
    [b, y * x, 2] (y, x): the pixels' centres, -1 to 1 along the longer side, moved and turned back.
    """
    half = max(shape) / 2
    y, x = jnp.meshgrid(*((jnp.arange(n) + 0.5 - n / 2) / half for n in shape), indexing="ij")
    y, x = y.reshape(1, -1) - shift[:, :1], x.reshape(1, -1) - shift[:, 1:]
    c, s = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]
    return jnp.stack([c * y - s * x, s * y + c * x], axis=-1)


def direction_angle(v: jax.Array) -> jax.Array:
    """[b, 2] (x, y) -> the angles of vectors [rad]; finite gradients for length 0 too."""
    tiny = jnp.square(v).sum(-1, keepdims=True) < 1e-6
    x, y = jnp.moveaxis(jnp.where(tiny, jnp.array([[1.0, 0.0]]), v), -1, 0)
    return jnp.arctan2(y, x)


def rvae_kl(
    angle: float | None = None, shift: float = 0.1
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Divergence from an rVAE's prior, for `vae_loss`.

    Parameters
    ----------
    angle : standard deviation of the angles [rad]; None: every angle is as likely. Then the
        divergence is that of a narrow normal distribution from the circle's uniform one,
        ln 2π - ½ ln 2πeσ², and 0 where σ is so wide that this would be negative.
    shift : standard deviation of the shifts, in units of half the longer side.
    """
    if shift <= 0 or (angle is not None and angle <= 0):
        raise ValueError(f"standard deviations of angle ({angle}) and shift ({shift}) are positive")

    def kl(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
        if angle is None:
            turned = 0.5 * (math.log(2 * math.pi) - 1 - log_variance[:, 0])
            turned = jnp.maximum(turned, 0.0)
        else:
            turned = normal_kl(mean[:, :1], log_variance[:, :1], angle)
        moved = normal_kl(mean[:, 1:3], log_variance[:, 1:3], shift)
        return turned + moved + normal_kl(mean[:, 3:], log_variance[:, 3:])

    return kl
