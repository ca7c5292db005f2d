"""Many real images of one kind, by number: a folder of microscope files, or one HDF5 file."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from emjax.data.micrograph_choice import choose, image_axes
from emjax.data.micrograph_formats import Entry, FormatError, open_entries
from emjax.data.micrograph_units import angstrom_per
from emjax.data.micrographs import MicrographError, read_micrograph

SAME_PIXEL = 0.01
"""Pixel sizes that differ by less, relatively, are the same."""
IMAGES = ("tif", "tiff", "dm3", "dm4", "emd", "ser", "mrc", "hspy", "npy", "npz", "png", "h5")
"""Extensions that are taken from a folder."""

Part = tuple[str, tuple[int, int, int], bool, Callable]
"""One image: its name, its shape, whether its file states a pixel size, how it is read."""


class StreamError(ValueError):
    """Real images that cannot be trained on; the message names the file."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images that are read when they are asked for; made by `open_images`.

    Attributes
    ----------
    names : where each comes from, for messages.
    shapes : (y, x, channels) of each, from the files' headers.
    sampling : Å per pixel (y, x) that was given, or None: that of the first file.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]
    sampling: tuple[float, float] | None
    _read: Callable[[int], tuple[np.ndarray, tuple[float, float] | None]]
    _first: list = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, j: int) -> np.ndarray:
        """Image j, float32 [y, x, c].

        Raises
        ------
        StreamError
            It is not finite, cannot be read, or has another pixel size than the first one that was
            read.
        """
        image, pixel = self._read(j)
        if not np.isfinite(image).all():
            y, x = np.argwhere(~np.isfinite(image))[0][:2].tolist()
            raise StreamError(
                f"{self.names[j]} is not finite (first at pixel y {y}, x {x}): mend it or leave it "
                "out"
            )
        if self.sampling is None and pixel is not None:
            if not self._first:
                self._first.append((j, pixel))
            i, other = self._first[0]
            if any(abs(a / b - 1) > SAME_PIXEL for a, b in zip(pixel, other, strict=True)):
                raise StreamError(
                    f"the images have several pixel sizes: {self.names[i]} has {_pixel(other)} and "
                    f"{self.names[j]} has {_pixel(pixel)}. Sort or resample them; if a file's "
                    "calibration is wrong, give the true one with sampling="
                )
        return image

    def check(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every image once: a bad one is found before the training. Raises as `read`."""
        for j in range(len(self)):
            self.read(j)
            if progress is not None:
                progress(j + 1, len(self))


def open_images(
    path: str | os.PathLike,
    *,
    dataset: str | None = None,
    pattern: str | None = None,
    sampling: float | Sequence[float] | None = None,
) -> Images:
    """The images of a folder (one or a stack in each file) or of one file.

    Parameters
    ----------
    path
        A folder, whose files are taken in the order of their names; or a file. HDF5 files hold
        [n, y, x] or [n, y, x, c], or what a microscope's program wrote.
    dataset
        Which array, for files that hold several.
    pattern
        Such as ``"*.tif"``; default: the files with an extension of `IMAGES`.
    sampling
        Å per pixel of all, instead of the files' own calibration.

    Raises
    ------
    StreamError
        No such folder, no image in it, a file that holds none; files with a pixel size beside files
        of another shape without one.

    Warns
    -----
    UserWarning
        Files with a pixel size beside files of the same shape without one: theirs is not checked.
    """
    path = Path(path).expanduser()
    given = None
    if sampling is not None:
        values = np.atleast_1d(np.asarray(sampling, float))
        if values.size not in (1, 2) or not (np.isfinite(values) & (values > 0)).all():
            raise StreamError(f"sampling={sampling!r} is not a pixel size in Å")
        given = (float(values[0]), float(values[-1]))
    parts: list[Part] = []
    for file in _files(path, pattern):
        parts += _stack(file, dataset) or _micrographs(file, dataset, given)
    if given is None:
        _check_calibrated(parts)
    names, shapes, _, reads = zip(*parts, strict=True)
    return Images(tuple(names), tuple(shapes), given, lambda j: reads[j]())


def _check_calibrated(parts: Sequence[Part]) -> None:
    """A file without a pixel size may have any: it must not slip in among those that have one."""
    known = [part for part in parts if part[2]]
    unknown = [part for part in parts if not part[2]]
    if not known or not unknown:
        return
    sizes = {part[1] for part in known}
    other = next((part for part in unknown if part[1] not in sizes), None)
    example, shape = (other or unknown[0])[:2]
    more = f" (nor do {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    text = f"{known[0][0]} states its pixel size, and {example} does not{more}"
    if other is not None:
        raise StreamError(
            f"{text}. It is {_pixels(shape)} and the other {_pixels(known[0][1])}, so that its "
            "scale may be another: sort the files, or give the pixel size of all with sampling="
        )
    warnings.warn(
        f"{text}. They are taken for images of one scale; give it with sampling= if that is so, "
        "or sort the files",
        stacklevel=3,
    )


def _files(path: Path, pattern: str | None) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise StreamError(f"there is no file or folder {path}")
    every = sorted(file for file in path.iterdir() if file.is_file() and file.name[0] != ".")
    if pattern is None:
        found = [file for file in every if file.suffix.lower().lstrip(".") in IMAGES]
    else:
        found = [file for file in every if file.match(pattern)]
    if not found:
        held = ", ".join(file.name for file in every[:3]) or "nothing"
        more = " …" if len(every) > 3 else ""
        raise StreamError(
            f"the folder {path} holds no image"
            + (f" that matches {pattern}" if pattern else "")
            + f" (it holds {held}{more}): give the folder of the images, or a pattern"
        )
    return found


def _stack(file: Path, dataset: str | None) -> list[Part]:
    """The images of a plain HDF5 array [n, y, x(, c)]; none where the file is of another kind."""
    if not h5py.is_hdf5(file):
        return []
    with h5py.File(file, "r", locking=False) as opened:
        arrays: dict[str, tuple[int, ...]] = {}

        def visit(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and item.ndim in (3, 4) and item.dtype.kind in "buif":
                arrays[name] = item.shape

        opened.visititems(visit)
    wanted = [n for n in arrays if dataset in (None, n, n.strip("/"))]
    wanted = [n for n in wanted if n.rpartition("/")[2] in ("image", "images")] or wanted
    if len(wanted) > 1:
        raise StreamError(f"{file} holds {', '.join(sorted(wanted))}: choose one with dataset=")
    if not wanted or (len(arrays[wanted[0]]) == 4 and arrays[wanted[0]][3] > 32):
        return []
    name, shape = wanted[0], arrays[wanted[0]]
    if len(shape) == 3 and _is_calibrated(file, dataset):
        return []
    channels = shape[3] if len(shape) == 4 else 1

    def read(index: int) -> tuple[np.ndarray, None]:
        with h5py.File(file, "r", locking=False) as opened:
            array = opened[name]
            assert isinstance(array, h5py.Dataset)
            image = np.asarray(array[index], np.float32)
        return image.reshape(shape[1], shape[2], channels), None

    return [
        (f"{file}[{i}]", (shape[1], shape[2], channels), False, lambda i=i: read(i))
        for i in range(shape[0])
    ]


def _is_calibrated(file: Path, dataset: str | None) -> bool:
    """Whether a microscope's program, or emjax, wrote pixel sizes beside the array."""
    try:
        entry = choose(open_entries(file, dataset)[1], dataset, None, file)
    except (FormatError, MicrographError):
        return False
    return any(scale is not None for scale, _ in entry.axes)


def _micrographs(file: Path, dataset: str | None, given: tuple[float, float] | None) -> list[Part]:
    try:
        _, entries = open_entries(file, dataset)
        entry = choose(entries, dataset, None, file)
    except (FormatError, MicrographError) as error:
        raise StreamError(f"cannot read {file}: {error}") from error
    frames, axes = _frames(entry)
    y, x = (entry.shape[i] for i in axes)
    calibrated = all(_is_length(*entry.axes[i]) for i in axes)

    def read(frame: int | None) -> tuple[np.ndarray, tuple[float, float] | None]:
        try:
            found = read_micrograph(file, sampling=given, dataset=dataset, frame=frame)
        except MicrographError as error:
            raise StreamError(str(error)) from error
        return found.image[..., None], found.sampling

    if frames is None:
        return [(str(file), (y, x, 1), calibrated, lambda: read(None))]
    return [(f"{file}[{i}]", (y, x, 1), calibrated, lambda i=i: read(i)) for i in range(frames)]


def _frames(entry: Entry) -> tuple[int | None, tuple[int, int]]:
    """(number of images of a stack or None, which axes are y and x)."""
    long = image_axes(entry, None)
    if len(long) == 2:
        return None, (long[0], long[1])
    stepped = [i for i in long if entry.stepped[i]]
    stack = stepped[0] if len(stepped) == 1 else long[0]
    y, x = (i for i in long if i != stack)
    return entry.shape[stack], (y, x)


def _is_length(scale: float | None, unit: str) -> bool:
    return bool(scale) and math.isfinite(scale) and angstrom_per(unit) is not None


def _pixels(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]} x {shape[1]} pixels"


def _pixel(pixel: tuple[float, float]) -> str:
    y, x = pixel
    return f"{x:.4g} Å" if abs(y / x - 1) < SAME_PIXEL else f"{y:.4g} x {x:.4g} Å (y, x)"
