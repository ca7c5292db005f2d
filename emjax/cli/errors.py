"""What a person sees when something goes wrong.

Errors that emjax raised on purpose are one message; everything else is a bug, here or in a user's
script, and keeps its traceback, since hiding it would only cost time.
"""

from __future__ import annotations

import difflib
import io
import linecache
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

PACKAGES = ("emjax", "simulators")


class UsageError(Exception):
    """A mistake in the command line (exit status 2)."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """' Did you mean "x"?' for the nearest of `known`, or an empty string.

    >>> suggestion("predikt", ["run", "predict"])
    ' Did you mean "predict"?'
    """
    near = difflib.get_close_matches(word.lower(), [str(name) for name in known], n=1, cutoff=0.55)
    return f' Did you mean "{near[0]}"?' if near else ""


def guarded(call: Callable[[], int | None]) -> int:
    """Run a command and return its exit status; foreseen errors become a message on stderr.

    With EMJAX_TRACEBACK=1 every error keeps its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # Å on a terminal that is not UTF-8
            stream.reconfigure(errors="replace")
    try:
        return call() or 0
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `emjax list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        if os.environ.get("EMJAX_TRACEBACK", "0") not in ("", "0") or not foreseen(error):
            raise
        _say(error)
        return 2 if isinstance(error, UsageError) else 1


def foreseen(error: BaseException) -> bool:
    """Whether the message of `error` was written for the person at the keyboard.

    True for exception classes of emjax and the simulators, for ValueError and RuntimeError that
    their code raises with a `raise` statement, for errors of the file system, and where memory
    ran out.
    """
    if isinstance(error, UsageError | OSError | MemoryError) or _out_of_memory(error):
        return True
    if type(error).__module__.split(".")[0] in PACKAGES:
        return True
    if type(error) not in (ValueError, RuntimeError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    file = trace.tb_frame.f_code.co_filename
    root = Path(__file__).resolve().parents[2]
    ours = any(Path(file).resolve().is_relative_to(root / name) for name in PACKAGES)
    return ours and linecache.getline(file, trace.tb_lineno).lstrip().startswith("raise ")


def _out_of_memory(error: BaseException) -> bool:
    return type(error).__name__.endswith("RuntimeError") and "RESOURCE_EXHAUSTED" in str(error)


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError) or _out_of_memory(error):
        first = (str(error).splitlines() or [""])[0]
        return (
            f"out of memory. {first}\n"
            "Use a smaller batch, image or tile, or close other programs that hold the device; "
            "`emjax doctor` shows what is free."
        )
    return str(error) or type(error).__name__


def _say(error: BaseException) -> None:
    red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}error:{plain} {_message(error)}", file=sys.stderr)
    if type(error).__module__.split(".")[0] not in PACKAGES:
        print("(EMJAX_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
