"""Labels that go with a scene: what every site of the perfect crystal has become."""

from __future__ import annotations

from typing import Any

from simulators.tree import pytree

KINDS = ("none", "regular", "vacancy", "substitution", "antisite", "stone_wales")
"""What `Sites.kind` counts: a padding row, the perfect crystal's atom, and the point defects."""

KIND = {name: i for i, name in enumerate(KINDS)}


@pytree
class Sites:
    """Sites of a crystal; row i belongs to row i of the atoms, whose row is empty at a vacancy.

    Attributes
    ----------
    xyz : float [n, 3]
        Where the site is, Å; of a vacancy where the atom would be.
    kind : int [n]
        Index into `KINDS`.
    ideal : int [n]
        Atomic number in the perfect crystal; 0 in padding rows.
    """

    xyz: Any
    kind: Any
    ideal: Any
