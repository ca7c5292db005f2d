"""Atoms: conversion, padding, and what bad structures are told."""

from __future__ import annotations

import ase
import ase.build
import ase.io
import jax
import numpy as np
import pytest

from simulators.atoms import Atoms, from_ase, make_atoms, pad, to_ase
from simulators.structures import read_atoms


def rock_salt() -> ase.Atoms:
    return ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True)


def test_round_trip_through_ase_keeps_everything():
    atoms = rock_salt()
    atoms.set_array("occupancies", np.linspace(0.3, 1.0, len(atoms)))
    there = from_ase(atoms, sigma=0.08)
    back = to_ase(there)
    np.testing.assert_allclose(back.positions, atoms.positions, atol=1e-12)
    assert str(back.symbols) == str(atoms.symbols)
    np.testing.assert_allclose(back.arrays["occupancies"], atoms.arrays["occupancies"])
    np.testing.assert_allclose(back.arrays["sigmas"], 0.08)
    assert there.elements == (11, 17)


@pytest.mark.parametrize("suffix", ["cif", "xyz"])
def test_structure_files(tmp_path, suffix):
    path = tmp_path / f"salt.{suffix}"
    ase.io.write(path, rock_salt())
    atoms = read_atoms(str(path))
    assert sorted(atoms.numbers) == sorted(rock_salt().numbers)
    np.testing.assert_allclose(atoms.cell, 5.64)


def test_a_file_that_is_no_structure(tmp_path):
    path = tmp_path / "broken.cif"
    path.write_text("this is not a crystal")
    with pytest.raises(ValueError, match="could not be read as a structure"):
        read_atoms(str(path))


def test_padding_adds_empty_rows():
    atoms = pad(from_ase(rock_salt()), 12)
    assert atoms.n == 12
    assert atoms.occupancy[8:].tolist() == [0, 0, 0, 0]
    assert len(to_ase(atoms)) == 8
    with pytest.raises(ValueError, match="do not fit into 4 rows"):
        pad(atoms, 4)


def test_atoms_are_a_pytree_with_static_elements():
    atoms = from_ase(rock_salt())
    leaves, structure = jax.tree_util.tree_flatten(atoms)
    assert len(leaves) == 5
    again = jax.tree_util.tree_unflatten(structure, leaves)
    assert isinstance(again, Atoms)
    assert again.elements == (11, 17)


def test_two_atoms_in_one_place_are_named():
    atoms = ase.Atoms("SiCO", [(1, 1, 1), (2, 2, 2), (1, 1, 1.02)], cell=[4, 4, 4], pbc=True)
    with pytest.raises(ValueError, match=r"atoms 0 \(Si\) and 2 \(O\) lie in one place"):
        from_ase(atoms)
    atoms.set_array("occupancies", np.array([0.5, 1.0, 0.5]))
    assert from_ase(atoms).n == 3, "a shared site is allowed"


def test_two_atoms_in_one_place_across_the_boundary():
    atoms = ase.Atoms("SiC", [(0, 1, 1), (4, 1, 1)], cell=[4, 4, 4], pbc=True)
    with pytest.raises(ValueError, match="in one place"):
        from_ase(atoms)


def test_atoms_outside_the_cell():
    atoms = ase.Atoms("SiC", [(1, 1, 1), (2, 5, 1)], cell=[4, 4, 4], pbc=False)
    with pytest.raises(ValueError, match=r"outside the cell in y, the first is atom 1"):
        from_ase(atoms)
    atoms.pbc = True
    assert from_ase(atoms).n == 2


def test_cells_that_cannot_be_used():
    with pytest.raises(ValueError, match="has no cell"):
        from_ase(ase.Atoms("Si", [(0, 0, 0)]))
    with pytest.raises(ValueError, match="not orthogonal"):
        from_ase(ase.build.bulk("Si"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": np.zeros((2, 2))}, r"must be \[n, 3\]"),
        ({"positions": np.full((2, 3), np.nan)}, "not finite"),
        ({"numbers": np.array([6])}, "numbers of shape"),
        ({"numbers": np.array([6, 300])}, "unknown element"),
        ({"cell": np.array([1.0, 0.0, 1.0])}, "positive"),
        ({"elements": ("C",), "numbers": np.array([6, 14])}, r"\['Si'\], which elements"),
    ],
)
def test_bad_arrays_are_refused(change, message):
    arguments = {
        "positions": np.array([[0.0, 0, 0], [1, 1, 1]]),
        "numbers": np.array([6, 6]),
        "cell": np.ones(3) * 4,
    }
    arguments |= change
    with pytest.raises(ValueError, match=message):
        make_atoms(**arguments)
