"""Which learning rate? Train once with a rate that rises from too small to too large.

Smith, "Cyclical learning rates for training neural networks" (WACV 2017), section 3.3. Where the
loss falls fastest is a good rate to start from; where it starts to rise is too much::

    found = find_learning_rate(loss, draw, params, jax.random.key(0))
    print(found)        # best 0.0031, diverges at 0.12
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from emjax.losses.basics import Loss
from emjax.training_step import init_state, make_step


class LearningRateError(ValueError):
    """The loss does not tell a learning rate; the message says why."""


@dataclass(frozen=True)
class LearningRates:
    """What `find_learning_rate` returns."""

    rates: np.ndarray
    """[n] learning rates of the updates made, rising."""
    losses: np.ndarray
    """[n] their losses; the last may be NaN."""
    smooth: np.ndarray
    """[n] running means of the losses."""
    best: float
    """Where the loss falls fastest with the logarithm of the rate: a peak learning rate with
    warm-up. (The delay of the smoothing is taken off, here and for `limit`.)"""
    limit: float
    """Where the smoothed loss is lowest before it rises; the largest rate tried where it never
    does."""
    diverged: bool
    """Whether the loss rose in the end; if not, try larger rates."""

    def __str__(self) -> str:
        end = "diverges at" if self.diverged else "no divergence up to"
        return f"best {self.best:.2g}, {end} {self.limit:.2g}"


def find_learning_rate(
    loss: Loss,
    draw: Callable[[jax.Array], Any],
    params: Any,
    key: jax.Array,
    *,
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adam,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    smoothing: float = 0.9,
    stop_at: float = 2.0,
    chunk: int = 10,
) -> LearningRates:
    """Make up to `steps` updates, the learning rate rising by the same factor each time.

    Parameters
    ----------
    loss, draw, params
        As for `make_step` and `init_state`; `params` are not changed.
    key
        Of the batches.
    optimizer
        ``schedule -> optax transformation``; the one that will be used
        (``lambda s: optax.adamw(s, weight_decay=…)``).
    lowest, highest
        First and last rate.
    steps
        Updates; a hundred and more where the loss is noisy.
    smoothing
        Decay of the running mean (with its start corrected), 0 to 1.
    stop_at
        Stop where the smoothed loss lies above its lowest value by so many times that value or
        the fall so far, whichever is more.
    chunk
        Updates between two looks at the loss.

    Raises
    ------
    LearningRateError
        Rates that do not rise, too few steps, a loss that is not finite from the start, or that
        falls nowhere.
    """
    if not 0 < lowest < highest:
        raise LearningRateError(f"rates from {lowest:g} to {highest:g} do not rise from above 0")
    if not 0 <= smoothing < 1:
        raise LearningRateError(f"smoothing {smoothing} must lie in [0, 1)")
    if steps < 10:
        raise LearningRateError(f"{steps} updates are too few: at least 10, better 100")
    growth = math.log(highest / lowest) / (steps - 1)
    step = make_step(loss, draw, optimizer(lambda i: lowest * jax.numpy.exp(growth * i)))
    state = init_state(params, optimizer(lambda i: lowest * jax.numpy.exp(growth * i)))
    losses = np.zeros(0)
    while losses.size < steps:
        state, history = step(state, key, min(chunk, steps - losses.size))
        new = np.where(history["finite"], history["loss"], np.nan)
        losses = np.concatenate([losses, new])
        if not np.isfinite(losses).all() or _exploded(_smoothed(losses, smoothing), stop_at):
            break
    rates = lowest * np.exp(growth * np.arange(losses.size))
    return _judged(rates, losses, smoothing)


def _judged(rates: np.ndarray, losses: np.ndarray, smoothing: float) -> LearningRates:
    finite = np.isfinite(losses)
    good = int(losses.size if finite.all() else np.argmin(finite))
    if good < 5:
        raise LearningRateError(
            f"the loss is not finite after {good} updates with rates up to "
            f"{rates[max(good - 1, 0)]:.2g}: the network or its data are at fault, not the rate"
        )
    smooth = np.full(losses.shape, np.nan)
    smooth[:good] = _smoothed(losses[:good], smoothing)
    # a running mean tells what was some updates ago, at a rate that was lower
    lag = round(smoothing / (1 - smoothing))
    lowest, start = int(np.nanargmin(smooth)), min(lag, good // 4)
    # the first means are of few losses: they jump, and no slope is read off them
    slope = _slopes(smooth[:good], max(lag, 1))[start : max(lowest, start + 1)]
    fall = smooth[start] - smooth[lowest]
    if lowest <= start or fall <= 0 or slope.min() >= 0:
        raise LearningRateError(
            f"the loss falls nowhere between {rates[0]:.2g} and {rates[good - 1]:.2g}: try lower "
            "rates, more steps, or look for a mistake in the loss"
        )
    # the rise must be more than the noise of what came before
    diverged = good < losses.size or bool(smooth[good - 1] > smooth[lowest] + 0.1 * fall)
    limit = rates[max(lowest - lag, 0) if diverged else good - 1]
    best = rates[max(start + int(np.argmin(slope)) - lag, 0)]
    return LearningRates(rates, losses, smooth, float(best), float(limit), diverged)


def _slopes(values: np.ndarray, reach: int) -> np.ndarray:
    """Slope of a straight line through the values up to `reach` places away, at each place."""
    out = []
    for i in range(values.size):
        near = np.arange(max(i - reach, 0), min(i + reach + 1, values.size))
        centred = near - near.mean()
        out.append((centred * values[near]).sum() / (centred**2).sum())
    return np.asarray(out)


def _smoothed(losses: np.ndarray, decay: float) -> np.ndarray:
    mean, out = 0.0, []
    for i, value in enumerate(losses.tolist(), start=1):
        mean = decay * mean + (1 - decay) * value
        out.append(mean / (1 - decay**i))
    return np.asarray(out)


def _exploded(smooth: np.ndarray, times: float) -> bool:
    low = smooth.min()
    return bool(smooth[-1] > low + times * max(smooth[0] - low, abs(low)))
