"""A restored image as files that carry the calibration of the one it was made from.

::

    denoised/scan_17.tif         the image, float32, in the grey values of the recording
    denoised/scan_17_sigma.tif   the standard deviation of its error, likewise
    denoised/scan_17.png         recorded, restored, what was taken away, standard deviation
    denoised/scan_17.json        network, calibration, warnings
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emjax.files import replacing, write_json

FORMATS = ("tif", "npz", "hspy")
"""hspy is HDF5, which HyperSpy and every program that reads HDF5 opens."""
NAMES: tuple[str, ...] = ("image", "sigma")
PANEL = 768
"""Pixels a side of the pictures to look at, at most."""


class RestoredFilesError(ValueError):
    """Results that cannot be written; the message says what to do."""


def save_restored(
    folder: str | os.PathLike[str],
    name: str,
    recorded: np.ndarray,
    image: np.ndarray,
    sigma: np.ndarray | None,
    *,
    sampling: tuple[float, float] | None,
    settings: Mapping[str, Any] | None = None,
    kind: str = "tif",
    overwrite: bool = False,
    source: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write a restoration and return the files, the image first.

    Parameters
    ----------
    folder, name : where, and what the files are called; if there are such files, NAME-2, NAME-3 …
        is taken, unless `overwrite`.
    recorded, image, sigma : [y, x]; sigma may be None.
    sampling : Å per pixel (y, x), kept in the files; None if unknown.
    settings : what else NAME.json shall hold.
    kind : of `FORMATS`.
    source : the recording's file, which is never replaced.

    Raises
    ------
    RestoredFilesError
        An unknown format; the result would take the place of its source; HDF5 without a pixel size.
    """
    if kind not in FORMATS:
        raise RestoredFilesError(f"format {kind!r}: choose from {', '.join(FORMATS)}")
    if kind == "hspy" and sampling is None:
        raise RestoredFilesError(
            "HyperSpy's files need a pixel size: give it with --sampling, or take --format tif"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = ("", "_sigma") if sigma is not None and kind != "npz" else ("",)
    endings = [*(f"{part}.{kind}" for part in parts), ".png", ".json"]
    stem = name if overwrite else _free(folder, name, endings)
    files = [folder / (stem + ending) for ending in endings]
    if source is not None and any(_same(file, source) for file in files):
        raise RestoredFilesError(
            f"the result would take the place of the recording {source}: choose another --out"
        )
    part = folder / f".{stem}.{os.getpid()}.part"
    part.mkdir()
    try:
        made = [part / file.name for file in files]
        arrays = [image] if sigma is None else [image, sigma]
        if kind == "npz":
            _write_npz(made[0], arrays, sampling)
        else:
            for path, array in zip(made, arrays, strict=False):
                (_write_tiff if kind == "tif" else _write_hspy)(path, array, sampling)
        _write_png(made[-2], recorded, image, sigma)
        write_json(
            made[-1],
            {
                **(settings or {}),
                "files": [file.name for file in files],
                "pixels": dict(zip("yx", image.shape, strict=True)),
                "sampling_A": None if sampling is None else dict(zip("yx", sampling, strict=True)),
                **summary(recorded, image, sigma),
            },
        )
        # the image comes last: where it is, everything is
        for new, file in reversed(list(zip(made, files, strict=True))):
            os.replace(new, file)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return files


def summary(
    recorded: np.ndarray, image: np.ndarray, sigma: np.ndarray | None
) -> dict[str, float | None]:
    """Standard deviation of what was taken away, and the median one of the error of what is left;
    in grey values of the recording."""
    return {
        "removed": float(np.std(np.asarray(recorded, float) - image)),
        "error": None if sigma is None else float(np.median(sigma)),
    }


def _free(folder: Path, name: str, endings: list[str]) -> str:
    stem, number = name, 1
    while any((folder / (stem + ending)).exists() for ending in endings):
        number += 1
        stem = f"{name}-{number}"
    return stem


def _same(file: Path, source: str | os.PathLike[str]) -> bool:
    return file.exists() and os.path.exists(source) and os.path.samefile(file, source)


def _write_tiff(path: Path, image: np.ndarray, sampling: tuple[float, float] | None) -> None:
    """As ImageJ (and everything else) reads it, with the pixel size in nm."""
    import tifffile

    options: dict[str, Any] = {"metadata": {"axes": "YX"}}
    if sampling is not None:
        y, x = sampling
        options["resolution"] = (10 / x, 10 / y)  # pixels per nm
        options["metadata"]["unit"] = "nm"
    with path.open("wb") as file:
        tifffile.imwrite(file, image.astype(np.float32), imagej=True, **options)


def _write_npz(path: Path, arrays: list[np.ndarray], sampling: tuple[float, float] | None) -> None:
    named = {n: a.astype(np.float32) for n, a in zip(NAMES, arrays, strict=False)}
    if sampling is not None:
        named["pixel_A"] = np.array(sampling)
    with path.open("wb") as file:
        np.savez_compressed(file, **named)  # type: ignore[arg-type]


def _write_hspy(path: Path, image: np.ndarray, sampling: tuple[float, float] | None) -> None:
    from emjax.data.export import images, write_export

    write_export(path, images(image.astype(np.float32), sampling, title="restored"))


def _write_png(
    path: Path, recorded: np.ndarray, image: np.ndarray, sigma: np.ndarray | None
) -> None:
    from PIL import Image

    from emjax.plots import display_window, picture, png_bytes, shrink, symmetric_window

    removed = recorded - image
    shown = [
        (recorded, display_window([recorded]), "gray"),
        (image, display_window([image]), "gray"),
        (removed, symmetric_window([removed]), "residual"),
    ]
    if sigma is not None:
        shown.append((sigma, (0.0, display_window([sigma])[1]), "magma"))
    panels = [picture(shrink(a, PANEL), window, cmap).convert("RGB") for a, window, cmap in shown]
    width, height = panels[0].size
    gap = 4
    sheet = Image.new("RGB", (len(panels) * (width + gap) - gap, height), "white")
    for number, panel in enumerate(panels):
        sheet.paste(panel, (number * (width + gap), 0))
    with replacing(path) as part:
        part.write_bytes(png_bytes(sheet))
