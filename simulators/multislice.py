"""Multislice: transmit through a slice, propagate through its thickness, by `lax.scan`.

Cowley & Moodie, Acta Cryst. 10, 609 (1957); Kirkland (2010), chapter 6. The numbers are abTEM's:
t = exp(iσV) computed on the full grid and then band-limited, P = exp(-iπλΔz k²) with the same mask.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import array_module, complex_dtype, is_concrete
from simulators.electron import interaction_constant, wavelength
from simulators.grid import Grid
from simulators.potential import Potential
from simulators.tree import pytree


def propagator_factors(
    grid: Grid, thickness: Any, energy: Any, tilt: Any = (0.0, 0.0)
) -> tuple[Any, Any]:
    """exp(-iπλΔz k²) exp(-2πiΔz (kx tan tx + ky tan ty)) as a row in y and a row in x.

    Parameters
    ----------
    thickness : float [...]
        Å.
    tilt : (x, y)
        mrad. The incident wave is not tilted, so diffraction patterns do not shift.

    Returns
    -------
    complex [..., ny], complex [..., nx]
        Their outer product is the propagator, without the antialias mask.
    """
    xp = array_module(thickness, energy, tilt)
    lam = wavelength(energy)
    ky, kx = grid.frequencies()
    thickness = xp.asarray(thickness)[..., None]
    rows = []
    for k, angle in ((ky, tilt[1]), (kx, tilt[0])):
        phase = np.pi * lam * k**2 + 2 * np.pi * k * xp.tan(angle * 1e-3)
        lead = tuple(range(thickness.ndim - 1))
        rows.append(xp.exp(-1j * thickness * xp.expand_dims(phase, lead)))
    return rows[0], rows[1]


def fresnel_propagator(grid: Grid, thickness: Any, energy: Any, tilt: Any = (0.0, 0.0)) -> Any:
    """The propagator [..., ny, nx] in FFT order, without the antialias mask."""
    rows_y, rows_x = propagator_factors(grid, thickness, energy, tilt)
    return rows_y[..., :, None] * rows_x[..., None, :]


def transmission(potential: Potential, energy: Any, *, bandlimit: bool = True) -> jax.Array:
    """exp(iσV) [nz, ny, nx], band-limited by the antialias mask unless told otherwise."""
    dtype = complex_dtype(potential.slices.dtype)
    sigma = jnp.asarray(interaction_constant(energy), potential.slices.dtype)
    phase = sigma * potential.slices
    wave = jax.lax.complex(jnp.cos(phase), jnp.sin(phase)).astype(dtype)
    if not bandlimit:
        return wave
    mask = jnp.asarray(potential.grid.antialias_mask(), potential.slices.dtype)
    return jnp.fft.ifft2(jnp.fft.fft2(wave) * mask[None])


@pytree
class Slab:
    """A specimen made ready for waves of one energy: shared by every probe, made once.

    Attributes
    ----------
    transmission : complex [nz, ny, nx]
    rows_y, rows_x : complex [nz, ny], complex [nz, nx]
        Propagators as outer products.
    mask : float [ny, nx]
        Antialias mask.
    """

    transmission: Any
    rows_y: Any
    rows_x: Any
    mask: Any


def prepare(
    potential: Potential, energy: Any, *, tilt: Any = (0.0, 0.0), bandlimit: bool = True
) -> Slab:
    """Transmission functions and propagators of all slices (see `multislice` for arguments)."""
    t = transmission(potential, energy, bandlimit=bandlimit)
    thickness = potential.thickness
    if is_concrete(energy, tilt) and not isinstance(thickness, jax.core.Tracer):
        thickness = np.asarray(thickness, float)
    rows_y, rows_x = propagator_factors(potential.grid, thickness, energy, tilt)
    mask = potential.grid.antialias_mask() if bandlimit else np.ones(potential.grid.shape)
    real = potential.slices.dtype
    return Slab(
        t, jnp.asarray(rows_y, t.dtype), jnp.asarray(rows_x, t.dtype), jnp.asarray(mask, real)
    )


def through(wave: jax.Array, slab: Slab) -> jax.Array:
    """The wave [..., ny, nx] below the last slice of a prepared specimen."""

    def step(psi: jax.Array, one: tuple) -> tuple[jax.Array, None]:
        t, row_y, row_x = one
        propagator = slab.mask * row_y[:, None] * row_x[None, :]
        lead = tuple(range(psi.ndim - 2))
        spectrum = jnp.fft.fft2(psi * jnp.expand_dims(t, lead))
        return jnp.fft.ifft2(spectrum * jnp.expand_dims(propagator, lead)), None

    slices = (slab.transmission, slab.rows_y, slab.rows_x)
    return jax.lax.scan(step, wave.astype(slab.transmission.dtype), slices)[0]


def multislice(
    wave: jax.Array,
    potential: Potential,
    energy: Any,
    *,
    tilt: Any = (0.0, 0.0),
    planes: tuple[int, ...] | None = None,
    bandlimit: bool = True,
) -> jax.Array:
    """The wave below the last slice, or below chosen ones.

    Parameters
    ----------
    wave : complex [..., ny, nx]
        Incident wave or waves, real space.
    potential : Potential
    energy : float
        eV.
    tilt : (x, y)
        Beam tilt in mrad.
    planes : tuple of int, optional
        Indices of slices; the wave after each is returned on a new first axis; -1 is the incident
        wave.
    bandlimit : bool
        Antialias mask on transmission functions and propagators. Without it flux is conserved and
        scattering beyond the Nyquist frequency folds back.

    Returns
    -------
    complex [..., ny, nx] or [planes, ..., ny, nx]

    Raises
    ------
    ValueError
        A wave on another grid, a plane that does not exist.
    """
    grid = potential.grid
    nz = potential.slices.shape[0]
    if tuple(wave.shape[-2:]) != grid.shape:
        raise ValueError(
            f"the wave is {tuple(wave.shape[-2:])} pixels (y, x) but the potential is {grid.shape}"
        )
    if planes is not None and (not planes or min(planes) < -1 or max(planes) >= nz):
        raise ValueError(f"planes must be slice indices -1 to {nz - 1}, got {planes}")
    slab = prepare(potential, energy, tilt=tilt, bandlimit=bandlimit)
    wave = jnp.asarray(wave, slab.transmission.dtype)
    if planes is None:
        return through(wave, slab)
    taken, start, psi = {-1: wave}, 0, wave
    for plane in sorted({p for p in planes if p >= 0}):
        part = slice(start, plane + 1)
        leaves = (slab.transmission[part], slab.rows_y[part], slab.rows_x[part])
        psi = through(psi, Slab(*leaves, slab.mask))
        taken[plane], start = psi, plane + 1
    return jnp.stack([taken[p] for p in planes])


ENGINES = {"multislice": multislice}
"""Wave in, wave out: `engine(wave, potential, energy, *, tilt, planes)`."""


def exit_wave(
    wave: jax.Array, potential: Potential, energy: Any, *, engine: Any = multislice, **options: Any
) -> jax.Array:
    """The wave below the specimen by an engine of `ENGINES` (a name or a function)."""
    if isinstance(engine, str):
        if engine not in ENGINES:
            raise ValueError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)}")
        engine = ENGINES[engine]
    return engine(wave, potential, energy, **options)
