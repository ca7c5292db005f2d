"""Bulk crystals and orthogonal cells along any zone axis: no atom is lost, none comes too near."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from simulators.specimens import bulk, make_bulk, oriented
from simulators.specimens.bulk import BULKS
from simulators.specimens.cut import cloud, translations
from simulators.specimens.oriented import along, frame

ONE_OF_EACH = ("Au", "Fe", "Mg", "Si", "GaAs", "MgO", "SrTiO3", "TiO2", "CeO2", "GaN")


def nearest(atoms):
    """Distance of the nearest neighbours of all atoms, periodic, Å."""
    shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3))) * atoms.cell
    every = (atoms.positions[:, None] + shifts[None]).reshape(-1, 3)
    return cKDTree(every).query(atoms.positions, k=2)[0][:, 1]


def bond(crystal):
    points, _ = cloud(crystal.cell, crystal.positions, 9.0)
    return cKDTree(points).query(crystal.positions, k=2)[0][:, 1].min()


def check(crystal, zone, atoms, label):
    """The number of atoms, the composition and the least distance are those of the crystal."""
    repeats = round(atoms.n / (label.primitive_cells * len(crystal.numbers)))
    assert atoms.n == repeats * label.primitive_cells * len(crystal.numbers)
    volume = atoms.cell.prod() / crystal.volume
    stretched = np.linalg.det(np.eye(3) + label.strain)
    assert volume == pytest.approx(
        repeats * label.primitive_cells * stretched, rel=1e-9 + label.misfit**2
    )
    kinds, counts = np.unique(atoms.numbers, return_counts=True)
    expected = np.unique(crystal.numbers, return_counts=True)
    np.testing.assert_array_equal(kinds, expected[0])
    np.testing.assert_array_equal(counts, expected[1] * repeats * label.primitive_cells)
    assert (atoms.positions >= 0).all()
    assert (atoms.positions < atoms.cell).all()
    assert nearest(atoms).min() >= bond(crystal) * (1 - label.misfit) - 1e-9
    # the zone axis is along the beam
    axis = label.rotation @ (np.asarray(zone) @ crystal.axes)
    np.testing.assert_allclose(axis / np.linalg.norm(axis), [0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(label.rotation @ label.rotation.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("zone", [(0, 0, 1), (1, 1, 0), (1, 1, 1), (2, 1, 1), (1, 2, 3)])
def test_no_atom_is_lost(name, zone):
    crystal = bulk(name)
    atoms, label = oriented(crystal, zone)
    check(crystal, zone, atoms, label)
    assert label.misfit <= 0.02


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["Au", "Fe", "Si", "SrTiO3", "CeO2"]),
    zone=st.tuples(*[st.integers(-3, 3)] * 3),
)
def test_cubic_crystals_need_no_strain_along_any_axis(name, zone):
    assume(any(zone))
    crystal = bulk(name)
    atoms, label = oriented(crystal, zone)
    check(crystal, zone, atoms, label)
    assert label.misfit < 1e-9


def test_the_strain_is_what_was_done():
    crystal = bulk("Mg")
    atoms, label = oriented(crystal, (1, 2, 3))
    assert 1e-3 < label.misfit < 0.02
    unstrained = label.vectors @ crystal.cell @ label.rotation.T
    stretched = unstrained @ (np.eye(3) + label.strain)
    np.testing.assert_allclose(stretched, np.diag(atoms.cell), atol=label.misfit * 40)
    with pytest.raises(ValueError, match="no orthogonal cell of hcp along"):
        oriented(crystal, (1, 2, 3), tolerance=1e-4)


def test_known_cells():
    gold, label = oriented(bulk("Au"), (1, 1, 0), across=(0, 0, 1))
    np.testing.assert_allclose(gold.cell, [4.078, 4.078 / 2**0.5, 4.078 / 2**0.5])
    np.testing.assert_allclose(label.directions, [[0, 0, 1], [0.5, -0.5, 0], [0.5, 0.5, 0]])
    assert gold.n == 2
    twice, _ = oriented(bulk("Au"), (1, 1, 0), across=(0, 0, 1), repeats=(2, 3, 1))
    assert twice.n == 12
    np.testing.assert_allclose(twice.cell, gold.cell * [2, 3, 1])
    np.testing.assert_allclose(nearest(twice), 4.078 / 2**0.5)


def test_the_same_bonds_as_ase():
    from ase.build import bulk as of_ase

    for name, (structure, options) in {
        "Au": ("fcc", {"a": 4.078}),
        "Fe": ("bcc", {"a": 2.866}),
        "Mg": ("hcp", {"a": 3.209, "c": 5.211}),
        "Si": ("diamond", {"a": 5.431}),
        "MgO": ("rocksalt", {"a": 4.212}),
        "CeO2": ("fluorite", {"a": 5.411}),
        "GaN": ("wurtzite", {"a": 3.189, "c": 5.185}),
    }.items():
        theirs, ours = of_ase(name, structure, **options), bulk(name)
        assert len(theirs) == len(ours.numbers)
        assert theirs.get_volume() == pytest.approx(ours.volume)
        lengths = [
            np.sort(np.linalg.norm(cloud(cell, positions, 8.0)[0][:, None], axis=-1).ravel())
            for cell, positions in (
                (np.array(theirs.cell), theirs.positions),
                (ours.cell, ours.positions),
            )
        ]
        np.testing.assert_allclose(lengths[0], lengths[1], atol=2e-2)  # wurtzite: u is not fixed


def test_every_known_crystal_has_sensible_bonds():
    for name in BULKS:
        assert 1.5 < bond(bulk(name)) < 3.3


def test_translations_are_complete():
    cell = np.array([[3.0, 0, 0], [2.9, 1.0, 0], [0, 2.0, 2.5]])
    wide = np.array(list(itertools.product(range(-25, 26), repeat=3)))
    expected = (np.linalg.norm(wide @ cell, axis=1) <= 8).sum()
    assert len(translations(cell, 8.0)) == expected


def test_a_frame_is_a_rotation():
    for zone in ((0, 0, 1), (1, 1, 0), (2, -1, 3)):
        turn = frame(bulk("Ti"), zone)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(turn) == pytest.approx(1)


def test_shortest_vector_along_a_direction():
    np.testing.assert_allclose(along(bulk("Au"), (2, 2, 0)) @ bulk("Au").cell, [2.039, 2.039, 0])


@pytest.mark.parametrize(
    ("zone", "message"),
    [
        ((0, 0, 0), r"\(0, 0, 0\) is no direction"),
        ((1, 1), "must be three integers"),
        ((1.5, 0, 0), "must be three integers"),
    ],
)
def test_zone_axes_that_are_none(zone, message):
    with pytest.raises(ValueError, match=message):
        oriented(bulk("Au"), zone)


def test_other_requests_that_make_no_sense():
    with pytest.raises(ValueError, match="parallel to the zone axis"):
        oriented(bulk("Au"), (1, 1, 0), across=(1, 1, 0))
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        oriented(bulk("Au"), (1, 1, 0), repeats=(1, 0, 1))
    with pytest.raises(ValueError, match="raise max_side"):
        oriented(bulk("Au"), (1, 2, 3), max_side=5.0, tolerance=0.0)
    with pytest.raises(
        ValueError, match=r"no crystal structure 'perovskit'. Did you mean: perovskite"
    ):
        make_bulk("perovskit", ("Sr", "Ti", "O"), 3.9)
    with pytest.raises(ValueError, match=r"no crystal 'SrTiO'. Did you mean: SrTiO3"):
        bulk("SrTiO")
    with pytest.raises(ValueError, match="perovskite has 3 kinds of atoms"):
        make_bulk("perovskite", ("Sr", "Ti"), 3.9)
    with pytest.raises(ValueError, match="must be positive"):
        make_bulk("fcc", ("Au",), -4.0)
