"""Beam-current fluctuation and contamination: moments, spectra, growth."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from simulators.beam import BeamCurrent, coloured, coloured_log_density
from simulators.contamination import Contamination, blurred, film_texture
from simulators.noise import Chain, Poisson


def series(exponent, n=64, draws=20_000):
    keys = jax.random.split(jax.random.key(0), draws)
    return np.asarray(jax.jit(jax.vmap(lambda k: coloured(k, n, exponent)))(keys), float)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_four_moments_of_every_point(exponent):
    values = series(exponent)
    for point in (0, 31, 63):
        x = values[:, point]
        errors = np.sqrt(np.array([1, 2, 15, 96]) / x.size)
        for order, expected, error in zip((1, 2, 3, 4), (0, 1, 0, 3), errors, strict=True):
            assert abs((x**order).mean() - expected) <= 3 * error


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_the_spectrum_falls_as_asked(exponent):
    """Power of the full period, within 3 % of f^-exponent."""
    n = 32
    whole = series(exponent, n=n)
    correlation = (whole[:, :1] * whole).mean(axis=0)
    f = np.arange(n + 1)
    target = np.maximum(f, 1.0) ** -exponent
    full = np.concatenate([target, target[-2:0:-1]])
    expected = np.fft.ifft(full).real * 2 * n / full.sum()
    np.testing.assert_allclose(correlation, expected[:n], atol=3.5 / np.sqrt(len(whole)))
    # a tapered periodogram of a long series, in octaves, is free of the first points' leakage
    power = np.abs(np.fft.rfft(series(exponent, n=256, draws=4000) * np.hanning(256))) ** 2
    mean, k = power.mean(axis=0), np.arange(129)
    octaves = [(k >= a) & (k < 2 * a) for a in (8, 16, 32, 64)]
    seen = np.array([mean[o].sum() for o in octaves])
    law = np.array([(k[o].astype(float) ** -exponent).sum() for o in octaves])
    ratio = seen / law
    np.testing.assert_allclose(ratio / ratio.mean(), 1.0, atol=0.03)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_the_prior_of_a_current_is_its_density(exponent, x64):
    values = series(exponent, n=6, draws=50_000)
    covariance = np.cov(values.T)
    x = values[:5]
    expected = stats.multivariate_normal(np.zeros(6), covariance).logpdf(x)
    mine = [coloured_log_density(jnp.asarray(row), exponent) for row in x]
    np.testing.assert_allclose(mine, expected, atol=0.2)
    first = coloured_log_density(jnp.zeros(1), exponent)
    assert float(first) == pytest.approx(-0.5 * np.log(2 * np.pi), abs=1e-6)


def test_lines_and_frames_flicker():
    beam = BeamCurrent(line=0.03, frame=0.05, line_exponent=0.0)
    rate = jnp.full((2000, 6, 3), 10.0)
    seen = np.asarray(beam.sample(jax.random.key(1), rate)) / 10.0
    np.testing.assert_allclose(seen, np.broadcast_to(seen[..., :1], seen.shape), rtol=1e-6)
    lines = seen[..., 0]
    assert lines.mean() == pytest.approx(1.0, abs=4 * 0.05 / np.sqrt(2000))
    within = (lines - lines.mean(axis=1, keepdims=True)).var() * 6 / 5
    assert np.sqrt(within) == pytest.approx(0.03, rel=0.03)
    assert np.sqrt(lines.mean(axis=1).var() - within / 6) == pytest.approx(0.05, rel=0.06)
    one = beam.sample(jax.random.key(1), jnp.float32(7.0))
    assert one.shape == ()


def test_brownian_lines_go_on_in_the_next_frame():
    beam = BeamCurrent(line=0.1, line_exponent=2.0)
    keys = jax.random.split(jax.random.key(2), 500)
    current = np.asarray(jax.vmap(lambda k: beam.current(k, 2, 20))(keys))
    jump, inside = current[:, 1, 0] - current[:, 0, -1], np.diff(current, axis=-1)
    assert jump.std() == pytest.approx(inside.std(), rel=0.15)


def test_a_chain_of_models():
    chain = Chain((Contamination(growth=5.0), BeamCurrent(line=0.05), Poisson()))
    seen = jax.jit(lambda c, k: c.sample(k, jnp.full((4, 8, 8), 20.0)))(chain, jax.random.key(3))
    assert seen.shape == (4, 8, 8)
    np.testing.assert_array_equal(seen, np.round(seen))
    assert seen[3].mean() > seen[0].mean() + 8


def test_contamination_grows_with_the_dose():
    layer = Contamination(growth=3.0, spread=2.0)
    seen = layer.sample(jax.random.key(4), jnp.full((5, 10, 12), 7.0))
    expected = 7.0 + 3.0 * (np.arange(5) + 0.5)
    np.testing.assert_allclose(
        seen, np.broadcast_to(expected[:, None, None], seen.shape), rtol=1e-5
    )
    still = Contamination(growth=3.0, absorption=0.01).sample(
        jax.random.key(4), jnp.full((9, 9), 7.0)
    )
    np.testing.assert_allclose(still, 7.0 * np.exp(-0.015) + 1.5, rtol=1e-5)


def test_contamination_grows_where_the_beam_dwelt():
    dwelt = np.zeros((41, 41), np.float32)
    dwelt[20, 20] = 100.0
    layer = Contamination(growth=1.0, spread=3.0)
    seen = np.asarray(layer.sample(jax.random.key(5), jnp.zeros((41, 41)), jnp.asarray(dwelt)))
    spot = seen - 0.5
    assert spot.sum() == pytest.approx(100.0, rel=1e-3)
    y, x = np.mgrid[:41, :41] - 20
    for axis in (y, x):
        assert (spot * axis**2).sum() / spot.sum() == pytest.approx(9.0, rel=1e-2)


@pytest.mark.parametrize("grain", [0.7, 1.5])
def test_four_moments_and_spectrum_of_the_texture(grain):
    draw = jax.jit(jax.vmap(lambda k: film_texture(k, (32, 48), grain)))
    film = np.asarray(draw(jax.random.split(jax.random.key(6), 400)), float)
    x = film[:, ::8, ::8].ravel()  # far apart: independent
    for order, expected, v in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**order).mean() - expected) <= 3 * np.sqrt(v / x.size)
    for lag in (1, 2, 3):
        seen = (film * np.roll(film, lag, axis=2)).mean()
        expected = np.exp(-(lag**2) / (4 * grain**2))
        assert seen == pytest.approx(expected, abs=0.015 if grain > 1 else 0.02)


def test_the_texture_stays_while_the_film_grows():
    layer = Contamination(growth=2.0, texture=0.2, grain=1.5)
    seen = np.asarray(layer.sample(jax.random.key(7), jnp.zeros((3, 64, 64))))
    np.testing.assert_allclose(seen[2] / seen[0], 5.0, rtol=1e-4)
    assert seen[1].std() / seen[1].mean() == pytest.approx(0.2, rel=0.1)
    other = layer.sample(jax.random.key(8), jnp.zeros((3, 64, 64)))
    assert not np.allclose(seen, other)


def test_a_blur_of_nothing_and_its_gradient(x64):
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 7)))
    np.testing.assert_allclose(blurred(image, 0.0), image, atol=1e-12)
    h = 1e-6

    def loss(s):
        return (blurred(image, s) ** 2).sum()

    numeric = (loss(1.3 + h) - loss(1.3 - h)) / (2 * h)
    assert float(jax.grad(loss)(1.3)) == pytest.approx(float(numeric), rel=1e-6)
