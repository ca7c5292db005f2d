"""Jitter and brightness of scan lines, recovered from simulated scans."""

from __future__ import annotations

import numpy as np
import pytest
from noisy_scans import field, line_shifts, record

from emjax.analysis.scan_errors import line_gain, line_jitter, row_shifts


def test_shifts_of_lines_to_a_hundredth_of_a_pixel():
    rng = np.random.default_rng(0)
    moved = rng.uniform(-3, 3, 64)
    x = np.arange(256.0)

    def lines(shift):
        centres = (30, 61, 99, 140, 166, 205, 230)
        return sum(np.exp(-((x - shift - c) ** 2) / 18) for c in centres) * np.ones((64, 1))

    shifts, without, alike = row_shifts(lines(0.0), lines(moved[:, None]), reach=5)
    assert np.abs(shifts - moved).max() < 0.02
    assert without.shape == (5, 64)
    assert alike.min() > 0.98


def test_jitter_and_its_correlation_from_one_image():
    sigmas, rhos = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        shift = line_shifts(rng, 256, 0.8, 0.5)
        shift *= 0.8 / shift.std()  # the truth of this image, not of the process
        found = line_jitter([record(rng, 20 * field(shift=shift), readout=0.5)])
        rhos.append(found.correlation - np.corrcoef(shift[1:], shift[:-1])[0, 1])
        sigmas.append(found.sigma)
        assert abs(found.sigma - 0.8) < 3 * found.sigma_error
    print(f"jitter {np.round(sigmas, 3)} of 0.8 px, correlation off by {np.round(rhos, 2)}")
    assert np.abs(np.array(sigmas) / 0.8 - 1).max() < 0.15
    assert np.abs(rhos).max() < 0.25


def test_no_jitter_is_found_where_there_is_none():
    found = line_jitter([record(np.random.default_rng(5), 50 * field(), readout=0.5)])
    assert found.sigma < 0.15


def test_repeats_give_the_jitter_of_one_image():
    rng = np.random.default_rng(6)
    both = [line_shifts(rng, 256, 0.6, 0.7) for _ in range(2)]
    images = [record(rng, 30 * field(shift=s)) for s in both]
    found = line_jitter([], pairs=[tuple(images)])
    difference = both[0] - both[1]
    assert found.sigma == pytest.approx(difference.std() / 2**0.5, rel=0.12)
    truth = np.corrcoef(difference[1:], difference[:-1])[0, 1]
    assert found.correlation == pytest.approx(truth, abs=0.12)


@pytest.mark.parametrize("true", [0.0, 0.03])
def test_brightness_of_lines(true):
    rng = np.random.default_rng(7)
    gain = 1 + true * rng.normal(size=256)
    image = record(rng, 60 * field() * gain[:, None])
    value, error = line_gain([image], 0.0)
    assert value == pytest.approx(gain.std(), abs=max(3 * error, 0.008))
    assert value < 0.012 or true > 0
    other = record(rng, 60 * field() * (1 + true * rng.normal(size=256))[:, None])
    value, error = line_gain([], 0.0, pairs=[(image, other)])
    assert value == pytest.approx(true, abs=0.008)


def test_too_short_lines_say_nothing():
    assert line_jitter([np.ones((64, 40))]) is None
