"""`calibrate_noise`: one image in, the simulators' noise models out."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from noisy_scans import field, line_shifts, particle, record
from scipy.ndimage import convolve1d, gaussian_filter

from emjax.analysis.noise_calibration import (
    CalibrationError,
    Estimate,
    NoiseCalibration,
    calibrate_noise,
)
from simulators.noise import PoissonGaussian, PoissonReadout


@pytest.fixture(scope="module")
def scan():
    """A noisy, jittered particle in vacuum: gain 40, offset 1000, read-out 2 electrons."""
    rng = np.random.default_rng(10)
    shift = line_shifts(rng, 256, 0.7, 0.4)
    rate = 25 * particle(shift=shift) * (1 + 0.02 * rng.normal(size=256))[:, None]
    return record(rng, rate, gain=40, offset=1000, readout=2), shift


@pytest.fixture(scope="module")
def found(scan):
    return calibrate_noise([scan[0]], names=["particle"])


def test_all_numbers_of_one_image(scan, found):
    print(found)
    assert found.gain.value == pytest.approx(40, rel=0.05)
    assert found.readout.value == pytest.approx(2, rel=0.1)
    assert found.offset.value == pytest.approx(1000, abs=3 * found.offset.error)
    assert found.offset.error < 40  # one electron
    assert found.jitter.value == pytest.approx(scan[1].std(), rel=0.15)
    assert found.correlation.value == pytest.approx(0.4, abs=0.25)
    assert found.row_gain.value == pytest.approx(0.02, abs=0.02)
    assert found.electrons == pytest.approx(25 * particle().mean(), rel=0.1)
    assert found.warnings == ()


def test_known_offset_gives_the_read_out_of_a_full_image():
    image = record(
        np.random.default_rng(11), 60 * field(spacing=20, width=5), gain=3, offset=100, readout=4
    )
    found = calibrate_noise([image], offset=100, camera=True)
    assert found.offset == Estimate(100.0, 0.0, "given")
    assert found.gain.value == pytest.approx(3, rel=0.05)
    assert found.readout.value == pytest.approx(4, rel=0.1)


def test_dark_image_gives_offset_and_read_out():
    rng = np.random.default_rng(12)
    image = record(rng, 60 * field(spacing=20, width=5), gain=3, offset=100, readout=3)
    dark = record(rng, np.zeros((128, 128)), gain=3, offset=100, readout=3)
    found = calibrate_noise([image], dark=dark, camera=True)
    assert found.offset.value == pytest.approx(100, abs=0.4)
    assert found.readout.value == pytest.approx(3, rel=0.07)
    assert found.jitter is None
    assert found.scan(0.1).jitter == (0.0, 0.0)


def test_counted_electrons_are_recognised():
    rng = np.random.default_rng(13)
    found = calibrate_noise([record(rng, 5 * particle())], camera=True)
    assert (found.gain.value, found.offset.value, found.readout.value) == (1, 0, 0)
    # a sharp particle: far more zeros than ones, and still no clipping
    found = calibrate_noise([record(rng, 60 * particle() ** 2)], camera=True)
    assert (found.gain.value, found.offset.value, found.readout.value) == (1, 0, 0)
    assert not any("darkest" in line for line in found.warnings)
    found = calibrate_noise([record(rng, 5 * particle(), gain=1, readout=0.25)], camera=True)
    assert found.gain.value == pytest.approx(1, rel=3e-3)
    assert found.readout.value == pytest.approx(0.25, rel=0.05)
    assert found.offset.value == pytest.approx(0, abs=0.02)
    assert "single electrons" in found.gain.how


def test_repeats_are_used_where_details_are_as_small_as_a_pixel():
    rng = np.random.default_rng(14)
    fine = 0.2 + gaussian_filter(rng.normal(size=(192, 192)) ** 2, 0.8)
    fine = 30 * fine * (0.3 + particle(192, spacing=60, width=20))
    pair = [record(rng, fine, gain=5, offset=20, readout=1) for _ in range(2)]
    found = calibrate_noise(pair, offset=20, camera=True)
    assert found.repeated
    assert found.gain.value == pytest.approx(5, rel=0.05)
    other = record(rng, 30 * field(192), gain=5)
    assert not calibrate_noise([pair[0], other], offset=20, camera=True).repeated


def test_models_of_the_simulators(found):
    noise, scan = found.noise(), found.scan(0.2)
    assert isinstance(noise, PoissonReadout)
    assert float(noise.gain) == found.gain.value
    assert scan.jitter == (pytest.approx(0.2 * found.jitter.value), 0.0)
    image = noise.sample(jax.random.key(0), jax.numpy.full((64, 64), 10.0))
    mean = found.offset.value + 10 * found.gain.value
    assert float(image.mean()) == pytest.approx(mean, rel=0.02)
    shift, gain = scan.sample(jax.random.key(1), 200)
    assert float(shift[:, 0].std()) == pytest.approx(0.2 * found.jitter.value, rel=0.3)
    assert gain.shape == (200,)

    def gains(key):
        noise, scan = found.draw(key, 0.2)
        return noise.gain, noise.sigma, scan.jitter[0]

    drawn = np.array(jax.jit(jax.vmap(gains))(jax.random.split(jax.random.key(2), 400)))
    assert drawn[0].std() == pytest.approx(found.gain.error, rel=0.15)
    assert drawn[0].mean() == pytest.approx(found.gain.value, rel=0.02)
    assert (drawn[1:] >= 0).all()
    assert found.to_electrons(mean) == pytest.approx(10)


def test_saved_and_loaded(found, tmp_path):
    found.save(tmp_path / "noise.json")
    assert NoiseCalibration.load(tmp_path / "noise.json") == found
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(CalibrationError, match="no noise calibration"):
        NoiseCalibration.load(tmp_path / "other.json")


def test_saturation_is_left_out_and_told():
    rng = np.random.default_rng(15)
    image = record(rng, 40 * particle(spacing=40, width=9), gain=8, offset=20, readout=1)
    image = np.clip(np.rint(image), 0, 255)
    assert 0.005 < np.mean(image == 255) < 0.2
    found = calibrate_noise([image], camera=True)
    assert found.gain.value == pytest.approx(8, rel=0.08)
    assert any("brightest value 255" in line for line in found.warnings)
    assert found.bits == 8
    assert isinstance(found.noise(), PoissonGaussian)
    assert float(found.noise().sample(jax.random.key(0), jax.numpy.full(4, 99.0)).max()) == 255


def test_filtered_and_rescaled_images_are_told(scan):
    image = scan[0]
    lines = calibrate_noise([gaussian_filter(image, 0.6)], camera=True).warnings
    assert any("correlated" in line for line in lines)
    scaled = (image - image.min()) / np.ptp(image)
    found = calibrate_noise([scaled], camera=True)
    assert any("look rescaled" in line for line in found.warnings)
    assert found.gain.value == pytest.approx(40 / np.ptp(image), rel=0.05)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.ones((80, 80)), "constant"),
        (np.full((80, 80), np.nan), "NaN"),
        (np.ones((3, 80, 80)), "one real image"),
        (np.arange(400.0).reshape(20, 20), "64 × 64"),
        (field(96, spacing=48, width=14), "no noise"),
        (np.random.default_rng(0).normal(size=(96, 96)), "does not grow with the brightness"),
    ],
)
def test_images_that_cannot_be_used(image, message):
    with pytest.raises(CalibrationError, match=message):
        calibrate_noise([image])


def test_afterglow_along_the_lines_is_told_and_avoided():
    # the light of an electron spreads over the following pixels of its line, which averages noise
    # along it and nothing across
    rng = np.random.default_rng(17)
    rate = 40 * particle(spacing=40, width=9)
    weights = 0.6 ** np.arange(8)
    glow = convolve1d(record(rng, rate, gain=5), weights / weights.sum(), axis=1, origin=-4)
    found = calibrate_noise([glow], offset=0, camera=True)
    assert any("afterglow" in line for line in found.warnings)
    per_pixel = 5 * (weights**2).sum() / weights.sum() ** 2
    assert found.gain.value == pytest.approx(per_pixel, rel=0.1)


def test_uncertain_gain_is_told():
    image = record(np.random.default_rng(16), 3 * field(64), gain=7, readout=2)
    found = calibrate_noise([image], camera=True)
    assert found.gain.error > 0.1 * found.gain.value
    assert any("gain is uncertain" in line for line in found.warnings)


def test_no_images():
    with pytest.raises(CalibrationError, match="no image"):
        calibrate_noise([])


def test_errors_in_print():
    assert str(Estimate(39.8712, 0.532)) == "39.87 ± 0.53"
    assert str(Estimate(1.0, 0.0)) == "1.000 ± 0.000"
