"""Drift, jitter and fly-back in time: moments, spectra, likelihoods, and images read with them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from simulators.distortions import Drift, Flyback, Jitter, displaced_image
from simulators.scan import scan_times
from simulators.tree import replace

TIMES = scan_times((3, 4), dwell=0.1, flyback=0.35)
DRAWS = 40_000


def many(model, times=TIMES, draws=DRAWS):
    keys = jax.random.split(jax.random.key(0), draws)
    return np.asarray(jax.jit(jax.vmap(lambda k: model.sample(k, times)))(keys), float)


def four_moments(x, mean, sigma):
    z = (x - mean) / sigma
    for order, expected, v in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**order).mean() - expected) <= 3 * np.sqrt(v / z.size)


def test_drift_is_linear_with_a_growing_walk():
    path = many(Drift(velocity=(2.0, -1.0), walk=(0.3, 0.6)))
    assert path.shape == (DRAWS, 3, 4, 2)
    assert not path[:, 0, 0].any(), "from where it was at the first pixel"
    for i, velocity, walk in ((0, 2.0, 0.3), (1, -1.0, 0.6)):
        for at in ((0, 3), (2, 0)):
            t = TIMES[at]
            four_moments(path[:, *at, i], velocity * t, walk * np.sqrt(t))
    early, late = path[:, 1, 0, 0] - 2 * TIMES[1, 0], path[:, 2, 3, 0] - 2 * TIMES[2, 3]
    assert (early * late).mean() == pytest.approx(0.09 * TIMES[1, 0], rel=0.05)
    still = Drift(velocity=(2.0, -1.0)).sample(jax.random.key(1), TIMES)
    np.testing.assert_allclose(still[..., 0], 2 * TIMES, rtol=1e-5)


@pytest.mark.parametrize("memory", [0.0, 0.2, 5.0])
def test_jitter_remembers_for_its_time(memory):
    path = many(Jitter(size=(0.3, 0.1), memory=memory)).reshape(DRAWS, 12, 2)
    flat = TIMES.ravel()
    for i, size in ((0, 0.3), (1, 0.1)):
        four_moments(path[:, 0, i], 0, size)
        four_moments(path[:, 7, i], 0, size)
        seen = (path[:, :, None, i] * path[:, None, :, i]).mean(axis=0) / size**2
        expected = np.exp(-np.abs(flat[:, None] - flat[None, :]) / max(memory, 1e-9))
        np.testing.assert_allclose(seen, expected, atol=4 / np.sqrt(DRAWS))


def test_the_spectrum_of_jitter_is_a_lorentzian():
    """Power of an AR(1) process, (1 - ρ²)/(1 + ρ² - 2ρ cos ω), within 3 % in octaves."""
    times = np.arange(256) * 1.0
    path = many(Jitter(size=(1.0, 1.0), memory=3.0), times, draws=4000)[..., 0]
    window = np.hanning(256)
    power = (np.abs(np.fft.rfft(path * window)) ** 2).mean(axis=0) / (window**2).sum()
    rho, omega = np.exp(-1 / 3.0), 2 * np.pi * np.fft.rfftfreq(256)
    law = (1 - rho**2) / (1 + rho**2 - 2 * rho * np.cos(omega))
    for low in (8, 16, 32, 64):
        band = slice(low, 2 * low)
        assert power[band].mean() == pytest.approx(law[band].mean(), rel=0.03)


def test_likelihoods_are_the_densities_of_the_paths(x64):
    flat, key = TIMES.ravel(), jax.random.key(2)
    gap = np.abs(flat[:, None] - flat[None, :])
    for memory in (0.0, 0.4):
        jitter = Jitter(size=(0.3, 0.1), memory=memory)
        path = jitter.sample(key, TIMES)
        covariance = np.exp(-gap / max(memory, 1e-9))
        expected = sum(
            stats.multivariate_normal(np.zeros(12), size**2 * covariance).logpdf(part)
            for size, part in ((0.3, path[..., 0].ravel()), (0.1, path[..., 1].ravel()))
        )
        assert float(jitter.log_likelihood(path, TIMES)) == pytest.approx(expected, rel=1e-9)
    drift = Drift(velocity=(2.0, -1.0), walk=(0.3, 0.6))
    path = np.asarray(drift.sample(key, TIMES)).reshape(-1, 2)
    earlier = np.minimum(flat[1:, None], flat[None, 1:])
    expected = sum(
        stats.multivariate_normal(v * flat[1:], w**2 * earlier).logpdf(path[1:, i])
        for i, (v, w) in enumerate(((2.0, 0.3), (-1.0, 0.6)))
    )
    assert float(drift.log_likelihood(jnp.asarray(path), flat)) == pytest.approx(expected, rel=1e-9)


def test_a_drift_without_a_walk_has_no_density():
    with pytest.raises(ValueError, match="has no density"):
        Drift(velocity=(2.0, -1.0)).log_likelihood(jnp.zeros((12, 2)), TIMES.ravel())


def test_the_likelihood_finds_the_memory_and_the_drift(x64):
    times = np.arange(4000) * 0.1
    jitter = Jitter(size=(0.3, 0.2), memory=0.5)
    path = jitter.sample(jax.random.key(3), times)
    total = jax.jit(lambda m, s: Jitter((0.3 * s, 0.2 * s), m).log_likelihood(path, times))
    values = [float(total(m, 1.0)) for m in (0.35, 0.42, 0.5, 0.58, 0.7)]
    assert np.argmax(values) == 2
    assert float(total(0.5, 1.0)) > max(float(total(0.5, 0.9)), float(total(0.5, 1.1)))
    h = 1e-6
    numeric = (total(0.6 + h, 1.0) - total(0.6 - h, 1.0)) / (2 * h)
    assert float(jax.grad(total)(0.6, 1.0)) == pytest.approx(float(numeric), rel=1e-6)
    drift = Drift(velocity=(1.0, 0.0), walk=(0.2, 0.2))
    walk = drift.sample(jax.random.key(4), times)
    slope = jax.grad(lambda v: replace(drift, velocity=(v, 0.0)).log_likelihood(walk, times))
    information = (times[-1] - times[0]) / 0.2**2
    assert abs(float(slope(1.0))) < 4 * np.sqrt(information)


def test_flyback_decays_along_the_line():
    lag = Flyback(shift=(-0.8, 0.1), brightness=0.5, decay=0.2)
    shift, gain = lag.sample(jax.random.key(5), TIMES)
    tail = np.exp(-np.arange(4) * 0.1 / 0.2)
    np.testing.assert_allclose(shift[..., 0], np.tile(-0.8 * tail, (3, 1)), rtol=1e-5)
    np.testing.assert_allclose(shift[..., 1], np.tile(0.1 * tail, (3, 1)), rtol=1e-5)
    np.testing.assert_allclose(gain, np.tile(1 + 0.5 * tail, (3, 1)), rtol=1e-6)
    spread = Flyback(shift=(1.0, 0.0), decay=0.2, spread=0.25)
    keys = jax.random.split(jax.random.key(6), DRAWS)
    first = jax.vmap(lambda k: spread.sample(k, TIMES)[0][:, 0, 0])(keys)
    four_moments(np.asarray(first[:, 1], float), 1.0, 0.25)
    assert abs(np.corrcoef(np.asarray(first).T)[0, 1]) < 4 / np.sqrt(DRAWS)
    with pytest.raises(ValueError, match="needs lines"):
        lag.sample(jax.random.key(5), TIMES[0, 0])


def test_one_drift_for_a_series_of_frames():
    times = scan_times((4, 5), dwell=0.01, flyback=0.05, frames=3)
    path = Drift(velocity=(1.0, 0.0)).sample(jax.random.key(7), times)
    assert path.shape == (3, 4, 5, 2)
    np.testing.assert_allclose(path[1, ..., 0] - path[0, ..., 0], 0.4, rtol=1e-4)


def test_parameters_can_be_drawn_inside_a_compiled_step():
    def shift(key, size):
        both = Jitter((size, size), memory=size).sample(key, TIMES)
        return both + Drift(walk=(size, size)).sample(key, TIMES)

    compiled = jax.jit(jax.vmap(shift))(
        jax.random.split(jax.random.key(8), 2), jnp.array([0.1, 0.2])
    )
    alone = shift(jax.random.split(jax.random.key(8), 2)[1], 0.2)
    np.testing.assert_allclose(compiled[1], alone, rtol=1e-5, atol=1e-6)
    traced = jax.jit(lambda t: Jitter((0.1, 0.1), 0.3).sample(jax.random.key(9), t))(TIMES)
    known = Jitter((0.1, 0.1), 0.3).sample(jax.random.key(9), TIMES)
    np.testing.assert_allclose(traced, known, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="times must increase"):
        Drift().sample(jax.random.key(0), TIMES[::-1])


def waves(y, x):
    return 2 + np.cos(2 * np.pi * (2 * x / 24 + 0.3)) * np.sin(2 * np.pi * (y / 20 - x / 24))


def test_an_image_is_read_where_the_beam_was(x64):
    y, x = np.mgrid[:20.0, :24.0]
    image = jnp.asarray(waves(y, x))
    shift = np.random.default_rng(0).normal(size=(20, 24, 2)) * 0.5
    seen = displaced_image(image, jnp.asarray(shift), (0.5, 0.25))
    expected = waves(y + shift[..., 1] / 0.5, x + shift[..., 0] / 0.25)
    assert np.abs(seen - expected).max() < 0.02
    whole = displaced_image(image, jnp.tile(jnp.asarray([0.75, 1.0]), (20, 24, 1)), (0.5, 0.25))
    np.testing.assert_allclose(whole, np.roll(image, (-2, -3), (0, 1)), atol=1e-12)

    def loss(step):
        moved = displaced_image(image, jnp.asarray(shift) * (1 + step), 0.3)
        return (moved**3).sum()

    h = 1e-6
    numeric = (loss(h) - loss(-h)) / (2 * h)
    assert float(jax.grad(loss)(0.0)) == pytest.approx(float(numeric), rel=1e-6)
    with pytest.raises(ValueError, match="needs shifts"):
        displaced_image(image, jnp.zeros((20, 23, 2)), 0.3)
