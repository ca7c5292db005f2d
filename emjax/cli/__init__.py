"""The `emjax` command.

One module per command. Nothing here imports jax: help and
mistyped commands answer at once, and what must be set before jax starts can still be set.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

# command -> (module of emjax.cli with `main(argv)`, one line of help)
COMMANDS = {
    "run": ("run", "train and evaluate an experiment; leaves runs/NAME/report.html"),
    "sweep": ("sweep", "search the settings of an experiment (Optuna)"),
    "dataset": ("dataset", "write a simulated, labelled data set in shards"),
    "predict": ("predict", "find the atom columns in your own images"),
    "denoise": ("denoise", "take the noise out of your own images"),
    "calibrate-noise": (
        "calibrate",
        "measure the noise of your own images, for simulation and training",
    ),
    "list": ("listing", "show the experiments and the networks that come with emjax"),
    "report": ("report", "render the report of a run again"),
    "doctor": ("doctor", "check this machine: versions, devices, jax, memory, disk"),
}

EXAMPLES = (
    "emjax run locate_atoms --preset smoke",
    "emjax run locate_atoms --help",
    "emjax predict locate_atoms my_image.dm4",
    "emjax denoise my_image.dm4",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` if not given) and return its exit status.

    0 is success, 1 an error that is explained on stderr, 2 a mistake in the command line, 130 an
    interruption. Errors that nobody foresaw keep their traceback.
    """
    from emjax.cli.errors import guarded

    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _dispatch(words))


def run_module(file: str, argv: Sequence[str] | None = None) -> None:
    """Run an experiment script as its own command; exits the interpreter with the status.

    The last lines of every experiment: `if __name__ == "__main__": run_module(__file__)`, so that
    `python -m experiments.NAME` and `python path/to/NAME.py` take the same flags as `emjax run`.
    """
    from emjax.cli.errors import guarded
    from emjax.cli.run import main_of_script

    words = list(sys.argv[1:] if argv is None else argv)
    sys.exit(guarded(lambda: main_of_script(file, words)))


def _dispatch(words: list[str]) -> int | None:
    from emjax.cli.errors import UsageError, suggestion

    if not words:
        print(_help(), file=sys.stderr)
        return 2
    command, rest = words[0], words[1:]
    if command in ("-h", "--help", "help"):
        if command == "help" and rest and rest[0] in COMMANDS:
            return _dispatch([*rest, "--help"])
        print(_help())
        return 0
    if command in ("-V", "--version", "version"):
        from emjax import __version__

        print(f"emjax {__version__}")
        return 0
    if command not in COMMANDS:
        raise UsageError(_unknown(command, rest, suggestion(command, COMMANDS)))
    return importlib.import_module(f"emjax.cli.{COMMANDS[command][0]}").main(rest)


def _unknown(command: str, rest: list[str], hint: str) -> str:
    from emjax.cli.discover import scripts

    if command.startswith("-"):
        return f"unknown option {command!r}; a command comes first: {', '.join(COMMANDS)}"
    if command.removesuffix(".py").replace("-", "_") in {script.name for script in scripts()}:
        return f"{command!r} is an experiment: emjax run {' '.join([command, *rest])}"
    return f"unknown command {command!r}.{hint} The commands are {', '.join(COMMANDS)}."


def _help() -> str:
    from emjax import __version__

    commands = [f"  {name:<17}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            f"emjax {__version__}: deep learning for electron microscopy, in JAX",
            "",
            "usage: emjax COMMAND [options]",
            "",
            "commands",
            *commands,
            "",
            "examples",
            *(f"  {line}" for line in EXAMPLES),
            "",
            "emjax COMMAND --help explains a command; emjax --version prints the version.",
            "EMJAX_TRACEBACK=1 shows where an error comes from.",
        ]
    )
