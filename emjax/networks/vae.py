"""Variational autoencoder, and the bound on the evidence that it maximises.

Kingma & Welling, ICLR 2014 (arXiv:1312.6114).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.autoencoder import Decoder, Encoder, check_sizes
from emjax.networks.layers import check_channels, crop, resize

LOG_VARIANCE = 12.0
"""Largest size of a log-variance: e^±12 neither overflows nor stops the gradient."""


class VAE(nnx.Module):
    """Image to a normal distribution of latent values, and latent values to an image.

    Called as a network it gives the image of the mean. The two halves are
    ``parts(VAE, key, "encode", "decode", **args)``; `vae_loss` trains them.

    Parameters
    ----------
    inputs, outputs : channels.
    widths : channels of the levels, finest first; each level halves the resolution.
    latent : number of latent values.
    size : pixels (y, x) of the images; others are resized (linearly) and back.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        widths: Sequence[int] = (16, 24, 32),
        *,
        latent: int = 8,
        size: Sequence[int] = (32, 32),
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(widths, latent, size, ndim)
        self.inputs, self.ndim, self.size = inputs, ndim, tuple(size)
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        self.encoder = Encoder(inputs, 2 * latent, widths, size, **how)
        self.decoder = Decoder(outputs, latent, widths, size, **how)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[b, (z,) y, x, inputs] -> mean and log-variance [b, latent] of the latent values."""
        check_channels(x, self.inputs, "this VAE", self.ndim)
        code = self.encoder(resize(x, self.size)).astype(jnp.float32)
        mean, log_variance = jnp.split(code, 2, axis=-1)
        return mean, bounded(log_variance)

    def decode(self, z: jax.Array) -> jax.Array:
        """[b, latent] -> [b, (z,) y, x, outputs], of `size`."""
        return crop(self.decoder(z), self.size).astype(jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> [b, (z,) y, x, outputs]."""
        return resize(self.decode(self.encode(x)[0]), x.shape[1:-1])


def bounded(log_variance: jax.Array) -> jax.Array:
    """Between ±`LOG_VARIANCE`, with a slope everywhere."""
    return LOG_VARIANCE * jnp.tanh(log_variance / LOG_VARIANCE)


def normal_kl(mean: jax.Array, log_variance: jax.Array, scale: Any = 1.0) -> jax.Array:
    """Divergence of N(mean, variance) from N(0, scale²), summed over the last axis [nats].

    ½ Σ (σ² + μ²) / s² - 1 - ln(σ² / s²); 0 where they are the same.

    >>> float(normal_kl(jnp.array([1.0]), jnp.array([0.0])))
    0.5
    """
    ratio = (jnp.exp(log_variance) + mean**2) / scale**2
    return 0.5 * (ratio - 1 - log_variance + 2 * jnp.log(scale)).sum(-1)


def normal_log_likelihood(x: jax.Array, mean: jax.Array, noise: float) -> jax.Array:
    """ln p(x | mean) of independent pixels with standard deviation `noise`: [b, …] -> [b], nats."""
    axes = tuple(range(1, x.ndim))
    squares = jnp.square((x - mean) / noise) + math.log(2 * math.pi * noise**2)
    return -0.5 * squares.sum(axes)


def draw_latent(key: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """mean + σ ε: a sample through which gradients pass."""
    return mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape, mean.dtype)


def vae_loss(
    encode: Callable[..., tuple[jax.Array, jax.Array]],
    decode: Callable[..., jax.Array],
    *,
    noise: float = 0.1,
    beta: float = 1.0,
    kl: Callable[[jax.Array, jax.Array], jax.Array] = normal_kl,
    log_likelihood: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Callable[[Any, Mapping[str, Any]], tuple[jax.Array, dict[str, jax.Array]]]:
    """Negative evidence lower bound for each pixel.

    ELBO = E ln p(x | z) - beta KL(q(z | x) ‖ p(z)), with one latent sample for each image.

    Parameters
    ----------
    encode, decode : of `parts`: ``(params, x) -> (mean, log_variance)``, ``(params, z) -> image``.
    noise : standard deviation of a pixel, in units of the image; with `log_likelihood` unused.
    beta : above 1, latent values that are more independent (Higgins et al., ICLR 2017).
    kl : ``(mean, log_variance) -> [b]``, to the prior.
    log_likelihood : ``(image, decoded) -> [b]`` instead of the normal one, such as a Poisson's.

    Returns
    -------
    loss : ``(params, batch) -> (scalar, metrics)``; batches have ``image`` [b, y, x, c], ``key``.
        Metrics ``elbo`` and ``kl`` are in nats for each image, ``rmse`` in units of the image.
    """
    if noise <= 0 or beta < 0:
        raise ValueError(f"noise ({noise}) must be positive and beta ({beta}) not negative")
    like = log_likelihood or (lambda x, y: normal_log_likelihood(x, y, noise))

    def loss(params: Any, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        x = batch["image"]
        mean, log_variance = encode(params, x)
        decoded = decode(params, draw_latent(batch["key"], mean, log_variance))
        if decoded.shape != x.shape:
            raise ValueError(
                f"the decoder's images have shape {decoded.shape}, those of the batch {x.shape}: "
                "make the network with their size and channels"
            )
        divergence = kl(mean, log_variance)
        elbo = (like(x, decoded) - beta * divergence).mean()
        rmse = jnp.sqrt(jnp.square(x - decoded).mean())
        return -elbo / x[0].size, {"elbo": elbo, "kl": divergence.mean(), "rmse": rmse}

    return loss
