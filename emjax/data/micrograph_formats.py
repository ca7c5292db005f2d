"""What lies inside one microscope file: its arrays, and their calibration as the file states it.

`open_entries(path)` looks at the first bytes and at the extension, calls the reader for it and
returns `Entry` objects; it judges nothing (`emjax.data.micrographs` does). Arrays are read only
when an entry is asked for a frame, so a 40 GB movie costs one frame. Proprietary formats go through
RosettaSciIO (plain, without the [zspy] and [all] extras); TIFF through tifffile; HDF5 through
RosettaSciIO where HyperSpy, EMD or NeXus wrote it and through h5py otherwise; pictures through
Pillow. Slow libraries are imported where they are used.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

LAZY_BYTES = 256 * 2**20  # larger files are opened lazily, so that only the chosen frame is read

Scale = tuple[float | None, str]  # (step along an axis, its unit as the file spells it)


# In-situ logs and spectra: RosettaSciIO reads them, but there is no image in them.
_TABLES = {"csv", "msa", "emsa", "mas", "ems"}


class FormatError(Exception):
    """A file that its reader refuses; the message says why, without the file's name."""


@dataclass(frozen=True)
class Entry:
    """One array of a file.

    Attributes
    ----------
    name : str
        How the file calls it ("" where formats give no names).
    shape, dtype
        Of the stored array, in its own axis order.
    read : callable
        `read(index)` with one int or slice for each axis returns that part as an array.
    axes : tuple of (scale, unit)
        The file's calibration of each axis; (None, "") where there is none.
    stepped : tuple of bool
        True for the axes that the file calls navigation axes (scan positions, frames, time).
    colour : bool
        The last axis is red, green, blue [, alpha].
    metadata : dict
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[tuple], np.ndarray]
    axes: tuple[Scale, ...]
    stepped: tuple[bool, ...]
    colour: bool = False
    metadata: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Head:
    """Shape and type of an array that has not been read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype


def make_entry(
    array: Any,
    *,
    name: str = "",
    read: Callable[[tuple], np.ndarray] | None = None,
    yx: tuple[Scale, Scale] | None = None,
    axes: tuple[Scale, ...] | None = None,
    stepped: tuple[bool, ...] | None = None,
    colour: bool | None = None,
    metadata: dict | None = None,
) -> Entry:
    """An `Entry` of anything with `shape` and `dtype`; `yx` calibrates the two image axes."""
    shape = tuple(int(n) for n in array.shape)
    if colour is None:
        colour = len(shape) >= 3 and shape[-1] in (3, 4) and min(shape[-3:-1]) > 4
    if axes is None:
        axes = ((None, ""),) * len(shape)
        images = len(shape) - (1 if colour else 0)
        if yx is not None and images >= 2:
            axes = axes[: images - 2] + yx + axes[images:]
    return Entry(
        name=name,
        shape=shape,
        dtype=np.dtype(array.dtype),
        read=read or (lambda index: np.asarray(array[index])),
        axes=axes,
        stepped=stepped or (False,) * len(shape),
        colour=colour,
        metadata=metadata or {},
    )


_HDF5 = {"h5", "hdf5", "hdf", "he5", "emd", "de5", "hspy", "nxs", "nexus", "mat"}
_TIFF = {"tif", "tiff", "ome", "btf", "stk", "lsm"}
_PICTURE = {"png", "bmp", "dib", "gif", "jpg", "jpeg", "jpe", "webp", "pgm", "ppm", "pbm", "pcx"}
_MRC = {"mrc", "mrcs", "ali", "rec", "st", "preali", "ccp4"}
_VENDOR_MAGIC = {
    "dm3": (b"\0\0\0\3", b"\0\0\0\4"),
    "dm4": (b"\0\0\0\3", b"\0\0\0\4"),
    "ser": (b"II\x97\x01",),
}
_NAMES = {"hdf5": "an HDF5", "tiff": "a TIFF", "picture": "a picture", "numpy": "a NumPy"}


def kind_of_file(path: Path) -> str:
    """Which reader a file needs: by its first bytes where they say it, else by its extension.

    Returns
    -------
    str
        "hdf5", "tiff", "picture", "numpy", "mrc", or "rsciio" for RosettaSciIO's plugins.

    Raises
    ------
    FormatError
        No reader has this extension, or the content is not what the extension promises.
    """
    extension = path.suffix[1:].lower()
    with path.open("rb") as file:
        head = file.read(212)
    by_name = None
    for kind, extensions in (("hdf5", _HDF5), ("tiff", _TIFF), ("picture", _PICTURE)):
        by_name = kind if extension in extensions else by_name
    by_name = "numpy" if extension in ("npy", "npz") else by_name
    if by_name is None:
        if extension in _MRC or head[208:212] == b"MAP ":
            return "mrc"
        if extension in _plugins() and extension not in _TABLES:
            return "rsciio"
    found = _kind_by_magic(path, head)
    if found is not None:
        return found
    if by_name is not None and extension not in ("pgm", "ppm", "pbm", "pcx"):
        raise FormatError(f"it is not {_NAMES[by_name]} file: it begins with {_excerpt(head)}")
    if by_name is not None:
        return by_name
    raise FormatError(
        f"there is no reader for {path.suffix or 'a file without extension'} (it begins with "
        f"{_excerpt(head)}). Read are blo, dm3, dm4, emd, emi, h5, hspy, jpg, mrc, npz, png, ser, "
        "tif and RosettaSciIO's other formats: export it as .tif from the microscope's program, or "
        "save it as .npz with the keys image and pixel_nm"
    )


def _kind_by_magic(path: Path, head: bytes) -> str | None:
    import h5py

    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8")) or head[8:12] == b"WEBP":
        return "picture"
    if head.startswith(b"\x93NUMPY") or (
        head.startswith(b"PK\x03\x04") and path.suffix.lower() == ".npz"
    ):
        return "numpy"
    return "hdf5" if h5py.is_hdf5(path) else None


def _excerpt(head: bytes) -> str:
    text = head[:24]
    if text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text):
        return f"the text {text.decode('ascii').strip()!r}"
    return f"the bytes {text[:8].hex(' ')}"


def open_entries(path: Path, dataset: str | None = None) -> tuple[str, list[Entry]]:
    """Everything array-like in a file.

    Parameters
    ----------
    path : Path
        An existing file.
    dataset : str, optional
        For HDF5: the path of one dataset inside the file, read as it is.

    Returns
    -------
    (format, entries)

    Raises
    ------
    FormatError
        The file is damaged, incomplete, of another kind than its name says, or of no known kind.
    """
    kind = kind_of_file(path)
    options = {"dataset": dataset} if kind == "hdf5" else {}
    try:
        return _reader(kind)(path, **options)
    except FormatError:
        raise
    except Exception as error:
        # parsers raise anything on broken bytes: struct.error, KeyError, MemoryError …
        raise FormatError(broken(path, error)) from error


def _reader(kind: str) -> Callable[..., tuple[str, list[Entry]]]:
    if kind == "rsciio":
        return _vendor
    module, function = {
        "tiff": ("micrograph_tiff", "read"),
        "hdf5": ("micrograph_hdf5", "read"),
        "mrc": ("micrograph_mrc", "read"),
        "picture": ("micrograph_arrays", "read_picture"),
        "numpy": ("micrograph_arrays", "read_numpy"),
    }[kind]
    return getattr(importlib.import_module(f"emjax.data.{module}"), function)


def broken(path: Path, error: Exception) -> str:
    """The sentence for a file whose reader gave up."""
    cause = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {cause[0]}" if cause else type(error).__name__
    return (
        f"it is damaged or incomplete ({path.stat().st_size} bytes; {said}). Copy it again from "
        "where it was recorded, and check that it opens in the program that wrote it"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence third-party readers: their remarks on vendors' metadata are not for emjax's users.

    What matters (image and pixel size) is validated afterwards by `emjax.data.micrographs`.
    """
    loggers = [logging.getLogger(name) for name in ("rsciio", "tifffile", "PIL")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _plugins() -> dict[str, list[tuple[str, str]]]:
    """RosettaSciIO's readers by lower-case extension: [(format's name, module)]."""
    import rsciio

    table: dict[str, list[tuple[str, str]]] = {}
    for plugin in rsciio.IO_PLUGINS:
        for extension in {e.lower() for e in plugin["file_extensions"]}:
            table.setdefault(extension, []).append((plugin["name"], plugin["api"]))
    return table


def _vendor(path: Path) -> tuple[str, list[Entry]]:
    extension = path.suffix[1:].lower()
    plugins = _plugins()[extension]
    with path.open("rb") as file:
        head = file.read(24)
    if extension in _VENDOR_MAGIC and not head.startswith(_VENDOR_MAGIC[extension]):
        raise FormatError(f"it is not a {plugins[0][0]} file: it begins with {_excerpt(head)}")
    if extension in ("dm3", "dm4") and head[(8 if head[3] == 3 else 12) :][:4] == bytes(4):
        raise FormatError(
            "it is a big-endian DigitalMicrograph file (from an old Macintosh), whose pixels "
            "RosettaSciIO misreads: save it again from DigitalMicrograph, or export it as .tif"
        )
    for i, (name, module) in enumerate(plugins):
        try:
            entries = rsciio_entries(path, module)
            if not entries and extension == "emi":
                raise FormatError("its pixels are in .ser files, which must lie beside it")
            return name, entries
        except ModuleNotFoundError as error:
            raise FormatError(
                f"RosettaSciIO reads .{extension} only with the package {error.name}: "
                f"`pip install {error.name}`, or save the image as .hspy, .tif or .npz"
            ) from error
        except Exception:
            if i == len(plugins) - 1:
                raise
    raise FormatError(f"no reader for .{extension}")


def rsciio_entries(path: Path, module: str, **options: Any) -> list[Entry]:
    """Read a file with one plugin of RosettaSciIO, given as its module's name.

    Raises
    ------
    FormatError
        The plugin gave up, in whatever way: struct.error, KeyError, MemoryError …
    ModuleNotFoundError
        The plugin needs a package that is not installed.
    """
    with quiet():
        reader = importlib.import_module(module).file_reader
        if path.stat().st_size > LAZY_BYTES:
            try:
                signals = reader(str(path), lazy=True, **options)
                return _from_dicts(signals, lambda i: reader(str(path), **options)[i]["data"])
            except Exception:  # many plugins cannot read lazily: each says it in its own way
                pass
        try:
            return _from_dicts(reader(str(path), **options))
        except ModuleNotFoundError:
            raise
        except Exception as error:
            problem = broken(path, error)
        # some plugins leave the file open when they fail: without the traceback it is closed here
        gc.collect()
    raise FormatError(problem)


def _from_dicts(
    signals: list[dict], again: Callable[[int], np.ndarray] | None = None
) -> list[Entry]:
    """RosettaSciIO's dictionaries as entries; `again` reads one in full if lazy reading fails."""
    entries: list[Entry] = []
    for number, signal in enumerate(signals):
        data = signal["data"]

        def read(index: tuple, data: Any = data, number: int = number) -> np.ndarray:
            try:
                return np.asarray(data[index])
            except Exception:  # compressed members cannot be mapped: it shows only now
                if again is None:
                    raise
                return again(number)[index]

        axes = [a for a in signal["axes"] if "size" in a or "axis" in a]
        if all("index_in_array" in a for a in axes):
            axes.sort(key=lambda a: int(a["index_in_array"]))
        if len(axes) != data.ndim:
            axes = [{} for _ in range(data.ndim)]
        title = str(signal.get("metadata", {}).get("General", {}).get("title") or "")
        taken = sum(e.name == title or e.name.startswith(f"{title} #") for e in entries)
        entries.append(
            make_entry(
                data,
                name=f"{title} #{taken + 1}".strip() if taken else title,
                read=read,
                axes=tuple((_number(a.get("scale")), str(a.get("units") or "")) for a in axes),
                stepped=tuple(bool(a.get("navigate", False)) for a in axes),
                colour=False,  # RosettaSciIO stores colours as a record of R, G, B
                metadata=signal.get("metadata", {}),
            )
        )
    return entries


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
