"""The contents of a report on disk: report.json for the words and numbers, report.npz for arrays.

JSON keeps the figures readable for people and other programs; each array is replaced by
{"$array": its name in the npz file}.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from emjax.files import replacing, write_text

FORMAT = 1  # raised when files of an older version can no longer be read


class ReportError(ValueError):
    """Contents that cannot be shown, or a saved report that cannot be read."""


def save(folder: Path, report: Any, types: Mapping[str, type]) -> Any:
    """Write report.json and report.npz into `folder`; return the contents as `load` will.

    `types` are the dataclasses and named tuples (name: class) that the contents are made of.
    """
    arrays: dict[str, np.ndarray] = {}
    body = _encode(report, arrays, types)
    # the same stamp in both files: a stop between the two writes is noticed when they are read
    stamp = os.urandom(8).hex()
    arrays["stamp"] = np.array(stamp)
    with replacing(folder / "report.npz") as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
    text = json.dumps({"format": FORMAT, "stamp": stamp, "report": body}, indent=1, allow_nan=False)
    write_text(folder / "report.json", text)
    return _decode(body, arrays, types)


def load(folder: Path, types: Mapping[str, type]) -> Any:
    """Read what `save` wrote.

    Raises
    ------
    ReportError : a file is missing, damaged, of another format, or the two do not belong together.
    """
    source, store = folder / "report.json", folder / "report.npz"
    for path in (source, store):
        if not path.is_file():
            raise ReportError(
                f"there is no {path.name} in {folder}: give the folder of a run that has "
                "finished, or let the run finish (--resume goes on where it stopped)"
            )
    again = f"run the experiment with --resume to write {source.name} and {store.name} anew"
    try:
        saved = json.loads(source.read_text(encoding="utf-8"))
        version, stamp, body = saved["format"], saved["stamp"], saved["report"]
        # opened here, since np.load leaves a damaged file open
        with store.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile) as error:
        raise ReportError(f"the saved report in {folder} is damaged ({error}): {again}") from error
    if version != FORMAT:
        raise ReportError(
            f"{source} has format {version}, this emjax reads format {FORMAT}: "
            "use the version named in env.json, or run the experiment again"
        )
    if str(arrays.get("stamp")) != stamp:
        raise ReportError(f"{source} and {store.name} are not of one report: {again}")
    try:
        return _decode(body, arrays, types)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"the saved report in {folder} is damaged ({error}): {again}") from error


def _encode(value: Any, arrays: dict[str, np.ndarray], types: Mapping[str, type]) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # numpy and jax numbers
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$number": str(value)}
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {"$array": name}
    kind = type(value).__name__
    if types.get(kind) is type(value):
        names = [f.name for f in fields(value)] if is_dataclass(value) else value._fields
        return {"$type": kind} | {n: _encode(getattr(value, n), arrays, types) for n in names}
    if isinstance(value, Mapping):
        return {str(k): _encode(v, arrays, types) for k, v in value.items()}
    if isinstance(value, (Sequence, set, frozenset)):
        return [_encode(v, arrays, types) for v in value]
    return str(value)


def _decode(value: Any, arrays: Mapping[str, np.ndarray], types: Mapping[str, type]) -> Any:
    if isinstance(value, list):
        return [_decode(v, arrays, types) for v in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        return arrays[value["$array"]]
    if "$number" in value:
        return float(value["$number"])
    found = {k: _decode(v, arrays, types) for k, v in value.items() if k != "$type"}
    return types[value["$type"]](**found) if "$type" in value else found
