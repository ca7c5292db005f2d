"""Phantoms of scanning electron images: gold nanoparticles on carbon, drawn inside the step.

Secondary electrons leave a surface that is inclined by θ in numbers that go as 1/cos θ, over their
escape depth (Reimer, Scanning Electron Microscopy, 1998, section 5.2): outlines of particles are
bright, the more so the larger the particle. The film beside a particle is darker, because the
particle catches what leaves it. No transport of electrons is computed: a proxy of such images.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from emjax.data.phantom_scenes import SEMScene
from emjax.sharding import vmap_over_devices

SIDE = 96
"""Numbers of a scene's objects are those of an image of so many pixels a side."""
HARMONICS = 4


def make_sem(scene: SEMScene, batch: int, patch: int) -> Callable[[jax.Array], dict]:
    """``draw(key) -> batch`` of sharp images without noise, to run inside `jit`.

    Parameters
    ----------
    scene : what the images are like.
    batch : images.
    patch : pixels a side.

    Returns
    -------
    draw
        Of a dict: ``clean`` [b, y, x, 1], the yield with 1 at its maximum (less where there is no
        gold in the picture); ``mask`` [b, y, x], 1 on gold.

    Raises
    ------
    ValueError
        No image, fewer than 8 pixels, no particle, radii that are not positive.
    """
    if batch < 1 or patch < 8:
        raise ValueError(f"a batch of {batch} images of {patch} pixels: at least 1 of 8 are needed")
    if scene.particles < 1 or min(scene.radius) <= 0:
        raise ValueError("a scene needs particles, and radii above 0")
    count = max(1, round(scene.particles * (patch / SIDE) ** 2))

    def one(key: jax.Array) -> dict[str, jax.Array]:
        keys = jax.random.split(key, 6)
        between = lambda k, ends, shape=(): jax.random.uniform(  # noqa: E731
            k, shape, minval=ends[0], maxval=ends[1]
        )
        low, high = jnp.log(jnp.asarray(scene.radius))
        radius = jnp.exp(low + (high - low) * jax.random.uniform(keys[0], (count, 1, 1)))
        centre = between(keys[1], (-6.0, patch + 6.0), (2, count, 1, 1))
        share, uneven, dark = jax.random.uniform(keys[2], (3,))
        there = jax.random.uniform(keys[3], (count, 1, 1)) < share
        depth, signal = outlines(keys[4], centre, radius, scene, patch)
        k_film, k_gold, k_edge, k_carbon = jax.random.split(keys[5], 4)

        # depth [px] inside the outline, negative outside; half a pixel is the edge of a pixel
        cover = jnp.where(there, jnp.clip(0.5 + depth, 0, 1), 0)
        gold = between(k_gold, scene.gold, (count, 1, 1))
        bright = gold * (1 + between(k_edge, scene.edge) * signal)
        nearest = jnp.max(jnp.where(there, depth, -1e3), axis=0)
        film = between(k_carbon, scene.carbon) * (
            1 + scene.texture * uneven * smooth_field(k_film, patch, (6, 24))
        )
        film = film * (1 - scene.shadow * dark * jnp.exp(jnp.minimum(nearest, 0) / 4))
        # the highest (brightest) of overlapping particles hides the others
        top = jnp.max(cover * bright, axis=0)
        image = jnp.maximum(top, (1 - cover.max(0)) * jnp.maximum(film, 0))
        # bare film stays as dark as it is beside gold
        image = image / jnp.maximum(image.max(), scene.gold[1])
        return {"clean": image[..., None], "mask": (nearest > 0).astype(jnp.float32)}

    return lambda key: vmap_over_devices(one)(jax.random.split(key, batch))


def outlines(
    key: jax.Array, centre: jax.Array, radius: jax.Array, scene: SEMScene, patch: int
) -> tuple[jax.Array, jax.Array]:
    """Depth inside the outline [px] and the brightness of the inclined surface (0 to 1).

    Parameters
    ----------
    key : of the outlines' shapes.
    centre : (y, x) [2, n, 1, 1] and radius [n, 1, 1] in pixels.

    Returns
    -------
    depth, rim : [n, y, x] each.
    """
    y, x = jnp.meshgrid(jnp.arange(patch) * 1.0, jnp.arange(patch) * 1.0, indexing="ij")
    dy, dx = y[None] - centre[0], x[None] - centre[1]
    distance = jnp.sqrt(dy**2 + dx**2 + 1e-6)
    k_size, k_turn = jax.random.split(key)
    shape = (HARMONICS, len(radius), 1, 1)
    size = scene.roundness * jax.random.uniform(k_size, shape)
    turn = 2 * jnp.pi * jax.random.uniform(k_turn, shape)
    # cos(kφ) and sin(kφ) by multiplication with the cosine and sine of φ: no slow functions
    c, s = dx / distance, dy / distance
    real, imaginary, wave = c, s, jnp.zeros_like(c)
    for k in range(HARMONICS):
        real, imaginary = real * c - imaginary * s, real * s + imaginary * c
        wave = wave + size[k] * (jnp.cos(turn[k]) * real - jnp.sin(turn[k]) * imaginary)
    outline = radius * (1 + wave)
    depth = outline - distance
    height = jnp.maximum(1 - (distance / outline) ** 2, 0)  # cos² of the inclination of a sphere
    escape = scene.escape / outline
    flat, steep = jax.lax.rsqrt(1 + escape), jax.lax.rsqrt(escape)
    rim = (jax.lax.rsqrt(height + escape) - flat) / (steep - flat)
    return depth, rim


def smooth_field(key: jax.Array, side: int, scales: tuple[int, ...]) -> jax.Array:
    """[side, side] noise of standard deviation about 1, with structure of so many pixels."""
    total = jnp.zeros((side, side))
    for k, scale in zip(jax.random.split(key, len(scales)), scales, strict=True):
        n = side // scale + 2
        coarse = jax.random.normal(k, (n, n))
        total = total + jax.image.resize(coarse, (side, side), "cubic")
    return total / len(scales) ** 0.5
