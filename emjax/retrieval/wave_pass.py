"""Waves through the slices and back: what the projection engines share.

The same multislice as in `ptychography`, with every wave on the way kept: an engine weighs its
update of a slice by the wave that fell on it. What a detector asks of a wave is a residual in real
space; it runs back through the slices by the adjoint of each step, and ends on the object's pixels
and on the Fourier coefficients of the probe inside its aperture.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from emjax.retrieval.likelihoods import Misfit
from emjax.retrieval.ptychography import Frame, Unknowns, probes
from simulators.multislice import fresnel_propagator
from simulators.tree import replace


class WavePass(NamedTuple):
    """All waves of a batch of patterns.

    Attributes
    ----------
    corner : int [b, 2]
        (y, x) of the first pixel of each pattern's window in the object.
    offset : [b, 2]
        (y, x) pixels from the window's middle to the probe.
    patches : complex [slices, b, y, x]
        The object in the windows.
    incident : complex [slices, b, modes, y, x]
        Waves in front of every slice; the first is the probe.
    exit : complex [b, modes, y, x]
        Wave behind the last slice.
    propagator : complex [y, x] or None
        From slice to slice, in FFT order; None for a single slice.
    """

    corner: jax.Array
    offset: jax.Array
    patches: jax.Array
    incident: jax.Array
    exit: jax.Array
    propagator: jax.Array | None


def place(frame: Frame, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Corner (whole pixels) and offset (the rest) of windows for positions [b, 2] (x, y) in Å."""
    sampling = np.array(frame.grid.sampling, np.float32)[None]
    origin = np.array(frame.origin, np.float32)[None]
    half = np.array([n // 2 for n in frame.grid.shape])[None]
    pixel = positions[:, ::-1] / sampling - origin
    whole = jnp.floor(pixel)
    return whole.astype(jnp.int32) - half, pixel - whole


def cut(image: jax.Array, corner: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Windows [slices, b, y, x] of an image [slices, y, x]."""
    size = (image.shape[0], *shape)
    return jax.vmap(lambda c: jax.lax.dynamic_slice(image, (0, c[0], c[1]), size), out_axes=1)(
        corner
    )


def spread(patches: jax.Array, corner: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Sum of windows [slices, b, y, x] on the object's pixels: the transpose of `cut`."""
    image = jax.ShapeDtypeStruct((patches.shape[0], *shape), patches.dtype)
    window = patches.shape[-2:]
    (total,) = jax.linear_transpose(lambda i: cut(i, corner, window), image)(patches)
    return total


def forward(unknowns: Unknowns, frame: Frame, positions: jax.Array) -> WavePass:
    """All waves for positions [b, 2] (x, y) in Å."""
    corner, offset = place(frame, positions)
    wave = probes(unknowns, frame, offset)
    patches = cut(unknowns.complex_transmission(), corner, frame.grid.shape)
    if len(patches) == 1:
        return WavePass(corner, offset, patches, wave[None], wave * patches[0][:, None], None)
    step = fresnel_propagator(frame.grid, unknowns.spacing, frame.energy, unknowns.tilt)
    step = step.astype(wave.dtype)

    def through(wave: jax.Array, patch: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _propagated(wave * patch[:, None], step), wave

    last, before = jax.lax.scan(through, wave, patches[:-1])
    incident = jnp.concatenate([before, last[None]])
    return WavePass(corner, offset, patches, incident, last * patches[-1][:, None], step)


def backward(waves: WavePass, residual: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A residual of the exit waves, run back by the adjoint.

    Returns
    -------
    behind : [slices, b, modes, y, x], the residual behind every slice
    probe : [b, modes, y, x], the residual of the probe's wave
    """
    if waves.propagator is None:
        return residual[None], jnp.conj(waves.patches[0])[:, None] * residual
    step = jnp.conj(waves.propagator)

    def back(residual: jax.Array, patch: jax.Array) -> tuple[jax.Array, jax.Array]:
        before = _propagated(jnp.conj(patch)[:, None] * residual, step)
        return before, before

    first, others = jax.lax.scan(back, residual, waves.patches[1:], reverse=True)
    behind = jnp.concatenate([others, residual[None]])
    return behind, jnp.conj(waves.patches[0])[:, None] * first


def tangent(waves: WavePass, patches: jax.Array | None, probe: jax.Array | None) -> jax.Array:
    """First-order change of the exit waves with changes of the patches or of the probe's waves."""
    wave = jnp.zeros_like(waves.exit) if probe is None else probe
    change = jnp.zeros_like(waves.patches) if patches is None else patches

    def moved(wave: jax.Array, step: tuple) -> tuple[jax.Array, None]:
        patch, change, incident = step
        wave = _propagated(patch[:, None] * wave + change[:, None] * incident, waves.propagator)
        return wave, None

    if waves.propagator is not None:
        steps = waves.patches[:-1], change[:-1], waves.incident[:-1]
        wave, _ = jax.lax.scan(moved, wave, steps)
    return waves.patches[-1][:, None] * wave + change[-1][:, None] * waves.incident[-1]


def _propagated(wave: jax.Array, step: jax.Array | None) -> jax.Array:
    assert step is not None
    return jnp.fft.ifft2(jnp.fft.fft2(wave) * step[None, None])


def detected(
    wave: jax.Array, counts: jax.Array, weight: jax.Array, misfit: Misfit
) -> tuple[jax.Array, jax.Array]:
    """Misfit of exit waves, and the residual that the detector asks for.

    The residual is -1/2 of the misfit's gradient by the conjugate wave. Of the amplitude model
    that is the projection on the counts, √counts · phase - wave, of the others its like near the
    solution: a rate wrong by the share δ asks for -δ/2 of the wave in every model.

    Parameters
    ----------
    wave : complex [b, modes, y, x]
    counts : [b, ky, kx]
    weight : [b, ky, kx]
        0 where the detector is dead or a pattern only fills up its batch.

    Returns
    -------
    misfit : float, the sum
    residual : complex [b, modes, y, x]
    """
    spectrum = jnp.fft.fft2(wave, norm="ortho")
    rate = (jnp.square(spectrum.real) + jnp.square(spectrum.imag)).sum(axis=1)
    counts = counts.astype(rate.dtype)
    value, slope = jax.value_and_grad(lambda r: (misfit(r, counts) * weight).sum())(rate)
    return value, jnp.fft.ifft2(-0.5 * slope[:, None] * spectrum, norm="ortho")


def on_probe(unknowns: Unknowns, frame: Frame, offset: jax.Array, waves: jax.Array) -> jax.Array:
    """Waves [b, modes, y, x] summed on the probe's coefficients: the adjoint of `probes`.

    Returns
    -------
    [2, modes, ky, kx], real and imaginary part. `probes` keeps lengths, so of one wave this is
    also the projection on what a probe can be.
    """

    def of(probe: jax.Array) -> jax.Array:
        return probes(replace(unknowns, probe=probe), frame, offset)

    (total,) = jax.linear_transpose(of, unknowns.probe)(jnp.conj(waves))
    return total


def intensity(waves: jax.Array) -> jax.Array:
    """Σ |wave|² over the modes: [..., modes, y, x] to [..., y, x]."""
    return (jnp.square(waves.real) + jnp.square(waves.imag)).sum(axis=-3)


def as_pair(image: jax.Array) -> jax.Array:
    """Real and imaginary part, the way `Unknowns` keeps them."""
    return jnp.stack([image.real, image.imag])
