"""`emjax run`: an experiment with typed flags, from a name or the path of a script."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import tyro

from emjax.cli.discover import find, scripts
from emjax.cli.errors import UsageError, suggestion

WITHOUT_VALUE = ("--resume", "--overwrite", "--help", "-h")
DEFAULT_PRESET = "cpu"


@dataclass(frozen=True)
class RunOptions:
    """Where the run goes, and on what it runs."""

    preset: str = DEFAULT_PRESET
    """Set of defaults for all flags of the experiment."""
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the run's folder; the experiment's if not given."""
    root: str = "runs"
    """Folder that holds the runs."""
    resume: bool = False
    """Go on with an interrupted run from its last checkpoint."""
    overwrite: bool = False
    """Replace an existing run of this name; without it the next free name is taken."""
    require: Literal["cpu", "gpu", "tpu"] | None = None
    """Stop at once if jax does not use this kind of device."""
    seeds: int = 1
    """Runs, with the seeds from --seed on; of several also means and intervals."""


def main(argv: list[str]) -> int:
    """`emjax run NAME ...`: returns the exit status."""
    name, rest = split_name(argv)
    if name is None:
        wants_help = any(word in ("-h", "--help") for word in argv)
        print(_overview(), file=sys.stdout if wants_help else sys.stderr)
        return 0 if wants_help else 2
    path = find(name)
    return execute(load(path), path, rest, prog=f"emjax run {shlex.quote(name)}")


def main_of_script(file: str, argv: list[str]) -> int:
    """The same for a script that was started by Python itself."""
    path = Path(file)
    module, prog = sys.modules.get("__main__"), f"python {file}"
    if module is None or getattr(module, "__file__", None) != file:
        module = load(path)
    elif module.__spec__ is not None:  # only `python -m` sets it
        prog = f"python -m {module.__spec__.name}"
    elif sys.argv[0]:  # as it was typed; __file__ is absolute
        prog = f"python {shlex.quote(sys.argv[0])}"
    return execute(module, path, argv, prog=prog)


def split_name(argv: list[str]) -> tuple[str | None, list[str]]:
    """The experiment's name and the other words; run options may stand before the name.

    >>> split_name(["--preset", "smoke", "locate_atoms", "--seed", "1"])
    ('locate_atoms', ['--preset', 'smoke', '--seed', '1'])
    """
    with_value = ["--preset", "--name", "--root", "--require", "--seeds"]
    i = 0
    while i < len(argv):
        word = argv[i]
        if not word.startswith("-"):
            return word, argv[:i] + argv[i + 1 :]
        if word in with_value:
            i += 2
        elif word in WITHOUT_VALUE or word.split("=")[0] in with_value:
            i += 1
        else:
            raise UsageError(
                f"the experiment's name comes before {word}: emjax run NAME {' '.join(argv[i:])}"
            )
    return None, argv


def load(path: Path) -> ModuleType:
    """Import a script from its path. Its folder is importable, as with `python script.py`."""
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = f"emjax_experiment_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and type hints look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def execute(module: ModuleType, path: Path, argv: list[str], *, prog: str) -> int:
    """Parse the flags of an experiment, open its run folder and call its `main`."""
    presets = check_contract(module, path)
    options, config = parse(module, presets, argv, prog=prog)
    prepare_jax()
    command = [*shlex.split(prog), *argv]
    if options.seeds == 1:
        run_one(module, path, options, config, command=shlex.join(command))
        return 0
    if options.seeds < 1:
        raise UsageError(f"--seeds {options.seeds}: at least 1")
    from emjax.cli.seeds import run_seeds

    def one(config: Any, name: str, root: Path, resume: bool) -> Path:
        mine = dataclasses.replace(options, name=name, root=str(root), resume=resume)
        words = [*command, "--seed", str(config.seed), "--seeds", "1"]
        words += ["--root", str(root), "--name", name]
        return run_one(module, path, mine, config, command=shlex.join(words))

    folder = Path(options.root) / f"{options.name or path.stem}-seeds"
    run_seeds(config, options.seeds, folder, options.resume, options.overwrite, one)
    return 0


def run_one(module: ModuleType, path: Path, options: Any, config: Any, *, command: str) -> Path:
    """Open the run's folder, run the experiment, and return the folder."""
    from emjax.runs import open_run

    run = open_run(
        path.stem,
        config,
        name=options.name,
        root=options.root,
        resume=options.resume,
        require=options.require,
        overwrite=options.overwrite,
        command=command,
        preset=options.preset,
    )
    module.main(config, run)
    if run.path == run.home:  # the first process of several speaks for all
        _say_where(Path(run.path))
    return Path(run.home)


def check_contract(module: ModuleType, path: Path) -> dict[str, Any]:
    """The presets of an experiment, after a check that it has all that `emjax run` needs."""
    config, presets = getattr(module, "Config", None), getattr(module, "PRESETS", None)
    needs = []
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        needs.append("a frozen dataclass `Config`")
    if not isinstance(presets, dict) or not presets:
        needs.append('a dict `PRESETS` such as {"smoke": Config(...), "cpu": Config(...)}')
    if not callable(getattr(module, "main", None)):
        needs.append("a function `main(config, run)`")
    if needs:
        raise UsageError(f"{path} is not an experiment; it lacks {' and '.join(needs)}")
    assert isinstance(config, type)  # for the type checker; `needs` would not be empty
    assert isinstance(presets, dict)
    wrong = [key for key, value in presets.items() if not isinstance(value, config)]
    if wrong:
        raise UsageError(f"{path}: PRESETS[{wrong[0]!r}] is not a Config")
    taken = {"run", *(field.name for field in dataclasses.fields(RunOptions))}
    clash = sorted(taken & {field.name for field in dataclasses.fields(config)})
    if clash:
        raise UsageError(
            f"{path}: rename the field {clash[0]!r} of Config; "
            f"--{clash[0]} is an option of every run"
        )
    return presets


def parse(
    module: ModuleType, presets: dict[str, Any], argv: list[str], *, prog: str
) -> tuple[Any, Any]:
    """(options, config) of a command line. The preset gives the defaults of all other flags."""
    preset = _preset(presets, argv)
    text = f"Set of defaults for all flags of the experiment: {', '.join(presets)}."
    # the choices are known only now
    choice = Annotated[Literal[tuple(presets)], tyro.conf.arg(help=text)]
    options = dataclasses.make_dataclass(
        "Options", [("preset", choice, preset)], bases=(RunOptions,), frozen=True
    )
    options.__doc__ = RunOptions.__doc__
    flags = dataclasses.make_dataclass(
        "Flags",
        [
            # the prefix is left out of the flags but names their group in the help
            ("run", Annotated[options, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff]),
            ("config", Annotated[module.Config, tyro.conf.arg(name="")]),
        ],
    )
    parsed = tyro.cli(
        flags,
        prog=prog,
        description=module.__doc__,
        args=argv,
        default=flags(options(preset=preset), presets[preset]),
        config=(tyro.conf.AvoidSubcommands,),
    )
    return parsed.run, parsed.config


def _preset(presets: dict[str, Any], argv: list[str]) -> str:
    """The preset on the command line; it must be known before the flags can be made."""
    preset = DEFAULT_PRESET if DEFAULT_PRESET in presets else next(iter(presets))
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        if word == "--preset":
            preset = following
        elif word.startswith("--preset="):
            preset = word.removeprefix("--preset=")
    if preset not in presets:
        raise UsageError(
            f"no preset is called {preset!r}.{suggestion(preset, presets)} "
            f"There are {', '.join(presets)}."
        )
    return preset


def prepare_jax() -> None:
    """Keep compiled programs on disk between runs, unless the environment says where already.

    One folder per kind of processor: home folders are often shared by unlike machines, and
    compiled code is not. Does nothing once jax is imported, which is when it reads this.
    """
    if "jax" in sys.modules:
        return
    # XLA reports "Target machine feature +prefer-no-gather is not supported" for every program that
    # it reads back on the CPU (a false alarm: the feature is a hint of its own compiler), and every
    # slow compilation. What fails comes as an exception.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    from emjax.machine import cache_folder

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home: compile every time
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    # jax keeps what took a second or more; many small programs together take several
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _say_where(folder: Path) -> None:
    if (folder / "report.html").is_file():
        print(f"report   {folder / 'report.html'}")
    if (folder / "model.h5").is_file():
        name = shlex.quote(str(folder))
        if _task(folder / "model.h5") == "restoration":
            print(f"denoise  emjax denoise IMAGE --model {name}")
        else:
            print(f"predict  emjax predict {name} IMAGE")


def _task(model: Path) -> str:
    """What a model file says that it is for; nothing where it says nothing that can be read."""
    from emjax.models import describe_model

    try:
        return str(describe_model(model).get("task", ""))
    except ValueError:
        return ""


def _overview() -> str:
    known = scripts()
    width = max((len(script.name) for script in known), default=0) + 2
    lines = [f"  {script.name:<{width}}{script.problem or script.title}" for script in known]
    return "\n".join(
        [
            "usage: emjax run NAME [--preset smoke] [options]",
            "       emjax run NAME --help shows all flags of an experiment",
            "",
            "NAME is one of these experiments, or the path of a .py file:",
            *(lines or ["  (none in ./experiments)"]),
        ]
    )
