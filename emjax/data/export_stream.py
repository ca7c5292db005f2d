"""The pieces of an array on their way to the disk: in order, finite, and with room for them."""

from __future__ import annotations

import errno
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emjax.data.export_arrays import Export, ExportError, Order

EXTENSIONS = (".h5", ".hdf5", ".hspy", ".emd")
BLOCK_BYTES = 2**26
"""How much is checked and written at once."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class ExportWriter:
    """Where the pieces of an array go. Made by `open_export`.

    Attributes
    ----------
    done, total : int
        Pictures (patterns, images) written and expected.
    """

    def __init__(self, dataset: h5py.Dataset, export: Export) -> None:
        self._dataset = dataset
        self._steps = export.shape[: export.navigation]
        self._picture = export.shape[export.navigation :]
        self._reciprocal = export.kind == "patterns"
        self.done = 0
        self.total = math.prod(self._steps)

    def append(self, piece: Any, *, order: Order = "corner") -> None:
        """The next pictures: one, some [p, ...] in the order of the scan, or whole rows of it.

        Parameters
        ----------
        piece : [..., *picture]
        order : {"corner", "centre"}
            Of patterns; of no effect on others.

        Raises
        ------
        ExportError
            A piece of another shape or kind of number, one too many, values that are not finite.
        """
        piece = np.asarray(piece)
        front = piece.shape[: max(piece.ndim - len(self._picture), 0)]
        whole_rows = len(front) == len(self._steps) and front[1:] == self._steps[1:]
        if piece.shape[len(front) :] != self._picture or not (len(front) < 2 or whole_rows):
            raise ExportError(
                f"a piece of shape {piece.shape} does not fit into {self._dataset.shape}: append "
                f"pictures of shape {self._picture}, one, several [p, ...] or whole rows"
            )
        if not np.can_cast(piece.dtype, self._dataset.dtype, "same_kind"):
            raise ExportError(f"a piece of {piece.dtype} does not fit into {self._dataset.dtype}")
        piece = piece.reshape(-1, *self._picture)
        if self.done + len(piece) > self.total:
            raise ExportError(
                f"{self.done + len(piece)} pictures for an array of {self.total}: "
                f"{self._dataset.shape}"
            )
        shift = self._reciprocal and order == "corner"
        start = 0
        while start < len(piece):
            stop, place = self._run(len(piece) - start)
            block = piece[start : start + stop]
            block = np.fft.fftshift(block, axes=(-2, -1)) if shift else block
            self._dataset[place] = self._checked(block).reshape(
                block.shape if self._steps else self._picture
            )
            self.done += stop
            start += stop

    def _run(self, most: int) -> tuple[int, tuple]:
        """How many pictures go into the current row at once, and where."""
        if not self._steps:
            return 1, ()
        *row, column = (int(i) for i in np.unravel_index(self.done, self._steps))
        each = math.prod(self._picture) * self._dataset.dtype.itemsize
        count = min(most, self._steps[-1] - column, max(1, BLOCK_BYTES // each))
        return count, (*row, slice(column, column + count))

    def _checked(self, block: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            block = block.astype(self._dataset.dtype, copy=False)
        if block.dtype.kind in "fc" and not np.isfinite(block).all():
            bad = ~np.isfinite(block)
            first = np.argwhere(bad)[0]
            steps = np.unravel_index(self.done + int(first[0]), self._steps or (1,))
            place = [int(i) for i in (*(steps if self._steps else ()), *first[1:])]
            raise ExportError(
                f"{int(bad.sum())} values are not finite in {block.dtype}, the first at {place}: "
                "find out where they come from; nothing was written"
            )
        return block

    def check_complete(self) -> None:
        """Raise where pictures are missing."""
        if self.done < self.total:
            raise ExportError(
                f"only {self.done} of {self.total} pictures were appended, so there is no file: "
                "declare the shape that you have"
            )


def hdf5_numbers() -> set[str]:
    """Names of the NumPy types that an HDF5 file can hold everywhere."""
    whole = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    return whole | {"bool", "float16", "float32", "float64", "complex64", "complex128"}


def check_place(path: Path) -> None:
    if path.suffix.lower() not in EXTENSIONS:
        hint = " (zarr stores need zarr < 3)" if path.suffix in (".zspy", ".zarr") else ""
        raise ExportError(
            f"{path} ends in {path.suffix!r}: exports are HDF5 files that end in "
            f"{', '.join(EXTENSIONS)}{hint}"
        )
    if path.is_dir():
        raise ExportError(f"{path} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise ExportError(f"there is no folder {path.parent} to write {path.name} to")


def check_room(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if size + 2**16 > free:
        raise ExportError(
            f"{path} needs {_bytes(size)}, but {_bytes(free)} are free in {path.parent}: "
            "free some, choose another folder, or store float32, fewer positions or "
            "compression='gzip'. Nothing was written."
        )


@contextmanager
def full_disk(path: Path, size: int) -> Iterator[None]:
    """A disk that fills up while writing, as one error that says so."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        found = re.search(r"errno = (\d+)", str(error))
        number = int(found[1]) if found else getattr(error, "errno", None)
        if number not in _NO_ROOM:
            raise
        free = _bytes(shutil.disk_usage(path.parent).free)
        raise ExportError(
            f"the disk filled up, or a quota was reached, while writing {path}, which needs "
            f"{_bytes(size)}. The unfinished file was removed; now {free} are free."
        ) from error


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} bytes"
        size /= 1000
    raise AssertionError
