"""Read one image from any microscope file, with its pixel size in Å.

>>> micrograph = read_micrograph("haadf.dm4")                    # doctest: +SKIP
>>> micrograph.image.shape, micrograph.sampling                  # doctest: +SKIP
((2048, 2048), (0.127, 0.127))

What is read: dm3/dm4, emd, ser/emi, mrc, hspy, blo and the other formats of RosettaSciIO; TIFF
(plain, ImageJ, OME, microscopes'); png, jpg, bmp, gif; npy, npz; HDF5. A file from which no real,
finite, two-dimensional image can be had without guessing raises `MicrographError`, which says what
was wrong and what to do. Nothing is repaired silently.

The parts: `micrograph_formats` opens files (with `micrograph_tiff`, `_hdf5` and `_mrc`),
`micrograph_units` knows the units, `micrograph_choice` picks the array; here it is judged.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emjax.data.micrograph_choice import (
    MicrographError,
    choose,
    image_axes,
    image_index,
    is_record_of_colours,
)
from emjax.data.micrograph_formats import FormatError, Scale, broken, open_entries, quiet
from emjax.data.micrograph_units import angstrom_per, kind_of_unit

__all__ = ["Micrograph", "MicrographError", "read_micrograph", "require_sampling"]

_PLAUSIBLE = (1e-4, 1e8)  # Å per pixel: a thousandth of an atom to a centimetre
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's mode "L"


@dataclass(frozen=True)
class Micrograph:
    """One image and its calibration.

    Attributes
    ----------
    image : ndarray, float32 [y, x]
        Finite and not constant, in the file's own intensity units.
    sampling : (float, float) or None
        Å per pixel along (y, x). None when neither the file nor the caller gave it.
    units : str
        The unit in which the file states its pixel size ("nm", "µm", …), "" where it states none.
    source : str
        The path, with `::name` where the file holds several arrays and `[frame]` of a stack.
    metadata : dict
        `format`, `dataset`, `shape`, `dtype`, `calibration` ("file", "argument" or "none"), and
        under `file` what the file says of itself. Numbers, strings, lists and dicts only.
    """

    image: np.ndarray
    sampling: tuple[float, float] | None
    units: str
    source: str
    metadata: dict = field(default_factory=dict)


def read_micrograph(
    path: str | Path,
    *,
    sampling: float | Sequence[float] | None = None,
    dataset: str | int | None = None,
    frame: int | None = None,
) -> Micrograph:
    """Read one image from a microscope file.

    Parameters
    ----------
    path : str or Path
    sampling : float or (float, float), optional
        Å per pixel, (y, x) where they differ. Goes before the file's own calibration.
    dataset : str or int, optional
        Which of several arrays in the file: its name, its HDF5 path or its number.
    frame : int, optional
        Which image of a stack or movie, from 0; negative numbers count from the end.

    Returns
    -------
    Micrograph
        float32 [y, x], with the sampling in Å. Colours become luminance (ITU-R BT.601).

    Raises
    ------
    MicrographError
        Missing, empty, damaged, incomplete or unknown file; several candidates without `dataset`;
        a stack without `frame`; 1-D, 4-D, complex or spectral data; a diffraction pattern
        (reciprocal units, unless `sampling` is given); an implausible pixel size; NaN or infinite
        values; a constant image.
    """
    given = _given_sampling(sampling)
    path = _existing_file(Path(path).expanduser())
    try:
        file_format, entries = open_entries(path, dataset if isinstance(dataset, str) else None)
    except FormatError as error:
        raise MicrographError(f"cannot read {path}: {error}.") from error
    entry = choose(entries, dataset, frame, path)
    where = f"{path}::{entry.name}" if entry.name and len(entries) > 1 else str(path)
    stack_axis, index = image_index(entry, frame, where)
    # the calibration is judged before the pixels are read: a wrong file is refused quickly
    scales = [entry.axes[i] for i in image_axes(entry, stack_axis)]
    file_sampling, units = _calibration(scales, where, overridden=given is not None)
    try:
        with quiet():
            array = np.asarray(entry.read(index))
    except FormatError as error:
        raise MicrographError(f"cannot read {where}: {error}.") from error
    except Exception as error:  # readers raise anything on broken bytes
        raise MicrographError(f"cannot read {where}: {broken(path, error)}.") from error
    image = _real_image(_luminance(array, entry.colour), where)
    return Micrograph(
        image=image,
        sampling=given if given is not None else file_sampling,
        units=units,
        source=where if stack_axis is None else f"{where}[{index[stack_axis]}]",
        metadata={
            "format": file_format,
            "dataset": entry.name,
            "shape": list(entry.shape),
            "dtype": str(entry.dtype),
            "calibration": "argument" if given else "file" if file_sampling else "none",
            "file": _plain(entry.metadata),
        },
    )


def require_sampling(micrograph: Micrograph) -> tuple[float, float]:
    """The (y, x) sampling in Å per pixel.

    Raises
    ------
    MicrographError
        The file has no calibration and none was given.
    """
    if micrograph.sampling is not None:
        return micrograph.sampling
    problem = "has no pixel size"
    if micrograph.units:
        problem = f"states its pixel size in {micrograph.units!r}, which is not a known length"
    raise MicrographError(
        f"{micrograph.source} {problem}: give it in Å per pixel with --sampling 0.1 (in Python: "
        "read_micrograph(path, sampling=0.1)). It is the field of view in Å divided by the number "
        "of pixels."
    )


def _given_sampling(sampling: float | Sequence[float] | None) -> tuple[float, float] | None:
    if sampling is None:
        return None
    try:
        values = np.atleast_1d(np.asarray(sampling, dtype=float)).tolist()
    except (TypeError, ValueError):
        values = []
    if len(values) not in (1, 2) or not all(math.isfinite(v) and v > 0 for v in values):
        raise MicrographError(
            f"sampling={sampling!r} is not a pixel size: give one positive number, or (y, x), in Å "
            "per pixel."
        )
    return values[0], values[-1]


def _existing_file(path: Path) -> Path:
    if path.is_dir():
        if path.suffix in (".zspy", ".zarr"):
            raise MicrographError(
                f"{path} is a zarr store, which RosettaSciIO reads only with zarr < 3 (and that "
                "does not go with abTEM): save it from HyperSpy as .hspy instead."
            )
        inside = sorted(p.name for p in path.iterdir() if p.is_file())[:5]
        files = f" It holds {', '.join(inside)} …" if inside else ""
        raise MicrographError(f"{path} is a folder: give one image file in it.{files}")
    if not path.exists():
        folder = path.parent
        if not folder.is_dir():
            raise MicrographError(f"{path} does not exist: there is no folder {folder} either.")
        names = {p.name.casefold(): p.name for p in folder.iterdir() if p.is_file()}
        close = difflib.get_close_matches(path.name.casefold(), names, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(names[c] for c in close)}?" if close else ""
        raise MicrographError(f"{path} does not exist.{hint}")
    if path.stat().st_size == 0:
        raise MicrographError(f"{path} is empty (0 bytes): copy it again from the microscope.")
    return path


def _calibration(
    scales: list[Scale], where: str, *, overridden: bool
) -> tuple[tuple[float, float] | None, str]:
    """(Å per pixel along (y, x) or None, the file's unit)."""
    known = [
        (abs(scale), unit)
        for scale, unit in scales
        if scale is not None
        and math.isfinite(scale)
        and scale != 0
        and kind_of_unit(unit) != "none"
    ]
    if len(known) < 2:
        return None, ""
    units = known[1][1]
    if overridden:
        return None, units
    advice = "--sampling 0.1 (in Python: sampling=0.1)"
    if any(kind_of_unit(unit) == "reciprocal" for _, unit in known):
        raise MicrographError(
            f"{where} is a diffraction pattern or a Fourier transform: its pixels are "
            f"{known[1][0]:.4g} {units} wide. Give an image in real space; if the file's label is "
            f"wrong, state the pixel size in Å with {advice}."
        )
    factors = [angstrom_per(unit) for _, unit in known]
    if any(factor is None for factor in factors):
        return None, units
    y, x = (scale * factor for (scale, _), factor in zip(known, factors, strict=True) if factor)
    if not all(_PLAUSIBLE[0] <= v <= _PLAUSIBLE[1] for v in (y, x)):
        raise MicrographError(
            f"{where} states a pixel size of {known[1][0]:.4g} {units}, which no image has (it may "
            f"be a diffraction pattern whose unit was lost). State it in Å with {advice}."
        )
    return (y, x), units


def _luminance(array: np.ndarray, colour: bool) -> np.ndarray:
    """Colours to one channel; a picture stored as red = green = blue keeps its values exactly."""
    if is_record_of_colours(array.dtype):
        array, colour = np.stack([array[c] for c in "RGB"], axis=-1), True
    if not colour:
        return array
    red, green, blue = (array[..., i] for i in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return red
    channels = zip(_LUMINANCE, (red, green, blue), strict=True)
    return np.sum([weight * channel.astype(np.float64) for weight, channel in channels], axis=0)


def _real_image(array: np.ndarray, where: str) -> np.ndarray:
    """float32 [y, x], contiguous, native byte order; refuses what is not finite or is constant."""
    if array.ndim != 2:
        raise MicrographError(f"{where} gave an array of shape {array.shape}, not an image.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = ~np.isfinite(array)
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise MicrographError(
            f"{where}: {int(bad.sum())} of {array.size} pixels are not finite "
            f"({int(np.isnan(array).sum())} NaN, {int(np.isinf(array).sum())} infinite), the first "
            f"at row {row}, column {column}. Crop them away or fill them before: emjax does not "
            "guess what was there."
        )
    low, high = array.min(), array.max()
    if low == high:
        raise MicrographError(
            f"{where} is constant: every pixel is {low.item():g}. The detector was blanked, or "
            "this is another channel than you think."
        )
    if max(abs(float(low)), abs(float(high))) > float(np.finfo(np.float32).max):
        raise MicrographError(
            f"{where} has values from {float(low):g} to {float(high):g}, beyond float32: rescale."
        )
    image = np.ascontiguousarray(array, dtype=np.float32)
    if image.min() == image.max():
        raise MicrographError(
            f"{where} varies only from {low.item()!r} to {high.item()!r}, which float32 cannot "
            "tell apart: subtract the offset and save it again."
        )
    return image


def _plain(value: Any) -> Any:
    """Metadata without NumPy types and arrays, so that it can be written as JSON."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value[:100]]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return _plain(value.tolist()) if value.size <= 16 else f"array of shape {value.shape}"
    if isinstance(value, np.generic):
        return _plain(value.item())
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)
