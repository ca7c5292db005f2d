"""abTEM's finite projections, against its own arrays."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from simulators.abtem_finite import cutoff_radius
from simulators.atoms import make_atoms
from simulators.grid import Grid
from simulators.potential import project
from simulators.scattering import as_table, radial_potential

OUTPUTS = ["lobato_infinite", "kirkland_infinite", "peng_infinite", "lobato_finite"]


@pytest.mark.parametrize("output", [*OUTPUTS, "kirkland_finite", "gaussian_finite"])
def test_srtio3_against_abtem(shared, output, x64):
    data = np.load(shared / "data" / "abtem_refs" / "dev_potential_srtio3.npz")
    meta = json.loads(str(data["meta"]))
    recipe = meta["recipes"][f"out_{output}"]
    atoms = make_atoms(data["positions"], data["numbers"], data["cell"])
    grid = Grid.over((data["cell"][1], data["cell"][0]), shape=meta["gpts"][::-1])
    options = {"mode": "abtem", "projection": recipe["projection"]}
    if recipe["projection"] != "finite_gaussian":
        options["parametrization"] = recipe["parametrization"]
    made = np.asarray(project(atoms, grid, meta[recipe["slice_thickness"]], **options).slices)
    reference = np.swapaxes(data[f"out_{output}"], 1, 2)
    assert np.abs(made - reference).max() / np.abs(reference).max() < 1e-7


def scene() -> tuple:
    rng = np.random.default_rng(6)
    cell = np.array([5.3, 6.1, 4.7])
    atoms = make_atoms(rng.uniform(0, 1, (9, 3)) * cell, rng.choice([1, 6, 79], 9), cell)
    return atoms, Grid.over((6.1, 5.3), shape=(60, 48)), [0.6, 1.1, 0.9, 1.4, 0.7]


@pytest.mark.slow
@pytest.mark.parametrize("projection", ["finite", "finite_gaussian"])
def test_another_structure_against_abtem_itself(projection, x64):
    abtem = pytest.importorskip("abtem")
    from abtem.integrals import GaussianProjectionIntegrals

    from simulators.atoms import to_ase

    atoms, grid, slices = scene()
    settings = {"precision": "float64", "fft": "numpy", "diagnostics.progress_bar": False}
    integrator = {
        "finite": {"projection": "finite"},
        "finite_gaussian": {"integrator": GaussianProjectionIntegrals()},
    }
    with abtem.config.set(settings):
        reference = abtem.Potential(
            to_ase(atoms), gpts=grid.shape[::-1], slice_thickness=slices, **integrator[projection]
        ).build(lazy=False)
    made = project(atoms, grid, slices, mode="abtem", projection=projection).slices
    reference = np.swapaxes(np.asarray(reference.array), 1, 2)
    assert np.abs(made - reference).max() / np.abs(reference).max() < 2e-7


def test_against_the_exact_finite_projection(x64):
    # the same physics: abTEM cuts atoms off where |V| is 1e-4 V and samples the nucleus coarsely
    grid = Grid.over((8.0, 8.0), shape=(160, 160))
    atoms = make_atoms([[4.0, 4.0, 1.9]], [14], [8.0, 8.0, 8.0])
    abtem, exact = (
        np.asarray(project(atoms, grid, 2.0, mode=mode, projection="finite").slices)
        for mode in ("abtem", "exact")
    )
    near = np.hypot(*np.meshgrid(*(np.arange(160) * 0.05 - 4,) * 2))
    ring = (near > 0.5) & (near < 2.0)
    for i in (0, 1):
        assert np.abs(abtem[i] - exact[i])[ring].max() / exact[i][ring].max() < 2e-2


def test_the_cutoff_radius():
    table = as_table("lobato")
    radius = cutoff_radius(14, table, 1e-4)
    assert float(radial_potential("Si", radius, table)) == pytest.approx(1e-4, rel=1e-6)


def test_float32_and_what_is_refused():
    atoms, grid, slices = scene()
    for projection in ("finite", "finite_gaussian"):
        options = {"mode": "abtem", "projection": projection}
        assert project(atoms, grid, slices, **options).slices.dtype == np.float32
        with pytest.raises(ValueError, match="made from known atoms"):
            jax.jit(lambda a, o=options: project(a, grid, slices, depth=4.7, **o).slices)(atoms)
        moving = make_atoms(atoms.positions, atoms.numbers, atoms.cell, sigma=0.1)
        with pytest.raises(ValueError, match="knows no thermal motion"):
            project(moving, grid, slices, **options)
