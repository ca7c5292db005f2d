"""Single defects: what is removed, replaced and turned, and what rings that leaves."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from simulators.atoms import as_jax
from simulators.specimens import patch, supercell
from simulators.specimens.defects import remove, stone_wales, substitute, vacancy_line
from simulators.specimens.materials import graphene, mx2, perovskite


def changed(before, after):
    """Rows whose occupancy or element differ."""
    return np.flatnonzero(
        (np.asarray(before.occupancy) != np.asarray(after.occupancy))
        | (np.asarray(before.numbers) != np.asarray(after.numbers))
    )


def test_remove_takes_the_nearest_atoms():
    sheet = supercell(graphene(), (6, 4, 1))
    target = sheet.positions[17, :2]
    single = remove(sheet, tuple(target + 0.1))
    assert changed(sheet, single).tolist() == [17]
    assert single.occupancy[17] == 0
    assert sheet.occupancy[17] == 1, "the atoms given are left alone"
    double = remove(sheet, tuple(target), count=2)
    gone = changed(sheet, double)
    assert len(gone) == 2
    bond = sheet.positions[gone[0]] - sheet.positions[gone[1]]
    assert np.linalg.norm(bond) == pytest.approx(1.42, abs=2e-3)
    again = remove(single, tuple(target), count=1)
    assert len(changed(sheet, again)) == 2, "what is gone is not taken again"


def test_remove_looks_across_the_sides_of_the_cell():
    sheet = supercell(graphene(), (6, 4, 1))
    row = int(np.argmin(np.hypot(*sheet.positions[:, :2].T)))
    outside = sheet.positions[row, :2] + sheet.cell[:2] * [1, -1]
    assert changed(sheet, remove(sheet, tuple(outside))).tolist() == [row]


def test_one_chalcogen_or_both():
    layer = supercell(mx2("Mo", "S"), (5, 3, 1))
    at = tuple(layer.positions[np.flatnonzero(layer.numbers == 16)[8], :2])
    for count, left in ((1, 1), (2, 0)):
        damaged = remove(layer, at, symbol="S", count=count)
        here = np.hypot(*(damaged.positions[:, :2] - at).T) < 0.1
        assert (damaged.occupancy[here] > 0).sum() == left
        assert (damaged.occupancy > 0).sum() == layer.n - count


def test_substitute_by_element():
    layer = supercell(mx2("Mo", "S"), (5, 3, 1))
    at = (6.0, 7.0)
    doped = substitute(layer, at, "Re", symbol="Mo")
    (row,) = changed(layer, doped)
    metals = np.flatnonzero(layer.numbers == 42)
    nearest = metals[np.argmin(np.hypot(*(layer.positions[metals, :2] - at).T))]
    assert row == nearest
    assert doped.numbers[row] == 75
    assert 75 in doped.elements
    assert set(layer.elements) < set(doped.elements)
    both = substitute(layer, at, "Se", symbol="S", count=2)
    rows = changed(layer, both)
    assert len(rows) == 2
    assert np.ptp(layer.positions[rows, :2], axis=0).max() < 1e-9, "the two of one column"
    with pytest.raises(ValueError, match="the specimen has no Au"):
        substitute(layer, at, "C", symbol="Au")


def rings(atoms, bond=1.65):
    """Number of atoms round each face of a periodic net, by walking along its bonds."""
    xy, sides = np.asarray(atoms.positions)[:, :2], np.asarray(atoms.cell)[:2]
    apart = xy[None] - xy[:, None]
    apart -= sides * np.round(apart / sides)
    length = np.hypot(apart[..., 0], apart[..., 1])
    near = [np.flatnonzero((row > 0) & (row < bond)) for row in length]
    assert {len(n) for n in near} == {3}
    # from a to b, and there always on by the sharpest turn to the left, closes one face
    onward = {}
    for b, neighbours in enumerate(near):
        angle = {c: np.arctan2(apart[b, c, 1], apart[b, c, 0]) for c in neighbours}
        for a in neighbours:
            turn = {c: (angle[a] - angle[c]) % (2 * np.pi) for c in neighbours if c != a}
            onward[int(a), b] = (b, int(min(turn, key=turn.get)))
    sizes = []
    while onward:
        start = step = next(iter(onward))
        size = 0
        while step in onward:
            step, size = onward.pop(step), size + 1
        assert step == start
        sizes.append(size)
    return np.bincount(sizes, minlength=9).tolist(), length[length > 0].min()


def test_stone_wales_makes_two_pentagons_and_two_heptagons():
    sheet = supercell(graphene(), (8, 5, 1))
    assert rings(sheet)[0][6] == sheet.n // 2
    turned = stone_wales(sheet, (9.0, 10.0))
    assert turned.n == sheet.n
    assert (np.asarray(turned.occupancy) == 1).all()
    sizes, closest = rings(turned)
    assert (sizes[5], sizes[7]) == (2, 2)
    assert sizes[6] == sheet.n // 2 - 4
    assert closest > 1.2


def test_stone_wales_turns_the_bond_that_is_pointed_at():
    sheet = supercell(graphene(), (8, 5, 1))
    middle = int(np.argmin(np.hypot(*(sheet.positions[:, :2] - sheet.cell[:2] / 2).T)))
    apart = sheet.positions[:, :2] - sheet.positions[middle, :2]
    bonded = np.flatnonzero(np.abs(np.hypot(*apart.T) - 1.42) < 0.01)
    assert len(bonded) == 3
    for other in bonded:
        pair = sheet.positions[[middle, other], :2]
        turned = stone_wales(sheet, tuple(pair.mean(0) + 0.05))
        moved = np.abs(turned.positions - sheet.positions).max(1) > 1e-9
        assert np.flatnonzero(moved).tolist() == sorted([middle, other])
        new = turned.positions[[middle, other], :2]
        np.testing.assert_allclose(new.mean(0), pair.mean(0), atol=1e-9)
        assert np.dot(new[1] - new[0], pair[1] - pair[0]) == pytest.approx(0, abs=1e-9)
        assert np.linalg.norm(new[1] - new[0]) == pytest.approx(1.4203, abs=1e-4)


def test_stone_wales_across_the_sides_of_the_cell():
    sheet = supercell(graphene(), (8, 5, 1))
    sizes, _ = rings(stone_wales(sheet, (0.0, 0.0)))
    assert (sizes[5], sizes[7]) == (2, 2)


def test_lines_of_vacancies_take_whole_columns():
    layer = supercell(mx2("Mo", "S"), (8, 3, 1))
    start = layer.positions[np.flatnonzero(layer.numbers == 16)[4], :2]
    line = vacancy_line(layer, tuple(start), (3.16, 0.0), 4, "S")
    gone = changed(layer, line)
    assert len(gone) == 8
    assert (np.asarray(layer.numbers)[gone] == 16).all()
    x = np.unique(np.round(layer.positions[gone, 0], 6))
    np.testing.assert_allclose(np.diff(x), 3.16, atol=1e-6)
    np.testing.assert_allclose(layer.positions[gone, 1], start[1], atol=1e-9)
    strontium = vacancy_line(supercell(perovskite(), (4, 4, 3)), (0.0, 0.0), (3.905, 0), 2, "Sr")
    assert (np.asarray(strontium.occupancy) == 0).sum() == 6


def test_compiled_atoms_can_be_given():
    # as `patch` returns them: float32 JAX arrays with padding rows
    atoms, _ = patch(graphene(), (12.0, 12.0), n_max=80)
    assert isinstance(atoms.positions, jax.Array)
    there = int((atoms.occupancy > 0).sum())
    assert int((remove(atoms, (6.0, 6.0)).occupancy > 0).sum()) == there - 1
    turned = stone_wales(atoms, (6.0, 6.0))
    assert (np.abs(turned.positions - np.asarray(atoms.positions)).max(1) > 1e-3).sum() == 2
    line = vacancy_line(as_jax(atoms), (3.0, 6.0), (2.46, 0.0), 3, "C")
    assert int((line.occupancy > 0).sum()) == there - 3
