"""Tracing and centroid errors by hand; a fit that reaches the Cramer-Rao bound, one below."""

import numpy as np
import pytest

from emjax.analysis.precision import position_bound
from emjax.metrics.localisation import (
    against_bound,
    centroids,
    column_bound,
    half_spacing,
    position_errors,
    tracing_errors,
)

RNG = np.random.default_rng(0)


def test_rate_and_distance_stand_apart():
    truth = np.array([[0.0, 0, 0], [3, 0, 0], [6, 0, 0], [9, 0, 0]])
    found = np.array([[0.3, 0.4, 0], [3, 0, 0], [6, 0, 2], [20, 0, 0]])
    e = tracing_errors(found, truth)
    assert e.radius == half_spacing(truth) == 1.5
    assert e.pairs.tolist() == [[0, 0], [1, 1]]
    assert (e.missed, e.false) == (2, 2)
    assert e.rate == 100.0
    assert (e.precision, e.recall) == (0.5, 0.5)
    assert (e.rmsd, e.mean, e.worst) == pytest.approx((0.5 / np.sqrt(2), 0.25, 0.5))


def test_a_distance_without_its_rate_deceives():
    """Finding only the easy one has the smaller error; a small radius hides large ones."""
    truth = np.arange(10)[:, None] * np.array([[4.0, 0]])
    found = truth + np.linspace(0, 1.8, 10)[:, None] * np.array([[0, 1.0]])
    everything, easy = tracing_errors(found, truth, 2.0), tracing_errors(found[:1], truth, 2.0)
    assert easy.rmsd < everything.rmsd
    assert easy.rate > everything.rate == 0
    strict = tracing_errors(found, truth, 0.5)
    assert strict.rmsd < everything.rmsd
    assert strict.rate > 100  # each is missed and false at once


def test_mutual_neighbours_and_hungarian_differ_where_it_is_crowded():
    truth = np.array([[1.8, 0.0], [2.0, 0]])
    found = np.array([[0.2, 0.0], [1.9, 0]])
    assert tracing_errors(found, truth, 1.7).missed == 0
    assert tracing_errors(found, truth, 1.7, pairing="mutual").missed == 1
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2) * 4
    near = RNG.permutation(grid + RNG.normal(0, 0.2, grid.shape))
    both = [tracing_errors(near, grid, 1.5, pairing=p) for p in ("hungarian", "mutual")]
    assert both[0].rmsd == pytest.approx(both[1].rmsd)
    assert both[0].rate == both[1].rate == 0


def test_nothing_there_and_nothing_found():
    none, some = np.zeros((0, 3)), np.array([[0.0, 0, 0], [2, 0, 0]])
    assert tracing_errors(none, some).rate == 100
    assert (tracing_errors(none, some).recall, tracing_errors(none, some).precision) == (0, 0)
    nothing = tracing_errors(none, none, 1.0)
    assert np.isnan(nothing.rate)
    assert np.isnan(nothing.rmsd)
    assert nothing.precision == nothing.recall == 1
    with pytest.raises(ValueError, match="give a radius"):
        tracing_errors(some, some[:1])


def test_centroids_are_x_y():
    labels = np.zeros((6, 9), int)
    labels[1:3, 4:8] = 1
    labels[5, 0] = 4
    assert centroids(labels).tolist() == [[5.5, 1.5], [0, 5]]
    weights = np.where(np.arange(9) == 7, 3.0, 1.0) * np.ones((6, 1))
    assert centroids(labels, weights)[0].tolist() == [(4 + 5 + 6 + 21) / 6, 1.5]
    assert centroids(np.zeros((4, 4), int)).shape == (0, 2)


def test_bias_and_spread_make_up_the_rmsd():
    truth = RNG.random((50, 2))
    e = position_errors(truth + np.array([0.1, 0]) + RNG.normal(0, 0.02, (50, 2)), truth)
    assert e.bias == pytest.approx([0.1, 0], abs=0.01)
    assert e.rmsd**2 == pytest.approx((e.bias**2).sum() + (e.spread**2).sum())
    assert position_errors(truth + np.array([0.3, 0.4]), truth).mean == pytest.approx(0.5)


def test_the_bound_of_one_column():
    bound = column_bound(height=100, width=2.0)
    assert bound == pytest.approx(1 / np.sqrt(2 * np.pi * 100))
    assert bound == column_bound(height=100, width=5.0)
    assert column_bound(1, 2.0, counts=400) == 0.1
    numeric = position_bound(np.array([[15.3, 14.8]]), 100.0, 2.0, 1e-9, (30, 30))
    assert numeric == pytest.approx(bound, rel=1e-3)


def test_the_centroid_of_a_lone_column_reaches_the_bound_and_a_prior_goes_below():
    """Without background the centroid is the maximum-likelihood estimate: the ratio is 1."""
    y, x = np.mgrid[:21, :21]
    n, width = 1500, 2.0
    truth = 10 + RNG.uniform(-0.5, 0.5, (n, 2))
    r2 = (x - truth[:, 0, None, None]) ** 2 + (y - truth[:, 1, None, None]) ** 2
    counts = RNG.poisson(40 * np.exp(-r2 / (2 * width**2)))
    total = counts.sum((1, 2))
    found = np.stack([(counts * x).sum((1, 2)), (counts * y).sum((1, 2))], -1) / total[:, None]
    bound = column_bound(40, width)
    fair = against_bound(found, truth, bound)
    assert fair.ratio == pytest.approx(1, abs=0.06)
    assert fair.uncertainty == pytest.approx(1 / np.sqrt(2 * n), rel=0.1)
    assert not fair.suspicious
    informed = against_bound(0.5 * found + 0.5 * truth, truth, bound)
    assert informed.suspicious
    shifted = against_bound(found + 0.2, truth, bound)
    assert shifted.ratio == pytest.approx(fair.ratio)
    assert shifted.total > 3
    each = against_bound(found, truth, np.full((n, 2), bound))
    assert each.total == pytest.approx(fair.total)


def test_refusals():
    points = np.zeros((3, 2))
    with pytest.raises(ValueError, match="both sides alike"):
        tracing_errors(np.zeros((3, 3)), points, 1.0)
    with pytest.raises(ValueError, match="not finite"):
        tracing_errors(points + np.nan, points, 1.0)
    with pytest.raises(ValueError, match="radius -1"):
        tracing_errors(points, points, -1)
    with pytest.raises(ValueError, match="pairing"):
        tracing_errors(points, points, 1.0, pairing="greedy")
    with pytest.raises(ValueError, match="at least one"):
        position_errors(np.zeros((0, 2)), np.zeros((0, 2)))
    with pytest.raises(ValueError, match="positive"):
        against_bound(points, points, 0.0)
    with pytest.raises(ValueError, match="at least two"):
        against_bound(points[:1], points[:1], 1.0)
    with pytest.raises(ValueError, match="must be positive"):
        column_bound(-1)
