"""FRC, thresholds, SSNR and bias per ring: closed forms, and what FRC does not see."""

import jax
import numpy as np
import pytest

from emjax.metrics.resolution import (
    RingCurve,
    bit_threshold,
    fourier_correlation,
    resolution,
    sigma_threshold,
    split_counts,
    ssnr_from_correlation,
)
from emjax.metrics.rings import rings_of
from emjax.metrics.spectral import fourier_bias, ssnr, transfer

RNG = np.random.default_rng(0)


def filtered(image, gain):
    """An image times a function of the frequency (cycles per pixel)."""
    k = np.sqrt(sum(g**2 for g in np.meshgrid(*map(np.fft.fftfreq, image.shape), indexing="ij")))
    return np.fft.ifftn(np.fft.fftn(image) * gain(k)).real


def test_rings_hold_every_pixel_to_nyquist_once():
    rings = rings_of((16, 16), (0.5, 0.5))
    assert rings.frequency == pytest.approx(np.arange(1, 9) / 8)
    assert rings.frequency[-1] == 1 / (2 * 0.5)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(16), np.fft.fftfreq(16))) * 16
    for i, count in enumerate(rings.count, start=1):
        assert count == ((k >= i - 0.5) & (k < i + 0.5)).sum()
        assert (rings.members[i - 1] < 256).sum() == count
    oblong = rings_of((16, 40), (1.0, 0.5))
    assert oblong.frequency[-1] == pytest.approx(0.5)


def test_equal_images_correlate_fully_and_noise_by_chance():
    a, b = RNG.normal(size=(2, 64, 64))
    same = fourier_correlation(a, 3 * a + 7)
    assert same.value == pytest.approx(1, abs=1e-9)
    assert fourier_correlation(a, -a).value == pytest.approx(-1, abs=1e-9)
    chance = fourier_correlation(a, b, window=None)
    assert (np.abs(chance.value) < sigma_threshold(chance.count, 4)).all()


def test_frc_of_white_signal_and_noise_is_snr_over_one_plus_snr():
    signal = RNG.normal(size=(1, 128, 128))
    halves = signal + RNG.normal(0, 2, (2, 128, 128))
    curve = fourier_correlation(*halves, window=None)
    snr = 1 / 4
    assert np.average(curve.value, weights=curve.count) == pytest.approx(snr / (1 + snr), abs=0.02)
    assert ssnr_from_correlation(snr / (1 + snr)) == pytest.approx(2 * snr)
    assert ssnr_from_correlation([-0.2, 1.0]).tolist() == [0, np.inf]


def test_shells_of_a_volume_and_batches():
    volume = RNG.normal(size=(12, 12, 12))
    curve = fourier_correlation(volume, volume, ndim=3, sampling=2.0)
    assert curve.frequency == pytest.approx(np.arange(1, 7) / 24)
    assert curve.value == pytest.approx(1)
    batch = fourier_correlation(volume, volume[::-1])
    assert batch.value.shape == (12, 6)
    one = fourier_correlation(volume[3], volume[-4])
    assert batch.value[3] == pytest.approx(one.value, abs=1e-12)


def test_thresholds_as_published():
    n = np.array([16.0, 1e12])
    half = (0.2071 + 1.9102 / np.sqrt(n)) / (1.2071 + 0.9102 / np.sqrt(n))
    one = (0.5 + 2.4142 / np.sqrt(n)) / (1.5 + 1.4142 / np.sqrt(n))
    assert bit_threshold(n) == pytest.approx(half, abs=1e-4)
    assert bit_threshold(n, 1.0) == pytest.approx(one, abs=1e-4)
    assert bit_threshold(n)[1] == pytest.approx(0.1716, abs=1e-4)
    assert sigma_threshold(np.array([18.0])) == 1


def test_the_crossing_is_linear_between_rings():
    f = np.array([0.1, 0.2, 0.3, 0.4])
    curve = RingCurve(f, np.array([1.0, 0.9, 0.1, 0.8]), np.array([8, 16, 24, 32]))
    found = resolution(curve, 0.5)
    assert found.frequency == pytest.approx(0.25)
    assert found.length == pytest.approx(4)
    assert not found.limited
    assert resolution(curve, "one-bit").frequency < resolution(curve, "half-bit").frequency
    assert resolution(curve, "3-sigma").frequency > 0
    bound = resolution(curve._replace(value=np.ones(4)))
    assert bound == (2.5, 0.4, True)
    nothing = resolution(curve._replace(value=np.zeros(4)))
    assert nothing == (10, 0.1, False)


def test_a_known_band_limit_is_found():
    truth = filtered(RNG.normal(size=(96, 96)), lambda k: k < 0.25)
    halves = truth + RNG.normal(0, 0.1, (2, 96, 96))
    found = resolution(fourier_correlation(*halves, sampling=0.2, window=None))
    assert found.length == pytest.approx(0.2 / 0.25, rel=0.05)


def test_frc_does_not_see_a_filter_and_the_transfer_does():
    truth = RNG.normal(size=(64, 64))
    halves = truth + RNG.normal(0, 0.3, (2, 64, 64))

    def gain(k):
        return np.exp(-((k / 0.2) ** 2))

    blurred = [filtered(h, gain) for h in halves]
    sharp = fourier_correlation(*halves, window=None)
    soft = fourier_correlation(*blurred, window=None)
    # only inside a ring does the filter change weights
    assert np.abs(sharp.value - soft.value).max() < 0.05
    bias = fourier_bias(filtered(truth, gain), truth, window=None)
    assert bias.value == pytest.approx(gain(bias.frequency) - 1, abs=0.02)
    assert bias.value[-1] < -0.99
    assert np.abs(fourier_bias(halves[0], truth, window=None).value).max() < 0.2


def test_a_prior_shared_by_both_halves_looks_like_resolution():
    truth, prior = RNG.normal(size=(2, 64, 64))
    halves = truth + prior + RNG.normal(0, 0.1, (2, 64, 64))
    assert fourier_correlation(*halves).value.mean() > 0.95
    assert fourier_correlation(halves[0], truth).value.mean() < 0.8


def test_ssnr_against_the_truth():
    truth = RNG.normal(size=(128, 128))
    noisy = truth + RNG.normal(0, 0.5, truth.shape)
    curve = ssnr(noisy, truth, window=None)
    assert np.average(curve.value, weights=curve.count) == pytest.approx(4, rel=0.05)
    # a pure loss of amplitude is an error too: (1 / (1 - H))²
    assert ssnr(0.5 * truth, truth).value == pytest.approx(4)
    assert transfer(0.5 * truth, truth).value == pytest.approx(0.5)
    assert np.isinf(ssnr(truth, truth).value).all()


def test_one_exposure_is_split_into_independent_halves():
    rate = np.full((64, 64), 20.0)
    counts = RNG.poisson(rate).astype(float)
    a, b = split_counts(jax.random.key(0), counts)
    assert np.array_equal(np.asarray(a + b), counts)
    assert float(a.mean()) == pytest.approx(10, abs=0.2)
    assert float(a.var()) == pytest.approx(10, rel=0.1)
    assert abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]) < 4 / 64
    with pytest.raises(ValueError, match="whole numbers"):
        split_counts(jax.random.key(0), rate + 0.5)


def test_refusals():
    image = np.zeros((16, 16))
    with pytest.raises(ValueError, match="must be equal"):
        fourier_correlation(image, image[:8])
    with pytest.raises(ValueError, match="at least 4"):
        fourier_correlation(image[:2], image[:2])
    with pytest.raises(ValueError, match="window"):
        fourier_correlation(image, image, window="box")
    with pytest.raises(ValueError, match="sampling"):
        fourier_correlation(image, image, sampling=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="ndim=3"):
        fourier_correlation(image, image, ndim=3)
    curve = fourier_correlation(np.zeros((2, 16, 16)), np.zeros((2, 16, 16)))
    assert not curve.value.any()
    with pytest.raises(ValueError, match="one image's curve"):
        resolution(curve)
    with pytest.raises(ValueError, match="half-bit"):
        resolution(curve._replace(value=curve.value[0]), "two-bit")
