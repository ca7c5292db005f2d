"""Series of frames of atom columns: each scene recorded several times, alike but for the noise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from emjax.data.column_scene import ColumnScene
from emjax.data.synthetic_columns import make_scenes
from simulators.specimens import find_material

FRAMES = 3
"""Recordings of each scene."""
TOGETHER = 4
"""Scenes that are drawn at once."""


@dataclass(frozen=True, eq=False)
class Series:
    """Scenes, each recorded several times."""

    counts: np.ndarray
    """[n, t, y, x] electrons."""
    clean: np.ndarray
    """[n, y, x], 1 at its maximum."""


def record_series(
    scene: ColumnScene, materials: Sequence[str], key: jax.Array, scenes: int
) -> Series:
    """So many scenes on the host, `FRAMES` times each.

    Parameters
    ----------
    scene : what the images are like.
    materials : names of crystals.
    key : random key; scene i is the same however many are asked for.
    scenes : how many.

    Raises
    ------
    ValueError : no scene, or what `make_scenes` refuses.
    """
    if scenes < 1:
        raise ValueError(f"{scenes} scenes: at least one is needed")
    draw = _recorder(scene, tuple(materials))
    parts = [
        jax.device_get(draw(jax.random.fold_in(key, i))) for i in range(-(-scenes // TOGETHER))
    ]
    counts, rate, peak = (
        np.concatenate([part[name] for part in parts])[:scenes]
        for name in ("counts", "rate", "peak")
    )
    return Series(np.moveaxis(counts, -1, 1), rate[..., 0] / peak.reshape(-1, 1, 1))


@functools.lru_cache(maxsize=4)
def _recorder(scene: ColumnScene, materials: tuple[str, ...]) -> Callable[[jax.Array], Any]:
    """Compiled once: to compile the scenes takes longer than to draw them."""
    known = {name: find_material(name) for name in materials}
    return jax.jit(make_scenes(scene, known, TOGETHER, copies=FRAMES))
