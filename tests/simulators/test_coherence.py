"""Explicit sums against the envelopes: where they agree, and where the envelopes fail."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from simulators.atoms import make_atoms
from simulators.coherence import (
    gauss_nodes,
    gauss_nodes_2d,
    illumination_tilts,
    nodes_for,
    over_focus,
    over_source,
)
from simulators.grid import Grid
from simulators.hrtem import hrtem
from simulators.linear import FWHM
from simulators.optics import Optics, probe, scherzer_defocus
from simulators.potential import Potential, project
from simulators.tree import replace

ENERGY, SPHERICAL = 200e3, 1.2e7
LENS = Optics(
    energy=ENERGY, C30=SPHERICAL, C10=-scherzer_defocus(SPHERICAL, ENERGY), semiangle=14.0
)
A = 5.431
B = A / np.sqrt(2)


def silicon(cells: int, strength: float = 1.0) -> Potential:
    """Si[110], one slice of 1.92 Å repeated."""
    base = np.array([[0, 0, 0], [B / 2, A / 2, B / 2]])
    places = np.concatenate([base, np.add(base, [B / 2, A / 4, 0])]) % [B, A, B]
    places = np.concatenate([places, places + np.array([[B, 0, 0]])])
    atoms = make_atoms(places, [14] * 8, [2 * B, A, B], sigma=np.full(8, 0.08))
    thin = project(atoms, Grid.over((A, 2 * B), shape=(30, 40)), B / 2)
    slices = jnp.tile(thin.slices * strength, (cells, 1, 1))
    return Potential(slices, np.tile(np.asarray(thin.thickness), cells), thin.grid)


def distance(potential: Potential, optics: Optics) -> float:
    """Largest difference between envelope and explicit sum, in units of the image's range."""
    explicit = np.asarray(hrtem(potential, optics, partial="explicit"))
    envelope = np.asarray(hrtem(potential, optics))
    return float(np.abs(envelope - explicit).max() / np.ptp(explicit))


def test_nodes():
    x, w = gauss_nodes(6)
    for power, moment in ((0, 1.0), (2, 0.5), (4, 0.75), (10, 29.53125)):
        assert (w * x**power).sum() == pytest.approx(moment)
    points, weights = gauss_nodes_2d(3)
    np.testing.assert_allclose((weights[:, None] * points**2).sum(0), 0.5)
    np.testing.assert_allclose((weights[:, None] * points).sum(0), 0, atol=1e-15)
    for phase in (0.5, 2.0, 6.0, 14.0):
        x, w = gauss_nodes(nodes_for(phase))
        assert abs((w * np.cos(phase * x)).sum() - np.exp(-(phase**2) / 4)) < 1e-3
    with pytest.raises(ValueError, match="at least one node"):
        gauss_nodes(0)


def test_the_temporal_envelope_is_exact_for_a_weak_object(x64):
    lens = replace(LENS, focal_spread=60.0)
    weak = [distance(silicon(1, strength), lens) for strength in (1e-2, 1e-3)]
    assert weak[1] < 1e-4
    assert weak[0] / weak[1] == pytest.approx(10, rel=0.1), "what is left is of second order"


def test_the_spatial_envelope_holds_for_a_weak_object_and_a_small_cone(x64):
    # what is left comes from the curvature of χ over the cone: second order in β
    errors = [
        distance(silicon(1, 1e-3), replace(LENS, angular_spread=beta)) for beta in (0.05, 0.1)
    ]
    assert errors[1] < 4e-3
    assert errors[1] / errors[0] == pytest.approx(4, rel=0.1)


def test_the_temporal_envelope_fails_for_a_strong_object(x64):
    # Si[110] at the Scherzer focus of a 1.2 mm lens, Δ = 60 Å: 0.6 % of the image's range for
    # one layer of 1.9 Å, 13 % at 50 Å
    lens = replace(LENS, focal_spread=60.0)
    thin, thick = distance(silicon(1), lens), distance(silicon(26), lens)
    assert thin == pytest.approx(0.006, rel=0.2)
    assert thick == pytest.approx(0.133, rel=0.1)


def test_sums_over_focus_of_probes(x64):
    # on the axis the average of sinc²(α²f / 2λ) over the focal spread
    grid = Grid((96, 96), (0.15, 0.15))
    lens = Optics(energy=100e3, semiangle=20.0, focal_spread=50.0)

    def peak(one):
        assert one.focal_spread == 0
        return {"peak": jnp.abs(probe(one, grid)[0, 0]) ** 2}

    made = float(over_focus(peak, lens, nodes=11)["peak"])
    x = np.linspace(-5, 5, 401)
    w = np.exp(-(x**2)) / np.exp(-(x**2)).sum()
    waves = [np.abs(probe(replace(lens, C10=50.0 * v), grid)[0, 0]) ** 2 for v in x[::10]]
    expected = (w[::10] * np.array(waves)).sum() / w[::10].sum()
    assert made == pytest.approx(expected, rel=1e-6)
    still = replace(lens, focal_spread=0.0)
    assert float(over_focus(peak, still)["peak"]) == pytest.approx(
        float(jnp.abs(probe(still, grid)[0, 0]) ** 2)
    )


def test_sums_over_the_source_are_a_blur():
    def wave(positions):
        return np.cos(2 * np.pi * (positions[..., 0] / 4 + positions[..., 1] / 7))

    places = np.random.default_rng(0).uniform(0, 5, (4, 3, 2))
    damping = np.exp(-2 * np.pi**2 * (0.8 / FWHM) ** 2 * (1 / 16 + 1 / 49))
    made = over_source(wave, places, 0.8, nodes=4)
    np.testing.assert_allclose(made, damping * wave(places), rtol=2e-5, atol=1e-7)


def test_too_wide_a_cone_is_refused_with_a_way_out():
    grid = silicon(1).grid
    with pytest.raises(ValueError, match=r"directions: use a smaller semiangle"):
        illumination_tilts(replace(LENS, angular_spread=1.0, semiangle=25.0), grid)
    tilts, weights = illumination_tilts(replace(LENS, angular_spread=1.0), grid, nodes=4)
    assert weights.sum() == pytest.approx(1)
    assert np.abs(weights @ tilts).max() < 1e-12
