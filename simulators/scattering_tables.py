"""Tables of scattering-factor coefficients: Lobato, Kirkland, Peng, and a user's own.

Every simulator takes `parametrization=` as the name of a table that comes with the package or as a
`ScatteringTable`, which `read_table` makes from a dictionary or a JSON file:

    {"form": "peng", "source": "where from", "elements": {"Si": [[a1, a2, ...], [b1, b2, ...]]}}
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

FORMS = {
    "lobato": ("a", "b"),  # Σ a (2 + b k²) / (1 + b k²)²
    "kirkland": ("a", "b", "c", "d"),  # Σ a / (k² + b) + c exp(-d k²)
    "peng": ("a", "b"),  # Σ a exp(-b k² / 4)
}
"""Functional forms and the rows of coefficients that they take, each row with one number a term."""

NAMES = tuple(FORMS)
"""Tables that come with the package (one of each form)."""


@dataclasses.dataclass(frozen=True, eq=False)
class ScatteringTable:
    """Coefficients of one functional form for some elements.

    Attributes
    ----------
    form : {"lobato", "kirkland", "peng"}
    elements : dict of symbol to float [rows, terms]
        Rows as `FORMS` names them, Å and 1/Å as in the form's own table.
    name : str
        For error messages.
    """

    form: str
    elements: Mapping[str, np.ndarray]
    name: str = "user"


def read_table(source: Mapping | str | Path, *, form: str | None = None) -> ScatteringTable:
    """A table from a dictionary or a JSON file.

    Parameters
    ----------
    source : dict or path
        `{"form": ..., "elements": {symbol: rows}}`, or only `{symbol: rows}` with `form=` given.
    form : {"lobato", "kirkland", "peng"}, optional
        The functional form, where the source does not name it.

    Raises
    ------
    ValueError
        A file that is no JSON, an unknown form or element, a wrong number of coefficients, or
        coefficients that make the factor infinite.
    """
    name = "user"
    if not isinstance(source, Mapping):
        path = Path(source)
        name = path.name
        try:
            source = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON file: {error}") from error
        if not isinstance(source, Mapping):
            raise ValueError(f"{path} must hold a JSON object, not a {type(source).__name__}")
    form = source.get("form", form)
    if form not in FORMS:
        raise ValueError(
            f"the {name} table must name its form, one of {', '.join(FORMS)}; got {form!r}"
        )
    elements = source.get("elements", {k: v for k, v in source.items() if k in atomic_numbers})
    if not isinstance(elements, Mapping) or not elements:
        raise ValueError(
            f'the {name} table has no elements: {{"elements": {{"Si": [[...], ...]}}}}'
        )
    checked = {symbol: _checked(symbol, rows, form, name) for symbol, rows in elements.items()}
    return ScatteringTable(form, checked, str(source.get("name", name)))


def _checked(symbol: str, rows: Any, form: str, name: str) -> np.ndarray:
    """The element's coefficients [rows, terms], or what is wrong with them."""
    if symbol not in atomic_numbers or symbol == "X":
        raise ValueError(f"the {name} table has an unknown element {symbol!r}")
    letters = FORMS[form]
    wanted = f"{len(letters)} rows ({', '.join(letters)}) with one number a term each"
    try:
        table = np.array(rows, float)
    except (TypeError, ValueError):
        raise ValueError(f"{symbol} in the {name} table: the {form} form takes {wanted}") from None
    if table.ndim != 2 or len(table) != len(letters) or table.shape[1] == 0:
        raise ValueError(
            f"{symbol} in the {name} table has coefficients of shape {table.shape}, but the {form} "
            f"form takes {wanted}"
        )
    if not np.isfinite(table).all():
        raise ValueError(f"{symbol} in the {name} table has a coefficient that is not finite")
    if not (table[1::2] > 0).all():
        raise ValueError(
            f"{symbol} in the {name} table: the coefficients {' and '.join(letters[1::2])} must be "
            "positive, otherwise the potential does not fall off"
        )
    return table


@functools.cache
def _built_in(name: str) -> ScatteringTable:
    text = (Path(__file__).parent / "tables" / f"{name}.json").read_text()
    rows = {symbol: np.array(rows) for symbol, rows in json.loads(text)["elements"].items()}
    return ScatteringTable(name, rows, name)


def as_table(parametrization: Any) -> ScatteringTable:
    """The table that a `parametrization=` argument means: a name, a table, a dict or a path.

    Raises
    ------
    ValueError
        A name that is neither a table of the package nor a JSON file.
    """
    if isinstance(parametrization, ScatteringTable):
        return parametrization
    if isinstance(parametrization, str) and parametrization in NAMES:
        return _built_in(parametrization)
    if isinstance(parametrization, str) and not parametrization.endswith(".json"):
        raise ValueError(
            f"unknown parametrization {parametrization!r}: choose one of {', '.join(NAMES)}, or "
            "give a table made by read_table (a dictionary or a .json file)"
        )
    if isinstance(parametrization, str | Path | Mapping):
        return read_table(parametrization)
    raise ValueError(
        f"parametrization takes a name or a table, not a {type(parametrization).__name__}"
    )


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


def coefficients(element: int | str, parametrization: Any = "lobato") -> np.ndarray:
    """The table's rows of an element [rows, terms]; `FORMS` names the rows.

    Raises
    ------
    ValueError
        Unknown parametrization, unknown element, or an element that the table does not have.
    """
    table = as_table(parametrization)
    symbol = chemical_symbols[atomic_number(element)]
    if symbol not in table.elements:
        known = list(table.elements)
        held = ", ".join(known) if len(known) < 12 else f"{known[0]} to {known[-1]}"
        raise ValueError(
            f"the {table.name} table has no {symbol} (it holds {held}): "
            "use 'lobato' or 'kirkland', add the element to the table, or replace the atom"
        )
    return table.elements[symbol]
