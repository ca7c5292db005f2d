"""The same function on JAX arrays, in `jit`, equals its NumPy reference to 1e-6; gradients."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.metrics import (
    calibration,
    confusion,
    goodness,
    image_quality,
    localisation,
    overlap,
    resolution,
    segments,
    series,
    spectral,
)

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Each metric runs once here: to compile it takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


TEXTURE = RNG.normal(0, 0.1, (20, 24)).astype(np.float32)
IMAGE = (0.5 + 0.3 * np.sin(np.arange(20) / 2)[:, None] * np.ones(24)).astype(np.float32)
NOISY = (IMAGE + RNG.normal(0, 0.1, IMAGE.shape)).astype(np.float32)
MASKS = RNG.random((2, 3, 8, 8)) < 0.5
LABELS = RNG.integers(0, 4, (2, 12, 12))
ONE, TWO = np.zeros((12, 12), int), np.repeat([0, 1], 72).reshape(12, 12)
SCORES = RNG.integers(0, 9, 50).astype(np.float32)
TRUTH = RNG.random(50) < 0.4
SOME = RNG.random(50) < 0.8
P = RNG.dirichlet(np.ones(4), 200).astype(np.float32)
CLASSES = RNG.integers(0, 4, 200)
POINTS = RNG.normal(size=(2, 10, 2)).astype(np.float32)
BOXES = RNG.uniform(1, 6, (2, 5, 4)).astype(np.float32)
SIGMA = RNG.uniform(0.5, 2, 50).astype(np.float32)
BOUNDED = {"labels": (4, 4)}


def rates(prediction, truth):
    c = confusion.counts_of(confusion.confusion_matrix(prediction, truth, 4, ignore=3))
    return [c.sensitivity, c.specificity, c.precision, c.f1, c.iou, c.accuracy, c.correlation]


def ranking(scores, truth, valid):
    return [
        confusion.roc_auc(scores, truth, valid=valid),
        confusion.average_precision(scores, truth, valid=valid),
        confusion.average_precision(scores, truth, positives=40),
    ]


def partitions(s, t):
    return [
        segments.rand_scores(s, t, alpha=0.3, **BOUNDED),
        segments.rand_scores(s, t, ignore=0, **BOUNDED),
        segments.information_scores(s, t, **BOUNDED),
        segments.variation_of_information(s, t, **BOUNDED),
    ]


def images(a, b):
    return [
        image_quality.mse(a, b),
        image_quality.mae(a, b, axis=0),
        image_quality.psnr(a, b, data_range=1.0) / 30,
        image_quality.ssim(a, b, data_range=1.0),
        image_quality.ssim(a + 20, b + 20, data_range=1.0),
        image_quality.ssim(a, b, data_range=1.0, window="uniform", sample_covariance=True),
        image_quality.global_ssim(a, b, data_range=1.0),
        series.residual_correlation(a, b),
        goodness.r_squared(a, b),
        goodness.r_factor(a, b),
        goodness.signal_to_noise(a, b) / 10,
    ]


def rings(a, b):
    frc = resolution.fourier_correlation(a, b)
    return [
        frc.value,
        resolution.fourier_correlation(a, b, window=None, sampling=(0.5, 0.4)).value,
        resolution.bit_threshold(frc.count),
        spectral.transfer(a, b).value,
    ]


def honesty(p, truth):
    sure, right = calibration.top_label(p, truth)
    return [
        calibration.calibration_error(sure, right),
        calibration.calibration_error(sure, right, equal_counts=True, worst=True),
        calibration.brier_score(p, truth),
    ]


def error_bars(p, sigma, t):
    return [
        calibration.coverage(p, sigma, t),
        calibration.interval_calibration_error(p, sigma, t, (0.5, 0.9)),
        calibration.standardised_spread(p, sigma, t),
    ]


CASES = {
    "rates": (rates, LABELS[0], LABELS[1]),
    "pixel_error": (confusion.pixel_error, LABELS[0], LABELS[1]),
    "ranking": (ranking, SCORES, TRUTH, SOME),
    # minus an unsigned number is no smaller number
    "ranking of 8 bits": (confusion.average_precision, SCORES.astype(np.uint8), TRUTH),
    "dice": (overlap.dice, MASKS[0], MASKS[1]),
    "iou": (lambda a, b: overlap.iou(a, b, axis=(1, 2)), MASKS[0], MASKS[1]),
    "mask_iou": (overlap.mask_iou, MASKS[0], MASKS[1]),
    "box_iou": (overlap.box_iou, BOXES[0], BOXES[1]),
    "segments": (partitions, LABELS[0], LABELS[1]),
    "one segment": (partitions, ONE + 1, TWO + 1),
    "one true segment": (partitions, TWO + 1, ONE + 1),
    "images": (images, NOISY, IMAGE),
    "css": (
        lambda f: series.consecutive_similarity(f, data_range=1.0),
        np.stack([NOISY, IMAGE, IMAGE]),
    ),
    "chi": (goodness.poisson_chi_squared, SCORES, SIGMA * 4),
    "rings": (rings, NOISY, NOISY + TEXTURE),
    "ssnr": (lambda a, b: 1 / (1 + 1 / spectral.ssnr(a, b).value), NOISY, NOISY[::-1]),
    "honesty": (honesty, P, CLASSES),
    "error bars": (error_bars, SCORES, SIGMA * 3, SCORES[::-1]),
    "positions": (localisation.position_errors, POINTS[0], POINTS[1]),
}


@pytest.mark.parametrize("name", CASES)
def test_jit_equals_the_reference(name):
    function, *arrays = CASES[name]
    reference = jax.tree.leaves(function(*arrays))
    compiled = jax.tree.leaves(jax.jit(function)(*map(jnp.asarray, arrays)))
    assert len(reference) == len(compiled) > 0
    for r, c in zip(reference, compiled, strict=True):
        assert not isinstance(r, jax.Array)
        np.testing.assert_allclose(np.asarray(c), r, rtol=1e-6, atol=1e-6)


def test_the_reference_is_float64_whatever_comes_in():
    half = IMAGE.astype(np.float16)
    assert image_quality.ssim_map(half, half, data_range=1).dtype == np.float64
    fine = image_quality.mse(jnp.asarray(NOISY, jnp.bfloat16), jnp.asarray(IMAGE, jnp.bfloat16))
    assert fine.dtype == jnp.float32


@pytest.mark.parametrize("constant", [False, True])
def test_image_metrics_have_finite_gradients(constant):
    target = jnp.full((16, 16), 0.5) if constant else jnp.asarray(IMAGE[:16, :16])

    def score(x):
        return (
            image_quality.ssim(x, target, data_range=1.0)
            + resolution.fourier_correlation(x, target).value.mean()
            + image_quality.psnr(x, target, data_range=1.0) / 100
            + overlap.dice(x, target)
        )

    start = target if constant else jnp.asarray(NOISY[:16, :16])
    assert np.isfinite(jax.jit(jax.grad(score))(start)).all()


def test_vmap_is_a_loop():
    a, b = jnp.asarray(RNG.random((2, 3, 12, 12)), jnp.float32)
    batch = jax.jit(jax.vmap(lambda x, y: image_quality.ssim(x, y, data_range=1.0)))(a, b)
    loop = image_quality.ssim(np.asarray(a), np.asarray(b), data_range=1.0)
    np.testing.assert_allclose(batch, loop, rtol=1e-6, atol=1e-6)
    labels = jnp.asarray(RNG.integers(0, 4, (2, 3, 8, 8)))
    f = jax.jit(jax.vmap(lambda x, y: segments.rand_scores(x, y, **BOUNDED).f))(*labels)
    one = segments.rand_scores(*np.asarray(labels)[:, 1]).f
    np.testing.assert_allclose(f[1], one, rtol=1e-6)


def test_what_jax_cannot_check_is_left_out_or_nan():
    labels = jnp.array([0, 1, 7])

    @jax.jit
    def all_three(labels):
        matrix = confusion.confusion_matrix(labels, jnp.array([0, 1, 1]), 2)
        nothing = segments.rand_scores(labels, 0 * labels, ignore=0, labels=(2, 2))
        return matrix.sum(), nothing.f, confusion.roc_auc(labels, labels >= 0)

    counted, *undefined = all_three(labels)
    assert counted == 2
    assert np.isnan(undefined).all()
    with pytest.raises(ValueError, match="labels="):
        segments.rand_scores(labels, labels)


def test_nan_is_never_a_good_score():
    """A network that diverged has no infinite PSNR, no error of 0, and no perfect ranking."""

    @jax.jit
    def scores(a, b):
        return [
            image_quality.psnr(a, b, data_range=1.0),
            goodness.signal_to_noise(a, b),
            localisation.position_errors(a[:, :2], b[:, :2])[2:],
            calibration.standardised_spread(a, jnp.ones_like(a), b),
            resolution.fourier_correlation(a, b).value,
            confusion.roc_auc(a, b > 0.5),
            confusion.average_precision(a, b > 0.5),
        ]

    broken = jnp.asarray(NOISY).at[0, 0].set(jnp.nan)
    for value in jax.tree.leaves(scores(broken, jnp.asarray(IMAGE))):
        assert np.isnan(value).all()
    with pytest.raises(ValueError, match="rings of the curve are not finite"):
        resolution.resolution(resolution.fourier_correlation(broken, jnp.asarray(IMAGE)))
    _, correct = calibration.top_label(jnp.full((1, 2), jnp.nan), jnp.array([0]))
    assert not correct[0], "argmax takes NaN for the largest"


def test_lists_beside_jax_arrays():
    assert float(image_quality.mse(jnp.ones(3), [1.0, 2.0, 3.0])) == pytest.approx(5 / 3)


def test_more_digits_where_they_are_wanted(x64):
    a, b = (jnp.asarray(v, jnp.float64) for v in (NOISY, IMAGE))
    mine = jax.jit(lambda x, y: resolution.fourier_correlation(x, y).value)(a, b)
    reference = resolution.fourier_correlation(NOISY, IMAGE).value
    np.testing.assert_allclose(mine, reference, rtol=1e-9, atol=1e-9)
