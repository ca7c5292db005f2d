"""`emjax run NAME --seeds 3`: the same experiment with several seeds, with means and intervals.

Each seed is a run of its own in ``runs/NAME-seeds/``; the numbers of all of them come together in
``seeds.csv`` there. An interrupted series goes on with ``--resume``: finished seeds stay.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emjax.cli.errors import UsageError
from emjax.files import write_text
from emjax.results import FILE, read_results

SHOWN = 24
"""Most lines of the table that is printed; the file has all."""


def run_seeds(
    config: Any,
    seeds: int,
    folder: Path,
    resume: bool,
    overwrite: bool,
    one: Callable[[Any, str, Path, bool], Path],
) -> dict[str, tuple[float, float, float]]:
    """Run the seeds ``config.seed``, + 1 … and write the table of their numbers.

    Parameters
    ----------
    config
        Of the experiment; needs a field `seed`.
    seeds
        How many.
    folder
        Of all runs of the series.
    resume
        Leave out seeds that have their results, go on with those that have not.
    overwrite
        Replace a series that is there.
    one
        ``(config, name, root, resume) -> folder`` makes one run.

    Returns
    -------
    {name: (mean, low, high)}
        Of every number that all seeds have; Student's 95 % interval of the mean.

    Raises
    ------
    UsageError
        The experiment has no seed, a series is there, or it was run with other settings.
    """
    if not any(field.name == "seed" for field in dataclasses.fields(config)):
        raise UsageError("--seeds needs an experiment whose Config has a field `seed`")
    if folder.exists() and not (resume or overwrite):
        raise UsageError(
            f"{folder} is there already: --resume goes on with it, --overwrite starts it anew, "
            "--name makes another"
        )
    from emjax import distributed

    found, first = {}, int(config.seed)
    for seed in range(first, first + seeds):
        path, mine = folder / f"seed-{seed}", dataclasses.replace(config, seed=seed)
        if resume and (path / FILE).is_file():
            _check_same(path, mine)
        else:
            again = resume and (path / "config.json").is_file()
            path = one(mine, path.name, folder, again)
        if distributed.rank() == 0:  # which alone writes
            found[seed] = read_results(path)
    if not found:
        return {}
    table = summary(list(found.values()))
    write_text(folder / "seeds.csv", _csv(found, table))
    for line in _lines(found, table):
        print(line)
    print(f"seeds    {folder / 'seeds.csv'}")
    return table


def _check_same(path: Path, config: Any) -> None:
    """Raise where a finished run had other settings."""
    from emjax.files import plain
    from emjax.runs import read_config

    before, now = read_config(path)["config"], json.loads(json.dumps(plain(config)))
    if before != now:
        changed = [name for name in now if before.get(name) != now[name]]
        raise UsageError(
            f"{path} was run with other settings ({', '.join(changed) or 'fields'}): resume with "
            "those of the series, or give another --name"
        )


def summary(runs: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float, float]]:
    """Mean and Student's 95 % interval of every number that all runs have.

    >>> mean, low, high = summary([{"f1": 0.9}, {"f1": 0.92}, {"f1": 0.94}])["f1"]
    >>> round(mean, 3), round(low, 3), round(high, 3)
    (0.92, 0.87, 0.97)
    """
    from scipy.stats import t

    names = [name for name in runs[0] if all(name in run for run in runs)]
    n, table = len(runs), {}
    for name in names:
        values = [run[name] for run in runs]
        mean = sum(values) / n
        spread = math.inf
        if n > 1:
            deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
            spread = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
        table[name] = (mean, mean - spread, mean + spread)
    return table


def _csv(found: Mapping[int, Mapping[str, float]], table: Mapping[str, tuple]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["number", *(f"seed {seed}" for seed in found), "mean", "low", "high"])
    for name, row in table.items():
        writer.writerow([name, *(run[name] for run in found.values()), *row])
    return out.getvalue()


def _lines(found: Mapping[int, Mapping[str, float]], table: Mapping[str, tuple]) -> list[str]:
    """The table for a terminal: numbers of results.json, not the training's."""
    names = [name for name in table if name not in ("step", "seconds", "images_per_s")]
    width = max(map(len, names), default=0)
    head = "  ".join([" " * width, *(f"seed {seed:<5}" for seed in found), "mean [95 % interval]"])
    lines = [head.rstrip()]
    for name in names[:SHOWN]:
        mean, low, high = table[name]
        values = "  ".join(f"{run[name]:<10.4g}" for run in found.values())
        lines.append(f"{name:<{width}}  {values}  {mean:.4g} [{low:.4g}, {high:.4g}]")
    if len(names) > SHOWN:
        lines.append(f"… and {len(names) - SHOWN} more")
    return lines
