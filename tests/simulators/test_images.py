"""Images between pixels: exact for band-limited periodic ones, a cubic spline for the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.images import interpolate, line_profile, sample, spline_weights, tile


def wave(y, x):
    """A real image of low frequencies with the periods 6 Å (y) and 5 Å (x)."""
    u, v = 2 * np.pi * y / 6, 2 * np.pi * x / 5
    return 1 + np.cos(2 * u - 0.3) * np.sin(v) + 0.5 * np.cos(3 * v + u)


def pixels(ny, nx, dy, dx):
    return np.arange(ny)[:, None] * dy, np.arange(nx)[None, :] * dx


@pytest.mark.parametrize("shape", [(12, 10), (13, 9), (12, 9)])
def test_a_periodic_image_is_read_exactly_anywhere(shape):
    step = (6 / shape[0], 5 / shape[1])
    image = wave(*pixels(*shape, *step))
    fine, sampling = interpolate(image, step, (0.11, 0.07))
    assert fine.shape == (55, 72)
    np.testing.assert_allclose(sampling, (6 / 55, 5 / 72))
    np.testing.assert_allclose(fine, wave(*pixels(*fine.shape, *sampling)), atol=1e-12)
    points = np.random.default_rng(0).uniform(-20, 20, (30, 2))
    np.testing.assert_allclose(sample(image, points, step), wave(*points.T[::-1]), atol=1e-12)


def test_a_cropped_image_is_a_spline():
    step = (0.25, 0.2)
    image = wave(*pixels(21, 18, *step))
    fine, sampling = interpolate(image, step, 0.06, periodic=False)
    rows, columns = fine.shape
    np.testing.assert_allclose((rows - 1) * sampling[0], 5.0)
    np.testing.assert_allclose((columns - 1) * sampling[1], 3.4)
    assert max(sampling) <= 0.06
    np.testing.assert_allclose(fine, wave(*pixels(rows, columns, *sampling)), atol=0.03)
    np.testing.assert_allclose(fine[-1, -1], image[-1, -1], rtol=1e-10)
    # cubic polynomials exactly, up to the edges
    y, x = pixels(7, 6, 1.0, 1.0)

    def cubic(y, x):
        return y**3 - 2 * y**2 * x + 0.5 * x**3 + x - 4

    points = np.random.default_rng(1).uniform(0, 5, (20, 2))
    read = sample(cubic(y, x), points, 1.0, periodic=False)
    np.testing.assert_allclose(read, cubic(points[:, 1], points[:, 0]), atol=1e-10)
    with pytest.raises(ValueError, match="outside the image in x"):
        sample(cubic(y, x), np.array([[5.2, 1.0]]), 1.0, periodic=False)
    with pytest.raises(ValueError, match="at least 4 pixels"):
        spline_weights(np.zeros(1), 3)


def test_the_same_sampling_changes_nothing_and_stacks_go_along():
    stack = np.random.default_rng(2).uniform(size=(2, 3, 8, 7))
    for periodic in (True, False):
        same, _ = interpolate(stack, 0.5, 0.5, periodic=periodic)
        np.testing.assert_allclose(same, stack, atol=1e-12)
    assert sample(stack, np.zeros((5, 2)), 0.5).shape == (2, 3, 5)
    np.testing.assert_array_equal(tile(stack, (2, 3))[1, 2, 8:, 14:], stack[1, 2])
    assert isinstance(tile(jnp.asarray(stack, jnp.float32), (2, 1)), jax.Array)
    with pytest.raises(ValueError, match="at least 1"):
        tile(stack, (0, 2))


def test_profiles():
    step = (0.25, 0.25)
    image = np.broadcast_to(wave(*pixels(24, 20, *step))[:1], (24, 20))  # no change along y
    distance, profile = line_profile(image, step, (0.5, 1.0), (4.5, 1.0), n=81)
    x = np.linspace(0.5, 4.5, 81)
    np.testing.assert_allclose(distance, x - 0.5)
    np.testing.assert_allclose(profile, wave(0, x), atol=1e-12)
    _, wide = line_profile(image, step, (0.5, 1.0), (4.5, 1.0), n=81, width=1.5)
    np.testing.assert_allclose(wide, profile, atol=1e-12)
    _, across = line_profile(image, step, (2.0, 0.0), (2.0, 3.0), n=9, width=1.0)
    np.testing.assert_allclose(across, across[0], atol=1e-12)
    with pytest.raises(ValueError, match="two different points"):
        line_profile(image, step, (1, 1), (1, 1))


@pytest.mark.parametrize("periodic", [True, False])
def test_gradients_with_respect_to_the_image_and_the_points(x64, periodic):
    rng = np.random.default_rng(3)
    image, points = jnp.asarray(rng.uniform(size=(9, 8))), jnp.asarray(rng.uniform(0, 3, (6, 2)))
    weight = jnp.asarray(rng.normal(size=6))

    @jax.jit
    def loss(image, points):
        return (sample(image, points, (0.5, 0.6), periodic=periodic) * weight).sum()

    gradients = jax.grad(loss, argnums=(0, 1))(image, points)
    for which, value in enumerate((image, points)):
        direction = jnp.asarray(rng.normal(size=value.shape))
        arguments = [[image, points], [image, points]]
        for sign, chosen in zip((1e-6, -1e-6), arguments, strict=True):
            chosen[which] = value + sign * direction
        difference = (loss(*arguments[0]) - loss(*arguments[1])) / 2e-6
        assert float((gradients[which] * direction).sum()) == pytest.approx(
            float(difference), rel=1e-7, abs=1e-9
        )
