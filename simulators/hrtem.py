"""High-resolution images: a plane wave through the specimen, a lens, an intensity."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import array_module, is_concrete, real_of
from simulators.coherence import coherent, focus_offsets, illumination_tilts
from simulators.ctf import ctf
from simulators.electron import wavelength
from simulators.engines import exit_wave
from simulators.grid import Grid
from simulators.optics import Optics, plane_wave
from simulators.potential import Potential
from simulators.tree import replace

PARTIAL = ("envelope", "explicit", "none")
"""How partial coherence is taken into account."""


def image_wave(wave: jax.Array, optics: Optics, grid: Grid, **options: Any) -> jax.Array:
    """The exit wave [..., ny, nx] in the image plane; `options` of `ctf.ctf`."""
    wave = jnp.asarray(wave)
    transfer = jnp.asarray(ctf(optics, grid, **options), wave.dtype)
    lead = tuple(range(wave.ndim - 2))
    return jnp.fft.ifft2(jnp.fft.fft2(wave) * jnp.expand_dims(transfer, lead))


def image(wave: jax.Array, optics: Optics, grid: Grid, **options: Any) -> jax.Array:
    """|F⁻¹[H F[ψ]]|² of exit waves.

    Parameters
    ----------
    wave : complex [..., ny, nx]
        Real space.
    optics : Optics
        Its aperture is the objective aperture; `semiangle=None` for none.
    grid : Grid
    options
        Of `ctf.ctf`: `flip_phase`, `wiener_snr`, `off_axis`.

    Returns
    -------
    float [..., ny, nx]
        Of the incident intensity; not normalised.
    """
    seen = image_wave(_fitting(wave, grid), optics, grid, **options)
    return seen.real**2 + seen.imag**2


def focal_series(wave: jax.Array, optics: Optics, grid: Grid, defoci: Any) -> jax.Array:
    """Images [foci, ..., ny, nx] of one exit wave at several defoci [Å] (envelopes included)."""
    xp = array_module(defoci, optics.C10)
    added = -xp.asarray(defoci) - optics.C10
    wave = _fitting(wave, grid)
    # the envelope of the angular spread changes with focus: one CTF each, all images at once
    if is_concrete(defoci):
        transfers = jnp.stack(
            [
                jnp.asarray(ctf(replace(optics, C10=optics.C10 + float(a)), grid), wave.dtype)
                for a in np.atleast_1d(added)
            ]
        )
    else:
        transfers = jax.vmap(lambda a: ctf(replace(optics, C10=optics.C10 + a), grid))(added)
    lead = tuple(range(1, wave.ndim - 1))
    seen = jnp.fft.ifft2(jnp.fft.fft2(wave)[None] * jnp.expand_dims(transfers, lead))
    return seen.real**2 + seen.imag**2


def hrtem(
    potential: Potential,
    optics: Optics,
    *,
    engine: Any = "multislice",
    planes: tuple[int, ...] | None = None,
    partial: str = "envelope",
    focus_nodes: int | None = None,
    tilt_nodes: int | None = None,
    flip_phase: bool = False,
    wiener_snr: float | None = None,
    **options: Any,
) -> jax.Array:
    """The image of a specimen in parallel illumination.

    Parameters
    ----------
    potential : Potential
    optics : Optics
        `tilt` is that of the beam against the specimen (the lens follows the beam).
    engine : str or callable
        Of `engines.ENGINES`.
    planes : tuple of int, optional
        Thickness series from one pass: images of the waves below these slices.
    partial : {"envelope", "explicit", "none"}
        `envelope` multiplies the CTF (one image; right for weak objects). `explicit` adds images
        over defocus and over directions of illumination, each direction through specimen and lens
        (tilt_nodes² passes at most, focus_nodes images each). `none` is coherent.
    focus_nodes, tilt_nodes : int, optional
        Gauss–Hermite nodes over the focal spread, and per direction over the angular spread. As
        many as the lens needs (coherence.py) if not given.
    flip_phase, wiener_snr
        See `ctf.ctf`; not with `explicit`, which has no single CTF.
    options
        Of the engine: `step`, `order`, `bandlimit`.

    Returns
    -------
    float [ny, nx] or [planes, ny, nx]
        Of the incident intensity.

    Raises
    ------
    ValueError
        An unknown engine or kind of coherence; a filter with explicit sums.
    """
    if partial not in PARTIAL:
        raise ValueError(f"unknown partial={partial!r}: choose one of {', '.join(PARTIAL)}")
    grid = potential.grid
    incident = plane_wave(grid, dtype=real_of(potential.slices))
    options = {**options, "engine": engine, "planes": planes}
    filters = {"flip_phase": flip_phase, "wiener_snr": wiener_snr}
    if partial != "explicit":
        wave = exit_wave(incident, potential, optics.energy, tilt=optics.tilt, **options)
        lens = optics if partial == "envelope" else coherent(optics)
        return image(wave, lens, grid, **filters)
    if flip_phase or wiener_snr is not None:
        raise ValueError('flip_phase and wiener_snr filter one CTF: use partial="envelope"')
    lens = coherent(optics)
    tilts, tilt_weights = illumination_tilts(optics, grid, tilt_nodes)
    foci, focus_weights = focus_offsets(optics, grid, focus_nodes)
    if len(tilt_weights) == 1:
        wave = exit_wave(incident, potential, optics.energy, tilt=optics.tilt, **options)
        return _over_foci(wave, lens, grid, foci, focus_weights, None)

    def one(item: tuple[jax.Array, jax.Array]) -> jax.Array:
        angle, weight = item
        tilt = (optics.tilt[0] + angle[0], optics.tilt[1] + angle[1])
        wave = exit_wave(incident, potential, optics.energy, tilt=tilt, **options)
        return weight * _over_foci(wave, lens, grid, foci, focus_weights, (angle[0], angle[1]))

    real = incident.real.dtype
    items = (jnp.asarray(tilts, real), jnp.asarray(tilt_weights, real))
    return jax.lax.map(one, items).sum(0)


def _over_foci(
    wave: jax.Array, lens: Optics, grid: Grid, foci: Any, weights: np.ndarray, off_axis: Any
) -> jax.Array:
    """Σ_f w_f |image wave|² of exit waves [..., ny, nx] at changes `foci` of C10."""
    transfer = ctf(lens, grid, envelopes=False, off_axis=off_axis)
    spectrum = jnp.fft.fft2(wave) * jnp.expand_dims(
        jnp.asarray(transfer, wave.dtype), tuple(range(wave.ndim - 2))
    )
    if len(weights) == 1:
        seen = jnp.fft.ifft2(spectrum)
        return seen.real**2 + seen.imag**2
    xp = array_module(lens.energy, foci, off_axis)
    ky, kx = grid.frequencies()
    if off_axis is not None:
        lam = wavelength(lens.energy)
        kx, ky = (
            k + xp.tan(angle * 1e-3) / lam for k, angle in zip((kx, ky), off_axis, strict=True)
        )
    k2 = ky[:, None] ** 2 + kx[None, :] ** 2
    phase = np.pi * wavelength(lens.energy) * xp.asarray(k2 - k2[0, 0])
    turns = xp.asarray(foci)[:, None, None] * phase[None]
    ramps = jnp.asarray(xp.exp(-1j * turns), wave.dtype)

    def add(total: jax.Array, item: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        weight, ramp = item
        seen = jnp.fft.ifft2(spectrum * jnp.expand_dims(ramp, tuple(range(wave.ndim - 2))))
        return total + weight * (seen.real**2 + seen.imag**2), None

    start = jnp.zeros(wave.shape, wave.real.dtype)
    return jax.lax.scan(add, start, (jnp.asarray(weights, wave.real.dtype), ramps))[0]


def _fitting(wave: jax.Array, grid: Grid) -> jax.Array:
    if tuple(np.shape(wave)[-2:]) != grid.shape:
        raise ValueError(
            f"the wave is {tuple(np.shape(wave)[-2:])} pixels (y, x) but the grid is {grid.shape}"
        )
    return jnp.asarray(wave)
