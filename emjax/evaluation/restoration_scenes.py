"""Scenes that restorers are scored on: a folder of npz files with the truth and noisy counts.

Each file holds `clean` (y, x) with 1 at its maximum, `coords` (n, 2) of the true columns as (row,
column) in pixels, `Z` (n,) sum of a column's atomic numbers, `px` in Å per pixel, `polarity` (+1
bright columns, -1 dark ones), `mode`, and counts (y, x) by level: `d2`, `d10`, `d50` with so many
counts in the brightest pixel, `d2j`, `d10j`, `d50j` with scan jitter on top. A restorer is told
none of this but the counts.

Here, as everywhere in this package, points are (x, y): the order is turned in `read_scene` alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = [
    "LEVELS",
    "RestorationScene",
    "Restored",
    "Restorer",
    "checked_restored",
    "dose_of",
    "read_scene",
    "read_scenes",
]

LEVELS = ("d2", "d10", "d50", "d2j", "d10j", "d50j")


class Restored(NamedTuple):
    """What a restorer makes of an image."""

    image: np.ndarray
    """(y, x) in counts."""
    sigma: np.ndarray | None = None
    """(y, x) standard deviation of each pixel's error in counts, if the restorer says it."""
    seconds: float | None = None
    """What it took, if measured where it ran (another process)."""


Restorer = Callable[[np.ndarray], Restored]
"""Counts float32 (y, x) -> `Restored`."""


@dataclass(frozen=True, eq=False)
class RestorationScene:
    """One file of the folder."""

    name: str
    clean: np.ndarray
    """(y, x) float64, 1 at its maximum."""
    xy: np.ndarray
    """(n, 2) true columns (x, y) in pixels, up to half a pixel outside."""
    atomic_numbers: np.ndarray
    """(n,) sum over each column."""
    sampling: float
    """Å per pixel."""
    polarity: int
    """+1: bright columns, -1: dark ones."""
    mode: str
    counts: dict[str, np.ndarray]
    """Level -> (y, x) float32; below 0 where there is read-out noise."""


def dose_of(level: str) -> float:
    """Counts in the brightest pixel: 10 for "d10" and "d10j".

    Raises
    ------
    ValueError : not the name of a level.
    """
    named = re.fullmatch(r"d(\d+(?:\.\d+)?)j?", level)
    if not named or float(named[1]) <= 0:
        raise ValueError(
            f'level {level!r}: "d" and the dose, with "j" if there is jitter, such as "d10j"'
        )
    return float(named[1])


def read_scenes(
    folder: str | os.PathLike, *, levels: Sequence[str] = LEVELS, every: int = 1
) -> list[RestorationScene]:
    """All scenes of a folder, by name.

    Parameters
    ----------
    folder : with npz files as above.
    levels : the counts that are read; all scenes must have them.
    every : read every so many-th scene alone, from the first.

    Raises
    ------
    FileNotFoundError : no such folder, or no npz in it.
    ValueError : a file that is not as described (see `read_scene`).
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"there is no folder {place}: name the one with the scenes' npz")
    files = sorted(place.glob("*.npz"))
    if not files:
        inner = sorted({file.parent.name for file in place.glob("*/*.npz")})
        hint = f"; there are some in {', '.join(inner)}" if inner else ""
        raise FileNotFoundError(f"{place} holds no npz file{hint}")
    if every < 1:
        raise ValueError(f"every {every}: 1 for all scenes, 3 for every third")
    return [read_scene(file, levels=levels) for file in files[::every]]


def read_scene(path: str | os.PathLike, *, levels: Sequence[str] = LEVELS) -> RestorationScene:
    """One npz; its (row, column) become (x, y).

    Raises
    ------
    ValueError : no npz, arrays missing, of another shape or not finite, fewer than two columns,
        columns outside of the image, a polarity beside ±1, a pixel size that is not positive, a
        clean image whose maximum is not 1.
    """
    path = Path(path)
    needed = ("clean", "coords", "px", "polarity", *levels)
    arrays = _arrays(path, {*needed, "Z", "mode"})
    if missing := [key for key in needed if key not in arrays]:
        raise ValueError(f"{path}: the arrays {', '.join(missing)} are missing; see its README")
    clean = _image(arrays["clean"], path, "clean", None).astype(np.float64)
    if abs(clean.max() - 1) > 1e-3:
        raise ValueError(
            f"{path}: the maximum of clean is {clean.max():.4g}; scores in dB need it to be 1"
        )
    counts = {level: _image(arrays[level], path, level, clean.shape) for level in levels}
    coords = np.asarray(arrays["coords"], np.float64)
    if coords.ndim != 2 or coords.shape[-1] != 2 or len(coords) < 2:
        raise ValueError(
            f"{path}: coords has shape {coords.shape}; (n, 2) with (row, column) of two columns "
            "or more are needed"
        )
    low, high = -1.0, np.asarray(clean.shape, float)
    if not np.isfinite(coords).all() or (coords < low).any() or (coords > high).any():
        raise ValueError(
            f"{path}: coords run to (row, column) {coords.max(0)} and from {coords.min(0)}, but "
            f"the image has {clean.shape} pixels"
        )
    numbers = np.asarray(arrays.get("Z", np.zeros(len(coords))))
    if numbers.shape != (len(coords),):
        raise ValueError(f"{path}: {len(coords)} columns in coords, but Z has {numbers.shape}")
    sampling, polarity = (
        float(_scalar(arrays, path, "px")),
        float(_scalar(arrays, path, "polarity")),
    )
    if not (np.isfinite(sampling) and sampling > 0):
        raise ValueError(f"{path}: px is {sampling}; it is the size of a pixel in Å")
    if polarity not in (-1, 1):
        raise ValueError(f"{path}: polarity is {polarity}; +1 for bright columns, -1 for dark ones")
    return RestorationScene(
        path.stem,
        clean,
        coords[:, ::-1].copy(),
        numbers,
        sampling,
        int(polarity),
        str(arrays.get("mode", "")),
        counts,
    )


def checked_restored(restored: Restored, shape: tuple[int, ...], name: str) -> Restored:
    """The result in float64, refused where it cannot be scored; `name` says whose it is.

    A sigma of 0 (a constant image, of which a network is sure) becomes a tiny one.

    Raises
    ------
    ValueError : another shape, NaN or infinite values, a negative sigma.
    """
    image = np.asarray(restored.image, np.float64)
    if image.shape != shape:
        raise ValueError(f"{name} gave an image {image.shape} for one of {shape}")
    if not np.isfinite(image).all():
        raise ValueError(f"{name} gave {int((~np.isfinite(image)).sum())} pixels that are NaN")
    if restored.sigma is None:
        return Restored(image, None, restored.seconds)
    sigma = np.asarray(restored.sigma, np.float64)
    if sigma.shape != shape or not (np.isfinite(sigma) & (sigma >= 0)).all():
        raise ValueError(
            f"{name} gave a sigma {sigma.shape} from {np.min(sigma):.3g}: one number that is not "
            f"negative is needed for each pixel of {shape}"
        )
    return Restored(image, np.maximum(sigma, 1e-12), restored.seconds)


def _arrays(path: Path, keys: set[str]) -> dict[str, np.ndarray]:
    try:
        # opened here, because np.load leaves a broken file open
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if key in keys}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not an npz file of a scene: {error}") from error


def _image(array: np.ndarray, path: Path, name: str, shape: tuple[int, ...] | None) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "iuf" or min(array.shape) < 32:
        raise ValueError(
            f"{path}: {name} is {array.dtype} of shape {array.shape}; an image (y, x) of real "
            "numbers with 32 pixels or more along each axis is needed"
        )
    if shape is not None and array.shape != shape:
        raise ValueError(f"{path}: {name} has shape {array.shape}, the clean image {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: {name} holds NaN or infinite values")
    return array.astype(np.float32)


def _scalar(arrays: dict[str, np.ndarray], path: Path, name: str) -> np.ndarray:
    if arrays[name].size != 1 or arrays[name].dtype.kind not in "iuf":
        raise ValueError(f"{path}: {name} is {arrays[name]!r}; it is one number")
    return arrays[name].reshape(())
