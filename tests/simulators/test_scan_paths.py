"""Serpentine and spiral scans, fly-back positions, and the times of pixels."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from simulators.scan import raster, scan_times, serpentine, spiral, unfold, with_flyback


def test_a_serpentine_turns_every_second_line_around():
    plain = raster((5, 4), (0.2, 0.5), origin=(1.0, 2.0), rotation=0.2)
    path = serpentine((5, 4), (0.2, 0.5), origin=(1.0, 2.0), rotation=0.2)
    np.testing.assert_array_equal(path[::2], plain[::2])
    np.testing.assert_array_equal(path[1::2], plain[1::2, ::-1])
    steps = np.linalg.norm(np.diff(path.reshape(-1, 2), axis=0), axis=-1)
    assert steps.max() == pytest.approx(0.5), "it never jumps"
    image = np.arange(20.0).reshape(5, 4)
    np.testing.assert_array_equal(unfold(unfold(image)), image)
    np.testing.assert_array_equal(unfold(jnp.asarray(image)), unfold(image))
    np.testing.assert_array_equal(unfold(path, axis=0), plain)
    stack = np.arange(40.0).reshape(2, 5, 4)
    np.testing.assert_array_equal(unfold(stack)[1], unfold(stack[1]))


def test_a_spiral_has_even_turns_and_even_steps():
    path = spiral(900, 0.3, centre=(5.0, -2.0))
    np.testing.assert_allclose(path[0], (5.0, -2.0))
    radius = np.linalg.norm(path - (5.0, -2.0), axis=-1)
    assert (np.diff(radius) > 0).all()
    steps = np.linalg.norm(np.diff(path, axis=0), axis=-1)
    np.testing.assert_allclose(steps[10:], 0.3, rtol=0.02)  # chords are shorter than the path
    # a point for every spacing² of area: N = π r² / s²
    assert np.pi * radius[-1] ** 2 / 0.3**2 == pytest.approx(900, rel=0.01)
    turned = spiral(900, 0.3, centre=(5.0, -2.0), rotation=np.pi / 2)
    moved = (path - (5.0, -2.0)) @ np.array([[0, 1], [-1, 0]])
    np.testing.assert_allclose(turned - (5.0, -2.0), moved, atol=1e-12)
    with pytest.raises(ValueError, match="needs points"):
        spiral(0, 0.3)
    with pytest.raises(ValueError, match="needs points"):
        spiral(5, 0.0)


def test_the_beam_flies_back_evenly():
    lines = raster((3, 5), (0.2, 0.5))
    path = with_flyback(lines, 3)
    assert path.shape == (3, 8, 2)
    np.testing.assert_array_equal(path[:, :5], lines)
    np.testing.assert_allclose(path[0, 5:, 0], [1.5, 1.0, 0.5])
    np.testing.assert_allclose(path[0, 5:, 1], [0.05, 0.1, 0.15])
    np.testing.assert_allclose(path[2, 5:, 1], [0.45, 0.5, 0.55])
    np.testing.assert_array_equal(with_flyback(lines, 0), lines)
    with pytest.raises(ValueError, match=r"\[ny, nx, 2\]"):
        with_flyback(lines[0], 2)
    with pytest.raises(ValueError, match="0 pixels or more"):
        with_flyback(lines, -1)


def test_times_of_pixels():
    times = scan_times((3, 4), dwell=0.1, flyback=0.5)
    np.testing.assert_allclose(times[0], [0, 0.1, 0.2, 0.3])
    np.testing.assert_allclose(np.diff(times[:, 0]), 0.9)
    series = scan_times((3, 4), dwell=0.1, flyback=0.5, frames=2)
    np.testing.assert_allclose(series[1] - series[0], 2.7)
    with pytest.raises(ValueError, match="dwell time is positive"):
        scan_times((3, 4), dwell=0.0)
    with pytest.raises(ValueError, match="fly-back time not negative"):
        scan_times((3, 4), flyback=-1.0)
