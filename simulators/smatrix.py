"""PRISM: the scattering matrix of every f-th plane wave, probes from it in a window of the cell.

Ophus, Adv. Struct. Chem. Imaging 3, 13 (2017). With interpolation (f_y, f_x) only plane waves with
orders that are multiples of f are sent through the specimen, f_y·f_x times fewer. Their sum repeats
f times over the cell, so a probe is cut out of the window L / f around its position; diffraction
pixels are f times wider. The numbers are abTEM's. At interpolation 1 nothing is cut and the result
is that of multislice; `imaging.stem` and `imaging.cbed` then choose beams by themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import is_concrete, real_of
from simulators.batches import batch_size, count_devices, gathered, mapped
from simulators.beamwise import known_beams, probe_series, read_scan
from simulators.detectors import Detector, crop_shape, detector_matrix
from simulators.gram import beam_wave
from simulators.grid import Grid
from simulators.memory import check_memory
from simulators.multislice import Slab, fourier_indices, prepare, through
from simulators.optics import Optics, position_ramps, probe_coefficients
from simulators.potential import Potential
from simulators.tree import pytree, static
from simulators.windows import WindowGrid, probe_width, window_grid


@pytree
class SMatrix:
    """Plane waves below the specimen.

    Attributes
    ----------
    waves : complex [beams, my, mx]
        Real space, on the down-sampled grid (Fourier-cropped without rescaling).
    beams : int [beams, 2]
        Orders (y, x) on the window's grid: the wave vector is order · interpolation / extent.
    grid : Grid, static
        Of the potential.
    interpolation : (y, x), static
    energy : float, static
        eV.
    semiangle : float, static
        mrad; probes of this and of smaller apertures can be formed.
    tilt : (x, y), static
        mrad.
    """

    waves: Any
    beams: Any
    grid: Grid = static()
    interpolation: tuple[int, int] = static()
    energy: float = static()
    semiangle: float = static()
    tilt: tuple[float, float] = static()

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels (y, x) of the down-sampled waves."""
        my, mx = self.waves.shape[-2:]
        return my, mx

    @property
    def window(self) -> WindowGrid:
        """The grid of the exit waves and patterns, L / f wide."""
        return window_grid(self.grid, self.shape, self.interpolation)

    def wave_vectors(self) -> np.ndarray:
        """(kx, ky) [beams, 2] of the plane waves in 1/Å."""
        ly, lx = self.window.extent
        beams = np.asarray(self.beams)
        return np.stack([beams[:, 1] / lx, beams[:, 0] / ly], axis=1)


def build_smatrix(
    potential: Potential,
    energy: float,
    semiangle: float,
    *,
    interpolation: int | tuple[int, int] = (1, 1),
    tilt: tuple[float, float] = (0.0, 0.0),
    downsample: str | float = "cutoff",
    step: str = "first",
    order: int = 1,
    batch: int | None = None,
) -> SMatrix:
    """Send the plane waves of the aperture through the specimen.

    Parameters
    ----------
    potential : Potential
    energy : float
        eV, a known number.
    semiangle : float
        mrad, a known number.
    interpolation : int or (y, x)
        f; 1 is exact.
    tilt : (x, y)
        Beam tilt in mrad; acts in the propagator, as in `multislice`.
    downsample : {"cutoff", "valid", "full"} or float
        Pixels that are kept, as in `detectors.crop_shape`: those up to the band limit, those of the
        square inside it, all, or those up to an angle in mrad; raised to multiples of f.
    step, order
        See `multislice.multislice`.
    batch : int, optional
        Plane waves computed together; as many as fit into the cache if not given.

    Raises
    ------
    ValueError
        An interpolation that is no whole number from 1 or leaves no window, an aperture beyond what
        is kept, a matrix that does not fit into memory.

    Notes
    -----
    Memory: 8 bytes (complex64) for every beam and kept pixel.
    """
    f = _interpolation(interpolation)
    if not is_concrete(energy, semiangle):
        raise ValueError("a scattering matrix needs a known energy and semiangle: pass numbers")
    energy, semiangle, grid = float(energy), float(semiangle), potential.grid
    kept = crop_shape(grid, energy, downsample)
    # abTEM's rule; the window is then a whole number of pixels
    shape = -(-kept[0] // f[0]) * f[0], -(-kept[1] // f[1]) * f[1]
    if any(m > full for m, full in zip(shape, grid.shape, strict=True)):
        raise ValueError(
            f"interpolation {f} (y, x) needs {shape} pixels and the grid has {grid.shape}: use "
            "divisors of the grid's shape or downsample='cutoff'"
        )
    window = window_grid(grid, shape, f)
    limit = min(window.nyquist_angle(energy), window.antialias_angle(energy))
    if not 0 < semiangle <= limit:
        raise ValueError(
            f"the aperture of {semiangle:g} mrad does not fit: angles up to {limit:.1f} mrad are "
            f"kept at a sampling of {grid.sampling} Å (y, x) and downsample={downsample!r}"
        )
    beams = known_beams(Optics(energy=energy, semiangle=semiangle), window)
    assert beams is not None
    real = real_of(potential.slices).itemsize
    batch = batch_size(batch, grid.shape[0] * grid.shape[1], real)
    check_memory(
        2 * real * (len(beams) * shape[0] * shape[1] + 4 * batch * grid.shape[0] * grid.shape[1]),
        f"a scattering matrix of {len(beams)} waves of {shape[0]} × {shape[1]} pixels",
        f"use interpolation ({2 * f[0]}, {2 * f[1]}), which takes a quarter, a smaller aperture, "
        "downsample='valid', or multislice (`imaging.stem` with method='multislice')",
    )
    slab = prepare(potential, energy, tilt=tilt, step=step, order=order)
    orders = jnp.asarray(beams * np.array(f))
    waves = _build(slab, orders, shape, float(f[0] * f[1]), batch, count_devices(slab))
    return SMatrix(
        gathered(waves), beams, grid, f, energy, semiangle, (float(tilt[0]), float(tilt[1]))
    )


@functools.partial(jax.jit, static_argnames=("shape", "batch", "devices"))
def _build(
    slab: Slab, orders: jax.Array, shape: tuple[int, int], scale: float, batch: int, devices: int
) -> jax.Array:
    def one(order: jax.Array, slab: Slab) -> jax.Array:
        full = slab.mask.shape
        wave = through(beam_wave(order, full, slab.dtype) * scale, slab)
        rows, columns = (fourier_indices(n, m) for n, m in zip(full, shape, strict=True))
        return jnp.fft.ifft2(jnp.fft.fft2(wave)[rows][:, columns])

    return mapped(one, orders, slab, batch=batch, devices=devices, forget=True)


def exit_waves(
    smatrix: SMatrix,
    optics: Optics,
    positions: Any,
    *,
    batch: int | None = None,
    validate: bool = True,
) -> jax.Array:
    """Probes below the specimen, each in the window around its position.

    Parameters
    ----------
    smatrix : SMatrix
    optics : Optics
        Any aberrations; energy, tilt and aperture as those of the matrix (or a smaller aperture).
    positions : float [p, 2]
        (x, y) in Å.
    batch : int, optional
        Probes computed together; if not given, one where windows are cut, 64 where not.
    validate : bool
        Check that the probe fits into the window (`check_window`).

    Returns
    -------
    complex [p, wy, wx]
        Real space, on `smatrix.window`; Σ|FFT ψ|² is the part of the dose that is left. Along an
        axis with interpolation 1 the window is the cell.

    Raises
    ------
    ValueError
        A probe of another energy, tilt or a larger aperture; one wider than its window.
    """
    return _windows(smatrix, optics, positions, None, batch, validate)


def smatrix_cbed(
    smatrix: SMatrix,
    optics: Optics,
    positions: Any,
    *,
    batch: int | None = None,
    validate: bool = True,
) -> jax.Array:
    """Convergent-beam patterns [p, wy, wx] on `smatrix.window`, FFT order (see `exit_waves`)."""
    wave = jnp.fft.fft2(exit_waves(smatrix, optics, positions, batch=batch, validate=validate))
    return wave.real**2 + wave.imag**2


def smatrix_stem(
    smatrix: SMatrix,
    optics: Optics,
    positions: Any,
    detectors: Sequence[Detector],
    *,
    batch: int | None = None,
    validate: bool = True,
) -> jax.Array:
    """Signals of all detectors [detectors, ...] at positions [..., 2] (see `exit_waves`).

    Raises
    ------
    ValueError
        As `exit_waves`; a detector that reaches beyond the angles that were kept.
    """
    window = smatrix.window
    weights = detector_matrix(detectors, window, smatrix.energy)
    if smatrix.interpolation == (1, 1):
        # nothing is cut: the image is a Fourier series, whatever the number of positions
        seen = np.flatnonzero(weights.any(axis=0))
        c = _coefficients(smatrix, optics, validate)
        spectra = _spectra(smatrix.waves, jnp.asarray(seen), count_devices(smatrix.waves))
        beams = np.asarray(smatrix.beams)
        series = probe_series(spectra, c, beams, weights[:, seen], window.extent)
        return read_scan(series, positions)
    flat = positions.reshape(-1, 2)
    signal = _windows(smatrix, optics, flat, weights, batch, validate)
    return signal.T.reshape(len(weights), *np.shape(positions)[:-1])


@functools.partial(jax.jit, static_argnames="devices")
def _spectra(waves: jax.Array, seen: jax.Array, devices: int) -> jax.Array:
    def one(wave: jax.Array, seen: jax.Array) -> jax.Array:
        return jnp.fft.fft2(wave).ravel()[seen]

    return mapped(one, waves, seen, batch=16, devices=devices)


def _windows(
    smatrix: SMatrix,
    optics: Optics,
    positions: Any,
    weights: Any,
    batch: int | None,
    validate: bool,
) -> jax.Array:
    """Exit waves, or the signals [p, detectors] of `weights`."""
    if np.ndim(positions) != 2 or np.shape(positions)[1] != 2:
        raise ValueError(f"positions must be [p, 2] (x, y) in Å, got {np.shape(positions)}")
    window, beams = smatrix.window, np.asarray(smatrix.beams)
    dtype = smatrix.waves.dtype
    c = jnp.asarray(_coefficients(smatrix, optics, validate), dtype)
    ramp_y, ramp_x = position_ramps(positions, window)
    ramp_y = jnp.asarray(ramp_y, dtype)[:, beams[:, 0]]
    ramp_x = jnp.asarray(ramp_x, dtype)[:, beams[:, 1]]
    corners = jnp.asarray(_corners(smatrix, positions))
    weights = None if weights is None else jnp.asarray(weights, smatrix.waves.real.dtype)
    sharing = (smatrix.waves, c, weights)
    if batch is None:
        batch = 64 if smatrix.interpolation == (1, 1) else 1
    devices = count_devices(sharing)
    return gathered(_cut(ramp_y, ramp_x, corners, sharing, window.shape, batch, devices))


def _corners(smatrix: SMatrix, positions: Any) -> Any:
    """First pixel (y, x) [p, 2] of every window on the down-sampled grid; 0 where f = 1."""
    xp = np if is_concrete(positions) else jnp
    columns = []
    for axis in (0, 1):
        n, w = smatrix.shape[axis], smatrix.window.shape[axis]
        pixel = positions[:, 1 - axis] / (smatrix.grid.extent[axis] / n)
        corner = xp.rint(pixel - w // 2).astype(int) % n
        columns.append(corner * (smatrix.interpolation[axis] > 1))
    return xp.stack(columns, axis=1)


@functools.partial(jax.jit, static_argnames=("window", "batch", "devices"))
def _cut(
    ramp_y: jax.Array,
    ramp_x: jax.Array,
    corners: jax.Array,
    shared: tuple,
    window: tuple[int, int],
    batch: int,
    devices: int,
) -> jax.Array:
    waves, c, weights = shared
    more = [w if w < n else 0 for w, n in zip(window, waves.shape[1:], strict=True)]
    waves = jnp.pad(waves, ((0, 0), (0, more[0]), (0, more[1])), mode="wrap")

    def one(item: tuple, shared: tuple) -> jax.Array:
        waves, c, weights = shared
        y, x, corner = item
        part = waves
        if any(more):
            start = (0, corner[0], corner[1])
            part = jax.lax.dynamic_slice(waves, start, (waves.shape[0], *window))
        wave = jnp.einsum("b,byx->yx", c * y * x, part, precision="highest")
        if weights is None:
            return wave
        pattern = jnp.fft.fft2(wave)
        pattern = pattern.real**2 + pattern.imag**2
        return jnp.matmul(weights, pattern.ravel(), precision="highest")

    items = (ramp_y, ramp_x, corners)
    return mapped(one, items, (waves, c, weights), batch=batch, devices=devices)


def _coefficients(smatrix: SMatrix, optics: Optics, validate: bool) -> Any:
    """The probe's coefficients [beams], checked against the matrix."""
    for name in ("energy", "tilt"):
        asked, made = getattr(optics, name), getattr(smatrix, name)
        if is_concrete(asked) and not np.allclose(asked, made, rtol=1e-6):
            raise ValueError(
                f"the scattering matrix was computed for {name} = {made} but the probe has "
                f"{asked}: build it with the probe's {name}"
            )
    wide = optics.semiangle is None
    if wide or (is_concrete(optics.semiangle) and optics.semiangle > smatrix.semiangle + 1e-6):
        raise ValueError(
            f"the scattering matrix holds an aperture of {smatrix.semiangle:g} mrad but the probe "
            f"has {optics.semiangle}: build it with a larger semiangle"
        )
    if validate:
        check_window(smatrix, optics)
    beams = np.asarray(smatrix.beams)
    return probe_coefficients(optics, smatrix.window)[beams[:, 0], beams[:, 1]]


def check_window(smatrix: SMatrix, optics: Optics) -> None:
    """Raise where a known probe is wider than the window, so that it overlaps its own repetition.

    Raises
    ------
    ValueError
        With the largest interpolation that fits.
    """
    if not is_concrete(optics) or smatrix.interpolation == (1, 1):
        return
    widths = probe_width(optics)
    pairs = zip(smatrix.interpolation, smatrix.window.extent, widths, strict=True)
    if all(f == 1 or width <= length for f, length, width in pairs):
        return
    fits = tuple(max(1, int(n // w)) for n, w in zip(smatrix.grid.extent, widths, strict=True))
    raise ValueError(
        f"interpolation {smatrix.interpolation} (y, x) folds the probe: it is {widths[0]:.1f} × "
        f"{widths[1]:.1f} Å wide (y, x) and its window {smatrix.window.extent[0]:.1f} × "
        f"{smatrix.window.extent[1]:.1f} Å. Use interpolation {fits} or less, less defocus, or a "
        "larger cell"
    )


def _interpolation(value: int | tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if np.ndim(value) == 0 else tuple(value)
    if len(pair) != 2 or any(int(f) != f or f < 1 for f in pair):
        raise ValueError(f"interpolation is a whole number from 1, or two (y, x), got {value!r}")
    return int(pair[0]), int(pair[1])
