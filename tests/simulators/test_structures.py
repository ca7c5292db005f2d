"""Structure files: shared sites, occupancies, displacement parameters of every kind."""

from __future__ import annotations

import ase
import ase.build
import ase.io
import numpy as np
import pytest

from simulators.atoms import from_ase, to_ase
from simulators.structures import read_atoms, read_structure

B_OVER_U = 8 * np.pi**2

HEAD = """data_test
_cell_length_a {0[0]}
_cell_length_b {0[1]}
_cell_length_c {0[2]}
_cell_angle_alpha {0[3]}
_cell_angle_beta {0[4]}
_cell_angle_gamma {0[5]}
_symmetry_space_group_name_H-M '{1}'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_{2}
"""

ANISO = """loop_
_atom_site_aniso_label
""" + "".join(f"_atom_site_aniso_{{0}}_{i}\n" for i in (11, 22, 33, 12, 13, 23))

CUBE = (3.905, 3.905, 3.905, 90, 90, 90)
HEXAGON = (3.0, 3.0, 5.0, 90, 90, 120)


def cif(tmp_path, rows: str, *, cell=CUBE, group="P m -3 m", kind="u_iso_or_equiv", aniso=""):
    path = tmp_path / "x.cif"
    path.write_text(HEAD.format(cell, group, kind) + rows + aniso)
    return path


PEROVSKITE = """Sr1 Sr 0 0 0 0.7 0.0080(3)
La1 La 0 0 0 0.3 0.0080(3)
Ti1 Ti 0.5 0.5 0.5 1 0.005
O1 O 0.5 0.5 0 0.95 ?
"""


def test_elements_that_share_a_site_are_both_there(tmp_path):
    atoms = read_atoms(cif(tmp_path, PEROVSKITE))
    assert dict(zip(*np.unique(atoms.numbers, return_counts=True), strict=True)) == {
        38: 1,
        57: 1,
        22: 1,
        8: 3,
    }
    of = {z: atoms.numbers == z for z in (38, 57, 22, 8)}
    assert [atoms.occupancy[of[z]][0] for z in (38, 57, 22, 8)] == [0.7, 0.3, 1.0, 0.95]
    np.testing.assert_allclose(atoms.positions[of[38]], atoms.positions[of[57]])
    assert atoms.sigma[of[38]] == pytest.approx(np.sqrt(0.008))
    assert atoms.sigma[of[22]] == pytest.approx(np.sqrt(0.005))
    assert (atoms.sigma[of[8]] == 0).all(), "a question mark is no displacement"
    assert atoms.tensor is None
    np.testing.assert_allclose(atoms.cell, 3.905)


def test_the_callers_displacements_go_first(tmp_path):
    path = cif(tmp_path, PEROVSKITE)
    assert (read_atoms(path, sigma=0.1).sigma == 0.1).all()
    assert (read_atoms(path, thermal=False).sigma == 0).all()


def test_b_factors(tmp_path):
    rows = "Au1 Au 0 0 0 1 0.63\n"
    path = cif(
        tmp_path, rows, cell=(4.08,) * 3 + (90,) * 3, group="F m -3 m", kind="b_iso_or_equiv"
    )
    atoms = read_atoms(path)
    assert atoms.n == 4
    np.testing.assert_allclose(atoms.sigma, np.sqrt(0.63 / B_OVER_U))
    np.testing.assert_allclose(atoms.sigma, 0.0893, atol=1e-4)


@pytest.mark.parametrize(("letter", "factor"), [("U", 1.0), ("B", B_OVER_U)])
def test_symmetry_turns_displacements_with_the_sites(tmp_path, letter, factor):
    """Oxygen of a perovskite is soft across its bond: which direction that is differs by site."""
    values = " ".join(str(u * factor) for u in (0.02, 0.02, 0.005, 0, 0, 0))
    aniso = ANISO.format(letter) + f"O1 {values}\n"
    atoms = read_atoms(cif(tmp_path, PEROVSKITE, aniso=aniso))
    oxygen = np.flatnonzero(atoms.numbers == 8)
    bonds = {}
    for i in oxygen:
        stiff = int(np.argmin(np.diag(atoms.tensor[i])))
        bond = int(np.argmin(atoms.positions[i]))  # titanium is in the middle of the cube
        bonds[stiff] = bond
        np.testing.assert_allclose(np.sort(np.diag(atoms.tensor[i])), [0.005, 0.02, 0.02])
        np.testing.assert_allclose(atoms.tensor[i], np.diag(np.diag(atoms.tensor[i])), atol=1e-12)
    assert bonds == {0: 0, 1: 1, 2: 2}, "stiff along the bond to titanium"
    titanium = np.flatnonzero(atoms.numbers == 22)[0]
    np.testing.assert_allclose(atoms.tensor[titanium], 0.005 * np.eye(3), atol=1e-12)


def test_oblique_axes(tmp_path):
    """In a hexagonal cell isotropic motion has U12 = U11 / 2: axes of a CIF are not orthogonal."""
    rows = "Mg1 Mg 0.333333 0.666667 0.25 1 .\n"
    aniso = ANISO.format("U") + "Mg1 0.01 0.01 0.01 0.005 0 0\n"
    path = cif(tmp_path, rows, cell=HEXAGON, group="P 63/m m c", aniso=aniso)
    structure = read_structure(path)
    assert len(structure) == 2
    assert "tensors" not in structure.arrays
    np.testing.assert_allclose(structure.arrays["sigmas"], 0.1, rtol=1e-9)
    aniso = ANISO.format("U") + "Mg1 0.01 0.01 0.03 0.005 0 0\n"
    structure = read_structure(cif(tmp_path, rows, cell=HEXAGON, group="P 63/m m c", aniso=aniso))
    for tensor in structure.arrays["tensors"]:
        np.testing.assert_allclose(tensor, np.diag([0.01, 0.01, 0.03]), atol=1e-9)
    np.testing.assert_allclose(structure.arrays["sigmas"], np.sqrt(0.05 / 3))
    with pytest.raises(ValueError, match="not orthogonal"):
        read_atoms(path)


def test_asymmetric_units_make_the_crystal_that_ase_makes(tmp_path):
    rows = "Si1 Si 0.4697 0 0.66667 1 0.01\nO1 O 0.4135 0.2669 0.7858 1 0.02\n"
    path = cif(tmp_path, rows, cell=(4.916, 4.916, 5.4054, 90, 90, 120), group="P 32 2 1")
    ours, theirs = read_structure(path), ase.io.read(path)
    assert sorted(ours.symbols) == sorted(theirs.symbols)
    assert len(ours) == 9
    for atom in ours:
        gap = theirs.get_scaled_positions() - ours.get_scaled_positions()[atom.index]
        near = np.abs(gap - np.rint(gap)).max(axis=1)
        assert theirs.symbols[int(np.argmin(near))] == atom.symbol
        assert near.min() < 1e-6
    np.testing.assert_allclose(ours.arrays["sigmas"][ours.numbers == 8], np.sqrt(0.02))


def test_a_site_that_is_listed_twice(tmp_path):
    rows = "O1 O 0.5 0.5 0 1 0.01\nO2 O 0.5 0 0.5 1 0.01\n"
    with pytest.warns(UserWarning, match=r"site 1 \(O\) is a symmetry image of a site before it"):
        assert len(read_structure(cif(tmp_path, rows))) == 3


def test_protein_data_bank_files(tmp_path):
    atoms = ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.set_array("occupancy", np.linspace(0.3, 1, 8))
    atoms.set_array("bfactor", np.linspace(0.5, 2, 8))
    ase.io.write(tmp_path / "x.pdb", atoms)
    found = read_atoms(tmp_path / "x.pdb")
    np.testing.assert_allclose(found.occupancy, np.linspace(0.3, 1, 8), atol=0.006)
    np.testing.assert_allclose(found.sigma**2 * B_OVER_U, np.linspace(0.5, 2, 8), atol=0.006)


def test_prismatic_and_extended_xyz(tmp_path):
    atoms = ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.set_array("occupancies", np.linspace(0.3, 1, 8))
    atoms.set_array("debye_waller_factors", np.full(8, 0.5))
    ase.io.write(tmp_path / "p.xyz", atoms, format="prismatic")
    structure = ase.io.read(tmp_path / "p.xyz", format="prismatic")
    ase.io.write(tmp_path / "e.xyz", structure, format="extxyz")
    found = read_atoms(tmp_path / "e.xyz")
    np.testing.assert_allclose(found.occupancy, np.linspace(0.3, 1, 8), atol=1e-6)
    np.testing.assert_allclose(found.sigma, np.sqrt(0.5 / B_OVER_U), rtol=1e-5)

    ours = from_ase(atoms, sigma=0.07)
    ase.io.write(tmp_path / "ours.xyz", to_ase(ours), format="extxyz")
    again = read_atoms(tmp_path / "ours.xyz")
    np.testing.assert_allclose(again.positions, ours.positions, atol=1e-7)
    np.testing.assert_allclose(again.sigma, 0.07)
    np.testing.assert_allclose(again.occupancy, ours.occupancy, atol=1e-7)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("Sr1 Sr 0 0 0 1.2 0.01\n", r"atom 0 \(Sr\) has occupancy 1.2, which must lie from 0 to 1"),
        ("Sr1 Sr 0 0 0 1 -0.01\n", r"atom 0 \(Sr\) has a mean-square displacement that no"),
        ("Sr1 Sr 0 0 0 1 8.0\n", "thermal=False"),
        ("", "could not be read as a structure"),
    ],
)
def test_files_that_cannot_be(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_atoms(cif(tmp_path, rows))


def test_files_without_a_structure(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_structure(tmp_path / "none.cif")
    (tmp_path / "x.pdb").write_text("nothing")
    with pytest.raises(ValueError, match=r"x\.pdb holds no atoms"):
        read_structure(tmp_path / "x.pdb")
    ase.io.write(tmp_path / "molecule.xyz", ase.build.molecule("H2O"))
    with pytest.raises(ValueError, match="has no cell"):
        read_atoms(tmp_path / "molecule.xyz")
