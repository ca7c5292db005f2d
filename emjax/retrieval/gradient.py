"""Ptychography by the gradient of a likelihood: any unknowns, one compiled epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from emjax.retrieval.likelihoods import Misfit, misfit_of
from emjax.retrieval.ptychography import Frame, Unknowns, rates
from emjax.retrieval.scan_data import ScanData
from simulators.tree import replace

OBJECT_AND_PROBE = Unknowns(True, True, False, False, False)
"""What is fitted where nothing else is said: the tree of booleans of `reconstruct`."""


@dataclass(frozen=True)
class Rates:
    """Learning rates of Adam; each leaf's own unit."""

    transmission: float = 2e-2
    probe: float = 5e-3
    """In units of the largest Fourier coefficient."""
    shifts: float = 5e-3
    """Å."""
    spacing: float = 1e-2
    """Å."""
    tilt: float = 2e-2
    """mrad."""


@dataclass
class History:
    """What happened, epoch by epoch."""

    misfit: list[float] = field(default_factory=list)
    """Mean misfit of a pattern, per electron."""
    seconds: list[float] = field(default_factory=list)


def reconstruct(
    data: ScanData,
    frame: Frame,
    unknowns: Unknowns,
    key: jax.Array,
    *,
    epochs: int = 12,
    batch: int = 32,
    likelihood: str | Misfit = "poisson",
    free: Unknowns = OBJECT_AND_PROBE,
    regularise: Callable[[Unknowns], jax.Array] | None = None,
    constrain: Callable[[Unknowns], Unknowns] | None = None,
    weight: Any = None,
    learning: Rates | None = None,
    end: float = 0.05,
    watch: Callable[[int, Unknowns, History], bool | None] | None = None,
) -> tuple[Unknowns, History]:
    """Fit the unknowns to the counts.

    Parameters
    ----------
    data : counts are sent to the device as they are (uint16).
    frame, unknowns : of `make_frame` and `start`, or of an earlier reconstruction.
    key : random key, for the order of the patterns.
    epochs : passes over all patterns.
    batch : patterns an update; the last one is filled up with patterns of weight 0.
    likelihood : name in `LIKELIHOODS`, or a function (rate, counts) -> misfit of each pixel.
    free : tree of booleans like `Unknowns`: what is fitted. Another choice compiles nothing anew.
    regularise : (unknowns) -> number that is added to the misfit, which is a pattern's mean over
        its electrons (`regularisers`).
    constrain : (unknowns) -> unknowns, after every epoch (`constraints`).
    weight : float [ky, kx], zero frequency first, of the detector's pixels beside the mask
        (`regularisers.trusted`).
    learning : rates of Adam; they fall along a cosine to the share `end`.
    watch : called after every epoch with (epoch, unknowns, history); True stops.

    Returns
    -------
    unknowns, history

    Raises
    ------
    FloatingPointError : the misfit is not finite; says in which epoch.
    """
    batches = -(-data.n // batch)
    learning = learning or Rates()
    largest = float(jnp.abs(unknowns.probe).max())
    size = Unknowns(
        learning.transmission,
        learning.probe * largest,
        learning.shifts,
        learning.spacing,
        learning.tilt,
    )
    schedule = optax.cosine_decay_schedule(1.0, max(epochs * batches, 1), end)
    tx = optax.chain(optax.scale_by_adam(b1=0.9, b2=0.99), optax.scale_by_schedule(schedule))
    run = _epoch(frame, misfit_of(likelihood), regularise, batch, batches, tx)
    counts, positions = jnp.asarray(data.counts), jnp.asarray(data.positions)
    mask = jnp.ones(frame.grid.shape) if data.mask is None else jnp.asarray(data.mask)
    mask = mask if weight is None else mask * jnp.asarray(weight)
    constrain = None if constrain is None else jax.jit(constrain)
    scale = jax.tree.map(lambda f, s: jnp.float32(-s if f else 0.0), free, size)
    unknowns = jax.tree.map(jnp.array, unknowns)  # the epochs write over their own copy
    state, history = tx.init(unknowns), History()
    per_electron = 1 / data.mean_electrons()
    for epoch in range(epochs):
        began = time.perf_counter()
        order = jax.random.fold_in(key, epoch)
        unknowns, state, misfit = run(
            unknowns, state, order, counts, positions, mask, scale, per_electron
        )
        if constrain is not None:
            unknowns = constrain(unknowns)
        history.misfit.append(float(misfit))
        history.seconds.append(time.perf_counter() - began)
        if not np.isfinite(history.misfit[-1]):
            raise FloatingPointError(
                f"the misfit is not finite in epoch {epoch + 1}: lower the learning rates, or "
                "check the counts for dead pixels (mask them)"
            )
        if watch is not None and watch(epoch, unknowns, history):
            break
    return unknowns, history


def _epoch(
    frame: Frame,
    misfit: Misfit,
    regularise: Callable[[Unknowns], jax.Array] | None,
    batch: int,
    batches: int,
    tx: Any,
) -> Callable[..., Any]:
    """One pass over all patterns, compiled: nothing comes back to the host but a number."""

    def loss(unknowns: Unknowns, at: jax.Array, counts: jax.Array, weight: jax.Array) -> jax.Array:
        values = misfit(rates(unknowns, frame, at), counts.astype(jnp.float32))
        return (values * weight).sum()

    def epoch(
        unknowns: Unknowns,
        state: Any,
        key: jax.Array,
        counts: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        scale: Unknowns,
        per_electron: jax.Array,
    ) -> tuple[Unknowns, Any, jax.Array]:
        n = counts.shape[0]
        order = jax.random.permutation(key, n)
        order = jnp.concatenate([order, order[: batches * batch - n]])  # the same ones, weight 0
        real = jnp.arange(batches * batch) < n
        steps = order.reshape(batches, batch), real.reshape(batches, batch)

        def update(carry: tuple, step: tuple) -> tuple[tuple, jax.Array]:
            unknowns, state = carry
            index, real = step
            weight = real[:, None, None] * mask[None] * per_electron / batch

            def of(unknowns: Unknowns) -> tuple[jax.Array, jax.Array]:
                at = positions[index] + unknowns.shifts[index]
                value = loss(unknowns, at, counts[index], weight)
                return value + (0.0 if regularise is None else regularise(unknowns)), value

            gradient, value = jax.grad(of, has_aux=True)(unknowns)
            change, state = tx.update(gradient, state, unknowns)
            unknowns = jax.tree.map(lambda u, c, s: u + s * c, unknowns, change, scale)
            return (unknowns, state), value

        (unknowns, state), values = jax.lax.scan(update, (unknowns, state), steps)
        return unknowns, state, values.sum() * (batch / n)

    return jax.jit(epoch, donate_argnums=(0, 1))


def with_shifts(data: ScanData, unknowns: Unknowns) -> ScanData:
    """The scan with its fitted positions."""
    return replace(data, positions=np.asarray(data.positions) + np.asarray(unknowns.shifts))
