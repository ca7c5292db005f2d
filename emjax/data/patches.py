"""Run a function of small pictures over a large one, tile by tile.

The tiles have one size, so a compiled function is compiled once; memory beyond the input and the
output is that of one batch of tiles.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def tile_corners(size: int, tile: int, halo: int) -> list[tuple[int, int, int]]:
    """(first pixel of a tile, start, stop of the part that it answers for) along an axis.

    The parts cover the axis. Tiles never reach beyond it: those at its ends answer for their whole
    end, and the others throw away `halo` pixels on either side.

    >>> tile_corners(20, 10, 2)
    [(0, 0, 8), (6, 8, 14), (10, 14, 20)]
    """
    if size <= tile:
        return [(0, 0, size)]
    parts, done = [], 0
    while done < size:
        first = min(max(done - halo, 0), size - tile)
        stop = size if first == size - tile else first + tile - halo
        parts.append((first, done, stop))
        done = stop
    return parts


def apply_tiled(
    function: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    *,
    tile: int = 256,
    halo: int = 32,
    batch: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Apply `function` to every part of a picture and put the results together.

    Parameters
    ----------
    function : [b, y, x, c] -> [b, y, x, k]. Called with float32 arrays of one shape.
    image : [y, x, c], any size. Nothing is continued beyond its edges: what a network does there is
        what it has learnt at the edges of its training images.
    tile : side of the tiles [px], halo included; a smaller picture is one tile of its own size.
    halo : width of the frame of every tile whose result is thrown away [px], except at the edges of
        the picture. With a halo of at least the reach of `function` the result does not depend on
        the tiles.
    batch : tiles in one call.
    progress : called with (tiles done, tiles in all).

    Returns
    -------
    [y, x, k] float32.

    Raises
    ------
    ValueError : a tile without a core, a picture that is not [y, x, c], a result of another size
        than the tile, or a result that is not finite (the message says where).
    """
    image = np.asarray(image)
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"tiles are cut from a picture [y, x, c], not from {image.shape}")
    if halo < 0 or tile <= 2 * halo:
        raise ValueError(f"a tile of {tile} px has nothing left inside a halo of {halo} px")
    if batch < 1:
        raise ValueError(f"a batch needs at least one tile, not {batch}")
    ny, nx, _ = image.shape
    height, width = min(tile, ny), min(tile, nx)
    rows, columns = tile_corners(ny, height, halo), tile_corners(nx, width, halo)
    parts = [(y, x) for y in rows for x in columns]
    batch = min(batch, len(parts))
    output: np.ndarray | None = None
    for first in range(0, len(parts), batch):
        group = parts[first : first + batch]
        # the last batch is filled up, so that no other shape is compiled
        filled = group + group[-1:] * (batch - len(group))
        cut = [image[y : y + height, x : x + width] for (y, *_), (x, *_) in filled]
        result = np.asarray(function(np.stack(cut).astype(np.float32)))
        if result.ndim != 4 or result.shape[:3] != (batch, height, width):
            raise ValueError(
                f"tiles [{batch}, {height}, {width}, c] gave {result.shape}; "
                f"expected ({batch}, {height}, {width}, k)"
            )
        if output is None:
            output = np.empty((ny, nx, result.shape[3]), np.float32)
        for ((y, y0, y1), (x, x0, x1)), values in zip(group, result, strict=False):
            inner = values[y0 - y : y1 - y, x0 - x : x1 - x]
            if not np.isfinite(inner).all():
                raise ValueError(
                    f"the result is not finite for the pixels y {y0}–{y1 - 1}, x {x0}–{x1 - 1}"
                )
            output[y0:y1, x0:x1] = inner
        if progress is not None:
            progress(first + len(group), len(parts))
    assert output is not None
    return output
