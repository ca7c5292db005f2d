"""Glass on a crystal: what lies where, and how rough the interface is."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from simulators.specimens.glass_interface import glass_interface

EXTENT, ROWS, DRAWS = (20.0, 16.0), 460, 40


@functools.cache
def scenes():
    one = functools.partial(glass_interface, extent=EXTENT, n_max=ROWS)
    keys = jax.random.split(jax.random.key(3), DRAWS)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))


def test_the_line_divides_crystal_and_glass():
    atoms, labels = scenes()
    x = np.linspace(0, EXTENT[1], labels.line.shape[1])
    for i in range(DRAWS):
        there = atoms.occupancy[i] > 0
        line = np.interp(atoms.positions[i, :, 0], x, labels.line[i])
        above = atoms.positions[i, :, 1] >= line
        clear = there & (np.abs(atoms.positions[i, :, 1] - line) > 0.05)  # of the interpolation
        np.testing.assert_array_equal(above[clear], labels.glass[i][clear])
        assert set(atoms.numbers[i][there & ~labels.glass[i]]) == {6, 14}
        assert set(atoms.numbers[i][there & labels.glass[i]]) == {8, 14}
    spread = labels.line[:, :-1].std(axis=1)  # one period
    np.testing.assert_allclose(spread, labels.roughness, rtol=1e-3, atol=1e-4)


def test_densities_of_both_sides():
    atoms, labels = scenes()
    x = np.linspace(0, EXTENT[1], labels.line.shape[1])
    found = {"glass": [0, 0.0], "crystal": [0, 0.0]}
    for i in range(DRAWS):
        y = atoms.positions[i, :, 1]
        line = np.interp(atoms.positions[i, :, 0], x, labels.line[i])
        there, area = atoms.occupancy[i] > 0, EXTENT[1] * 8.0
        far = y - line
        # away from the interface by more than a bond
        found["glass"][0] += (there & (far > 2)).sum()
        found["glass"][1] += (EXTENT[0] - labels.line[i].mean() - 2) * area
        found["crystal"][0] += (there & (far < 0)).sum()
        found["crystal"][1] += labels.line[i].mean() * area
    glass, crystal = (n / volume for n, volume in found.values())
    assert glass == pytest.approx(0.0662, rel=0.03)  # 2.2 g/cm³ of SiO2
    assert crystal == pytest.approx(8 / 4.36**3, rel=0.03)


def test_the_crystal_lies_as_asked():
    atoms, labels = scenes()
    # SiC seen along [110] with [1-10] along x: rows every a/(2√2) in x, a/4 in y
    place = atoms.positions[0][(atoms.occupancy[0] > 0) & ~labels.glass[0]]
    for axis, step in ((0, 4.36 / 2**1.5), (1, 4.36 / 4)):
        phase = np.exp(2j * np.pi * place[:, axis] / step)
        assert abs(phase.mean()) > 0.999


def test_what_is_refused():
    with pytest.raises(ValueError, match="no amorphous material"):
        glass_interface(jax.random.key(0), EXTENT, n_max=10, glass="ice")
    with pytest.raises(ValueError, match="roughness"):
        glass_interface(jax.random.key(0), EXTENT, n_max=10, roughness=(2.0, 1.0))
