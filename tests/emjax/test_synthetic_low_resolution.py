"""Recordings at low magnification: exact blur, displacement and noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from emjax.data.phantom_scenes import DegradationConfig
from emjax.data.synthetic_low_resolution import bin_pixels, coarse_scan, make_low_resolution


def image(shape=(16, 16), seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def test_a_point_probe_without_errors_averages_pixels():
    x = image()
    seen = coarse_scan(x, 2, 1e-3, jnp.zeros((8, 2)))
    np.testing.assert_allclose(seen, bin_pixels(x, 2), atol=2e-3)


def test_whole_pixels_of_displacement_shift_lines():
    x = image()
    shift = jnp.zeros((8, 2)).at[3, 0].set(2.0)
    still, moved = (coarse_scan(x, 2, 0.5, s) for s in (jnp.zeros((8, 2)), shift))
    np.testing.assert_allclose(moved[3, 1:-2], still[3, 2:-1], atol=1e-5)
    np.testing.assert_allclose(np.delete(moved, 3, 0), np.delete(still, 3, 0), atol=1e-6)


def test_an_edge_becomes_the_integral_of_the_probe():
    x = jnp.concatenate([jnp.zeros((8, 16)), jnp.ones((8, 16))], axis=1)
    seen = coarse_scan(x, 4, 1.7, jnp.zeros((2, 2)))[0]
    t = np.linspace(-2, 2, 4001)  # over the coarse pixel, four pixels wide; the edge is at 15.5
    for k, value in enumerate(np.asarray(seen)):
        at = 4 * k + 1.5 + t - 15.5
        expected = (0.5 + 0.5 * erf(at / (np.sqrt(2) * 1.7))).mean()
        assert value == pytest.approx(expected, abs=2e-3)


def test_counts_have_the_dose_and_both_kinds_show_the_same_scene():
    clean = 0.2 + 0.8 * jnp.broadcast_to(image((8, 8)), (64, 8, 8)).repeat(4, 1).repeat(4, 2)
    config = DegradationConfig(factor=2, dose=(50.0, 50.0), blur=(0.1, 0.1), jitter=0.0)
    draw = make_low_resolution(lambda key: {"clean": clean[..., None]}, config)
    batch = jax.tree.map(np.asarray, jax.jit(draw)(jax.random.key(0)))
    assert batch["real"].shape == batch["ideal"].shape == (64, 16, 16, 1)
    np.testing.assert_allclose(batch["dose"], 50, rtol=1e-5)
    truth = 50 * np.asarray(bin_pixels(clean[0], 2))
    for kind in ("real", "ideal"):
        mean = batch[kind][..., 0].mean(0)
        assert np.abs(mean / truth - 1).mean() < 0.06
    noise = {k: (batch[k][..., 0] - batch[k][..., 0].mean(0)).var() for k in ("real", "ideal")}
    assert noise["real"] == pytest.approx(truth.mean(), rel=0.15)
    # four sharp pixels of 400 electrons, brought to 50: a variance 32 times smaller
    assert noise["ideal"] == pytest.approx(truth.mean() / 32, rel=0.1)


def test_what_is_refused():
    scenes = lambda key: {"clean": jnp.ones((1, 9, 9, 1))}  # noqa: E731
    with pytest.raises(ValueError, match="does not divide"):
        make_low_resolution(scenes, DegradationConfig())(jax.random.key(0))
    with pytest.raises(ValueError, match="factor of 1"):
        make_low_resolution(scenes, DegradationConfig(factor=1))
    with pytest.raises(ValueError, match="above 0"):
        make_low_resolution(scenes, DegradationConfig(dose=(0.0, 1.0)))
