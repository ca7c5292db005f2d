"""Partial scans completed by a diffusion model: pictures drawn from what the measurement allows.

The network learns clean pictures alone, of mean 0 and variance 1, and never sees a scan mask: any
scan plan and any dose come in through the likelihood (`emjax.diffusion.sample`). Their mean is the
restored picture, their spread is what is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emjax.diffusion import sample
from emjax.restoration.inpainting import fill

Apply = Callable[[Any, jax.Array], jax.Array]


def clean_draw(
    draw: Callable[[jax.Array], Mapping[str, jax.Array]],
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """``key -> {"image", "key"}`` for `emjax.diffusion.diffusion_loss`, of draws with ``rate``.

    Pictures with a mean of 0 and a variance of 1, but for those with a contrast below a hundredth
    of their brightness, which stay flat.
    """

    def clean(key: jax.Array) -> dict[str, jax.Array]:
        scene, noise = jax.random.split(key)
        rate = draw(scene)["rate"]
        axes = (1, 2, 3)
        mean, spread = rate.mean(axes, keepdims=True), rate.std(axes, keepdims=True)
        return {"image": (rate - mean) / jnp.maximum(spread, 0.01 * mean + 1e-9), "key": noise}

    return clean


def posterior_samples(
    key: jax.Array,
    apply: Apply,
    params: Any,
    values: jax.Array,
    dwell: jax.Array,
    *,
    readout: float = 0.3,
    steps: int = 30,
    samples: int = 4,
    solves: int = 3,
) -> jax.Array:
    """Pictures [samples, b, y, x, 1] that agree with the measurement, in its units.

    Parameters
    ----------
    key : random key.
    apply, params : network of [noisy picture, level] channels, trained with `diffusion_loss`.
    values, dwell : [b, y, x, 1], electrons per dwell time and dwell times, 0 where not measured.
    readout : standard deviation of a pixel's read-out noise [electrons].
    steps, solves : see `emjax.diffusion.sample`.
    samples : pictures drawn of each scan.

    Raises
    ------
    ValueError : values and dwell times of different shapes, or a scan that measured nothing.
    """
    values, dwell = jnp.asarray(values, jnp.float32), jnp.asarray(dwell, jnp.float32)
    if values.shape != dwell.shape or values.ndim != 4:
        raise ValueError(
            f"values {values.shape} and dwell times {dwell.shape} must both be [b, y, x, 1]"
        )
    if not bool((dwell > 0).any((1, 2, 3)).all()):
        raise ValueError("the coverage of a scan is zero: no pixel was measured")
    axes, mask = (1, 2, 3), dwell > 0
    known = mask.astype(jnp.float32)
    n = known.sum(axes, keepdims=True)
    time = jnp.where(mask, dwell, 1.0)
    mean = (values * known).sum(axes, keepdims=True) / n
    # what is expected in a pixel is not known, so its shot noise is that of the pixels around it
    expected = jnp.maximum(0.5 * (fill(values, mask) + mean), 0.05 * jnp.abs(mean) + 1e-3)
    noise = expected / time + jnp.square(readout / time)
    variance = (jnp.square(values - mean) * known).sum(axes, keepdims=True) / n
    extra = (noise * known).sum(axes, keepdims=True) / n
    spread = jnp.sqrt(jnp.maximum(variance - extra, 0.05 * variance) + 1e-12)

    def many(x: jax.Array) -> jax.Array:
        return jnp.concatenate([x] * samples)

    like = jax.tree_util.Partial(
        _log_likelihood,
        many((values - mean) / spread),
        many(known * jnp.square(spread) / noise),
    )
    drawn = sample(
        *(key, apply, params, (samples * len(values), *values.shape[1:])),
        steps=steps,
        solves=solves,
        log_likelihood=like,
    )
    return drawn.reshape(samples, *values.shape) * spread[None] + mean[None]


def diffusion_restorer(
    apply: Apply, params: Any, *, batch: int = 16, seed: int = 0, **how: Any
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """``(values [n, y, x], dwell) -> mean picture [n, y, x]`` of `posterior_samples`."""

    def restorer(values: np.ndarray, dwell: np.ndarray) -> np.ndarray:
        parts = []
        for i in range(0, len(values), batch):
            v, d = values[i : i + batch], dwell[i : i + batch]
            missing = batch - len(v)  # one compilation for all
            v, d = (np.concatenate([a, np.repeat(a[:1], missing, 0)])[..., None] for a in (v, d))
            key = jax.random.fold_in(jax.random.key(seed), i)
            drawn = posterior_samples(key, apply, params, v, d, **how)
            parts.append(np.asarray(drawn.mean(0))[: batch - missing, ..., 0])
        return np.concatenate(parts).astype(np.float64)

    return restorer


def _log_likelihood(values: jax.Array, precision: jax.Array, picture: jax.Array) -> jax.Array:
    return -0.5 * (precision * jnp.square(picture - values)).sum((1, 2, 3))
