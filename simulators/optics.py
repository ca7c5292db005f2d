"""The probe-forming lens: aberrations up to fifth order, apertures, and the probe itself.

Aberration coefficients carry the names of Krivanek's polar notation: C10 (= -defocus), C12, phi12,
C21, ... C56, phi56, in Å and rad. The aberration function is

    χ(α, φ) = 2π/λ Σ_n α^(n+1)/(n+1) Σ_m C_nm cos(m (φ - φ_nm)),   α = λ|k|, φ = atan2(ky, kx),

and a wave is multiplied by exp(-iχ). A defocus of +z therefore focuses z behind the entrance plane.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import array_module, complex_dtype, is_concrete
from simulators.electron import check_energy, wavelength
from simulators.grid import Grid
from simulators.tree import pytree, static

ABERRATIONS: dict[str, tuple[int, int]] = {
    f"C{n}{m}": (n, m) for n in range(1, 6) for m in range(n + 1, -1, -1) if (n + m) % 2
}
"""Symbol to (order n, azimuthal symmetry m), the 14 magnitudes; those with m > 0 have a phi too."""

APERTURES = ("soft", "hard")


@pytree
class Optics:
    """The electron probe or the imaging lens.

    Attributes
    ----------
    energy : eV
    semiangle : mrad
        Aperture; `None` for none.
    C10 … C56, phi12 … phi56 : Å, rad
        Aberrations, `defocus` = -C10.
    focal_spread : Å
        1/e half-width of the defocus distribution (abTEM's convention; σ is this / √2).
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
    aperture: str = static("soft")

    def __post_init__(self) -> None:
        check_energy(self.energy)
        if self.aperture not in APERTURES:
            raise ValueError(f"aperture must be one of {APERTURES}, got {self.aperture!r}")
        if isinstance(self.semiangle, (int, float)) and not 0.1 <= self.semiangle < 1e3:
            raise ValueError(f"semiangle = {self.semiangle:g}: it is in mrad, not rad, 0.1 to 1000")
        for name in (*ABERRATIONS, "focal_spread", "source_size"):
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not np.isfinite(value):
                raise ValueError(f"{name} = {value} is not finite")

    @property
    def defocus(self) -> Any:
        """-C10 [Å]."""
        return -self.C10


def scherzer_defocus(spherical: float, energy: float) -> float:
    """sign(Cs) sqrt(1.5 |Cs| λ) [Å].

    >>> round(scherzer_defocus(1.3e7, 100e3), 1)
    849.6
    """
    return float(np.sign(spherical) * np.sqrt(1.5 * abs(spherical) * wavelength(energy)))


def point_resolution(spherical: float, energy: float) -> float:
    """(|Cs| λ³ / 6)^(1/4) [Å], where χ of the Scherzer lens crosses zero.

    >>> round(point_resolution(1.3e7, 100e3), 3)
    3.238
    """
    return float((abs(spherical) * wavelength(energy) ** 3 / 6) ** 0.25)


def aberration_phase(optics: Optics, grid: Grid) -> Any:
    """χ [ny, nx] in rad, FFT order. Terms whose coefficient is the number 0 cost nothing."""
    names = [s for s in ABERRATIONS if not _is_zero(getattr(optics, s))]
    leaves = [optics.energy, *(getattr(optics, s) for s in names)]
    leaves += [getattr(optics, "phi" + s[1:]) for s in names if ABERRATIONS[s][1]]
    xp = array_module(leaves)
    ky, kx = grid.frequencies()
    k2 = grid.k2()
    lam = wavelength(optics.energy)
    chi = xp.zeros(grid.shape)
    phi = np.arctan2(ky[:, None], kx[None, :])
    for name in names:
        n, m = ABERRATIONS[name]
        # k^(n+1) cos and sin in float64; only the scalar in front depends on traced values
        radial = k2 ** ((n + 1) / 2)
        scale = 2 * np.pi * lam**n / (n + 1) * getattr(optics, name)
        if m == 0:
            chi = chi + scale * xp.asarray(radial)
        else:
            angle = m * getattr(optics, f"phi{n}{m}")
            even, odd = xp.asarray(radial * np.cos(m * phi)), xp.asarray(radial * np.sin(m * phi))
            chi = chi + scale * (xp.cos(angle) * even + xp.sin(angle) * odd)
    return chi


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0


def aperture_function(optics: Optics, grid: Grid) -> Any:
    """Aperture [ny, nx], FFT order: soft edges are one pixel of the diffraction plane wide."""
    if optics.semiangle is None:
        return np.ones(grid.shape)
    xp = array_module(optics.energy, optics.semiangle)
    ky, kx = grid.frequencies()
    lam = wavelength(optics.energy)
    alpha = lam * xp.asarray(np.sqrt(grid.k2()))
    cutoff = optics.semiangle * 1e-3
    if optics.aperture == "hard":
        return xp.where(alpha <= cutoff, 1.0, 0.0)
    phi = np.arctan2(ky[:, None], kx[None, :])
    ly, lx = grid.extent
    edge = lam * xp.asarray(np.hypot(np.cos(phi) / lx, np.sin(phi) / ly))
    soft = xp.clip((cutoff - alpha) / edge + 0.5, 0.0, 1.0)
    centre = np.zeros(grid.shape, bool)
    centre[0, 0] = True
    return xp.where(centre, 1.0, soft)


def check_probe(optics: Optics, grid: Grid) -> None:
    """Raise where the probe does not fit the grid, in angle or in width.

    Raises
    ------
    ValueError
        No semiangle; an aperture beyond the band limit; a defocused disc wider than the cell.
    """
    if optics.semiangle is None:
        raise ValueError("a probe needs a semiangle [mrad]")
    if not is_concrete(optics.energy, optics.semiangle):
        return
    limit = grid.antialias_angle(float(optics.energy))
    if optics.semiangle > limit:
        finest = max(grid.sampling) * limit / float(optics.semiangle)
        raise ValueError(
            f"the aperture of {optics.semiangle:g} mrad does not fit the grid, whose band limit is "
            f"{limit:.1f} mrad: use a sampling of {finest:.4f} Å or finer"
        )
    if is_concrete(optics.C10):
        disc = 2 * abs(float(optics.C10)) * float(optics.semiangle) * 1e-3
        if disc > min(grid.extent):
            raise ValueError(
                f"the probe does not fit the grid: defocused by {-optics.C10:g} Å it is a disc of "
                f"{disc:.1f} Å on a cell of {grid.extent[1]:.1f} × {grid.extent[0]:.1f} Å (x, y), "
                "so it overlaps itself: enlarge the cell (tile the structure) or reduce the defocus"
            )


def probe_coefficients(optics: Optics, grid: Grid) -> Any:
    """Fourier coefficients of the probe at the origin, Σ|c|² = 1; [ny, nx], FFT order."""
    aperture, chi = aperture_function(optics, grid), aberration_phase(optics, grid)
    xp = array_module(aperture, chi)
    wave = aperture * xp.exp(-1j * chi)
    return wave / xp.sqrt(xp.sum(aperture**2))


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
    coefficients = probe_coefficients(optics, grid)
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
