"""Tiles over a large picture give what the whole picture gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from emjax.data.patches import apply_tiled, tile_corners


def smooth(tiles):
    """A function with a reach of 7 pixels: two channels to three."""
    a = uniform_filter(tiles[..., 0], (0, 15, 15), mode="nearest")
    return np.stack([a, tiles[..., 1], a * tiles[..., 1]], axis=-1)


@pytest.mark.parametrize("shape", [(7, 9), (64, 64), (65, 200), (301, 130)])
@pytest.mark.parametrize("batch", [1, 4])
def test_tiles_give_the_result_of_the_whole(shape, batch):
    image = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    found = apply_tiled(smooth, image, tile=64, halo=8, batch=batch)
    whole = smooth(image[None])[0]  # with what the function itself does at the edges
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5)


def test_every_call_has_the_same_shape_and_progress_ends_at_the_last_tile():
    shapes, steps = [], []

    def function(tiles):
        shapes.append(tiles.shape)
        assert tiles.dtype == np.float32
        return tiles

    image = np.arange(150 * 90.0).reshape(150, 90, 1)  # 3 x 2 tiles
    found = apply_tiled(
        function, image, tile=64, halo=8, batch=4, progress=lambda *a: steps.append(a)
    )
    np.testing.assert_array_equal(found, image)
    assert set(shapes) == {(4, 64, 64, 1)}
    assert steps == [(4, 6), (6, 6)]


def test_fewer_tiles_than_a_batch_are_not_filled_up():
    shapes = []

    def function(tiles):
        shapes.append(tiles.shape)
        return tiles

    apply_tiled(function, np.zeros((20, 20, 1)), tile=64, halo=8, batch=4)
    assert shapes == [(1, 20, 20, 1)]


def test_parts_cover_an_axis_once_and_tiles_stay_inside():
    assert tile_corners(500, 256, 32) == [(0, 0, 224), (192, 224, 416), (244, 416, 500)]
    assert tile_corners(256, 256, 32) == [(0, 0, 256)]
    for size in range(60, 400, 7):
        parts = tile_corners(size, 64, 8)
        covered = np.concatenate([np.arange(start, stop) for _, start, stop in parts])
        np.testing.assert_array_equal(covered, np.arange(size))
        for first, start, stop in parts:
            assert 0 <= first <= size - min(64, size)
            assert start - first >= (8 if first else 0)
            assert first + 64 - stop >= (0 if stop == size else 8)


def test_memory_does_not_grow_with_the_number_of_tiles():
    import tracemalloc

    image = np.ones((2048, 2048, 1), np.float32)
    tracemalloc.start()
    found = apply_tiled(lambda tiles: tiles, image, tile=128, halo=16, batch=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < found.nbytes + 4e6


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((9, 9)), {}, r"a picture \[y, x, c\], not from \(9, 9\)"),
        (np.zeros((0, 9, 1)), {}, r"not from \(0, 9, 1\)"),
        (np.zeros((9, 9, 1)), {"tile": 64, "halo": 32}, "nothing left inside a halo of 32 px"),
        (np.zeros((9, 9, 1)), {"halo": -1}, "halo of -1 px"),
        (np.zeros((9, 9, 1)), {"batch": 0}, "at least one tile"),
    ],
)
def test_what_cannot_be_tiled(image, options, message):
    with pytest.raises(ValueError, match=message):
        apply_tiled(lambda tiles: tiles, image, **options)


def test_a_function_that_changes_the_size_is_refused():
    with pytest.raises(ValueError, match=r"gave \(1, 5, 5, 1\); expected \(1, 9, 9, k\)"):
        apply_tiled(lambda t: t[:, ::2, ::2], np.zeros((9, 9, 1)), tile=64, halo=8)


def test_a_result_that_is_not_finite_is_found_and_placed():
    def function(tiles):
        return np.where(tiles > 8000, np.nan, tiles)

    image = np.arange(100 * 90.0).reshape(100, 90, 1)  # above 8000 in row 88 and below
    with pytest.raises(ValueError, match=r"not finite for the pixels y 56–99, x 0–55"):
        apply_tiled(function, image, tile=64, halo=8, batch=1)
