"""Columns of a heat map, and their measurement on the image."""

import numpy as np
import pytest
from column_images import inner, lattice, render, shape_of

from emjax.analysis.columns import COLUMN_DTYPE, empty_columns, find_columns, fit_columns
from emjax.analysis.precision import position_bound
from emjax.metrics.detection import match_points, points_of


def heat_of(xy, shape, width=1.6, height=1.0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    d2 = (x[..., None] - xy[:, 0]) ** 2 + (y[..., None] - xy[:, 1]) ** 2
    return (np.broadcast_to(height, len(xy)) * np.exp(-d2 / (2 * width**2))).max(-1)


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    xy = lattice(9, 8, rng)
    return xy, shape_of(xy, 8), rng.integers(0, 3, len(xy))


def test_every_column_once_with_sub_pixel_centre_and_species(scene):
    xy, shape, species = scene
    y, x = np.mgrid[: shape[0], : shape[1]]
    nearest = ((x[..., None] - xy[:, 0]) ** 2 + (y[..., None] - xy[:, 1]) ** 2).argmin(-1)
    scores = np.eye(3)[species[nearest]] + np.random.default_rng(1).normal(0, 0.3, (*shape, 3))
    heat = heat_of(xy, shape)
    columns = find_columns(heat, scores, threshold=0.5, min_distance_px=4)
    assert columns.dtype == COLUMN_DTYPE
    m = match_points(*(points_of(columns)[0], xy), 0.01)
    assert m.counts == (81, 0, 0)  # a sampled Gaussian is located exactly
    assert (columns["species"][m.pairs[:, 0]] == species[m.pairs[:, 1]]).all()
    assert (np.diff(columns["confidence"]) <= 0).all()
    assert ((columns["confidence"] > 0.9) & (columns["confidence"] <= 1)).all()
    assert (columns["x_fit"] == columns["x"]).all()
    assert not columns["ok"].any()


def test_float32_and_noise_of_a_network(scene):
    xy, shape, _ = scene
    heat = heat_of(xy, shape) + np.random.default_rng(2).normal(0, 0.02, shape)
    columns = find_columns(heat.astype(np.float32), None, min_distance_px=4)
    m = match_points(points_of(columns)[0], xy, 1.0)
    assert m.counts == (81, 0, 0)
    assert m.rmsd < 0.15
    assert (columns["species"] == 0).all()


def test_threshold_and_distance():
    xy = np.array([[10.0, 10], [14, 10], [30, 10]])
    heat = heat_of(xy, (20, 40), height=[0.9, 0.8, 0.4])
    found = find_columns(heat, None, threshold=0.5, min_distance_px=3)
    assert found["confidence"] == pytest.approx([0.9, 0.8], abs=0.02)
    assert len(find_columns(heat, None, threshold=0.5, min_distance_px=6)) == 1
    assert len(find_columns(heat, None, threshold=0.3, min_distance_px=6)) == 2


def test_of_a_chain_only_those_that_a_kept_one_reaches_go():
    """0.7 falls to 0.8, so 0.6, close to 0.7 alone, stays."""
    xy = np.array([[5.0, 8], [10, 8], [15, 8]])
    heat = heat_of(xy, (16, 22), width=1.2, height=[0.8, 0.7, 0.6])
    found = find_columns(heat, None, threshold=0.3, min_distance_px=6)
    assert np.sort(found["x"]) == pytest.approx([5, 15], abs=0.05)


def test_a_saturated_peak_counts_once_at_its_middle():
    heat = np.zeros((20, 20))
    heat[5:9, 6:9] = 1.0
    heat = np.maximum(heat, heat_of(np.array([[7.0, 6.5]]), (20, 20)))
    found = find_columns(heat, None, min_distance_px=5)
    assert [(c["x"], c["y"]) for c in found] == [(7.0, 6.5)]


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(16, 16), (1, 16), (2, 2)])
def test_constant_maps_hold_no_column(value, shape):
    assert len(find_columns(np.full(shape, value), None, threshold=0.0, min_distance_px=4)) == 0


def test_peaks_on_the_border_and_in_the_corner_stay_inside():
    xy = np.array([[0.0, 0], [12, 0.3], [-0.3, 9], [19.4, 11]])
    found = find_columns(heat_of(xy, (12, 20)), None, min_distance_px=4)
    assert len(found) == 4
    assert found["x"].min() >= 0
    assert found["x"].max() <= 19
    assert found["y"].max() <= 11
    assert match_points(points_of(found)[0], xy, 0.8).tp == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heat": np.zeros((4, 4, 1))}, "one map"),
        ({"heat": np.full((4, 4), np.nan)}, "16 of 16 values .* not finite"),
        ({"species": np.zeros((4, 4))}, r"\(y, x, classes\)"),
        ({"species": np.zeros((5, 4, 2))}, r"shape \(5, 4, 2\)"),
        ({"min_distance_px": 0}, "must be positive"),
    ],
)
def test_errors_say_what_is_wrong(change, message):
    arguments = {"heat": np.zeros((4, 4)), "species": None, "min_distance_px": 3} | change
    heat, species = arguments.pop("heat"), arguments.pop("species")
    with pytest.raises(ValueError, match=message):
        find_columns(heat, species, **arguments)


def test_the_fit_improves_on_the_heat_map(scene):
    xy, shape, _ = scene
    rng = np.random.default_rng(3)
    image = rng.poisson(render(xy, np.full(len(xy), 50.0), 2.0, 3, shape)).astype(np.float32)
    columns = empty_columns(len(xy))
    columns["x"], columns["y"] = (xy + rng.normal(0, 0.4, xy.shape)).T
    before = columns.copy()
    fitted = fit_columns(image, columns)
    assert (columns == before).all()  # a copy
    seen = inner(xy, shape, 10)
    error = np.hypot(fitted["x_fit"] - xy[:, 0], fitted["y_fit"] - xy[:, 1])[seen]
    assert fitted["ok"].all()
    assert np.sqrt((error**2).mean()) < 0.2
    assert np.median(fitted["height"]) == pytest.approx(50, rel=0.05)
    assert np.median(fitted["width"]) == pytest.approx(2, rel=0.05)
    for name in ("x", "y", "species", "confidence"):
        assert (fitted[name] == before[name]).all()


@pytest.mark.parametrize(("spacing", "width"), [(16, 3.5), (24, 6.0), (47, 9.0), (60, 2.0)])
def test_finely_sampled_columns_are_binned_without_harm(spacing, width):
    rng = np.random.default_rng(4)
    xy = lattice(5, spacing, rng)
    shape = shape_of(xy, spacing)
    image = rng.poisson(render(xy, np.full(len(xy), 100.0), width, 5, shape))
    columns = empty_columns(len(xy))
    columns["x"], columns["y"] = (xy + rng.normal(0, 0.2 * width, xy.shape)).T
    fitted = fit_columns(image, columns)
    error = np.stack([fitted["x_fit"], fitted["y_fit"]], -1) - xy
    assert fitted["ok"].all()
    bound = position_bound(xy, 100, width, 5, shape)
    assert np.sqrt((error**2).mean() / (bound**2).mean()) < 1.3
    assert np.abs(error.mean(0)).max() < 0.03  # no shift by half a pixel
    assert np.median(fitted["height"]) == pytest.approx(100, rel=0.04)
    assert np.median(fitted["width"]) == pytest.approx(width, rel=0.03)


def test_where_the_fit_fails_the_heat_map_stands():
    image = np.zeros((30, 30))  # nothing to fit
    columns = empty_columns(2)
    columns["x"], columns["y"] = [10, 20], [10.5, 20.5]
    fitted = fit_columns(image, columns)
    assert not fitted["ok"].any()
    assert fitted["x_fit"].tolist() == [10, 20]
    assert fitted["y_fit"].tolist() == [10.5, 20.5]
    assert np.isfinite(fitted["height"]).all()


def test_no_columns_one_column_and_bad_images():
    image = render(np.array([[15.0, 14.0]]), np.array([10.0]), 2.0, 0, (30, 30))
    assert len(fit_columns(image, empty_columns(0))) == 0
    one = empty_columns(1)
    one["x"], one["y"] = 15.6, 13.7
    fitted = fit_columns(image, one)
    assert (fitted["x_fit"][0], fitted["y_fit"][0]) == pytest.approx((15, 14), abs=0.01)
    with pytest.raises(ValueError, match="one grey image"):
        fit_columns(np.zeros((3, 30, 30)), one, radius_px=20)
    with pytest.raises(ValueError, match="not finite"):
        fit_columns(np.full((30, 30), np.inf), one, radius_px=20)
