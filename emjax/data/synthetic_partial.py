"""Partial scans of random specimens with what the microscope would show in every pixel.

Whatever draws noise-free images (`synthetic_columns`, `synthetic_pairs`) is measured along one of a
bank of scan plans (`scan_masks`), inside the training step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from simulators.noise import fast_poisson

Draw = Callable[[jax.Array], dict[str, jax.Array]]


def make_partial_scans(draw: Draw, bank: np.ndarray) -> Draw:
    """``draw(key) -> batch`` of partial scans, to run inside `jit`.

    Parameters
    ----------
    draw : of a dict with ``rate`` [b, y, x, 1], electrons expected in a dwell time, and ``readout``
        [b], the standard deviation of the read-out noise of a pixel.
    bank : dwell times [plans, y, x] of `scan_masks.make_bank`; each image gets one of them at
        random, turned and mirrored at random where it is square.

    Returns
    -------
    draw
        Of a dict: ``values`` [b, y, x, 1], electrons per dwell time where measured and 0 elsewhere;
        ``mask`` and ``dwell`` [b, y, x, 1]; ``rate`` and ``readout`` as given.

    Raises
    ------
    ValueError : a bank that is not [plans, y, x]; when it runs, images of another shape.
    """
    bank = np.asarray(bank, np.float32)
    if bank.ndim != 3 or not (bank > 0).any((1, 2)).all():
        raise ValueError(f"a bank of scan plans is [plans, y, x], none of them empty: {bank.shape}")
    return jax.tree_util.Partial(functools.partial(_draw, draw), jnp.asarray(bank))


def _draw(draw: Draw, bank: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
    k_scene, k_plan, k_turn, k_shot, k_read = jax.random.split(key, 5)
    scenes = draw(k_scene)
    rate, readout = scenes["rate"], scenes["readout"]
    if rate.shape[1:3] != bank.shape[1:]:
        raise ValueError(
            f"images {rate.shape[1:3]} and scan plans {bank.shape[1:]} differ in shape"
        )
    dwell = bank[jax.random.randint(k_plan, (len(rate),), 0, len(bank))]
    coin = jax.random.bernoulli(k_turn, shape=(3, len(rate), 1, 1))
    dwell = jnp.where(coin[0], dwell[:, ::-1], dwell)
    dwell = jnp.where(coin[1], dwell[:, :, ::-1], dwell)
    if dwell.shape[1] == dwell.shape[2]:
        dwell = jnp.where(coin[2], dwell.transpose(0, 2, 1), dwell)
    dwell = dwell[..., None]
    mask = (dwell > 0).astype(jnp.float32)
    counts = fast_poisson(k_shot, rate * dwell)
    counts = counts + readout[:, None, None, None] * jax.random.normal(k_read, counts.shape)
    values = mask * counts / jnp.where(dwell > 0, dwell, 1.0)
    return {"values": values, "mask": mask, "dwell": dwell, "rate": rate, "readout": readout}
