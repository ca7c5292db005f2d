"""Learning from some marked particles and no negatives.

Labels are 1 (marked), 0 (unlabelled: particle or not) and -1 (does not count). What makes it work
is the share of particles among the unlabelled, `prior`, which must be guessed (the number expected
in a micrograph over the number of places looked at).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln

from emjax.losses.basics import average, wide


def ge_binomial(
    logits: jax.Array,
    labels: jax.Array,
    *,
    prior: float,
    slack: float = 1.0,
    entropy: float = 0.0,
) -> jax.Array:
    """Cross-entropy of the marked ones + slack · cross-entropy of two distributions of a number.

    Bepler et al., "Positive-unlabeled convolutional neural networks for particle picking in
    cryo-electron micrographs" (Topaz), Nat. Methods 2019: generalised expectation. How many of the
    n unlabelled ones are particles is, for the classifier, a sum of Bernoulli variables (here
    Gaussian, with its mean Σ p and variance Σ p (1 - p), on the numbers 0 … n), and should be
    binomial with n and `prior`.

    Parameters
    ----------
    logits : [...]; the batch as a whole is looked at.
    labels : 1, 0 or -1, of the same shape.
    prior : share of particles among the unlabelled, 0 to 1.
    slack : weight of the second term.
    entropy : weight of the entropy of the classifier's distribution of numbers, added.

    Raises
    ------
    ValueError : a prior outside of (0, 1), or other shapes.
    """
    logits, labels = _flat(logits, labels, prior)
    n_all = logits.size
    unlabelled = (labels == 0).astype(logits.dtype)
    n = unlabelled.sum()
    p = jax.nn.sigmoid(logits)
    mean = (unlabelled * p).sum()
    variance = (unlabelled * p * jax.nn.sigmoid(-logits)).sum() + 1e-7
    numbers = jnp.arange(n_all + 1, dtype=logits.dtype)
    possible = numbers <= n
    q = jax.nn.softmax(jnp.where(possible, -0.5 * (numbers - mean) ** 2 / variance, -jnp.inf))
    rest = jnp.maximum(n - numbers, 0)
    log_binomial = gammaln(n + 1) - gammaln(numbers + 1) - gammaln(rest + 1)
    log_binomial = log_binomial + numbers * math.log(prior) + rest * math.log1p(-prior)
    penalty = -jnp.where(possible, q * log_binomial, 0).sum()
    penalty = jnp.where(n > 0, penalty, 0)
    spread = 0.5 * (jnp.log(variance) + math.log(2 * math.pi) + 1)
    marked = average(jax.nn.softplus(-logits), (labels == 1).astype(logits.dtype))
    return marked + slack * penalty + entropy * spread


def nonnegative_pu(logits: jax.Array, labels: jax.Array, *, prior: float) -> jax.Array:
    """π R⁺(marked) + max(0, R⁻(unlabelled) - π R⁻(marked)) (Kiryo et al., NeurIPS 2017).

    R⁺ and R⁻ are the mean costs (here cross-entropy) of calling something particle or not. Without
    the maximum, the estimate of the risk is unbiased but can fall below 0 by overfitting; where it
    does, the gradient is that of its negative, as in their algorithm with β = 0 and γ = 1.

    `logits` and `labels` [...] as for `ge_binomial`; `prior` is the share of particles in all.
    """
    logits, labels = _flat(logits, labels, prior)
    marked = (labels == 1).astype(logits.dtype)
    unlabelled = (labels == 0).astype(logits.dtype)
    yes, no = jax.nn.softplus(-logits), jax.nn.softplus(logits)
    positive = prior * average(yes, marked)
    negative = average(no, unlabelled) - prior * average(no, marked)
    # the value of the maximum, and the gradient of the algorithm
    back = -negative + jax.lax.stop_gradient(positive + negative)
    return jnp.where(negative >= 0, positive + negative, back)


def positive_negative(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy with the unlabelled as negatives: the naive baseline."""
    logits, labels = _flat(logits, labels, 0.5)
    used = (labels >= 0).astype(logits.dtype)
    target = (labels == 1).astype(logits.dtype)
    return average(jax.nn.softplus(logits) - target * logits, used)


def _flat(logits: jax.Array, labels: jax.Array, prior: float) -> tuple[jax.Array, jax.Array]:
    if logits.shape != labels.shape:
        raise ValueError(
            f"logits of shape {logits.shape} and labels of shape {labels.shape} must be the same; "
            "take the channel of the particles"
        )
    if not 0 < prior < 1:
        raise ValueError(
            f"a prior of {prior} must lie between 0 and 1: it is the share of particles among the "
            "places without a mark"
        )
    return wide(logits).ravel(), labels.ravel()
