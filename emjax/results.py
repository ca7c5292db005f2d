"""``results.json``: the numbers that a run came to, for people's scripts and for other commands."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emjax.files import write_json

FILE = "results.json"


class ResultsError(ValueError):
    """A run without the number that was asked for."""


def write_results(folder: str | os.PathLike, numbers: Mapping[str, Any]) -> None:
    """Write the numbers of a run (nested as you like) into its folder; atomic."""
    write_json(Path(folder) / FILE, numbers)


def read_results(folder: str | os.PathLike) -> dict[str, float]:
    """All numbers of a run by dotted name.

    Those of ``results.json``, and for names that it lacks the last values of ``metrics.csv``; of
    ``metrics-STAGE.csv`` as ``STAGE.name``.

    Raises
    ------
    ResultsError
        The file is damaged.
    """
    folder = Path(folder)
    found: dict[str, float] = {}
    for file in [folder / "metrics.csv", *sorted(folder.glob("metrics-*.csv"))]:
        if not file.is_file():
            continue
        from emjax.metrics_file import MetricsFile

        stage = file.stem.removeprefix("metrics").removeprefix("-")
        for name, column in MetricsFile(file).series().items():
            known = [value for value in column if not math.isnan(value)]
            if known:
                found[f"{stage}.{name}" if stage else name] = known[-1]
    if (folder / FILE).is_file():
        try:
            found |= flat(json.loads((folder / FILE).read_text("utf-8")))
        except ValueError as error:
            raise ResultsError(f"{folder / FILE} is damaged ({error}): run again") from error
    return found


def flat(value: Any, prefix: str = "") -> dict[str, float]:
    """Numbers of nested dicts and lists by dotted name; what is no number is left out.

    >>> flat({"f1": {"easy": 0.9}, "note": "x", "interval": [0.8, 1]})
    {'f1.easy': 0.9, 'interval.0': 0.8, 'interval.1': 1.0}
    """
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return {}
    if isinstance(value, int | float):
        return {prefix: float(value)}
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    dot = prefix and prefix + "."
    return {k: v for name, entry in entries for k, v in flat(entry, f"{dot}{name}").items()}


def wanted(numbers: Mapping[str, float], name: str, where: str) -> float:
    """One number; ResultsError with what there is where it is not."""
    if name in numbers:
        return numbers[name]
    import difflib

    close = difflib.get_close_matches(name, numbers, n=5, cutoff=0.4) or list(numbers)[:10]
    raise ResultsError(f"{where} has no number {name!r}. There are: {', '.join(close) or 'none'}")
