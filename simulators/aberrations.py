"""The aberration function of a lens, and what follows from it.

Aberration coefficients carry the names of Krivanek's polar notation: C10 (= -defocus), C12, phi12,
C21, ... C56, phi56, in Å and rad. The aberration function is

    χ(α, φ) = 2π/λ Σ_n α^(n+1)/(n+1) Σ_m C_nm cos(m (φ - φ_nm)),   α = λ|k|, φ = atan2(ky, kx),

and a wave is multiplied by exp(-iχ). A defocus of +z therefore focuses z behind the entrance plane.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simulators.backend import array_module
from simulators.electron import wavelength
from simulators.grid import Grid

ABERRATIONS: dict[str, tuple[int, int]] = {
    f"C{n}{m}": (n, m) for n in range(1, 6) for m in range(n + 1, -1, -1) if (n + m) % 2
}
"""Symbol to (order n, azimuthal symmetry m), the 14 magnitudes; those with m > 0 have a phi too."""


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


def aberration_phase(optics: Any, grid: Grid, *, off_axis: Any = None) -> Any:
    """χ [ny, nx] in rad, FFT order. Terms whose coefficient is the number 0 cost nothing.

    Parameters
    ----------
    off_axis : (x, y), optional
        Angle in mrad of the beam to the axis of the lens: χ at k + tan(angle)/λ.
    """
    return 2 * np.pi * aberrations_at(optics, frequencies(optics, grid, off_axis))[0]


def ray_displacement(optics: Any, grid: Grid, *, off_axis: Any = None) -> tuple[Any, Any]:
    """(x, y) [ny, nx] in Å: where the lens sends the ray of each frequency, ∇χ(k) / 2π."""
    gradient = aberrations_at(optics, frequencies(optics, grid, off_axis), gradient=True)[1]
    return gradient.real, gradient.imag


def frequencies(optics: Any, grid: Grid, off_axis: Any) -> Any:
    """kx + i ky [ny, nx] in 1/Å, from the axis of the lens."""
    ky, kx = grid.frequencies()
    w = kx[None, :] + 1j * ky[:, None]
    if off_axis is None:
        return w
    xp = array_module(optics.energy, off_axis)
    lam = wavelength(optics.energy)
    return w + (xp.tan(off_axis[0] * 1e-3) + 1j * xp.tan(off_axis[1] * 1e-3)) / lam


def aberrations_at(optics: Any, w: Any, gradient: bool = False) -> tuple[Any, Any]:
    """χ / 2π at the complex frequencies w = kx + i ky, and (if asked) its gradient, x + i y.

    With p = (n + 1 - m) / 2 the term C_nm is λⁿ C / (n + 1) |w|^2p Re(w^m exp(-imφ_nm)): a
    polynomial, smooth at the origin; the gradient is twice its derivative to the conjugate of w.
    """
    names = [s for s in ABERRATIONS if not is_zero(getattr(optics, s))]
    leaves = [optics.energy, *(getattr(optics, s) for s in names)]
    leaves += [getattr(optics, "phi" + s[1:]) for s in names if ABERRATIONS[s][1]]
    xp = array_module(leaves, w)
    here = array_module(w)  # powers of known frequencies stay in float64 NumPy
    lam = wavelength(optics.energy)
    k2 = here.real(w) ** 2 + here.imag(w) ** 2
    turns: Any = xp.zeros(w.shape)
    slope: Any = xp.zeros(w.shape, complex) if gradient else None
    for name in names:
        n, m = ABERRATIONS[name]
        p = (n + 1 - m) // 2
        scale = lam**n / (n + 1) * getattr(optics, name)
        angle = m * getattr(optics, f"phi{n}{m}") if m else 0.0
        c, s = xp.cos(angle), xp.sin(angle)
        power = w**m * k2**p
        turns = turns + scale * (c * xp.asarray(power.real) + s * xp.asarray(power.imag))
        if gradient:
            out = xp.asarray(
                (p + m) * k2**p * here.conj(w) ** (m - 1) if m else p * k2 ** (p - 1) * w
            )
            slope = slope + scale * (c + 1j * s) * out
            if p:
                inner = xp.asarray(p * k2 ** (p - 1) * w ** (m + 1))
                slope = slope + scale * (c - 1j * s) * inner
    return turns, slope


def is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0
