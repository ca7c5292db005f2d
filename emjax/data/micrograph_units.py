"""Units of length as microscope files spell them, to Å; and what the other units mean.

Files say "nm", "µm" (in two Unicode spellings), "micron", "meters", "1/nm", "A", "<undefined>", …
One table, so that every reader of `emjax.data.micrograph_formats` is judged alike.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

_METRE = 1e10  # Å

_IN_ANGSTROM = {
    "pm": 1e-2,
    "å": 1.0,
    "a": 1.0,
    "nm": 10.0,
    "μm": 1e4,  # after NFKC the micro sign is the Greek letter
    "um": 1e4,
    "âμm": 1e4,  # UTF-8 read as Latin-1 by the writing program
    "\\u00b5m": 1e4,  # ImageJ escapes it in its ASCII description
    "mm": 1e7,
    "cm": 1e8,
    "m": _METRE,
}
_SPELLED_OUT = {
    "picomet": 1e-2,
    "angstr": 1.0,
    "ångstr": 1.0,
    "nanomet": 10.0,
    "micron": 1e4,
    "micromet": 1e4,
    "millimet": 1e7,
    "centimet": 1e8,
    "meter": _METRE,
    "metre": _METRE,
}
_ANGLES = {"rad", "mrad", "μrad", "urad", "deg", "degree", "degrees", "°"}
_ENERGIES = {"ev", "kev", "mev"}
_NOTHING = {
    "",
    "px",
    "pix",
    "pixel",
    "pixels",
    "none",
    "<undefined>",
    "undefined",
    "a.u.",
    "-",
    "?",
}
_RECIPROCAL = re.compile(r"^(1/.*|.*(\^|\*\*)?\(?-1\)?)$")

# Scalars that people store beside an image; their last word is the unit. Without one it is Å.
_KEY = re.compile(
    r"^(pixel|voxel|sampling)(_?(size|spacing))?(_(?P<unit>pm|A|Å|angstrom|nm|um|µm|μm|m))?$",
    re.IGNORECASE,
)
_UNIT_KEYS = ("pixel_units", "pixel_unit", "pixel_size_units", "pixel_size_unit", "units", "unit")


def plain_unit(units: object) -> str:
    """`units` as a normalised lower-case word without spaces ("" for None and the like)."""
    if isinstance(units, bytes):
        units = units.decode("utf-8", "replace")
    word = unicodedata.normalize("NFKC", str(units if units is not None else ""))
    word = word.replace("\x00", "").replace(" ", "").strip().casefold()
    word = re.sub(r"/(px|pix|pixels?)$", "", word)
    return "" if word in _NOTHING else word


def angstrom_per(units: object) -> float | None:
    """How many Å one `units` is; None when it is not a length that we know.

    >>> angstrom_per("nm"), angstrom_per("µm"), angstrom_per("A"), angstrom_per("1/nm")
    (10.0, 10000.0, 1.0, None)
    """
    word = plain_unit(units)
    if word in _IN_ANGSTROM:
        return _IN_ANGSTROM[word]
    if kind_of_unit(word) != "length":
        return None
    return next((value for stem, value in _SPELLED_OUT.items() if word.startswith(stem)), None)


def kind_of_unit(units: object) -> str:
    """One of "none", "length", "reciprocal" (angles too), "energy" and "other".

    >>> [kind_of_unit(u) for u in ("nm", "1 / nm", "nm^-1", "mrad", "eV", "px", "s")]
    ['length', 'reciprocal', 'reciprocal', 'reciprocal', 'energy', 'none', 'other']
    """
    word = plain_unit(units)
    if not word:
        return "none"
    if word in _ENERGIES:
        return "energy"
    if word in _ANGLES or _RECIPROCAL.match(word.replace("⁻¹", "-1").replace("−", "-")):
        return "reciprocal"
    if word in _IN_ANGSTROM or any(word.startswith(stem) for stem in _SPELLED_OUT):
        return "length"
    return "other"


def stored_pixel_size(values: Mapping[str, Any]) -> tuple[tuple[float, float], str] | None:
    """The pixel size that lies beside an array as a scalar or a (y, x) pair, and its unit.

    Understood are `pixel_nm`, `pixel_A`, `pixel_pm`, `pixel_um`, `pixel_size_nm`, `voxel_A`, …, and
    `sampling` and `pixel_size`, which mean Å unless `units` (or `pixel_units`) beside them says
    otherwise. A value that is not one or two positive numbers is passed over.
    """
    for key in sorted(values):
        match = _KEY.match(key.rsplit("/", 1)[-1])
        if match is None:
            continue
        numbers = _positive_numbers(values[key])
        if numbers is None:
            continue
        units = match["unit"]
        if units is None:
            beside = next((values[k] for k in _UNIT_KEYS if k in values), "Å")
            units = beside.decode("utf-8", "replace") if isinstance(beside, bytes) else str(beside)
        return numbers, units
    return None


def _positive_numbers(value: Any) -> tuple[float, float] | None:
    if np.size(value) not in (1, 2):
        return None
    try:
        numbers = [float(v) for v in np.ravel(value)]
    except (TypeError, ValueError):
        return None
    if not all(0 < v < float("inf") for v in numbers):
        return None
    return numbers[0], numbers[-1]
