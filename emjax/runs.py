"""One run is one folder: what was asked for, where it ran, how it went, and what came out.

::

    runs/locate_atoms/
        config.json      every setting        env.json       versions, device, commit, command
        metrics.csv      one row a step       checkpoint.h5  to resume from
        model.h5         the trained network  report.html    for a person to look at
        lock             held while a process writes here

Where `emjax.training.fit` is given a `stage`, that stage has its own ``metrics-STAGE.csv`` and
``checkpoint-STAGE.h5``.

Of several processes that train together the first writes; the others are given a scratch folder, so
that a script may write its files as if it were alone.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emjax import distributed
from emjax.environment import (
    RunError,
    backend_line,
    check_backend,
    command_line,
    environment,
)
from emjax.files import plain, write_json
from emjax.metrics_file import MetricsFile
from emjax.run_lock import lock_folder, release

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Run", "RunError", "environment", "list_runs", "open_run", "read_config"]


class Run:
    """A run's folder. Made by `open_run`.

    Attributes
    ----------
    path
        The folder to write to; a scratch folder in all processes but the first.
    home
        The run's folder, in every process.
    config
        The configuration, as it was given to `open_run`.
    experiment, preset, command
        What is being run, and how it was called.
    resumed
        True if the folder's earlier state is to be continued.
    finished
        Stages whose training came to its end in this process.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        config: Any = None,
        *,
        experiment: str = "",
        preset: str = "",
        command: str = "",
        resumed: bool = False,
        home: str | os.PathLike | None = None,
    ) -> None:
        self.path = Path(path)
        self.home = Path(path if home is None else home)
        self.config = config
        self.experiment = experiment
        self.preset = preset
        self.command = command or command_line()
        self.resumed = resumed
        self.finished: set[str] = set()
        self._tables: dict[str, MetricsFile] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def checkpoint_path(self) -> Path:
        """Where `emjax.training.fit` keeps the state to resume from."""
        return self.checkpoint_of()

    def checkpoint_of(self, stage: str = "") -> Path:
        """The same of one of several trainings."""
        return self.home / f"{_of_stage('checkpoint', stage)}.h5"

    @property
    def model_path(self) -> Path:
        """Where the trained network belongs (`emjax.models.save_model`)."""
        return self.path / "model.h5"

    @cached_property
    def console(self) -> Console:
        """A rich console on the standard output; wide and plain when that is not a terminal."""
        from rich.console import Console

        quiet = self.home != self.path  # the first process speaks for all
        console = Console(highlight=False, soft_wrap=True, quiet=quiet)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = 120
        return console

    def print(self, text: str) -> None:
        """One line for the person who waits; nothing in it is taken for markup."""
        self.console.print(text, markup=False)

    def table(self, stage: str = "") -> MetricsFile:
        """``metrics.csv``, or that of a stage."""
        if stage not in self._tables:
            self._tables[stage] = MetricsFile(self.path / f"{_of_stage('metrics', stage)}.csv")
        return self._tables[stage]

    def log(self, step: int, **metrics: float) -> None:
        """Write metrics of one step to ``metrics.csv``; new columns may come at any time."""
        self.table().append(step, metrics)

    def metrics(self, stage: str = "") -> dict[str, list[float]]:
        """The columns of ``metrics.csv`` (or that of a stage); NaN where a row has no value."""
        return self.table(stage).series()

    def rewind(self, step: int) -> None:
        """Drop the rows of ``metrics.csv`` after `step`, from which training goes on."""
        self.table().drop_after(step)

    @property
    def resume_command(self) -> str:
        """The command that continues this run: as it was called, with its name and --resume."""
        words, kept, drop_next = shlex.split(self.command), [], False
        for word in words:
            if drop_next:
                drop_next = False
            elif word == "--name":
                drop_next = True
            elif word not in ("--resume", "--overwrite") and not word.startswith("--name="):
                kept.append(word)
        return shlex.join([*kept, "--name", self.home.name, "--resume"])


def open_run(
    experiment: str,
    config: Any,
    *,
    name: str | None = None,
    root: str | os.PathLike = "runs",
    resume: bool = False,
    require: str | None = None,
    overwrite: bool = False,
    command: str | None = None,
    preset: str = "",
    may_differ: Sequence[str] = ("time_limit",),
) -> Run:
    """Make (or reopen) the folder of a run and print the backend as line 1.

    Joins the other processes first, if there are any (`emjax.distributed.initialize`).

    Parameters
    ----------
    experiment
        Name or path of the experiment.
    config
        Frozen dataclass (or dict) of numbers; written to ``config.json``.
    name
        Folder name; default: the experiment's. If there is one already and neither `resume` nor
        `overwrite` is set, ``NAME-2``, ``NAME-3`` … is taken.
    root
        The folder of all runs.
    resume
        Continue. Without `name`: the latest of ``NAME``, ``NAME-2`` …
    require
        "gpu", "tpu" or "cpu": refuse any other backend.
    overwrite
        Delete the run that has this name and start anew.
    command
        The command for ``env.json``; default: this process's.
    preset
        Name of the preset that `config` came from.
    may_differ
        Dotted names of settings that a resumed run may change.

    Raises
    ------
    RunError
        Wrong backend; nothing to resume; resumed with other settings (lists them); the folder to
        overwrite is not a run's; another process writes there.
    """
    stem = Path(experiment).stem
    root, folder = Path(root), name or stem
    if folder in (".", "..") or Path(folder).name != folder:
        raise RunError(f"--name {folder!r} must be a plain folder name; use --root for the place")
    if resume and overwrite:
        raise RunError("--resume continues a run and --overwrite deletes it: choose one")
    distributed.initialize()
    warning = check_backend(require)
    settings = {"experiment": stem, "preset": preset, "config": plain(config)}
    made = {"experiment": stem, "preset": preset, "command": command or "", "resumed": resume}
    if distributed.rank() > 0:
        return _follow(config, made)
    try:
        if resume:
            path = _find(root, folder, exact=name is not None)
            _check_same(path, settings, may_differ)
        else:
            path = _make(root, folder, overwrite)
        lock = lock_folder(path)
        run = Run(path, config, **made)
        if lock is not None:
            weakref.finalize(run, release, lock)
        run.print(backend_line())
        if warning:
            run.console.print(warning, style="bold yellow", markup=False)
        _write(run, settings, resume)
    except Exception:
        distributed.from_first("")  # the others wait
        raise
    run.print(f"run {path}" + (f" (preset {preset})" if preset else "") + (", resumed" * resume))
    distributed.from_first(str(path.resolve()))
    return run


def _follow(config: Any, made: dict[str, Any]) -> Run:
    """The run of a process that is not the first: what it writes is thrown away."""
    home = Path(distributed.from_first("") or os.devnull)
    if home == Path(os.devnull):
        raise RunError("the first process could not open the run; it says why")
    scratch = tempfile.TemporaryDirectory(prefix=f"emjax-{distributed.rank()}-")
    for pattern in ("config.json", "env.json", "metrics*.csv"):
        for file in home.glob(pattern):
            shutil.copy(file, scratch.name)
    run = Run(scratch.name, config, home=home, **made)
    weakref.finalize(run, scratch.cleanup)
    return run


def _of_stage(name: str, stage: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]*", stage):
        raise RunError(f"stage {stage!r} becomes part of file names: use letters, digits, _ and -")
    return f"{name}-{stage}" if stage else name


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """``config.json`` of a run's folder: ``experiment``, ``preset`` and ``config``.

    Raises
    ------
    RunError
        There is none, or it is not readable.
    """
    file = Path(path) / "config.json"
    try:
        settings = json.loads(file.read_text("utf-8"))
        return {key: settings[key] for key in ("experiment", "preset", "config")}
    except FileNotFoundError:
        raise RunError(f"{path} is not the folder of a run: it has no config.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is damaged ({error}): start a new run") from error


def list_runs(root: str | os.PathLike = "runs") -> list[str]:
    """Names of the runs below `root`, the latest first."""
    files = [file for file in Path(root).glob("*/config.json") if file.is_file()]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    return [file.parent.name for file in files]


def _make(root: Path, folder: str, overwrite: bool) -> Path:
    path = root / folder
    if overwrite and path.exists():
        ours = path.is_dir() and ((path / "config.json").is_file() or not any(path.iterdir()))
        if not ours:
            raise RunError(f"{path} is not the folder of a run, so --overwrite leaves it alone")
        lock = lock_folder(path)  # not while another process writes there
        shutil.rmtree(path)
        if lock is not None:
            release(lock)
    number = 1
    while True:
        try:
            path.mkdir(parents=True)  # fails if it is there: two runs never share a folder
            return path
        except FileExistsError:
            if not root.is_dir():
                raise RunError(f"--root {root} is a file; name a folder") from None
            number += 1
            path = root / f"{folder}-{number}"
        except OSError as error:
            raise RunError(f"cannot make the folder {path}: {error}; choose --root") from error


def _find(root: Path, folder: str, *, exact: bool) -> Path:
    runs = list_runs(root)
    same = [run for run in runs if run == folder]
    if not exact:  # NAME-2, NAME-3 …: the highest number is the latest
        numbered = {
            int(run.removeprefix(folder + "-")): run
            for run in runs
            if run.startswith(folder + "-") and run.removeprefix(folder + "-").isdigit()
        }
        same = [numbered[max(numbered)]] if numbered else same
    if same:
        return root / same[0]
    close = difflib.get_close_matches(folder, runs, n=3, cutoff=0.4) or runs[:3]
    there = f"there are: {', '.join(close)}" if close else f"there is no run in {root}"
    raise RunError(f"no run {root / folder} to resume ({there}); without --resume it is started")


def _check_same(path: Path, settings: dict[str, Any], may_differ: Sequence[str]) -> None:
    saved = read_config(path)
    if saved["experiment"] != settings["experiment"]:
        raise RunError(
            f"{path} is a run of {saved['experiment']}, not of {settings['experiment']}: "
            "choose its --name"
        )
    old, new = _flat(saved["config"]), _flat(settings["config"])
    changed = [
        f"  {key}: {old.get(key, '(absent)')} in the run, {new.get(key, '(absent)')} now"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and key not in may_differ
    ]
    if changed:
        more = [f"  … and {len(changed) - 10} more"] if len(changed) > 10 else []
        preset = f" (the run has preset {saved['preset']})" if saved["preset"] else ""
        raise RunError(
            f"{path} was started with other settings{preset}, so it cannot be resumed:\n"
            + "\n".join(changed[:10] + more)
            + "\nResume with the run's settings, or leave --resume out to start a new run."
        )


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Leaves of nested dicts by dotted name, as JSON text (so that NaN equals NaN)."""
    if not isinstance(value, dict):
        return {prefix: json.dumps(value)}
    dot = prefix and prefix + "."
    return {k: v for name, entry in value.items() for k, v in _flat(entry, dot + name).items()}


def _write(run: Run, settings: dict[str, Any], resume: bool) -> None:
    now, file = environment(run.command), run.path / "env.json"
    if resume:
        try:
            first = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            first = None
        if first:
            then, this = (_builds(env) for env in (first, now))
            if then != this:
                run.print(
                    f"The run was started with {then} and goes on with {this}: "
                    "the numbers may differ in their last digits."
                )
            now = first | {"resumed": [*first.get("resumed", []), now]}
    # config.json last: its presence makes the folder a run
    write_json(file, now)
    write_json(run.path / "config.json", settings)


def _builds(env: dict[str, Any]) -> str:
    """What decides the last digits of a number."""
    packages = env.get("packages", {})
    names = ", ".join(f"{name} {packages[name]}" for name in ("jax", "optax") if name in packages)
    return f"emjax {env.get('emjax')}, {names} on the {env.get('backend')}"
