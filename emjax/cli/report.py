"""`emjax report`: render the report of a run again from what the run saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from emjax.cli.errors import UsageError, suggestion


@dataclass(frozen=True)
class ReportOptions:
    """Render a run's report.html again from its report.json and report.npz, without training."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's folder, or its name in --root."""
    root: Path = Path("runs")
    """Folder that holds the runs."""


def main(argv: list[str]) -> int:
    """`emjax report RUN`: returns the exit status."""
    options = tyro.cli(ReportOptions, prog="emjax report", args=argv)
    folder = find_run(options.run, options.root)
    from emjax.report import rerender

    print(f"report   {rerender(folder)}")
    return 0


def find_run(name: str, root: Path) -> Path:
    """The folder of a run, from its path or its name below `root`.

    Raises
    ------
    UsageError : there is none; names the nearest.
    """
    from emjax.runs import list_runs

    for folder in (Path(name).expanduser(), root / name):
        if folder.is_dir():
            return folder
    runs = list_runs(root)
    there = f" There are {', '.join(runs[:5])}." if runs else f" There is no run in {root}."
    raise UsageError(f"no run is called {name!r}.{suggestion(Path(name).name, runs)}{there}")
