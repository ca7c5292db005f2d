"""Phantoms of stained sections of cells: membranes of two dark lines, vesicles, granules.

Membranes lie where a smooth random field is zero, as distance to that line (the field over its
slope); vesicles are circles. A proxy of sections, for super-resolution: nothing here has the
statistics of a real organ.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from emjax.data.phantom_scenes import SectionScene
from emjax.data.synthetic_sem import SIDE, smooth_field
from emjax.sharding import vmap_over_devices


def make_sections(scene: SectionScene, batch: int, patch: int) -> Callable[[jax.Array], dict]:
    """``draw(key) -> batch`` of sharp images without noise, to run inside `jit`.

    Parameters
    ----------
    scene : what the images are like.
    batch : images.
    patch : pixels a side.

    Returns
    -------
    draw
        Of a dict: ``clean`` [b, y, x, 1], the transmission with 1 at its maximum; ``mask``
        [b, y, x], 1 where the stain takes away more than half of its depth.

    Raises
    ------
    ValueError
        No image, or fewer than 16 pixels.
    """
    if batch < 1 or patch < 16:
        raise ValueError(f"a batch of {batch} images of {patch} pixels: at least 1 of 16 is needed")
    area = (patch / SIDE) ** 2
    vesicles = max(1, round(scene.vesicles * area))
    granules = max(1, round(scene.granules * area))
    y, x = jnp.meshgrid(jnp.arange(patch) * 1.0, jnp.arange(patch) * 1.0, indexing="ij")

    def lines(distance: jax.Array, gap: jax.Array) -> jax.Array:
        return jnp.exp(-0.5 * ((jnp.abs(distance) - gap / 2) / scene.leaflet) ** 2)

    def one(key: jax.Array) -> dict[str, jax.Array]:
        k_field, k_size, k_place, k_there, k_dots, k_grain, k_look = jax.random.split(key, 7)
        look = jax.random.uniform(k_look, (4,))
        gap = scene.gap[0] + (scene.gap[1] - scene.gap[0]) * look[0]
        stain = scene.stain[0] + (scene.stain[1] - scene.stain[0]) * look[1]

        field = smooth_field(k_field, patch, (20, 40))
        slope = jnp.sqrt(sum(g**2 for g in jnp.gradient(field)) + 1e-6)
        membrane = lines(field / slope, gap)

        low, high = scene.vesicle_radius
        radius = low + (high - low) * jax.random.uniform(k_size, (vesicles, 1, 1))
        cy, cx = jax.random.uniform(k_place, (2, vesicles, 1, 1), minval=0, maxval=patch)
        there = jax.random.uniform(k_there, (vesicles, 1, 1)) < look[2]
        away = jnp.sqrt((y[None] - cy) ** 2 + (x[None] - cx) ** 2) - radius
        membrane = jnp.maximum(membrane, jnp.where(there, lines(away, gap), 0).max(0))

        k_at, k_wide, k_some = jax.random.split(k_dots, 3)
        gy, gx = jax.random.uniform(k_at, (2, granules, 1), minval=0, maxval=patch)
        low, high = scene.granule
        wide = low + (high - low) * jax.random.uniform(k_wide, (granules, 1))
        some = jax.random.uniform(k_some, (granules, 1)) < look[3]
        at = jnp.arange(patch)[None]
        # a Gaussian is a product of two: one matrix product paints all of them
        rows = some * jnp.exp(-0.5 * ((at - gy) / wide) ** 2)
        dots = jnp.minimum(rows.T @ jnp.exp(-0.5 * ((at - gx) / wide) ** 2), 1)

        dark = jnp.maximum(membrane, dots)
        resin = 1 + scene.grain * smooth_field(k_grain, patch, (3, 16))
        image = resin * (1 - stain * dark)
        return {"clean": (image / image.max())[..., None], "mask": (dark > 0.5).astype(jnp.float32)}

    return lambda key: vmap_over_devices(one)(jax.random.split(key, batch))
