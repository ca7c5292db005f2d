"""Files that are either whole or not there, and plain values for JSON."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield ``NAME.part`` beside `path` to write to; it takes the name of `path` at the end.

    A reader sees the old file or the new one, never half of one. If the block raises, the part is
    removed and the old file stays.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with part.open("rb") as file:  # on the disk before the old file goes
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `plain(value)` as readable JSON, atomically."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def plain(value: Any) -> Any:
    """`value` in JSON's types: dataclasses as dicts, tuples as lists, NumPy numbers as numbers.

    Raises
    ------
    TypeError
        For anything else, with its type.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, enum.Enum) else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    raise TypeError(f"cannot be written as JSON: {value!r} of type {type(value).__name__}")
