"""What changes with the step: weights of several losses, curricula of the data.

Batches carry their number where `draw` takes it: a function ``draw(key, step)`` is called with the
step by `emjax.training.make_step`, so that noise, dose or size of the specimens may be any function
of it. `stepped` adds it to the batches of an ordinary ``draw(key)``, for `weighted`:

>>> import jax.numpy as jnp
>>> terms = {
...     "pixels": (lambda params, batch: params**2, 1.0),
...     "outline": (lambda params, batch: params, ramp(0.0, 0.5, start=100, stop=200)),
... }
>>> value, metrics = weighted(terms)(2.0, {"step": jnp.int32(150)})
>>> float(value), float(metrics["weight_outline"])
(4.5, 0.25)

Any schedule of optax is one here, and so is any function of the step that JAX can trace.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from emjax.losses.basics import Loss

Schedule = Callable[[jax.Array], Any]
"""``step -> number``."""

Term = Callable[[Any, Mapping[str, Any]], Any]
"""A `Loss`, or the same without metrics."""


def ramp(before: float, after: float, *, start: int, stop: int) -> Schedule:
    """`before` up to step `start`, `after` from step `stop` on, a straight line between.

    Raises
    ------
    ValueError : `stop` is not after `start`.
    """
    if stop <= start:
        raise ValueError(f"a ramp that starts at step {start} cannot stop at {stop}")

    def value(step: jax.Array) -> jax.Array:
        part = (jnp.asarray(step, jnp.float32) - start) / (stop - start)
        return before + (after - before) * jnp.clip(part, 0, 1)

    return value


def weighted(terms: Mapping[str, tuple[Term, Schedule | float]]) -> Loss:
    """The sum of several losses, each times a weight that may change with the step.

    Parameters
    ----------
    terms
        Name -> (loss, weight). The loss is ``(params, batch) -> (scalar, metrics)`` or ``->
        scalar``, the weight a number or a schedule. Losses that call the same network with the
        same input cost it once: XLA finds the common part.

    Returns
    -------
    Loss
        Metrics: each term before its weight by its name, ``weight_…`` of the scheduled ones, and
        the terms' own metrics as ``name_metric``. With schedules, the batch holds its number as
        ``step`` (draw it with `stepped`).

    Raises
    ------
    ValueError : no terms.
    KeyError : when called: the batch holds no ``step``.
    """
    if not terms:
        raise ValueError("a sum of losses needs at least one")
    scheduled = [name for name, (_, weight) in terms.items() if callable(weight)]

    def loss(params: Any, batch: Mapping[str, Any]) -> tuple[jax.Array, dict[str, jax.Array]]:
        if scheduled and "step" not in batch:
            raise KeyError(
                f"the weights of {', '.join(scheduled)} change with the step, but the batch does "
                "not hold it: make_step(loss, stepped(draw), tx)"
            )
        total, metrics = jnp.float32(0), {}
        for name, (term, weight) in terms.items():
            result = term(params, batch)
            value, own = result if isinstance(result, tuple) else (result, {})
            factor = weight(batch["step"]) if callable(weight) else weight
            total = total + factor * value
            metrics[name] = value
            if callable(weight):
                metrics[f"weight_{name}"] = jnp.asarray(factor, jnp.float32)
            metrics |= {f"{name}_{key}": entry for key, entry in own.items()}
        return total, metrics

    return loss


def stepped(draw: Callable[..., Mapping[str, Any]]) -> Callable[..., dict[str, Any]]:
    """``draw`` with the number of the update in its batch, as ``step``.

    The arrays of a `jax.tree_util.Partial` stay arguments of the compiled update.
    """
    return jax.tree_util.Partial(_numbered, as_partial(draw))


def _numbered(
    draw: Callable[..., Any], key: jax.Array, *streamed: Any, step: jax.Array
) -> dict[str, Any]:
    more = {"step": step} if takes_step(draw) else {}
    return {**draw(key, *streamed, **more), "step": jnp.asarray(step, jnp.int32)}


def as_partial(function: Callable[..., Any]) -> jax.tree_util.Partial:
    """A function as a pytree: of the arrays of a `jax.tree_util.Partial`, else without leaves."""
    # a Partial of a Partial would hide its arrays, which then are constants of the program
    known = isinstance(function, jax.tree_util.Partial)
    return function if known else jax.tree_util.Partial(function)


def takes_step(function: Callable[..., Any]) -> bool:
    """Whether a function has a parameter `step`."""
    try:
        return "step" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # built in, without a signature
        return False


def draw_at(draw: Callable[..., Any], key: jax.Array, step: jax.Array, *streamed: Any) -> Any:
    """The batch of update `step`: of ``draw(fold_in(key, step))``, told the step if it asks.

    Parameters
    ----------
    draw : ``(key, *streamed) -> batch``, or with a parameter `step`.
    key : of the training.
    step : number of the update.
    streamed : what was read on the host for it.
    """
    more = {"step": step} if takes_step(draw) else {}
    return draw(jax.random.fold_in(key, step), *streamed, **more)
