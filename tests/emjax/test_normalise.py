"""Network input: the same for every gain and offset, and finite where there is nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from emjax.data.normalise import HIGH, LOW, SMOOTH, WINDOW, normalise

SHAPE = (80, 97)
compiled = jax.jit(normalise)


def lattice(shape: tuple[int, int] = SHAPE, seed: int = 0) -> np.ndarray:
    """Noisy bright columns over an uneven background, float32, between 0 and about 3."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    spots = (1 + np.cos(2 * np.pi * x / 9.3)) * (1 + np.cos(2 * np.pi * y / 7.7)) / 4
    noise = np.random.default_rng(seed).normal(size=shape)
    return (spots + 0.8 * x / shape[1] + 0.1 * noise + 0.5).astype(np.float32)


@pytest.mark.parametrize(
    ("gain", "offset"), [(37.0, 0.0), (2e-5, 0.0), (3e8, -1e8), (1.0, 5.0), (0.8, -6.0)]
)
def test_gain_and_offset_do_not_matter(gain, offset):
    image = lattice()
    changed = np.float32(gain) * image + np.float32(offset)
    np.testing.assert_allclose(compiled(changed), compiled(image), atol=1e-5)


def test_an_inverted_image_is_another_one():
    image = lattice()
    assert np.abs(compiled(-image) - compiled(image)).max() > 1


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -7.7, 100_000.3, 1e-20])
def test_a_constant_image_gives_exactly_0(value):
    made = compiled(jnp.full(SHAPE, value, jnp.float32))
    assert made.shape == (*SHAPE, 2)
    assert made.dtype == jnp.float32
    np.testing.assert_array_equal(made, 0.0)


def test_finite_with_finite_gradients():
    slope = jax.jit(jax.grad(lambda x: jnp.square(normalise(x) - 1).sum()))
    dot = np.zeros(SHAPE, np.float32)
    dot[30, 40] = 1.0
    half = np.zeros(SHAPE, np.float32)
    half[:, 50:] = lattice()[:, 50:]
    for image in (lattice(), np.zeros(SHAPE), np.full(SHAPE, 0.1), dot, half):
        image = jnp.asarray(image, jnp.float32)
        assert np.isfinite(compiled(image)).all()
        assert np.isfinite(slope(image)).all()


def test_vacuum_is_not_blown_up():
    """Half of the image is empty but for weak noise: it must stay quiet."""
    rng = np.random.default_rng(1)
    image = lattice(seed=2)
    image[:, 48:] = 0.01 * rng.normal(size=(SHAPE[0], SHAPE[1] - 48))
    made = np.asarray(compiled(image))
    assert made[:, 85:].std() < 0.1 * made[:, :35].std()


def test_compiled_and_integer_images():
    image = lattice()
    np.testing.assert_allclose(compiled(image), normalise(image), atol=3e-6)
    counts = np.random.default_rng(3).poisson(40 * image)
    np.testing.assert_array_equal(compiled(counts), compiled(counts.astype(np.float32)))


def test_the_first_channel_is_the_contrast_between_two_quantiles():
    image = lattice((81, 97))
    x = image - image.mean()
    smooth = smoothed(x / x.std(), SMOOTH)
    low, high = np.quantile(smooth[::2, ::2], [LOW, HIGH])
    expected = np.arcsinh(5 * (x / x.std() - low) / (high - low))
    np.testing.assert_allclose(compiled(image)[..., 0], expected, atol=0.05)


def test_the_second_channel_is_the_deviation_from_the_neighbourhood():
    image = lattice((150, 170))
    x = (image - image.mean()) / image.std()
    smooth = smoothed(x, SMOOTH)
    mean = smoothed(smooth, WINDOW)
    variance = smoothed((smooth - mean) ** 2, WINDOW)
    expected = (x - mean) / np.sqrt(variance + 0.02 * variance.max()) / 2
    made = np.asarray(compiled(image))
    np.testing.assert_allclose(made[..., 1], expected, atol=1e-3)
    # a ramp over the whole image is in the first channel and not in the second
    left, right = (made[:, part].mean((0, 1)) for part in (np.s_[20:50], np.s_[-50:-20]))
    rise = (right - left) / made.std((0, 1))
    assert rise[0] > 1
    assert abs(rise[1]) < 0.3


def smoothed(image: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian that is renormalised at the edges, by SciPy."""
    options = {"mode": "constant", "truncate": 8.0}
    total = gaussian_filter(image.astype(float), sigma, **options)
    return total / gaussian_filter(np.ones(image.shape), sigma, **options)


def test_large_images_take_every_fourth_pixel_for_their_quantiles():
    small, large = (np.asarray(compiled(lattice(shape))) for shape in ((250, 250), (270, 270)))
    assert abs(small[..., 0].mean() - large[..., 0].mean()) < 0.05
    assert large[..., 0].std() == pytest.approx(small[..., 0].std(), rel=0.03)
