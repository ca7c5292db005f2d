"""The relativistic electron: wavelength, interaction constant, and the constants behind them.

CODATA 2014 values, as in ASE's default units and in abTEM, so that numbers agree to every digit;
later CODATA sets move the wavelength by less than 2e-8.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simulators.backend import array_module, is_number

PLANCK = 6.62607004e-34  # J s
ELECTRON_MASS = 9.10938356e-31  # kg
ELEMENTARY_CHARGE = 1.6021766208e-19  # C
LIGHT_SPEED = 299792458.0  # m / s

_REST_ENERGY = ELECTRON_MASS * LIGHT_SPEED**2 / ELEMENTARY_CHARGE  # eV
_HC = PLANCK * LIGHT_SPEED / ELEMENTARY_CHARGE * 1e10  # eV Å

KAPPA = 2 * math.pi * ELECTRON_MASS * ELEMENTARY_CHARGE / PLANCK**2 * 1e-20
"""2π m e / h² [1/(V Å²)] with the rest mass: potential [V Å] = scattering factor [Å] / KAPPA."""


def check_energy(energy: Any) -> None:
    """Raise where a known energy cannot be meant in eV."""
    if is_number(energy) and not 1e3 <= energy <= 1e7:
        raise ValueError(
            f"energy = {energy:g} eV is outside 1e3 to 1e7 eV: energies are in eV (80e3 for 80 kV)"
        )


def mass_correction(energy: Any) -> Any:
    """Relativistic factor γ = 1 + E / mc² of an electron accelerated through `energy` eV.

    >>> round(mass_correction(200e3), 6)
    1.39139
    """
    check_energy(energy)
    return 1.0 + energy / _REST_ENERGY


def wavelength(energy: Any) -> Any:
    """Relativistic de Broglie wavelength [Å]; λ = hc / sqrt(E (2mc² + E)).

    >>> round(wavelength(200e3), 5)
    0.02508
    """
    check_energy(energy)
    xp = array_module(energy)
    energy = float(energy) if isinstance(energy, np.number) else energy
    result = _HC / xp.sqrt(energy * (2 * _REST_ENERGY + energy))
    return float(result) if isinstance(energy, (int, float)) else result


def interaction_constant(energy: Any) -> Any:
    """σ = 2π γ m e λ / h² [rad / (V Å)]: phase shift per projected potential.

    >>> round(interaction_constant(100e3) * 1e3, 5)
    0.9244
    """
    return KAPPA * mass_correction(energy) * wavelength(energy)
