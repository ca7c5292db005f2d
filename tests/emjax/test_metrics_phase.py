"""Scores of a phase: nothing that a pattern cannot know counts, everything else does."""

from __future__ import annotations

import numpy as np
import pytest

from emjax.metrics.phase import compare_phases

N, SAMPLING = 128, 0.15


def _truth():
    rng = np.random.default_rng(0)
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(N, SAMPLING), np.fft.fftfreq(N, SAMPLING)))
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(N, N))) * np.exp(-((k / 0.6) ** 2))).real
    return field / np.ptp(field)


def _score(phase, truth, **more):
    box = ((30, 34), (90, 94))
    told = {"corner": (20, 24), "box": box, "sampling": SAMPLING, **more}
    return compare_phases(phase[20:, 24:], truth, **told)


def _shifted(image, y, x):
    ky, kx = np.fft.fftfreq(N)[:, None], np.fft.fftfreq(N)[None]
    return np.fft.ifft2(np.fft.fft2(image) * np.exp(-2j * np.pi * (ky * y + kx * x))).real


def test_shift_constant_and_ramp_do_not_count():
    truth = _truth()
    y, x = np.mgrid[:N, :N]
    phase = _shifted(truth, 1.37, -2.62) + 0.7 + 0.004 * y - 0.003 * x
    score = _score(phase, truth)
    print(score)
    assert score.psnr > 50
    assert score.ssim > 0.999
    assert abs(score.scale - 1) < 1e-3
    np.testing.assert_allclose(score.shift, (-1.37, 2.62), atol=0.01)


def test_noise_counts_as_it_should():
    truth = _truth()
    noise = 0.1 * np.random.default_rng(1).normal(size=truth.shape)
    score = _score(truth + noise, truth, cutoff=1.0)
    # white noise through a disc of 1 / Å in a square of side 1 / sampling
    left = 0.1 * np.sqrt(np.pi * (1.0 * SAMPLING) ** 2)
    expected = 20 * np.log10(np.ptp(truth[30:90, 34:94]) / left)
    print(score.psnr, expected)
    assert abs(score.psnr - expected) < 1.0
    half = _score(0.5 * truth, truth)
    np.testing.assert_allclose(half.scale, 0.5, rtol=1e-3)


def test_resolution_is_where_the_noise_takes_over():
    truth = _truth()
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(N, SAMPLING), np.fft.fftfreq(N, SAMPLING)))
    other = np.fft.fft2(_truth()[::-1, ::-1])
    mixed = np.fft.ifft2(np.where(k < 1.0, np.fft.fft2(truth), other)).real
    assert abs(1 / _score(mixed, truth).frc - 1.0) < 0.2
    assert _score(truth, truth).frc == pytest.approx(2 * SAMPLING)


def test_wrapped_phases_and_boxes_outside():
    truth = 2 * _truth()
    wrapped = np.angle(np.exp(1j * (truth + 2.5)))
    assert _score(wrapped, truth, wrap=True).psnr > 50
    with pytest.raises(ValueError, match="lie inside"):
        _score(truth, truth, box=((0, 0), (90, 94)))
