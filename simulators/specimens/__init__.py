"""Specimens: functions of a random key that return padded `Atoms`; `columns` gives exact labels.

>>> import jax
>>> atoms = SPECIMENS["graphene"](jax.random.key(0), (20.0, 30.0), n_max=300)   # (y, x) in Å
>>> int(columns(atoms).present.sum()) > 100
True

Every entry of `SPECIMENS` has the signature ``(key, extent, *, n_max, **options) -> Atoms`` and
works under `jit` and `vmap`. Entries of `SCENES` have the same arguments and return
``(Atoms, labels)``: what the family knows about itself, such as defects, orientation, strain.

>>> atoms, labels = SCENES["nanotube"](jax.random.key(0), (16.0, 16.0), n_max=300)
>>> round(float(labels.radius), 2) == round(tube(int(labels.n), int(labels.m)).radius, 2)
True

A new crystal is one line in `MATERIALS`; anything else is a function in a file of its own and a
line in `SCENES`. Perfect, periodic cells: `supercell`, `oriented` (any zone axis), `nanotube`.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from typing import Any

import jax

from simulators.atoms import Atoms
from simulators.specimens.amorphous import amorphous
from simulators.specimens.bulk import bulk, make_bulk
from simulators.specimens.columns import Columns, columns
from simulators.specimens.crystal import crystal
from simulators.specimens.dislocation import film_on_silicon
from simulators.specimens.generic import generic, generic_cells
from simulators.specimens.glass_interface import glass_interface
from simulators.specimens.interface import interface
from simulators.specimens.labels import KINDS, Sites
from simulators.specimens.lattice import Lattice, make_lattice, patch, supercell
from simulators.specimens.layers import graphene_layer, hbn_layer, mx2_layer
from simulators.specimens.materials import (
    MX2,
    diamond110,
    fcc001,
    graphene,
    hbn,
    mx2,
    perovskite,
    rutile001,
)
from simulators.specimens.nanotube import nanotube, random_nanotube, tube
from simulators.specimens.oriented import oriented
from simulators.specimens.particle import cluster, core_shell, particle
from simulators.specimens.random_crystal import Disorder, Material, material, random_crystal

__all__ = [
    "KINDS",
    "MATERIALS",
    "SCENES",
    "SPECIMENS",
    "Columns",
    "Disorder",
    "Lattice",
    "Material",
    "Sites",
    "bulk",
    "columns",
    "find_material",
    "generic",
    "generic_cells",
    "make_bulk",
    "make_lattice",
    "material",
    "nanotube",
    "oriented",
    "patch",
    "random_crystal",
    "supercell",
    "tube",
]


METAL_VACANCY = 0.2
"""Chance of a metal vacancy in a dichalcogenide, relative to one of its chalcogen."""


def _mx2(metal: str, chalcogen: str) -> Material:
    other = {"Mo": "W", "W": "Mo", "S": "Se", "Se": "S"}
    swaps = {metal: other[metal], chalcogen: other[chalcogen]}
    # a metal vacancy costs several eV more: Komsa et al., Phys. Rev. Lett. 109, 035503 (2012)
    chances = {metal: METAL_VACANCY, chalcogen: 1.0}
    return material(mx2(metal, chalcogen), vacancies=chances, substitutes=swaps)


MATERIALS: dict[str, Material] = {
    "graphene": material(graphene(), vacancies={"C": 1.0}, substitutes={"C": "Si"}),
    "hbn": material(hbn(), vacancies={"B": 1.0, "N": 1.0}, substitutes={"B": "C", "N": "C"}),
    **{f"{m.lower()}{x.lower()}2": _mx2(m, x) for m, x in MX2},
    "srtio3": material(perovskite("Sr", "Ti"), vacancies={"Sr": 1.0}),
    "silicon110": material(diamond110("Si"), vacancies={"Si": 1.0}),
    "gold001": material(fcc001("Au"), vacancies={"Au": 1.0}),
    "rutile001": material(rutile001("Ti"), vacancies={"Ti": 1.0}),
}
"""Crystals by name."""


def find_material(name: str) -> Material:
    """An entry of `MATERIALS`; ValueError with a suggestion where there is none."""
    if name not in MATERIALS:
        close = difflib.get_close_matches(name, MATERIALS, n=3, cutoff=0.4)
        hint = "Did you mean" if close else "There are"
        raise ValueError(f"no material {name!r}. {hint}: {', '.join(close or MATERIALS)}")
    return MATERIALS[name]


SPECIMENS: dict[str, Callable[..., Atoms]] = {
    name: functools.partial(
        lambda key, extent, material, **options: random_crystal(key, material, extent, **options),
        material=found,
    )
    for name, found in MATERIALS.items()
}
"""Random scenes by name."""


def _generic(
    key: jax.Array,
    extent: tuple[float, float],
    *,
    n_max: int,
    disorder: Disorder | None = None,
    cells: tuple[int, int] | None = None,
) -> Atoms:
    crystal, scene = jax.random.split(key)
    return random_crystal(
        scene,
        generic(crystal, elements=tuple(range(8, 81))),
        extent,
        n_max=n_max,
        disorder=disorder,
        cells=cells or generic_cells(extent),
    )


SPECIMENS["generic"] = _generic

SCENES: dict[str, Callable[..., tuple[Atoms, Any]]] = {
    "graphene_defects": graphene_layer,
    "hbn_defects": hbn_layer,
    "mx2_alloy": mx2_layer,
    "crystal": crystal,
    "particle": particle,
    "cluster": cluster,
    "core_shell": core_shell,
    "nanotube": random_nanotube,
    "interface": interface,
    "film_on_silicon": film_on_silicon,
    "amorphous": amorphous,
    "glass_interface": glass_interface,
}
"""Random scenes with their labels, by name."""


def _unlabelled(scene: Callable[..., tuple[Atoms, Any]]) -> Callable[..., Atoms]:
    return lambda key, extent, **options: scene(key, extent, **options)[0]


SPECIMENS.update({name: _unlabelled(scene) for name, scene in SCENES.items()})
