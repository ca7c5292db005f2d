"""Rand and information scores: pure splits and merges by hand, conventions, scikit-image."""

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error
from skimage.metrics import variation_of_information as skimage_variation

from emjax.metrics.segment_variants import adapted_rand, isbi2012, snemi3d, thin_borders
from emjax.metrics.segments import (
    entropy,
    information_scores,
    rand_scores,
    variation_of_information,
)

TRUTH = np.repeat([1, 2], 32).reshape(8, 8)  # two halves
SPLIT = TRUTH.copy()
SPLIT[:2] = 3  # one half cut in two quarters
RANDOM = np.random.default_rng(0).integers(0, 6, (2, 12, 12))


def test_a_pure_split_and_a_pure_merge_by_hand():
    """The two columns divide differently and are both right; the values swap with the roles."""
    rand, info = rand_scores(SPLIT, TRUTH), information_scores(SPLIT, TRUTH)
    assert rand == pytest.approx((0.75, 1.0, 0.375 / (0.5 * 0.375 + 0.5 * 0.5)))
    assert info == pytest.approx((2 / 3, 1.0, 0.8))
    assert rand_scores(TRUTH, SPLIT)[:2] == pytest.approx((1.0, 0.75))
    assert information_scores(TRUTH, SPLIT)[:2] == pytest.approx((1.0, 2 / 3))


@pytest.mark.parametrize("score", [rand_scores, information_scores])
def test_alpha_weights_merge(score):
    s, t = RANDOM
    split, merge, _ = score(s, t)
    assert score(s, t, alpha=1.0).f == pytest.approx(merge)
    assert score(s, t, alpha=0.0).f == pytest.approx(split)
    harmonic = 1 / (0.3 / merge + 0.7 / split)
    assert score(s, t, alpha=0.3).f == pytest.approx(harmonic)
    with pytest.raises(ValueError, match="alpha"):
        score(s, t, alpha=1.5)


@pytest.mark.parametrize("score", [rand_scores, information_scores, variation_of_information])
def test_the_names_of_segments_mean_nothing(score):
    s, t = RANDOM
    names = np.array([40, 7, 3, 99, 0, 5])
    assert score(names[s], t) == pytest.approx(score(s, t))
    perfect = 0 if score is variation_of_information else 1
    assert score(names[t], t) == pytest.approx((perfect,) * 3)


def test_one_segment_splits_nothing_and_is_worth_nothing():
    one = np.ones_like(TRUTH)
    assert information_scores(one, TRUTH) == (1.0, 0.0, 0.0)
    assert information_scores(TRUTH, one) == (0.0, 1.0, 0.0)
    assert information_scores(one, one) == (1.0, 1.0, 1.0)
    assert information_scores(one, TRUTH, alpha=0.0).f == 0
    assert rand_scores(one, TRUTH) == pytest.approx((1.0, 0.5, 2 / 3))
    assert rand_scores(one, one) == (1.0, 1.0, 1.0)


def test_entropy_has_its_minus():
    assert entropy(np.array([0.25, 0.25, 0.5])) == pytest.approx(1.5 * np.log(2))
    assert entropy(np.array([1.0, 0.0])) == 0


def test_variation_of_information_in_bits():
    assert variation_of_information(SPLIT, TRUTH) == pytest.approx((0.5, 0, 0.5))
    assert variation_of_information(TRUTH, SPLIT) == pytest.approx((0, 0.5, 0.5))
    s, t = RANDOM
    assert variation_of_information(s, t)[:2] == pytest.approx(skimage_variation(t, s))


def test_adapted_rand_is_scikit_images_with_the_names_put_right():
    """Its "precision" falls on a pure split, where nothing was merged: it is the split score."""
    error, precision, recall = adapted_rand_error(TRUTH, SPLIT)
    assert (precision < 0.75, recall) == (True, 1.0)
    mine = adapted_rand(SPLIT, TRUTH)
    assert mine == pytest.approx((error, precision, recall))
    assert mine.merge == 1.0
    s, t = RANDOM
    assert adapted_rand(s, t) == pytest.approx(adapted_rand_error(t, s))
    # its alpha weights the truth
    assert adapted_rand(s, t, alpha=0.2).error == pytest.approx(
        adapted_rand_error(t, s, alpha=0.8)[0]
    )
    assert adapted_rand(s, t, ignore=None) == pytest.approx(
        adapted_rand_error(t, s, ignore_labels=())
    )


def test_pairs_of_different_pixels_change_the_number_a_little():
    """With replacement 0.75, without (384 - 64 … over 2048 - 64 pairs) 0.746."""
    assert rand_scores(SPLIT, TRUTH).split == 0.75
    assert adapted_rand(SPLIT, TRUTH).split == pytest.approx((1536 - 64) / (2048 - 64))


def test_isbi_does_not_mind_the_width_of_a_border():
    truth = np.ones((16, 32), int)
    truth[:, 16:] = 2
    truth[:, 15:17] = 0
    for width in (1, 3, 5):
        prediction = np.ones((16, 32), int)
        prediction[:, 16:] = 7
        prediction[:, 16 - width : 16 + width] = 0
        rand, info = isbi2012(prediction, truth)
        assert rand == pytest.approx((1, 1, 1))
        assert info == pytest.approx((1, 1, 1))
        assert rand_scores(prediction, truth, ignore=0).f < 1 or width == 1
    assert thin_borders(np.array([[0, 0, 5, 0, 0, 0, 0, 3]])).tolist() == [[5] * 5 + [3] * 3]
    assert not thin_borders(np.zeros((3, 3), int)).any()


def test_snemi_takes_predicted_background_apart():
    truth = np.array([[1, 1, 1, 1, 0, 0]])
    prediction = np.array([[1, 1, 0, 0, 9, 9]])
    # segments of 2, 1 and 1 pixels within a true one of 4
    score = snemi3d(prediction, truth)
    assert score.split == pytest.approx((4 + 1 + 1) / 16)
    assert score.merge == 1
    assert score.error == pytest.approx(1 - 2 * 6 / (6 + 16))
    assert rand_scores(prediction, truth, ignore=0).split == pytest.approx((4 + 4) / 16)


def test_many_segments_fit_in_memory():
    labels = np.arange(40_000).reshape(200, 200)
    assert rand_scores(labels, labels) == pytest.approx((1, 1, 1))


def test_refusals():
    with pytest.raises(ValueError, match="must be equal"):
        rand_scores(TRUTH, TRUTH[:4])
    with pytest.raises(ValueError, match="not whole"):
        rand_scores(TRUTH + 0.5, TRUTH)
    for score in (rand_scores, information_scores):
        with pytest.raises(ValueError, match="left without"):
            score(TRUTH, np.zeros_like(TRUTH), ignore=0)
    with pytest.raises(ValueError, match="left without"):
        snemi3d(TRUTH, np.zeros_like(TRUTH))
