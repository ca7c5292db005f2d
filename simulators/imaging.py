"""Forward models: diffraction patterns, CBED and STEM images as fractions of the dose."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators import beamwise
from simulators.backend import is_concrete, known, real_of
from simulators.batches import batch_size, count_devices, gathered, mapped, summed
from simulators.detectors import Detector, detector_matrix
from simulators.memory import available_memory, check_memory
from simulators.multislice import Slab, prepare, through
from simulators.optics import Optics, check_probe, position_ramps, probe_coefficients
from simulators.potential import Potential

BATCH = 16
"""A number of waves to compute together that suits small grids on a CPU."""

MEMORY = 2 * 2**30
"""Bytes that a scan may keep: the scattering matrix, or waves for a backward pass."""


INCOHERENT = {
    "focal_spread": "add up signals over focus (coherence.over_focus)",
    "angular_spread": "a probe's illumination is its aperture; the angles of its source are its "
    "source_size",
    "source_size": "blur the image (linear.blur), or add up patterns over the source "
    "(coherence.over_source)",
}
"""What makes sums over probes, and how they are taken."""


def diffraction(wave: jax.Array) -> jax.Array:
    """|FFT ψ|² [..., ny, nx], FFT order; a probe of `probe` gives fractions of the dose."""
    return jnp.abs(jnp.fft.fft2(wave)) ** 2


def cbed(
    potential: Potential,
    optics: Optics,
    positions: Any,
    *,
    method: str = "auto",
    step: str = "first",
    order: int = 1,
    coefficients: Any = None,
    batch: int | None = None,
    memory: int = MEMORY,
    validate: bool = True,
) -> jax.Array:
    """Convergent-beam patterns.

    Parameters
    ----------
    potential : Potential
    optics : Optics
    positions : float [p, 2]
        Probe positions (x, y) in Å.
    method : {"auto", "multislice", "prism"}
        One multislice a probe, or one a plane wave of the aperture and a matrix product (the exact
        scattering matrix; equal to float32 2e-6, float64 1e-12 of the maximum). `auto` takes the
        second where it costs less, fits in `memory`, and energy and semiangle are known numbers.
    step, order
        Of the multislice, see `multislice.multislice`.
    coefficients : complex [ny, nx], optional
        Fourier coefficients of a probe at the origin, FFT order, Σ|c|² = 1, instead of those that
        `optics` makes: a vortex, a phase plate, a measured probe.
    batch : int, optional
        Waves computed together; as many as fit into the cache if not given.
    memory : int
        Bytes. The scattering matrix takes 8 for every beam and pixel inside the band limit (in
        complex64); beyond `memory` `auto` takes the probes. Where the waves that a backward pass
        wants would take more, they are computed again instead of kept.
    validate : bool
        Check that the probe fits the grid.

    Returns
    -------
    float [p, ny, nx]
        Fraction of the dose per pixel, FFT order (zero frequency in the corner).

    Raises
    ------
    ValueError
        Positions that are not [p, 2], a probe that does not fit the grid, patterns that do not fit
        in the machine, an unknown method, an incoherent source (`INCOHERENT` says what to do).
    """
    if np.ndim(positions) != 2:
        raise ValueError(f"positions must be [p, 2] (x, y) in Å, got shape {np.shape(positions)}")
    positions, optics = checked_positions(positions), known(optics)
    grid, p, batch = potential.grid, np.shape(positions)[0], _batch(potential, batch)
    real = real_of(potential.slices).itemsize
    pattern = real * grid.shape[0] * grid.shape[1]
    check_memory(
        3 * p * pattern + _working(potential, batch),  # padded, gathered, and cut to size
        f"{p} patterns of {grid.shape[0]} × {grid.shape[1]} pixels",
        f"take at most {_fitting(pattern)} positions at a time, or read detectors with `stem`",
    )
    slab, c, beams = _ready(potential, optics, coefficients, step, order, validate)
    ramps = position_ramps(positions, grid)
    costs = (0.0, 0.0, 0)
    if beams is not None:
        by_beams, by_probes, numbers = beamwise.cbed_cost(grid, len(potential.slices), beams, p)
        costs = by_beams, by_probes, numbers * real
    if beamwise.choose(method, beams, *costs, memory):
        assert beams is not None
        forget = _forget(potential, len(beams), batch, memory)
        made = beamwise.cbed_by_beams(slab, grid, c, beams, ramps, batch=batch, forget=forget)
    else:
        made = _by_probes(slab, c, ramps, None, batch, _forget(potential, p, batch, memory))
    return gathered(made)


def stem(
    potential: Potential,
    optics: Optics,
    positions: Any,
    detectors: Sequence[Detector],
    *,
    method: str = "auto",
    step: str = "first",
    order: int = 1,
    coefficients: Any = None,
    detector_energy: float | None = None,
    batch: int | None = None,
    memory: int = MEMORY,
    validate: bool = True,
) -> jax.Array:
    """Signals of all detectors at all positions from one pass.

    Parameters
    ----------
    positions : float [..., 2]
        Probe positions (x, y) in Å; for an image [ny, nx, 2] of `scan.raster`.
    detectors : sequence of Detector
    method : {"auto", "multislice", "prism"}
        As in `cbed`. By beams the image is a Fourier series, so that the number of positions hardly
        matters: rasters along the axes are read as two thin matrix products.
    memory : int
        As in `cbed`; here the scattering matrix holds the pixels of the detectors only.
    detector_energy : float, optional
        eV at which the detectors' angles become pixels, where `optics.energy` is traced.
    step, order, coefficients, batch, validate
        As in `cbed`.

    Returns
    -------
    float [detectors, ...]
        Fraction of the dose.

    Raises
    ------
    ValueError
        As `cbed`; an energy that is not a known number; a detector beyond the band limit; an
        incoherent source, which acts on the image (`linear.blur`) and not on a position.
    """
    positions, optics = checked_positions(positions), known(optics)
    seen_at = optics.energy if detector_energy is None else float(detector_energy)
    if not is_concrete(seen_at):
        raise ValueError(
            "detectors need a known energy: pass optics.energy as a number, or detector_energy= to "
            "differentiate with respect to the energy"
        )
    grid, shape, batch = potential.grid, np.shape(positions)[:-1], _batch(potential, batch)
    p, real = int(np.prod(shape)), real_of(potential.slices)
    check_memory(
        _working(potential, batch),
        f"{batch} waves of {grid.shape[0]} × {grid.shape[1]} pixels and "
        f"{len(potential.slices)} slices",
        "use a smaller batch=, a coarser grid, or thicker slices",
    )
    weights = detector_matrix(detectors, grid, float(seen_at))
    slab, c, beams = _ready(potential, optics, coefficients, step, order, validate)
    costs = (0.0, 0.0, 0)
    if beams is not None:
        by_beams, by_probes, numbers = beamwise.stem_cost(
            grid, len(potential.slices), beams, p, len(weights), int(weights.any(axis=0).sum())
        )
        costs = by_beams, by_probes, numbers * real.itemsize
    if beamwise.choose(method, beams, *costs, memory):
        assert beams is not None
        forget = _forget(potential, len(beams), batch, memory)
        return beamwise.stem_by_beams(
            slab, grid, c, beams, weights, positions, batch=batch, forget=forget
        )
    ramps = position_ramps(positions.reshape(-1, 2), grid)
    forget = _forget(potential, p, batch, memory)
    signal = gathered(_by_probes(slab, c, ramps, jnp.asarray(weights, real), batch, forget))
    return signal.T.reshape(len(weights), *shape)


def mean_cbed(
    potential: Potential,
    optics: Optics,
    *,
    step: str = "first",
    order: int = 1,
    coefficients: Any = None,
    batch: int | None = None,
    validate: bool = True,
) -> jax.Array:
    """The mean of `cbed` over all positions of the cell (PACBED), without any position.

    Σ_b |c_b|² |S_b(q)|²: beams do not interfere in the mean, so aberrations do not matter, and
    nothing but one wave per beam is computed.

    Returns
    -------
    float [ny, nx]
        Fraction of the dose per pixel, FFT order.

    Raises
    ------
    ValueError
        An energy or a semiangle that is traced; a probe that does not fit the grid.
    """
    slab, c, beams = _ready(potential, optics, coefficients, step, order, validate)
    if beams is None:
        raise ValueError(
            "the plane waves of the aperture must be known: pass energy and semiangle as numbers"
        )
    return gathered(beamwise.mean_by_beams(slab, c, beams, batch=_batch(potential, batch)))


def cbed_sum(
    potential: Potential,
    optics: Optics,
    positions: Any,
    *,
    step: str = "first",
    order: int = 1,
    batch: int | None = None,
    validate: bool = True,
) -> jax.Array:
    """The sum of `cbed` over positions [p, 2]: one pattern [ny, nx] of memory, any scan."""
    slab, c, _ = _ready(potential, known(optics), None, step, order, validate)
    ramps = tuple(jnp.asarray(r, slab.dtype) for r in position_ramps(positions, potential.grid))
    c, batch = jnp.asarray(c, slab.dtype), _batch(potential, batch)
    return _pattern_sum(slab, c, ramps, min(batch, len(positions)), count_devices(slab, c))


@functools.partial(jax.jit, static_argnames=("batch", "devices"))
def _pattern_sum(slab: Slab, c: jax.Array, ramps: Any, batch: int, devices: int) -> jax.Array:
    def together(rows: tuple[jax.Array, jax.Array], shared: tuple) -> jax.Array:
        slab, c = shared
        waves = jnp.fft.ifft2(c[None] * rows[0][:, :, None] * rows[1][:, None, :])
        return diffraction(through(waves, slab)).sum(axis=0)

    return summed(together, ramps, (slab, c), batch=batch, devices=devices)


def _ready(
    potential: Potential, optics: Optics, coefficients: Any, step: str, order: int, validate: bool
) -> tuple[Slab, Any, np.ndarray | None]:
    """The specimen, the probe's coefficients [ny, nx] and its plane waves, where these are known.

    What is known is computed in float64 here, outside the compiled loop (see backend.py).
    """
    grid = potential.grid
    for name, how in INCOHERENT.items():
        if is_concrete(getattr(optics, name)) and getattr(optics, name) != 0:
            raise ValueError(f"one probe has no {name}: {how}; set {name}=0 here")
    if validate:
        check_probe(optics, grid)
    if coefficients is not None and np.shape(coefficients) != grid.shape:
        raise ValueError(
            f"coefficients must be {grid.shape} (y, x) like the grid, got {np.shape(coefficients)}"
        )
    slab = prepare(potential, optics.energy, tilt=optics.tilt, step=step, order=order)
    c = probe_coefficients(optics, grid) if coefficients is None else coefficients
    # known coefficients spare making the aperture a second time
    beams = beamwise.known_beams(optics, grid, c if isinstance(c, np.ndarray) else coefficients)
    return slab, c, beams


def checked_positions(positions: Any) -> Any:
    """Positions [..., 2] as an array.

    Raises
    ------
    ValueError
        Another shape, no position at all, or one that is not finite.
    """
    positions = positions if isinstance(positions, jax.Array) else np.asarray(positions, float)
    if positions.shape[-1:] != (2,) or positions.size == 0:
        raise ValueError(
            f"positions must be [..., 2] (x, y) in Å, at least one; got shape {positions.shape}"
        )
    if not isinstance(positions, jax.core.Tracer) and not np.isfinite(positions).all():
        bad = int(np.argmax(~np.isfinite(positions).all(axis=-1)))
        raise ValueError(f"position {bad} is not finite: {positions.reshape(-1, 2)[bad]}")
    return positions


def _batch(potential: Potential, batch: int | None) -> int:
    """Waves to compute together."""
    ny, nx = potential.grid.shape
    return batch_size(batch, ny * nx, real_of(potential.slices).itemsize)


def _working(potential: Potential, batch: int) -> int:
    """Bytes of the prepared specimen and of one batch on its way through."""
    ny, nx = potential.grid.shape
    wave = 2 * real_of(potential.slices).itemsize * ny * nx
    return (len(potential.slices) + 4 * batch) * wave


def _fitting(pattern: int) -> int:
    """Patterns that fit in half of what is free, three copies of each."""
    return max(1, int((available_memory() or pattern) / 6 / pattern))


def _forget(potential: Potential, waves: int, batch: int, memory: int) -> bool:
    """Whether a backward pass had better compute waves again than keep them.

    It keeps one wave a slice, and every batch keeps transmission functions and propagators.
    """
    ny, nx = potential.grid.shape
    kept = 2 * real_of(potential.slices).itemsize * ny * nx * len(potential.slices)
    return waves * kept * (1 + 2 / batch) > memory


def _by_probes(
    slab: Slab, c: Any, ramps: tuple[Any, Any], weights: Any, batch: int, forget: bool
) -> jax.Array:
    """Patterns, or their products with `weights`, from one multislice a position."""
    ramp_y, ramp_x = (jnp.asarray(r, slab.dtype) for r in ramps)
    # fewer waves than devices: one program, whose transforms then use all cores by themselves
    devices = count_devices(slab, c, ramp_y, weights) if len(ramp_y) > 1 else 1
    c = jnp.asarray(c, slab.dtype)
    return _patterns(slab, c, ramp_y, ramp_x, weights, batch, devices, forget)


@functools.partial(jax.jit, static_argnames=("batch", "devices", "forget"))
def _patterns(
    slab: Slab,
    c: jax.Array,
    ramps_y: jax.Array,
    ramps_x: jax.Array,
    weights: jax.Array | None,
    batch: int,
    devices: int,
    forget: bool,
) -> jax.Array:
    def one(ramps: tuple[jax.Array, jax.Array], shared: tuple) -> jax.Array:
        slab, c, weights = shared
        wave = jnp.fft.ifft2(c * ramps[0][:, None] * ramps[1][None, :])
        pattern = diffraction(through(wave, slab))
        if weights is None:
            return pattern
        return jnp.matmul(weights, pattern.ravel(), precision=jax.lax.Precision.HIGHEST)

    items, shared = (ramps_y, ramps_x), (slab, c, weights)
    return mapped(one, items, shared, batch=batch, devices=devices, forget=forget)
