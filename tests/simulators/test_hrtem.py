"""HRTEM images: series, engines, precision, gradients to everything."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.engines import exit_wave
from simulators.grid import Grid
from simulators.hrtem import focal_series, hrtem, image
from simulators.optics import Optics, plane_wave
from simulators.potential import Potential, project
from simulators.tree import replace

GRID = Grid.over((5.0, 6.0), shape=(20, 24))
LENS = Optics(
    energy=80e3,
    semiangle=35.0,
    C10=60.0,
    C12=15.0,
    phi12=0.4,
    C21=200.0,
    phi21=0.2,
    C30=-1e5,
    focal_spread=30.0,
    angular_spread=2.0,
)


def atoms():
    rng = np.random.default_rng(4)
    return make_atoms(
        rng.uniform(0, 5, (5, 3)), [6, 14, 6, 31, 6], [6.0, 5.0, 5.0], sigma=np.full(5, 0.1)
    )


def test_thickness_and_focal_series_come_from_one_pass(x64):
    potential = project(atoms(), GRID, 1.25)
    series = hrtem(potential, LENS, planes=(-1, 1, 3), step="symmetric")
    assert series.shape == (3, *GRID.shape)
    np.testing.assert_allclose(series[0], 1.0, atol=1e-14)
    whole = hrtem(potential, LENS, step="symmetric")
    np.testing.assert_allclose(series[2], whole, atol=1e-13)
    wave = exit_wave(plane_wave(GRID), potential, 80e3, step="symmetric")
    foci = np.array([-60.0, 0.0, 80.0])
    pictures = focal_series(wave, LENS, GRID, foci)
    np.testing.assert_allclose(pictures[0], whole, atol=1e-13)
    for defocus, picture in zip(foci, pictures, strict=True):
        one = image(wave, replace(LENS, C10=-defocus), GRID)
        np.testing.assert_allclose(picture, one, atol=1e-13)
    traced = jax.jit(lambda f: focal_series(wave, LENS, GRID, f))(jnp.asarray(foci))
    np.testing.assert_allclose(traced, pictures, atol=1e-11)


@pytest.mark.parametrize("engine", ["phase_object", "weak_phase", "born"])
def test_short_cuts_agree_for_a_monolayer(engine, x64):
    flat = make_atoms(
        [[1.5, 2.0, 0.25], [4.0, 3.0, 0.25]], [6, 6], [6.0, 5.0, 0.5], sigma=[0.1] * 2
    )
    potential = project(flat, GRID, 0.5)
    exact, short = hrtem(potential, LENS), hrtem(potential, LENS, engine=engine)
    contrast = float(jnp.abs(exact - 1).max())
    error = float(jnp.abs(exact - short).max()) / contrast
    assert error < {"phase_object": 0.02, "weak_phase": 0.12, "born": 0.12}[engine]


def test_float32_images_agree_with_float64():
    pictures = {}
    for wide in (False, True):
        with jax.enable_x64(wide):
            pictures[wide] = np.asarray(hrtem(project(atoms(), GRID, 1.25), LENS))
    assert pictures[False].dtype == np.float32
    assert np.abs(pictures[False] - pictures[True]).max() < 5e-6


def test_settings_that_do_not_exist():
    potential = Potential(jnp.zeros((1, *GRID.shape)), np.ones(1), GRID)
    with pytest.raises(ValueError, match="unknown partial='maybe': choose one of envelope, "):
        hrtem(potential, LENS, partial="maybe")
    with pytest.raises(ValueError, match="filter one CTF"):
        hrtem(potential, LENS, partial="explicit", flip_phase=True)
    with pytest.raises(ValueError, match="unknown engine"):
        hrtem(potential, LENS, engine="bloch")


def agree(objective, at, steps):
    """The gradient against central differences, one number at a time."""
    objective = jax.jit(objective)
    gradient = jax.jit(jax.grad(objective))(jnp.asarray(at))
    for i, h in enumerate(steps):
        change = h * np.eye(len(at))[i]
        numeric = objective(jnp.asarray(at + change)) - objective(jnp.asarray(at - change))
        assert float(gradient[i]) == pytest.approx(float(numeric) / (2 * h), rel=1e-6), i


WEIGHTS = np.random.default_rng(1).normal(size=GRID.shape)


def test_gradients_to_the_specimen(x64):
    # positions, occupancy, thermal motion, voxels, thickness, tilt (x and y)
    loose, rng = jax.tree.map(jnp.asarray, atoms()), np.random.default_rng(2)
    move = rng.normal(size=(5, 3)) * [1, 1, 0]
    fill, shake = rng.normal(size=5), rng.normal(size=5)
    voxels = jnp.asarray(rng.normal(size=(2, *GRID.shape)) * 10)

    def objective(x):
        changed = replace(
            loose,
            positions=loose.positions + x[0] * move,
            occupancy=loose.occupancy + x[1] * fill,
            sigma=loose.sigma + x[2] * shake,
        )
        potential = project(changed, GRID, 2.5, depth=5.0)
        potential = replace(
            potential,
            slices=potential.slices + x[3] * voxels,
            thickness=jnp.asarray(potential.thickness) * x[4],
        )
        lens = replace(LENS, tilt=(x[5], x[6]))
        return (WEIGHTS * hrtem(potential, lens, step="symmetric", order=2)).sum()

    at = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 4.0, -3.0])
    agree(objective, at, [1e-5, 1e-5, 1e-5, 1e-4, 1e-5, 1e-4, 1e-4])


def test_gradients_to_the_lens(x64):
    potential = project(atoms(), GRID, 2.5)
    names = ["energy", "semiangle", "C10", "C12", "phi12", "C21", "C30"]
    names += ["focal_spread", "angular_spread"]

    def objective(x):
        lens = replace(LENS, **{n: getattr(LENS, n) * v for n, v in zip(names, x, strict=True)})
        return (WEIGHTS * hrtem(potential, lens)).sum()

    agree(objective, np.ones(len(names)), [1e-6, 1e-6, *[1e-5] * (len(names) - 2)])


def test_gradients_of_explicit_sums(x64):
    potential = project(atoms(), GRID, 5.0)

    def objective(x):
        lens = replace(LENS, angular_spread=2.0 * x[0], C21=200.0 * x[1], focal_spread=30 * x[2])
        options = {"partial": "explicit", "focus_nodes": 3, "tilt_nodes": 2}
        return (WEIGHTS * hrtem(potential, lens, **options)).sum()

    agree(objective, np.ones(3), [1e-4] * 3)
