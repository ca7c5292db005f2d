"""TIFF: pixels through tifffile; the step from OME, ImageJ, the microscope's or resolution tags.

Vendors' tags (Zeiss, Olympus, TVIPS, JEOL, DigitalMicrograph) are parsed by RosettaSciIO.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emjax.data.micrograph_formats import (
    Entry,
    FormatError,
    Head,
    Scale,
    make_entry,
    quiet,
    rsciio_entries,
)
from emjax.data.micrograph_units import stored_pixel_size

_NONE: tuple[Scale, Scale] = ((None, ""), (None, ""))
_LARGEST_SCREEN_PIXEL = (
    1.0  # µm: 72 to 25,400 dots per inch is for printers, not a microscope's scale
)
_PAGES_CHECKED = 256  # of longer movies only the first and the last
_DM_TAGS = {65003, 65004, 65009, 65010}
_JEOL_TAG = "SightX"


def read(path: Path) -> tuple[str, list[Entry]]:
    """Every series of a TIFF file (pages of one shape form one series).

    Raises
    ------
    FormatError
        A page's pixels lie beyond the end of the file; a compression needs another package.
    """
    import tifffile

    with quiet(), tifffile.TiffFile(path) as tif:
        if not tif.series:
            raise FormatError("it is damaged or incomplete: it has no readable page")
        _check_length(tif, path)
        program, yx = _calibration(tif, path)
        entries = []
        for i, series in enumerate(tif.series):
            axes = series.axes
            # tifffile writes a stack of 3 or 4 frames as planes of a colour picture by default
            colour = "S" in axes and not (tif.is_shaped and axes.startswith("S"))
            moved = axes.index("S") if colour else len(axes) - 1
            shape = series.shape[:moved] + series.shape[moved + 1 :] + (series.shape[moved],)
            entries.append(
                make_entry(
                    Head(shape, series.dtype),
                    name=series.name or f"series {i}",
                    read=_reader(path, i, moved),
                    yx=yx,
                    colour=colour,
                    metadata={"axes": axes},
                )
            )
    names = [e.name for e in entries]
    if len(set(names)) < len(names):
        entries = [Entry(**{**vars(e), "name": f"series {i}"}) for i, e in enumerate(entries)]
    return program, entries


def _check_length(tif: Any, path: Path) -> None:
    """tifffile may fill missing strips with zeros: an incomplete copy must not pass as dark."""
    size, count = path.stat().st_size, len(tif.pages)
    for number in range(count) if count <= _PAGES_CHECKED else (0, count - 1):
        page = tif.pages[number].aspage()
        ends = [o + c for o, c in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if not ends or max(ends) > size or len(page.dataoffsets) != len(page.databytecounts):
            raise FormatError(
                f"it is incomplete: page {number} ends at byte {max(ends, default=0)}, the file "
                f"has {size}. Copy it again from where it was recorded"
            )


def _reader(path: Path, number: int, moved: int) -> Callable[[tuple], np.ndarray]:
    """Read one part of a series; of a contiguous or paged stack only the frame asked for."""

    def read(index: tuple) -> np.ndarray:
        import tifffile

        with tifffile.TiffFile(path) as tif:
            series = tif.series[number]
            if series.dataoffset is not None:
                dtype = series.dtype.newbyteorder(tif.byteorder)
                data = np.memmap(path, dtype, "r", series.dataoffset, series.shape)
                return np.array(np.moveaxis(data, moved, -1)[index])
            last = moved == series.ndim - 1
            if last and isinstance(index[0], int) and len(series.pages) == series.shape[0]:
                page = series.pages[index[0]]
                return _decoded(page, path).reshape(series.shape[1:])[index[1:]]
            if len(series.pages) == 1:
                data = _decoded(series.pages[0], path).reshape(series.shape)
            else:
                data = series.asarray()
            return np.moveaxis(data, moved, -1)[index]

    return read


def _decoded(page: Any, path: Path) -> np.ndarray:
    """The pixels of a page; LZW and its kin, which tifffile needs a package for, through Pillow."""
    try:
        return page.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        from PIL import Image

        compression = getattr(page.keyframe.compression, "name", "an unknown method")
        try:
            with Image.open(path) as image:
                image.seek(page.index)
                pixels = np.asarray(image)
        except OSError:
            pixels = None
        if pixels is None or pixels.size != np.prod(page.shape) or pixels.dtype != page.dtype:
            raise FormatError(
                f"its pixels are compressed with {compression}: `pip install imagecodecs`, or save "
                "it without compression"
            ) from error
        return pixels


def _calibration(tif: Any, path: Path) -> tuple[str, tuple[Scale, Scale]]:
    """Which program wrote the file, and its step along y and x."""
    page = tif.pages[0]
    if tif.is_ome:
        return "TIFF (OME)", _ome(tif.ome_metadata or "")
    if tif.is_fei:
        scan = (tif.fei_metadata or {}).get("Scan", {})
        if "PixelHeight" in scan and "PixelWidth" in scan:
            return "TIFF (FEI)", ((scan["PixelHeight"], "m"), (scan["PixelWidth"], "m"))
    described = (
        tif.shaped_metadata[0] if tif.is_shaped and tif.shaped_metadata else _json(page.description)
    )
    size = stored_pixel_size(described)
    if size is not None:
        return "TIFF", ((size[0][0], size[1]), (size[0][1], size[1]))
    vendor = tif.is_sem or tif.is_tvips or page.is_sis or _JEOL_TAG in str(page.software)
    if vendor or _DM_TAGS & {tag.code for tag in page.tags}:
        found = rsciio_entries(path, "rsciio.tiff")[0].axes[-2:]
        if any(unit for _, unit in found):
            return "TIFF (microscope)", (found[0], found[1])
    if tif.is_imagej:
        return "TIFF (ImageJ)", _resolution(
            page, str((tif.imagej_metadata or {}).get("unit") or "")
        )
    return "TIFF", _resolution(page, None)


def _ome(xml: str) -> tuple[Scale, Scale]:
    found = []
    for axis in "YX":
        size = re.search(rf'PhysicalSize{axis}="([^"]+)"', xml)
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', xml)
        found.append((float(size[1]), unit[1] if unit else "µm") if size else (None, ""))
    return found[0], found[1]


def _json(text: str) -> dict:
    try:
        values = json.loads(text) if text.lstrip().startswith("{") else {}
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _resolution(page: Any, unit: str | None) -> tuple[Scale, Scale]:
    """The resolution tags: pixels per `unit` where ImageJ names one, else per inch or cm."""
    steps = []
    for name in ("YResolution", "XResolution"):
        tag = page.tags.get(name)
        if tag is None:
            return _NONE
        value = tag.value
        pixels, length = value if isinstance(value, tuple) else (value, 1)
        if not pixels or not length:
            return _NONE
        steps.append(float(length) / float(pixels))
    if unit is None or unit == "":
        per = page.tags.get("ResolutionUnit")
        micrometres = {2: 25400.0, 3: 10000.0}.get(int(per.value) if per is not None else 0)
        if micrometres is None or max(steps) * micrometres > _LARGEST_SCREEN_PIXEL:
            return _NONE
        return (steps[0] * micrometres, "µm"), (steps[1] * micrometres, "µm")
    if unit in ("inch", "in"):
        return (steps[0] * 25400.0, "µm"), (steps[1] * 25400.0, "µm")
    return (steps[0], unit), (steps[1], unit)
