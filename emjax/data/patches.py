"""Run a function of small pictures over a large one, tile by tile.

The tiles have one size, so a compiled function is compiled once; memory beyond the input and the
output is that of one batch of tiles. Where tiles meet, their results are either cut (exact, where
the halo holds all that the function looks at) or faded into each other (`blend`), which leaves no
seam where the function looks further: at the mean of the whole tile, as every normalisation does.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

AXES = "zyx"


class Part(NamedTuple):
    """What one tile gives to the result along one axis."""

    first: int
    """First pixel of the tile."""
    start: int
    """First and last + 1 pixel of the result that it takes part in."""
    stop: int
    weights: np.ndarray | None
    """[stop - start] float32, its share in each of them; None: all."""


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


def fading_tiles(size: int, tile: int, halo: int, blend: int, align: int = 1) -> list[Part]:
    """Evenly spread tiles along an axis that fade into each other over at least `blend` pixels.

    Every pixel's shares sum to 1 and change along the axis without a step or a kink (half a wave
    of a cosine); the `halo` of a tile has no share. Tiles start at multiples of `align`; the last
    one may therefore reach a little (less than `align`) beyond the axis.

    >>> [(part.start, part.stop) for part in fading_tiles(100, 40, 4, 8)]
    [(0, 36), (24, 56), (44, 76), (64, 100)]
    >>> [part.first for part in fading_tiles(100, 40, 4, 8, align=8)]
    [0, 16, 32, 48, 64]
    """
    if size <= tile:
        return [Part(0, 0, size, np.ones(size, np.float32))]
    last = -(-(size - tile) // align) * align
    reach = max(tile - 2 * halo - blend - (align - 1), align)
    count = -(-last // reach) + 1
    firsts = align * np.round(np.linspace(0, last // align, count)).astype(int)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(blend) + 0.5) / max(blend, 1))
    shares, total = [], np.zeros(last + tile)
    for first in firsts.tolist():
        left, right = halo if first else 0, tile - (halo if first < last else 0)
        share = np.ones(right - left)
        if first:
            share[:blend] *= rise
        if first < last:
            share[len(share) - blend :] *= rise[::-1]
        shares.append((first, first + left, first + right, share))
        total[first + left : first + right] += share
    return [
        Part(f, a, min(b, size), (share / total[a:b]).astype(np.float32)[: size - a])
        for f, a, b, share in shares
    ]


def tiles_of(size: Sequence[int], sides: Sequence[int], align: int) -> tuple[int, ...]:
    """Shape of the tiles of a picture: at most `sides`, and a multiple of `align` short of its end.

    >>> tiles_of((470, 200), (256, 256), 16)  # 470 - 246 = 14 * 16
    (246, 200)
    """
    pairs = zip(size, sides, strict=True)
    return tuple(n if n <= side else side - (side - n) % align for n, side in pairs)


def least_tile(halo: int, blend: int, align: int) -> int:
    """Smallest side that holds the halo and the fade on either side, also where it is shortened."""
    return 2 * halo + blend + max(blend, align) + align - 1 if blend > 0 else 2 * halo


def apply_tiled(
    function: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    *,
    tile: int | Sequence[int] = 256,
    halo: int = 32,
    blend: int = 0,
    align: int = 1,
    batch: int = 4,
    progress: Callable[[int, int], None] | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Apply `function` to every part of a picture and put the results together.

    Parameters
    ----------
    function : [b, y, x, c] -> [b, y, x, k]. Called with float32 arrays of one shape.
    image : [y, x, c] or a volume [z, y, x, c], any size; a memory-mapped one is read tile by tile.
        Nothing is continued beyond its edges: what a network does there is what it has learnt at
        the edges of its training images.
    tile : side of the tiles [px], halo included, or one for each axis; a smaller picture is one
        tile of its own size.
    halo : width of the frame of every tile whose result is thrown away [px], except at the edges of
        the picture. With a halo of at least the reach of `function` the result does not depend on
        the tiles.
    blend : width over which neighbouring tiles fade into each other [px]; 0 cuts them. Two tiles
        that differ by d then differ by at most d·π / (2·blend) from one pixel to the next. It is
        what a function wants whose reach is larger than the halo, as with group normalisation.
    align : tiles that fade start at multiples of it [px]. A network that halves its pictures three
        times gives other results for a picture that is moved by less than 8 pixels: align tiles to
        its stride or a multiple of it. All tiles are then made smaller, by less than this, so that
        the last one ends where the picture does: what is continued there is up to the network.
    batch : tiles in one call.
    progress : called with (tiles done, tiles in all).
    out : float32 [y, x, k] to write to, such as a `numpy.memmap` for a result larger than the
        memory.

    Returns
    -------
    [y, x, k] float32.

    Raises
    ------
    ValueError : a tile without a core, a picture that is not [y, x, c], a result of another size
        than the tile, or a result that is not finite (the message says where).
    """
    image = image if isinstance(image, np.ndarray) else np.asarray(image)
    if image.ndim not in (3, 4) or 0 in image.shape:
        raise ValueError(
            f"tiles are cut from a picture [y, x, c], not from {image.shape} "
            "(volumes are [z, y, x, c])"
        )
    size = image.shape[:-1]
    sides = (tile,) * len(size) if isinstance(tile, int) else tuple(tile)
    _check(size, sides, halo, blend, align, batch)
    shape = tiles_of(size, sides, align if blend else 1)
    axes = [_parts(n, side, halo, blend, align) for n, side in zip(size, shape, strict=True)]
    groups = list(_groups(list(itertools.product(*axes)), batch))
    done, total = 0, sum(len(group) for group in groups)
    batch = min(batch, total)
    for group in groups:
        # the last batch is filled up, so that no other shape is compiled
        filled = [*group, *group[-1:] * (batch - len(group))]
        cut = [_cut(image, parts, shape) for parts in filled]
        result = np.asarray(function(np.stack(cut).astype(np.float32, copy=False)))
        if result.ndim != len(shape) + 2 or result.shape[:-1] != (batch, *shape):
            sizes = ", ".join(str(n) for n in (batch, *shape))
            raise ValueError(f"tiles [{sizes}, c] gave {result.shape}; expected ({sizes}, k)")
        if out is None:
            out = np.zeros((*size, result.shape[-1]), np.float32)
        elif not done:
            _check_out(out, (*size, result.shape[-1]))
        for parts, values in zip(group, result, strict=False):
            _put(out, parts, values)
        done += len(group)
        if progress is not None:
            progress(done, total)
    assert out is not None
    return out


def _parts(size: int, tile: int, halo: int, blend: int, align: int) -> list[Part]:
    if blend and size > tile:
        return fading_tiles(size, tile, halo, blend, align)
    return [Part(*corner, None) for corner in tile_corners(size, tile, halo)]


def _cut(image: np.ndarray, parts: Sequence[Part], shape: tuple[int, ...]) -> np.ndarray:
    """One tile; what it lacks at the end is continued by the edge."""
    place = tuple(slice(p.first, p.first + n) for p, n in zip(parts, shape, strict=True))
    piece = image[place]
    lacks = [n - m for n, m in zip(shape, piece.shape, strict=False)]
    return np.pad(piece, [*((0, n) for n in lacks), (0, 0)], mode="edge") if any(lacks) else piece


def _groups(parts: list, batch: int) -> Iterator[list]:
    for first in range(0, len(parts), batch):
        yield parts[first : first + batch]


def _put(out: np.ndarray, parts: Sequence[Part], values: np.ndarray) -> None:
    """Add the result of one tile."""
    inner = values[tuple(slice(p.start - p.first, p.stop - p.first) for p in parts)]
    if not np.isfinite(inner).all():
        where = ", ".join(
            f"{name} {p.start}–{p.stop - 1}"
            for name, p in zip(AXES[-len(parts) :], parts, strict=True)
        )
        raise ValueError(f"the result is not finite for the pixels {where}")
    place = tuple(slice(p.start, p.stop) for p in parts)
    faded = [(axis, p.weights) for axis, p in enumerate(parts) if p.weights is not None]
    if not faded:
        out[place] = inner
        return
    along = [w.reshape([-1 if a == axis else 1 for a in range(inner.ndim)]) for axis, w in faded]
    # an axis that is not faded has one tile, so nothing is added twice
    out[place] += inner * functools.reduce(np.multiply, along)


def _check(size: tuple, sides: tuple, halo: int, blend: int, align: int, batch: int) -> None:
    if len(sides) != len(size) or any(side < 1 for side in sides):
        raise ValueError(f"tiles of {sides} px for a picture of {len(size)} axes")
    cut = [side for side, n in zip(sides, size, strict=True) if side < n] or [min(sides)]
    if halo < 0 or min(cut) <= 2 * halo:
        raise ValueError(f"a tile of {min(cut)} px has nothing left inside a halo of {halo} px")
    if align < 1 or (blend and any(side % align for side in cut)):
        raise ValueError(f"tiles of {cut} px are no multiple of align={align}")
    least = least_tile(halo, blend, align)
    if blend < 0 or min(cut) < least:
        raise ValueError(
            f"a tile of {min(cut)} px does not hold a halo of {halo} px and a fade of {blend} px "
            f"on either side: use tiles of at least {least} px"
        )
    if batch < 1:
        raise ValueError(f"a batch needs at least one tile, not {batch}")


def _check_out(out: np.ndarray, shape: tuple[int, ...]) -> None:
    if out.shape != shape or out.dtype != np.float32:
        raise ValueError(f"out is {out.dtype} {out.shape}; the result is float32 {shape}")
    out[...] = 0
