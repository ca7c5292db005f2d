"""Simulated and measured arrays out of emjax, with axes, units and origin; and HyperSpy signals.

>>> from emjax.data.export import patterns, read_export, write_export
>>> scan = patterns(counts, 1 / extent, scan_sampling=0.4, energy=80e3)     # doctest: +SKIP
>>> write_export("scan.h5", scan)                                           # doctest: +SKIP

    import py4DSTEM;           py4DSTEM.read("scan.h5")                     a DataCube
    import hyperspy.api as hs; hs.load("scan.h5", file_format="HSPY")            a Signal2D
    import h5py;               h5py.File("scan.h5")["emd/diffraction/data"]

The four extensions .h5, .hdf5, .hspy and .emd all name the same layout (`export_layout`): the
extension only decides which program takes the file without being told. What is larger than the
memory is written piece by piece (`open_export`). A file is whole or not there.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import emjax
from emjax.data import export_layout as layout
from emjax.data.export_arrays import (
    Axis,
    Export,
    ExportError,
    images,
    patterns,
    potential,
    waves,
)
from emjax.data.export_hyperspy import to_hyperspy
from emjax.data.export_stream import (
    ExportWriter,
    check_place,
    check_room,
    full_disk,
    hdf5_numbers,
)
from emjax.h5_files import writing

__all__ = [
    "Axis",
    "Export",
    "ExportError",
    "ExportWriter",
    "images",
    "open_export",
    "patterns",
    "potential",
    "read_export",
    "to_hyperspy",
    "waves",
    "write_export",
]


def write_export(
    path: str | os.PathLike,
    export: Export,
    *,
    compression: str | None = None,
    date: bool = False,
) -> Path:
    """Write an array of `images`, `patterns`, `potential` or `waves` to an HDF5 file.

    Parameters
    ----------
    path : path
        Ends in .h5, .hdf5, .hspy or .emd. An old file is replaced when the new one is whole.
    export : Export
    compression : {None, "gzip", "lzf"}
        Lossless. Noisy data shrink little and are written several times slower.
    date : bool
        Keep date and time. Without, equal data make equal files.

    Returns
    -------
    Path
        Where it lies.

    Raises
    ------
    ExportError
        Unknown extension, no such folder, values that are not finite, a disk that is full (before
        anything is written where that can be known, and no half file is left in any case).

    >>> write_export("columns.tiff", images(np.eye(20), 0.1))
    Traceback (most recent call last):
        ...
    emjax.data.export_arrays.ExportError: columns.tiff ends in '.tiff': exports are HDF5 files ...
    """
    if not isinstance(export.data, np.ndarray):
        raise ExportError(
            f"{type(export.data).__name__} holds no values: write it in pieces with open_export"
        )
    with open_export(path, export, compression=compression, date=date) as writer:
        writer.append(export.data, order="centre")
    return Path(path)


@contextmanager
def open_export(
    path: str | os.PathLike, export: Export, *, compression: str | None = None, date: bool = False
) -> Iterator[ExportWriter]:
    """Write an array piece by piece, in bounded memory; arguments as of `write_export`.

    The file appears when the block ends and everything has been appended.

    Examples
    --------
    A 4D scan that is larger than the memory::

        shape = jax.ShapeDtypeStruct((256, 256, 128, 128), "float32")
        with open_export("scan.h5", patterns(shape, step, scan_sampling=0.2)) as out:
            for row in positions:                                  # [sx, 2]
                out.append(cbed(potential, optics, row))           # [sx, ky, kx]

    Raises
    ------
    ExportError
        As `write_export`; and pieces that do not fit or do not fill the array.
    """
    path = Path(path).expanduser()
    dtype = np.dtype(export.data.dtype)
    check_place(path)
    if dtype.kind not in "biufc" or dtype.name not in hdf5_numbers():
        raise ExportError(f"HDF5 has no numbers of type {dtype}: convert to float32 first")
    size = math.prod(export.shape) * dtype.itemsize
    if compression not in (None, "gzip", "lzf"):
        raise ExportError(f"compression={compression!r} is none of None, 'gzip' and 'lzf'")
    if compression is None:
        check_room(path, size)
    header = layout.make_header(export, date)
    with (
        full_disk(path, size),
        writing(path) as file,
    ):
        writer = ExportWriter(layout.create(file, export, header, compression), export)
        yield writer
        writer.check_complete()


def read_export(path: str | os.PathLike) -> Export:
    """Read a file of `write_export`: the array with its axes, units and origin.

    Patterns are centred, as the file has them; `Export.in_corner` gives FFT order.

    Raises
    ------
    ExportError
        No such file, not a file of `write_export`, damaged.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ExportError(f"{path} does not exist")
    try:
        with h5py.File(path, "r", locking=False) as file:
            if layout.HEADER not in file:
                raise ExportError(
                    f"{path} was not written by write_export: emjax.data.micrographs."
                    "read_micrograph reads images of other programs"
                )
            header = json.loads(_value(file, layout.HEADER))
            if header["schema"] != layout.SCHEMA:
                raise ExportError(
                    f"{path} has schema {header['schema']}, written by emjax {header['emjax']}; "
                    f"this emjax {emjax.__version__} reads schema {layout.SCHEMA}"
                )
            data = _value(file, header["data"])
    except (OSError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        what = f"damaged ({error}): copy it again" if h5py.is_hdf5(path) else "not an HDF5 file"
        raise ExportError(f"{path} is {what}") from error
    axes = tuple(_axis(entry) for entry in header["axes"])
    written = {key: header[key] for key in ("emjax", "date") if key in header}
    kept = {key: header[key] for key in layout.KEPT}
    return Export(data, axes, written=written, **kept)


def _value(file: h5py.File, path: str) -> Any:
    dataset = file[path]
    assert isinstance(dataset, h5py.Dataset)
    return dataset[()]


def _axis(entry: dict[str, Any]) -> Axis:
    """An axis as JSON has it: tuples became lists."""
    kept: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    return Axis(**kept)
