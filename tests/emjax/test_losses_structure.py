"""Edges, frequencies, scales, local structure: identities and what each does not see."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.losses import fourier, gradient, mae, mse, multiscale, ssim_loss
from emjax.metrics.image_quality import ssim


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Losses run once here: to compile them takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


SSIM = jax.jit(ssim_loss)
SLOPE = jax.jit(jax.grad(ssim_loss))
GRADIENT = jax.jit(gradient, static_argnames="power")
FOURIER = jax.jit(fourier, static_argnames=("power", "emphasis"))
RNG = np.random.default_rng(0)
P, T = RNG.uniform(size=(2, 2, 16, 14, 2)).astype(np.float32)
VOLUMES = RNG.uniform(size=(2, 1, 6, 5, 4, 2)).astype(np.float32)
W = RNG.uniform(size=(2, 16, 14)).astype(np.float32)


@pytest.mark.parametrize("power", [1, 2])
def test_gradient_by_hand(power):
    d = P - T
    expected = np.mean([(np.abs(np.diff(d, axis=a)) ** power).mean() for a in (1, 2)])
    assert float(GRADIENT(P, T, power=power)) == pytest.approx(expected, rel=1e-5)
    assert float(GRADIENT(T + 3, T, power=power)) == pytest.approx(0, abs=1e-5), "an offset"
    x = np.linspace(0, 13, 14, dtype=np.float32)
    ramp = np.broadcast_to(x[None, None, :, None], T.shape)
    assert float(GRADIENT(T + ramp, T, power=1)) == pytest.approx(0.5, rel=1e-4)
    a, b = VOLUMES
    expected = np.mean([np.abs(np.diff(a - b, axis=k)).mean() for k in (1, 2, 3)])
    assert float(GRADIENT(a, b)) == pytest.approx(expected, rel=1e-5)


def test_gradient_at_masked_pixels_does_not_count():
    mask = np.ones((2, 16, 14), np.float32)
    mask[0, 3, 4] = 0
    spoilt = P.copy()
    spoilt[0, 3, 4] = 100
    assert float(GRADIENT(spoilt, T, mask)) == pytest.approx(float(GRADIENT(P, T, mask)), rel=1e-5)


def test_fourier_squares_are_the_mean_square_error():
    """Parseval; in two and three dimensions, and with pictures that do not count."""
    assert float(FOURIER(P, T, power=2)) == pytest.approx(float(mse(P, T)), rel=1e-5)
    a, b = VOLUMES
    assert float(FOURIER(a, b, power=2)) == pytest.approx(float(mse(a, b)), rel=1e-5)
    one = np.array([1.0, 0.0])
    assert float(FOURIER(P, T, one, power=2)) == pytest.approx(float(mse(P[:1], T[:1])), rel=1e-5)


def test_fourier_of_one_wave():
    """cos 2πk·x of amplitude a: two coefficients of a/2 · √n of n."""
    y, x = np.indices((16, 16))
    wave = 0.3 * np.cos(2 * np.pi * (3 * x + 2 * y) / 16).astype(np.float32)[None, ..., None]
    value = float(FOURIER(wave, 0 * wave))
    assert value == pytest.approx(2 * 0.15 * 16 / 256, rel=2e-2)
    low = 0.3 * np.cos(2 * np.pi * x / 16).astype(np.float32)[None, ..., None]
    ratio = float(FOURIER(wave, 0 * wave, power=2, emphasis=2)) / float(
        FOURIER(low, 0 * low, power=2, emphasis=2)
    )
    assert ratio == pytest.approx(13**1, rel=1e-4), "abs(k)² is 13 times as large"
    offset = float(FOURIER(wave + 5, wave, power=2, emphasis=1))
    assert offset == pytest.approx(0, abs=1e-6)


def test_fourier_is_smooth_where_it_is_zero():
    assert np.isfinite(jax.jit(jax.grad(fourier))(jnp.asarray(T), T)).all()
    with pytest.raises(ValueError, match="choose 1 or 2"):
        fourier(P, T, power=3)
    with pytest.raises(ValueError, match="frequencies have no place"):
        fourier(P, T, W)


def test_several_scales():
    def halved(x):
        n, m = x.shape[1] // 2, x.shape[2] // 2
        return x[:, : 2 * n, : 2 * m].reshape(2, n, 2, m, 2, -1).mean((2, 4))

    levels = [(P, T)]
    for _ in range(2):
        levels.append(tuple(halved(x) for x in levels[-1]))
    expected = np.mean([np.abs(a - b).mean() for a, b in levels])
    assert float(multiscale(mae)(P, T)) == pytest.approx(expected, rel=1e-5)
    only = multiscale(mae, levels=2, weights=(0, 1))
    assert float(only(P, T)) == pytest.approx(float(mae(*levels[1])), rel=1e-5)
    uniform = multiscale(mae)(P, T, np.full((2, 16, 14), 0.3))
    assert float(uniform) == pytest.approx(expected, rel=1e-5)
    pictures = multiscale(mae)(P, T, np.array([1.0, 0.0]))
    expected = np.mean([np.abs(a[0] - b[0]).mean() for a, b in levels])
    assert float(pictures) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="5 levels need 16 pixels, not 14"):
        multiscale(mae, levels=5)(P, T)
    with pytest.raises(ValueError, match="as many weights"):
        multiscale(mae, levels=2, weights=(1,))


def test_masked_pixels_do_not_count_at_any_scale():
    mask = np.ones((2, 16, 14), np.float32)
    mask[0, 3, 4] = 0
    spoilt = P.copy()
    spoilt[0, 3, 4] = 1e4
    both = [float(multiscale(mae)(p, T, mask)) for p in (P, spoilt)]
    assert both[0] == pytest.approx(both[1], rel=1e-6)


def test_ssim():
    metric = np.mean(
        [
            ssim(a[..., c], b[..., c], data_range=1.0)
            for a, b in zip(P, T, strict=True)
            for c in (0, 1)
        ]
    )
    assert float(SSIM(P, T)) == pytest.approx(1 - metric, abs=1e-5)
    assert float(SSIM(T, T)) == pytest.approx(0, abs=1e-6)
    assert float(SSIM(1 - T, T)) > 1.5, "an inverted image: SSIM is negative"
    mask = np.zeros((2, 16, 14))
    mask[:, 5:-5, 5:-5] = 1
    assert float(SSIM(P, T, mask)) == pytest.approx(1 - metric, abs=1e-5)
    for constant in (0.0, 0.5):
        x = jnp.full((1, 12, 12, 1), constant)
        assert np.isfinite(SLOPE(x, x)).all()
        assert np.isfinite(SLOPE(x, jnp.asarray(T[:1, :12, :12, :1]))).all()
    with pytest.raises(ValueError, match="odd"):
        ssim_loss(P, T, window=4)
    with pytest.raises(ValueError, match="14 pixels and the window 15"):
        ssim_loss(P, T, window=15)


def test_a_step_down_the_slope_of_ssim_is_more_similar():
    x = jnp.asarray(P)
    slope = SLOPE(x, T)
    assert float(SSIM(x - 20 * slope, T)) < float(SSIM(x, T)) - 0.01
