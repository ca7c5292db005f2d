"""A trained network on arrays, files and folders: numpy in, numpy out.

::

    model = load_model("runs/denoise")                        # or load_exported("denoise.emx")
    clean = predict(model, image)                             # [y, x], any size
    clean = predict(model, series)                            # [n, y, x]
    maps = predict(model, scan, axes="abyx")                  # 4D-STEM [a, b, y, x]

The network's own grey values are expected; `prepare` makes them of a file's. Pictures larger than
a tile are cut, with overlap, and faded into each other, so that memory does not grow with them but
for the image and the result: a process that held 374 MiB with the default U-Net compiled for the
CPU peaked at 511 MiB for 4096 x 4096 pixels, of which 128 are these two arrays.
Every call of the network has the same shape, so it is compiled once; `use_compilation_cache` keeps
what was compiled for the next process.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from emjax.data.patches import apply_tiled, least_tile, tiles_of

Apply = Callable[[Any, Any], Any]
SPATIAL = "zyx"


class Network(Protocol):
    """What `emjax.models.Model` and `emjax.exported.Exported` have in common."""

    @property
    def apply(self) -> Apply: ...

    @property
    def params(self) -> Any: ...


class InferenceError(ValueError):
    """An array that a network cannot be used on; the message says what to do."""


@dataclass(frozen=True)
class Tiling:
    """How large pictures are cut (see `emjax.data.patches.apply_tiled`)."""

    tile: int = 256
    """Side of the tiles [px]; a multiple of the network's stride."""
    halo: int = 16
    """Frame of a tile whose result is thrown away [px]."""
    blend: int = 64
    """Width over which neighbouring tiles fade into each other [px]."""
    align: int = 16
    """Tiles start at multiples of it [px]: the network's stride, or a multiple."""
    batch: int = 4
    """Pictures or tiles in one call."""


def predict(
    model: Network,
    array: Any,
    *,
    axes: str | None = None,
    tiling: Tiling | None = None,
    prepare: Callable[[np.ndarray], Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Apply a network to an array of any number of dimensions.

    Parameters
    ----------
    model
        Of `emjax.models.load_model` or `emjax.exported.load_exported`; anything with ``apply``
        and ``params``.
    array
        Real and finite numbers.
    axes
        One letter for each axis: "y", "x" (and "z" of volumes) are those that the network works
        along, in this order, "c" the channels, at the end; any other letter counts pictures.
        Default: "yx", "nyx", "nyxc" for two, three and four dimensions.
    tiling
        How pictures larger than a tile are cut.
    prepare
        Of every picture [y, x, c] -> [y, x, k], before the network, such as
        `emjax.data.normalise.normalise` of one channel.
    progress
        Called with (pictures done, pictures), or with tiles where there is one picture.

    Returns
    -------
    float32. Image to image: the axes of the array with the network's channels at the end; if the
    array has no "c" and the network one channel: the shape of the array. A classifier: the
    counting axes, then the classes.

    Raises
    ------
    InferenceError
        Axes that do not fit, an empty array, values that are not finite (says where), another
        number of channels or another size than the network takes.
    """
    array = array if isinstance(array, np.ndarray) else np.asarray(array)
    axes = _axes(array, axes)
    tiling = tiling or Tiling()
    spatial = sum(letter in SPATIAL for letter in axes)
    has_channels = axes.endswith("c")
    lead = array.shape[: len(axes) - spatial - has_channels]
    pictures = array.reshape(-1, *array.shape[len(lead) :])
    if not has_channels:
        pictures = pictures[..., None]
    run, tile = _runner(model, tiling.tile)
    align = math.gcd(tiling.align, tile)
    # a program of one small size; where the tile can be chosen, one too small is refused
    while tile != tiling.tile and align > 1 and tile < least_tile(tiling.halo, tiling.blend, align):
        align = align // 2 if align % 2 == 0 else 1
    tiling = replace(tiling, tile=tile, align=align)
    classifies, tiling = _check_shape(model, pictures.shape[1:], prepare, tiling)
    large = any(n > tile for n in pictures.shape[1 : 1 + spatial])
    if large and not classifies:
        results = _tiled(run, pictures, tiling, prepare, progress, lead)
    else:
        results = _batched(run, pictures, tiling.batch, prepare, progress, lead)
    if results.ndim == 2:  # a classifier
        return results.reshape(*lead, results.shape[-1])
    if results.shape[-1] == 1 and not has_channels:
        results = results[..., 0]
    return results.reshape(*lead, *results.shape[1:])


def _tiled(
    run: Callable,
    pictures: np.ndarray,
    tiling: Tiling,
    prepare: Callable | None,
    progress: Callable | None,
    lead: tuple[int, ...],
) -> np.ndarray:
    """Every picture in tiles; the results are written into one array."""
    results: np.ndarray | None = None
    for index, picture in enumerate(pictures):
        image = _ready(picture[None], prepare, (index,), lead)[0]
        found = apply_tiled(
            run,
            image,
            tile=tiling.tile,
            halo=tiling.halo,
            blend=tiling.blend,
            align=tiling.align,
            batch=tiling.batch,
            progress=progress if len(pictures) == 1 else None,
        )
        if len(pictures) == 1:
            return found[None]
        if results is None:
            results = np.empty((len(pictures), *found.shape), np.float32)
        results[index] = found
        if progress is not None:
            progress(index + 1, len(pictures))
    assert results is not None
    return results


def _batched(
    run: Callable,
    pictures: np.ndarray,
    batch: int,
    prepare: Callable | None,
    progress: Callable | None,
    lead: tuple[int, ...],
) -> np.ndarray:
    """Pictures of at most a tile, some in one call."""
    count = len(pictures)
    batch, results = min(batch, count), None
    for start in range(0, count, batch):
        stop = min(start + batch, count)
        given = _ready(pictures[start:stop], prepare, range(start, stop), lead)
        # the last batch is filled up, so that no other shape is compiled
        filled = np.concatenate([given, np.repeat(given[-1:], batch - len(given), 0)])
        found = np.asarray(run(filled), np.float32)[: stop - start]
        if not np.isfinite(found).all():
            bad = start + int(np.argmin(np.isfinite(found).reshape(len(found), -1).all(1)))
            raise InferenceError(f"the network's result is not finite{_which(bad, lead)}")
        if results is None:
            results = np.empty((count, *found.shape[1:]), np.float32)
        results[start:stop] = found
        if progress is not None:
            progress(stop, count)
    assert results is not None
    return results


def _ready(
    pictures: np.ndarray, prepare: Callable | None, indices: Sequence[int], lead: tuple[int, ...]
) -> np.ndarray:
    """Finite float32 [b, y, x, c], prepared."""
    pictures = pictures.astype(np.float32, copy=False)
    for picture, index in zip(pictures, indices, strict=True):
        if not np.isfinite(picture).all():
            place = np.argwhere(~np.isfinite(picture))[0][:-1].tolist()
            raise InferenceError(
                f"the image is not finite{_which(index, lead)} (first at pixel {place})"
            )
    if prepare is None:
        return pictures
    return np.stack([np.asarray(prepare(picture), np.float32) for picture in pictures])


def _which(index: int, lead: tuple[int, ...]) -> str:
    if not lead:
        return ""
    place = ", ".join(str(int(i)) for i in np.unravel_index(index, lead))
    return f" at [{place}]"


def _axes(array: np.ndarray, axes: str | None) -> str:
    """The letters of the axes, checked."""
    if axes is None:
        axes = {2: "yx", 3: "nyx", 4: "nyxc"}.get(array.ndim, "")
        if not axes:
            raise InferenceError(
                f"an array {array.shape}: name its axes, such as axes='abyx' for a scan of "
                "patterns or axes='nzyxc' for volumes with channels"
            )
    inner = axes.removesuffix("c")
    spatial = inner.lstrip("".join(set(inner) - set(SPATIAL)))
    good = spatial in ("yx", "zyx") and len(axes) == array.ndim
    if not good or "c" in inner or len(set(axes)) != len(axes):
        raise InferenceError(
            f"axes {axes!r} of an array {array.shape}: one letter each, those that count pictures "
            "first, then 'yx' (or 'zyx' of volumes), then 'c' if there are channels"
        )
    if 0 in array.shape:
        raise InferenceError(f"the array {array.shape} is empty")
    if array.dtype.kind not in "biuf":
        raise InferenceError(f"the array holds {array.dtype}: real numbers are needed")
    return axes


@functools.lru_cache(maxsize=8)
def _jitted(apply: Apply) -> Apply:
    """Compiled and kept, so that a series compiles once."""
    import jax

    return apply if hasattr(apply, "lower") else jax.jit(apply)


def _runner(model: Network, tile: int) -> tuple[Callable[[np.ndarray], Any], int]:
    """(function of pictures [b, y, x, c], side of the tiles) for what the network takes.

    An exported program may take one size alone or multiples of a number: pictures are continued to
    that with their edges, and the results cut back.
    """
    run = functools.partial(_jitted(model.apply), model.params)
    sizes = getattr(model, "meta", {}).get("input", [None])[1:-1]
    if not sizes or not hasattr(model, "program"):
        return run, tile
    fixed = [n for n in sizes if isinstance(n, int)]
    steps = [1 if isinstance(n, int) or "*" not in n else int(n.split("*")[0]) for n in sizes]
    tile = min(fixed) if fixed else max(tile // max(steps), 1) * max(steps)

    def padded(pictures: np.ndarray) -> Any:
        shape = pictures.shape[1:-1]
        wanted = [
            size if isinstance(size, int) else -(-n // step) * step
            for n, size, step in zip(shape, sizes, steps, strict=True)
        ]
        more = [(0, max(w - n, 0)) for w, n in zip(wanted, shape, strict=True)]
        result = np.asarray(run(np.pad(pictures, [(0, 0), *more, (0, 0)], mode="edge")))
        if result.ndim < pictures.ndim:
            return result
        return result[(slice(None), *(slice(0, n) for n in shape))]

    return padded, tile


def _check_shape(
    model: Any, shape: tuple[int, ...], prepare: Callable | None, tiling: Tiling
) -> tuple[bool, Tiling]:
    """Refuse pictures that the network does not take, by tracing it with the shapes that will run.

    Gives whether it classifies, and the tiling that it takes: that of a network of one size is not
    aligned, which would make its tiles smaller.
    """
    shape = _prepared(shape, prepare)
    program = getattr(model, "program", None)
    if program is not None:
        if (takes := model.meta["channels"]) != shape[-1]:
            raise _channels_differ(shape[-1], f"it takes {takes}")
        return len(program.out_avals[0].shape) == 2, tiling
    *size, channels = shape
    sides = [tiling.tile] * len(size)
    tiles = tiles_of(size, sides, tiling.align if tiling.blend else 1)
    whole, problem = _traced(model, shape)
    if whole == 2 or (whole and tiles == tuple(size)):
        return whole == 2, tiling
    if tiles != tuple(size):
        ndim, problem = _traced(model, (*tiles, channels))
        if ndim == len(shape) + 1:
            return False, tiling
        if _traced(model, (*tiles_of(size, sides, 1), channels))[0] == len(shape) + 1:
            return False, replace(tiling, align=1)
    if any(_traced(model, (*tiles, n))[0] for n in range(1, 5) if n != channels):
        raise _channels_differ(channels, problem)
    sizes = ", ".join(map(str, shape))
    raise InferenceError(f"the network does not take images [{sizes}]: {problem}")


def _prepared(shape: tuple[int, ...], prepare: Callable | None) -> tuple[int, ...]:
    """What becomes of a picture's shape; tried with a small one first, which costs nothing."""
    if prepare is None:
        return shape
    small = (*(min(n, 32) for n in shape[:-1]), shape[-1])
    found = np.shape(prepare(np.zeros(small, np.float32)))
    if found[:-1] == small[:-1]:
        return (*shape[:-1], found[-1])
    return np.shape(prepare(np.zeros(shape, np.float32)))


def _traced(model: Network, shape: tuple[int, ...]) -> tuple[int, str]:
    """(axes of the result of one picture, "") or (0, why the network does not take it)."""
    import jax

    try:
        given = jax.ShapeDtypeStruct((1, *shape), np.float32)
        return len(jax.eval_shape(model.apply, model.params, given).shape), ""
    except (TypeError, ValueError) as error:
        return 0, (str(error).splitlines() or [type(error).__name__])[0]


def _channels_differ(channels: int, problem: str) -> InferenceError:
    return InferenceError(
        f"the network does not take images of {channels} channel{'s' * (channels != 1)}: "
        f"{problem}. Give the channels as the last axis (axes='yxc'), or a function `prepare` "
        "that makes them"
    )


def memory_of(shape: Sequence[int], outputs: int, tiling: Tiling | None = None) -> int:
    """Bytes that `predict` holds besides its input: the result, and one batch of tiles.

    The network's own intermediate results come on top (about its widest layer times the batch).

    >>> memory_of((4096, 4096), 1) / 2**20
    66.5
    """
    tiling = tiling or Tiling()
    tiles = tiling.batch * math.prod(min(n, tiling.tile) for n in shape) * (1 + outputs)
    blending = math.prod(min(n, tiling.tile) for n in shape) * outputs * 2
    return 4 * (math.prod(shape) * outputs + tiles + blending)


def use_compilation_cache(folder: str | os.PathLike | None = None) -> str:
    """Keep compiled programs on disk, so that the next process starts within a second.

    The `emjax` command does this by itself; a script calls it before anything is compiled.

    Parameters
    ----------
    folder
        Default: JAX_COMPILATION_CACHE_DIR, or a folder per user and kind of processor.

    Returns
    -------
    The folder.
    """
    import jax

    from emjax.machine import cache_folder

    set_already = getattr(jax.config, "jax_compilation_cache_dir", None)
    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR") or set_already
    place = os.fspath(folder or kept or cache_folder())
    os.makedirs(place, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", place)
    # the second that is JAX's default leaves out most networks of a laptop
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    return place
