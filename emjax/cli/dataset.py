"""`emjax dataset`: a simulated data set with labels, in shards, by one process or many jobs."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from emjax.cli.errors import UsageError
from emjax.cli.run import prepare_jax

if TYPE_CHECKING:
    from emjax.dataset import Plan


@dataclass(frozen=True)
class DatasetOptions:
    """How many images, and where to."""

    count: Annotated[int, tyro.conf.arg(metavar="N")] = 1000
    """Number of images."""
    shards: Annotated[int, tyro.conf.arg(metavar="S")] = 1
    """Number of HDF5 files that they are divided into."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder; default: data/NAME. What is there already is kept and completed."""
    seed: Annotated[int, tyro.conf.arg(metavar="INT")] = 0
    """Image i is drawn from this seed and i, however the images are divided."""
    task: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None
    """Write the share of job I of N, for array jobs (see DIR/submit.slurm)."""
    verify: bool = False
    """Write nothing; check the files of DIR against their checksums."""


def main(argv: list[str]) -> int:
    """`emjax dataset NAME ...`: returns the exit status."""
    from emjax.data.synthetic_sets import RECIPES, find_recipe

    name, rest = split_name(argv)
    if name is None:
        wants_help = any(word in ("-h", "--help") for word in argv)
        print(_overview(RECIPES), file=sys.stdout if wants_help else sys.stderr)
        return 0 if wants_help else 2
    try:
        recipe = find_recipe(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    options, config = parse(recipe, rest, prog=f"emjax dataset {shlex.quote(name)}")
    folder = options.out or Path("data") / (name.rpartition(":")[2] or name)
    if options.verify:
        return _verify(folder)
    prepare_jax()
    from emjax.dataset import parse_task, plan_dataset

    plan = plan_dataset(name, config, count=options.count, shards=options.shards, seed=options.seed)
    task = (1, 1) if options.task is None else parse_task(options.task)
    return _write(folder, plan, task, argv)


def split_name(argv: list[str]) -> tuple[str | None, list[str]]:
    """The recipe's name, which comes first, and the other words.

    >>> split_name(["columns", "--count", "10"])
    ('columns', ['--count', '10'])
    """
    if not argv or argv[0] in ("-h", "--help"):
        return None, argv
    if argv[0].startswith("-"):
        raise UsageError(f"the name comes before {argv[0]}: emjax dataset NAME {shlex.join(argv)}")
    return argv[0], argv[1:]


def parse(recipe: Any, argv: list[str], *, prog: str) -> tuple[DatasetOptions, Any]:
    """(options, recipe with its settings) of a command line."""
    clash = {f.name for f in dataclasses.fields(DatasetOptions)} & {
        f.name for f in dataclasses.fields(recipe)
    }
    if clash:
        raise UsageError(f"rename the field {min(clash)!r} of the recipe: it is an option of all")
    flags = dataclasses.make_dataclass(
        "Flags",
        [
            (
                "dataset",
                Annotated[DatasetOptions, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff],
            ),
            ("recipe", Annotated[recipe, tyro.conf.arg(name="")]),
        ],
    )
    parsed = tyro.cli(
        flags,
        prog=prog,
        description=recipe.__doc__,
        args=argv,
        default=flags(DatasetOptions(), recipe()),
        config=(tyro.conf.AvoidSubcommands,),
    )
    return parsed.dataset, parsed.recipe


def _write(folder: Path, plan: Plan, task: tuple[int, int], argv: list[str]) -> int:
    from emjax.dataset import open_dataset, write_dataset
    from emjax.environment import backend_line

    print(backend_line())
    number, of = task
    job = f", job {number} of {of}" if of > 1 else ""
    print(f"data set {folder}: {plan.count} images in {plan.shards} shards{job}", flush=True)
    with _progress() as advance:
        written = write_dataset(folder, plan, task=task, progress=advance)
    _template(folder, plan, argv)
    print(f"written  {len(written)} shards" if written else "nothing was left to do")
    try:
        digest = open_dataset(folder).digest()
    except ValueError as error:
        print(f"note     {error}" if of == 1 else "note     other jobs write the other shards")
        return 0
    print(f"complete {plan.count} images; SHA-256 over all of them {digest[:16]}…")
    return 0


def _template(folder: Path, plan: Plan, argv: list[str]) -> None:
    """``submit.slurm`` beside the shards: the same command as an array of jobs."""
    from emjax.dataset import slurm_script
    from emjax.dataset_files import write_alone

    words, skip = [], False
    for word in argv:
        if skip:
            skip = False
        elif word in ("--task", "--out"):
            skip = True
        elif not word.startswith(("--task=", "--out=")):
            words.append(word)
    file, colon, name = words[0].rpartition(":")
    if file.endswith(".py"):  # jobs may be submitted from any folder
        words[0] = f"{Path(file).resolve()}{colon}{name}"
    place = str(folder.resolve())
    command = shlex.join(["emjax", "dataset", *words, "--out", place])
    tasks = min(plan.shards, 1000)  # more are refused by most clusters
    script = slurm_script(command, tasks=tasks, name=folder.name, log=f"{place}/job-%a.log")
    if not (folder / "submit.slurm").is_file():
        write_alone(folder / "submit.slurm", script)


def _verify(folder: Path) -> int:
    from emjax.dataset import open_dataset, verify_dataset

    problems = verify_dataset(folder)
    for line in problems:
        print(line, file=sys.stderr)
    if problems:
        print("the command that wrote the data set writes these shards again", file=sys.stderr)
        return 1
    data = open_dataset(folder)
    print(f"{folder}: {len(data)} images in {data.plan.shards} shards are as they were written")
    return 0


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from emjax.progress import LINE_SECONDS

    console = Console(file=sys.stdout, highlight=False)
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        line, last = bar.add_task("images"), time.monotonic()

        def advance(done: int, of: int) -> None:
            nonlocal last
            bar.update(line, completed=done, total=of)
            if not console.is_terminal and time.monotonic() - last > LINE_SECONDS:
                last = time.monotonic()
                print(f"image {done}/{of}", flush=True)

        yield advance


def _overview(recipes: dict[str, Any]) -> str:
    width = max(map(len, recipes)) + 2
    lines = [
        f"  {name:<{width}}{(kind.__doc__ or '').splitlines()[0]}" for name, kind in recipes.items()
    ]
    return "\n".join(
        [
            "usage: emjax dataset NAME --count N --shards S --out DIR [--seed 0] [--task I/N]",
            "       emjax dataset NAME --help shows all flags",
            "",
            "NAME is one of these recipes, or path/to/file.py:Class:",
            *lines,
        ]
    )
