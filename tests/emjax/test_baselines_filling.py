"""The classical fillers of missing pixels: what defines each, their errors, and the tuning."""

import numpy as np
import pytest

from emjax.baselines import filling
from emjax.baselines.compressive import dct_tv
from emjax.baselines.exemplar import exemplar
from emjax.baselines.images import NotApplicable
from emjax.baselines.restoration import FILLERS, affine_psnr, tune, tuned_and_default

NAMES = list(FILLERS)


def lattice(shape=(48, 40), period=8.0):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    across = (x - 0.1 * y) / period
    return 5 + np.cos(2 * np.pi * y / period) + np.cos(2 * np.pi * across)


def scattered(shape, share, seed=0):
    return np.random.default_rng(seed).uniform(size=shape) < share


def with_gaps(shape, size=5):
    """Measured but for a dead line, a dead pixel and a hole."""
    mask = np.ones(shape, bool)
    mask[:, 12] = False
    mask[3, 30] = False
    mask[25 : 25 + size, 22 : 22 + size] = False
    return mask


def rms(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.mark.parametrize("name", NAMES)
def test_what_was_measured_stays_and_what_was_not_is_ignored(name):
    clean = lattice()
    mask = with_gaps(clean.shape)
    holes = np.where(mask, clean, np.nan)
    result = FILLERS[name](holes, mask)
    assert result.dtype == np.float64
    assert np.array_equal(result[mask], clean[mask])
    assert np.isfinite(result).all()
    np.testing.assert_allclose(FILLERS[name](np.where(mask, clean, 1e6), mask.astype(int)), result)
    assert rms(result[~mask], clean[~mask]) < clean.std(), "better than the mean"
    np.testing.assert_allclose(FILLERS[name](clean, np.ones_like(mask)), clean, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_stays_constant(name):
    mask = with_gaps((40, 36))
    np.testing.assert_allclose(FILLERS[name](np.where(mask, -3.5, 0), mask), -3.5, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("nearest", "exemplar")])
def test_better_than_the_nearest_pixel_on_a_lattice(name):
    clean = lattice()
    mask = scattered(clean.shape, 0.3)
    nearest = affine_psnr(filling.nearest(clean, mask), clean)
    assert affine_psnr(FILLERS[name](clean, mask), clean) > nearest + 2


@pytest.mark.parametrize("name", NAMES)
def test_bad_masks(name):
    image, mask = np.ones((16, 16)), np.ones((16, 16), bool)
    fill = FILLERS[name]
    with pytest.raises(ValueError, match=r"\(16, 16\) and its mask \(16, 15\)"):
        fill(image, mask[:, :15])
    with pytest.raises(ValueError, match="coverage is zero"):
        fill(image, ~mask)
    with pytest.raises(ValueError, match="beside 0 and 1"):
        fill(image, 0.5 * mask)
    image[2, 3] = np.nan
    with pytest.raises(ValueError, match=r"row 2, column 3.*mask to False"):
        fill(image, mask)


def test_nearest_by_hand():
    image = np.array([[1.0, 0, 0, 0, 5.0]])
    mask = np.array([[1, 0, 0, 0, 1]])
    result = filling.nearest(image, mask)[0]
    assert list(result[[0, 1, 3, 4]]) == [1, 1, 5, 5]


@pytest.mark.parametrize("name", ["linear", "cubic", "natural_neighbour"])
def test_exact_on_linear_functions_inside_of_the_hull(name):
    y, x = np.mgrid[:41, :37].astype(float)
    ramp = 3 * y - 2 * x + 7
    mask = scattered(ramp.shape, 0.15)
    mask[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    mask[0, ::3] = mask[-1, ::3] = mask[::3, 0] = mask[::3, -1] = True
    inner = (slice(6, -6), slice(6, -6))
    fine = {"oversample": 9} if name == "natural_neighbour" else {}
    error = rms(FILLERS[name](ramp, mask, **fine)[inner], ramp[inner])
    steps = rms(filling.nearest(ramp, mask)[inner], ramp[inner])
    assert error < (0.03 * steps if name == "natural_neighbour" else 1e-6)


def test_natural_neighbours_become_exact_on_a_fine_grid():
    y, x = np.mgrid[:41, :41].astype(float)
    ramp = 3 * y - 2 * x
    mask = scattered(ramp.shape, 0.1)
    inner = (slice(6, -6), slice(6, -6))
    errors = [
        rms(filling.natural_neighbour(ramp, mask, oversample=n)[inner], ramp[inner])
        for n in (1, 3, 9)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2], "as the power -3/2 of the oversampling"
    assert errors[2] < 0.1
    with pytest.raises(ValueError, match="oversample is 0"):
        filling.natural_neighbour(ramp, mask, oversample=0)


def test_natural_neighbours_by_hand():
    """One pixel missing: the new cell takes equal areas from the four neighbours alone."""
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(7, 7))
    mask = np.ones((7, 7), bool)
    mask[3, 3] = False
    value = filling.natural_neighbour(image, mask, oversample=31)[3, 3]
    around = np.mean([image[2, 3], image[4, 3], image[3, 2], image[3, 4]])
    assert value == pytest.approx(around, abs=0.02)
    noise = rng.uniform(size=(30, 30))
    few = scattered(noise.shape, 0.05)
    result = filling.natural_neighbour(noise, few)
    assert result.min() >= noise[few].min(), "a mean of the neighbours: never beyond them"
    assert result.max() <= noise[few].max()


def test_biharmonic_continues_a_ramp_into_a_hole():
    y, x = np.mgrid[:32, :32].astype(float)
    ramp = 0.5 * y - 2 * x
    mask = np.ones(ramp.shape, bool)
    mask[10:20, 8:22] = False
    np.testing.assert_allclose(filling.biharmonic(ramp, mask), ramp, atol=1e-8)
    bowl = (y - 16) ** 2 + (x - 16) ** 2 + x * y  # Δ is constant: ΔΔ is 0
    np.testing.assert_allclose(filling.biharmonic(bowl, mask), np.maximum(bowl, bowl[mask].min()))
    with pytest.raises(NotApplicable, match="5 pixels"):
        filling.biharmonic(np.ones((4, 9)), np.arange(36).reshape(4, 9) > 3)


@pytest.mark.parametrize("fill", [filling.linear, filling.cubic])
def test_points_on_a_line_span_no_triangle(fill):
    mask = np.zeros((9, 9), bool)
    mask[4] = True
    with pytest.raises(NotApplicable, match="9 measured pixels span no triangle"):
        fill(np.ones((9, 9)), mask)


def test_exemplars_complete_a_texture_that_repeats():
    y, x = np.mgrid[:40, :44]
    texture = ((3 * y + x) % 7 + 2 * (y % 4 == 0)).astype(float)
    mask = with_gaps(texture.shape, size=9)
    np.testing.assert_allclose(exemplar(texture, mask, patch=9), texture, atol=1e-5)
    assert rms(filling.biharmonic(texture, mask)[~mask], texture[~mask]) > 1
    # the mean of several examples takes the noise out
    noise = np.random.default_rng(0).normal(0, 0.5, texture.shape)
    one, many = (
        rms(exemplar(texture + noise, mask, patch=9, matches=n)[~mask], texture[~mask])
        for n in (1, 8)
    )
    assert many < 0.75 * one
    few = exemplar(texture, mask, examples=200, seed=1)
    assert np.array_equal(few, exemplar(texture, mask, examples=200, seed=1))


def test_exemplars_need_whole_patches():
    clean = lattice()
    with pytest.raises(NotApplicable, match=r"no patch of 9 x 9.*gaps in dense images"):
        exemplar(clean, scattered(clean.shape, 0.3))
    with pytest.raises(NotApplicable, match="no patch of 9 x 9"):
        exemplar(clean[:5], with_gaps(clean.shape)[:5])
    with pytest.raises(ValueError, match="patch=8"):
        exemplar(clean, with_gaps(clean.shape), patch=8)


def test_compressive_sensing_recovers_few_cosines_from_few_pixels():
    """Five coefficients of 1,600 from a fifth of the pixels: 1 %, where interpolation fails."""
    from scipy.fft import idctn

    coefficients = np.zeros((40, 40))
    coefficients[[0, 3, 17, 25, 9], [0, 21, 4, 30, 9]] = [40, 12, -9, 7, 15]
    clean = idctn(coefficients, norm="ortho")
    mask = scattered(clean.shape, 0.2)
    result = dct_tv(clean, mask, tv=0, iterations=500)
    assert rms(result, clean) < 0.01 * clean.std()
    assert rms(filling.cubic(clean, mask), clean) > 0.3 * clean.std()


def test_total_variation_alone_fills_a_step_with_a_step():
    clean = np.where(np.arange(32) < 15, 0.0, 1.0) + np.zeros((32, 1))
    mask = scattered(clean.shape, 0.4)
    mask[10:16] = False
    result = dct_tv(clean, mask, dct=0, tv=1, iterations=1000)
    assert rms(result, clean) < 0.02
    with pytest.raises(ValueError, match="positive"):
        dct_tv(clean, mask, dct=0, tv=0)


def test_compressive_sensing_beats_linear_on_a_lattice_and_denoises():
    """The bar of the field's non-network route: 2 dB over linear at 20 % random sampling."""
    clean = lattice((64, 64))
    mask = scattered(clean.shape, 0.2, seed=1)
    linear = affine_psnr(filling.linear(clean, mask), clean)
    assert affine_psnr(dct_tv(clean, mask), clean) > linear + 2
    noisy = clean + np.random.default_rng(0).normal(0, 0.5, clean.shape)
    kept, trusted = (dct_tv(noisy, mask, fidelity=f) for f in (None, 3.0))
    assert affine_psnr(trusted, clean) > affine_psnr(kept, clean) + 1
    assert np.array_equal(kept[mask], noisy[mask])


def test_fillers_are_tuned_by_the_same_function():
    clean = lattice((32, 32))
    rng = np.random.default_rng(0)
    noisy = [clean + rng.normal(0, 0.4, clean.shape) for _ in range(2)]
    masks = [scattered(clean.shape, 0.3, seed) for seed in (1, 2)]
    grid = {"fidelity": (None, 2.0)}
    first = (noisy[:1], [clean])
    assert tune("dct_tv", *first, masks=masks[:1], grid=grid)["fidelity"] == 2.0
    tuned, default = tuned_and_default(
        "dct_tv",
        first,
        (noisy[1:], [clean]),
        validation_masks=masks[:1],
        test_masks=masks[1:],
        grid=grid,
    )
    assert tuned.mean > default.mean
    assert tune("linear", *first, masks=masks[:1]) == {}
    with pytest.raises(NotApplicable, match="no setting of exemplar"):
        tune("exemplar", *first, masks=masks[:1])
    # settings that cannot work are left out
    dense = [with_gaps(clean.shape, size=3)]
    wide = {"patch": (5, 31), "matches": (1,)}
    assert tune("exemplar", *first, masks=dense, grid=wide)["patch"] in (5, 9)
    with pytest.raises(KeyError, match=r"no filler 'gaussian'.*nearest"):
        tune("gaussian", *first, masks=masks[:1])


def test_grids_name_parameters():
    for name, entry in FILLERS.items():
        assert set(entry.grid) <= set(entry.defaults), name
