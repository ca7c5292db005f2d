"""Fields with known truth, and what faithful and unfaithful restorers score on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from emjax.evaluation.restoration_fidelity import measure, restore_fields, summarise_fields
from emjax.evaluation.restoration_fields import (
    EMPTY,
    KINDS,
    amorphous_field,
    counts_of,
    empty_field,
    lattice_field,
    render,
    standard_fields,
)
from emjax.evaluation.restoration_scenes import Restored


def perfect_lattice(field):
    """What a restorer gives that knows "everything is a lattice"."""
    heights = 1.0 if field.kind in ("square", "hexagonal") else 0.9
    size = len(field.clean)
    return render(field.sites, np.full(len(field.sites), heights), field.width, size)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_lattice(kind):
    field = lattice_field(5, kind)
    spacing = KDTree(field.sites).query(field.sites, 2)[0][:, 1]
    # at the border a column's nearest neighbour may lie outside
    assert np.median(spacing) == pytest.approx(field.spacing, abs=1e-6)
    assert spacing.min() > field.spacing - 1e-6
    assert field.clean.max() == 1
    assert field.displacements.std() == pytest.approx(0.8, rel=0.1)
    assert 0.005 < field.vacant.mean() < 0.09
    # where there are columns it is bright, where they are vacant dark
    x, y = np.rint(field.sites + field.displacements).astype(int).T
    inside = (np.minimum(x, y) >= 0) & (np.maximum(x, y) < 256)
    value = np.zeros(len(x))
    value[inside] = field.clean[y[inside], x[inside]]
    assert value[inside & ~field.vacant].min() > 0.3
    assert value[inside & field.vacant].mean() < 0.35


def test_fields_follow_from_their_seed():
    one, two, three = lattice_field(1, "square"), lattice_field(1, "square"), lattice_field(2)
    np.testing.assert_array_equal(one.clean, two.clean)
    assert not np.array_equal(one.clean, three.clean)
    np.testing.assert_array_equal(counts_of(one, 10, 3), counts_of(two, 10, 3))
    assert counts_of(one, 10, 3).dtype == np.float32
    assert counts_of(one, 10, 3).mean() == pytest.approx(10 * one.clean.mean(), rel=0.02)
    with pytest.raises(ValueError, match="no lattice 'cubic': choose one of centred"):
        lattice_field(1, "cubic")
    kinds = [f.kind for f in standard_fields(repeats=2, kinds=("square",), size=64)]
    assert kinds == ["square"] * 2 + ["amorphous"] * 2 + ["empty"] * 2


def test_rendering_in_closed_form():
    image = render(np.array([[10.5, 4.0]]), np.array([2.0]), 2.0, 24, background=0.1)
    assert image[4, 10] == pytest.approx(0.1 + 2 * math.exp(-0.5 * 0.25 / 4))
    assert image[6, 10] == pytest.approx(0.1 + 2 * math.exp(-0.5 * 4.25 / 4)), "rows are y"


def test_the_clean_image_and_the_pure_lattice():
    fields = [lattice_field(1, kind, vacancies=0.1) for kind in KINDS]
    clean = summarise_fields(restore_fields(None, fields, 10.0))["lattices"]
    assert clean["slope"][0] == pytest.approx(0.93, abs=0.03)
    assert clean["ghosts"][0] == 0
    assert clean["recall"][0] > 0.995
    assert clean["rms_pm"][0] < 3
    for field in fields:
        score = measure(Restored(10 * perfect_lattice(field)), field, 10.0)
        assert abs(score.slope) < 0.1
        assert score.ghosts > 0.95
        # displaced by 0.8 px along x and y, at 12 pm each, and none of it restored
        assert score.rms_pm == pytest.approx(0.8 * 12 * math.sqrt(2), rel=0.1)
    centred = restore_fields(None, [lattice_field(seed) for seed in (1, 2, 3)], 1.0)
    published = pytest.approx(0.91, abs=0.02)
    assert summarise_fields(centred)["centred"]["slope"][0] == published


def test_half_way_to_the_lattice():
    """Columns put half way give half of the clean image's slope."""
    field = lattice_field(3, "square", vacancies=0.0)
    size = len(field.clean)
    heights = np.ones(len(field.sites))
    half = render(field.sites + field.displacements / 2, heights, field.width, size)
    whole = measure(Restored(field.clean), field, 1.0)
    score = measure(Restored(half), field, 1.0)
    assert score.slope == pytest.approx(whole.slope / 2, abs=0.02)
    assert math.isnan(score.ghosts), "without vacancies there is no rate"
    assert "ghosts" not in summarise_fields([score])["square"]


def test_a_constant_image_has_nothing():
    field = lattice_field(1)
    score = measure(Restored(np.ones_like(field.clean)), field, 1.0)
    assert (score.recall, score.ghosts) == (0, 0)
    assert math.isnan(score.slope)
    assert "slope" not in summarise_fields([score])["lattices"]


def test_phantoms():
    glass, empty = amorphous_field(1), empty_field()
    assert glass.clean.max() == 1
    assert np.all(empty.clean == EMPTY)
    for field in (glass, empty):
        assert measure(Restored(10 * field.clean), field, 10.0).phantoms == 0
        assert measure(Restored(10 * field.clean), field, 10.0).slope is None
    # a whole lattice seen in nothing: about one column per place
    like = lattice_field(2, vacancies=0.0)
    assert measure(Restored(10 * like.clean), empty, 10.0).phantoms == pytest.approx(1, rel=0.15)
    assert measure(Restored(10 * like.clean), glass, 10.0).phantoms > 0.4
    # columns a fifth as high are below the bar of a quarter
    faint = Restored(10 * (EMPTY + 0.2 * like.clean))
    assert measure(faint, empty, 10.0).phantoms == 0
    # noise at the lowest dose makes some, a filter fewer
    raw, smooth = (
        restore_fields(lambda x, s=s: Restored(gaussian_filter(x, s)), [glass], 2.0)[0].phantoms
        for s in (0.0, 2.5)
    )
    assert raw > 2 * smooth > 0


def test_coverage_and_progress():
    calls = []

    def told(counts):
        """Counts with the standard deviation of counting: 90 % of 10 counts lie within."""
        return Restored(counts, np.sqrt(np.maximum(counts, 1)))

    fields = [empty_field(), lattice_field(1, "square")]
    scores = restore_fields(told, fields, 100.0, progress=lambda: calls.append(1))
    assert len(calls) == 2
    assert scores[0].coverage == pytest.approx(0.9, abs=0.02)
    summary = summarise_fields(scores)
    assert summary["empty"]["coverage"][0] == scores[0].coverage
    assert set(summary) == {"empty", "square", "lattices"}
    with pytest.raises(ValueError, match=r"tiny gave an image \(2, 2\)"):
        restore_fields(lambda x: Restored(np.ones((2, 2))), fields, 1.0, name="tiny")
