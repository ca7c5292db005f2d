"""The classical detector: finds, measures, names, and is tuned to the best of its settings."""

import time
from dataclasses import replace

import numpy as np
import pytest
from column_images import lattice, render, shape_of

from emjax.analysis.columns import empty_columns
from emjax.baselines.columns import (
    Grid,
    LogParameters,
    classify_by_height,
    detect,
    log_columns,
    tune,
)
from emjax.metrics.detection import column_spacing, detection_scores, match_points, points_of

SMALL = Grid(sigmas=(0.14, 0.2, 0.28), thresholds=(0.05, 0.1, 0.2, 0.4), min_distances=(0.4, 0.6))


def scene(seed, *, dose=20.0, spacing=9.0, rows=9, heavy=0.3, width=2.0, ratio=3.0):
    """Image (gain 5, offset 11), truth (n, 3) with species 1 the dim and 0 the bright one, Å/px."""
    rng = np.random.default_rng(seed)
    xy = lattice(rows, spacing, rng)
    species = (rng.uniform(size=len(xy)) >= heavy).astype(int)
    shape = shape_of(xy, spacing)
    rate = render(xy, np.where(species == 0, dose, dose / ratio), width, 0.1 * dose, shape)
    image = 5.0 * rng.poisson(rate) + 11
    return image, np.column_stack([xy, species]), 0.2


def score(scenes, parameters, **options):
    found = [(detect(image, pixel, parameters), truth) for image, truth, pixel in scenes]
    radii = [0.2 * column_spacing(truth[:, :2]) for _, truth in found]
    return detection_scores(found, radii, **options)


@pytest.fixture(scope="module")
def tuned():
    scenes = [scene(s) for s in range(4)]
    images, truths, pixels = zip(*scenes, strict=True)
    return tune(images, truths, list(pixels), SMALL)


def test_blobs_are_found_at_their_place_and_scale():
    image, truth, pixel = scene(0, dose=200, heavy=1)
    columns = log_columns(image, pixel, sigmas_A=[0.3, 0.4, 0.5], threshold=0.3, min_distance_A=1.0)
    m = match_points(points_of(columns)[0], truth[:, :2], 1.0)
    assert m.counts == (len(truth), 0, 0)
    assert m.rmsd < 0.15
    assert np.median(columns["width"]) == pytest.approx(2, rel=0.05)
    assert np.median(columns["height"]) == pytest.approx(1000, rel=0.05)
    assert ((columns["confidence"] > 0.3) & (columns["confidence"] <= 1)).all()


def test_lengths_are_in_angstrom():
    """The same field of view at half the pixel size is the same detection."""
    rng = np.random.default_rng(1)
    xy = lattice(7, 9, rng)
    one = render(xy, np.full(49, 10.0), 2.0, 1, shape_of(xy, 9))
    two = render(2 * xy, np.full(49, 10.0), 4.0, 1, shape_of(2 * xy, 18))
    options = {"sigmas_A": [0.4], "threshold": 0.3, "min_distance_A": 1.0}
    a, b = log_columns(one, 0.2, **options), log_columns(two, 0.1, **options)
    assert match_points(2 * points_of(a)[0], points_of(b)[0], 0.3).tp == 49
    stretched = np.repeat(one, 2, axis=0)
    c = log_columns(stretched, (0.1, 0.2), **options, refine=False)
    assert match_points(points_of(a)[0] * [1, 2] + [0, 0.5], points_of(c)[0], 1.0).tp == 49


def test_refine_chooses_the_position():
    image, _, pixel = scene(2, dose=10)
    options = {"sigmas_A": [0.4], "threshold": 0.1, "min_distance_A": 1.0}
    fitted, plain = (log_columns(image, pixel, **options, refine=r) for r in (True, False))
    assert (plain["x_fit"] == plain["x"]).all()
    assert (fitted["x_fit"] != fitted["x"]).any()
    assert (fitted["height"] == plain["height"]).all()


def test_classes_by_cuts_relative_to_the_bright_columns():
    columns = empty_columns(5)
    columns["height"] = [1, 2, 10, 10, 10]
    columns["width"] = 1.0
    columns["ok"] = True
    named = classify_by_height(columns, [0.15, 0.5], order=[7, 3, 4])
    assert named["species"].tolist() == [7, 3, 4, 4, 4]
    assert classify_by_height(columns, [0.5])["species"].tolist() == [0, 0, 1, 1, 1]
    assert len(classify_by_height(columns, [], min_height=0.15)) == 4
    columns["height"] *= 1e5  # the gain does not matter
    assert classify_by_height(columns, [0.5])["species"].tolist() == [0, 0, 1, 1, 1]
    columns["width"] = [4, 1, 1, 1, 1]
    integral = classify_by_height(columns, [0.5], feature="integral")
    assert integral["species"].tolist() == [1, 0, 1, 1, 1]


def test_without_cuts_otsu_separates_the_heights():
    rng = np.random.default_rng(3)
    columns = empty_columns(90)
    columns["height"] = np.repeat([1.0, 5.0, 12.0], 30) + rng.normal(0, 0.3, 90)
    columns["width"] = 1.0
    named = classify_by_height(columns, None, order=[2, 0, 1])
    assert (named["species"] == np.repeat([2, 0, 1], 30)).all()
    assert (classify_by_height(columns[:1], None, order=[2, 0])["species"] == 2).all()


def test_tuning_finds_the_class_on_unseen_images(tuned):
    assert tuned.order == (1, 0)  # species 1 is the dim one
    assert len(tuned.cuts) == 1
    assert tuned.f1 > 0.95
    unseen = [scene(s) for s in range(100, 104)]
    ours = score(unseen, tuned)
    assert ours.f1 > 0.93
    assert ours.f1 == pytest.approx(tuned.f1, abs=0.05)
    default = score(unseen, LogParameters(order=(1, 0)))
    assert ours.f1 >= default.f1


def test_the_tuned_score_is_what_detect_reaches_on_these_images(tuned):
    assert score([scene(s) for s in range(4)], tuned).f1 == pytest.approx(tuned.f1, abs=1e-9)


def test_no_single_change_of_the_tuned_setting_is_much_better(tuned):
    scenes = [scene(s) for s in range(4)]
    for change in (
        {"threshold": tuned.threshold * 1.5},
        {"threshold": tuned.threshold / 1.5},
        {"min_distance_A": tuned.min_distance_A * 1.2},
        {"refine": not tuned.refine},
        {"cuts": (tuned.cuts[0] * 1.2,)},
        {"cuts": (tuned.cuts[0] / 1.2,)},
    ):
        assert score(scenes, replace(tuned, **change)).f1 < tuned.f1 + 0.01


def test_low_dose_rejects_false_blobs():
    scenes = [scene(s, dose=6, rows=8) for s in range(4)]
    images, truths, _ = zip(*scenes, strict=True)
    tuned = tune(images, truths, 0.2, SMALL)
    blind = score(scenes, tuned, class_aware=False)
    assert blind.precision > 0.75
    assert tuned.f1 > 0.6


def test_margin_and_radius_reach_the_score():
    image, truth, pixel = scene(5)
    inner = truth[
        (truth[:, :2] > 20).all(1) & (truth[:, :2] < np.array(image.shape)[::-1] - 21).all(1)
    ]
    full = tune([image], [truth], pixel, SMALL)
    cropped = tune([image], [inner], pixel, SMALL, margin=20)  # the others are never missed
    assert cropped.f1 > 0.9
    assert tune([image], [inner], pixel, SMALL).f1 < full.f1
    assert tune([image], [truth], pixel, SMALL, radius_px=0.02).f1 < 0.3


def test_one_species_and_images_without_columns():
    image, truth, pixel = scene(6, heavy=1)
    empty = np.random.default_rng(0).poisson(np.full((40, 40), 5.0))
    tuned = tune([image, empty], [truth, np.zeros((0, 3))], pixel, SMALL)
    assert tuned.cuts == ()
    assert tuned.order == (0,)
    assert (detect(image, pixel, tuned)["species"] == 0).all()
    for blank in (np.zeros((32, 32)), np.full((32, 32), 7.0)):
        assert len(detect(blank, pixel, tuned)) == 0


def test_tuning_takes_seconds():
    """Eight images of 128 x 128, on the full grid: about 4 s of one core."""
    scenes = [scene(s, rows=12) for s in range(8)]
    images, truths, _ = zip(*scenes, strict=True)
    start = time.process_time()
    tune(images, truths, 0.2)
    assert time.process_time() - start < 25


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, t: tune([], [], 0.2), "at least one"),
        (lambda i, t: tune([i], [], 0.2), "1 images and 0 truths"),
        (lambda i, t: tune([i], [t[:0]], 0.2), "nothing to tune on"),
        (lambda i, t: tune([i], [t], [0.2, 0.2, 0.2]), "3 pixel sizes"),
        (lambda i, t: tune([i], [t], -1.0), "Å per pixel, above 0"),
        (lambda i, t: detect(i, 0.2, LogParameters(sigmas_A=())), "at least one width"),
        (lambda i, t: detect(i, 0.2, LogParameters(cuts=(0.5,))), "one species more than cuts"),
        (lambda i, t: detect(i, 0.2, LogParameters(feature="area")), '"height" or "integral"'),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    image, truth, _ = scene(0, rows=4)
    with pytest.raises(ValueError, match=message):
        call(image, truth)
