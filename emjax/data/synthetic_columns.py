"""Noisy and clean images of columns of every kind, drawn inside the training step of a restorer.

Random crystals (`simulators.specimens`) in the linear image model (`simulators.linear`), with what
real specimens have and lattices have not: static displacements of every column, smooth strain,
vacancies, dopants, rough thickness, edges, matter without order, nothing at all; bright or dark
columns; then the errors of the scan and of the counting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp

from emjax.config import OpticsConfig
from emjax.data.column_scene import ColumnScene
from emjax.data.synthetic import REACH, make_specimen
from emjax.data.synthetic_scan import background, random_optics
from emjax.sharding import vmap_over_devices
from simulators.grid import Grid
from simulators.linear import sample_lines, spectrum, transfer
from simulators.noise import fast_poisson
from simulators.scan import ScanDistortion
from simulators.specimens import Material, find_material

ATOMS = 160
"""Atoms without order in an image, at most."""


def crystals(names: Iterable[str]) -> dict[str, Material]:
    """Materials by name, for `make_scenes`; raises KeyError for unknown ones (suggests some)."""
    return {name: find_material(name) for name in names}


def make_scenes(
    scene: ColumnScene,
    materials: Mapping[str, Material],
    batch: int,
    *,
    optics: OpticsConfig | None = None,
    copies: int = 1,
    sharp: float | None = None,
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """``draw(key) -> batch`` of random images, to run inside `jit`.

    Parameters
    ----------
    scene : what the images are like; `patch` pixels a side.
    materials : crystals by name; `scene.generic` of the images show random ones instead.
    batch : images.
    optics : the microscope that the random probes scatter about.
    copies : recordings of each scene, alike but for the noise of counting.
    sharp : if given, what more there is to recover, too: the standard deviation, in pixels, of the
        columns of ``sharp``.

    Returns
    -------
    draw
        Of a dict: ``counts`` [b, y, x, copies], electrons with read-out noise; ``rate``
        [b, y, x, 1], the electrons expected of an undistorted scan; ``peak`` [b], their maximum;
        ``readout`` [b], the read-out noise's standard deviation. With `sharp` also ``flat``, the
        rate without background; ``sharp`` (both [b, y, x, 1]), the rate if every column were a
        narrow Gaussian of the same sum; ``probe`` [b, k, l], the transfer function of the probe on
        a grid of k × k pixels; ``pixel`` [b] in Å.

    Raises
    ------
    ValueError
        No material, no image, or no copy.
    """
    if not materials or batch < 1 or copies < 1:
        raise ValueError("give at least one material, and a batch and copies of at least one")
    lens = (optics or OpticsConfig()).build()
    side = scene.patch * scene.pixel[1] + 2 * REACH
    specimen = make_specimen(scene, materials, (side, side), lens.energy)
    n = scene.patch
    # grids are static, pixel sizes are drawn: so all lengths are scaled to a fixed pixel instead
    unit = scene.pixel[0]
    margin = math.ceil(REACH / unit / 2)  # the model is periodic: what comes round stays outside
    full = n + 2 * margin
    grid = Grid((full, full), (unit, unit))
    inner = slice(margin, margin + n)

    def one(key: jax.Array) -> dict[str, jax.Array]:
        k_spec, k_matter, k_pixel, k_lens, k_lines, k_look, k_dose, k_noise = jax.random.split(
            key, 8
        )
        atoms, _, weights = specimen(*jax.random.split(k_spec, 4))
        span = jnp.log(jnp.asarray(scene.pixel))
        pixel = jnp.exp(jax.random.uniform(k_pixel, minval=span[0], maxval=span[1]))
        seen = full * pixel
        xy, weights = _matter(k_matter, scene, atoms.positions[:, :2] - side / 2, weights, seen)
        scale = unit / pixel
        xy = (xy + seen / 2) * scale
        inside = ((xy >= 0) & (xy < full * unit)).all(axis=1)
        probe = transfer(random_optics(k_lens, scene, lens, scale), grid)
        form = spectrum(xy, weights * inside, grid) * probe

        size = jax.random.uniform(k_lines, (3,))
        jitter = jnp.minimum(scene.jitter, scene.jitter_px * pixel)
        jitter *= jnp.maximum(1.5 * size[0] - 0.5, 0.0)
        scan = ScanDistortion(
            jitter=(jitter, 0.4 * jitter), correlation=0.8 * size[1], gain=scene.line_gain * size[2]
        )
        shift, gain = scan.sample(jax.random.fold_in(k_lines, 1), full)
        still, moved = (
            jnp.maximum(sample_lines(form, grid, path), 0)[inner, inner]
            for path in (jnp.zeros_like(shift), shift * scale)
        )
        look = _look(k_look, scene, still)
        plain, still, moved = still, look(still), look(moved)

        draw = jax.random.uniform(k_dose, (2,))
        low, high = jnp.log(jnp.asarray(scene.dose))
        dose = jnp.exp(low + (high - low) * draw[0]) / still.max()
        readout = scene.readout * jnp.maximum(2 * draw[1] - 1, 0)
        k_shot, k_read = jax.random.split(k_noise)
        rate = jnp.broadcast_to((moved * gain[inner, None] * dose)[..., None], (n, n, copies))
        counts = fast_poisson(k_shot, rate) + readout * jax.random.normal(k_read, rate.shape)
        rate = still * dose
        drawn = {"counts": counts, "rate": rate[..., None], "peak": rate.max(), "readout": readout}
        if sharp is not None:
            sigma = jnp.full(weights.shape, sharp * unit)
            narrow = sample_lines(spectrum(xy, weights * inside, grid, sigma=sigma), grid)
            drawn["sharp"] = (look(jnp.maximum(narrow, 0)[inner, inner]) * dose)[..., None]
            drawn["flat"] = (look(plain, 0.0) * dose)[..., None]
            drawn |= {"probe": probe, "pixel": pixel}
        return drawn

    return lambda key: vmap_over_devices(one)(jax.random.split(key, batch))


def _matter(
    key: jax.Array, scene: ColumnScene, xy: jax.Array, weights: jax.Array, seen: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Atoms about the middle, `seen` Å of them in view: displaced, rough, with others between."""
    k_size, k_move, k_wave, k_own, k_rare, k_edge, k_free, k_bright = jax.random.split(key, 8)
    size = jax.random.uniform(k_size, (8,))

    # every atom for itself, and two waves across all of them
    # (a network learns to pull columns onto the lattice from those that are on it)
    own = scene.displacement * jnp.maximum(1.3 * size[0] - 0.3, 0)
    moved = own * jax.random.normal(k_move, xy.shape)
    wave = jax.random.normal(k_wave, (2, 5))
    length = 2 * jnp.pi / seen * jnp.exp(0.7 * wave[:, :1])
    angle = xy @ (wave[:, 1:3] * length).T + 9 * wave[None, :, 0]
    moved += scene.waves * size[1] ** 2 * jnp.sin(angle) @ wave[:, 3:] / 2
    bright = scene.roughness * size[2] ** 2 * jax.random.normal(k_own, weights.shape)
    dice, other = jax.random.uniform(k_rare, (2, weights.shape[0]))
    rare = dice < scene.dopants * 10.0 ** (-2 * size[3])
    mean = weights.sum() / ((weights > 0).sum() + 1e-6)
    weights = jnp.where(rare & (weights > 0), mean * 5 * other**2, weights) * jnp.exp(bright)

    # the crystal's thickness rises from nothing within a part of the view
    turn, start, width, there = jax.random.uniform(k_edge, (4,))
    turn = 2 * jnp.pi * turn
    across = xy @ jnp.stack([jnp.cos(turn), jnp.sin(turn)]) / seen
    slope = jnp.clip((across + 0.5 * start) / (0.05 + width), 0.0, 1.0)
    weights *= jnp.where(there < scene.wedge, slope, 1.0)
    weights *= size[4] < scene.lattice

    # atoms without order: a film under everything, or matter on one side
    k_place, k_where = jax.random.split(k_free)
    free = (jax.random.uniform(k_place, (ATOMS, 2)) - 0.5) * seen
    turn, start, side, there = jax.random.uniform(k_where, (4,))
    turn = 2 * jnp.pi * turn
    across = free @ jnp.stack([jnp.cos(turn), jnp.sin(turn)]) / seen
    there = (there < scene.amorphous) & ((side < 0.5) | (across > start - 0.5))
    shine = mean * jnp.exp(0.4 * jax.random.normal(k_bright, (ATOMS,)))
    shine *= jnp.where(side < 0.5, 0.5 * size[5] ** 2, 1.2 * size[5])
    share = jnp.arange(ATOMS) < ATOMS * size[6]
    return jnp.concatenate([xy + moved, free]), jnp.concatenate([weights, shine * there * share])


def _look(key: jax.Array, scene: ColumnScene, still: jax.Array) -> Callable[..., jax.Array]:
    """``(image, ground=1) -> image`` with a curve, so much background, and a polarity.

    The brightest pixel of `still` comes near 1.
    """
    k_back, k_size = jax.random.split(key)
    size = jax.random.uniform(k_size, (4,))
    low, high = jnp.log(jnp.asarray(scene.curve))
    power = jnp.exp(low + (high - low) * size[0])
    bright = jnp.maximum(still.max(), 1e-6)
    behind = background(k_back, scene, still.shape[0])
    behind += jnp.where(still.max() > 1e-6, 0.0, 0.5)  # vacuum is even, not texture blown up
    depth = scene.depth[0] + (scene.depth[1] - scene.depth[0]) * size[1]

    def curved(image: jax.Array, ground: float = 1.0) -> jax.Array:
        return jnp.maximum(image / bright, 1e-6) ** power + ground * behind

    top = jnp.maximum(curved(still).max(), 1e-3)
    dark = size[2] < scene.dark

    def shown(image: jax.Array, ground: float = 1.0) -> jax.Array:
        image = curved(image, ground) / top
        return jnp.where(dark, jnp.maximum(1 - depth * image, 0), image)

    return shown
