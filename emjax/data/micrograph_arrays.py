"""Pictures (png, jpg, …) and NumPy files: formats that no microscope wrote."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emjax.data.micrograph_formats import Entry, FormatError, Head, make_entry
from emjax.data.micrograph_units import stored_pixel_size


def read_picture(path: Path) -> tuple[str, list[Entry]]:
    """PNG, JPEG, BMP, GIF …: pixels only, as their resolution tags speak of printing."""
    from PIL import Image, ImageSequence

    with warnings.catch_warnings():
        # Pillow warns of decompression bombs from 89 megapixels on; micrographs are that large
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            opened = Image.open(path)
        except Image.DecompressionBombError as error:
            raise FormatError(
                f"it is too large for a picture ({error}): save it as .tif"
            ) from error
        with opened as image:
            plain = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L"}
            grey = {"LA": "L", "La": "L"}
            frames = [
                np.asarray(f if f.mode in plain else f.convert(grey.get(f.mode, "RGB")))
                for f in ImageSequence.Iterator(image)
            ]
            name = image.format or "picture"
    stack = np.stack(frames) if len(frames) > 1 else frames[0]
    return name, [make_entry(stack, colour=stack.ndim - (len(frames) > 1) == 3)]


def read_numpy(path: Path) -> tuple[str, list[Entry]]:
    """npy, and npz with its scalars as the calibration of every image in it."""
    if path.suffix.lower() != ".npz":
        return "NumPy", [make_entry(np.load(path, mmap_mode="r", allow_pickle=False))]
    heads, scalars = {}, {}
    # opened here, as np.load leaves a damaged archive open
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        for key in archive.files:
            shape, dtype = _npy_head(archive, key)
            if dtype.hasobject:
                continue  # a pickle can run code when it is read
            if np.prod(shape) in (1, 2):
                scalars[key] = archive[key]
            else:
                heads[key] = (shape, dtype)
    size = stored_pixel_size(scalars)
    yx = None if size is None else ((size[0][0], size[1]), (size[0][1], size[1]))

    def reader(key: str) -> Callable[[tuple], np.ndarray]:
        def read(index: tuple) -> np.ndarray:
            with np.load(path, allow_pickle=False) as archive:
                return archive[key][index]

        return read

    metadata = {key: value.tolist() for key, value in scalars.items()}
    return "NumPy", [
        make_entry(Head(*head), name=key, read=reader(key), yx=yx, metadata=metadata)
        for key, head in heads.items()
    ]


def _npy_head(archive: Any, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of a member without reading it: 4D-STEM may not fit into the memory."""
    member = key if key in archive.zip.namelist() else f"{key}.npy"
    with archive.zip.open(member) as file:
        version = np.lib.format.read_magic(file)
        version_1 = version == (1, 0)
        header = (
            np.lib.format.read_array_header_1_0
            if version_1
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = header(file)
    return shape, dtype
