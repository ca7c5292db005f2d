"""Known materials as lattices: two-dimensional ones, and crystals along one zone axis.

Cells are rectangles (hexagonal ones doubled), so each can be a periodic supercell as well as a
rotated patch. Lattice constants: Materials Project and the papers named in the functions.
"""

from __future__ import annotations

from simulators.scattering import atomic_number
from simulators.specimens.lattice import Lattice, make_lattice

LAYER_DEPTH = 7.0
"""Depth of the cell of a single layer [Å]: the potential's tails fit in."""


def graphene(a: float = 2.46) -> Lattice:
    """Graphene; substitution brings in Si."""
    y = (0, 1 / 6, 1 / 2, 2 / 3)
    x = (0, 1 / 2, 1 / 2, 0)
    fractions = [(u, v, 0.5) for u, v in zip(x, y, strict=True)]
    return make_lattice((a, a * 3**0.5), fractions, ["C"] * 4, LAYER_DEPTH, elements=(14,))


def hbn(a: float = 2.504) -> Lattice:
    """Hexagonal boron nitride, one layer."""
    y = (0, 1 / 6, 1 / 2, 2 / 3)
    x = (0, 1 / 2, 1 / 2, 0)
    fractions = [(u, v, 0.5) for u, v in zip(x, y, strict=True)]
    return make_lattice((a, a * 3**0.5), fractions, ["B", "N"] * 2, LAYER_DEPTH)


MX2 = {
    ("Mo", "S"): (3.16, 1.56),
    ("W", "S"): (3.15, 1.57),
    ("Mo", "Se"): (3.29, 1.67),
    ("W", "Se"): (3.28, 1.68),
}
"""Lattice constant and height of the chalcogen above the metal [Å] of the 2H layers."""


def mx2(metal: str = "Mo", chalcogen: str = "S") -> Lattice:
    """One 2H layer of a transition-metal dichalcogenide; both chalcogens share a column.

    Substitution brings in the other metal and the other chalcogen of `MX2`.
    """
    if (metal, chalcogen) not in MX2:
        known = ", ".join(f"{m}{x}2" for m, x in MX2)
        raise ValueError(f"no layer {metal}{chalcogen}2 is known; there are {known}")
    a, dz = MX2[metal, chalcogen]
    h = dz / LAYER_DEPTH
    rows = []
    for u, v in ((0, 0), (1 / 2, 1 / 2)):
        rows.append(((u, v, 0.5), metal))
        w = (v + 1 / 3) % 1
        rows += [((u, w, 0.5 - h), chalcogen), ((u, w, 0.5 + h), chalcogen)]
    every = tuple(sorted({atomic_number(s) for pair in MX2 for s in pair}))
    fractions, symbols = zip(*rows, strict=True)
    return make_lattice(
        (a, a * 3**0.5), fractions, list(symbols), LAYER_DEPTH, sigma=0.06, elements=every
    )


def perovskite(a: str = "Sr", b: str = "Ti", lattice_constant: float = 3.905) -> Lattice:
    """Cubic ABO3 along [001]: columns of A, of B and O, and of O alone."""
    c = lattice_constant
    fractions = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return make_lattice((c, c), fractions, [a, b, "O", "O", "O"], c, sigma=0.085)


def diamond110(symbol: str = "Si", lattice_constant: float = 5.431) -> Lattice:
    """Diamond structure along [110]: dumbbells a/4 apart, in a cell of a/√2 by a."""
    a, s = lattice_constant, lattice_constant / 2**0.5
    fractions = [(0, 0, 0), (0, 0.25, 0.5), (0.5, 0.5, 0.5), (0.5, 0.75, 0)]
    return make_lattice((s, a), fractions, [symbol] * 4, s, sigma=0.076)


def rutile001(metal: str = "Ti", a: float = 4.594, c: float = 2.959, u: float = 0.305) -> Lattice:
    """Rutile MO2 along [001]: columns of the metal, and of O alone."""
    fractions = [
        (0, 0, 0),
        (0.5, 0.5, 0.5),
        (u, u, 0),
        (1 - u, 1 - u, 0),
        (0.5 + u, 0.5 - u, 0.5),
        (0.5 - u, 0.5 + u, 0.5),
    ]
    return make_lattice((a, a), fractions, [metal] * 2 + ["O"] * 4, c, sigma=0.08)


def fcc001(symbol: str = "Au", lattice_constant: float = 4.078) -> Lattice:
    """Face-centred cubic metal along [001]."""
    a = lattice_constant
    fractions = [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return make_lattice((a, a), fractions, [symbol] * 4, a, sigma=0.085)
