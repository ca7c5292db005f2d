"""The lens: aberrations up to fifth order, apertures, and the probe that it forms.

The aberration function and its signs are in `aberrations.py`; a wave is multiplied by exp(-iχ), and
a defocus of +z focuses z behind the entrance plane.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.aberrations import (
    ABERRATIONS,
    aberration_phase,
    aberrations_at,
    frequencies,
    is_zero,
    point_resolution,
    ray_displacement,
    scherzer_defocus,
)
from simulators.backend import array_module, complex_dtype, is_concrete, is_number, known
from simulators.electron import check_energy, wavelength
from simulators.grid import Grid
from simulators.tree import pytree, static

APERTURES = ("soft", "hard")


@pytree
class Optics:
    """The electron probe or the imaging lens.

    Attributes
    ----------
    energy : eV
    semiangle : mrad
        Aperture; `None` for none.
    inner_semiangle : mrad
        Annular aperture: what lies within is stopped. `None` for an open centre.
    pupil : float or complex [ny, nx], optional
        Any other aperture or phase plate, in FFT order: multiplies the aperture.
    C10 … C56, phi12 … phi56 : Å, rad
        Aberrations, `defocus` = -C10.
    focal_spread : Å
        1/e half-width of the defocus distribution (abTEM's convention; σ is this / √2).
    angular_spread : mrad
        1/e half-width of the distribution of illumination angles, likewise.
    source_size : Å
        Full width at half maximum of the Gaussian effective source.
    tilt : mrad (x, y)
        Beam tilt against the specimen; acts in the propagator.
    aperture : {"soft", "hard"}, static
        Edge one pixel of the diffraction plane wide, or sharp.
    """

    energy: Any
    semiangle: Any = None
    C10: Any = 0.0
    C12: Any = 0.0
    phi12: Any = 0.0
    C21: Any = 0.0
    phi21: Any = 0.0
    C23: Any = 0.0
    phi23: Any = 0.0
    C30: Any = 0.0
    C32: Any = 0.0
    phi32: Any = 0.0
    C34: Any = 0.0
    phi34: Any = 0.0
    C41: Any = 0.0
    phi41: Any = 0.0
    C43: Any = 0.0
    phi43: Any = 0.0
    C45: Any = 0.0
    phi45: Any = 0.0
    C50: Any = 0.0
    C52: Any = 0.0
    phi52: Any = 0.0
    C54: Any = 0.0
    phi54: Any = 0.0
    C56: Any = 0.0
    phi56: Any = 0.0
    focal_spread: Any = 0.0
    angular_spread: Any = 0.0
    source_size: Any = 0.0
    tilt: Any = (0.0, 0.0)
    inner_semiangle: Any = None
    pupil: Any = None
    aperture: str = static(default="soft")

    def __post_init__(self) -> None:
        check_energy(self.energy)
        if self.aperture not in APERTURES:
            raise ValueError(f"aperture must be one of {APERTURES}, got {self.aperture!r}")
        if is_number(self.semiangle) and not 0.1 <= self.semiangle < 1e3:
            raise ValueError(f"semiangle = {self.semiangle:g}: it is in mrad, not rad, 0.1 to 1000")
        if is_number(self.inner_semiangle):
            outer = self.semiangle if is_number(self.semiangle) else np.inf
            if not 0 <= self.inner_semiangle < outer:
                raise ValueError(
                    f"inner_semiangle = {self.inner_semiangle:g} mrad must lie between 0 and the "
                    f"semiangle, {outer:g} mrad"
                )
        for name in ABERRATIONS:
            value = getattr(self, name)
            if is_number(value) and not np.isfinite(value):
                raise ValueError(f"{name} = {value} is not finite")
        for name in ("focal_spread", "angular_spread", "source_size"):
            value = getattr(self, name)
            if is_number(value) and not 0 <= value < np.inf:
                raise ValueError(f"{name} = {value:g} must be a width, 0 or more")
        check_tilt(self.tilt)

    @property
    def defocus(self) -> Any:
        """-C10 [Å]."""
        return -self.C10


MAX_TILT = 200.0
"""mrad: beyond it the paraxial propagator means nothing; rotate the atoms."""


def check_tilt(tilt: Any) -> None:
    """Raise where a known beam tilt is not a pair of small angles in mrad."""
    if len(tilt) != 2:
        raise ValueError(f"tilt takes a pair (x, y) in mrad, got {tilt!r}")
    for angle in tilt:
        if is_number(angle) and not abs(angle) <= MAX_TILT:
            raise ValueError(
                f"a tilt of {angle:g} mrad is too large for the tilted propagator (at most "
                f"{MAX_TILT:g} mrad): rotate the atoms (tilt.rotated)"
            )


def aperture_function(optics: Optics, grid: Grid, *, off_axis: Any = None) -> Any:
    """Aperture [ny, nx], FFT order: soft edges are one pixel of the diffraction plane wide.

    Real, or complex with a complex `pupil`. `off_axis` as in `aberration_phase`; a pupil, known on
    the grid alone, stays with the beam.
    """
    stopped = not (optics.inner_semiangle is None or is_zero(optics.inner_semiangle))
    disc: Any = np.ones(grid.shape)
    if optics.semiangle is not None or stopped:
        w = frequencies(optics, grid, off_axis)
        centred = off_axis is None
        if optics.semiangle is not None:
            disc = _disc(optics, grid, optics.semiangle, w, centred)
        if stopped:
            disc = disc - _disc(optics, grid, optics.inner_semiangle, w, centred)
    if optics.pupil is None:
        return disc
    if np.shape(optics.pupil) != grid.shape:
        raise ValueError(
            f"the pupil is {np.shape(optics.pupil)} pixels (y, x) but the grid is {grid.shape}"
        )
    return disc * array_module(disc, optics.pupil).asarray(optics.pupil)


def _disc(optics: Optics, grid: Grid, semiangle: Any, w: Any, centred: bool) -> Any:
    """A disc of this semiangle [mrad] at the frequencies w; `centred`: w[0, 0] is 0."""
    xp = array_module(optics.energy, semiangle, w)
    here = array_module(w)
    k2 = here.real(w) ** 2 + here.imag(w) ** 2
    k = here.where(k2 > 0, here.sqrt(here.where(k2 > 0, k2, 1.0)), 0.0)  # differentiable at 0
    lam = wavelength(optics.energy)
    alpha, cutoff = lam * xp.asarray(k), semiangle * 1e-3
    if optics.aperture == "hard":
        return xp.where(alpha <= cutoff, 1.0, 0.0)
    ly, lx = grid.extent
    # the width of a pixel along the direction of k
    safe = here.where(k > 0, k, 1.0)
    edge = here.where(k > 0, here.hypot(here.real(w) / lx, here.imag(w) / ly) / safe, 1 / lx)
    soft = xp.clip((cutoff - alpha) / (lam * xp.asarray(edge)) + 0.5, 0.0, 1.0)
    if not centred:
        return soft
    centre = np.zeros(grid.shape, bool)
    centre[0, 0] = True
    return xp.where(centre, 1.0, soft)


def check_probe(optics: Optics, grid: Grid) -> None:
    """Raise where the probe does not fit the grid, in angle or in width.

    Raises
    ------
    ValueError
        No semiangle; an aperture beyond the band limit; aberrations that send rays of the aperture
        further than half the cell from the axis, so that the probe overlaps itself.
    """
    if optics.semiangle is None:
        if optics.pupil is None:
            raise ValueError("a probe needs a semiangle [mrad] (or a pupil)")
        return
    optics = known(optics)
    if not is_concrete(optics.energy, optics.semiangle):
        return
    limit = grid.antialias_angle(float(optics.energy))
    if optics.semiangle > limit:
        finest = max(grid.sampling) * limit / float(optics.semiangle)
        raise ValueError(
            f"the aperture of {optics.semiangle:g} mrad does not fit the grid, whose band limit is "
            f"{limit:.1f} mrad: use a sampling of {finest:.4f} Å or finer"
        )
    reach = probe_reach(optics)
    if reach is not None and 2 * reach > min(grid.extent):
        named = [f"{s} = {getattr(optics, s):g} Å" for s in ABERRATIONS if getattr(optics, s) != 0]
        named = [f"defocused by {optics.defocus:g} Å", *named[1:]] if optics.C10 != 0 else named
        raise ValueError(
            f"the probe does not fit the grid: {', '.join(named)}, it is a disc of "
            f"{2 * reach:.1f} Å on a cell of {grid.extent[1]:.1f} × {grid.extent[0]:.1f} Å (x, y), "
            "so it overlaps itself: enlarge the cell (tile the structure) or reduce the aberrations"
        )


def probe_reach(optics: Optics) -> float | None:
    """Largest distance [Å] from the axis of the rays of the aperture; `None` where not known."""
    rays = probe_rays(optics)
    return None if rays is None else float(np.abs(rays).max())


def probe_rays(optics: Optics) -> np.ndarray | None:
    """Where rays of the aperture go, x + iy in Å (16 angles by 48 azimuths); `None` if unknown."""
    optics = known(optics)
    plain = [getattr(optics, s) for s in ABERRATIONS]
    plain += [getattr(optics, "phi" + s[1:]) for s in ABERRATIONS if ABERRATIONS[s][1]]
    if not is_concrete(optics.energy, optics.semiangle, plain) or optics.semiangle is None:
        return None
    k = float(optics.semiangle) * 1e-3 / wavelength(float(optics.energy)) * np.arange(1, 17) / 16
    w = k[:, None] * np.exp(2j * np.pi * np.arange(48) / 48)
    return np.asarray(aberrations_at(optics, w, True)[1])


def probe_coefficients(optics: Optics, grid: Grid) -> Any:
    """Fourier coefficients of the probe at the origin, Σ|c|² = 1; [ny, nx], FFT order."""
    aperture, chi = aperture_function(optics, grid), aberration_phase(optics, grid)
    xp = array_module(aperture, chi)
    wave = aperture * xp.exp(-1j * chi)
    return wave / xp.sqrt(xp.sum(xp.real(aperture * xp.conj(aperture))))


def illumination_coefficients(illumination: Any, grid: Grid, *, normalise: bool = True) -> Any:
    """Fourier coefficients [..., ny, nx] of what illuminates: an `Optics` or any wave.

    Parameters
    ----------
    illumination : Optics or complex [..., ny, nx]
        A lens, or the wave itself in real space, pixel [0, 0] at the scan position.
    normalise : bool
        Scale a given wave to Σ|c|² = 1, so that signals are fractions of the dose.

    Raises
    ------
    ValueError
        A wave on another grid, or one that is not finite.
    """
    if isinstance(illumination, Optics):
        return probe_coefficients(illumination, grid)
    if np.shape(illumination)[-2:] != grid.shape:
        raise ValueError(
            f"the wave is {np.shape(illumination)[-2:]} pixels (y, x) but the grid is {grid.shape}"
        )
    xp = array_module(illumination)
    if xp is np and not np.isfinite(illumination).all():
        raise ValueError("the wave has values that are not finite")
    coefficients = xp.fft.fft2(xp.asarray(illumination))
    if normalise:
        total = (xp.abs(coefficients) ** 2).sum((-2, -1), keepdims=True)
        coefficients = coefficients / xp.sqrt(total)
    return coefficients


def position_ramps(positions: Any, grid: Grid) -> tuple[Any, Any]:
    """exp(-2πi ky y) [p, ny] and exp(-2πi kx x) [p, nx] of positions (x, y) in Å.

    Traced positions are reduced to fractions of the cell and the integer turns are dropped before
    the sine is taken: in float32 the phase is then good to 1e-6 of a turn per grid frequency.
    """
    xp = array_module(positions)
    positions = xp.asarray(positions)
    ramps = []
    for axis, (n, length) in enumerate(zip(grid.shape, grid.extent, strict=True)):
        fraction = positions[..., 1 - axis] / length
        index = np.fft.fftfreq(n, 1 / n)
        turns = fraction[..., None] * xp.expand_dims(
            xp.asarray(index, fraction.dtype), tuple(range(fraction.ndim))
        )
        ramps.append(xp.exp(-2j * np.pi * (turns - xp.round(turns))))
    return ramps[0], ramps[1]


def probe(
    optics: Optics, grid: Grid, positions: Any = None, *, dtype: Any = None, validate: bool = True
) -> jax.Array:
    """Probe wave functions at scan positions.

    Parameters
    ----------
    optics : Optics
    grid : Grid
    positions : float [..., 2], optional
        (x, y) in Å, sub-pixel; the origin if not given.
    dtype : optional
        float32 / complex64 or float64 / complex128; JAX's default otherwise.
    validate : bool
        Check that the probe fits the grid (`check_probe`).

    Returns
    -------
    complex [..., ny, nx]
        Σ |FFT ψ|² = 1 for each probe.
    """
    if validate:
        check_probe(optics, grid)
    dtype = complex_dtype(dtype)
    return _at_positions(probe_coefficients(optics, grid), grid, positions, dtype)


def user_wave(
    wave: Any, grid: Grid, positions: Any = None, *, dtype: Any = None, normalise: bool = True
) -> jax.Array:
    """Any wave [ny, nx] moved to scan positions; else as `probe` (vortex beams, measured probes).

    `normalise=False` keeps the scale of the array. Errors as of `illumination_coefficients`.
    """
    coefficients = illumination_coefficients(wave, grid, normalise=normalise)
    return _at_positions(coefficients, grid, positions, complex_dtype(dtype))


def _at_positions(coefficients: Any, grid: Grid, positions: Any, dtype: Any) -> jax.Array:
    if positions is None:
        return jnp.fft.ifft2(jnp.asarray(coefficients, dtype))
    ramp_y, ramp_x = position_ramps(positions, grid)
    xp = array_module(coefficients, ramp_y, ramp_x)
    lead = tuple(range(np.ndim(ramp_y) - 1))
    wave = xp.expand_dims(xp.asarray(coefficients), lead) * xp.asarray(ramp_y)[..., :, None]
    wave = wave * xp.asarray(ramp_x)[..., None, :]
    return jnp.fft.ifft2(jnp.asarray(wave, dtype))


def plane_wave(grid: Grid, *, dtype: Any = None) -> jax.Array:
    """The wave 1 everywhere; its diffraction pattern |FFT ψ / N|² sums to 1."""
    return jnp.ones(grid.shape, complex_dtype(dtype))


__all__ = [
    "ABERRATIONS",
    "APERTURES",
    "Optics",
    "aberration_phase",
    "aperture_function",
    "check_probe",
    "check_tilt",
    "illumination_coefficients",
    "plane_wave",
    "point_resolution",
    "position_ramps",
    "probe",
    "probe_coefficients",
    "probe_reach",
    "ray_displacement",
    "scherzer_defocus",
    "user_wave",
]
