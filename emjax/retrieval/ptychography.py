"""The forward model of ptychography: unknown object, unknown probe, counted patterns.

A probe p moved to r goes through the transmissions T of a stack of slices, and the detector counts
|FFT ψ|²: multislice (`simulators.multislice`; Maiden, Humphry & Rodenburg, JOSA A 29, 1606 (2012)),
with any number of incoherent probe modes (Thibault & Menzel, Nature 494, 68 (2013)).

The probe is unknown inside its aperture alone: a hundredth of the frequencies of the grid. So it is
kept as those Fourier coefficients, its sub-pixel shift is a ramp on them, and it is made in real
space by two small matrix products; half of the Fourier transforms of other programs do not exist.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emjax.retrieval.scan_data import ScanData, ScanError
from simulators.electron import wavelength
from simulators.grid import Grid
from simulators.multislice import propagator_factors
from simulators.optics import Optics, probe_coefficients
from simulators.tree import pytree, static


@pytree
class Frame:
    """What is fixed: the waves' grid, and where the object's array lies.

    Attributes
    ----------
    grid : of the waves, static
    shape : (y, x) pixels of the object, static
    origin : (y, x) pixels, static
        Where the object's pixel [0, 0] lies in the coordinates of the scan.
    energy : eV, static
    reach : (y, x), static
        Highest frequencies of the probe, in pixels of the detector.
    limit : mrad, static
        The probe has no frequencies beyond this angle.
    """

    grid: Grid = static()
    shape: tuple[int, int] = static()
    origin: tuple[int, int] = static()
    energy: float = static()
    reach: tuple[int, int] = static()
    limit: float = static()


@pytree
class Unknowns:
    """What can be fitted; each leaf is switched on and off by itself.

    Attributes
    ----------
    transmission : float [2, slices, y, x]
        Real and imaginary part of each slice's transmission function.
    probe : float [2, modes, ky, kx]
        Real and imaginary part of the probe's Fourier coefficients, lowest frequency in the middle;
        Σ |c|² is the electrons of a pattern.
    shifts : float [n, 2]
        (x, y) in Å, added to the positions of the scan.
    spacing : float
        From slice to slice in Å.
    tilt : float [2]
        Of the beam against the specimen, (x, y) in mrad.
    """

    transmission: Any
    probe: Any
    shifts: Any
    spacing: Any
    tilt: Any

    def complex_transmission(self) -> jax.Array:
        """[slices, y, x]."""
        return jax.lax.complex(self.transmission[0], self.transmission[1])

    def phase(self) -> np.ndarray:
        """Phase of every slice [slices, y, x] in rad, between -1 and 2π - 1 about its median."""
        angle = np.angle(np.asarray(self.complex_transmission()))
        median = np.median(angle, axis=(1, 2), keepdims=True)
        return np.mod(angle - median + 1, 2 * np.pi) - 1


def make_frame(
    data: ScanData, optics: Optics, *, margin: float = 1.0, probe_limit: float = 1.12
) -> Frame:
    """The object's array, large enough for all patterns.

    Parameters
    ----------
    margin : Å
        By how much positions may move outwards.
    probe_limit : in units of the semiangle
        Where the probe's aperture ends for certain.

    Raises
    ------
    ScanError : an aperture that does not fit the detector.
    """
    grid = data.grid
    if optics.semiangle is None:
        raise ScanError("the optics need a semiangle [mrad]")
    limit = float(optics.semiangle) * probe_limit
    step = data.angle_step
    reach = tuple(math.ceil(limit / s) for s in step)
    if any(2 * r >= n for r, n in zip(reach, grid.shape, strict=True)):
        raise ScanError(
            f"the probe's aperture of {limit:.1f} mrad needs {2 * max(reach) + 1} pixels of the "
            f"detector, which has {grid.shape}: pad the patterns, or correct angle_step"
        )
    pixels = np.asarray(data.positions, float)[:, ::-1] / np.array(grid.sampling)
    edge = np.ceil(margin / np.array(grid.sampling)).astype(int) + 1
    half = np.array(grid.shape) // 2
    origin = np.floor(pixels.min(0)).astype(int) - half - edge
    shape = np.ceil(pixels.max(0)).astype(int) - origin + half + edge + 1
    to = tuple(int(n) for n in shape), tuple(int(n) for n in origin)
    return Frame(grid, *to, float(data.energy), reach, limit)


def start(
    data: ScanData,
    frame: Frame,
    optics: Optics,
    *,
    slices: int = 1,
    thickness: float = 0.0,
    modes: int = 1,
) -> Unknowns:
    """An empty object, and the probe that the optics say, in Hermite modes of falling weight.

    Parameters
    ----------
    slices, thickness : how many, and how thick all of them together are in Å.
    modes : incoherent probe modes; the first has nine tenths of the electrons.

    Raises
    ------
    ScanError : several slices of no thickness.
    """
    if slices < 1 or modes < 1:
        raise ScanError(f"{slices} slices and {modes} modes: at least one of each")
    if slices > 1 and thickness <= 0:
        raise ScanError(f"{slices} slices need a total thickness [Å], got {thickness}")
    grid, reach = frame.grid, frame.reach
    wave = np.fft.fftshift(np.asarray(probe_coefficients(optics, grid)))
    middle = [n // 2 for n in grid.shape]
    window = tuple(slice(m - r, m + r + 1) for m, r in zip(middle, reach, strict=True))
    first = wave[window] * aperture(frame)
    angles = [np.arange(-r, r + 1) / r for r in reach]
    orders = sorted(((i, j) for i in range(modes) for j in range(modes)), key=sum)[:modes]
    # the derivative of an aperture's wave by position is a ramp on its coefficients
    found = [first * (angles[0] ** i)[:, None] * (angles[1] ** j)[None] for i, j in orders]
    shares = np.array([1.0] if modes == 1 else [0.9] + [0.1 / (modes - 1)] * (modes - 1))
    electrons = data.mean_electrons()
    found = [
        f * math.sqrt(electrons * share / np.square(np.abs(f)).sum())
        for f, share in zip(found, shares, strict=True)
    ]
    probe = np.stack(found)
    ones = np.ones((slices, *frame.shape), np.float32)
    return Unknowns(
        jnp.asarray(np.stack([ones, 0 * ones])),
        jnp.asarray(np.stack([probe.real, probe.imag]), jnp.float32),
        jnp.zeros((data.n, 2), jnp.float32),
        jnp.asarray(thickness / slices, jnp.float32),
        jnp.zeros(2, jnp.float32),
    )


def aperture(frame: Frame) -> np.ndarray:
    """1 where the probe may have Fourier coefficients [ky, kx], lowest frequency in the middle."""
    steps = [1e3 * wavelength(frame.energy) / extent for extent in frame.grid.extent]
    ky, kx = (np.arange(-r, r + 1) * s for r, s in zip(frame.reach, steps, strict=True))
    return (np.hypot(ky[:, None], kx[None]) <= frame.limit).astype(np.float32)


def _waves(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """exp(2πi k y / n) [y, k] of the probe's frequencies, its centre on pixel n // 2."""
    made = []
    for n, r in zip(frame.grid.shape, frame.reach, strict=True):
        pixel, k = np.arange(n) - n // 2, np.arange(-r, r + 1)
        # Σ |p|² over the pixels is Σ |c|²
        wave = np.exp(2j * np.pi * (np.outer(pixel, k) % n) / n) / math.sqrt(n)
        made.append(wave.astype(np.complex64))
    return made[0], made[1]


def probes(unknowns: Unknowns, frame: Frame, offset: jax.Array) -> jax.Array:
    """Probe waves [b, modes, y, x] with their centre `offset` [b, 2] (y, x) pixels from n // 2."""
    rows_y, rows_x = (jnp.asarray(rows) for rows in _waves(frame))
    shape = jnp.asarray(aperture(frame))[None]
    c = jax.lax.complex(unknowns.probe[0] * shape, unknowns.probe[1] * shape)
    ramps = []
    for axis, (n, r) in enumerate(zip(frame.grid.shape, frame.reach, strict=True)):
        turn = -2 * np.pi / n * np.arange(-r, r + 1, dtype=np.float32)
        phase = offset[:, axis, None] * turn[None]
        ramps.append(jax.lax.complex(jnp.cos(phase), jnp.sin(phase)))
    moved = ramps[0][:, None, :, None] * c[None] * ramps[1][:, None, None, :]
    columns = jnp.einsum("yk,bmkl->bmyl", rows_y, moved)
    return jnp.einsum("bmyl,xl->bmyx", columns, rows_x)


def exit_waves(unknowns: Unknowns, frame: Frame, positions: jax.Array) -> jax.Array:
    """Waves [b, modes, y, x] behind the last slice.

    Parameters
    ----------
    positions : float [b, 2], (x, y) in Å.
    """
    sampling = np.array(frame.grid.sampling, np.float32)[None]
    origin = np.array(frame.origin, np.float32)[None]
    half = np.array([n // 2 for n in frame.grid.shape])[None]
    pixel = positions[:, ::-1] / sampling - origin
    whole = jnp.floor(jax.lax.stop_gradient(pixel))
    wave = probes(unknowns, frame, pixel - whole)
    corner = whole.astype(jnp.int32) - half
    t = unknowns.complex_transmission()
    slices = t.shape[0]
    cut = (slices, *frame.grid.shape)
    # the transpose of dynamic_slice is an update in place; that of a gather is not
    patches = jax.vmap(lambda c: jax.lax.dynamic_slice(t, (0, c[0], c[1]), cut))(corner)
    if slices == 1:
        return wave * patches[:, :1]
    row_y, row_x = propagator_factors(frame.grid, unknowns.spacing, frame.energy, unknowns.tilt)
    row_y, row_x = (row.astype(wave.dtype) for row in (row_y, row_x))

    def through(wave: jax.Array, patch: jax.Array) -> tuple[jax.Array, None]:
        spectrum = jnp.fft.fft2(wave * patch[:, None])
        spectrum *= (row_y[:, None] * row_x[None])[None, None]
        return jnp.fft.ifft2(spectrum), None

    wave, _ = jax.lax.scan(through, wave, jnp.moveaxis(patches[:, :-1], 1, 0))
    return wave * patches[:, -1:]


def rates(unknowns: Unknowns, frame: Frame, positions: jax.Array) -> jax.Array:
    """Electrons expected [b, ky, kx], zero frequency first, at positions [b, 2] (x, y) in Å."""
    wave = jnp.fft.fft2(exit_waves(unknowns, frame, positions), norm="ortho")
    return (jnp.square(wave.real) + jnp.square(wave.imag)).sum(axis=1)
