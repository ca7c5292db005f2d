"""The loop over epochs that the projection engines share, and how patterns are put in batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emjax.retrieval.gradient import History
from emjax.retrieval.ptychography import Frame, Unknowns
from emjax.retrieval.scan_data import ScanData
from simulators.tree import pytree

Watch = Callable[[int, Unknowns, History], bool | None]


@pytree
class Counted:
    """A scan on the device.

    Attributes
    ----------
    counts : [n, ky, kx], uint16 where the scan has that
    positions : float [n, 2], (x, y) in Å
    mask : float [ky, kx]
    per_electron : float
        1 / mean electrons of a pattern: what misfits are told in.
    """

    counts: Any
    positions: Any
    mask: Any
    per_electron: Any


def on_device(data: ScanData, frame: Frame) -> Counted:
    """The scan as the compiled epochs take it."""
    mask = np.ones(frame.grid.shape, np.float32) if data.mask is None else data.mask
    return Counted(
        jnp.asarray(data.counts),
        jnp.asarray(data.positions),
        jnp.asarray(mask),
        jnp.float32(1 / data.mean_electrons()),
    )


def batches_of(order: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
    """Patterns in batches, the last one filled up with patterns that do not count.

    Parameters
    ----------
    order : int [n]

    Returns
    -------
    index : int [batches, batch]
    real : float [batches, batch], 0 for those that only fill up
    """
    n = len(order)
    batches = -(-n // batch)
    index = jnp.resize(order, batches * batch)  # the first ones once more
    real = jnp.arange(batches * batch) < n
    return index.reshape(batches, batch), real.reshape(batches, batch).astype(jnp.float32)


def cosine(epoch: int, epochs: int, end: float) -> float:
    """Share of the steps in this epoch: from 1 to `end` along half a cosine."""
    way = epoch / max(epochs - 1, 1)
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * way))


def loop(
    run: Callable[[Any, int], tuple[Any, jax.Array]],
    state: Any,
    epochs: int,
    watch: Watch | None,
    unknowns: Callable[[Any], Unknowns] = lambda state: state,
) -> tuple[Any, History]:
    """Epoch by epoch on the host.

    Parameters
    ----------
    run : (state, epoch) -> state and misfit of the epoch
    state : what an epoch changes
    watch : called after every epoch with (epoch, unknowns, history); True stops
    unknowns : of a state

    Raises
    ------
    FloatingPointError : the misfit is not finite; says in which epoch.
    """
    history = History()
    for epoch in range(epochs):
        began = time.perf_counter()
        state, misfit = run(state, epoch)
        history.misfit.append(float(misfit))
        history.seconds.append(time.perf_counter() - began)
        if not np.isfinite(history.misfit[-1]):
            raise FloatingPointError(
                f"the misfit is not finite in epoch {epoch + 1}: take smaller steps, or check the "
                "counts for dead pixels (mask them)"
            )
        if watch is not None and watch(epoch, unknowns(state), history):
            break
    return state, history


def only(engine: str, free: Unknowns, *names: str) -> None:
    """Refuse to fit what an engine cannot.

    Raises
    ------
    ValueError : names the leaves, and the engine that fits any.
    """
    asked = [name for name, wanted in vars(free).items() if wanted and name not in names]
    if asked:
        raise ValueError(
            f"{engine} fits {' and '.join(names)}, not {' and '.join(asked)}: use the engine "
            '"gradient" for those'
        )
