"""Progress of a long loop: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 10.0
"""Time between two lines where there is no terminal (a log file of a batch job)."""


def clock(seconds: float) -> str:
    """``0:42``, ``12:03``, ``1:02:03``."""
    minutes, second = divmod(round(max(seconds, 0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class TrainingProgress:
    """Shows updates made, loss, images a second and time left; a context manager.

    Parameters
    ----------
    console
        Where to; `console.is_terminal` decides between the bar and the lines.
    total, done
        Number of updates in all, and of those made before.
    """

    def __init__(self, console: Console, total: int, done: int = 0) -> None:
        self._console = console
        self._total = total
        self._last_line = time.monotonic()
        self._bar = None
        if console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                console=console,
            )
            self._task = self._bar.add_task("", total=total, completed=done, text="compiling")

    def __enter__(self) -> TrainingProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, step: int, loss: float, images_per_second: float, left: float) -> None:
        """Show the state after `step` updates; `left` is the time to go [s]."""
        rate = images_per_second
        speed = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        text = f"loss {loss:.4g} · {speed} images/s · {clock(left)} left"
        if self._bar:
            self._bar.update(self._task, completed=step, text=text)
        elif step >= self._total or time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            self.message(f"update {step}/{self._total} · {text}")

    def message(self, text: str) -> None:
        """A line that stays (above the bar)."""
        self._console.print(text, markup=False)
