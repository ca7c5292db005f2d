"""Scores of networks and classical detectors on scenes made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from column_images import render

from emjax.analysis.columns import empty_columns
from emjax.data.synthetic_scenes import Scene
from emjax.evaluation import columns as ev

PITCH = 2.4
"""Å between columns of a square lattice."""
SIDE = 24.0


def scene(sampling: float = 0.2, *, seed: int = 0, family: str = "square", part: str = "easy"):
    """A square lattice of two species, the second one twice as bright."""
    rng = np.random.default_rng(seed)
    n = round(SIDE / sampling)
    i, j = np.mgrid[:10, :10].reshape(2, -1)
    xy = (np.stack([i, j], axis=1) * PITCH + rng.uniform(0.8, 1.4, 2)) / sampling
    kind = (i + j) % 2
    clean = render(xy, 60.0 * (1 + kind), 0.42 / sampling, 4.0, (n, n))
    image = rng.poisson(clean).astype(np.float32)
    truth = np.concatenate([xy, kind[:, None]], axis=1)
    return Scene(image, clean, sampling, truth, family, part, "by hand")


def found(scene: Scene, *, shift: float = 0.0, confidence=1.0, species=None, rows=None) -> ev.Found:
    """The truth as if it had been found, `shift` Å too far to the right."""
    truth = scene.truth if rows is None else scene.truth[rows]
    columns = empty_columns(len(truth))
    columns["x"], columns["y"] = truth[:, 0] + shift / scene.sampling, truth[:, 1]
    columns["x_fit"], columns["y_fit"] = truth[:, 0], truth[:, 1]
    columns["species"] = truth[:, 2] if species is None else species
    columns["confidence"] = confidence
    return ev.Found(columns)


def test_the_radius_is_a_fifth_of_the_spacing():
    for sampling in (0.1, 0.2, 0.3):
        assert ev.radius_px(scene(sampling)) == pytest.approx(0.2 * PITCH / sampling)


def test_perfect():
    scenes = [scene(0.1), scene(0.3, seed=1)]
    result = ev.score([found(s) for s in scenes], scenes)
    assert result.f1 == result.precision == result.recall == 1
    assert result.rmsd == pytest.approx(0, abs=1e-9)
    assert len(result.images) == 2
    assert result.tp == sum(m.tp for m in result.images) > 150


@pytest.mark.parametrize("sampling", [0.1, 0.2, 0.3])
def test_up_to_a_fifth_of_the_spacing_counts(sampling):
    one = scene(sampling)
    near = ev.score([found(one, shift=0.19 * PITCH)], [one])
    far = ev.score([found(one, shift=0.21 * PITCH)], [one])
    # columns that cross the margin are neither right nor wrong
    assert near.f1 == 1
    assert near.rmsd == pytest.approx(0.19 * PITCH), "in Å, whatever the pixel size"
    assert far.f1 == 0
    assert far.fp > 50
    assert far.fn > 50


def test_the_wrong_species_is_an_error_unless_told_otherwise():
    one = scene()
    swapped = found(one, species=1 - one.truth[:, 2])
    assert ev.score([swapped], [one]).f1 == 0
    assert ev.score([swapped], [one], class_aware=False).f1 == 1
    half = found(one, species=np.zeros(len(one.truth)))
    assert ev.score([half], [one]).f1 == pytest.approx(0.5, abs=0.05)


def test_fitted_positions_where_asked_for():
    one = scene()
    shifted = found(one, shift=0.3 * PITCH)
    assert ev.score([shifted], [one]).f1 == 0
    assert ev.score([shifted], [one], fitted=True).f1 == 1


@pytest.mark.parametrize("sampling", [0.1, 0.3])
def test_columns_near_any_border_are_not_counted(sampling):
    base = scene(sampling)
    last = (len(base.image) - 1) * sampling  # Å: where the last pixel lies
    inside, outside = ev.MARGIN + 0.05, ev.MARGIN - 0.05
    middle = last / 2

    def counted(distance: float) -> int:
        points = [[distance, middle], [last - distance, middle]]
        points += [[middle, distance], [middle, last - distance]]
        truth = np.array([[x / sampling, y / sampling, 0] for x, y in points])
        one = replace(base, truth=truth)
        result = ev.score([found(one)], [one])
        assert result.fp == result.fn == 0
        return result.tp

    assert counted(inside) == 4
    assert counted(outside) == 0


def test_missed_and_invented_columns():
    one = scene()
    middle = np.hypot(*(one.truth[:, :2] - len(one.image) / 2).T) < 4 / one.sampling
    missed = int(middle.sum())
    assert missed >= 4
    result = ev.score([found(one, rows=~middle)], [one])
    assert (result.fn, result.fp) == (missed, 0)
    truthless = replace(one, truth=one.truth[~middle])
    result = ev.score([found(one)], [truthless])
    assert (result.fn, result.fp) == (0, missed)


def test_above_a_confidence():
    one = scene()
    grades = np.linspace(0, 1, len(one.truth))
    (kept,) = ev.above([found(one, confidence=grades)], 0.75)
    assert len(kept.columns) == (grades >= 0.75).sum()
    assert kept.columns["confidence"].min() >= 0.75


def test_the_best_threshold_parts_right_from_wrong():
    scenes = [scene(seed=1), scene(seed=2, family="other")]
    every = []
    for s in scenes:
        right, ghosts = found(s, confidence=0.52).columns, found(s, confidence=0.38).columns
        ghosts["x"] += PITCH / 2 / s.sampling
        every.append(ev.Found(np.concatenate([right, ghosts])))
    threshold, f1 = ev.best_threshold(every, scenes)
    assert 0.38 < threshold <= 0.52
    assert threshold in ev.THRESHOLDS
    assert f1 == 1
    assert ev.score(ev.above(every, threshold), scenes).f1 == 1
    assert ev.score(every, scenes).f1 < 0.8


def test_the_threshold_weighs_image_classes_not_images():
    """Many images of one class do not outvote a single one of another."""
    easy = [scene(seed=i) for i in range(4)]
    rare = scene(seed=9, family="rare")
    scenes = [*easy, rare]
    # the rare class has ghosts up to 0.5, and the easy one loses a quarter above 0.4
    grades = np.where(np.arange(100) % 4 == 0, 0.4, 0.9)
    every = [found(s, confidence=grades) for s in easy]
    ghosts = found(rare, confidence=0.5).columns
    ghosts["x"] += PITCH / 2 / rare.sampling
    every.append(ev.Found(np.concatenate([found(rare, confidence=0.9).columns, ghosts])))
    assert ev.best_threshold(every, scenes)[0] > 0.5
    pooled = {t: ev.score(ev.above(every, t), scenes).f1 for t in (0.3, 0.6)}
    assert pooled[0.3] > pooled[0.6], "the many would have it otherwise"


def test_by_name():
    scenes = [scene(), scene(part="hard"), scene(seed=1), scene(family="round")]
    groups = ev.by_name(scenes)
    assert groups == {"square, easy": [0, 2], "square, hard": [1], "round, easy": [3]}
    assert list(groups) == ["square, easy", "square, hard", "round, easy"], "in order of appearance"


def test_compare_gives_intervals_around_its_values():
    scenes = [scene(seed=i, part=("easy", "hard")[i % 2]) for i in range(6)]
    good = [found(s) for s in scenes]
    keep = np.arange(100) % 3 > 0
    middling = [found(s, rows=keep, shift=0.1) for s in scenes]
    poor = [found(s, shift=PITCH / 2) for s in scenes]
    groups = [*ev.by_name(scenes).items(), ("all", range(6))]
    rows = ev.compare(scenes, good, middling, poor, groups)
    assert [(r.name, r.images) for r in rows] == [
        ("square, easy", 3),
        ("square, hard", 3),
        ("all", 6),
    ]
    for row in rows:
        for value, low, high in (row.network, row.classical, row.default, row.difference):
            assert low <= value <= high
        assert row.network == (1, 1, 1)
        assert row.classical[0] == pytest.approx(0.8, abs=0.03)
        assert row.default[0] < 0.1
        assert row.difference[0] == pytest.approx(1 - row.classical[0])
        assert row.difference[1] > 0, "better beyond doubt"
        assert row.rmsd == pytest.approx(0, abs=1e-9)
        assert row.rmsd_classical == pytest.approx(0.1)


@pytest.fixture(scope="module")
def validation():
    return [scene(0.2, seed=3), scene(0.15, seed=4), scene(0.2, seed=5, part="hard")]


@pytest.fixture(scope="module")
def settings(validation):
    calls = []
    made = ev.tune_classical(validation, grid=ev.QUICK, progress=lambda: calls.append(1))
    assert len(calls) == 2
    return made


def test_the_classical_detector_is_tuned_class_by_class(validation, settings):
    assert list(settings) == ["square, easy", "square, hard"]
    for one in settings.values():
        assert one.f1 > 0.99
        assert set(one.order) == {0, 1}


def test_the_tuned_detector_finds_easy_columns_and_their_species(settings):
    tests = [scene(0.2, seed=6), scene(0.25, seed=7), scene(0.2, seed=8, part="hard")]
    tuned = ev.run_classical(tests, settings)
    result = ev.score(tuned, tests)
    print(f"tuned on {len(settings)} classes: F1 {result.f1:.3f}, rmsd {result.rmsd:.4f} Å")
    assert result.f1 > 0.98
    assert result.rmsd < 0.05
    for one in tuned:
        np.testing.assert_array_equal(one.columns["x"], one.columns["x_fit"])
        np.testing.assert_array_equal(one.columns["y"], one.columns["y_fit"])
    default = ev.score(ev.run_default(tests, tests), tests)
    assert 0.8 < default.f1 <= 1


def test_a_class_without_a_setting(settings):
    with pytest.raises(KeyError, match="round, easy"):
        ev.run_classical([scene(family="round")], settings)
