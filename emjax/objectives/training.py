"""Train by an objective of `emjax.objectives`, in as many stages as it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.tree_util import Partial

from emjax.losses.probabilistic import MixtureNoise
from emjax.objectives.base import Objective
from emjax.objectives.noise import ScaledMixture
from emjax.runs import Run
from emjax.training import fit, init_state, make_step

FIRST = "first"
"""Name of the first of two stages, for its checkpoint and its table of metrics."""


def watch(objective: Objective, draw: Callable[..., Any]) -> Callable[[Any], dict]:
    """``params -> {"psnr": …}`` of one batch like those of the training (`Objective.score`)."""
    batch = jax.jit(lambda f, key: f(key))(Partial(draw), jax.random.key(2**31 - 1))
    return Partial(jax.jit(objective.score), batch=batch)


def train(
    run: Run,
    objective: Objective,
    draw: Callable[..., Any],
    params: Any,
    tx: optax.GradientTransformation,
    key: jax.Array,
    *,
    steps: int,
    batch: int,
    ema_decay: float = 0.999,
    quick: bool = False,
) -> tuple[Any, Objective]:
    """The trained weights (their moving average) and the objective that uses them.

    Parameters
    ----------
    run : gets checkpoints, metrics and progress; an interrupted training goes on.
    objective : of `emjax.objectives.build`. One with a second stage (`pn2v_bootstrap`) spends half
        of the updates on each, both with the optimiser's schedule from its start.
    draw : of training images; their `batch` is for the count of images a second.
    params : initial weights.
    tx : the optimiser, a schedule of `steps` updates; of half as many for two stages.
    key : random key.
    quick : without scores on the way.
    """

    def stage(objective: Objective, params: Any, steps: int, name: str) -> Any:
        step = make_step(objective.loss, objective.keyed(draw), tx, ema_decay=ema_decay)
        return fit(
            run,
            init_state(params, tx),
            step,
            key,
            steps=steps,
            chunk=min(100, steps),
            images_per_step=batch,
            evaluate=None if quick else watch(objective, draw),
            evaluate_every=max(steps // 20, 1),
            stage=name,
        ).ema

    if objective.advance is None:
        return stage(objective, params, steps, ""), objective
    half = max(steps // 2, 1)
    params = stage(objective, params, half, FIRST)
    pairs = jax.jit(lambda f, key: f(key))(Partial(draw), jax.random.key(2**31 - 2))
    objective = objective.advance(jax.random.fold_in(key, 2**31 - 2), params, pairs["counts"])
    return stage(objective, params, half, ""), objective


def noise_to_meta(noise: Any) -> dict[str, Any] | None:
    """What a model file keeps of a fitted noise model; None if there is none.

    Raises
    ------
    ValueError : a noise model of another kind than `ScaledMixture` (pn2v_bootstrap's default).
    """
    if noise is None:
        return None
    if not isinstance(noise, ScaledMixture):
        raise ValueError(f"a {type(noise).__name__} cannot be stored in a model file")
    return {"leaves": [np.asarray(leaf, float).tolist() for leaf in jax.tree.leaves(noise)]}


def noise_from_meta(meta: Mapping[str, Any] | None) -> ScaledMixture | None:
    """The inverse of `noise_to_meta`."""
    if not meta:
        return None
    zero = np.zeros(())
    template = ScaledMixture(zero, zero, MixtureNoise(zero, zero, zero))
    leaves = [np.asarray(leaf, np.float32) for leaf in meta["leaves"]]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)
