"""Displacements are read off the error: of a known shift, of noise, of nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.losses.places import misplaced
from emjax.objectives import build


def _columns(shift=(0.0, 0.0), n=64, height=1.0):
    y, x = np.mgrid[:n, :n].astype(float)
    image = np.zeros((n, n))
    for cy in np.arange(8, n, 12):
        for cx in np.arange(8, n, 12):
            image += np.exp(-((y - cy - shift[0]) ** 2 + (x - cx - shift[1]) ** 2) / 8)
    return jnp.asarray(height * image[None, ..., None], jnp.float32)


def test_a_shift_is_measured_in_pixels():
    truth = _columns()
    for shift in ((0.1, 0.0), (0.05, -0.08)):
        found = float(misplaced(_columns(shift) - truth, truth)[0])
        expected = np.square(shift).sum()
        print(np.sqrt(found), np.sqrt(expected))
        # weights of y and x are equal, so half of the sum of squares each; a difference of two
        # pixels is less than the slope, by 7 % for these columns
        assert found == pytest.approx(expected / 2, rel=0.2)
        bright = misplaced(7 * (_columns(shift) - truth), 7 * truth)
        np.testing.assert_allclose(bright, found, rtol=1e-3)


def test_brightness_is_no_displacement_and_flat_images_have_none():
    truth = _columns()
    brighter, moved = 0.03 * truth, _columns((0.1, 0.0)) - truth
    errors = [float(misplaced(e, truth)[0]) for e in (brighter, moved)]
    print("3 % brighter, moved by 0.1 pixels:", errors)
    assert errors[0] < 0.15 * errors[1]
    flat = jnp.full((2, 32, 32, 1), 3.0)
    value, slope = jax.value_and_grad(lambda e: misplaced(e, flat).sum())(0.1 * flat)
    assert float(value) == 0
    assert np.isfinite(slope).all()


def test_the_objective_moves_columns_back():
    truth = _columns()
    moved = _columns((0.2, 0.1))
    batch = {"counts": moved, "rate": truth, "peak": jnp.ones(1)}

    def apply(p, x):
        return (1 - p) * x + p * (truth - truth.mean()) / truth.std()

    plain, placed = (build("supervised", apply, scaling="image", places=w) for w in (0.0, 1.0))
    extra = [float(placed.loss(p, batch)[0] - plain.loss(p, batch)[0]) for p in (0.0, 0.5, 0.9)]
    assert extra[0] > extra[1] > extra[2]
    assert set(placed.loss(0.5, batch)[1]) - set(plain.loss(0.5, batch)[1]) == {"moved"}
