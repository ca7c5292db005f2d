"""What a microscope does to the image of a specimen: probe, distortions, background, noise.

Everything is drawn at random within the ranges of a `SceneConfig`; runs inside `jit` and `vmap`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from emjax.config import SceneConfig
from emjax.data.normalise import normalise
from emjax.data.resample import scaled
from simulators.linear import FWHM
from simulators.noise import fast_poisson
from simulators.optics import Optics
from simulators.scan import ScanDistortion, displaced

NATIVE = 96
"""Pixels a side of the simulated scan; the network's patch is cut from its middle."""
THERMAL = 0.08
"""Thermal displacement [Å] of all atoms."""

Expose = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""``(key, pixel, shift) -> image [NATIVE, NATIVE]``: a noise-free scan of `pixel` Å a pixel, lines
displaced by `shift` [NATIVE, 2] Å, of a specimen whose middle is the middle of the scan."""


def random_optics(
    key: jax.Array, scene: SceneConfig, optics: Optics, scale: jax.Array | float = 1.0
) -> Optics:
    """A random probe about `optics`, with all lengths multiplied by `scale`."""
    k_beam, k_size, k_turn, k_source = jax.random.split(key, 4)
    beam = jax.random.uniform(k_beam, (2,))
    (e0, e1), (a0, a1) = scene.energy, scene.semiangle
    size, turn = jax.random.normal(k_size, (5,)), 2 * jnp.pi * jax.random.uniform(k_turn, (3,))
    source = jax.random.uniform(k_source, minval=scene.source_size[0], maxval=scene.source_size[1])
    source = jnp.sqrt((source * optics.source_size) ** 2 + (FWHM * THERMAL) ** 2)
    two = _sum((optics.C12, 2 * optics.phi12), (scene.C12 * size[1], turn[0]))
    coma = _sum((optics.C21, optics.phi21), (scene.C21 * size[2], turn[1]))
    three = _sum((optics.C23, 3 * optics.phi23), (scene.C23 * size[3], turn[2]))
    return Optics(
        energy=optics.energy * (e0 + (e1 - e0) * beam[0]),
        semiangle=optics.semiangle * (a0 + (a1 - a0) * beam[1]) / scale,
        C10=(optics.C10 + scene.defocus * size[0]) * scale**2,
        C12=two[0] * scale**2,
        phi12=two[1] / 2,
        C21=coma[0] * scale**3,
        phi21=coma[1],
        C23=three[0] * scale**3,
        phi23=three[1] / 3,
        C30=(optics.C30 + scene.C30 * size[4]) * scale**4,
        source_size=source * scale,
    )


def _sum(*polar: tuple) -> tuple[jax.Array, jax.Array]:
    """Magnitude and angle of a sum of vectors, each (magnitude, angle)."""
    x = sum(size * jnp.cos(angle) for size, angle in polar)
    y = sum(size * jnp.sin(angle) for size, angle in polar)
    return jnp.hypot(x, y), jnp.arctan2(y, x)


def record(
    key: jax.Array, scene: SceneConfig, expose: Expose
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Network input [patch, patch, 2], and the map from Å (about the centre) to its pixels."""
    k_pixel, k_optics, k_lines, k_back, k_dose, k_noise, k_crop, k_end = jax.random.split(key, 8)
    pixel = jax.random.uniform(k_pixel, minval=scene.pixel[0], maxval=scene.pixel[1])
    centre = NATIVE * pixel / 2

    size = jax.random.uniform(k_lines, (4,))
    jitter = scene.jitter * size[0] ** 2
    scan = ScanDistortion(
        jitter=(jitter, 0.5 * jitter), correlation=0.9 * size[1], gain=scene.line_gain * size[2]
    )
    shift, gain = scan.sample(jax.random.fold_in(k_lines, 1), NATIVE)
    seen = jnp.maximum(expose(k_optics, pixel, shift), 0)
    seen = seen / (seen.max() + 1e-9) + background(k_back, scene)

    draw = jax.random.uniform(k_dose, (4,))
    low, high = jnp.log(jnp.asarray(scene.dose))
    rate = seen * gain[:, None] * jnp.exp(low + (high - low) * draw[0]) / seen.max()
    k_shot, k_read = jax.random.split(k_noise)
    readout = scene.readout * jnp.maximum(2 * draw[1] - 1, 0)
    image = fast_poisson(k_shot, jnp.maximum(rate, 0))
    image = image + readout * jax.random.normal(k_read, image.shape)
    image = _softened(image, jnp.where(draw[2] < 0.3, 1.3 * draw[3], 0.01))

    start = centre - scene.patch * scene.sampling / 2
    start = start + jax.random.uniform(k_crop, (2,), minval=-0.3, maxval=0.3)
    zoom = jnp.stack([pixel, pixel]) / scene.sampling
    cut = scaled(image, (scene.patch,) * 2, zoom, -start / scene.sampling)
    final = normalise(cut)
    a, b = jax.random.normal(k_end, (2,))
    # a patch is judged by itself here, but within a whole image when the network is used
    final = final.at[..., 0].multiply(jnp.exp(0.12 * a)).at[..., 0].add(0.08 * b)

    def where(points: jax.Array) -> jax.Array:
        apparent = displaced(points + centre, shift, pixel)
        return (apparent - start[None, ::-1]) / scene.sampling

    return final, where


def background(key: jax.Array, scene: SceneConfig, side: int = NATIVE) -> jax.Array:
    """Pedestal, slow unevenness (thickness, contamination) and some fine texture (support)."""
    k_slow, k_fine, k_size = jax.random.split(key, 3)
    size = jax.random.uniform(k_size, (3,))
    slow, fine = _field(k_slow, 5, side), _field(k_fine, side // 4, side)
    uneven = jnp.exp(slow - slow.max())
    return (
        scene.background * size[0] ** 3 * uneven
        + scene.pedestal * size[1] ** 2
        + 0.15 * size[2] ** 4 * jnp.abs(fine)
    )


def _field(key: jax.Array, knots: int, side: int) -> jax.Array:
    """A smooth random field [side, side] with about `knots` bumps a side."""
    gap = np.linspace(0, knots - 1, side)[:, None] - np.arange(knots)[None, :]
    weights = np.exp(-0.5 * (gap / 0.6) ** 2)
    weights = jnp.asarray(weights / weights.sum(1, keepdims=True), jnp.float32)
    return 1.5 * weights @ jax.random.normal(key, (knots, knots)) @ weights.T


def _softened(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Smoothed by a Gaussian [px], as slow electronics and the user's own filters do."""
    gap = np.arange(NATIVE)[:, None] - np.arange(NATIVE)[None, :]
    weights = jnp.exp(-0.5 * jnp.square(jnp.asarray(gap, jnp.float32) / sigma))
    weights = weights / weights.sum(1, keepdims=True)
    return weights @ image @ weights.T
