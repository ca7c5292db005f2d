"""Electron scattering factors of neutral atoms: Lobato, Kirkland, Peng, or a user's own table.

The argument is k² with k = 1/d (twice the s = sin θ / λ of crystallography). For every table the
Fourier transform of the projected potential is exactly f(k²) / KAPPA [V Å³].
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from simulators.backend import array_module
from simulators.electron import KAPPA


def _lobato(coefficients: np.ndarray, k2: Any, xp: Any) -> Any:
    a, b = coefficients
    return sum(ai * (2 + bi * k2) / (1 + bi * k2) ** 2 for ai, bi in zip(a, b, strict=True))


def _kirkland(coefficients: np.ndarray, k2: Any, xp: Any) -> Any:
    rows = zip(*coefficients, strict=True)
    return sum(a / (k2 + b) + c * xp.exp(-d * k2) for a, b, c, d in rows)


def _peng(coefficients: np.ndarray, k2: Any, xp: Any) -> Any:
    a, b = coefficients
    return sum(ai * xp.exp(-bi * k2 / 4) for ai, bi in zip(a, b, strict=True))


PARAMETRIZATIONS: dict[str, Callable[[np.ndarray, Any, Any], Any]] = {
    "lobato": _lobato,
    "kirkland": _kirkland,
    "peng": _peng,
}


@functools.cache
def _table(name: str) -> dict[str, np.ndarray]:
    text = (Path(__file__).parent / "tables" / f"{name}.json").read_text()
    return {symbol: np.array(rows) for symbol, rows in json.loads(text)["elements"].items()}


def atomic_number(element: int | str) -> int:
    """Atomic number of a symbol or number; a clear error for anything that is no element."""
    if isinstance(element, str):
        if element not in atomic_numbers or element == "X":
            raise ValueError(
                f"unknown element {element!r}: use a symbol such as 'Si', or Z = 1–118"
            )
        return atomic_numbers[element]
    number = int(element)
    if not 1 <= number < len(chemical_symbols):
        raise ValueError(f"unknown element: atomic number {number} is outside 1 to 118")
    return number


def coefficients(element: int | str, parametrization: str = "lobato") -> np.ndarray:
    """The table's row of an element, in the layout that the table's JSON states.

    Raises
    ------
    ValueError
        Unknown parametrization, unknown element, or an element that the table does not have.
    """
    if parametrization not in PARAMETRIZATIONS:
        known = ", ".join(PARAMETRIZATIONS)
        raise ValueError(f"unknown parametrization {parametrization!r}: choose one of {known}")
    symbol = chemical_symbols[atomic_number(element)]
    table = _table(parametrization)
    if symbol not in table:
        raise ValueError(
            f"the {parametrization} table has no {symbol} (it ends at {list(table)[-1]}): "
            "use 'lobato' or 'kirkland', or replace the atom"
        )
    return table[symbol]


def scattering_factor(element: int | str, k2: Any, parametrization: str = "lobato") -> Any:
    """Electron scattering factor f(k²) [Å].

    Parameters
    ----------
    element : int or str
        Atomic number or symbol.
    k2 : array
        Squared spatial frequency [1/Å²], k = 1/d.
    parametrization : {"lobato", "kirkland", "peng"}
        Which table.

    Examples
    --------
    >>> round(float(scattering_factor("Si", 0.0)), 2)
    5.84
    """
    xp = array_module(k2)
    row = coefficients(element, parametrization)
    return PARAMETRIZATIONS[parametrization](row, k2, xp)


def projected_scattering_factor(
    element: int | str, k2: Any, parametrization: str = "lobato"
) -> Any:
    """Fourier transform of the projected potential, f(k²) / KAPPA [V Å³]."""
    return scattering_factor(element, k2, parametrization) / KAPPA
