"""From one pixel size to another: nothing moves, nothing folds back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.data.resample import resample as resample_
from emjax.data.resample import resampled_shape, scaled

resample = jax.jit(resample_, static_argnums=(1, 2))
"""Compiled as a whole: eagerly, every operation of every shape takes its own compilation."""

EXTENT = (9.0, 12.0)
"""Å (y, x)."""
PLACE = (4.13, 6.71)
"""Å (y, x) of a spot."""


def spot(sampling: tuple[float, float], sigma: float = 0.9, background: float = 0.0) -> np.ndarray:
    """A Gaussian spot; pixel i lies AT i times the sampling."""
    y, x = (
        np.arange(round(length / step)) * step
        for length, step in zip(EXTENT, sampling, strict=True)
    )
    r2 = (y[:, None] - PLACE[0]) ** 2 + (x[None] - PLACE[1]) ** 2
    return np.exp(-0.5 * r2 / sigma**2) + background


def centre(image: np.ndarray, sampling: tuple[float, float]) -> np.ndarray:
    """Centre of mass (y, x) in Å."""
    image = np.asarray(image, float)
    y, x = (np.arange(n) * step for n, step in zip(image.shape, sampling, strict=True))
    return np.array([image.sum(1) @ y, image.sum(0) @ x]) / image.sum()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((0.1, 0.1), (0.2, 0.2)),
        ((0.1, 0.1), (0.17, 0.17)),
        ((0.1, 0.1), (0.37, 0.37)),
        ((0.3, 0.3), (0.2, 0.2)),
        ((0.3, 0.3), (0.071, 0.071)),
        ((0.13, 0.1), (0.2, 0.2)),
        ((0.2, 0.2), (0.15, 0.25)),
        ((0.3, 0.08), (0.1, 0.2)),
    ],
)
def test_a_spot_stays_where_it_is(old, new):
    made = np.asarray(resample(spot(old), old, new))
    assert made.dtype == np.float32
    sizes = zip(EXTENT, old, new, strict=True)
    assert made.shape == tuple(round(round(e / a) * a / b) for e, a, b in sizes)
    off = (centre(made, new) - PLACE) / new
    assert np.abs(off).max() < 0.02
    # and keeps its grey values, but for a little blur where pixels become larger
    ny, nx = made.shape
    where = np.arange(ny)[:, None] * new[0], np.arange(nx)[None] * new[1]
    expected = np.exp(-0.5 * ((where[0] - PLACE[0]) ** 2 + (where[1] - PLACE[1]) ** 2) / 0.9**2)
    coarser = max(b / a for a, b in zip(old, new, strict=True)) > 1
    assert np.abs(made - expected).max() < (0.05 if coarser else 0.01)


def test_there_and_back():
    image = spot((0.1, 0.1))
    finer = resample_(image, (0.1, 0.1), (0.06, 0.05))
    back = resample(finer, (0.06, 0.05), (0.1, 0.1))
    np.testing.assert_allclose(back, image, atol=0.01)


@pytest.mark.parametrize("period", [0.24, 0.27, 0.35])
def test_a_grating_that_is_too_fine_leaves_no_moire(period):
    x = np.arange(200) * 0.1
    grating = np.tile(1 + np.sin(2 * np.pi * x / period), (60, 1))
    made = np.asarray(resample(grating, (0.1, 0.1), (0.3, 0.3)))
    # plain sampling would show it folded back, at full contrast
    assert np.ptp(grating[0, ::3]) > 1.5
    inner = made[3:-3, 3:-3]
    np.testing.assert_allclose(inner, 1.0, atol=0.12)
    turned = np.asarray(resample(grating.T, (0.1, 0.1), (0.3, 0.3)))
    np.testing.assert_allclose(turned, made.T, atol=1e-6)


def test_a_grating_that_the_new_pixels_hold_survives():
    x = np.arange(300) * 0.1
    grating = np.tile(np.sin(2 * np.pi * x / 1.5), (60, 1))
    made = np.asarray(resample(grating, (0.1, 0.1), (0.3, 0.3)))
    expected = np.sin(2 * np.pi * np.arange(made.shape[1]) * 0.3 / 1.5)
    inner, known = made[5:-5, 5:-5].mean(0), expected[5:-5]
    gain = inner @ known / (known @ known)
    assert 0.8 < gain < 1.05
    np.testing.assert_allclose(inner, gain * known, atol=0.01)


def test_a_constant_remains_to_the_very_edge():
    for new in (0.05, 0.13, 0.31):
        made = resample(np.full((40, 50), 7.5), (0.1, 0.1), (new, new))
        np.testing.assert_allclose(made, 7.5, rtol=1e-5)


def test_the_same_pixel_size_is_the_same_image():
    image = np.random.default_rng(0).normal(size=(31, 44)).astype(np.float32)
    np.testing.assert_array_equal(resample(image, (0.2, 0.3), (0.2, 0.3)), image)
    np.testing.assert_array_equal(resample(image, (0.2, 0.3), (0.2 * (1 + 1e-9), 0.3)), image)


def test_resampled_shape():
    assert resampled_shape((100, 80), (0.1, 0.2), (0.2, 0.1)) == (50, 160)
    assert resampled_shape((101, 33), (0.1, 0.1), (0.3, 0.2)) == (34, 16)
    assert resampled_shape((2, 2), (0.01, 0.01), (1.0, 1.0)) == (1, 1), "never empty"
    image = np.zeros((37, 53))
    assert resample(image, (0.11, 0.2), (0.3, 0.07)).shape == resampled_shape(
        image.shape, (0.11, 0.2), (0.3, 0.07)
    )


def test_scale_and_translation_can_be_traced():
    image = jnp.asarray(spot((0.1, 0.1)), jnp.float32)
    change = jax.jit(lambda s, t: scaled(image, (40, 60), s, t))
    place = np.array(PLACE) / 0.1
    for scale, move in (((0.5, 0.5), (0.0, 0.0)), ((0.4, 0.6), (1.3, -2.2)), ((0.3, 0.3), (8, 9))):
        made = change(jnp.asarray(scale, jnp.float32), jnp.asarray(move, jnp.float32))
        off = centre(made, (1.0, 1.0)) - (place * scale + move)
        assert np.abs(off).max() < 0.02
    plain = resample(image, (0.1, 0.1), (0.25, 0.25))
    traced = jax.jit(lambda s: scaled(image, plain.shape, s, jnp.zeros(2)))(jnp.full(2, 0.4))
    np.testing.assert_allclose(traced, plain, atol=1e-6)


def test_the_gradient_to_the_scale_is_finite():
    image = jnp.asarray(spot((0.1, 0.1)), jnp.float32)
    slope = jax.jit(jax.grad(lambda s: jnp.square(scaled(image, (40, 60), s, jnp.zeros(2))).sum()))
    assert np.isfinite(slope(jnp.full(2, 0.5))).all()


@pytest.mark.parametrize("bad", [0.0, -0.1, float("nan"), float("inf")])
def test_pixel_sizes_that_are_no_length(bad):
    for old, new in (((bad, 0.1), (0.1, 0.1)), ((0.1, 0.1), (0.1, bad))):
        with pytest.raises(ValueError, match="pixel sizes must be positive Å"):
            resample_(np.zeros((8, 8)), old, new)


@pytest.mark.parametrize("shape", [(8,), (8, 8, 3)])
def test_an_array_that_is_no_image(shape):
    with pytest.raises(ValueError, match=r"axes \[y, x\], not the shape"):
        resample_(np.zeros(shape), (0.1, 0.1), (0.2, 0.2))
