"""Filters tuned without the truth: the loss is the error plus the noise, the choice is good."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.restoration import denoise_invariant

from emjax.baselines.denoising import gaussian
from emjax.baselines.restoration import DENOISERS, affine_psnr, tune
from emjax.baselines.self_tuning import FOLDS, electron_loss, is_counts, pixel_loss, tune_blind
from emjax.metrics.image_quality import psnr

Y, X = np.mgrid[:48, :48]
CLEAN = 12 + 10 * np.sin(X / 2.5) * np.sin(Y / 3)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def invariant(image, sigma):
    return denoise_invariant(image, gaussian, denoiser_kwargs={"sigma": sigma})


@pytest.mark.parametrize("sigma", [0.5, 1.2, 3.0])
def test_hidden_pixels_cost_the_error_and_the_variance(sigma, rng):
    noisy = CLEAN + 2 * rng.standard_normal((40, 48, 48))
    losses = [pixel_loss(gaussian, image, {"sigma": sigma}, sets=16) for image in noisy]
    errors = [np.square(invariant(image, sigma) - CLEAN).mean() for image in noisy]
    assert np.mean(losses) == pytest.approx(np.mean(errors) + 4, rel=0.02)
    some = [pixel_loss(gaussian, image, {"sigma": sigma}) for image in noisy]
    assert np.mean(some) == pytest.approx(np.mean(losses), rel=0.03), "a quarter of the pixels"


def test_a_hidden_pixel_does_not_see_itself():
    changed = CLEAN.copy()
    changed[20, 21] += 1000
    moved = invariant(changed, 1.0) - invariant(CLEAN, 1.0)
    assert moved[20, 21] == 0
    assert abs(moved[20, 22]) > 1


@pytest.mark.parametrize("sigma", [0.5, 1.2, 3.0])
def test_hidden_electrons_cost_the_error_at_less_dose_and_the_count(sigma, rng):
    counts = rng.poisson(CLEAN, (40, 48, 48))
    losses = [electron_loss(gaussian, image, {"sigma": sigma}) for image in counts]
    fewer = rng.poisson(CLEAN * (1 - 1 / FOLDS), (40, 48, 48)) / (1 - 1 / FOLDS)
    errors = [np.square(gaussian(image, sigma=sigma) - CLEAN).mean() for image in fewer]
    assert np.mean(losses) == pytest.approx(np.mean(errors) + FOLDS * CLEAN.mean(), rel=0.02)


def plain_psnr(image, truth):
    """Without gain and offset, which undo what a filter damps of a wave that is alone."""
    return psnr(image, truth, data_range=float(np.ptp(truth)))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("name", ["gaussian", "wiener_local", "tv_chambolle"])
@pytest.mark.parametrize("dose", [0.4, 8.0])
def test_the_choice_is_nearly_the_best(name, dose, affine, rng):
    metric = affine_psnr if affine else plain_psnr
    noisy = [rng.poisson(dose * CLEAN) for _ in range(2)]
    grid = {"weight": (0.5, 1.0, 2.0, 4.0)} if name == "tv_chambolle" else None
    best = tune(name, noisy, [dose * CLEAN] * 2, grid=grid, metric=metric)
    chosen = tune_blind(name, noisy, grid=grid, affine=affine)

    def score(parameters):
        found = [DENOISERS[name](x, **parameters) for x in noisy]
        return np.mean([metric(image, dose * CLEAN) for image in found])

    assert score(best) - score(chosen) < 0.2
    assert set(chosen) == set(best)
    if name == "gaussian":  # linear: the same filter with or without the pixel itself
        assert score(best) - score(tune_blind(name, noisy, hide="pixels", affine=affine)) < 0.3


def test_any_independent_noise_will_do_where_pixels_are_hidden(rng):
    noisy = 5 * CLEAN - 300 + 20 * rng.standard_normal(CLEAN.shape)
    assert not is_counts(noisy)
    sigma = tune_blind("gaussian", [noisy])["sigma"]
    errors = {
        s: np.square(gaussian(noisy, sigma=s) - 5 * CLEAN + 300).mean() for s in (0.5, 1.0, 1.5, 4)
    }
    assert sigma in (1.0, 1.5)
    assert min(errors, key=errors.get) in (1.0, 1.5)


def test_fixed_parameters_stay(rng):
    found = tune_blind(
        "tv_chambolle", [rng.poisson(CLEAN)], grid={"weight": (1.0,)}, fixed={"read_out": 0.5}
    )
    assert found == {"read_out": 0.5, "weight": 1.0}


def test_what_is_refused(rng):
    image = rng.poisson(CLEAN)
    with pytest.raises(KeyError, match="no denoiser 'gauss'"):
        tune_blind("gauss", [image])
    with pytest.raises(ValueError, match="no image"):
        tune_blind("gaussian", [])
    with pytest.raises(ValueError, match="no parameter"):
        tune_blind("gaussian", [image], grid={"width": (1,)})
    with pytest.raises(ValueError, match="choose one of"):
        tune_blind("gaussian", [image], hide="rows")
    with pytest.raises(ValueError, match="counts alone"):
        tune_blind("gaussian", [image + 0.5], hide="electrons")
    with pytest.raises(ValueError, match="1 to 16"):
        pixel_loss(gaussian, image, {}, sets=17)
