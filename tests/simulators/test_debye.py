"""Thermal displacements from the Debye model."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy.integrate import quad

from simulators.debye import (
    DEBYE_TEMPERATURES,
    B_to_sigma,
    debye_phi,
    debye_sigma,
    sigma_to_B,
)


@pytest.mark.parametrize("x", [0.01, 0.5, 2.0, 10.0, 60.0, 300.0])
def test_the_debye_integral(x):
    exact = quad(lambda t: t / np.expm1(t), 0, min(x, 80.0), epsabs=1e-13)[0] / x
    assert float(debye_phi(x)) == pytest.approx(exact, rel=1e-9)


def test_names_of_one_number():
    assert B_to_sigma(0.5) == pytest.approx(0.0795775, rel=1e-5)
    assert sigma_to_B(B_to_sigma(0.62)) == pytest.approx(0.62, rel=1e-12)


def test_limits_of_high_and_low_temperature():
    # classical: 3ħ²T/(M k Θ²); at rest: 3ħ²/(4 M k Θ)
    unit = 48.508734 * 3 / 63.546
    hot = debye_sigma("Cu", 30_000.0, 343.0, mass=63.546)
    assert hot**2 == pytest.approx(unit * 30_000 / 343**2, rel=1e-5)
    for cold in (0.0, 1e-3):
        still = debye_sigma("Cu", cold, 343.0, mass=63.546)
        assert still**2 == pytest.approx(unit / (4 * 343), rel=1e-6)
    assert (np.diff(debye_sigma("Cu", np.linspace(0, 900, 50))) > 0).all()


@pytest.mark.parametrize(("element", "B"), [("Al", 0.86), ("Cu", 0.55), ("W", 0.16)])
def test_factors_measured_at_room_temperature(element, B):
    # within the 15 to 25 % by which calorimetric and diffraction values of Θ make them differ
    assert sigma_to_B(debye_sigma(element, 293.0)) == pytest.approx(B, rel=0.25)


def test_elements_by_symbol_and_number():
    assert debye_sigma("Au", 300.0) == debye_sigma(79, 300.0)
    assert all(debye_sigma(symbol, 300.0) > 0 for symbol in DEBYE_TEMPERATURES)
    with pytest.raises(ValueError, match="no Debye temperature is tabulated for O"):
        debye_sigma("O", 300.0)
    assert debye_sigma("O", 300.0, 500.0) > 0
    for bad in ((-1.0, 300.0), (300.0, 0.0)):
        with pytest.raises(ValueError, match="kelvin"):
            debye_sigma("Cu", *bad)


def test_gradients_to_both_temperatures(x64):
    for i in (0, 1):

        def sigma(value, i=i):
            arguments = [250.0, 343.0]
            arguments[i] = value
            return debye_sigma("Cu", *arguments)

        at, h = (250.0, 343.0)[i], 1e-3
        numeric = (sigma(at + h) - sigma(at - h)) / (2 * h)
        assert float(jax.grad(sigma)(at)) == pytest.approx(numeric, rel=1e-6)
