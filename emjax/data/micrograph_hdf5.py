"""HDF5 in its dialects: HyperSpy, EMD (Velox, NCEM, py4DSTEM, Prismatic), NeXus, MATLAB, and plain.

The first three go through RosettaSciIO, which knows where they keep their scales. Everything else,
and any dataset asked for by its path, is read with h5py; the pixel size may then be an attribute of
the dataset or of a group above it, or a scalar dataset beside it (`pixel_nm`, `pixel_size`, …).
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emjax.data.micrograph_formats import (
    Entry,
    FormatError,
    Head,
    Scale,
    make_entry,
    rsciio_entries,
)
from emjax.data.micrograph_units import stored_pixel_size


def read(path: Path, *, dataset: str | None = None) -> tuple[str, list[Entry]]:
    """The arrays of an HDF5 file, or the one whose path inside the file is `dataset`.

    Raises
    ------
    FormatError
        A Velox file that RosettaSciIO refuses: without its metadata the axes would be guesswork.
    """
    import h5py

    # its compression filters (blosc, bitshuffle, lz4), if it is installed
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")

    with h5py.File(path, "r") as file:
        named = dataset is not None and isinstance(file.get(dataset), h5py.Dataset)
        dialect, module, options = _dialect(file)
        entries = _plain(path, file, only=dataset if named else None)
    if named and not entries:
        raise FormatError(f"its dataset {dataset} does not hold numbers")
    if named and dialect == "EMD":
        options["dataset_path"] = [str(dataset).strip("/")]
    elif named or not module:
        return "HDF5", entries
    try:
        known = rsciio_entries(path, module, **options)
    except FormatError as error:
        if dialect == "Velox EMD":
            raise FormatError(
                f"RosettaSciIO cannot read this Velox file: {error}. Or export the image as .tif "
                "from Velox, or name an array by its path with --dataset: "
                + ", ".join(e.name for e in entries[:6])
            ) from error
        known = []
    if any(len(e.shape) >= 2 for e in known):
        if named:
            known = [replace(known[0], name=entries[0].name)]
        return dialect, known
    return "HDF5", entries  # the dialect's reader found nothing: the plain arrays, uncalibrated


def _dialect(file: Any) -> tuple[str, str, dict]:
    """(name, RosettaSciIO's module or "", its options)."""
    if _text(file.attrs.get("file_format")) == "HyperSpy":
        return "HyperSpy", "rsciio.hspy", {}
    if "Version" in file and "Data" in file and b"Velox" in bytes(np.asarray(file["Version"])[0]):
        # images only: a spectrum image in the same file would need one more package to be skipped
        return "Velox EMD", "rsciio.emd", {"select_type": "images"}
    groups = [file, *(g for g in file.values() if hasattr(g, "attrs"))]
    if any("emd_group_type" in g.attrs or "version_major" in g.attrs for g in groups):
        return "EMD", "rsciio.emd", {"stack_group": False}
    if any(_text(g.attrs.get("NX_class")) in ("NXentry", "NXroot") for g in groups):
        return "NeXus", "rsciio.nexus", {}
    return "HDF5", "", {}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _plain(path: Path, file: Any, only: str | None = None) -> list[Entry]:
    import h5py

    entries: list[Entry] = []

    def visit(name: str | bytes, item: Any) -> None:
        name = _text(name)  # bytes where it is not UTF-8
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "biufcV" or not item.shape:
            return
        if only is not None and name != only.strip("/"):
            return
        matlab = "MATLAB_class" in item.attrs
        entries.append(
            make_entry(
                Head(item.shape[::-1] if matlab else item.shape, item.dtype),
                name=name,
                read=_reader(path, name, transpose=matlab),
                yx=_calibration(file, item),
                metadata={k: v for k, v in item.attrs.items() if np.ndim(v) == 0},
            )
        )

    file.visititems(visit)
    if only is not None and not entries:
        visit(only.strip("/"), file[only])  # behind a link, which visititems does not follow
    return entries


def _reader(path: Path, name: str, *, transpose: bool) -> Callable[[tuple], np.ndarray]:
    def read(index: tuple) -> np.ndarray:
        import h5py

        with h5py.File(path, "r") as file:
            stored: Any = file[name]
            if transpose:  # MATLAB writes column-major arrays: HDF5 sees their axes reversed
                return stored[index[::-1]].T
            return stored[index]

    return read


def _calibration(file: Any, item: Any) -> tuple[Scale, Scale] | None:
    """The nearest pixel size: on the dataset, then on each group above it up to the file."""
    import h5py

    place = item
    while True:
        values = dict(place.attrs.items())
        if isinstance(place, h5py.Group):
            for key, value in place.items():
                if isinstance(value, h5py.Dataset) and value.size is not None and value.size <= 2:
                    values[key] = value[()]
        size = stored_pixel_size(values)
        if size is not None:
            return (size[0][0], size[1]), (size[0][1], size[1])
        if place.name == "/":
            return None
        place = place.parent
