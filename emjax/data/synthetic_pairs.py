"""Noisy images with what the microscope would show without noise, drawn inside the training step.

Both come from the same random specimen and probe (linear model, as `data.synthetic`): the one with
scan-line jitter, line gain, shot noise and read-out noise, the other with none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from emjax.config import OpticsConfig, SceneConfig
from emjax.data.synthetic import REACH, make_specimen
from emjax.data.synthetic_scan import background, random_optics
from emjax.sharding import vmap_over_devices
from simulators.grid import Grid
from simulators.linear import sample_lines, spectrum, transfer
from simulators.noise import fast_poisson
from simulators.scan import ScanDistortion
from simulators.specimens import Material


def make_pairs(
    scene: SceneConfig,
    materials: Mapping[str, Material],
    batch: int,
    *,
    optics: OpticsConfig | None = None,
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """``draw(key) -> batch`` of random images, to run inside `jit`.

    Parameters
    ----------
    scene : what the images are like; `patch` pixels of `pixel` Å a side, `dose` electrons at the
        brightest pixel.
    materials : crystals by name, drawn with equal chance (all but `scene.generic`).
    batch : images.
    optics : the microscope that the random probes scatter about.

    Returns
    -------
    draw
        Of a dict: ``counts`` [b, y, x, 1], electrons with read-out noise; ``rate`` [b, y, x, 1],
        the electrons expected of an undistorted scan; ``readout`` [b], its standard deviation.

    Raises
    ------
    ValueError
        No material, or no image.
    """
    if not materials or batch < 1:
        raise ValueError("give at least one material and a batch of at least one image")
    lens = (optics or OpticsConfig()).build()
    side = scene.patch * scene.pixel[1] + 2 * REACH
    specimen = make_specimen(scene, materials, (side, side), lens.energy)
    n = scene.patch
    # grids are static, pixel sizes are drawn: so all lengths are scaled to a fixed pixel instead
    unit = scene.pixel[0]
    margin = math.ceil(REACH / unit)  # the model is periodic: what comes round stays in the margin
    full = n + 2 * margin
    grid = Grid((full, full), (unit, unit))
    inner = slice(margin, margin + n)

    def one(key: jax.Array) -> dict[str, jax.Array]:
        *keys, k_pixel, k_lens, k_lines, k_back, k_dose, k_shot, k_read = jax.random.split(key, 11)
        atoms, _, weights = specimen(*keys)
        pixel = jax.random.uniform(k_pixel, minval=unit, maxval=scene.pixel[1])
        scale = unit / pixel
        xy = (atoms.positions[:, :2] - side / 2 + full * pixel / 2) * scale
        inside = ((xy >= 0) & (xy < full * unit)).all(axis=1)
        probe = transfer(random_optics(k_lens, scene, lens, scale), grid)
        form = spectrum(xy, weights * inside, grid) * probe

        size = jax.random.uniform(k_lines, (3,))
        jitter = scene.jitter * size[0] ** 2
        scan = ScanDistortion(
            jitter=(jitter, 0.5 * jitter), correlation=0.9 * size[1], gain=scene.line_gain * size[2]
        )
        shift, gain = scan.sample(jax.random.fold_in(k_lines, 1), full)
        still, moved = (
            jnp.maximum(sample_lines(form, grid, path), 0)[inner, inner]
            for path in (jnp.zeros_like(shift), shift * scale)
        )
        bright, behind = still.max() + 1e-9, background(k_back, scene, n)
        still, moved = still / bright + behind, moved / bright + behind

        draw = jax.random.uniform(k_dose, (2,))
        low, high = jnp.log(jnp.asarray(scene.dose))
        dose = jnp.exp(low + (high - low) * draw[0]) / still.max()
        readout = scene.readout * jnp.maximum(2 * draw[1] - 1, 0)
        counts = fast_poisson(k_shot, moved * gain[inner, None] * dose)
        counts = counts + readout * jax.random.normal(k_read, counts.shape)
        return {"counts": counts[..., None], "rate": (still * dose)[..., None], "readout": readout}

    return lambda key: vmap_over_devices(one)(jax.random.split(key, batch))
