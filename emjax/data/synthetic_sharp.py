"""Noisy images with three truths: without noise, without background, with narrow columns.

What AtomSegNet was trained for, one network each (Lin et al., Sci. Rep. 11, 5386, 2021), on the
scenes of `synthetic_columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from emjax.config import OpticsConfig
from emjax.data.column_scene import ColumnScene
from emjax.data.synthetic_columns import make_scenes
from simulators.specimens import Material

HEADS = ("clean", "flat", "sharp")
"""The truths: the expectation; the same without background; the same (with its background) if every
column were a Gaussian narrower than the probe, of the same sum."""
WIDTH = 1.2
"""Standard deviation of a sharp column in pixels. In pixels, since an image does not say how large
its pixels are; smaller ones a pixel would not resolve."""


def make_sharp(
    scene: ColumnScene,
    materials: Mapping[str, Material],
    batch: int,
    *,
    optics: OpticsConfig | None = None,
    width: float = WIDTH,
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """``draw(key) -> batch`` of random images, to run inside `jit`.

    Parameters
    ----------
    scene, materials, batch, optics : as of `emjax.data.synthetic_columns.make_scenes`. With a
        `curve` of (1, 1) and without errors of the scan the image is exactly the sharp one under
        the probe, on its background.
    width : of a sharp column (standard deviation) in pixels.

    Returns
    -------
    draw
        Of a dict: ``counts`` [b, y, x, 1]; ``targets`` [b, y, x, 3] in electrons, in the order of
        `HEADS`; ``peak`` [b], the largest of the clean one; ``pixel`` [b] in Å; ``probe``
        [b, k, l], the probe's transfer function on a grid of k × k pixels, k at least y and x.

    Raises
    ------
    ValueError
        A width that is not positive, and what `make_scenes` refuses.
    """
    if width <= 0:
        raise ValueError(f"a width of {width} pixels: sharp columns need one above 0")
    scenes = make_scenes(scene, materials, batch, optics=optics, sharp=width)

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        drawn = scenes(key)
        targets = jnp.concatenate([drawn[name] for name in ("rate", "flat", "sharp")], axis=-1)
        kept = {name: drawn[name] for name in ("counts", "peak", "pixel", "probe")}
        return {**kept, "targets": targets}

    return draw
