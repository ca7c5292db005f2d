"""Tiles over a large picture give what the whole picture gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from emjax.data.patches import apply_tiled, fading_tiles, tile_corners


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


@pytest.mark.parametrize("size", [64, 65, 90, 200, 301])
@pytest.mark.parametrize(
    ("halo", "blend", "align"),
    [(0, 1, 1), (4, 8, 1), (4, 8, 16), (8, 24, 1), (0, 32, 1), (2, 20, 8)],
)
def test_shares_of_fading_tiles_sum_to_one_without_a_step(size, halo, blend, align):
    total, shares = np.zeros(size), np.zeros((0, size))
    for part in fading_tiles(size, 64, halo, blend, align):
        assert 0 <= part.first <= size - 64 + align - 1
        assert part.first % align == 0
        assert part.start - part.first >= (halo if part.first else 0)
        assert part.first + 64 - part.stop >= (halo if part.stop < size else 0)
        row = np.zeros(size)
        row[part.start : part.stop] = part.weights
        total += row
        shares = np.concatenate([shares, row[None]])
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert np.abs(np.diff(shares, axis=1)).max() <= np.pi / (2 * blend) + 1e-6


@pytest.mark.parametrize("shape", [(7, 9), (64, 64), (65, 200), (301, 130)])
def test_fading_tiles_give_the_result_of_the_whole(shape):
    image = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    found = apply_tiled(smooth, image, tile=64, halo=8, blend=16, batch=3)
    np.testing.assert_allclose(found, smooth(image[None])[0], rtol=0, atol=1e-5)


def of_the_whole_tile(tiles):
    """As group normalisation does: every pixel depends on the mean and spread of its tile."""
    mean = tiles.mean((1, 2), keepdims=True)
    return (tiles - mean) / (tiles.std((1, 2), keepdims=True) + 1e-3)


def test_no_seam_where_tiles_disagree():
    """Steps between pixels across the borders of tiles, beyond those of the picture itself."""
    ny, nx = 400, 300
    y, x = np.mgrid[:ny, :nx] / 50
    image = (np.sin(y) * np.cos(1.3 * x) + 0.3 * y)[..., None].astype(np.float32)

    def worst_step(blend):
        found = apply_tiled(of_the_whole_tile, image, tile=192, halo=8, blend=blend)[..., 0]
        # of a smooth picture, the second difference is small everywhere but at a seam
        bends = [np.abs(np.diff(found, 2, axis=axis)).max() for axis in (0, 1)]
        return max(bends) / np.ptp(found)

    cut, faded = worst_step(0), worst_step(80)
    print(f"largest bend: {cut:.2g} of the range with cut tiles, {faded:.2g} with faded ones")
    assert cut > 0.05
    assert faded < 1e-3


def test_tiles_are_aligned_to_the_stride_of_a_network():
    """Of a function that halves, tiles that start anywhere give other results."""

    def halved(tiles):
        _, y, x, _ = tiles.shape
        more = np.pad(tiles, [(0, 0), (0, -y % 8), (0, -x % 8), (0, 0)], mode="edge")
        return np.repeat(np.repeat(more[:, ::8, ::8], 8, 1), 8, 2)[:, :y, :x]

    image = np.random.default_rng(3).normal(size=(150, 203, 1)).astype(np.float32)
    options = {"tile": 64, "halo": 2, "blend": 12}
    whole = halved(image[None])[0]
    found = apply_tiled(halved, image, align=8, **options)
    np.testing.assert_allclose(found, whole, atol=1e-6)
    assert np.abs(apply_tiled(halved, image, **options) - whole).max() > 0.1
    with pytest.raises(ValueError, match="no multiple of align=48"):
        apply_tiled(halved, image, tile=112, halo=0, blend=8, align=48)


def test_volumes():
    volume = np.random.default_rng(1).normal(size=(20, 70, 33, 1)).astype(np.float32)

    def blurred(tiles):
        return uniform_filter(tiles, (0, 3, 5, 5, 0), mode="nearest")

    for blend in (0, 4):
        found = apply_tiled(blurred, volume, tile=(16, 32, 32), halo=2, blend=blend, batch=2)
        np.testing.assert_allclose(found, blurred(volume[None])[0], atol=1e-5)


def test_a_result_on_the_disk(tmp_path):
    image = np.lib.format.open_memmap(tmp_path / "in.npy", "w+", np.float32, (300, 200, 1))
    image[:] = np.random.default_rng(2).normal(size=image.shape)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, (300, 200, 3))
    out[:] = np.nan
    found = apply_tiled(lambda t: np.repeat(t, 3, -1), image, tile=64, halo=4, blend=8, out=out)
    assert found is out
    np.testing.assert_allclose(out, np.repeat(image, 3, -1), atol=1e-6)
    with pytest.raises(ValueError, match=r"float32 \(300, 200, 3\); the result is .* 1\)"):
        apply_tiled(lambda t: t, image, tile=64, halo=4, out=out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 64, "halo": 8, "blend": 25}, "use tiles of at least 66 px"),
        ({"tile": 64, "halo": 8, "blend": -1}, "a fade of -1 px"),
        ({"tile": (64, 64, 64)}, "for a picture of 2 axes"),
    ],
)
def test_tiles_that_do_not_hold_their_fade(options, message):
    with pytest.raises(ValueError, match=message):
        apply_tiled(lambda tiles: tiles, np.zeros((90, 90, 1)), **options)
