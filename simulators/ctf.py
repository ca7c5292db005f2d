"""The contrast transfer function of the imaging lens.

    H = A exp(-iχ) E_t E_s,      ψ_image = F⁻¹[H F[ψ]]
    E_t = exp(-(πΔα²/2λ)²),      E_s = exp(-(β/2)² (χ_α² + (χ_φ/α)²))

with the focal spread Δ and the angular spread β as 1/e half-widths of Gaussian distributions (their
standard deviations are these / √2). The envelopes are exact for the interference of a scattered
with the unscattered wave, that is for weak objects; see `coherence.py` for the explicit sums.

Frank, Optik 38, 519 (1973); Wade & Frank, Optik 49, 81 (1977); Kirkland (2010), section 3.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simulators.aberrations import aberration_phase, frequencies, is_zero, ray_displacement
from simulators.backend import array_module, is_concrete
from simulators.electron import wavelength
from simulators.grid import Grid
from simulators.optics import Optics, aperture_function


def temporal_envelope(optics: Optics, grid: Grid, *, off_axis: Any = None) -> Any:
    """exp(-(πΔα²/2λ)²) [ny, nx], FFT order: defocus fluctuates."""
    w = frequencies(optics, grid, off_axis)
    xp = array_module(optics.energy, optics.focal_spread, w)
    here = array_module(w)
    k2 = xp.asarray(here.real(w) ** 2 + here.imag(w) ** 2)
    return xp.exp(-((0.5 * np.pi * optics.focal_spread * wavelength(optics.energy) * k2) ** 2))


def spatial_envelope(optics: Optics, grid: Grid, *, off_axis: Any = None) -> Any:
    """exp(-(β/2)² |∇_α χ|²) [ny, nx], FFT order: the illumination is a cone."""
    x, y = ray_displacement(optics, grid, off_axis=off_axis)
    xp = array_module(x, optics.energy, optics.angular_spread)
    slope2 = (2 * np.pi / wavelength(optics.energy)) ** 2 * (xp.asarray(x) ** 2 + y**2)
    return xp.exp(-((0.5e-3 * optics.angular_spread) ** 2) * slope2)


def ctf(
    optics: Optics,
    grid: Grid,
    *,
    envelopes: bool = True,
    flip_phase: bool = False,
    wiener_snr: float | None = None,
    off_axis: Any = None,
) -> Any:
    """What multiplies the spectrum of the exit wave.

    Parameters
    ----------
    optics : Optics
        Aberrations, apertures, `focal_spread` and `angular_spread`.
    grid : Grid
    envelopes : bool
        With the two envelopes of partial coherence.
    flip_phase : bool
        Re H - i |Im H|: as if every frequency were transferred with one sign.
    wiener_snr : float, optional
        Wiener-filtered with this signal-to-noise ratio s: (1 + 1/s) H² / (H² + 1/s), in which
        `flip_phase` has nothing left to do.
    off_axis : (x, y), optional
        Angle in mrad of the illumination to the axis of the lens; 0 if not given. The `tilt` of the
        optics is one of the specimen against beam and lens, and does not act here.

    Returns
    -------
    complex [ny, nx]
        FFT order.

    Raises
    ------
    ValueError
        A signal-to-noise ratio that is not positive.
    """
    chi = aberration_phase(optics, grid, off_axis=off_axis)
    aperture = aperture_function(optics, grid, off_axis=off_axis)
    xp = array_module(chi, aperture)
    if off_axis is not None:
        # of the unscattered wave only the phase against the others is seen
        chi = chi - chi[0, 0]
    transfer = aperture * xp.exp(-1j * chi)
    if envelopes:
        for width, envelope in (
            (optics.focal_spread, temporal_envelope),
            (optics.angular_spread, spatial_envelope),
        ):
            if not is_zero(width):
                transfer = transfer * envelope(optics, grid, off_axis=off_axis)
    xp = array_module(transfer)
    if flip_phase and wiener_snr is None:
        transfer = xp.real(transfer) - 1j * xp.abs(xp.imag(transfer))
    if wiener_snr is not None:
        if is_concrete(wiener_snr) and not wiener_snr > 0:
            raise ValueError(f"wiener_snr must be positive, got {wiener_snr:g}")
        noise = 1 / wiener_snr
        transfer = (1 + noise) * transfer**2 / (transfer**2 + noise)
    return transfer
