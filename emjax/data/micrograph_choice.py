"""Which of a file's arrays is the image that is meant, and which part of it.

Where the answer is not clear the error lists the candidates: guessing would sooner or later show
somebody the atoms of another picture.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np

from emjax.data.micrograph_formats import Entry
from emjax.data.micrograph_units import kind_of_unit

SMALLEST = 16  # pixels along a side: below this an array is a table or a thumbnail, not an image


class MicrographError(ValueError):
    """A file that cannot be used as a micrograph; the message says why and what to do."""


def choose(entries: list[Entry], dataset: str | int | None, frame: int | None, path: Path) -> Entry:
    """The one array that is meant.

    Without `dataset`, candidates are the real images and stacks in the file; an array named `image`
    goes before the others, and Boolean masks and diffraction patterns come last.

    Raises
    ------
    MicrographError
        No candidate (says what each array is), several (lists them), or no array named `dataset`.
    """
    if not entries:
        raise MicrographError(f"{path} holds no array: there is no image in it.")
    if dataset is not None:
        return _checked(_named(entries, dataset, path), path)
    good = [e for e in entries if problem_of(e) is None]
    if not good:
        if len(entries) == 1:
            return _checked(entries[0], path)
        # the axes of a 4-D array, stored beside it, are not what the user asked for
        tried = [e for e in entries if len(_long_axes(e)) > 1] or entries
        found = "; ".join(f"{e.name or i}: {problem_of(e)}" for i, e in enumerate(tried[:4]))
        more = f"; and {len(tried) - 4} more" if len(tried) > 4 else ""
        raise MicrographError(f"{path} holds no image. {found}{more}.")
    good = [e for e in good if e.dtype.kind != "b"] or good
    if frame is not None:
        good = [e for e in good if len(_long_axes(e)) == 3] or good
    good = [e for e in good if not _is_reciprocal(e)] or good
    good = [e for e in good if e.name.rsplit("/", 1)[-1].casefold() == "image"] or good
    if len(good) == 1:
        return good[0]
    numbers = {id(e): i for i, e in enumerate(entries)}
    lines = "\n".join(f"  {numbers[id(e)]}: {e.name} ({_size(e)})" for e in good[:20])
    more = f"\n  … and {len(good) - 20} more" if len(good) > 20 else ""
    example = good[0].name or numbers[id(good[0])]
    raise MicrographError(
        f"{path} holds {len(good)} images: choose one by name or number with --dataset {example!r} "
        f"(in Python: dataset={example!r}).\n{lines}{more}"
    )


def image_index(entry: Entry, frame: int | None, where: str) -> tuple[int | None, tuple]:
    """How to cut the image out of the array.

    Returns
    -------
    (axis, index)
        The stack's axis or None, and one int or slice for each axis of the array.

    Raises
    ------
    MicrographError
        A stack without `frame`, or a frame that is not there.
    """
    if frame is not None and (isinstance(frame, bool) or not isinstance(frame, int | np.integer)):
        raise MicrographError(f"frame={frame!r} is not a whole number.")
    axes = _long_axes(entry)
    index: list[Any] = [0 if n == 1 else slice(None) for n in entry.shape]
    if entry.colour:
        index[-1] = slice(None)
    if len(axes) == 2:
        if frame not in (None, 0, -1):
            raise MicrographError(
                f"{where} holds one image: there is no frame {frame} (leave it out)."
            )
        return None, tuple(index)
    stepped = [i for i in axes if entry.stepped[i]]
    axis = stepped[0] if len(stepped) == 1 else axes[0]
    count = entry.shape[axis]
    if frame is None or not -count <= frame < count:
        y, x = (entry.shape[i] for i in axes if i != axis)
        problem = "" if frame is None else f"there is no frame {frame}; "
        raise MicrographError(
            f"{where} is a stack of {count} images of {y} x {x} pixels: {problem}choose one from "
            f"0 to {count - 1} with --frame 0 (in Python: frame=0)."
        )
    index[axis] = int(frame) % count
    return axis, tuple(index)


def image_axes(entry: Entry, stack_axis: int | None) -> list[int]:
    """The two axes of the array that are the image's rows and columns."""
    return [i for i in _long_axes(entry) if i != stack_axis]


def problem_of(entry: Entry) -> str | None:
    """Why an array is neither an image nor a stack of images; None if it is one of the two."""
    shape = " x ".join(map(str, entry.shape))
    if 0 in entry.shape:
        return f"it is empty ({shape})"
    if entry.dtype.kind == "c":
        return f"it is complex ({shape}): save its modulus or its phase as an image"
    if entry.dtype.kind not in "biuf" and not is_record_of_colours(entry.dtype):
        return f"it holds {entry.dtype} and not numbers"
    axes = _long_axes(entry)
    for unit in (entry.axes[i][1] for i in axes):
        if kind_of_unit(unit) == "energy":
            return (
                f"it is a spectrum or spectrum image ({shape}, one axis in {unit}): integrate an "
                "energy window and save the map as .tif or .npz"
            )
    if len(axes) < 2:
        return f"it is one-dimensional ({shape}): an image has rows and columns"
    if len(axes) == 3 and sum(entry.stepped[i] for i in axes) == 2:
        return f"it is a spectrum image ({shape}): integrate a window of it and save the map"
    if len(axes) > 3:
        return (
            f"it is {len(axes)}-D ({shape}), as 4D-STEM data are: make an image of it first (a "
            "virtual bright- or dark-field detector in py4DSTEM, LiberTEM or HyperSpy) and save "
            "that as .tif or .npz"
        )
    if min(entry.shape[i] for i in axes[-2:]) < SMALLEST:
        return f"it is too small for an image ({shape}; at least {SMALLEST} x {SMALLEST} pixels)"
    return None


def is_record_of_colours(dtype: np.dtype) -> bool:
    """RosettaSciIO's way to store colours: one record of R, G, B [, A] a pixel."""
    return dtype.names is not None and {"R", "G", "B"} <= set(dtype.names)


def _long_axes(entry: Entry) -> list[int]:
    """The axes that count: neither the colour axis nor those of length one."""
    axes = range(len(entry.shape) - (1 if entry.colour else 0))
    return [i for i in axes if entry.shape[i] != 1]


def _is_reciprocal(entry: Entry) -> bool:
    return any(kind_of_unit(entry.axes[i][1]) == "reciprocal" for i in _long_axes(entry))


def _size(entry: Entry) -> str:
    return " x ".join(str(entry.shape[i]) for i in _long_axes(entry))


def _checked(entry: Entry, path: Path) -> Entry:
    problem = problem_of(entry)
    if problem is not None:
        name = f" ({entry.name})" if entry.name else ""
        raise MicrographError(f"{path}{name} is not a micrograph: {problem}.")
    return entry


def _named(entries: list[Entry], dataset: str | int, path: Path) -> Entry:
    name = str(dataset)
    found = [e for e in entries if e.name.strip("/") == name.strip("/")]
    if found:
        return found[0]
    if name.lstrip("-").isdigit() and -len(entries) <= int(name) < len(entries):
        return entries[int(name)]
    names = [e.name or str(i) for i, e in enumerate(entries)]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    shown = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
    raise MicrographError(f"{path} has no dataset {name!r}.{hint} It holds: {shown}.")
