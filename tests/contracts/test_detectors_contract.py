"""Every entry of `DETECTORS` through one battery: shapes, finite numbers, and reading a pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.detectors import DETECTORS, detector_matrix, split
from simulators.grid import Grid

ARGS = {
    "annular": (10.0, 40.0),
    "bright_field": (20.0,),
    "annular_bright_field": (20.0,),
    "flexible": (5.0,),
    "segmented": (5.0, 40.0),
    "map": (np.ones((21, 25)), 3.0),
    "radial": (lambda theta: np.exp(-theta / 30),),
    "centre_of_mass": (),
}
"""Parameters of the detectors."""

GRID, ENERGY = Grid.over((15.0, 12.0), shape=(66, 49)), 120e3

names = pytest.mark.parametrize("name", DETECTORS)


def make(name):
    return DETECTORS[name](*ARGS.get(name, ()))


@names
def test_sensitivities(name):
    detector = make(name)
    weights = detector.sensitivity(GRID, ENERGY)
    assert isinstance(weights, np.ndarray)
    assert weights.dtype == np.float64
    assert np.isfinite(weights).all()
    assert weights.any()
    channels = getattr(detector, "channels", 1)
    assert weights.ndim == (3 if hasattr(detector, "channels") else 2)
    rows = detector_matrix([detector], GRID, ENERGY)
    assert rows.shape == (len(weights) if channels is None else channels, 66 * 49)
    np.testing.assert_array_equal(weights, make(name).sensitivity(GRID, ENERGY))


@names
def test_reading_under_jit_and_gradients(name):
    detector = make(name)
    others = [DETECTORS["annular"](0, 30.0), detector, DETECTORS["segmented"](0, 30.0)]
    rows = jnp.asarray(detector_matrix(others, GRID, ENERGY), jnp.float32)
    pattern = jnp.asarray(np.random.default_rng(0).uniform(size=66 * 49), jnp.float32)

    def own(pattern):
        return split(jnp.matmul(rows, pattern, precision="highest")[:, None], others)[1]

    signal = jax.jit(own)(pattern)
    expected = (detector.sensitivity(GRID, ENERGY).reshape(-1, 66 * 49)) @ np.asarray(pattern)
    np.testing.assert_allclose(signal.ravel(), expected, rtol=1e-4, atol=1e-2)
    gradient = jax.grad(lambda p: own(p).sum())(pattern)
    total = np.atleast_3d(detector.sensitivity(GRID, ENERGY)).reshape(-1, 66 * 49).sum(axis=0)
    np.testing.assert_allclose(gradient, total, rtol=1e-5, atol=1e-4)
