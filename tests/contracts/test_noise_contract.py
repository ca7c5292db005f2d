"""Every entry of `NOISE` through one battery: sampling, likelihood, and JAX's transforms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.noise import NOISE

ARGS = {
    "gaussian": {"sigma": 1.5},
    "poisson_readout": {"sigma": 0.8, "gain": 2.5, "offset": 10.0},
    "poisson_gaussian": {"sigma": 0.8, "gain": 2.5, "offset": 10.0},
    "anscombe": {"sigma": 0.8, "gain": 2.5, "offset": 10.0},
    "camera": {"readout": 0.8, "gain": 2.5, "offset": 10.0, "bits": 12},
    "x_rays": {"probability": 0.01, "height": 300.0},
    "salt_pepper": {"salt": 0.02, "pepper": 0.01},
    "beam_current": {"line": 0.05, "frame": 0.02},
    "contamination": {"growth": 3.0, "spread": 1.0, "texture": 0.3},
}
"""Parameters of the models that need some."""

RATE = np.random.default_rng(0).uniform(0.5, 30.0, (6, 9)).astype(np.float32)

names = pytest.mark.parametrize("name", NOISE)
counting = pytest.mark.parametrize(
    "name", [name for name, kind in NOISE.items() if hasattr(kind, "log_likelihood")]
)
"""Models that end in counts; the others turn a rate into a rate."""


def model(name):
    return NOISE[name](**ARGS.get(name, {}))


@names
def test_samples_are_like_their_rate(name):
    noise = model(name)
    for shape in ((), (5,), (2, 6, 9), (0, 3)):
        for dtype in (jnp.float32, jnp.bfloat16):
            rate = jax.ShapeDtypeStruct(shape, dtype)
            sample = jax.eval_shape(noise.sample, jax.random.key(0), rate)
            assert sample.shape == shape
            assert sample.dtype == dtype
    sample = noise.sample(jax.random.key(0), jnp.asarray(RATE))
    assert sample.dtype == jnp.float32
    assert np.isfinite(sample).all()
    dark = noise.sample(jax.random.key(0), jnp.zeros_like(RATE))
    assert np.isfinite(dark).all(), "vacuum and a blanked beam are rates too"


@names
def test_keys(name):
    noise, rate = model(name), jnp.asarray(RATE)
    first, again, other = (noise.sample(jax.random.key(seed), rate) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    pixels = noise.sample(jax.random.key(0), jnp.full(RATE.shape, 20.0))
    assert len(np.unique(pixels)) > 5, "pixels have noise of their own"


@counting
def test_likelihood_is_a_finite_scalar_with_finite_gradients(name):
    noise = model(name)
    counts = noise.sample(jax.random.key(0), jnp.asarray(RATE))
    value = noise.log_likelihood(counts, jnp.asarray(RATE))
    assert value.shape == ()
    assert np.isfinite(value)
    # also where nothing was expected and nothing seen
    dark = noise.sample(jax.random.key(1), jnp.zeros_like(RATE))
    for seen, rate in ((counts, RATE), (dark, np.full_like(RATE, 1e-3)), (dark, 0 * RATE)):
        gradient = jax.grad(noise.log_likelihood, argnums=1)(seen, jnp.asarray(rate))
        assert gradient.shape == rate.shape
        assert np.isfinite(gradient).all()


@names
def test_compiled_or_not(name):
    noise, rate = model(name), jnp.asarray(RATE)
    sample = noise.sample(jax.random.key(0), rate)
    compiled = jax.jit(lambda noise, key, rate: noise.sample(key, rate))
    np.testing.assert_allclose(compiled(noise, jax.random.key(0), rate), sample, rtol=1e-5)
    if not hasattr(noise, "log_likelihood"):
        return
    value = noise.log_likelihood(sample, rate)
    compiled = jax.jit(lambda noise, counts, rate: noise.log_likelihood(counts, rate))
    np.testing.assert_allclose(compiled(noise, sample, rate), value, rtol=1e-5)


@names
def test_batches_are_loops(name):
    noise = model(name)
    keys = jax.random.split(jax.random.key(5), 3)
    rates = jnp.stack([jnp.asarray(RATE), 2 * RATE, 0.1 * RATE])
    # parameters are leaves: another camera for every image
    several = jax.tree.map(lambda leaf: leaf * jnp.array([1.0, 1.5, 2.0]), noise)
    samples = jax.jit(jax.vmap(lambda n, key, rate: n.sample(key, rate)))(several, keys, rates)
    counts = hasattr(noise, "log_likelihood")
    if counts:
        values = jax.vmap(lambda n, x, rate: n.log_likelihood(x, rate))(several, samples, rates)
    for i in range(3):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], several)
        expected = alone.sample(keys[i], rates[i])
        np.testing.assert_allclose(samples[i], expected, rtol=1e-5, atol=1e-5)
        if counts:
            expected = alone.log_likelihood(samples[i], rates[i])
            np.testing.assert_allclose(values[i], expected, rtol=1e-5)


@counting
def test_the_likelihood_is_largest_at_the_true_rate(name):
    noise = model(name)
    pattern = jnp.asarray(np.random.default_rng(2).uniform(5, 60, 4000), jnp.float32)
    counts = noise.sample(jax.random.key(3), pattern)
    scales = jnp.linspace(0.9, 1.1, 41)
    values = jax.vmap(lambda s: noise.log_likelihood(counts, s * pattern))(scales)
    assert scales[int(jnp.argmax(values))] == pytest.approx(1.0, abs=0.011)
