"""Gain, offset and read-out from the noise of images whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from noisy_scans import field, particle, record
from scipy.ndimage import gaussian_filter

from emjax.analysis.noise_checks import clipped_ends, grey_step, unclipped, whiteness
from emjax.analysis.photon_transfer import (
    band_level,
    find_comb,
    offset_within,
    photon_transfer,
)


def test_spectrum_of_white_noise_has_its_variance_at_all_frequencies():
    image = 3.0 * np.random.default_rng(0).normal(size=(256, 256))
    assert band_level(image, 0.4, 0.49) == pytest.approx(9, rel=0.03)
    assert band_level(image, 0.1, 0.3) == pytest.approx(9, rel=0.03)
    assert whiteness(image) == pytest.approx((1, 1), abs=0.07)


@pytest.mark.parametrize(
    ("gain", "offset", "dose", "readout"), [(40, 1000, 30, 2), (0.01, 0, 8, 1)]
)
def test_gain_within_five_percent_over_noise_seeds(gain, offset, dose, readout):
    errors, pulls = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        image = record(rng, dose * particle(), gain=gain, offset=offset, readout=readout)
        found = photon_transfer([image])
        errors.append(found.gain / gain - 1)
        pulls.append((found.gain - gain) / found.gain_error)
    print(f"gain off by {np.round(errors, 3)}, in its own errors {np.round(pulls, 1)}")
    assert np.max(np.abs(errors)) < 0.05
    assert np.max(np.abs(pulls)) < 4


def test_noise_in_the_mean_does_not_flatten_the_line():
    # two electrons a pixel: binning by a noisy local mean would lose a third of the slope
    image = record(np.random.default_rng(1), 2 * field(spacing=24, width=6), readout=1.0)
    found = photon_transfer([image])
    assert found.gain == pytest.approx(1, abs=0.12)
    assert found.gain == pytest.approx(1, abs=3 * found.gain_error)


def test_offset_from_the_skewness_of_the_noise():
    image = record(np.random.default_rng(2), 10 * particle(), offset=50, readout=1.0)
    found = photon_transfer([image])
    assert found.offset == pytest.approx(50, abs=0.3)
    assert found.offset == pytest.approx(50, abs=4 * found.offset_error)


@pytest.mark.parametrize(("readout", "offset"), [(0.0, 3.0), (0.25, 0.0), (0.35, 7.3)])
def test_comb_of_single_electrons(readout, offset):
    image = record(np.random.default_rng(3), 4 * particle(), gain=2.5, offset=offset,
                   readout=readout)  # fmt: skip
    found = find_comb(image.ravel(), 2.6, 0.1, 0.0)
    assert found.gain == pytest.approx(2.5, rel=0.01)
    assert found.gain == pytest.approx(2.5, abs=3 * found.gain_error + 1e-4)
    assert found.sigma == pytest.approx(readout, abs=0.015)
    distance = (found.phase - offset) / 2.5
    assert abs(distance - round(distance)) < 0.03


def test_no_comb_where_read_out_hides_it():
    image = record(np.random.default_rng(4), 4 * particle(), gain=2.5, readout=0.8)
    assert find_comb(image.ravel(), 2.6, 0.1, 0.0) is None
    # whole numbers are a comb of their own, which says nothing about the gain
    assert find_comb(np.rint(image).ravel(), 1.0, 0.05, 1.0) is None


def test_estimate_between_bounds():
    assert offset_within(5.0, 0.1, 0.0, 10.0) == pytest.approx((5, 0.1), rel=1e-6)
    assert offset_within(float("nan"), 1.0, 0.0, 12.0) == pytest.approx((6, 12 / 12**0.5))
    mean, deviation = offset_within(0.0, 1.0, 0.0, 50.0)  # a half normal law
    assert (mean, deviation) == pytest.approx(((2 / np.pi) ** 0.5, (1 - 2 / np.pi) ** 0.5))
    assert offset_within(-99.0, 1.0, 0.0, 5.0) == (0.0, 1.0)


def test_steps_of_grey_values():
    rng = np.random.default_rng(5)
    counts = rng.poisson(20.0, (64, 64)).astype(float)
    assert grey_step(counts) == 1
    assert grey_step(4 * counts) == 4
    assert grey_step(counts + rng.normal(size=counts.shape)) == 0


def test_clipping_is_found_and_poisson_zeros_are_not_clipping():
    rng = np.random.default_rng(6)
    counts = rng.poisson(2 * particle(128)).astype(float)
    assert clipped_ends(counts, 1.0) == (None, None)
    assert clipped_ends(rng.poisson(0.1, (128, 128)).astype(float), 1.0) == (None, None)
    wide = np.rint(record(rng, 40 * particle(128), gain=8, offset=5, readout=2))
    assert clipped_ends(np.clip(wide, 0, 255), 1.0) == (0.0, 255.0)
    real = record(rng, 40 * particle(128), readout=2)
    assert clipped_ends(real, 0.0) == (None, None)
    assert clipped_ends(np.minimum(real, 30), 0.0) == (None, 30.0)
    mask = unclipped(np.minimum(real, 30), (None, 30.0))
    assert 0 < mask.mean() < 1
    assert not mask[np.minimum(real, 30) == 30].any()


@pytest.mark.parametrize("sigma", [0.6, 1.0])
def test_smoothing_makes_the_noise_correlated(sigma):
    image = record(np.random.default_rng(7), 30 * particle(), readout=1)
    assert min(whiteness(image)) > 0.9
    assert max(whiteness(gaussian_filter(image, sigma))) < 0.75
