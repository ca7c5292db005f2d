"""Patterns with axes: where the zero frequency lies, averages, profiles, deformations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simulators.electron import wavelength
from simulators.grid import Grid
from simulators.patterns import (
    Patterns,
    binned,
    deformed,
    patterns,
    position_average,
    radial_profile,
    resampled,
)

GRID, ENERGY = Grid.over((22.0, 20.0), shape=(96, 101)), 100e3
MRAD = 1e3 * wavelength(ENERGY)


def gaussians(grid=GRID, at=(0.3, -0.2), width=0.25, crop="cutoff"):
    """A Gaussian disc of `width` 1/Å at k = at (x, y)."""
    ky, kx = grid.frequencies()
    disc = np.exp(-((kx[None] - at[0]) ** 2 + (ky[:, None] - at[1]) ** 2) / (2 * width**2))
    return patterns(disc, grid, ENERGY, crop=crop)


def centre(p):
    ky, kx = p.frequencies()
    image = np.asarray(p.intensity, float)
    return image.sum(0) @ kx / image.sum(), image.sum(1) @ ky / image.sum()


def test_axes():
    for crop in ("full", "cutoff", "valid", 30.0):
        p = gaussians(crop=crop)
        ky, kx = p.frequencies()
        assert ky[len(ky) // 2] == pytest.approx(0, abs=1e-12)
        assert kx[len(kx) // 2] == pytest.approx(0, abs=1e-12)
        assert kx[1] - kx[0] == pytest.approx(1 / 20.0)
        peak = np.unravel_index(p.intensity.argmax(), p.intensity.shape)
        np.testing.assert_allclose((kx[peak[1]], ky[peak[0]]), (0.3, -0.2), atol=0.025)
        y, x = p.angles()
        np.testing.assert_allclose(x, kx * MRAD, rtol=1e-6)
        np.testing.assert_allclose(y, ky * MRAD, rtol=1e-6)
    with pytest.raises(ValueError, match=r"\(9, 9\) pixels .* but the grid is \(96, 101\)"):
        patterns(np.ones((9, 9)), GRID, ENERGY)


def test_bins_and_other_pixels_keep_place_and_sum():
    p = gaussians(width=0.12)
    where, total = centre(p), p.intensity.sum()
    np.testing.assert_allclose(where, (0.3, -0.2), atol=1e-4)
    for factor in (2, 3, (2, 5)):
        b = binned(p, factor)
        np.testing.assert_allclose(centre(b), where, atol=2e-3)
        assert b.intensity.sum() == pytest.approx(total, rel=1e-6)
    for sampling in (1.0, (2.5, 0.9), 4.0):
        r = resampled(p, sampling)
        np.testing.assert_allclose(centre(r), where, atol=2e-3)
        assert r.intensity.sum() == pytest.approx(total, rel=1e-12)
        np.testing.assert_allclose(np.array(r.sampling) * MRAD, np.broadcast_to(sampling, 2))
    small = resampled(p, 1.0, shape=(41, 40))
    assert small.intensity.shape == (41, 40)
    assert small.frequencies()[1][20] == 0
    with pytest.raises(ValueError, match="bin the patterns before"):
        binned(binned(p, 2), 2)
    with pytest.raises(ValueError, match="positive mrad"):
        resampled(p, 0.0)


def test_the_position_average_is_the_mean():
    stack = np.random.default_rng(0).uniform(size=(4, 3, 96, 101))
    p = patterns(stack, GRID, ENERGY)
    mean = position_average(p)
    np.testing.assert_allclose(mean.intensity, p.intensity.mean((0, 1)))
    only = np.zeros((4, 3))
    only[2, 1] = 5.0
    np.testing.assert_allclose(position_average(p, only).intensity, p.intensity[2, 1])
    traced = position_average(patterns(jnp.asarray(stack, jnp.float32), GRID, ENERGY), only)
    np.testing.assert_allclose(traced.intensity, p.intensity[2, 1], rtol=1e-6)


def test_radial_profile_of_an_isotropic_pattern():
    p = gaussians(at=(0.0, 0.0), width=0.4)
    angles, profile = radial_profile(p)
    expected = np.exp(-((angles / MRAD) ** 2) / (2 * 0.4**2))
    assert len(angles) > 20
    np.testing.assert_allclose(profile, expected, atol=0.004)
    # off-centre and elliptic patterns by their own rings
    p = deformed(gaussians(at=(0, 0), width=0.3), ellipticity=0.1, axis=0.6, shift=(5.0, -3.0))
    along = {"centre": (5.0, -3.0), "ellipticity": 0.1, "axis": 0.6}
    angles, profile = radial_profile(p, maximum=35.0, **along)
    expected = np.exp(-((angles / MRAD) ** 2) / (2 * 0.3**2))
    np.testing.assert_allclose(profile, expected, atol=0.012)
    _, wrong = radial_profile(p, maximum=35.0)
    assert np.abs(wrong - expected).max() > 0.05


def test_radial_profile_of_a_stack_under_jit():
    image = np.random.default_rng(1).uniform(size=(2, 5, 96, 101)).astype(np.float32)
    angles, profile = radial_profile(patterns(image, GRID, ENERGY), step=3.0)
    compiled = jax.jit(lambda i: radial_profile(patterns(i, GRID, ENERGY), step=3.0)[1])
    np.testing.assert_allclose(compiled(jnp.asarray(image)), profile, rtol=1e-5)
    assert profile.shape == (2, 5, len(angles))
    constant = radial_profile(patterns(0 * image + 7, GRID, ENERGY))[1]
    np.testing.assert_allclose(constant, 7, rtol=1e-6)
    with pytest.raises(ValueError, match="no pixel lies near the radius"):
        radial_profile(patterns(image, GRID, ENERGY), step=0.05)
    with pytest.raises(ValueError, match="no radius fits"):
        radial_profile(patterns(image, GRID, ENERGY), maximum=-1.0)


def test_deformations_act_as_they_are_named(x64):
    p = gaussians(at=(0.4, 0.0), width=0.2)

    @jax.jit
    def act(rotation=0.0, ellipticity=0.0, axis=0.0, scale=1.0, shift=(0.0, 0.0)):
        return deformed(
            p, rotation=rotation, ellipticity=ellipticity, axis=axis, scale=scale, shift=shift
        )

    turned, larger = act(np.pi / 2), act(scale=1.5)
    along, across = act(0.0, 0.2), act(0.0, 0.25, np.pi / 2)
    moved = act(shift=(0.1 * MRAD, -0.2 * MRAD))
    np.testing.assert_allclose(centre(turned), (0.0, 0.4), atol=2e-3)
    np.testing.assert_allclose(centre(larger), (0.6, 0.0), atol=2e-3)
    np.testing.assert_allclose(centre(along), (0.48, 0.0), atol=2e-3)
    np.testing.assert_allclose(centre(across), (0.32, 0.0), atol=2e-3)
    np.testing.assert_allclose(centre(moved), (0.5, -0.2), atol=2e-3)
    for q in (turned, along, across, moved):
        assert float(q.intensity.sum()) == pytest.approx(p.intensity.sum(), rel=5e-3)
    same = act()
    np.testing.assert_allclose(same.intensity, p.intensity, atol=1e-12)

    # gradients with respect to every argument against finite differences
    target = jnp.asarray(np.random.default_rng(0).normal(size=p.intensity.shape))

    @jax.jit
    def loss(v):
        q = deformed(p, rotation=v[0], ellipticity=v[1], axis=v[2], scale=v[3], shift=(v[4], v[5]))
        return (q.intensity * target).sum()

    at = jnp.array([0.31, 0.07, 0.4, 1.1, 1.3, -0.7])
    gradient = jax.grad(loss)(at)
    for i in range(6):
        step = 1e-7
        difference = (loss(at.at[i].add(step)) - loss(at.at[i].add(-step))) / (2 * step)
        assert float(gradient[i]) == pytest.approx(float(difference), rel=1e-4, abs=1e-4)


def test_patterns_are_a_tree():
    p = gaussians()
    double = jax.tree.map(lambda leaf: 2 * leaf, p)
    assert isinstance(double, Patterns)
    assert (double.sampling, double.first, double.energy) == (p.sampling, p.first, p.energy)
