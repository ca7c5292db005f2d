"""Atom columns in one image of any size, found by a trained network.

>>> from emjax.models import load_model                                       # doctest: +SKIP
>>> prediction = predict_image(load_model("locate_atoms"), image, 0.12)       # doctest: +SKIP
>>> prediction.columns["x"], prediction.classes                               # doctest: +SKIP

The network knows one pixel size (`model.meta["sampling"]`), so the image is resampled to it, cut
into tiles and put together again; positions come back in pixels of the image that was given.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emjax.data.patches import apply_tiled

if TYPE_CHECKING:
    from emjax.models import Model

SAMPLING_LIMITS = (0.02, 0.6)
"""Å per pixel: finer images hold no more, in coarser ones columns cannot be told apart."""
SMALLEST = 16
"""Pixels a side, in the image and after resampling."""


class PredictionError(ValueError):
    """An image that a network cannot be used on; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What `predict_image` returns.

    Attributes
    ----------
    heat : [Y, X, 1 + k] float32, on the network's pixels: channel 0 says how much a place is the
        centre of a column (0 to 1), the others are the probabilities of the k species there.
    columns : COLUMN_DTYPE of `emjax.analysis.columns`, in pixels of the image that was given.
    classes : names of the k species.
    sampling : (y, x) Å per pixel of the image that was given.
    heat_sampling : (y, x) Å per pixel of `heat`; pixel i lies AT i times this, as in the image.
    """

    heat: np.ndarray
    columns: np.ndarray
    classes: tuple[str, ...]
    sampling: tuple[float, float]
    heat_sampling: tuple[float, float]


def predict_image(
    model: Model,
    image: np.ndarray,
    sampling: float | Sequence[float],
    *,
    threshold: float | None = None,
    tile: int | None = None,
    halo: int = 48,
    batch: int = 4,
    progress: Callable[[str, int, int], None] | None = None,
) -> Prediction:
    """Find the atom columns of one image.

    Parameters
    ----------
    model : of `emjax.models.load_model`. Its `meta` holds "sampling" [Å per pixel] and "classes"
        (names of the species), and may hold "threshold", "min_distance_A" and "tile".
    image : [y, x], finite, bright columns; any intensity scale.
    sampling : Å per pixel, a number or (y, x).
    threshold : least height of the heat map at a column, 0 to 1; the model's own if not given.
    tile, halo, batch : of `emjax.data.patches.apply_tiled`, in pixels of the network. The halo
        should be at least half of what the network sees around a pixel.
    progress : called with (stage, done, of): "network" for every batch of tiles, "positions" at
        the start and end of the fits.

    Raises
    ------
    PredictionError : an image that is not 2-D, finite and varied, or is too small; a pixel size
        outside of SAMPLING_LIMITS; a model that is not one of atom columns; too little memory.
    """
    from emjax.data.normalise import normalise
    from emjax.data.resample import resample

    say = progress or (lambda stage, done, of: None)
    meta = dict(model.meta)
    classes, target = _knows(meta)
    image = _checked_image(image)
    pixel = _checked_sampling(sampling)
    if threshold is None:
        threshold = float(meta.get("threshold", 0.5))
    if not 0 < threshold < 1:
        raise PredictionError(f"a threshold lies between 0 and 1, not at {threshold:g}")
    _check_size(image.shape, pixel, target, len(classes))

    grid = (target, target)
    resampled = np.asarray(resample(image, pixel, grid), np.float32)
    heat = apply_tiled(
        functools.partial(_probabilities(model.apply), model.params),
        np.asarray(normalise(resampled)),
        tile=tile or int(meta.get("tile", 256)),
        halo=halo,
        batch=batch,
        progress=functools.partial(say, "network"),
    )
    if heat.shape[2] != 1 + len(classes):
        raise PredictionError(
            f"the network gives {heat.shape[2]} channels, but its {len(classes)} species "
            f"({', '.join(classes)}) need {1 + len(classes)}: this is not a network of atom columns"
        )
    columns = peaks(heat, threshold, float(meta.get("min_distance_A", 0.6)) / target)
    # resampling may end with a pixel that lies a little beyond the image
    columns = _inside(columns, grid, image.shape, pixel)
    say("positions", 0, len(columns))
    columns = _fitted(columns, grid, image, pixel, resampled)
    say("positions", len(columns), len(columns))
    return Prediction(heat, columns, classes, pixel, grid)


@functools.lru_cache(maxsize=8)
def _probabilities(apply: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Logits to heat and probabilities, compiled; kept, so that a series compiles once."""
    import jax
    import jax.numpy as jnp

    def run(params: Any, tiles: Any) -> Any:
        logits = apply(params, tiles)
        heat = jax.nn.sigmoid(logits[..., :1])
        if logits.shape[-1] == 1:
            return heat
        return jnp.concatenate([heat, jax.nn.softmax(logits[..., 1:], axis=-1)], axis=-1)

    return jax.jit(run)


def peaks(
    heat: np.ndarray, threshold: float, min_distance_px: float, *, most: int = 2**22
) -> np.ndarray:
    """`find_columns` on a heat map [y, x, 1 + k] of any size, in bands of `most` pixels.

    Its working arrays are many times larger than the map. The bands overlap by more than a peak
    needs; a column belongs to the band that its centre lies in.
    """
    from emjax.analysis.columns import find_columns

    ny, nx, channels = heat.shape
    margin = 4 * math.ceil(min_distance_px) + 8
    rows = max(most // nx, 4 * margin)
    found = []
    for start in range(0, ny, rows):
        low = max(start - margin, 0)
        band = heat[low : start + rows + margin]
        columns = find_columns(
            band[..., 0],
            band[..., 1:] if channels > 1 else None,
            threshold=threshold,
            min_distance_px=min_distance_px,
        )
        for name in ("y", "y_fit"):
            columns[name] += low
        last = start + rows >= ny
        mine = (columns["y"] >= (start if start else -1)) & (last | (columns["y"] < start + rows))
        found.append(columns[mine])
    everything = np.concatenate(found)
    return everything[np.argsort(-everything["confidence"], kind="stable")]


def _fitted(
    columns: np.ndarray,
    grid: tuple[float, float],
    image: np.ndarray,
    pixel: tuple[float, float],
    resampled: np.ndarray,
) -> np.ndarray:
    """The columns (given on `grid`) in pixels of the image, with their fitted positions.

    Fitted is the image itself, or its resampled form where its pixels are not square.
    """
    from emjax.analysis.columns import fit_columns

    square = abs(pixel[0] / pixel[1] - 1) < 0.01
    fit_image, fit_grid = (image, pixel) if square else (resampled, grid)
    columns = rescaled(columns, grid, fit_grid)
    # a column alone has no spacing to tell the size of its window; 1.2 Å holds most columns
    radius = None if len(columns) > 1 else max(1.2 / fit_grid[1], 2.5)
    columns = fit_columns(fit_image, columns, radius_px=radius)
    return rescaled(columns, fit_grid, pixel)


def rescaled(columns: np.ndarray, old: tuple[float, float], new: tuple[float, float]) -> np.ndarray:
    """A copy of columns for another pixel size; `old` and `new` are (y, x) Å per pixel."""
    columns = columns.copy()
    factors = {"x": old[1] / new[1], "y": old[0] / new[0]}
    for name in ("x", "y"):
        columns[name] *= factors[name]
        columns[f"{name}_fit"] *= factors[name]
    columns["width"] *= (factors["x"] * factors["y"]) ** 0.5
    return columns


def _inside(
    columns: np.ndarray,
    grid: tuple[float, float],
    shape: tuple[int, ...],
    pixel: tuple[float, float],
) -> np.ndarray:
    x, y = columns["x"] * grid[1] / pixel[1], columns["y"] * grid[0] / pixel[0]
    ny, nx = shape
    return columns[(x >= -0.5) & (x <= nx - 0.5) & (y >= -0.5) & (y <= ny - 0.5)]


def _knows(meta: dict[str, Any]) -> tuple[tuple[str, ...], float]:
    """(classes, sampling) of a model."""
    if "sampling" not in meta or "classes" not in meta:
        raise PredictionError(
            'the model does not say which pixel size ("sampling") and species ("classes") it '
            "knows, so it is not a network of atom columns"
        )
    return tuple(str(name) for name in meta["classes"]), float(meta["sampling"])


def _checked_image(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 2:
        raise PredictionError(f"an image has the axes [y, x], not the shape {image.shape}")
    if image.dtype.kind not in "biuf":
        raise PredictionError(f"an image holds real numbers, not {image.dtype}")
    if min(image.shape) < SMALLEST:
        raise PredictionError(
            f"an image of {image.shape[1]} × {image.shape[0]} pixels is too small; "
            f"{SMALLEST} pixels a side are needed"
        )
    image = image.astype(np.float32, copy=False)
    if not np.isfinite(image).all():
        bad = ~np.isfinite(image)
        y, x = (int(i) for i in np.argwhere(bad)[0])
        raise PredictionError(
            f"{int(bad.sum())} pixels of the image are not finite, the first at x {x}, y {y}: "
            "crop them away or fill them"
        )
    if image.min() == image.max():
        raise PredictionError("the image is constant: there is nothing to find in it")
    return image


def _checked_sampling(sampling: float | Sequence[float]) -> tuple[float, float]:
    y, x = (float(v) for v in np.broadcast_to(np.asarray(sampling, float), (2,)))
    low, high = SAMPLING_LIMITS
    if not (low <= y <= high and low <= x <= high):
        size = f"{x:g}" if f"{x:g}" == f"{y:g}" else f"{y:g} (y) and {x:g} (x)"
        hint = ""
        if low <= 10 * max(x, y) <= high and max(x, y) < low:
            hint = f" If it was given in nm, it is {10 * max(x, y):g} Å."
        elif low <= 0.01 * max(x, y) <= high:
            hint = f" If it was given in pm, it is {0.01 * max(x, y):g} Å."
        raise PredictionError(
            f"the pixel size is {size} Å; atom columns are found from {low} to {high} Å per pixel."
            f"{hint} If the calibration is wrong, give the right one with --sampling; a finer "
            "image can be binned first."
        )
    return y, x


def _check_size(
    shape: tuple[int, ...], pixel: tuple[float, float], target: float, species: int
) -> None:
    """Refuse what would not fit into memory before any work is done."""
    from emjax.machine import GIB, memory

    ny, nx = (round(n * step / target) for n, step in zip(shape, pixel, strict=True))
    if min(ny, nx) < SMALLEST:
        raise PredictionError(
            f"the image is only {shape[1] * pixel[1]:.1f} × {shape[0] * pixel[0]:.1f} Å large; the "
            f"network needs at least {SMALLEST * target:.1f} Å a side. Is the pixel size right?"
        )
    # resampled, two normalised channels with a copy, heat and species, the image in float64
    need = 4 * nx * ny * (1 + 4 + 1 + species) + 8 * math.prod(shape) + GIB
    free = memory().available
    if free is not None and need > free:
        raise PredictionError(
            f"at the network's {target:g} Å per pixel the image has {nx} × {ny} pixels, which need "
            f"about {need / GIB:.1f} GiB of memory; {free / GIB:.1f} GiB are free. Crop the image "
            "and predict the parts one by one."
        )
