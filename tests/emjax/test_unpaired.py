"""Denoising without pairs: a filter that is a Gaussian, one unit for both domains, the losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.restoration.unpaired import (
    low_pass,
    noise2atom_losses,
    standardise,
    unpaired_batches,
    unpaired_restorer,
)

SIGMA = 1.5


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_the_filter_is_a_gaussian():
    point = jnp.zeros((1, 31, 31, 1)).at[0, 15, 15, 0].set(1)
    seen = np.asarray(low_pass(point, SIGMA))[0, :, :, 0]
    y, x = np.mgrid[-15:16, -15:16]
    expected = np.exp(-(y**2 + x**2) / (2 * SIGMA**2))
    np.testing.assert_allclose(seen, expected / expected.sum(), atol=1e-6)
    # the exclusive-or of the published program's exponent is no square
    wrong = np.exp(-((y ^ 2) + (x ^ 2)) / (2 * SIGMA**2))
    assert np.abs(wrong / wrong.sum() - expected / expected.sum()).max() > 1e-2


def test_the_filter_keeps_constants_and_widths_add_in_squares():
    np.testing.assert_allclose(low_pass(jnp.full((1, 9, 7, 2), 3.0), 2.0), 3, rtol=1e-6)
    x = noise(1, 41, 41, 1)
    twice = low_pass(low_pass(x, 1.5), 2.0)[:, 12:-12, 12:-12]
    np.testing.assert_allclose(twice, low_pass(x, 2.5)[:, 12:-12, 12:-12], atol=2e-4)


def test_one_unit_for_any_gain_and_offset():
    x = noise(2, 16, 16, 1)
    unit, mean, size = standardise(x, SIGMA)
    np.testing.assert_allclose(standardise(5 * x - 40, SIGMA)[0], unit, atol=1e-4)
    np.testing.assert_allclose(size * unit + mean, x, atol=1e-5)
    np.testing.assert_allclose(jnp.square(low_pass(unit, SIGMA)).mean((1, 2, 3)), 1, rtol=1e-4)
    # noise of another strength leaves the unit of the structure nearly alone
    wave = jnp.sin(jnp.arange(32) / 1.6)[None, :, None, None] * jnp.ones((1, 32, 32, 1))
    noisy = wave + 0.5 * noise(1, 32, 32, 1, seed=1)
    assert float(standardise(noisy, SIGMA)[2][0, 0, 0, 0]) == pytest.approx(
        float(standardise(wave, SIGMA)[2][0, 0, 0, 0]), rel=0.1
    )
    flat = standardise(jnp.full((1, 8, 8, 1), 4.0), SIGMA)
    assert float(jnp.abs(flat[0]).max()) == 0
    assert float(flat[2][0, 0, 0, 0]) == 1


def scaled(params, x):
    return params * x


def critic(params, x):
    return (params * x).sum((1, 2, 3))


def test_restoring_follows_gain_and_offset():
    restore = unpaired_restorer(lambda p, x: p * jnp.tanh(x), SIGMA)
    x = noise(1, 12, 12, 1)
    plain = restore(0.3, x)
    np.testing.assert_allclose(restore(0.3, 4 * x + 9), 4 * plain + 9, atol=2e-4)


def test_the_losses_by_hand():
    batch = {"noisy": noise(2, 8, 8, 1), "clean": noise(2, 8, 8, 1, seed=1)}
    params = {name: jnp.float32(v) for name, v in zip(("clean", "back"), (0.2, -0.1), strict=True)}
    losses = noise2atom_losses(
        scaled, critic, sigma=SIGMA, adversarial=0.5, cycle=3.0, anchor=2.0, compare=False
    )
    key, critics = jax.random.key(0), jnp.float32(0.7)
    value, metrics = losses[0](key, params, critics, batch)

    def there(x):
        return low_pass(x, SIGMA) + 0.2 * x

    def back(x):
        return low_pass(x, SIGMA) - 0.1 * x

    noisy, clean = batch["noisy"], batch["clean"]
    cleaned = there(noisy)
    fooled = -(0.7 * cleaned).sum((1, 2, 3)).mean()
    closed = jnp.abs(low_pass(back(cleaned), SIGMA) - low_pass(noisy, SIGMA)).mean()
    closed += jnp.abs(there(back(clean)) - clean).mean()
    anchor = jnp.abs(low_pass(cleaned, SIGMA) - low_pass(noisy, SIGMA)).mean()
    expected = 0.5 * fooled + 3 * closed + 2 * anchor
    assert float(value) == pytest.approx(float(expected), rel=1e-4)
    assert float(metrics["cycle"]) == pytest.approx(float(closed), rel=1e-4)

    value, metrics = losses[1](key, critics, params, batch)
    margin = 0.7 * (clean.sum((1, 2, 3)).mean() - cleaned.sum((1, 2, 3)).mean())
    steep = (0.7 * 8 - 1) ** 2  # the slope of a sum over 64 pixels
    assert float(metrics["penalty"]) == pytest.approx(steep, rel=1e-3)
    assert float(value) == pytest.approx(float(-margin) + 10 * steep, rel=1e-3)


def test_noise2void_is_trained_beside_it_without_touching_it():
    batch = {"noisy": noise(2, 16, 16, 1), "clean": noise(2, 16, 16, 1, seed=1)}
    params = {"clean": jnp.float32(0.2), "back": jnp.float32(0.1), "noise2void": jnp.float32(0.0)}
    key, critics = jax.random.key(0), jnp.float32(0.7)
    both, alone = (
        jax.grad(
            lambda p, c=compare: noise2atom_losses(scaled, critic, compare=c)[0](
                key, p, critics, batch
            )[0]
        )(params)
        for compare in (True, False)
    )
    for name in ("clean", "back"):
        np.testing.assert_allclose(both[name], alone[name], rtol=1e-5)
    assert alone["noise2void"] == 0
    assert both["noise2void"] != 0


def test_batches_are_unrelated_and_in_one_unit():
    frames = 10 + 3 * noise(3, 8, 8, 1)
    draw = unpaired_batches(frames, lambda key: jax.random.uniform(key, (2, 8, 8, 1)), SIGMA, 2)
    batch = draw(jax.random.key(0))
    assert batch["noisy"].shape == batch["clean"].shape == (2, 8, 8, 1)
    for image in batch.values():
        np.testing.assert_allclose(jnp.square(low_pass(image, SIGMA)).mean((1, 2, 3)), 1, rtol=1e-3)
    known = np.sort(standardise(frames, SIGMA)[0].reshape(3, -1), axis=1)
    for image in np.sort(batch["noisy"].reshape(2, -1), axis=1):
        assert np.abs(known - image).max(1).min() < 1e-4, "a frame, perhaps turned"
    with pytest.raises(ValueError, match="y = x"):
        unpaired_batches(frames[:, :6], lambda key: key, SIGMA, 2)
