"""Dice, IoU and average precision: areas by hand, matching rules, identities."""

import numpy as np
import pytest

from emjax.metrics.overlap import (
    COCO_THRESHOLDS,
    box_iou,
    boxes_from_corners,
    detection_precision,
    dice,
    iou,
    mask_iou,
    mean_average_precision,
)


def test_dice_and_iou_by_hand_and_their_identity():
    a, b = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    a[:4], b[2:6] = True, True
    assert iou(a, b) == 16 / 48
    assert dice(a, b) == 32 / 64
    assert dice(a, b) == pytest.approx(2 * iou(a, b) / (1 + iou(a, b)))
    assert dice(a, a) == iou(a, a) == 1
    assert dice(a, ~a) == iou(a, ~a) == 0
    empty = np.zeros((8, 8))
    assert dice(empty, empty) == iou(empty, empty) == 1
    assert dice(empty, a) == 0


def test_the_mean_of_images_is_not_the_score_of_all_pixels():
    truth, found = np.zeros((2, 8, 8)), np.zeros((2, 8, 8))
    truth[0], found[0] = 1, 1
    truth[1, 0, 0] = 1
    each = iou(found, truth, axis=(1, 2))
    assert each.tolist() == [1, 0]
    assert iou(found, truth) == 64 / 65


def test_box_iou_takes_centres():
    a = np.array([[1.0, 1, 2, 2]])  # 0 to 2 each way
    b = np.array([[2.0, 1, 2, 2], [1, 1, 2, 2], [5, 5, 1, 1], [1, 1, 1, 1]])
    assert box_iou(a, b)[0] == pytest.approx([1 / 3, 1, 0, 1 / 4])
    corners = np.array([[0.0, 0, 2, 2], [1, 0, 3, 2]])
    assert boxes_from_corners(corners).tolist() == [[1, 1, 2, 2], [2, 1, 2, 2]]
    assert box_iou(a, np.zeros((1, 4))) == 0


def test_mask_iou_is_iou_of_each_pair():
    masks = np.random.default_rng(0).random((3, 6, 6)) < 0.5
    table = mask_iou(masks, masks[:2])
    assert table.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            assert table[i, j] == pytest.approx(iou(masks[i], masks[j]))


def test_each_truth_is_given_away_once():
    truth = np.array([[5.0, 5, 4, 4], [20, 20, 4, 4]])
    found = np.array([[5.0, 5, 4, 4], [5, 5, 4, 3.9], [20, 20, 4, 4]])
    scores = np.array([0.9, 0.8, 0.7])
    images = [(found, scores, truth)]
    # hit, false alarm (a second claim), hit
    assert detection_precision(images, interpolation="step") == pytest.approx((1 + 2 / 3) / 2)
    assert detection_precision(images) == pytest.approx((1 + 2 / 3) / 2)
    assert detection_precision([(found[[0, 2]], scores[[0, 2]], truth)]) == 1


def test_the_envelope_is_above_the_steps():
    truth = np.array([[5.0, 5, 4, 4], [20, 20, 4, 4]])
    found = np.array([[50.0, 5, 4, 4], [5, 5, 4, 4], [20, 20, 4, 4]])
    images = [(found, [0.9, 0.8, 0.7], truth)]
    assert detection_precision(images, interpolation="step") == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert detection_precision(images) == pytest.approx(2 / 3)


def test_scores_are_ranked_over_all_images_together():
    box = np.array([[5.0, 5, 4, 4]])
    wrong = np.array([[50.0, 5, 4, 4]])
    sure = [(box, [0.9], box), (wrong, [0.1], box)]
    unsure = [(box, [0.1], box), (wrong, [0.9], box)]
    assert detection_precision(sure, interpolation="step") == 0.5
    assert detection_precision(unsure, interpolation="step") == 0.25


def test_nothing_there_and_nothing_found():
    none, box = np.zeros((0, 4)), np.array([[5.0, 5, 4, 4]])
    assert np.isnan(detection_precision([(none, [], none)]))
    assert np.isnan(detection_precision([(box, [0.5], none)]))
    assert detection_precision([(none, [], box)]) == 0


def test_map_over_classes_and_thresholds():
    truth = np.array([[5.0, 5, 10, 10, 0], [30, 30, 10, 10, 1]])
    found = np.array([[5.0, 6, 10, 10, 0.9, 0], [30, 30, 10, 10, 0.8, 1], [60, 60, 4, 4, 0.3, 2]])
    scores = mean_average_precision([(found, truth)], COCO_THRESHOLDS)
    assert scores.classes == (0, 1, 2)
    assert scores.table.shape == (3, 10)
    # class 0 overlaps by 90/110 = 0.818: a hit at 0.5 … 0.80
    assert scores.table[0].tolist() == [1] * 7 + [0] * 3
    assert scores.table[1].tolist() == [1] * 10
    assert np.isnan(scores.table[2]).all()
    assert scores.mean == pytest.approx((0.7 + 1) / 2)
    assert mean_average_precision([(found, truth)]).mean == 1


def test_any_similarity_will_do():
    points, truth = np.array([[0.0, 0], [9, 9]]), np.array([[0.0, 1], [5, 5]])

    def nearness(a, b):
        return -np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1))

    images = [(points, [0.9, 0.8], truth)]
    assert detection_precision(images, -2.0, similarity=nearness) == 0.5


def test_refusals():
    with pytest.raises(ValueError, match="must be equal"):
        dice(np.zeros((4, 4)), np.zeros((4, 5)))
    eight_bits = np.array([[0, 255]], np.uint8)
    for metric in (dice, iou, mask_iou):
        with pytest.raises(ValueError, match="from 0 to 255, where a mask has 0 and 1"):
            metric(eight_bits, eight_bits)
    with pytest.raises(ValueError, match=r"\[n, 4\]"):
        box_iou(np.zeros((2, 5)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="corners"):
        box_iou(np.array([[0.0, 0, -1, 1]]), np.zeros((1, 4)))
    with pytest.raises(ValueError, match="one each"):
        detection_precision([(np.zeros((2, 4)), [0.1], np.zeros((1, 4)))])
    with pytest.raises(ValueError, match=r"image 0: truths have shape \(5, 6\), not \[n, 5\]"):
        mean_average_precision([(np.zeros((0, 6)), np.zeros((5, 6)))])
    with pytest.raises(ValueError, match="interpolation"):
        detection_precision([], interpolation="11-point")
    with pytest.raises(ValueError, match=r"\[n, y, x\]"):
        mask_iou(np.zeros((2, 4, 4)), np.zeros((2, 4, 5)))
