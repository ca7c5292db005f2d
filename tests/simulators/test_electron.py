"""Wavelength, interaction constant and scattering factors against published numbers."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

import simulators.aberrations
import simulators.electron
import simulators.scattering
from simulators.electron import KAPPA, interaction_constant, wavelength
from simulators.scattering import scattering_factor


@pytest.mark.parametrize(
    ("kilovolt", "angstrom", "sigma"),
    [
        (60, 0.04866060, 1.1356905e-3),
        (80, 0.04175716, 1.0087066e-3),
        (100, 0.03701437, 0.9243958e-3),
        (200, 0.02507934, 0.7288401e-3),
        (300, 0.01968749, 0.6526162e-3),
    ],
)
def test_wavelength_and_interaction_constant(kilovolt, angstrom, sigma):
    assert wavelength(kilovolt * 1e3) == pytest.approx(angstrom, rel=2e-7)
    assert interaction_constant(kilovolt * 1e3) == pytest.approx(sigma, rel=1e-7)


@pytest.mark.parametrize(
    "module", [simulators.aberrations, simulators.electron, simulators.scattering]
)
def test_the_numbers_in_the_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_an_energy_in_kilovolt_is_refused():
    with pytest.raises(ValueError, match="in eV"):
        wavelength(80.0)


@pytest.mark.parametrize(
    ("element", "lobato", "kirkland", "peng"),
    [("C", 2.510, 2.511, 2.509), ("Si", 5.836, 5.814, 5.818), ("Au", 10.576, 10.553, 10.563)],
)
def test_three_tables_at_zero_angle(element, lobato, kirkland, peng):
    for table, value in (("lobato", lobato), ("kirkland", kirkland), ("peng", peng)):
        assert scattering_factor(element, 0.0, table) == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize("table", ["lobato", "kirkland"])
@pytest.mark.parametrize(("element", "z", "share"), [("C", 6, 0.998), ("Si", 14, 0.984)])
def test_rutherford_tail(table, element, z, share):
    bohr = 0.529177
    k2 = 144.0
    tail = 2 * np.pi**2 * bohr * k2 * scattering_factor(element, k2, table) / z
    assert tail == pytest.approx(share, abs=0.02)


def test_mean_inner_potential_of_silicon():
    # 8 atoms in a cell of 5.431 Å; f(0) / KAPPA is the atom's integral of V, in V Å³
    assert 8 * scattering_factor("Si", 0.0) / KAPPA / 5.431**3 == pytest.approx(13.954, abs=2e-3)


@pytest.mark.parametrize("element", ["Xx", "X", 0, 119, -3])
def test_an_unknown_element_is_named(element):
    with pytest.raises(ValueError, match="unknown element"):
        scattering_factor(element, 0.0)


def test_an_element_that_the_table_lacks():
    with pytest.raises(ValueError, match="peng table has no No"):
        scattering_factor("No", 0.0, "peng")
    with pytest.raises(ValueError, match="choose one of"):
        scattering_factor("C", 0.0, "doyle")
