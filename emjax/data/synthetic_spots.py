"""Pictures of Gaussian spots on random lattices: the clean domain of training without pairs.

They show how images of columns look, not what the specimen is: no scattering, no detector, black
between the spots. A spot of width s is exp(-r²/(2 s²)), so s is its standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from emjax.data.phantom_scenes import SpotScene


def make_spots(scene: SpotScene, batch: int, patch: int) -> Callable[[jax.Array], jax.Array]:
    """``draw(key) -> images [b, y, x, 1]`` with 1 at their maximum, to run inside `jit`.

    Raises
    ------
    ValueError : no image, spacings below 2 pixels, or widths that are not positive.
    """
    if batch < 1 or patch < 4 or min(scene.spacing) < 2 or min(scene.width) <= 0:
        raise ValueError(
            f"{batch} images of {patch} pixels with spots {scene.spacing} px apart and "
            f"{scene.width} wide: at least 1 image, 2 px and widths above 0 are needed"
        )
    # as many cells as cover a disc around the picture, whatever the lattice
    reach = 0.71 * patch + 2 * max(scene.spacing)
    cells = math.ceil(reach / (min(scene.spacing) * math.sin(math.radians(min(scene.angle)))))
    i, j = jnp.meshgrid(*(2 * [jnp.arange(-cells, cells + 1.0)]), indexing="ij")
    index = jnp.stack([i.ravel(), j.ravel()], axis=1)
    at = jnp.arange(patch)[None] * 1.0

    def one(key: jax.Array) -> jax.Array:
        k_cell, k_site, k_move, k_bright, k_gone = jax.random.split(key, 5)
        size = jax.random.uniform(k_cell, (7,))
        between = lambda ends, u: ends[0] + (ends[1] - ends[0]) * u  # noqa: E731
        spacing = scene.spacing[0] * (scene.spacing[1] / scene.spacing[0]) ** size[0]
        turn = 2 * jnp.pi * size[1]
        angle = jnp.deg2rad(between(scene.angle, size[2]))
        longer = spacing * between(scene.aspect, size[3])
        first = spacing * jnp.stack([jnp.sin(turn), jnp.cos(turn)])
        second = longer * jnp.stack([jnp.sin(turn + angle), jnp.cos(turn + angle)])
        width = spacing * between(scene.width, size[4])

        site = jax.random.uniform(k_site, (6,))
        lattice = index @ jnp.stack([first, second])
        other = lattice + ((0.35 + 0.3 * site[0]) * first + (0.35 + 0.3 * site[1]) * second)[None]
        faint = jnp.where(site[2] < scene.second, 0.15 + 0.8 * site[3], 0.0)
        yx = jnp.concatenate([lattice, other]) + (patch / 2 + spacing * (site[4:] - 0.5))[None]
        moved = scene.displacement * spacing * size[5] * jax.random.normal(k_move, yx.shape)
        yx = yx + moved
        height = jnp.repeat(jnp.stack([jnp.ones(()), faint]), len(index))
        height = height * jnp.exp(
            scene.spread * size[6] * jax.random.normal(k_bright, height.shape)
        )
        k_share, k_which = jax.random.split(k_gone)
        gone = scene.vacancies * jax.random.uniform(k_share)
        height = height * (jax.random.uniform(k_which, height.shape) >= gone)
        # a Gaussian is a product of two: one matrix product paints all of them
        rows, columns = (jnp.exp(-0.5 * ((at - yx[:, k, None]) / width) ** 2) for k in (0, 1))
        image = (height[:, None] * rows).T @ columns
        return (image / jnp.maximum(image.max(), 1e-9))[..., None]

    return lambda key: jax.vmap(one)(jax.random.split(key, batch))
