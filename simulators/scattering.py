"""Electron scattering factors of neutral atoms, and their potentials in real space.

The argument is k² with k = 1/d (twice the s = sin θ / λ of crystallography). For every table the
Fourier transform of the projected potential is exactly f(k²) / KAPPA [V Å³]. Three functional
forms: Lobato & Van Dyck, Acta Cryst. A 70, 636 (2014); Kirkland (2010), appendix C; Peng, Micron
30, 625 (1999). Tables, and how to bring one's own: scattering_tables.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from simulators.backend import array_module
from simulators.electron import KAPPA
from simulators.scattering_tables import (
    ScatteringTable,
    as_table,
    atomic_number,
    coefficients,
    read_table,
)


def _terms(rows: np.ndarray) -> Any:
    return zip(*rows, strict=True)


def _lobato(rows: np.ndarray, k2: Any, xp: Any) -> Any:
    return sum(a * (2 + b * k2) / (1 + b * k2) ** 2 for a, b in _terms(rows))


def _kirkland(rows: np.ndarray, k2: Any, xp: Any) -> Any:
    return sum(a / (k2 + b) + c * xp.exp(-d * k2) for a, b, c, d in _terms(rows))


def _peng(rows: np.ndarray, k2: Any, xp: Any) -> Any:
    return sum(a * xp.exp(-b * k2 / 4) for a, b in _terms(rows))


PARAMETRIZATIONS: dict[str, Callable[[np.ndarray, Any, Any], Any]] = {
    "lobato": _lobato,
    "kirkland": _kirkland,
    "peng": _peng,
}


def scattering_factor(element: int | str, k2: Any, parametrization: Any = "lobato") -> Any:
    """Electron scattering factor f(k²) [Å].

    Parameters
    ----------
    element : int or str
        Atomic number or symbol.
    k2 : array
        Squared spatial frequency [1/Å²], k = 1/d.
    parametrization : {"lobato", "kirkland", "peng"} or ScatteringTable
        Which table.

    Examples
    --------
    >>> round(float(scattering_factor("Si", 0.0)), 2)
    5.84
    """
    table = as_table(parametrization)
    return PARAMETRIZATIONS[table.form](coefficients(element, table), k2, array_module(k2))


def projected_scattering_factor(
    element: int | str, k2: Any, parametrization: Any = "lobato"
) -> Any:
    """Fourier transform of the projected potential, f(k²) / KAPPA [V Å³]."""
    return scattering_factor(element, k2, parametrization) / KAPPA


def _lobato_potential(rows: np.ndarray, r: Any, xp: Any) -> Any:
    # a / (1 + bk²) and a / (1 + bk²)² are exp(-u)/u and exp(-u) in u = 2πr/√b
    u = [(a, b, 2 * np.pi * r / np.sqrt(b)) for a, b in _terms(rows)]
    return sum(np.pi**2 * a / b**1.5 * (2 / x + 1) * xp.exp(-x) for a, b, x in u)


def _kirkland_potential(rows: np.ndarray, r: Any, xp: Any) -> Any:
    return sum(
        np.pi * a / r * xp.exp(-2 * np.pi * r * np.sqrt(b))
        + c * (np.pi / d) ** 1.5 * xp.exp(-((np.pi * r) ** 2) / d)
        for a, b, c, d in _terms(rows)
    )


def _peng_potential(rows: np.ndarray, r: Any, xp: Any) -> Any:
    return sum(
        a * (4 * np.pi / b) ** 1.5 * xp.exp(-((2 * np.pi * r) ** 2) / b) for a, b in _terms(rows)
    )


_POTENTIALS = {
    "lobato": _lobato_potential,
    "kirkland": _kirkland_potential,
    "peng": _peng_potential,
}


def radial_potential(element: int | str, r: Any, parametrization: Any = "lobato") -> Any:
    """Electrostatic potential V(r) [V] of an atom at distances r > 0 [Å].

    Kirkland (2010), equation C.19, and its counterparts for the other two forms. Lobato's and
    Kirkland's go to infinity as 1/r at the nucleus, Peng's does not.

    Examples
    --------
    >>> round(float(radial_potential("Si", 0.5)), 1)
    66.6
    """
    table = as_table(parametrization)
    rows = coefficients(element, table)
    return _POTENTIALS[table.form](rows, r, array_module(r)) / KAPPA


def radial_projected_potential(
    element: int | str, r: Any, parametrization: Any = "lobato"
) -> np.ndarray:
    """∫ V(√(r² + z²)) dz [V Å] at distances r > 0 [Å] from the axis (NumPy; Bessel functions K)."""
    from scipy.special import k0, k1

    table = as_table(parametrization)
    rows = coefficients(element, table)
    r = np.asarray(r, float)
    if table.form == "lobato":
        u = [(a, b, 2 * np.pi * r / np.sqrt(b)) for a, b in _terms(rows)]
        total = sum(2 * np.pi * a / b * (k0(x) + x * k1(x) / 2) for a, b, x in u)
    elif table.form == "kirkland":
        total = sum(
            2 * np.pi * a * k0(2 * np.pi * r * np.sqrt(b))
            + c * np.pi / d * np.exp(-((np.pi * r) ** 2) / d)
            for a, b, c, d in _terms(rows)
        )
    else:
        total = sum(
            4 * np.pi * a / b * np.exp(-((2 * np.pi * r) ** 2) / b) for a, b in _terms(rows)
        )
    return np.asarray(total) / KAPPA


__all__ = [
    "PARAMETRIZATIONS",
    "ScatteringTable",
    "as_table",
    "atomic_number",
    "coefficients",
    "projected_scattering_factor",
    "radial_potential",
    "radial_projected_potential",
    "read_table",
    "scattering_factor",
]
