"""Scattering factors, potentials in real space, and tables of one's own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.electron import KAPPA
from simulators.grid import Grid
from simulators.potential import project
from simulators.scattering import (
    atomic_number,
    coefficients,
    radial_potential,
    radial_projected_potential,
    read_table,
    scattering_factor,
)

TABLES = ("lobato", "kirkland", "peng")


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ("C", (2.510, 2.511, 2.509)),
        ("Si", (5.836, 5.814, 5.818)),
        ("Cu", (5.601, 5.581, 5.588)),
        ("Au", (10.576, 10.553, 10.563)),
    ],
)
def test_three_independent_tables_agree_on_forward_scattering(element, expected):
    at_zero = [float(scattering_factor(element, 0.0, name)) for name in TABLES]
    np.testing.assert_allclose(at_zero, expected, atol=6e-4)
    assert max(at_zero) / min(at_zero) < 1.005


@pytest.mark.parametrize(
    ("element", "z", "share"), [("C", 6, 0.998), ("Si", 14, 0.984), ("Au", 79, 0.95)]
)
@pytest.mark.parametrize("table", ["lobato", "kirkland"])
def test_the_tail_is_rutherford_scattering_by_the_nucleus(element, z, share, table):
    # Mott & Bethe: f = (Z - f_x) / (2π² a₀ k²), and the x-ray factor f_x is gone at k = 12 1/Å
    bohr = 0.529177
    charge = 2 * np.pi**2 * bohr * 12.0**2 * scattering_factor(element, 144.0, table)
    assert charge / z == pytest.approx(share, abs=0.006)


@pytest.mark.parametrize(
    ("element", "lattice", "atoms", "volts"), [("Si", 5.431, 8, 13.954), ("Au", 4.078, 4, 29.865)]
)
def test_mean_inner_potential(element, lattice, atoms, volts, x64):
    # of neutral independent atoms: f(0) / κ per volume, and the mean of the projected slices
    expected = atoms * scattering_factor(element, 0.0) / KAPPA / lattice**3
    assert expected == pytest.approx(volts, abs=0.02)
    rng = np.random.default_rng(0)
    cell = make_atoms(
        rng.uniform(0, lattice, (atoms, 3)), [atomic_number(element)] * atoms, [lattice] * 3
    )
    potential = project(cell, Grid.over((lattice, lattice), shape=(40, 36)), 1.4)
    assert float(potential.slices.sum(0).mean()) / lattice == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("table", TABLES)
def test_real_space_and_reciprocal_space_are_one_potential(table):
    # f / κ = 4π ∫ V(r) r² sinc(2kr) dr, and the projection is ∫ V dz
    r = np.geomspace(1e-6, 30.0, 20001)
    for element in ("O", "Sr"):
        volts = radial_potential(element, r, table)
        for k in (0.0, 0.7, 3.0):
            integrand = 4 * np.pi * volts * r**2 * np.sinc(2 * k * r)
            total = np.trapezoid(integrand * r, np.log(r))
            expected = scattering_factor(element, k**2, table) / KAPPA
            assert total == pytest.approx(expected, rel=2e-4)
        z = np.linspace(-30, 30, 60001)
        line = np.trapezoid(radial_potential(element, np.hypot(0.3, z), table), z)
        assert line == pytest.approx(
            float(radial_projected_potential(element, 0.3, table)), rel=1e-6
        )


@pytest.mark.parametrize("table", TABLES)
def test_potentials_of_thirteen_elements_against_abtem(shared, table):
    data = np.load(shared / "data" / "abtem_refs" / "dev_constants.npz")
    for name, function in (
        ("potential", radial_potential),
        ("projected_potential", radial_projected_potential),
    ):
        made = np.stack([function(int(z), data["r"], table) for z in data["Z"]])
        reference = data[f"{table}_{name}"]
        assert np.abs(made - reference).max() / np.abs(reference).max() < 1e-7


def test_a_table_of_ones_own(tmp_path):
    rows = coefficients("Si", "kirkland")
    table = {"form": "kirkland", "source": "here", "elements": {"Si": rows.tolist()}}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(table))
    k2 = np.linspace(0, 20, 30)
    expected = scattering_factor("Si", k2, "kirkland")
    for given in (
        table,
        path,
        str(path),
        read_table(table),
        read_table({"Si": rows}, form="kirkland"),
    ):
        np.testing.assert_allclose(scattering_factor("Si", k2, given), expected, rtol=1e-14)
    atoms, grid = make_atoms([[1.0, 1, 1]], [14], [3.0, 3.0, 2.0]), Grid.over((3.0, 3.0), shape=24)
    for projection in ("infinite", "finite"):
        one, two = (
            project(atoms, grid, 1.0, projection=projection, parametrization=p).slices
            for p in ("kirkland", read_table(path))
        )
        np.testing.assert_allclose(one, two, rtol=1e-6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"elements": {"Si": [[1.0], [1.0]]}}, "must name its form"),
        ({"form": "peng", "elements": {}}, "has no elements"),
        ({"form": "peng", "elements": {"Sj": [[1.0], [1.0]]}}, "unknown element 'Sj'"),
        ({"form": "peng", "elements": {"Si": [1.0, 2.0]}}, r"shape \(2,\).*2 rows \(a, b\)"),
        ({"form": "kirkland", "elements": {"Si": [[1.0], [1.0]]}}, r"4 rows \(a, b, c, d\)"),
        ({"form": "peng", "elements": {"Si": [[1.0, 2.0], [1.0]]}}, "one number a term each"),
        ({"form": "lobato", "elements": {"Si": [[1.0], [-1.0]]}}, "b must be positive"),
        ({"form": "lobato", "elements": {"Si": [[np.nan], [1.0]]}}, "not finite"),
    ],
)
def test_bad_tables_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        read_table(table)


def test_what_a_table_does_not_have(tmp_path):
    with pytest.raises(ValueError, match=r"the user table has no Au \(it holds Si\)"):
        scattering_factor("Au", 0.0, {"form": "peng", "elements": {"Si": [[1.0], [1.0]]}})
    with pytest.raises(ValueError, match=r"peng table has no Es"):
        scattering_factor("Es", 0.0, "peng")
    with pytest.raises(ValueError, match="unknown parametrization 'doyle': choose one of lobato"):
        scattering_factor("Si", 0.0, "doyle")
    with pytest.raises(ValueError, match="not a int"):
        scattering_factor("Si", 0.0, 3)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match="is no JSON file"):
        read_table(broken)
