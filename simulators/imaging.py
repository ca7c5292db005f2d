"""Forward models: diffraction patterns, CBED and STEM images as fractions of the dose."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import is_concrete
from simulators.detectors import Detector, detector_matrix
from simulators.multislice import Slab, prepare, through
from simulators.optics import Optics, check_probe, position_ramps, probe_coefficients
from simulators.potential import Potential

BATCH = 16
"""Probes that go through the specimen together: bounds memory, fills the FFT."""


def diffraction(wave: jax.Array) -> jax.Array:
    """|FFT ψ|² [..., ny, nx], FFT order; a probe of `probe` gives fractions of the dose."""
    return jnp.abs(jnp.fft.fft2(wave)) ** 2


def cbed(
    potential: Potential,
    optics: Optics,
    positions: Any,
    *,
    batch: int = BATCH,
    validate: bool = True,
) -> jax.Array:
    """Convergent-beam patterns.

    Parameters
    ----------
    potential : Potential
    optics : Optics
    positions : float [p, 2]
        Probe positions (x, y) in Å.
    batch : int
        Probes computed together.

    Returns
    -------
    float [p, ny, nx]
        Fraction of the dose per pixel, FFT order (zero frequency in the corner).
    """
    return _scan(potential, optics, positions, None, batch, validate)


def stem(
    potential: Potential,
    optics: Optics,
    positions: Any,
    detectors: Sequence[Detector],
    *,
    batch: int = BATCH,
    validate: bool = True,
) -> jax.Array:
    """Signals of all detectors at all positions from one pass.

    Parameters
    ----------
    positions : float [..., 2]
        Probe positions (x, y) in Å; for an image [ny, nx, 2] of `scan.raster`.
    detectors : sequence of Detector

    Returns
    -------
    float [detectors, ...]
        Fraction of the dose. The source size is not applied here: it acts on the image
        (`linear.blur`), not on a position.
    """
    if not is_concrete(optics.energy):
        raise ValueError("detectors need a known energy: pass optics.energy as a number")
    matrix = detector_matrix(detectors, potential.grid, float(optics.energy))
    weights = jnp.asarray(matrix, potential.slices.dtype)
    shape = np.shape(positions)[:-1]
    signal = _scan(potential, optics, positions.reshape(-1, 2), weights, batch, validate)
    return signal.T.reshape(len(detectors), *shape)


def _scan(
    potential: Potential,
    optics: Optics,
    positions: Any,
    weights: jax.Array | None,
    batch: int,
    validate: bool,
) -> jax.Array:
    """Patterns, or their products with `weights`, of all positions, in batches of one size."""
    if np.ndim(positions) != 2 or np.shape(positions)[1] != 2:
        raise ValueError(f"positions must be [p, 2] (x, y) in Å, got {np.shape(positions)}")
    if validate:
        check_probe(optics, potential.grid)
    # What is known is computed in float64 here, outside the compiled loop (see backend.py).
    slab = prepare(potential, optics.energy, tilt=optics.tilt)
    dtype = slab.transmission.dtype
    coefficients = jnp.asarray(probe_coefficients(optics, potential.grid), dtype)
    ramps = position_ramps(positions, potential.grid)
    return _patterns(slab, coefficients, *(jnp.asarray(r, dtype) for r in ramps), weights, batch)


@functools.partial(jax.jit, static_argnames="batch")
def _patterns(
    slab: Slab,
    coefficients: jax.Array,
    ramps_y: jax.Array,
    ramps_x: jax.Array,
    weights: jax.Array | None,
    batch: int,
) -> jax.Array:
    def one(ramps: tuple[jax.Array, jax.Array]) -> jax.Array:
        ramp_y, ramp_x = ramps
        wave = jnp.fft.ifft2(coefficients * ramp_y[:, None] * ramp_x[None, :])
        pattern = diffraction(through(wave, slab))
        if weights is None:
            return pattern
        return jnp.matmul(weights, pattern.ravel(), precision=jax.lax.Precision.HIGHEST)

    return jax.lax.map(one, (ramps_y, ramps_x), batch_size=min(batch, ramps_y.shape[0]))
