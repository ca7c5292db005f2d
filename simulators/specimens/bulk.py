"""Crystals in three dimensions: primitive cells, and the axes in which directions are named.

>>> bulk("Au").numbers.tolist(), bulk("SrTiO3").structure
([79], 'perovskite')
"""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np

from simulators.scattering import atomic_number
from simulators.tree import pytree, static

_FCC = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
_BCC = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2
_HEX = np.array([[1, 0, 0], [-0.5, 3**0.5 / 2, 0], [0, 0, 1]])
_BOX = np.eye(3)


@pytree
class Bulk:
    """One primitive cell of a crystal.

    Attributes
    ----------
    cell : float [3, 3]
        Its vectors, in rows, Å.
    axes : float [3, 3]
        The conventional axes, in rows, Å: what directions [u, v, w] count.
    positions : float [n, 3]
        Å.
    numbers : int [n]
    sigma : float
        Thermal displacement of every atom, Å.
    structure : str, static
    elements : tuple of int, static
    """

    cell: Any
    axes: Any
    positions: Any
    numbers: Any
    sigma: Any
    structure: str = static()
    elements: tuple[int, ...] = static()

    @property
    def volume(self) -> float:
        """Of the primitive cell, Å³."""
        return float(abs(np.linalg.det(np.asarray(self.cell, float))))

    @property
    def density(self) -> float:
        """Atoms per Å³."""
        return len(np.asarray(self.numbers)) / self.volume


# structure: (primitive cell and atoms in units of the conventional axes, element of each atom)
_RUTILE = ((0, 0, 0), (1 / 2, 1 / 2, 1 / 2))
_QUARTER = (1 / 4, 1 / 4, 1 / 4)
_THIRDS = (1 / 3, 2 / 3, 1 / 2)
STRUCTURES: dict[str, tuple[np.ndarray, tuple, tuple[int, ...]]] = {
    "fcc": (_FCC, ((0, 0, 0),), (0,)),
    "bcc": (_BCC, ((0, 0, 0),), (0,)),
    "hcp": (_BOX, ((0, 0, 0), _THIRDS), (0, 0)),
    "diamond": (_FCC, ((0, 0, 0), _QUARTER), (0, 0)),
    "zincblende": (_FCC, ((0, 0, 0), _QUARTER), (0, 1)),
    "rocksalt": (_FCC, ((0, 0, 0), (1 / 2, 1 / 2, 1 / 2)), (0, 1)),
    "fluorite": (_FCC, ((0, 0, 0), _QUARTER, (3 / 4, 3 / 4, 3 / 4)), (0, 1, 1)),
    "perovskite": (
        _BOX,
        ((0, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, 1 / 2, 0), (1 / 2, 0, 1 / 2), (0, 1 / 2, 1 / 2)),
        (0, 1, 2, 2, 2),
    ),
    "rutile": (_BOX, _RUTILE, (0, 0, 1, 1, 1, 1)),
    "wurtzite": (_BOX, ((0, 0, 0), _THIRDS), (0, 0, 1, 1)),
}
"""Primitive cells; rutile and wurtzite have a free parameter and are completed in `make_bulk`."""


def make_bulk(
    structure: str,
    symbols: tuple[str, ...],
    a: float,
    *,
    c: float | None = None,
    u: float | None = None,
    sigma: float = 0.08,
) -> Bulk:
    """A crystal of a known structure.

    Parameters
    ----------
    structure : str
        A key of `STRUCTURES`.
    symbols : tuple of str
        Elements in the structure's order: ("Sr", "Ti", "O"), ("Ti", "O"), ("Au",).
    a, c : float
        Lattice constants in Å; `c` for hcp and wurtzite (ideal where not given) and rutile.
    u : float, optional
        Free parameter: of rutile (0.305), of wurtzite (0.375).
    sigma : float
        Thermal displacement, Å.

    Raises
    ------
    ValueError
        An unknown structure or element, too few or many elements, lattice constants that are not
        positive.
    """
    if structure not in STRUCTURES:
        close = difflib.get_close_matches(structure, STRUCTURES, n=3, cutoff=0.4)
        hint = "Did you mean" if close else "There are"
        raise ValueError(
            f"no crystal structure {structure!r}. {hint}: {', '.join(close or STRUCTURES)}"
        )
    primitive, fractions, which = STRUCTURES[structure]
    if len(symbols) != max(which) + 1:
        raise ValueError(
            f"{structure} has {max(which) + 1} kinds of atoms, got the elements {tuple(symbols)}"
        )
    hexagonal = structure in ("hcp", "wurtzite")
    depth = (a * (8 / 3) ** 0.5 if hexagonal else a) if c is None else c
    if not (a > 0 and depth > 0):
        raise ValueError(f"lattice constants must be positive Å, got a = {a}, c = {depth}")
    if structure == "rutile":
        u = 0.305 if u is None else u
        fractions += ((u, u, 0), (-u, -u, 0), (0.5 + u, 0.5 - u, 0.5), (0.5 - u, 0.5 + u, 0.5))
    if structure == "wurtzite":
        u = 0.375 if u is None else u
        fractions += tuple((x, y, z + u) for x, y, z in fractions)
    axes = (_HEX if hexagonal else _BOX) * np.array([[a], [a], [depth]])
    numbers = np.array([atomic_number(symbols[i]) for i in which])
    return Bulk(
        primitive @ axes,
        axes,
        np.mod(np.array(fractions, float), 1.0) @ axes,
        numbers,
        float(sigma),
        structure,
        tuple(sorted(set(numbers.tolist()))),
    )


_CONSTANTS: dict[str, tuple] = {
    "Al": ("fcc", ("Al",), 4.050),
    "Ni": ("fcc", ("Ni",), 3.524),
    "Cu": ("fcc", ("Cu",), 3.615),
    "Pd": ("fcc", ("Pd",), 3.891),
    "Ag": ("fcc", ("Ag",), 4.086),
    "Pt": ("fcc", ("Pt",), 3.924),
    "Au": ("fcc", ("Au",), 4.078),
    "Fe": ("bcc", ("Fe",), 2.866),
    "W": ("bcc", ("W",), 3.165),
    "Mg": ("hcp", ("Mg",), 3.209, 5.211),
    "Ti": ("hcp", ("Ti",), 2.951, 4.684),
    "Co": ("hcp", ("Co",), 2.507, 4.069),
    "C": ("diamond", ("C",), 3.567),
    "Si": ("diamond", ("Si",), 5.431),
    "Ge": ("diamond", ("Ge",), 5.658),
    "GaAs": ("zincblende", ("Ga", "As"), 5.653),
    "GaP": ("zincblende", ("Ga", "P"), 5.451),
    "InP": ("zincblende", ("In", "P"), 5.869),
    "SiC": ("zincblende", ("Si", "C"), 4.360),
    "MgO": ("rocksalt", ("Mg", "O"), 4.212),
    "SrTiO3": ("perovskite", ("Sr", "Ti", "O"), 3.905),
    "LaAlO3": ("perovskite", ("La", "Al", "O"), 3.790),
    "BaTiO3": ("perovskite", ("Ba", "Ti", "O"), 4.000),
    "TiO2": ("rutile", ("Ti", "O"), 4.594, 2.959),
    "SnO2": ("rutile", ("Sn", "O"), 4.737, 3.186),
    "CeO2": ("fluorite", ("Ce", "O"), 5.411),
    "CaF2": ("fluorite", ("Ca", "F"), 5.463),
    "GaN": ("wurtzite", ("Ga", "N"), 3.189, 5.185),
}
"""Structure, elements, a and c [Å] at room temperature (Wyckoff, Crystal Structures; hcp: Kittel).
Perovskites in their cubic or pseudocubic form."""

BULKS = tuple(_CONSTANTS)
"""Names that `bulk` knows."""


def bulk(name: str, *, sigma: float = 0.08) -> Bulk:
    """A known crystal; ValueError with a suggestion where there is none."""
    if name not in _CONSTANTS:
        close = difflib.get_close_matches(name, BULKS, n=3, cutoff=0.4)
        hint = "Did you mean" if close else "There are"
        raise ValueError(
            f"no crystal {name!r}. {hint}: {', '.join(close or BULKS)}; make_bulk makes others"
        )
    structure, symbols, *sides = _CONSTANTS[name]
    return make_bulk(structure, symbols, *sides[:1], c=(sides[1:] or [None])[0], sigma=sigma)
