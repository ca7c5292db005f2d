"""The classical denoisers: what defines each, their units, their errors, and the tuning."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from emjax.baselines import denoising, fourier_filters
from emjax.baselines.images import noise_level
from emjax.baselines.restoration import (
    DENOISERS,
    affine_psnr,
    fit_affine,
    tune,
    tuned_and_default,
)

PACKAGES = {"wavelet": "pywt", "bm3d": "bm3d", "bm3d_binned": "bm3d"}
NAMES = [name for name in DENOISERS if name != "noisy"]
STABILISED = [name for name in NAMES if "stabilise" in DENOISERS[name].defaults]


def method(name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    return DENOISERS[name].function


def lattice(shape=(48, 56), period=11.0, phase=0.0, missing=()):
    """Gaussian columns on a slightly oblique lattice, 1 at most on a background of 0.1."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    image = np.full(shape, 0.1)
    for i in range(-2, 12):
        for j in range(-2, 12):
            if (i, j) not in missing:
                cy, cx = period * i + phase, period * j + 0.9 * i + phase
                image += 0.9 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 2.0**2))
    return image


def counts(clean, dose, seed):
    return np.random.default_rng(seed).poisson(dose * clean).astype(float)


@pytest.fixture(scope="module")
def validation():
    clean = lattice()
    return [counts(clean, 10, 1)], [clean]


@pytest.mark.parametrize("name", NAMES)
def test_tuned_it_is_better_than_the_noisy_image(name, validation):
    f = method(name)
    clean = lattice(phase=2.3)
    noisy = counts(clean, 10, 2)
    kept = noisy.copy()
    fewer = {"sigma_value": (6.0,), "sigma_space": (1.0, 2.0)} if name == "bilateral" else None
    result = f(noisy, **tune(name, *validation, grid=fewer))
    assert result.shape == noisy.shape
    assert result.dtype == np.float64
    assert np.array_equal(noisy, kept), "the input is left alone"
    least = {"median": 3.0, "wavelet": 3.0, "wiener_local": 2.0}.get(name, 4.0)
    assert affine_psnr(result, clean) > affine_psnr(noisy, clean) + least


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_stays_constant_on_any_shape(name):
    f = method(name)
    result = f(np.full((17, 22), 7.3))
    assert result.shape == (17, 22)
    assert np.ptp(result) < 3e-3
    # what expects noise around the constant gives its unbiased estimate, a quarter higher
    assert result.mean() == pytest.approx(7.3, abs=0.3 if name in STABILISED else 1e-9)


@pytest.mark.parametrize("name", STABILISED)
def test_units_of_the_detector_and_of_the_image(name):
    f = method(name)
    n = counts(lattice((24, 24)), 20, 0)
    counted = f(n)
    recorded = f(3 * n + 100, gain=3, offset=100)
    np.testing.assert_allclose(recorded, 3 * counted + 100, rtol=2e-4)
    plain = f(n, stabilise=False)
    tolerance = 0.02 if name in ("bm3d", "bm3d_binned") else 1e-6  # the package is in float32
    np.testing.assert_allclose(
        f(3 * n - 50, stabilise=False), 3 * plain - 50, rtol=0, atol=tolerance
    )
    with pytest.raises(
        ValueError, match=r"square root of negative counts.*lowest value is -.*stabilise=False"
    ):
        f(n - 2 - n.min())
    noisy = n + np.random.default_rng(1).normal(0, 0.5, n.shape) - n.min()
    assert noisy.min() < 0
    assert np.isfinite(f(noisy, read_out=0.5)).all()


@pytest.mark.parametrize("name", NAMES)
def test_bad_images(name):
    f = method(name)
    image = np.ones((16, 16))
    with pytest.raises(ValueError, match=r"\(3, 16, 16\).*one image \(y, x\)"):
        f(np.ones((3, 16, 16)))
    image[5, 7] = np.nan
    with pytest.raises(ValueError, match="row 5, column 7"):
        f(image)
    with pytest.raises(ValueError, match="complex"):
        f(np.ones((16, 16)) * 1j)


@pytest.mark.parametrize("name", ["wavelet", "bm3d", "bm3d_binned"])
def test_a_missing_package_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    with pytest.raises(ModuleNotFoundError, match="pip install") as error:
        DENOISERS[name].function(np.ones((16, 16)))
    assert ("non-commercial" in str(error.value)) == (name != "wavelet")


def test_gaussian_and_bilateral_of_an_impulse_and_a_step():
    impulse = np.zeros((21, 21))
    impulse[10, 10] = 1
    y, x = np.mgrid[-10:11, -10:11]
    bell = np.exp(-(y**2 + x**2) / 2 / 1.5**2)
    np.testing.assert_allclose(denoising.gaussian(impulse, sigma=1.5), bell / bell.sum(), atol=1e-3)
    # far apart in value is not far apart for a wide range of values: then it is the Gaussian
    wide = denoising.bilateral(impulse, sigma_space=1.5, sigma_value=1e3, stabilise=False)
    np.testing.assert_allclose(wide, bell / bell.sum(), atol=2e-3)
    step = np.where(np.arange(32) < 16, 0.0, 50.0) + np.random.default_rng(0).normal(size=(32, 32))
    kept = denoising.bilateral(step, sigma_space=3, sigma_value=3, stabilise=False)
    assert kept[:, 15].max() < 2, "the edge is not crossed"
    assert kept[:, :14].std() < 0.3
    assert denoising.gaussian(step, sigma=3)[:, 15].min() > 15


def test_scikit_images_bilateral_weights_do_not_fall_off_from_the_centre():
    """Why `bilateral` is our own; when this fails, take the library's."""
    from skimage.restoration import denoise_bilateral

    impulse = np.zeros((15, 15))
    impulse[7, 7] = 1
    spread = denoise_bilateral(impulse, sigma_color=1e3, sigma_spatial=1)
    assert spread[7, 7] < spread.max() / 2


def test_median_removes_single_spikes():
    ramp = np.add.outer(np.arange(20.0), 2 * np.arange(20.0))
    spiked = ramp.copy()
    spiked[4::6, 4::6] = 1e6
    inner = (slice(1, -1), slice(1, -1))
    away = np.abs(denoising.median(spiked) - ramp)[inner]
    assert away.max() <= 2
    assert np.array_equal(denoising.median(ramp)[inner], ramp[inner])


def test_local_wiener_smooths_the_flat_and_keeps_the_detail():
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (64, 64))
    image[28:36] += 100 * np.sin(np.arange(64))
    result = denoising.wiener_local(image, size=5, strength=0.01)
    assert np.abs(result - image)[29:35].max() < 5, "5 % of the detail's amplitude"
    flat = denoising.wiener_local(image[:24], size=5)
    assert flat.std() < 0.45
    shifted = denoising.wiener_local(image[:24] + 1e7, size=5)
    np.testing.assert_allclose(shifted - 1e7, flat, atol=1e-6)


def test_both_total_variations_minimise_the_same():
    noise = np.random.default_rng(0).normal(size=(32, 32))
    noisy = np.where(np.arange(32) < 16, 0, 10.0) + noise
    a = denoising.tv_chambolle(noisy, weight=1.5, stabilise=False)
    b = denoising.tv_bregman(noisy, weight=1.5, stabilise=False)
    assert np.sqrt(np.mean((a - b) ** 2)) < 0.35, "of noise 1; the second ends above the minimum"
    for other in (0.4, 6):
        c = denoising.tv_bregman(noisy, weight=other, stabilise=False)
        assert np.sqrt(np.mean((a - c) ** 2)) > 1.15 * np.sqrt(np.mean((a - b) ** 2))
    assert a.mean() == pytest.approx(noisy.mean())


def test_non_local_means_uses_what_repeats():
    """On a lattice of whole pixels the repeats of a pixel are averaged, not its neighbours."""
    y, x = np.mgrid[:40, :40]
    clean = 10 * ((y % 5 == 0) & (x % 5 == 0))
    noisy = clean + np.random.default_rng(0).normal(size=clean.shape)
    result = denoising.non_local_means(noisy, h=0.3, patch=7, distance=11, stabilise=False)
    assert affine_psnr(result, clean) > affine_psnr(noisy, clean) + 8
    assert result[20, 20] > 8


def test_bins_are_summed_and_brought_back(monkeypatch):
    """With a package that changes nothing, the bins and their cubic way back are left."""
    seen = []

    def same(z, sigma_psd):
        seen.append((z.shape, sigma_psd))
        return z

    monkeypatch.setitem(sys.modules, "bm3d", SimpleNamespace(bm3d=same))
    y, x = np.mgrid[:33, :40]
    smooth = 50 + 20 * np.sin(y / 6) * np.cos(x / 6)
    result = denoising.bm3d_binned(smooth, sigma=1.2, stabilise=False)
    assert seen == [((17, 20), 1.2)]
    assert result.shape == smooth.shape
    assert np.abs(result - smooth)[3:-3, 3:-3].max() < 0.6
    # a quarter of a count per bin is the unbiased inverse's, which expects noise
    assert denoising.bm3d_binned(np.full((16, 16), 5.0)).mean() == pytest.approx(5, abs=0.1)


def test_fourier_wiener_of_white_noise_is_flat_and_of_a_lattice_the_lattice():
    noise = np.random.default_rng(0).normal(5, 1, (64, 48))
    flat = fourier_filters.wiener_fourier(noise, strength=3, smoothing=1.5)
    assert flat.std() < 0.1
    assert flat.mean() == pytest.approx(noise.mean())
    y, x = np.mgrid[:64, :48]
    waves = np.cos(2 * np.pi * y / 8) + np.cos(2 * np.pi * (y / 16 + x / 6))
    together = fourier_filters.wiener_fourier(3 * waves + noise, strength=2)
    assert np.sqrt(np.mean((together - 3 * waves - 5) ** 2)) < 0.35


def test_bragg_keeps_the_lattice_and_fills_its_vacancies():
    y = np.arange(64)[:, None] + np.zeros(64)
    wave = np.cos(2 * np.pi * y / 8)
    noise = np.random.default_rng(0).normal(0, 0.5, wave.shape)
    np.testing.assert_allclose(fourier_filters.bragg(wave + noise, threshold=20), wave, atol=0.2)
    full, vacancy = lattice((64, 64), 8.0), lattice((64, 64), 8.0, missing=[(4, 3)])
    place = (32, round(24 + 0.9 * 4))
    assert vacancy[place] < 0.3 < 0.9 < full[place]
    ghost = fourier_filters.bragg(counts(vacancy, 10, 0), threshold=20, softness=0.5) / 10
    assert ghost[place] > 0.6, "an atom where there is none: the reason for fidelity measures"


def test_richardson_lucy_keeps_counts_and_sharpens():
    rng = np.random.default_rng(0)
    noisy = rng.poisson(20 * lattice((32, 40))).astype(float)
    result = fourier_filters.richardson_lucy(noisy, sigma=2, iterations=10)
    assert result.sum() == pytest.approx(noisy.sum())
    assert result.min() >= 0
    blurred = denoising.gaussian(lattice((40, 40), 12), sigma=2)
    sharp = fourier_filters.richardson_lucy(blurred, sigma=2, iterations=200, smooth=False)
    assert (
        affine_psnr(sharp, lattice((40, 40), 12)) > affine_psnr(blurred, lattice((40, 40), 12)) + 8
    )
    with pytest.raises(ValueError, match=r"lowest value is -1.*not negative"):
        fourier_filters.richardson_lucy(noisy - 1 - noisy.min())


@pytest.mark.parametrize("name", ["wiener_fourier", "bragg"])
def test_fourier_filters_say_what_is_too_small(name):
    with pytest.raises(ValueError, match="at least 8 pixels"):
        DENOISERS[name].function(np.ones((6, 20)))
    with pytest.raises(ValueError, match="no frequency"):
        DENOISERS[name].function(np.ones((8, 8)), band=0.9)


def test_the_level_of_noise():
    y, x = np.mgrid[:128, :128]
    noise = np.random.default_rng(0).normal(0, 2, y.shape)
    assert noise_level(3 * y + 100.0 * (x > 60) + noise) == pytest.approx(2, rel=0.05)
    assert noise_level(np.ones((9, 1))) == 0
    sparse = np.random.default_rng(0).poisson(0.02, y.shape)
    assert noise_level(sparse) == pytest.approx(0.02**0.5, rel=0.1)


def test_affine_psnr_by_hand():
    truth = np.array([[0.0, 1.0], [0.0, 1.0]])
    assert affine_psnr(7 * truth - 3, truth) == np.inf
    # the best line through (0, 0), (1, 1), (2, 0), (1, 1) is the mean: error 1/4
    assert affine_psnr(np.array([[0.0, 1.0], [2.0, 1.0]]), truth) == pytest.approx(6.0206)
    half = affine_psnr(np.array([[0.0, 1.0], [2.0, 1.0]]), truth, data_range=2)
    assert half == pytest.approx(6.0206 + 6.0206)
    assert np.array_equal(fit_affine(np.full((2, 2), 4.0), truth), np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match="shape"):
        affine_psnr(truth, truth[:1])


def test_tuning_finds_the_best_of_the_grid(validation):
    noisy, clean = validation
    scores = {
        s: affine_psnr(denoising.gaussian(noisy[0], sigma=s), clean[0])
        for s in DENOISERS["gaussian"].grid["sigma"]
    }
    assert tune("gaussian", noisy, clean) == {"sigma": max(scores, key=scores.get)}
    # another metric, another best: this one likes it smooth
    smooth = tune("gaussian", noisy, clean, metric=lambda image, truth: -image.std())
    assert smooth == {"sigma": 4.0}
    only = tune("tv_chambolle", noisy, clean, grid={"weight": (0.5, 9.0)}, fixed={"read_out": 0.1})
    assert only["read_out"] == 0.1
    assert only["weight"] in (0.5, 1.0), "of the grid or the default"


def test_two_rows_for_each_method(validation):
    clean = lattice(phase=2.3)
    test = [counts(clean, 10, s) for s in (5, 6)], [clean, clean]
    tuned, default = tuned_and_default("wiener_fourier", validation, test)
    assert (tuned.setting, default.setting) == ("tuned", "default")
    assert default.parameters == DENOISERS["wiener_fourier"].defaults
    assert len(tuned.scores) == 2
    assert tuned.mean == pytest.approx(np.mean(tuned.scores))
    assert tuned.mean > default.mean
    assert tuned.seconds > 0


def test_tuning_says_what_is_wrong(validation):
    noisy, clean = validation
    with pytest.raises(KeyError, match=r"no denoiser 'blur'.*gaussian, median"):
        tune("blur", noisy, clean)
    with pytest.raises(KeyError, match="fillers need masks"):
        tune("linear", noisy, clean)
    with pytest.raises(ValueError, match=r"no parameter \['weight'\].*sigma"):
        tune("gaussian", noisy, clean, fixed={"weight": 1})
    with pytest.raises(ValueError, match=r"lists of \[2, 1\]"):
        tune("gaussian", noisy * 2, clean)
    with pytest.raises(ValueError, match="one or more"):
        tune("gaussian", [], [])
    with pytest.raises(ValueError, match="metric of gaussian"):
        tune("gaussian", noisy, clean, metric=lambda image, truth: float("nan"))
    with pytest.raises(ValueError, match="or for neither"):
        tuned_and_default("gaussian", validation, validation, test_masks=[noisy[0] > 0])


def test_grids_name_parameters_and_hold_several_values():
    for name, entry in DENOISERS.items():
        assert set(entry.grid) <= set(entry.defaults), name
        assert all(len(values) > 1 for values in entry.grid.values()), name
