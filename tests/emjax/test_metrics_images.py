"""MSE, PSNR, SSIM and figures of a fit: closed forms, scikit-image, and how each can deceive."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from emjax.metrics.goodness import poisson_chi_squared, r_factor, r_squared, signal_to_noise
from emjax.metrics.image_quality import global_ssim, mae, mse, psnr, ssim, ssim_map, ssim_terms
from emjax.metrics.series import consecutive_similarity, residual_correlation

RNG = np.random.default_rng(0)
TRUTH = 0.5 + 0.4 * np.sin(np.arange(32) / 3)[:, None] * np.cos(np.arange(40) / 4)[None]
NOISY = TRUTH + RNG.normal(0, 0.1, TRUTH.shape)


def test_mse_and_psnr_in_closed_form():
    assert mse(TRUTH + 0.1, TRUTH) == pytest.approx(0.01)
    assert mae(TRUTH - 0.1, TRUTH) == pytest.approx(0.1)
    assert psnr(TRUTH + 0.1, TRUTH, data_range=1) == pytest.approx(20)
    assert psnr(TRUTH, TRUTH, data_range=1) == np.inf
    assert psnr(NOISY, TRUTH, data_range=1) == pytest.approx(
        peak_signal_noise_ratio(TRUTH, NOISY, data_range=1)
    )


def test_the_logarithm_of_psnr_is_to_base_ten():
    """A natural logarithm, as printed, would say 46.2 dB for this 20.1 dB image."""
    value = psnr(np.full((4, 4), np.sqrt(0.00983213)), np.zeros((4, 4)), data_range=1)
    assert value == pytest.approx(20.07, abs=0.005)
    assert value * np.log(10) == pytest.approx(46.22, abs=0.01)


def test_the_range_of_whole_numbers_is_their_types_and_floats_need_one():
    image = RNG.integers(0, 256, (16, 16)).astype(np.uint8)
    other = np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8)
    assert psnr(other, image) == pytest.approx(peak_signal_noise_ratio(image, other))
    assert ssim(other, image) == pytest.approx(ssim(other / 255, image / 255, data_range=1))
    for metric in (psnr, ssim, global_ssim):
        with pytest.raises(ValueError, match="data_range is needed"):
            metric(NOISY, TRUTH)
    with pytest.raises(ValueError, match="data_range 0"):
        psnr(NOISY, TRUTH, data_range=0)


def test_the_mean_of_psnr_is_not_the_psnr_of_the_mean():
    truth = np.zeros((2, 8, 8))
    found = truth + np.array([0.1, 0.01])[:, None, None]
    each = psnr(found, truth, data_range=1, axis=(1, 2))
    assert each == pytest.approx([20, 40])
    assert psnr(found, truth, data_range=1) == pytest.approx(10 * np.log10(1 / 0.00505))


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({}, {"gaussian_weights": True, "use_sample_covariance": False}),
        ({"sigma": 0.8, "size": 7}, {"gaussian_weights": True, "sigma": 0.8}),
        ({"window": "uniform"}, {"use_sample_covariance": False}),
        ({"window": "uniform", "sample_covariance": True}, {}),
        ({"window": "uniform", "size": 5, "constants": (0.02, 0.1)}, {"win_size": 5}),
    ],
)
def test_windowed_ssim_is_scikit_images(mine, theirs):
    theirs = {"use_sample_covariance": mine.get("sample_covariance", False), **theirs}
    if "constants" in mine:
        theirs |= {"K1": 0.02, "K2": 0.1}
    expected = structural_similarity(NOISY, TRUTH, data_range=1, **theirs)
    assert ssim(NOISY, TRUTH, data_range=1, **mine) == pytest.approx(expected, abs=1e-12)


def test_ssim_of_batches_channels_and_volumes():
    a, b = RNG.random((2, 2, 14, 15, 3))
    each = ssim(a, b, data_range=1, axes=(1, 2))
    assert each.shape == (2, 3)
    assert each[1, 2] == pytest.approx(ssim(a[1, :, :, 2], b[1, :, :, 2], data_range=1))
    assert ssim_map(a[0], b[0], data_range=1, axes=(0, 1)).shape == (4, 5, 3)
    v, w = RNG.random((2, 8, 8, 8))
    expected = structural_similarity(v, w, data_range=1, use_sample_covariance=False)
    mine = ssim(v, w, data_range=1, axes=(0, 1, 2), window="uniform")
    assert mine == pytest.approx(expected)


def test_the_window_must_be_said():
    """One pair of images, three numbers that papers all call SSIM."""
    noisy = TRUTH + RNG.normal(0, 0.15, TRUTH.shape)
    whole = global_ssim(noisy, TRUTH, data_range=1)
    gaussian = ssim(noisy, TRUTH, data_range=1)
    uniform = ssim(noisy, TRUTH, data_range=1, window="uniform")
    assert whole - gaussian > 0.1
    assert abs(uniform - gaussian) > 0.01


def test_the_printed_product_is_the_usual_form_and_fixes_the_mse():
    f, g = NOISY, TRUTH
    covariance = ((f - f.mean()) * (g - g.mean())).mean()
    c1, c2 = 0.01**2, 0.03**2
    usual = (2 * f.mean() * g.mean() + c1) * (2 * covariance + c2)
    usual /= (f.mean() ** 2 + g.mean() ** 2 + c1) * (f.var() + g.var() + c2)
    assert global_ssim(f, g, data_range=1) == pytest.approx(usual, abs=1e-12)
    terms = ssim_terms(f, g, data_range=1)
    assert np.prod(terms) == pytest.approx(usual, abs=1e-12)
    # Hore and Ziou: PSNR follows from the ingredients of SSIM
    parts = f.var() + g.var() - 2 * covariance + (f.mean() - g.mean()) ** 2
    assert mse(f, g) == pytest.approx(parts, abs=1e-12)


def test_ssim_is_not_bounded_by_zero():
    assert ssim(TRUTH, TRUTH, data_range=1) == pytest.approx(1)
    assert global_ssim(1 - TRUTH, TRUTH, data_range=1) < -0.9
    a, b = RNG.random((2, 64, 64))
    assert abs(global_ssim(a, b, data_range=1)) < 0.1


def lattice_series():
    y, x = np.mgrid[:48, :48]
    bright = (1 + np.cos(2 * np.pi * x / 8)) * (1 + np.cos(2 * np.pi * y / 8))
    rate = 2 * bright / bright.mean()
    return rate, RNG.poisson(rate, (4, 48, 48)).astype(float)


def test_css_can_be_gamed():
    """The worse the image, the better the score; the residual and the truth say so."""
    rate, frames = lattice_series()
    peak = float(rate.max())
    results = {
        "constant": np.full_like(frames, frames.mean()),
        "sigma 8": gaussian_filter(frames, (0, 8, 8), mode="wrap"),
        "sigma 1": gaussian_filter(frames, (0, 1, 1), mode="wrap"),
    }
    css = {k: consecutive_similarity(v, data_range=peak) for k, v in results.items()}
    true = {k: ssim(v[0], rate, data_range=peak) for k, v in results.items()}
    assert css["constant"] == pytest.approx(1)
    assert css["sigma 8"] > 0.95
    assert css["sigma 1"] < css["sigma 8"]
    assert true["sigma 1"] > max(true["constant"], true["sigma 8"]) + 0.3
    left = {k: abs(residual_correlation(frames, v).mean()) for k, v in results.items()}
    assert left["constant"] > 0.1
    assert left["sigma 8"] > 0.1
    truth_left = residual_correlation(frames, np.broadcast_to(rate, frames.shape))
    assert np.abs(truth_left).max() < 4 / np.sqrt(2 * 48 * 48)
    whole = consecutive_similarity(results["sigma 8"], data_range=peak, windowed=False)
    assert whole > 0.9


def test_nothing_removed_is_no_clean_residual():
    assert np.isnan(residual_correlation(NOISY, NOISY))
    with pytest.raises(ValueError, match="at least two"):
        consecutive_similarity(NOISY, data_range=1)


def test_r_squared_sees_scale_and_offset_where_correlation_does_not():
    t = RNG.normal(size=200)
    assert r_squared(t, t) == 1
    assert r_squared(np.full(200, t.mean()), t) == pytest.approx(0)
    assert np.corrcoef(3 * t + 1, t)[0, 1] == pytest.approx(1)
    assert r_squared(3 * t + 1, t) < -3
    assert np.isnan(r_squared([1.0, 2], [3.0, 3]))


def test_r_factor_and_chi_squared():
    truth = np.array([1.0, 2, 5])
    assert r_factor(1.1 * truth, truth) == pytest.approx(0.1)
    assert r_factor(truth * np.exp(1j), truth) == pytest.approx(0)
    rate = np.full(40_000, 3.0)
    counts = RNG.poisson(rate)
    assert poisson_chi_squared(counts, rate) == pytest.approx(1, abs=4 * np.sqrt(2 / 40_000))
    assert poisson_chi_squared(counts, rate * 2) > 1.2
    assert poisson_chi_squared([1, 4, 0], [2, 2, 0]) == pytest.approx((1 / 2 + 4 / 2) / 2)


def test_complex_images():
    wave = np.exp(1j * NOISY)
    assert psnr(wave + 0.1j, wave, data_range=1) == pytest.approx(20)
    assert r_squared(wave, wave) == 1
    assert np.isrealobj(r_squared(1.1 * wave, wave))
    for metric in (ssim, global_ssim):
        with pytest.raises(ValueError, match="real images"):
            metric(wave, wave, data_range=1)


def test_counts_where_none_can_be_refute_the_model():
    assert poisson_chi_squared([3, 2], [0.0, 2]) == np.inf


def test_rates_are_not_negative():
    with pytest.raises(ValueError, match="1 of 2 values are below 0"):
        poisson_chi_squared([1, 2], [-1.0, 2])


def test_signal_to_noise_in_decibels():
    noise = np.where(np.indices(TRUTH.shape).sum(0) % 2, 0.1, -0.1)
    expected = 10 * np.log10(TRUTH.var() / 0.01)
    assert signal_to_noise(TRUTH + noise, TRUTH) == pytest.approx(expected)
    assert signal_to_noise(TRUTH + 5, TRUTH) > 250  # rounding errors alone
    assert signal_to_noise(np.zeros(4), np.zeros(4)) == -np.inf


def test_refusals():
    with pytest.raises(ValueError, match="is empty"):
        mse(np.zeros((0, 4)), np.zeros((0, 4)))
    with pytest.raises(ValueError, match="must be equal"):
        mse(np.zeros((4, 4)), np.zeros((4, 4, 1)))
    with pytest.raises(ValueError, match="1 of 16 values are not finite"):
        mse(np.where(np.eye(4) * np.arange(4) == 3, np.nan, 0), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="smaller odd size"):
        ssim(np.zeros((8, 8)), np.zeros((8, 8)), data_range=1)
    with pytest.raises(ValueError, match="odd number"):
        ssim(NOISY, TRUTH, data_range=1, size=8)
    with pytest.raises(ValueError, match="window"):
        ssim(NOISY, TRUTH, data_range=1, window="hann")
