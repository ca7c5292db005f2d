"""Scan positions, and the statistics of what goes wrong in a scan."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

from simulators.grid import Grid
from simulators.linear import sample_lines, spectrum
from simulators.scan import ScanDistortion, displaced, raster

FRAMES, LINES = 2000, 128


@jax.jit
def _frames(distortion: ScanDistortion) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0), FRAMES)
    return jax.vmap(lambda key: distortion.sample(key, LINES))(keys)


def frames(distortion: ScanDistortion) -> tuple[np.ndarray, np.ndarray]:
    """Displacements [frames, lines, 2] and brightness [frames, lines] of many scans."""
    shift, gain = _frames(distortion)
    return np.asarray(shift), np.asarray(gain)


def test_positions_of_a_raster():
    where = raster((3, 5), (0.2, 0.5), origin=(10.0, -4.0))
    assert where.shape == (3, 5, 2)
    assert where.dtype == np.float64
    np.testing.assert_allclose(where[0, 0], (10.0, -4.0))
    np.testing.assert_allclose(where[2, 4], (10.0 + 4 * 0.5, -4.0 + 2 * 0.2))
    np.testing.assert_allclose(np.diff(where[..., 0], axis=1), 0.5)
    np.testing.assert_allclose(np.diff(where[..., 1], axis=0), 0.2)


def test_one_sampling_serves_both_axes():
    np.testing.assert_array_equal(raster((2, 3), 0.3), raster((2, 3), (0.3, 0.3)))


def test_rotation_turns_x_towards_y_about_the_origin():
    plain = raster((4, 6), (0.2, 0.5), origin=(3.0, 7.0))
    quarter = raster((4, 6), (0.2, 0.5), origin=(3.0, 7.0), rotation=np.pi / 2)
    np.testing.assert_allclose(quarter[0, 0], (3.0, 7.0))
    np.testing.assert_allclose(quarter[0, 1], (3.0, 7.5), atol=1e-12)
    np.testing.assert_allclose(quarter[1, 0], (2.8, 7.0), atol=1e-12)
    turned = raster((4, 6), (0.2, 0.5), origin=(3.0, 7.0), rotation=0.3)
    back = np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    np.testing.assert_allclose((turned - (3.0, 7.0)) @ back.T + (3.0, 7.0), plain, atol=1e-12)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_a_scan_without_pixels(shape):
    with pytest.raises(ValueError, match="at least one pixel in y and x"):
        raster(shape, 0.1)


@pytest.mark.parametrize("sampling", [0.0, -0.1, (0.1, 0.0)])
def test_a_sampling_that_is_no_length(sampling):
    with pytest.raises(ValueError, match="must be positive Å per pixel"):
        raster((4, 4), sampling)


def test_no_distortion_is_the_perfect_scan():
    shift, gain = ScanDistortion().sample(jax.random.key(1), 51)
    np.testing.assert_array_equal(shift, np.zeros((51, 2)))
    np.testing.assert_array_equal(gain, np.ones(51))


@pytest.mark.parametrize("correlation", [0.0, 0.7, 0.95])
def test_jitter_has_its_standard_deviation_on_every_line(correlation):
    shift, _ = frames(ScanDistortion(jitter=(0.3, 0.05), correlation=correlation))
    for axis, sigma in ((0, 0.3), (1, 0.05)):
        # frames are independent: sd of a standard deviation is σ/√(2n); 128 lines, so 4.5 of them
        each = shift[..., axis].std(axis=0)
        np.testing.assert_allclose(each, sigma, rtol=4.5 / np.sqrt(2 * FRAMES))
        assert np.abs(shift[..., axis].mean(axis=0)).max() < 4.5 * sigma / np.sqrt(FRAMES)
    cross = np.corrcoef(shift[..., 0].ravel(), shift[..., 1].ravel())[0, 1]
    independent = FRAMES * LINES * (1 - correlation) / (1 + correlation)
    assert abs(cross) < 4 / np.sqrt(independent), "x and y are independent"


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("lag", [1, 3])
def test_correlation_between_lines(correlation, lag):
    shift, _ = frames(ScanDistortion(jitter=(0.2, 0.2), correlation=correlation))
    product = (shift[:, lag:] * shift[:, :-lag]).mean(axis=(0, 1)) / 0.2**2
    np.testing.assert_allclose(product, correlation**lag, atol=0.02)


def test_drift_is_linear_over_the_frame_and_centred():
    shift, gain = ScanDistortion(drift=(3.0, -1.5)).sample(jax.random.key(2), 51)
    np.testing.assert_allclose(shift[-1] - shift[0], (3.0, -1.5), rtol=1e-6)
    expected = (np.arange(51) / 50 - 0.5)[:, None] * np.array([3.0, -1.5])
    np.testing.assert_allclose(shift, expected, atol=1e-6)
    np.testing.assert_array_equal(gain, 1.0)


def test_row_gain():
    shift, gain = frames(ScanDistortion(gain=0.04))
    assert gain.mean() == pytest.approx(1.0, abs=4 * 0.04 / np.sqrt(gain.size))
    assert gain.std() == pytest.approx(0.04, rel=4 / np.sqrt(2 * gain.size))
    neighbours = np.corrcoef(gain[:, 1:].ravel(), gain[:, :-1].ravel())[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(gain.size), "lines flicker independently"
    np.testing.assert_array_equal(shift, np.zeros_like(shift))


def test_the_key_decides():
    distortion = ScanDistortion(jitter=(0.1, 0.1), correlation=0.5, gain=0.02)
    first, again = (distortion.sample(jax.random.key(3), 51) for _ in range(2))
    other = distortion.sample(jax.random.key(4), 51)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_statistics_can_be_drawn_inside_a_compiled_step():
    def frame(key, size):
        return ScanDistortion(jitter=(size, 0.0), correlation=size).sample(key, 51)

    compiled = jax.jit(frame)(jax.random.key(5), jnp.float32(0.4))
    known = ScanDistortion(jitter=(0.4, 0.0), correlation=0.4).sample(jax.random.key(5), 51)
    for a, b in zip(compiled, known, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("correlation", [-0.1, 1.0, 1.4, float("nan")])
def test_a_correlation_that_cannot_be(correlation):
    with pytest.raises(ValueError, match="from 0 to below 1"):
        ScanDistortion(correlation=correlation)


def some_points(n: int = 12, side: float = 12.0) -> np.ndarray:
    return np.random.default_rng(0).uniform(1.5, side - 1.5, (n, 2)).astype(np.float32)


def test_a_constant_displacement_moves_points_back():
    points, shift = some_points(), np.tile(np.float32([0.37, -0.21]), (60, 1))
    moved = displaced(points, shift, 0.2)
    np.testing.assert_allclose(moved, points - shift[0], rtol=0, atol=2e-6)
    np.testing.assert_array_equal(displaced(points, np.zeros_like(shift), 0.2), points)


def test_points_outside_the_scan_follow_its_nearest_line():
    shift = np.zeros((60, 2), np.float32)
    shift[0], shift[-1] = (0.3, 0.1), (-0.2, 0.4)
    far = np.float32([[3.0, -400.0], [3.0, 900.0]])
    moved = np.asarray(displaced(far, shift, 0.2))
    assert np.isfinite(moved).all()
    np.testing.assert_allclose(far - moved, [[0.3, 0.1], [-0.2, 0.4]], atol=1e-4)


def test_only_nearby_lines_count():
    shift = np.zeros((60, 2), np.float32)
    shift[30:] = (0.5, 0.0)  # the scan jumps at y = 5.9 Å
    moved = displaced(np.float32([[3.0, 3.0], [3.0, 5.9], [3.0, 9.0]]), shift, 0.2)
    np.testing.assert_allclose(moved[:, 0], [3.0, 2.75, 2.5], atol=1e-5)


def centroid(image: np.ndarray, near: np.ndarray, sampling: float) -> np.ndarray:
    """Centre (x, y) in Å of what lies within 2 Å of a point."""
    where = raster(image.shape, sampling)
    weight = image * (np.hypot(*(where - near).transpose(2, 0, 1)) < 2.0)
    return (weight[..., None] * where).sum((0, 1)) / weight.sum()


@pytest.mark.parametrize(("jitter", "correlation"), [(0.1, 0.0), (0.2, 0.6), (0.25, 0.9)])
def test_displaced_points_are_where_the_image_shows_them(jitter, correlation):
    """The centre of an imaged Gaussian spot of σ = 0.5 Å under random line displacements."""
    sampling, n, side = 0.2, 60, 12.0
    grid = Grid((n, n), (sampling, sampling))
    distortion = ScanDistortion(jitter=(jitter, 0.5 * jitter), correlation=correlation)
    error, size = [], []
    for seed, point in enumerate(np.clip(some_points(), 3.0, side - 3.0)):
        shift, _ = distortion.sample(jax.random.key(seed), n)
        spot = spectrum(point[None], jnp.ones(1), grid, sigma=jnp.full(1, 0.5))
        image = np.asarray(sample_lines(spot, grid, shift))
        seen = np.asarray(displaced(point[None], shift, sampling, width=0.5))[0]
        error.append(centroid(image, point, sampling) - seen)
        size.append(point - seen)
    rms, moved = (np.sqrt(np.square(v).mean(0)) for v in (error, size))
    print(f"jitter {jitter} Å: moved by {moved} Å, predicted to {rms} Å")
    assert (moved > 8 * rms).all(), "it explains nearly all of what happens"
    assert (rms < 0.02).all()


def test_by_default_where_a_least_squares_fit_finds_a_column():
    y, x = np.mgrid[:41, :41] * 0.2
    rng, error, moved = np.random.default_rng(1), [], []

    def gaussian(p):
        return p[3] * np.exp(-((x - p[0]) ** 2 + (y - p[1]) ** 2) / (2 * p[2] ** 2)) + p[4]

    for _ in range(20):
        place, shift = 4 + rng.uniform(-0.1, 0.1, 2), rng.normal(size=(41, 2)) * [0.1, 0.05]
        r2 = (x + shift[:, :1] - place[0]) ** 2 + (y + shift[:, 1:] - place[1]) ** 2
        image, near = np.exp(-r2 / (2 * 0.42**2)), np.hypot(x - 4, y - 4) < 1.1
        fit = least_squares(lambda p, i=image, n=near: (gaussian(p) - i)[n], [4, 4, 0.4, 1, 0]).x
        seen = displaced(place[None].astype(np.float32), shift.astype(np.float32), 0.2)
        error.append(fit[:2] - seen[0])
        moved.append(fit[:2] - place)
    rms, size = (np.sqrt(np.square(v).mean(0)) for v in (error, moved))
    print(f"fits moved by {size} Å, predicted to {rms} Å")
    assert (rms < 0.01).all()
    assert (size > 3 * rms).all()
