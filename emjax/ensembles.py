"""Several networks trained at once, and how far they disagree.

Members differ in their first weights, and in their batches if wanted. Where the data tell, they
agree; elsewhere each goes on in its own way, and the spread says so (Lakshminarayanan et al. 2017,
arXiv:1612.01474)::

    params = init_members(lambda key: pure(UNet, key, ...)[1], key, members=5)
    loss, draw, tx = ensemble(loss, draw, tx, members=5)
    state = fit(run, init_state(params, tx), make_step(loss, draw, tx), ...)
    mean, spread = predict(apply, state.ema, x)

All arrays of an ensemble have the members as first axis. They are a pytree like any other, so that
checkpoints, several devices and all else of the training work as for one network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from emjax.schedules import takes_step

Apply = Callable[[Any, jax.Array], jax.Array]


def init_members(init: Callable[[jax.Array], Any], key: jax.Array, *, members: int) -> Any:
    """Weights of each member, from keys of their own.

    Parameters
    ----------
    init
        ``key -> params``.
    key
        Split into one for each.
    members
        How many.

    Returns
    -------
    pytree
        Of arrays ``[members, …]``.
    """
    _check(members)
    return stack([init(k) for k in jax.random.split(key, members)])


def stack(params: list[Any]) -> Any:
    """The weights of several networks of one architecture as those of an ensemble."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)


def member(params: Any, i: int) -> Any:
    """The weights of one network."""
    return jax.tree.map(lambda leaf: leaf[i], params)


def ensemble(
    loss: Callable[[Any, Any], tuple[jax.Array, Any]],
    draw: Callable[[jax.Array], Any],
    tx: optax.GradientTransformation,
    *,
    members: int,
    own_batches: bool = False,
) -> tuple[Callable, Callable, optax.GradientTransformation]:
    """``(loss, draw, tx)`` of all members, from those of one; for `emjax.training.make_step`.

    Every member is trained as it would be alone: clipping, weight decay and the moments of the
    optimiser are its own. Losses and metrics in the history are means over the members.

    Parameters
    ----------
    loss, draw, tx
        Of one network.
    members
        How many.
    own_batches
        Each member draws its own batches (`members` times the work of drawing); otherwise all see
        the same ones, and differ by their first weights alone, which is usually enough.

    Returns
    -------
    loss, draw, tx
        The optimiser is `ensemble_tx`, which belongs to this loss.
    """
    _check(members)

    def together(params: Any, batch: Any) -> tuple[jax.Array, Any]:
        value, metrics = jax.vmap(loss, in_axes=(0, 0 if own_batches else None))(params, batch)
        return value.mean(), jax.tree.map(lambda m: m.mean(axis=0), metrics)

    def draw_each(key: jax.Array, *streamed: Any, step: Any = None) -> Any:
        more = {"step": step} if takes_step(draw) else {}
        return jax.vmap(lambda k: draw(k, *streamed, **more))(jax.random.split(key, members))

    return together, draw_each if own_batches else draw, ensemble_tx(tx, members)


def ensemble_tx(tx: optax.GradientTransformation, members: int) -> optax.GradientTransformation:
    """The optimiser `tx` for each member by itself, given the gradient of their mean loss."""
    _check(members)

    def init(params: Any) -> Any:
        return jax.vmap(tx.init)(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        own = jax.tree.map(lambda g: g * members, updates)  # the mean divided by the number
        return jax.vmap(tx.update)(own, state, params)

    return optax.GradientTransformation(init, update)


class Prediction(NamedTuple):
    """What an ensemble says."""

    mean: jax.Array
    """Mean of the members."""
    spread: jax.Array
    """Standard deviation over the members (n - 1 in the denominator)."""


def predict(apply: Apply, params: Any, x: jax.Array) -> Prediction:
    """Mean and spread of the members' outputs, for regression and restoration.

    Parameters
    ----------
    apply
        ``(params, x) -> y`` of one network.
    params
        Of all members.
    x
        Input, the same for all.

    Returns
    -------
    Prediction
        In the shape of `y`. The spread tells what the members do not know (epistemic); the noise of
        the data comes on top (`mixture`).
    """
    outputs = jax.vmap(apply, in_axes=(0, None))(params, x)
    if len(outputs) < 2:
        raise ValueError("the spread of an ensemble needs at least 2 members")
    return Prediction(outputs.mean(axis=0), outputs.std(axis=0, ddof=1))


def mixture(means: jax.Array, variances: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of an equal mixture of Gaussians, for members that predict both.

    Parameters
    ----------
    means, variances
        ``[members, …]``, as each predicts them.

    Returns
    -------
    mean, variance
        ``E[m]`` and ``E[v] + E[m²] - E[m]²``: noise of the data plus disagreement.
    """
    mean = means.mean(axis=0)
    return mean, variances.mean(axis=0) + jnp.square(means - mean[None]).mean(axis=0)


class Classes(NamedTuple):
    """What an ensemble of classifiers says; entropies in nats."""

    probability: jax.Array
    """Mean probability of each class."""
    entropy: jax.Array
    """Of the mean: all uncertainty."""
    disagreement: jax.Array
    """Entropy of the mean minus mean entropy (mutual information of class and member): the part
    that more data would remove. 0 where all members agree, however unsure each is."""


def classify(logits: jax.Array) -> Classes:
    """Probabilities and uncertainty from the logits ``[members, …, classes]`` of each member."""
    log_p = jax.nn.log_softmax(logits)
    p = jnp.exp(log_p)
    mean = p.mean(axis=0)
    total = -jax.scipy.special.xlogy(mean, mean).sum(-1)
    each = -(p * log_p).sum(-1).mean(axis=0)
    return Classes(mean, total, jnp.maximum(total - each, 0))


def _check(members: int) -> None:
    if members < 1:
        raise ValueError(f"members {members} must be at least 1")
