"""Pixelated detectors: bins and resampled pixels keep the counts and know where the centre is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.pixelated import bin_pattern, crop_pattern, resample_axes

PATTERN = np.random.default_rng(0).uniform(size=(3, 20, 27))


@pytest.mark.parametrize("factor", [1, 2, 3, (4, 5)])
def test_bins_add_up_pixels_around_the_centre(factor):
    binned, first = bin_pattern(PATTERN, factor)
    fy, fx = np.broadcast_to(factor, (2,))
    # against sums over the pixels whose distance from the bin's middle is below half a bin
    y, x = np.arange(20) - 10, np.arange(27) - 13
    for i in range(binned.shape[1]):
        for j in range(binned.shape[2]):
            rows = np.abs(y - (first[0] + i * fy)) < fy / 2
            columns = np.abs(x - (first[1] + j * fx)) < fx / 2
            assert rows.sum() == fy
            assert columns.sum() == fx
            np.testing.assert_allclose(
                binned[:, i, j], PATTERN[:, rows][:, :, columns].sum((1, 2)), rtol=1e-12
            )
    for middle, f in zip(first, (fy, fx), strict=True):
        # the zero frequency is a bin's middle, or half a fine pixel from it
        assert (-middle / f) % 1 == pytest.approx(0 if f % 2 else (0.5 / f) % 1)


def test_bins_that_do_not_fit():
    with pytest.raises(ValueError, match="1 to 20 whole pixels wide, got 21"):
        bin_pattern(PATTERN, 21)
    with pytest.raises(ValueError, match=r"got 1\.5"):
        bin_pattern(PATTERN, (1.5, 2))
    with pytest.raises(ValueError, match="cannot be cropped"):
        crop_pattern(PATTERN, (21, 3))


def resample(pattern, method="smooth", step=(0.7, 1.6), shape=(37, 21)):
    new_first = tuple(-(n // 2) * s for n, s in zip(shape, step, strict=True))
    return resample_axes(pattern, (-10.0, -13.0), (1.0, 1.0), shape, new_first, step, method=method)


@pytest.mark.parametrize("method", ["smooth", "area"])
def test_resampling_keeps_the_sum_and_the_centre_of_mass(method):
    y, x = np.mgrid[:20, :27] - np.array([10, 13])[:, None, None]
    pattern = np.exp(-((y - 1.3) ** 2 + (x + 2.1) ** 2) / 12)
    made = resample(pattern, method)
    assert made.shape == (37, 21)
    assert made.sum() == pytest.approx(pattern.sum(), rel=1e-12)
    fine_y, fine_x = (np.arange(37) - 18) * 0.7, (np.arange(21) - 10) * 1.6
    com = (made.sum(1) @ fine_y / made.sum(), made.sum(0) @ fine_x / made.sum())
    was = (pattern.sum(1) @ (np.arange(20) - 10), pattern.sum(0) @ (np.arange(27) - 13))
    np.testing.assert_allclose(com, was / pattern.sum(), atol=2e-3)
    if method == "area":
        assert made.min() >= 0
    else:  # a smooth pattern is read as one: intensity per area at the new pixels
        expected = np.exp(-((fine_y[:, None] - 1.3) ** 2 + (fine_x[None] + 2.1) ** 2) / 12)
        np.testing.assert_allclose(made / (0.7 * 1.6), expected, atol=0.06)


def test_the_same_pixels_give_the_same_pattern_and_everything_is_linear():
    same = resample_axes(PATTERN, (-10, -13), (1, 1), (20, 27), (-10, -13), (1, 1))
    np.testing.assert_allclose(same, PATTERN, atol=1e-12)
    a, b = PATTERN[0], PATTERN[1]
    np.testing.assert_allclose(resample(2 * a - b), 2 * resample(a) - resample(b), atol=1e-12)
    with pytest.raises(ValueError, match="method must be"):
        resample(a, "cubic")


def test_jax_arrays_under_jit_with_gradients():
    pattern = jnp.asarray(PATTERN, jnp.float32)
    made = jax.jit(lambda p: resample(p))(pattern)
    assert made.dtype == jnp.float32
    np.testing.assert_allclose(made, resample(PATTERN), atol=2e-6)
    gradient = jax.grad(lambda p: resample(p).sum())(pattern)
    np.testing.assert_allclose(gradient, 1.0, rtol=1e-5)
    binned = jax.jit(lambda p: bin_pattern(p, 3)[0])(pattern)
    np.testing.assert_allclose(binned, bin_pattern(PATTERN, 3)[0], rtol=1e-6)
