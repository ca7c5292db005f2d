"""Structure files with all they say of each atom: CIF, xyz, pdb and whatever else ASE reads.

`ase.io.read` keeps one of the elements that share a site of a CIF and none of the displacement
parameters. `read_structure` returns `ase.Atoms` with every site written out and three arrays that
`atoms.from_ase` and `atoms.to_ase` know:

| array | unit | from |
|---|---|---|
| "occupancies" | | CIF, pdb, Prismatic's xyz, muSTEM's xtl, extended xyz |
| "sigmas" | Å, per direction | U or B, isotropic or equivalent: σ² = U = B / 8π² |
| "tensors" | Å², Cartesian [3, 3] | U or B, anisotropic (CIF only) |

The cell is the file's own. A skewed one has to be orthogonalised before `from_ase` takes it.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from simulators.atoms import Atoms, from_ase

B_OVER_U = 8 * np.pi**2
"""B = 8π² U (Trueblood et al., Acta Cryst. A 52, 770, 1996)."""

LARGEST = 1.5
"""Å; a larger root-mean-square displacement is an error of the file."""

SAME_PLACE = 1e-3
"""Fractional coordinates closer than this are one site."""

_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


def read_atoms(path: str | os.PathLike, *, sigma: Any = None, thermal: bool = True) -> Atoms:
    """`Atoms` of a structure file, with its occupancies and displacements.

    Parameters
    ----------
    path : path
    sigma : float or float [n], optional
        Å per direction, instead of what the file says.
    thermal : bool
        False leaves the file's displacements out.

    Raises
    ------
    FileNotFoundError
    ValueError
        As of `read_structure` and `atoms.from_ase`; a skewed cell among them.
    """
    structure = read_structure(path)
    tensors = structure.arrays.pop("tensors", None)
    sigmas = structure.arrays.pop("sigmas", None)
    if sigma is None and thermal:
        if tensors is not None:
            structure.set_array("tensors", tensors)
        else:
            sigma = sigmas
    return from_ase(structure, sigma=sigma)


def read_structure(path: str | os.PathLike) -> Any:
    """`ase.Atoms` of a file, with "occupancies" and, where it has them, "sigmas" and "tensors".

    Raises
    ------
    FileNotFoundError
    ValueError
        A file that is no structure, or one with a displacement or an occupancy that cannot be.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        if path.suffix.lower() == ".cif":
            structure = _read_cif(path)
        else:
            import ase.io

            structure = ase.io.read(path)
    except Exception as error:  # ASE raises anything from KeyError to StopIteration here
        raise ValueError(f"{path} could not be read as a structure: {error!r}") from error
    if len(structure) == 0:
        raise ValueError(f"{path} holds no atoms")
    _name_arrays(structure)
    _check(structure, path)
    return structure


def _name_arrays(structure: Any) -> None:
    """What ASE's readers call occupancies and B factors, under our names and in our units."""
    arrays = structure.arrays
    if "occupancies" not in arrays:
        found = arrays.get("occupancy", np.ones(len(structure)))
        structure.set_array("occupancies", np.asarray(found, float))
    if "sigmas" not in arrays and "tensors" not in arrays:
        b = arrays.get("debye_waller_factors", arrays.get("bfactor"))
        if b is not None and np.any(b):
            structure.set_array("sigmas", _root(np.asarray(b, float) / B_OVER_U))


def _check(structure: Any, path: Path) -> None:
    occupancy = structure.arrays["occupancies"]
    wrong = ~((occupancy >= 0) & (occupancy <= 1 + 1e-6))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"{path}: atom {i} ({structure.symbols[i]}) has occupancy {occupancy[i]:g}, which must "
            "lie from 0 to 1"
        )
    sigma = structure.arrays.get("sigmas")
    if sigma is None:
        return
    wrong = ~((sigma >= 0) & (sigma < LARGEST))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"{path}: atom {i} ({structure.symbols[i]}) has a mean-square displacement that no "
            f"crystal has (sigma = {sigma[i]:g} Å): correct the file, or leave its displacements "
            "out with thermal=False"
        )


def _root(square: np.ndarray) -> np.ndarray:
    """Square root; NaN of negative numbers, which `_check` reports."""
    return np.sqrt(np.where(square < 0, np.nan, square))


def _read_cif(path: Path) -> Any:
    """The cell of a CIF with every site of every element, its occupancy and displacements."""
    import ase
    from ase.io.cif import parse_cif

    with path.open("rb") as file:
        block = next(block for block in parse_cif(file) if block.has_structure())
    sites = block.get_unsymmetrized_structure()
    n = len(sites)
    occupancy = _numbers(block.get("_atom_site_occupancy"), n, 1.0)
    displacement = _displacements(block, n, np.asarray(sites.cell))
    if sites.cell.rank < 3:
        raise ValueError("it has no cell")
    rotations, translations = (np.array(part) for part in zip(*_operations(block), strict=True))
    to_cartesian = np.asarray(sites.cell).T
    turns = to_cartesian @ rotations @ np.linalg.inv(to_cartesian)

    taken: list[tuple[str, np.ndarray, float]] = []
    numbers, places, shares, tensors = [], [], [], []
    for i, point in enumerate(sites.get_scaled_positions(wrap=False)):
        images = (rotations @ point + translations) % 1.0
        first = _distinct(images)
        symbol = str(sites.symbols[i])
        at_place = sum(share for s, orbit, share in taken if s == symbol and _near(point, orbit))
        if at_place + occupancy[i] > 1 + 1e-3 and at_place > 0:
            warnings.warn(
                f"{path.name}: site {i} ({symbol}) is a symmetry image of a site before it and was "
                "left out",
                stacklevel=4,
            )
            continue
        taken.append((symbol, images[first], float(occupancy[i])))
        numbers += [sites.numbers[i]] * len(first)
        places.append(images[first])
        shares += [occupancy[i]] * len(first)
        if displacement is not None:
            tensors.append(turns[first] @ displacement[i] @ turns[first].transpose(0, 2, 1))
    structure = ase.Atoms(numbers, cell=sites.cell, pbc=True)
    structure.set_scaled_positions(np.concatenate(places))
    structure.set_array("occupancies", np.array(shares, float))
    if displacement is not None:
        _set_displacements(structure, np.concatenate(tensors))
    return structure


def _operations(block: Any) -> list:
    return block.get_spacegroup(True).get_symop()


def _distinct(points: np.ndarray) -> list[int]:
    """Indices of the first of those points (fractional) that coincide."""
    kept: list[int] = []
    for i, point in enumerate(points):
        if not kept or not _near(point, points[kept]):
            kept.append(i)
    return kept


def _near(point: np.ndarray, others: np.ndarray) -> bool:
    gap = point - others
    return bool((np.abs(gap - np.rint(gap)) < SAME_PLACE).all(axis=1).any())


def _set_displacements(structure: Any, tensors: np.ndarray) -> None:
    """As tensors where one is anisotropic, as sigmas in any case."""
    mean = np.trace(tensors, axis1=1, axis2=2) / 3
    structure.set_array("sigmas", _root(mean))
    if np.abs(tensors - mean[:, None, None] * np.eye(3)).max() > 1e-9:
        structure.set_array("tensors", tensors)


def _displacements(block: Any, n: int, cell: np.ndarray) -> np.ndarray | None:
    """Cartesian U [n, 3, 3] in Å² of the sites of a CIF, or None where it has none.

    Anisotropic parameters go before isotropic ones. A CIF states U_ij along unit vectors of the
    reciprocal axes: <x_i x_j> = U_ij a*_i a*_j in fractional coordinates x (Trueblood et al.).
    """
    iso = np.full(n, np.nan)
    for tag, factor in (("_atom_site_b_iso_or_equiv", B_OVER_U), ("_atom_site_u_iso_or_equiv", 1)):
        found = _numbers(block.get(tag), n, np.nan) / factor
        iso = np.where(np.isnan(found), iso, found)
    tensors = np.nan_to_num(iso)[:, None, None] * np.eye(3)
    known = not np.isnan(iso).all()
    named = block.get("_atom_site_aniso_label")
    labels = [str(label) for label in block.get("_atom_site_label") or []]
    if named is not None and labels:
        lengths = np.linalg.norm(np.linalg.inv(cell), axis=0)  # of the reciprocal axes
        to_cartesian = cell.T * lengths
        named = [str(label) for label in (named if isinstance(named, list) else [named])]
        for letter, factor in (("b", B_OVER_U), ("u", 1)):
            tags = [f"_atom_site_aniso_{letter}_{i + 1}{j + 1}" for i, j in _PAIRS]
            columns = [_numbers(block.get(tag), len(named), np.nan) / factor for tag in tags]
            for label, values in zip(named, np.transpose(columns), strict=True):
                if np.isnan(values).any():
                    continue
                stated = np.zeros((3, 3))
                for (i, j), value in zip(_PAIRS, values, strict=True):
                    stated[i, j] = stated[j, i] = value
                for site in (k for k, other in enumerate(labels) if other == label):
                    tensors[site] = to_cartesian @ stated @ to_cartesian.T
                    known = True
    return tensors if known else None


def _numbers(column: Any, n: int, default: float) -> np.ndarray:
    """A CIF's column as floats; `default` for ".", "?" and what is not there."""
    if column is None:
        return np.full(n, default)
    values = column if isinstance(column, list) else [column]
    if len(values) != n:
        raise ValueError(f"a column has {len(values)} values for {n} sites")
    return np.array([v if isinstance(v, int | float) else default for v in values], float)
