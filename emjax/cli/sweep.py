"""`emjax sweep`: search an experiment's settings with Optuna; can be stopped, resumed, shared.

    emjax sweep locate_atoms --preset smoke --trials 20 --metric val_loss \\
        --vary optim.learning_rate=1e-4:1e-2:log --vary "widths=(8,12)|(16,24)"

Every trial is a run in ``runs/NAME-sweep/trial-0000`` …; the study is a journal file beside them,
which several processes may share: start the same command as often as you like. A trial that was
killed is taken up again from its checkpoint.
"""

from __future__ import annotations

import argparse
import ast
import csv
import dataclasses
import io
import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emjax.cli.discover import find
from emjax.cli.errors import UsageError, suggestion
from emjax.cli.run import check_contract, load, parse, prepare_jax, run_one, split_name

JOURNAL = "journal.log"


def main(argv: list[str]) -> int:
    """`emjax sweep NAME ...`: returns the exit status."""
    own = argparse.ArgumentParser(
        prog="emjax sweep NAME",
        description="Search the settings of an experiment; other flags are the experiment's.",
        epilog="FLAG=LOW:HIGH (add :log for a logarithmic scale) or FLAG=A|B|C",
        allow_abbrev=False,
    )
    own.add_argument("--trials", type=int, default=20, help="trials in all, by all processes")
    own.add_argument("--metric", default="val_loss", help="a number of results.json or metrics.csv")
    own.add_argument("--maximize", action="store_true", help="larger is better")
    own.add_argument("--vary", action="append", default=[], metavar="FLAG=RANGE")
    name = argv[0] if argv and not argv[0].startswith("-") else None
    options, rest = own.parse_known_args(argv[1:] if name else argv)
    if name is None:
        name, rest = split_name(rest)
    if name is None:
        own.print_help(sys.stderr)
        return 2
    path = find(name)
    module = load(path)
    run_options, config = parse(
        module, check_contract(module, path), rest, prog=f"emjax sweep {shlex.quote(name)}"
    )
    if not options.vary:
        raise UsageError("say what to search: --vary optim.learning_rate=1e-4:1e-2:log")
    if options.trials < 1:
        raise UsageError(f"--trials {options.trials}: at least one")
    if run_options.seeds != 1:
        raise UsageError("a sweep runs each setting once: leave --seeds out")
    space = dict(parsed_range(config, text) for text in options.vary)
    folder = Path(run_options.root) / f"{run_options.name or path.stem}-sweep"
    prepare_jax()

    def one(changes: Mapping[str, Any], trial: str, resume: bool) -> float:
        from emjax.results import read_results, wanted

        settings = config
        for flag, value in changes.items():
            settings = changed(settings, flag, value)
        words = ["emjax", "run", name, *rest, "--root", str(folder), "--name", trial]
        for flag, value in changes.items():
            words += [f"--{flag.replace('_', '-')}", *_words(value)]
        done = dataclasses.replace(
            run_options, name=trial, root=str(folder), resume=resume, overwrite=False
        )
        run_one(module, path, done, settings, command=shlex.join(words))
        return wanted(read_results(folder / trial), options.metric, str(folder / trial))

    from emjax.files import plain

    asked = {"space": space, "metric": options.metric, "maximize": options.maximize}
    asked |= {"config": plain(config), "preset": run_options.preset}
    _search(folder, asked, options, one)
    return 0


def _search(folder: Path, asked: dict[str, Any], options: Any, one: Any) -> None:
    optuna = _optuna()
    from emjax.environment import RunError
    from emjax.run_lock import lock_folder, release
    from emjax.training_step import NonFiniteError

    space = asked["space"]
    folder.mkdir(parents=True, exist_ok=True)
    _same_search(folder, asked)
    study = optuna.create_study(
        study_name="sweep",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL))
        ),
        direction="maximize" if options.maximize else "minimize",
        load_if_exists=True,
    )
    states = optuna.trial.TrialState
    distributions = {name: _distribution(optuna, entry) for name, entry in space.items()}
    while True:
        _take_up_the_killed(study, folder, states, options.metric)
        if _spent(study, states) >= options.trials:
            break
        trial = study.ask(distributions)
        again = trial.user_attrs.get("folder")
        name = again or f"trial-{trial.number:04d}"
        trial.set_user_attr("folder", name)
        changes = {k: _decoded(space[k], v) for k, v in trial.params.items()}
        print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in changes.items()), flush=True)
        lock, value = None, math.nan
        try:
            lock = lock_folder(folder / name) if again else None
            value = one(changes, name, again is not None)
        except RunError:
            if again is None:
                raise
            continue  # another process was faster
        except NonFiniteError as error:  # to be expected of some settings
            print(f"{name}: {str(error).splitlines()[0]}")
        except Exception:
            _tell(study, trial.number, state=states.FAIL)
            raise
        finally:
            if lock is not None:
                release(lock)
        if math.isfinite(value):
            _tell(study, trial.number, value)
        else:
            trial.set_user_attr("failed", True)
            _tell(study, trial.number, state=states.FAIL)
    _report(study, folder, space, options)


def _spent(study: Any, states: Any) -> int:
    """Trials that count: done, running, and those that failed by their settings."""
    trials = study.get_trials(deepcopy=False)
    counted = (states.COMPLETE, states.RUNNING)
    return sum(t.state in counted or "failed" in t.user_attrs for t in trials)


def _tell(study: Any, number: int, *args: Any, **kwargs: Any) -> bool:
    """Tell a trial's end, unless another process has told it."""
    try:
        study.tell(number, *args, **kwargs)
    except (ValueError, RuntimeError):
        return False
    return True


def _take_up_the_killed(study: Any, folder: Path, states: Any, metric: str) -> None:
    """Trials that nobody runs any more are asked for again, in their old folders."""
    from emjax.results import FILE, read_results

    for trial in study.get_trials(states=(states.RUNNING,), deepcopy=False):
        name = trial.user_attrs.get("folder")
        path = folder / str(name)
        if name is None or not (path / "config.json").is_file() or _is_written(path):
            continue
        known = read_results(path) if (path / FILE).is_file() else {}
        if metric in known and math.isfinite(known[metric]):  # ended, but was not told
            _tell(study, trial.number, known[metric])
        elif _tell(study, trial.number, state=states.FAIL):
            study.enqueue_trial(trial.params, user_attrs={"folder": name})


def _is_written(path: Path) -> bool:
    """Whether another process holds the lock of this run."""
    from emjax.environment import RunError
    from emjax.run_lock import lock_folder, release

    try:
        lock = lock_folder(path)
    except RunError:
        return True
    if lock is not None:
        release(lock)
    return lock is None  # no locks here: leave it alone


def _same_search(folder: Path, asked: dict[str, Any]) -> None:
    file = folder / "sweep.json"
    from emjax.files import write_json

    if not file.is_file():
        write_json(file, asked)
    elif json.loads(file.read_text("utf-8")) != json.loads(json.dumps(asked)):
        raise UsageError(
            f"{folder} holds a search with another --vary, --metric, direction or other settings "
            f"(see {file}): give the same, or another --name"
        )


def parsed_range(config: Any, text: str) -> tuple[str, dict[str, Any]]:
    """(flag, entry) of FLAG=LOW:HIGH[:log] or FLAG=A|B|C, checked against the configuration.

    Raises
    ------
    UsageError
        No such flag, or a range that its type cannot have.
    """
    flag, equals, values = text.partition("=")
    flag = flag.removeprefix("--").replace("-", "_")
    if not equals or not values:
        raise UsageError(f"--vary {text!r}: FLAG=LOW:HIGH, FLAG=LOW:HIGH:log or FLAG=A|B|C")
    now = _value(config, flag)
    number = isinstance(now, int | float) and not isinstance(now, bool)
    if number and ":" in values:
        parts = values.split(":")
        try:
            low, high = (float(part) for part in parts[:2])
        except ValueError:
            raise UsageError(f"--vary {text!r}: LOW and HIGH are numbers") from None
        log = parts[2:] == ["log"]
        if not low < high or (parts[2:] and not log) or (log and low <= 0):
            raise UsageError(f"--vary {text!r}: LOW below HIGH, and above 0 for :log")
        kind = "int" if isinstance(now, int) else "float"
        return flag, {"kind": kind, "low": low, "high": high, "log": log}
    choices = [_literal(part.strip(), now) for part in values.split("|")]
    for choice in choices:
        like = int | float if isinstance(now, float) else type(now)
        if now is not None and not isinstance(choice, like):
            raise UsageError(f"--vary {text!r}: {choice!r} is not like {flag} = {now!r}")
    # Optuna's journal keeps plain values: tuples travel as text
    return flag, {"kind": "choice", "choices": [repr(choice) for choice in choices]}


def _literal(text: str, now: Any) -> Any:
    if isinstance(now, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _decoded(entry: dict[str, Any], value: Any) -> Any:
    return ast.literal_eval(value) if entry["kind"] == "choice" else value


def _distribution(optuna: Any, entry: dict[str, Any]) -> Any:
    make = optuna.distributions
    if entry["kind"] == "choice":
        return make.CategoricalDistribution(entry["choices"])
    if entry["kind"] == "int":
        return make.IntDistribution(int(entry["low"]), int(entry["high"]), log=entry["log"])
    return make.FloatDistribution(entry["low"], entry["high"], log=entry["log"])


def _value(config: Any, flag: str) -> Any:
    value = config
    for part in flag.split("."):
        names = [f.name for f in dataclasses.fields(value)] if _is_config(value) else []
        if part not in names:
            hint = suggestion(part, names)
            raise UsageError(f"the experiment has no setting {flag!r}.{hint}")
        value = getattr(value, part)
    if _is_config(value):
        raise UsageError(f"{flag} is a group of settings: name one, such as {flag}.NAME")
    return value


def changed(config: Any, flag: str, value: Any) -> Any:
    """A copy of nested frozen dataclasses with one dotted setting changed."""
    first, _, rest = flag.partition(".")
    inner = changed(getattr(config, first), rest, value) if rest else value
    return dataclasses.replace(config, **{first: inner})


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _words(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, tuple | list) else [str(value)]


def _report(study: Any, folder: Path, space: Mapping[str, Any], options: Any) -> None:
    """``trials.csv``, and the best few on the screen."""
    from emjax.files import write_text

    done = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    done.sort(key=lambda trial: trial.value, reverse=options.maximize)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["folder", options.metric, *space])
    rows: list[Sequence[Any]] = [
        [t.user_attrs["folder"], t.value, *(_decoded(space[k], t.params[k]) for k in space)]
        for t in done
    ]
    writer.writerows(rows)
    write_text(folder / "trials.csv", out.getvalue())
    for row in rows[:5]:
        settings = ", ".join(f"{k} {v}" for k, v in zip(space, row[2:], strict=True))
        print(f"{row[0]}  {options.metric} {row[1]:.6g}  {settings}")
    print(f"sweep    {folder / 'trials.csv'}")


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UsageError("emjax sweep needs Optuna: pip install 'emjax[sweep]'") from None
    if "EMJAX_TRACEBACK" not in os.environ:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
