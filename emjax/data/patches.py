"""Run a function of small pictures over a large one, tile by tile.

The tiles have one size, so a compiled function is compiled once; memory beyond the input and the
output is that of one batch of tiles.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def reflected(start: int, length: int, size: int) -> np.ndarray:
    """Indices start … start + length - 1 of an axis of `size` elements, mirrored at its ends.

    The end elements are not repeated; the mirroring goes on as far as it is needed.

    >>> reflected(-2, 8, 4).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    if size == 1:
        return np.zeros(length, np.intp)
    index = np.arange(start, start + length) % (2 * size - 2)
    return np.where(index < size, index, 2 * size - 2 - index)


def tile_corners(size: int, tile: int, halo: int) -> list[tuple[int, int]]:
    """(start, stop) of the parts of an axis that single tiles answer for; together they cover it.

    Every part but the last is `tile - 2 * halo` long: the halo is read but not written.
    """
    core = tile - 2 * halo
    return [(start, min(start + core, size)) for start in range(0, size, core)]


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
    function : [b, tile, tile, c] -> [b, tile, tile, k]. Called with float32 arrays of one shape.
    image : [y, x, c], any size; beyond its edges it is continued by reflection.
    tile : side of the tiles [px], halo included.
    halo : width of the frame of every tile whose result is thrown away [px]. With a halo of at
        least the reach of `function` the result does not depend on the tiles.
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
    parts = [(y, x) for y in tile_corners(ny, tile, halo) for x in tile_corners(nx, tile, halo)]
    batch = min(batch, len(parts))
    output: np.ndarray | None = None
    for first in range(0, len(parts), batch):
        group = parts[first : first + batch]
        # the last batch is filled up, so that no other shape is compiled
        filled = group + group[-1:] * (batch - len(group))
        result = np.asarray(function(np.stack([_cut(image, part, tile, halo) for part in filled])))
        if result.ndim != 4 or result.shape[:3] != (batch, tile, tile):
            raise ValueError(
                f"tiles [{batch}, {tile}, {tile}, c] gave {result.shape}; "
                f"expected ({batch}, {tile}, {tile}, k)"
            )
        if output is None:
            output = np.empty((ny, nx, result.shape[3]), np.float32)
        for ((y0, y1), (x0, x1)), values in zip(group, result, strict=False):
            inner = values[halo : halo + y1 - y0, halo : halo + x1 - x0]
            if not np.isfinite(inner).all():
                raise ValueError(
                    f"the result is not finite for the pixels y {y0}–{y1 - 1}, x {x0}–{x1 - 1}"
                )
            output[y0:y1, x0:x1] = inner
        if progress is not None:
            progress(first + len(group), len(parts))
    assert output is not None
    return output


def _cut(image: np.ndarray, part: tuple, tile: int, halo: int) -> np.ndarray:
    (y0, _), (x0, _) = part
    rows = reflected(y0 - halo, tile, image.shape[0])
    columns = reflected(x0 - halo, tile, image.shape[1])
    return image[np.ix_(rows, columns)].astype(np.float32)
