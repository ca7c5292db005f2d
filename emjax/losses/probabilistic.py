"""Noise2Void with a noise model: a network's samples of the signal, weighed by the noisy value.

Krull, Vicar, Prakash, Lalit & Jug, "Probabilistic Noise2Void" (Front. Comput. Sci. 2020), and
Prakash, Lalit, Tomancak, Krull & Jug (ISBI 2020) for the Gaussian mixture. The network predicts k
samples of what the signal may be at a hidden pixel; the noise model says how likely the noisy
value is for each. Afterwards the same product gives the posterior mean, which uses the pixel's own
value as Noise2Void cannot.

A noise model is any function ``(observed, signal) -> ln p(observed | signal)``, elementwise. The
two here are fitted to pairs of both: a calibration (a still scene, its mean as the signal), or,
bootstrapped, noisy images with what a first Noise2Void network made of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from emjax.losses.basics import Loss, average, wide

NoiseModel = Callable[[jax.Array, jax.Array], jax.Array]
"""``(observed, signal) -> ln p(observed | signal)``, arrays of one shape."""


def probabilistic_noise2void(
    apply: Callable[[Any, jax.Array], jax.Array], noise: NoiseModel
) -> Loss:
    """Mean of -ln (1/k Σ p(target | sample)) over the hidden pixels.

    Parameters
    ----------
    apply : network ``(params, x[b, y, x, 1]) -> samples [b, y, x, k]``; k of some hundred.
    noise : noise model.

    Returns
    -------
    Loss : of batches of `noise2void_batch`, with one channel.
    """

    def loss(params: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict]:
        samples = wide(apply(params, batch["image"]))
        logs = _log_likelihood(noise, samples, batch["target"])
        nll = math.log(samples.shape[-1]) - jax.nn.logsumexp(logs, axis=-1)
        prior = jnp.square(samples.mean(-1) - batch["target"][..., 0])
        return average(nll, batch["weight"]), {"prior_mse": average(prior, batch["weight"])}

    return loss


def posterior_mean(samples: jax.Array, observed: jax.Array, noise: NoiseModel) -> jax.Array:
    """Σ s p(observed | s) / Σ p(observed | s), the estimate of the least mean square error.

    Parameters
    ----------
    samples : [b, y, x, k] of the network, applied to the noisy image as it is.
    observed : the noisy image [b, y, x, 1].
    noise : noise model.

    Returns
    -------
    jax.Array : [b, y, x, 1].
    """
    samples = wide(samples)
    share = jax.nn.softmax(_log_likelihood(noise, samples, observed), axis=-1)
    return (share * samples).sum(-1, keepdims=True)


def _log_likelihood(noise: NoiseModel, samples: jax.Array, observed: jax.Array) -> jax.Array:
    if observed.shape != (*samples.shape[:-1], 1):
        raise ValueError(
            f"samples of shape {samples.shape} belong to an image of shape "
            f"{(*samples.shape[:-1], 1)}, not {observed.shape}"
        )
    return noise(jnp.broadcast_to(wide(observed), samples.shape), samples)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("density", "signal_range", "observed_range"),
    meta_fields=(),
)
@dataclass(frozen=True)
class HistogramNoise:
    """p(observed | signal) as a table; made by `fit_histogram`."""

    density: jax.Array
    """[s, o], each row a density in the units of the image."""
    signal_range: jax.Array
    """Centres of the first and last row."""
    observed_range: jax.Array
    """Edges of the columns."""

    def __call__(self, observed: jax.Array, signal: jax.Array) -> jax.Array:
        """ln p, between rows interpolated (so that it has a slope), at the ends continued."""
        rows, columns = self.density.shape
        low, high = self.observed_range
        column = jnp.floor((observed - low) / (high - low) * columns).astype(jnp.int32)
        column = jnp.clip(column, 0, columns - 1)
        low, high = self.signal_range
        place = jnp.clip((signal - low) / (high - low) * (rows - 1), 0, rows - 1)
        row = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, rows - 2)
        part = place - row
        p = (1 - part) * self.density[row, column] + part * self.density[row + 1, column]
        return jnp.log(p)


def fit_histogram(
    signal: np.ndarray,
    observed: np.ndarray,
    *,
    bins: tuple[int, int] = (64, 128),
    floor: float = 1e-3,
) -> HistogramNoise:
    """Count how often each value was seen for each signal.

    Parameters
    ----------
    signal, observed : of one shape; many pairs (some hundred for each row).
    bins : rows (signal) and columns (observed).
    floor : this share of each row is spread evenly over all values, so that nothing is impossible.

    Raises
    ------
    ValueError : too few pairs, or signals that are all the same.
    """
    signal, observed = _pairs(signal, observed)
    rows, columns = bins
    table, _, edges = np.histogram2d(signal, observed, bins=bins)
    step = (signal.max() - signal.min()) / rows
    centres = signal.min() + step * (np.arange(rows) + 0.5)
    seen = table.sum(1) > 0
    # a row that was never met is taken from those beside it
    places = np.arange(rows)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    share = np.stack([np.interp(places, places[seen], share[seen, j]) for j in range(columns)], 1)
    share = (1 - floor) * share / share.sum(1, keepdims=True) + floor / columns
    density = share / np.diff(edges)[None]
    return HistogramNoise(
        jnp.asarray(density, jnp.float32),
        jnp.asarray([centres[0], centres[-1]], jnp.float32),
        jnp.asarray([edges[0], edges[-1]], jnp.float32),
    )


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("coefficients", "signal_range", "scale"),
    meta_fields=(),
)
@dataclass(frozen=True)
class MixtureNoise:
    """p(observed | signal) as a sum of Gaussians whose parameters are polynomials of the signal."""

    coefficients: jax.Array
    """[3, m, d + 1]: logarithms of the weights, means minus signal, and variances (before a
    softplus) of m Gaussians; in units of `scale`, powers of the signal scaled to 0 to 1."""
    signal_range: jax.Array
    scale: jax.Array
    """Typical size of the noise."""

    def __call__(self, observed: jax.Array, signal: jax.Array) -> jax.Array:
        """ln p. The mean over the observed values is the signal itself: the noise is unbiased."""
        low, high = self.signal_range
        t = jnp.clip((signal - low) / (high - low), 0, 1)
        powers = jnp.stack([t**i for i in range(self.coefficients.shape[-1])], -1)
        weight, mean, variance = (
            jnp.einsum("...d,md->...m", powers, c, precision="highest") for c in self.coefficients
        )
        log_weight = jax.nn.log_softmax(weight)
        mean = mean - (jnp.exp(log_weight) * mean).sum(-1, keepdims=True)
        variance = jax.nn.softplus(variance) + 1e-4
        z = ((observed - signal) / self.scale)[..., None] - mean
        logs = log_weight - 0.5 * (z**2 / variance + jnp.log(2 * math.pi * variance))
        return jax.nn.logsumexp(logs, axis=-1) - jnp.log(self.scale)


def fit_mixture(
    key: jax.Array,
    signal: np.ndarray,
    observed: np.ndarray,
    *,
    components: int = 3,
    degree: int = 2,
    steps: int = 1000,
    learning_rate: float = 0.05,
    batch: int = 4096,
) -> MixtureNoise:
    """Fit a `MixtureNoise` by maximum likelihood (Adam on random pairs).

    Parameters
    ----------
    key : random key, of the first guess and of the batches.
    signal, observed : pairs, of one shape.
    components, degree : number of Gaussians, and of the polynomials of the signal.
    steps, learning_rate, batch : of the fit; the rate falls to 0 along half a cosine.
    """
    signal, observed = _pairs(signal, observed)
    scale = float(np.std(observed - signal)) or 1.0
    first, draws = jax.random.split(key)
    start = 0.1 * jax.random.normal(first, (3, components, degree + 1))
    start = start.at[1, :, 0].add(jnp.linspace(-0.5, 0.5, components))
    ends = jnp.asarray([signal.min(), signal.max()], jnp.float32)
    pairs = jnp.asarray(np.stack([observed, signal]), jnp.float32)
    tx = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(coefficients: jax.Array, some: jax.Array) -> jax.Array:
        return -MixtureNoise(coefficients, ends, jnp.float32(scale))(*some).mean()

    @jax.jit
    def fit(coefficients: jax.Array, pairs: jax.Array) -> jax.Array:
        def update(carry: Any, i: jax.Array) -> tuple[Any, None]:
            coefficients, state = carry
            chosen = jax.random.randint(
                jax.random.fold_in(draws, i), (min(batch, pairs.shape[1]),), 0, pairs.shape[1]
            )
            slope = jax.grad(loss)(coefficients, pairs[:, chosen])
            change, state = tx.update(slope, state)
            return (optax.apply_updates(coefficients, change), state), None

        carry = coefficients, tx.init(coefficients)
        return jax.lax.scan(update, carry, jnp.arange(steps))[0][0]

    return MixtureNoise(fit(start, pairs), ends, jnp.float32(scale))


def _pairs(signal: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    signal, observed = np.asarray(signal, float), np.asarray(observed, float)
    if signal.shape != observed.shape:
        raise ValueError(f"signal {signal.shape} and observed {observed.shape} differ in shape")
    signal, observed = signal.ravel(), observed.ravel()
    if not (np.isfinite(signal).all() and np.isfinite(observed).all()):
        raise ValueError("the pairs for a noise model hold NaN or infinity")
    if signal.size < 100 or np.ptp(signal) == 0 or np.ptp(observed) == 0:
        raise ValueError(
            f"{signal.size} pairs with signals from {signal.min(initial=0):g} to "
            f"{signal.max(initial=0):g} do not tell how noise depends on the signal: give at least "
            "100 of different brightness"
        )
    return signal, observed
