"""Movies of a drifting crystal in which atoms hop and get lost, drawn inside the training step.

Linear image model (`simulators.linear`). What stays is one structure factor, drift turns its
phases, and what changes is added to it: a frame costs one Fourier transform.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from emjax.config import OpticsConfig
from emjax.data.movie_scene import MovieScene
from emjax.data.synthetic import REACH, make_specimen
from emjax.data.synthetic_scan import background, random_optics
from emjax.sharding import vmap_over_devices
from simulators.grid import Grid
from simulators.linear import spectrum, transfer
from simulators.noise import fast_poisson
from simulators.specimens import Material

NEAR = 5
"""Columns that an atom hops between."""


def make_movies(
    scene: MovieScene,
    materials: Mapping[str, Material],
    batch: int,
    *,
    optics: OpticsConfig | None = None,
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """``draw(key) -> batch`` of random movies, to run inside `jit`.

    Parameters
    ----------
    scene : what the movies are like: `frames` of `patch` pixels a side.
    materials : crystals by name; `scene.generic` of the movies show random ones instead.
    batch : movies.
    optics : the microscope that the random probes scatter about.

    Returns
    -------
    draw
        Of a dict: ``counts`` [b, t, y, x], electrons with read-out noise; ``rate``
        [b, t, y, x], the expected electrons; ``peak`` [b], their maximum; ``readout`` [b], the
        read-out noise's standard deviation; ``drift`` [b, t, 2], where the specimen has moved to,
        (x, y) in pixels, nought in the middle frame; ``sites`` [b, t, s, 2], pixels (x, y) of the
        columns that may change, some of them outside the view.

    Raises
    ------
    ValueError
        No material, no movie, or no frame.
    """
    if not materials or batch < 1 or scene.frames < 1:
        raise ValueError("give at least one material, and a batch and frames of at least one")
    lens = (optics or OpticsConfig()).build()
    n, unit, frames = scene.patch, scene.pixel[0], scene.frames
    # the model is periodic: what comes round, or drifts in from there, stays outside
    farthest = (frames // 2) * scene.drift + 2 * math.sqrt(frames / 2) * scene.walk
    margin = math.ceil(REACH / unit / 2 + farthest)
    full = n + 2 * margin
    grid = Grid((full, full), (unit, unit))
    inner = slice(margin, margin + n)
    side = full * scene.pixel[1]
    specimen = make_specimen(scene, materials, (side, side), lens.energy)
    ky, kx = np.fft.fftfreq(full), np.arange(full // 2 + 1) / full

    def one(key: jax.Array) -> dict[str, jax.Array]:
        k_spec, k_matter, k_pixel, k_lens, k_drift, k_change, k_look, k_dose = jax.random.split(
            key, 8
        )
        atoms, _, weights = specimen(*jax.random.split(k_spec, 4))
        span = jnp.log(jnp.asarray(scene.pixel))
        pixel = jnp.exp(jax.random.uniform(k_pixel, minval=span[0], maxval=span[1]))
        scale = unit / pixel
        xy, weights = _disorder(k_matter, scene, atoms.positions[:, :2] - side / 2, weights)
        xy = (xy + full * pixel / 2) * scale
        inside = ((xy >= 0) & (xy < full * unit)).all(axis=1)
        weights = weights * inside
        where, change = _changes(k_change, scene, xy / unit - margin, weights)
        probe = transfer(random_optics(k_lens, scene, lens, scale), grid)
        still = spectrum(xy, weights, grid)
        moving = jax.vmap(lambda w: spectrum((where + margin) * unit, w, grid))(change)
        drift = jnp.clip(_drift(k_drift, scene), -farthest, farthest)
        x, y = (drift[:, i, None, None] for i in (0, 1))
        turns = y * ky[None, :, None] + x * kx[None, None]
        phase = jnp.exp(-2j * jnp.pi * turns)
        image = jnp.fft.irfft2((still[None] + moving) * probe[None] * phase, s=grid.shape)
        k_back, k_look = jax.random.split(k_look)
        behind = jnp.fft.rfft2(background(k_back, scene, full))
        behind = jnp.fft.irfft2(behind[None] * phase, s=grid.shape)[:, inner, inner]
        image = _look(k_look, scene, image[:, inner, inner], jnp.maximum(behind, 0))

        k_level, k_beam, k_shot, k_read = jax.random.split(k_dose, 4)
        draw = jax.random.uniform(k_level, (2,))
        low, high = jnp.log(jnp.asarray(scene.dose))
        beam = 1 + scene.flicker * jnp.clip(jax.random.normal(k_beam, (frames, 1, 1)), -3, 3)
        rate = image * beam
        rate = rate * jnp.exp(low + (high - low) * draw[0]) / rate.max()
        readout = scene.readout * jnp.maximum(2 * draw[1] - 1, 0)
        counts = fast_poisson(k_shot, rate) + readout * jax.random.normal(k_read, rate.shape)
        sites = where[None] + drift[:, None]
        return {
            **{"counts": counts, "rate": rate, "peak": rate.max(), "readout": readout},
            **{"drift": drift, "sites": sites},
        }

    return lambda key: vmap_over_devices(one)(jax.random.split(key, batch))


def _disorder(
    key: jax.Array, scene: MovieScene, xy: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Static displacements of single columns, and their own brightness."""
    k_size, k_move, k_own = jax.random.split(key, 3)
    size = jax.random.uniform(k_size, (2,))
    moved = scene.displacement * size[0] ** 2 * jax.random.normal(k_move, xy.shape)
    bright = scene.roughness * size[1] ** 2 * jax.random.normal(k_own, weights.shape)
    return xy + moved, weights * jnp.exp(bright)


def _drift(key: jax.Array, scene: MovieScene) -> jax.Array:
    """[t, 2] pixels: an even part and a random walk, nought in the middle frame."""
    k_size, k_walk = jax.random.split(key)
    size = jax.random.uniform(k_size, (3,))
    turn = 2 * jnp.pi * size[0]
    even = scene.drift * size[1] * jnp.stack([jnp.cos(turn), jnp.sin(turn)])
    steps = scene.walk * size[2] * jax.random.normal(k_walk, (scene.frames, 2))
    path = jnp.cumsum(even[None] + steps, axis=0)
    middle = scene.frames // 2
    return path - path[middle : middle + 1]


def _changes(
    key: jax.Array, scene: MovieScene, xy: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Columns (x, y) [s, 2] in pixels, and what they have more, or less, in each frame [t, s]."""
    k_where, k_hop, k_to, k_size, k_lost, k_when = jax.random.split(key, 6)
    t, mean = scene.frames, weights.sum() / ((weights > 0).sum() + 1e-6)
    far = jnp.where(weights > 0, 0.0, 1e9)

    # hoppers: each has the columns about a point, and is at the last one that it went to
    centres = jax.random.uniform(k_where, (scene.hoppers, 2)) * scene.patch
    distance = jnp.square(centres[:, None] - xy[None]).sum(-1) + far[None]
    near = jax.lax.top_k(-distance, NEAR)[1]
    hops = jax.random.bernoulli(k_hop, scene.hop, (t, scene.hoppers)).at[0].set(True)
    last = jax.lax.cummax(jnp.where(hops, jnp.arange(t)[:, None], 0), axis=0)
    went = jax.random.randint(k_to, (t, scene.hoppers), 0, NEAR)
    at = jax.nn.one_hot(jnp.take_along_axis(went, last, axis=0), NEAR)
    size = mean * jax.random.uniform(k_size, (scene.hoppers,), minval=0.5, maxval=1.5)
    hopping = (at * size[None, :, None]).reshape(t, -1)

    gone = jax.random.uniform(k_lost, (scene.lost, 2)) * scene.patch
    distance = jnp.square(gone[:, None] - xy[None]).sum(-1) + far[None]
    lost = jnp.argmin(distance, axis=1)
    when = jax.random.uniform(k_when, (scene.lost,), maxval=2.0 * t)
    losing = -weights[lost][None] * (jnp.arange(t)[:, None] >= jnp.maximum(when, 1)[None])
    sites = jnp.concatenate([near.reshape(-1), lost])
    return xy[sites], jnp.concatenate([hopping, losing], axis=1)


def _look(key: jax.Array, scene: MovieScene, image: jax.Array, behind: jax.Array) -> jax.Array:
    """Frames [t, y, x] with a curve, a background and a polarity of the whole movie; top 1."""
    size = jax.random.uniform(key, (3,))
    low, high = jnp.log(jnp.asarray(scene.curve))
    power = jnp.exp(low + (high - low) * size[0])
    image = jnp.maximum(image / jnp.maximum(image.max(), 1e-6), 1e-6) ** power + behind
    image = image / jnp.maximum(image.max(), 1e-3)
    depth = scene.depth[0] + (scene.depth[1] - scene.depth[0]) * size[1]
    return jnp.where(size[2] < scene.dark, 1 - depth * image, image)
