"""One scene at high and at low magnification: averages of pixels, or what a microscope records.

A network for super-resolution that is trained on averages of sharp images has never seen the
broader probe, the noise and the scan errors of a recording at low magnification. Both kinds are
made here, so that what this costs can be measured.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from emjax.data.phantom_scenes import DegradationConfig
from emjax.sharding import vmap_over_devices
from simulators.noise import fast_poisson
from simulators.scan import ScanDistortion

KINDS = ("ideal", "real")


def make_low_resolution(
    scenes: Callable[[jax.Array], dict[str, jax.Array]],
    config: DegradationConfig,
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """``draw(key) -> batch`` with both kinds of coarse images of the same scenes.

    Parameters
    ----------
    scenes : ``draw(key)`` with ``clean`` [b, y, x, 1] (1 at its maximum), as `make_sem` makes it.
    config : of the recording at low magnification.

    Returns
    -------
    draw
        Of what `scenes` gives, and: ``ideal`` [b, y/f, x/f, 1], averages over f × f pixels of a
        recording of the sharp image; ``real``, a recording with a broader probe, lower dose, line
        jitter and line gain; both in electrons, such that an expectation of 1 in ``clean`` is
        ``dose`` [b].

    Raises
    ------
    ValueError
        A factor below 2, doses or blur that are not positive; a scene that the factor does not
        divide.
    """
    factor = config.factor
    if factor < 2:
        raise ValueError(f"a factor of {factor}: the coarse image needs fewer pixels, 2 or more")
    if min(*config.dose, config.sharp_dose, *config.blur) <= 0:
        raise ValueError("doses and the blur must be above 0")

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        k_scene, k_record = jax.random.split(key)
        batch = scenes(k_scene)
        keys = jax.random.split(k_record, len(batch["clean"]))
        coarse = vmap_over_devices(lambda k, x: record(k, x, config))(keys, batch["clean"][..., 0])
        return {**batch, **coarse}

    return draw


def record(key: jax.Array, clean: jax.Array, config: DegradationConfig) -> dict[str, jax.Array]:
    """``ideal`` and ``real`` coarse images [y/f, x/f, 1] of a scene [y, x], and their ``dose``."""
    f = config.factor
    if any(n % f for n in clean.shape):
        raise ValueError(f"{f} does not divide the sharp image's {clean.shape} pixels")
    k_sharp, k_lines, k_shot, k_size = jax.random.split(key, 4)
    size = jax.random.uniform(k_size, (5,))
    low, high = jnp.log(jnp.asarray(config.dose))
    dose = jnp.exp(low + (high - low) * size[0])
    blur = f * (config.blur[0] + (config.blur[1] - config.blur[0]) * size[1])
    jitter = f * config.jitter * size[2]
    scan = ScanDistortion(
        jitter=(jitter, 0.5 * jitter), correlation=0.9 * size[3], gain=config.line_gain * size[4]
    )
    shift, gain = scan.sample(k_lines, clean.shape[0] // f)
    seen = coarse_scan(clean, f, blur, shift) * gain[:, None]
    real = fast_poisson(k_shot, dose * jnp.maximum(seen, 0))
    sharp = fast_poisson(k_sharp, config.sharp_dose * clean) * (dose / config.sharp_dose)
    return {"ideal": bin_pixels(sharp, f)[..., None], "real": real[..., None], "dose": dose}


def bin_pixels(image: jax.Array, factor: int) -> jax.Array:
    """Mean of factor × factor pixels: [y, x] -> [y/f, x/f]."""
    ny, nx = (n // factor for n in image.shape)
    return image.reshape(ny, factor, nx, factor).mean((1, 3))


def coarse_scan(
    image: jax.Array, factor: int, blur: jax.Array | float, shift: jax.Array
) -> jax.Array:
    """Expectation of a scan with larger pixels, a Gaussian probe and displaced lines.

    Parameters
    ----------
    image : [y, x], taken as constant over each of its pixels and continued by its edges.
    factor : pixels to a pixel of the scan, over which the scan averages too.
    blur : standard deviation of the probe [px of `image`].
    shift : (x, y) [y/f, 2] displacement of each line [px of `image`].

    Returns
    -------
    [y/f, x/f] : exact for a Gaussian probe: integrals over pixels are differences of error
        functions.
    """
    ny, nx = image.shape
    rows = _weights(ny, factor, blur, shift[:, 1, None])
    along = rows @ image  # [y/f, x]
    columns = jax.vmap(lambda dx: _weights(nx, factor, blur, dx))(shift[:, 0])
    return jnp.einsum("rcx,rx->rc", columns, along)


def _weights(n: int, factor: int, blur: jax.Array | float, shift: jax.Array) -> jax.Array:
    """[n/f, n] share of each of n pixels in each coarse pixel displaced by `shift`."""
    centre = (jnp.arange(n // factor)[:, None] + 0.5) * factor - 0.5 + shift
    away = jnp.arange(n)[None] - centre
    scale = 1 / (jnp.sqrt(2.0) * jnp.maximum(blur, 1e-3))

    def twice_integral(t: jax.Array) -> jax.Array:
        """Of the error function: a box is convolved with the pixel's own box."""
        return t * jax.scipy.special.erf(t) + jnp.exp(-jnp.square(t)) / jnp.sqrt(jnp.pi)

    half = factor / 2
    corners = ((half + 0.5, 1), (half - 0.5, -1), (-half + 0.5, -1), (-half - 0.5, 1))
    weights = sum(sign * twice_integral((away + d) * scale) for d, sign in corners)
    return weights / jnp.maximum(weights.sum(1, keepdims=True), 1e-12)
