"""Write a trained restorer with all that its users must know: its spread, its reach, its images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emjax.analysis.out_of_distribution import fit_reference
from emjax.analysis.restoration_checks import reach_of
from emjax.data.column_scene import ColumnScene
from emjax.evaluation.restore import CONDITIONS, spread_factor
from emjax.models import load_model, save_model
from emjax.objectives.base import Objective
from emjax.objectives.training import noise_to_meta
from emjax.restoration.restorer import TASK, load_restorer

TITLE = "atom columns in annular dark- and bright-field images"
HIGH = (120.0, 3000.0)
"""Electrons at the brightest pixel of good recordings, which are to pass as known, too."""


def save_restorer(
    path: str | os.PathLike,
    *,
    network: str,
    network_args: Mapping[str, Any],
    params: Any,
    objective: Objective,
    objective_args: Mapping[str, Any],
    scene: ColumnScene,
    draw: Callable[[jax.Array], Mapping[str, jax.Array]],
    quick: bool = False,
) -> None:
    """The model file of a restorer, for `restoration.load_restorer` and `emjax denoise`.

    Parameters
    ----------
    path : of the file.
    network, network_args, params : as of `emjax.models.save_model`; stored in half precision.
    objective, objective_args : what it was trained by (`emjax.objectives`), and its options.
    scene, draw : what the training images are like; they tell foreign images from known ones.
    quick : few images, for a test that everything runs.
    """
    meta = {
        "task": TASK,
        "title": TITLE,
        "objective": objective.name,
        "objective_args": dict(objective_args),
        "pixel": list(scene.pixel),
        "noise": noise_to_meta(objective.noise),
    }

    def save(**more: Any) -> None:
        save_model(
            path,
            network=network,
            network_args=network_args,
            params=params,
            meta={**meta, **more},
            example=np.random.default_rng(0).normal(size=(1, 64, 64, 1)),
            dtype="float16",
        )

    save()
    model, restorer = load_model(Path(path)), load_restorer(path)
    conditions = CONDITIONS[:1] if quick else CONDITIONS
    more: dict[str, Any] = {}
    if restorer.sure:
        more["spread"] = spread_factor(restorer, scene, conditions=conditions)
    count = 20 if quick else 480
    tile, foreign = (min(64, scene.patch), 40) if quick else (min(128, scene.patch), 1200)
    reference = fit_reference(known_images(draw, count), tile=tile, count=foreign)
    reach = reach_of(model.apply, model.params, side=64 if quick else 256)
    save(**more, reach=reach, images=reference.as_meta())


def known_images(
    draw: Callable[[jax.Array], Mapping[str, jax.Array]], count: int
) -> list[np.ndarray]:
    """Images [y, x] of the training; every third one counted anew with a high dose."""
    run = jax.jit(lambda f, key: f(key))
    found: list[np.ndarray] = []
    rng = np.random.default_rng(0)
    wrapped = jax.tree_util.Partial(draw)
    while len(found) < count:
        batch = jax.device_get(run(wrapped, jax.random.key(2**30 + len(found))))
        for counts, rate, peak in zip(
            batch["counts"][..., 0], batch["rate"][..., 0], batch["peak"], strict=True
        ):
            if len(found) % 3 == 2:
                dose = np.exp(rng.uniform(*np.log(HIGH)))
                counts = rng.poisson(rate * dose / peak).astype(np.float32)
            found.append(counts)
    return found[:count]
