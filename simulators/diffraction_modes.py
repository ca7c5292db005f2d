"""Diffraction as it is recorded: SAED of a plane wave, nanobeam patterns, PACBED."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import complex_dtype
from simulators.imaging import BATCH, cbed, checked_positions, diffraction
from simulators.multislice import prepare, through
from simulators.optics import Optics, check_probe, plane_wave, position_ramps, probe_coefficients
from simulators.patterns import Patterns, patterns
from simulators.potential import Potential


def saed(
    potential: Potential,
    energy: float,
    *,
    tilt: Any = (0.0, 0.0),
    crop: str | float = "valid",
) -> Patterns:
    """Selected-area diffraction of a plane wave; the full pattern sums to 1 (less what is cut off).

    Every pixel of a periodic specimen's pattern is one spot or dark; `spots.find_spots` indexes it.

    Parameters
    ----------
    tilt : (x, y)
        mrad.
    crop
        See `patterns.patterns`.
    """
    grid = potential.grid
    wave = plane_wave(grid, dtype=potential.slices.dtype)
    exit_wave = through(wave, prepare(potential, energy, tilt=tilt))
    return patterns(
        diffraction(exit_wave / (grid.shape[0] * grid.shape[1])), grid, float(energy), crop=crop
    )


def nanobeam(
    potential: Potential,
    optics: Optics,
    positions: Any,
    *,
    crop: str | float = "valid",
    **options: Any,
) -> Patterns:
    """Patterns [..., qy, qx] of a narrow probe at positions (x, y) [..., 2].

    With a semiangle below half the Bragg angle the discs do not overlap, and `spots.find_spots`
    with this radius gives the intensity of each. Options go to `imaging.cbed`.
    """
    shape = np.shape(positions)[:-1]
    made = cbed(potential, optics, checked_positions(positions).reshape(-1, 2), **options)
    made = made.reshape(*shape, *made.shape[-2:])
    return patterns(made, potential.grid, float(optics.energy), crop=crop)


def pacbed(
    potential: Potential,
    optics: Optics,
    positions: Any,
    *,
    batch: int = BATCH,
    crop: str | float = "valid",
    validate: bool = True,
) -> Patterns:
    """The position-averaged pattern, added up batch by batch: one pattern of memory, any scan.

    Over all positions of a periodic cell `imaging.mean_cbed` is the same without any position.

    Parameters
    ----------
    positions : float [..., 2]
        Probe positions (x, y) in Å.
    batch : int
        Probes computed together.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    grid = potential.grid
    if validate:
        check_probe(optics, grid)
    flat = checked_positions(positions).reshape(-1, 2)
    slab = prepare(potential, optics.energy, tilt=optics.tilt)
    dtype = complex_dtype(potential.slices.dtype)
    coefficients = jnp.asarray(probe_coefficients(optics, grid), dtype)
    rows = [jnp.asarray(ramp, dtype) for ramp in position_ramps(flat, grid)]
    total = _summed(slab, coefficients, rows[0], rows[1], min(batch, flat.shape[0]))
    return patterns(total / flat.shape[0], grid, float(optics.energy), crop=crop)


@functools.partial(jax.jit, static_argnames="batch")
def _summed(
    slab: Any, coefficients: jax.Array, ramps_y: jax.Array, ramps_x: jax.Array, batch: int
) -> jax.Array:
    """Sum of the patterns [ny, nx]; rows of zeros fill the last batch and add nothing."""
    short = -ramps_y.shape[0] % batch
    parts = [
        jnp.pad(r, ((0, short), (0, 0))).reshape(-1, batch, r.shape[1]) for r in (ramps_y, ramps_x)
    ]

    def add(total: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        y, x = one
        wave = jnp.fft.ifft2(coefficients[None] * y[:, :, None] * x[:, None, :])
        return total + diffraction(through(wave, slab)).sum(axis=0), None

    empty = jnp.zeros(coefficients.shape, coefficients.real.dtype)
    return jax.lax.scan(jax.checkpoint(add), empty, (parts[0], parts[1]))[0]
