"""Pixel by pixel: ``(prediction, target, weight=None) -> scalar``, arrays of one shape.

`weight` has the shape of the target or of its first axes (see `basics.average`). All losses are
computed in float32 or wider, whatever the network's dtype.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from emjax.losses.basics import alike, average


def mse(prediction: jax.Array, target: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Mean of d², d = prediction - target. The minimum is the expected target.

    With noisy targets of zero-mean noise the minimum is the clean image (Noise2Noise): the target
    must not be rescaled by its own minimum and maximum then, which shifts its mean.
    """
    prediction, target = alike(prediction, target, weight)
    return average(jnp.square(prediction - target), weight)


def mae(prediction: jax.Array, target: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Mean of abs(d), L1. The minimum is the median of the target."""
    prediction, target = alike(prediction, target, weight)
    return average(jnp.abs(prediction - target), weight)


def huber(
    prediction: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    *,
    delta: float = 1.0,
) -> jax.Array:
    """Mean of d²/2 up to abs(d) = delta, and of delta (abs(d) - delta/2) beyond (Huber 1964)."""
    prediction, target = alike(prediction, target, weight)
    size = jnp.abs(prediction - target)
    inner = jnp.minimum(size, delta)
    return average(inner * (size - 0.5 * inner), weight)


def charbonnier(
    prediction: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    *,
    epsilon: float = 1e-3,
) -> jax.Array:
    """Mean of √(d² + ε²) - ε (Charbonnier et al., ICIP 1994): L1 with a smooth foot.

    ε is in the units of the image. The ε that is subtracted makes a perfect prediction cost 0.
    """
    prediction, target = alike(prediction, target, weight)
    root = jnp.sqrt(jnp.square(prediction - target) + epsilon**2)
    return average(root - epsilon, weight)


def poisson_nll(
    prediction: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    *,
    log_rate: bool = False,
    floor: float = 1e-6,
) -> jax.Array:
    """Mean of λ - n ln λ + ln n!, the negative logarithm of the Poisson probability of n counts.

    Parameters
    ----------
    prediction : rate λ ≥ 0 in counts per pixel (end the network with softplus), or its logarithm
        with `log_rate`: then no bound is needed.
    target : counts n.
    weight : see `basics.average`.
    log_rate : `prediction` is ln λ.
    floor : smaller rates are taken as this; their gradient is that at the floor, so that a rate
        that fell below it comes back.
    """
    prediction, target = alike(prediction, target, weight)
    if log_rate:
        rate, log = jnp.exp(prediction), prediction
    else:
        # the value of the maximum with the gradient of the identity; the floor itself, because
        # prediction + (floor - prediction) is 0 for rates of -20 and the logarithm infinite
        rate = jax.lax.stop_gradient(jnp.maximum(prediction, floor))
        rate = rate + (prediction - jax.lax.stop_gradient(prediction))
        log = jnp.log(rate)
    return average(rate - target * log + jax.scipy.special.gammaln(target + 1), weight)
