"""Losses of classes: their identities, their minima, bad labels, and distances to outlines."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.ndimage import distance_transform_edt
from scipy.special import log_softmax, softmax

from emjax.losses import (
    binary_focal,
    boundary,
    check_labels,
    cross_entropy,
    dice,
    focal,
    sigmoid_cross_entropy,
    signed_distance,
    tversky,
)


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Losses run once here: to compile them takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(2, 6, 5, 3)), jnp.float32)
LABELS = RNG.integers(0, 3, (2, 6, 5))
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
W = RNG.uniform(size=(2, 6, 5)).astype(np.float32)
LOG = log_softmax(np.asarray(LOGITS, float), axis=-1)
NLL = -np.take_along_axis(LOG, LABELS[..., None], -1)[..., 0]
SURE = jnp.asarray(40.0 * ONE_HOT)
STATIC = ("gamma", "alpha", "power", "background", "smoothing")
DICE, TVERSKY, FOCAL, BINARY_FOCAL, CROSS_ENTROPY, SIGMOID_CROSS_ENTROPY = (
    jax.jit(f, static_argnames=[name for name in STATIC if name in signature(f).parameters])
    for f in (dice, tversky, focal, binary_focal, cross_entropy, sigmoid_cross_entropy)
)
ALL = [cross_entropy, focal, tversky, dice]


def test_cross_entropy_by_hand():
    assert float(CROSS_ENTROPY(LOGITS, LABELS)) == pytest.approx(NLL.mean(), rel=1e-5)
    assert float(CROSS_ENTROPY(LOGITS, LABELS, W)) == pytest.approx(
        (W * NLL).sum() / W.sum(), rel=1e-5
    )
    rare = np.array([1.0, 5.0, 0.5])
    assert float(CROSS_ENTROPY(LOGITS, LABELS, class_weight=rare)) == pytest.approx(
        (rare[LABELS] * NLL).sum() / rare[LABELS].sum(), rel=1e-5
    )
    smooth = 0.9 * NLL - 0.1 * LOG.mean(-1)
    assert float(CROSS_ENTROPY(LOGITS, LABELS, smoothing=0.1)) == pytest.approx(
        smooth.mean(), rel=1e-5
    )


@pytest.mark.parametrize("loss", ALL, ids=lambda f: f.__name__)
def test_labels_or_shares_left_out_or_wrong(loss):
    plain, loss = loss, jax.jit(loss, static_argnames="ignore")
    value = float(loss(LOGITS, LABELS, W))
    assert float(loss(LOGITS, ONE_HOT, W)) == pytest.approx(value, rel=1e-6)
    assert float(loss(SURE, LABELS)) == pytest.approx(0, abs=1e-5)
    slope = jax.grad(loss)(SURE, LABELS)
    assert np.isfinite(slope).all()
    assert np.isfinite(jax.grad(loss)(-SURE, LABELS)).all()

    some = np.where(RNG.uniform(size=LABELS.shape) < 0.3, 255, LABELS)
    left = float(loss(LOGITS, some, ignore=255))
    assert left == pytest.approx(float(loss(LOGITS, LABELS, some != 255)), rel=1e-6)
    moved = jnp.where((some == 255)[..., None], 7.0, LOGITS)
    assert float(loss(moved, some, ignore=255)) == pytest.approx(left, rel=1e-6)

    for wrong in (3, -1):
        bad = LABELS.copy()
        bad[0, 0, 0] = wrong
        assert np.isnan(float(loss(LOGITS, bad))), "labels outside of the classes are heard"
    with pytest.raises(ValueError, match=r"whole labels of shape \(2, 6, 5\) or shares"):
        plain(LOGITS, LABELS[..., None])


def test_wrong_labels_with_class_weights():
    bad = LABELS.copy()
    bad[0, 0, 0] = 9
    assert np.isnan(float(CROSS_ENTROPY(LOGITS, bad, class_weight=[1, 1, 1])))
    with pytest.raises(ValueError, match="2 class weights for 3 classes"):
        cross_entropy(LOGITS, LABELS, class_weight=[1, 1])


def test_one_class_has_no_softmax():
    """Its cross-entropy would be 0 for every network."""
    for loss, instead in ((cross_entropy, "sigmoid_cross_entropy"), (focal, "binary_focal")):
        with pytest.raises(ValueError, match=f"have one class, .* use {instead}"):
            loss(LOGITS[..., :1], (LABELS > 0).astype(int))


def test_masks_are_labels_too():
    mask = LABELS > 0
    expected = float(CROSS_ENTROPY(LOGITS[..., :2], mask.astype(int)))
    assert float(CROSS_ENTROPY(LOGITS[..., :2], mask)) == pytest.approx(expected, rel=1e-6)


def test_labels_are_checked_on_the_host():
    check_labels(LABELS, 3)
    check_labels(np.where(LABELS == 0, 255, LABELS), 3, ignore=255)
    with pytest.raises(ValueError, match=r"3 classes 0 to 2: 255 \(\d+ pixels\).*ignore=255"):
        check_labels(np.where(LABELS == 0, 255, LABELS), 3)


def test_focal_loss():
    assert float(FOCAL(LOGITS, LABELS, gamma=0)) == pytest.approx(
        float(CROSS_ENTROPY(LOGITS, LABELS)), rel=1e-6
    )
    p = np.exp(-NLL)
    expected = ((1 - p) ** 2 * NLL).mean()
    assert float(FOCAL(LOGITS, LABELS)) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(jax.grad(lambda x: focal(x, LABELS, gamma=0.5))(SURE)).all()


def test_binary_focal_loss():
    x, t = LOGITS, ONE_HOT
    plain = float(SIGMOID_CROSS_ENTROPY(x, t))
    assert float(BINARY_FOCAL(x, t, gamma=0, alpha=None)) == pytest.approx(plain, rel=1e-5)
    assert float(BINARY_FOCAL(x, t, gamma=0, alpha=0.5)) == pytest.approx(plain / 2, rel=1e-5)
    ours = float(BINARY_FOCAL(x, t))
    reference = optax.losses.sigmoid_focal_loss(x, t, alpha=0.25, gamma=2.0).mean()
    assert ours == pytest.approx(float(reference), rel=1e-4)
    assert np.isfinite(jax.grad(binary_focal)(200 * (2 * t - 1), t)).all()


def test_dice_and_tversky_by_hand():
    p = softmax(np.asarray(LOGITS, float), axis=-1)
    tp = (p * ONE_HOT).sum((1, 2))
    fp, fn = (p * (1 - ONE_HOT)).sum((1, 2)), ((1 - p) * ONE_HOT).sum((1, 2))
    expected = 1 - (2 * tp + 1) / (2 * tp + fp + fn + 1)
    assert float(DICE(LOGITS, LABELS)) == pytest.approx(expected.mean(), rel=1e-5)
    assert float(DICE(LOGITS, LABELS, background=False)) == pytest.approx(
        expected[:, 1:].mean(), rel=1e-5
    )
    t = 1 - (tp + 0.5) / (tp + 0.3 * fp + 0.7 * fn + 0.5)
    assert float(TVERSKY(LOGITS, LABELS)) == pytest.approx(t.mean(), rel=1e-5)
    assert float(TVERSKY(LOGITS, LABELS, power=0.75)) == pytest.approx((t**0.75).mean(), rel=1e-5)


def test_one_class_by_a_sigmoid():
    """One logit is the difference of two."""
    two = jnp.stack([jnp.zeros((2, 6, 5)), LOGITS[..., 0]], axis=-1)
    labels = LABELS > 0
    both = float(DICE(two, labels.astype(int), background=False))
    assert float(DICE(LOGITS[..., :1], labels.astype(int))) == pytest.approx(both, rel=1e-5)


def test_a_class_that_is_nowhere_costs_nothing():
    labels = np.zeros((1, 4, 4), int)
    logits = jnp.zeros((1, 4, 4, 2)).at[..., 0].set(40.0)
    assert float(DICE(logits, labels)) == pytest.approx(0, abs=1e-6)


def test_more_weight_on_what_is_missed_finds_more():
    """The derivative by the logit of an unsure pixel: towards the class for large β."""
    labels = np.array([[[1, 0]]])

    def slope(beta):
        f = lambda x: tversky(  # noqa: E731
            x, labels, false_positive=1 - beta, false_negative=beta, background=False
        )
        return float(jax.jit(jax.grad(f))(jnp.zeros((1, 1, 2, 2)))[0, 0, 0, 1])

    assert slope(0.9) < slope(0.1) < 0


# ---------------------------------------------------------------- outlines


@pytest.mark.parametrize("shape", [(11, 8), (5, 6, 7)])
def test_distances_are_those_of_scipy(shape):
    mask = RNG.uniform(size=(3, *shape)) < 0.2
    mask[1], mask[2] = True, False
    made = np.asarray(jax.jit(signed_distance)(mask))
    outside, inside = distance_transform_edt(~mask[0]), distance_transform_edt(mask[0])
    expected = np.where(mask[0], 0.5 - inside, outside - 0.5)
    np.testing.assert_allclose(made[0], expected, atol=1e-5)
    np.testing.assert_array_equal(made[1:], 0, "no outline")


def test_distances_of_classes_are_of_each_picture():
    """The form that the docstring gives for `boundary`; no axis may stand for another."""
    made = np.asarray(jax.jit(jax.vmap(signed_distance, -1, -1))(ONE_HOT))
    assert made.shape == ONE_HOT.shape
    inside, outside = (
        distance_transform_edt(m) for m in (ONE_HOT[1, ..., 2], 1 - ONE_HOT[1, ..., 2])
    )
    expected = np.where(ONE_HOT[1, ..., 2] > 0, 0.5 - inside, outside - 0.5)
    np.testing.assert_allclose(made[1, ..., 2], expected, atol=1e-5)


def test_the_boundary_loss_pulls_towards_the_outline():
    y, x = np.indices((16, 16))
    disc = (y - 8) ** 2 + (x - 8) ** 2 < 20
    distance = jax.jit(signed_distance)(disc[None])[..., None]
    shifts = [0, 1, 2, 4]
    costs = [
        float(
            boundary(jnp.asarray(30.0 * (2 * np.roll(disc, s, 1) - 1))[None, ..., None], distance)
        )
        for s in shifts
    ]
    assert costs == sorted(costs)
    expected = np.where(disc, np.asarray(distance)[0, ..., 0], 0).mean()
    assert costs[0] == pytest.approx(expected, rel=1e-4), "the least: all inside, none outside"
    slope = jax.grad(boundary)(jnp.zeros_like(distance), distance)
    np.testing.assert_array_equal(np.sign(slope), np.sign(distance))
