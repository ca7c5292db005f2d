"""How far atoms move: the Debye model, and the names of the same number (σ, U, B)."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulators.backend import array_module

HBAR2_OVER_K = 48.508734  # ħ²/(u k_B) in Å² K: (1.054571817e-34)² / (1.66053907e-27 · 1.380649e-23)

DEBYE_TEMPERATURES = {
    "C": 2230.0, "Na": 158.0, "Mg": 400.0, "Al": 428.0, "Si": 645.0, "K": 91.0, "Ti": 420.0,
    "Cr": 630.0, "Fe": 470.0, "Ni": 450.0, "Cu": 343.0, "Zn": 327.0, "Ge": 374.0, "Nb": 275.0,
    "Mo": 450.0, "Pd": 274.0, "Ag": 225.0, "Ta": 240.0, "W": 400.0, "Pt": 240.0, "Au": 165.0,
    "Pb": 105.0,
}  # fmt: skip
"""K, from the low-temperature heat capacity of the element (Kittel, Introduction to Solid State
Physics, chapter 5; carbon is diamond). Compounds have other values, and diffraction at room
temperature fits values up to about 15 % lower: give your own where you know it."""


def B_to_sigma(B: Any) -> Any:
    """Displacement per direction sqrt(<u_x²>) [Å] of B = 8π²<u_x²> [Å²].

    >>> round(float(B_to_sigma(0.5)), 5)
    0.07958
    """
    return array_module(B).sqrt(B / (8 * np.pi**2))


def sigma_to_B(sigma: Any) -> Any:
    """B = 8π²σ² [Å²] of a displacement per direction σ [Å].

    >>> round(float(sigma_to_B(0.08)), 4)
    0.5053
    """
    return 8 * np.pi**2 * sigma**2


def debye_sigma(
    element: str | int, temperature: Any, debye_temperature: Any = None, *, mass: Any = None
) -> Any:
    """Displacement per direction sqrt(<u_x²>) in Å of the Debye model.

    <u_x²> = 3ħ²T/(M k Θ²) · (Φ(Θ/T) + Θ/4T),  Φ(x) = (1/x) ∫₀ˣ t/(eᵗ - 1) dt
    (Willis & Pryor, Thermal Vibrations in Crystallography (1975), chapter 3).

    Parameters
    ----------
    element : symbol or atomic number
    temperature : float
        K; 0 gives the zero-point motion.
    debye_temperature : float, optional
        K; None: from `DEBYE_TEMPERATURES`.
    mass : float, optional
        u; None: the element's natural mass.

    Raises
    ------
    ValueError
        An element without a tabulated Debye temperature; temperatures that are not positive.

    >>> round(float(debye_sigma("Al", 293.0)), 3)
    0.096
    """
    from ase.data import atomic_masses, chemical_symbols

    from simulators.scattering import atomic_number

    number = atomic_number(element) if isinstance(element, str) else int(element)
    symbol = chemical_symbols[number]
    if debye_temperature is None:
        if symbol not in DEBYE_TEMPERATURES:
            raise ValueError(
                f"no Debye temperature is tabulated for {symbol}: give debye_temperature=... in K"
            )
        debye_temperature = DEBYE_TEMPERATURES[symbol]
    mass = float(atomic_masses[number]) if mass is None else mass
    xp = array_module(temperature, debye_temperature, mass)
    if xp is np and (np.min(temperature) < 0 or np.min(debye_temperature) <= 0):
        raise ValueError(
            f"temperature and debye_temperature are in kelvin, at least 0 and above 0; got "
            f"{temperature} and {debye_temperature}"
        )
    theta = debye_temperature
    # at T -> 0 the thermal part, T Φ(Θ/T) -> π²T²/(6Θ), goes to 0 by the factor T
    x = theta / xp.maximum(temperature, theta / 300)
    thermal = temperature * debye_phi(x)
    return xp.sqrt(3 * HBAR2_OVER_K / (mass * theta**2) * (thermal + theta / 4))


def debye_phi(x: Any) -> Any:
    """Φ(x) = (1/x) ∫₀ˣ t/(eᵗ - 1) dt for x > 0, to 1e-10, by Gauss–Legendre quadrature.

    The substitution t = x s² puts the nodes where the integrand is for large x.
    """
    xp = array_module(x)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    s, w = (nodes + 1) / 2, weights / 2
    x = xp.asarray(x)
    t = x[..., None] * (s**2)[(None,) * x.ndim]
    values = t / xp.expm1(t) * (2 * s * w)[(None,) * x.ndim]
    return values.sum(-1)
