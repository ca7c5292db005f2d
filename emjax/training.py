"""The training loop: progress, metrics, evaluation, checkpoints, resume, and stopping well.

`fit` drives a step of `make_step` in chunks of updates. Everything it does happens between two
chunks, and chunks begin at the same updates whether a run was interrupted or not; with batches
drawn from ``fold_in(key, step)`` a resumed run therefore equals an uninterrupted one (bit for bit
on the CPU). To change the loop, copy this file: what it calls is public.

Where several processes train together (`emjax.distributed`) all of them run this loop; the first
one writes, and all decide alike from where to go on and when to stop.

A run may hold several trainings, one after the other (a first and a second stage, two networks):
each is named, and a resumed run loads those that are finished and goes on in the one that was
interrupted::

    first = fit(run, state, step, key, steps=1000, stage="pretrain", ...)
    state = init_state(first.ema, tx)
    fit(run, state, finer, other_key, steps=500, stage="finetune", ...)
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emjax import checkpoints_global, distributed
from emjax.checkpoints import CheckpointError
from emjax.environment import RunError
from emjax.metrics_file import MetricsFile
from emjax.progress import TrainingProgress, clock
from emjax.runs import Run
from emjax.sharding import on_one_device
from emjax.training_step import (
    NonFiniteError,
    Step,
    TrainState,
    check_finite,
    init_state,
    make_step,
)

__all__ = [
    "NonFiniteError",
    "Step",
    "TrainState",
    "TrainingInterrupted",
    "check_finite",
    "fit",
    "init_state",
    "make_step",
]

CHECKPOINT_SECONDS = 60.0
"""Time between checkpoints where `checkpoint_every` is 0: no more than this is lost."""

FLAGS = ("finite", "bad_gradient", "bad_batch")
"""Entries of a history that are not metrics."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; the state is saved, and the command to go on was printed."""


def fit(
    run: Run,
    state: TrainState,
    step: Step,
    key: jax.Array,
    *,
    steps: int,
    chunk: int,
    images_per_step: int,
    evaluate: Callable[[Any], Mapping[str, float]] | None = None,
    evaluate_every: int = 0,
    checkpoint_every: int = 0,
    time_limit: float | None = None,
    resume: bool | None = None,
    stop: Callable[[dict[str, list[float]]], str | None] | None = None,
    stage: str = "",
) -> TrainState:
    """Train until `steps` updates are made.

    Parameters
    ----------
    run
        Its folder gets ``metrics.csv`` (a row a chunk: means over the chunk, ``images_per_s``, and
        ``seconds`` of training so far) and ``checkpoint.h5``, or those of the `stage`.
    state
        From `init_state`; consumed.
    step
        From `make_step`.
    key
        Update i draws its batch from ``fold_in(key, i)``.
    steps
        Updates in all, those before a resume included.
    chunk
        Updates between two looks at the clock. Make `steps` a multiple of it: on an accelerator a
        remainder compiles again.
    images_per_step
        Size of a batch, for the images per second.
    evaluate
        ``params -> metrics`` on a fixed held-out set; called with the averaged weights, written
        as ``val_…``.
    evaluate_every
        After so many updates (at the end of the chunk that reaches them); always at the end.
    checkpoint_every
        Likewise; 0: once a minute. Always at the end.
    time_limit
        Stop after so many seconds of pure training (without compilation and evaluation; those
        before a resume included). The learning-rate schedule does not know of it.
    resume
        Go on from the checkpoint in the run's folder, if there is one. Default: `run.resumed`.
    stop
        ``columns of metrics.csv -> reason, or None``: asked after every evaluation, ends the
        training where it gives a reason (early stopping). It sees the whole history, so that a
        resumed run decides as the uninterrupted one.
    stage
        Name of this training where the run has several: letters, digits, "_" and "-". Its files
        are ``metrics-STAGE.csv`` and ``checkpoint-STAGE.h5``; `steps`, `time_limit` and the rest
        are its own.

    Returns
    -------
    TrainState
        After the last update, on one device; ``state.ema`` are the weights to use.

    Raises
    ------
    NonFiniteError
        Names the update and the culprit. The last checkpoint stays as it was.
    TrainingInterrupted
        Ctrl-C or SIGTERM: after the chunk that is running, a checkpoint, and the command that
        resumes is printed. A second one stops at once.
    CheckpointError
        The checkpoint to resume from does not fit this training, or another process that trains
        along does not see it.
    RunError
        This stage was trained to its end in this run already: name the second one. (With
        ``resume=True`` the first one is gone on with.)
    OutOfMemoryError
        The device's memory does not hold an update; says which batch would fit.
    """
    if steps < 1 or chunk < 1:
        raise ValueError(f"steps ({steps}) and chunk ({chunk}) must be at least 1")
    checkpoints_global.require_orbax()
    if stage in run.finished and resume is not True:
        raise RunError(_twice(run, stage))
    path, table, said = run.checkpoint_of(stage), run.table(stage), f"{stage}: " if stage else ""
    done, seconds, reason = int(state.step), 0.0, None
    if run.resumed if resume is None else resume:
        state, done, seconds, what = _restore(path, table, state, key)
        run.print(said + what)
        history = table.series()
        evaluated = any(name.startswith("val_") for name in history)
        # the others may not see the earlier rows
        reason = distributed.from_first((stop(history) if stop and evaluated else "") or "")
    (over,) = distributed.any_process(_over(seconds, time_limit))
    if done >= steps or over or reason:
        run.print(f"{said}Nothing left to train: {done} of {steps} updates were made before.")
        run.finished.add(stage)
        return on_one_device(state)

    def save() -> None:
        tree, meta = {"state": state, "key": key}, {"step": done, "seconds": seconds}
        checkpoints_global.save_state(path, tree, meta)

    quit_ = False  # somebody was asked to stop
    first, start, saved = done, time.monotonic(), time.monotonic()
    with (
        TrainingProgress(run.console, steps, done) as progress,
        _stop_request(progress.message) as stopped,
    ):
        while done < steps and not (quit_ or over or reason):
            n = min(chunk, steps - done)
            began = time.monotonic()
            updates = step.compile(state, key, n)
            compiling = time.monotonic() - began
            start += compiling
            if done == first:
                progress.message(f"{said}compiled the update in {compiling:.1f} s")
            began = time.monotonic()
            with getattr(step, "explaining", _no_words)(state, key, n):
                state, history = updates(state, key)
                history = jax.device_get(history)  # waits for the device
            took = time.monotonic() - began
            _check(path, step, state, key, history, done)
            before, done, seconds = done, done + n, seconds + took

            means = {k: float(np.mean(v)) for k, v in history.items() if k not in FLAGS}
            speed = n * images_per_step / took
            left = (steps - done) * (time.monotonic() - start) / (done - first)
            if time_limit is not None:
                left = min(left, time_limit - seconds)
            progress.update(done, means["loss"], speed, left)

            (over,) = distributed.any_process(_over(seconds, time_limit))
            last = done >= steps or over
            values = {}
            if evaluate and (last or _reached(evaluate_every, before, done)):
                ema = on_one_device(state.ema)
                values = {f"val_{k}": float(v) for k, v in evaluate(ema).items()}
                shown = " · ".join(f"{k} {v:.4g}" for k, v in values.items())
                progress.message(f"update {done}: {shown}")
            row = {**means, "images_per_s": speed, "seconds": seconds, **values}
            table.append(done, row)
            if stop and values:
                reason = distributed.from_first(stop(table.series()) or "")

            due = time.monotonic() - saved > CHECKPOINT_SECONDS and not checkpoint_every
            due, quit_ = distributed.any_process(due, stopped())
            ends = last or quit_ or bool(reason)
            if ends or due or _reached(checkpoint_every, before, done):
                save()
                saved = time.monotonic()

    if done < steps and quit_ and not reason:
        stopped_at = f"{said}Stopped after {done} of {steps} updates."
        run.print(f"{stopped_at} To go on:\n  {run.resume_command}")
        raise TrainingInterrupted
    why = f" (the time limit of {clock(time_limit)})" if time_limit and done < steps else ""
    why = f" (stopped early: {reason})" if reason else why
    run.print(f"{said}trained {done} of {steps} updates in {clock(seconds)}{why}")
    run.finished.add(stage)
    return on_one_device(state)


def _twice(run: Run, stage: str) -> str:
    which = f"stage {stage!r}" if stage else "a training without a stage's name"
    return (
        f"{run.home} has {which} already, which this fit would take for its own or write over. "
        "Name the trainings of a run: fit(..., stage='pretrain'), then fit(..., stage='finetune'). "
        "To train the same one for longer, say fit(..., resume=True)."
    )


def _restore(
    path: Path, table: MetricsFile, state: TrainState, key: jax.Array
) -> tuple[TrainState, int, float, str]:
    """State, updates and seconds of training from the checkpoint, if there is one; what to say."""
    found = checkpoints_global.newest(path)
    if found is None:
        table.drop_after(int(state.step))
        what = "no checkpoint yet: training starts from the first update"
        return state, int(state.step), 0.0, what
    saved, meta = checkpoints_global.load_state(found, {"state": state, "key": key})
    if not np.array_equal(jax.random.key_data(saved["key"]), jax.random.key_data(key)):
        raise CheckpointError(
            f"{path} was trained with another random key: resume with the seed of the run"
        )
    table.drop_after(meta["step"])
    return saved["state"], meta["step"], meta["seconds"], f"resumed after {meta['step']} updates"


def _check(
    path: Path,
    step: Step,
    state: TrainState,
    key: jax.Array,
    history: Mapping[str, Any],
    first: int,
) -> None:
    try:
        check_finite(history, first, state.params, lambda: step.batch_names(key))
    except NonFiniteError as error:
        kept = (
            f"The last good checkpoint is {path}."
            if checkpoints_global.exists(path)
            else "There was no checkpoint before it."
        )
        bad = first + int(np.argmin(history["finite"]))
        where = getattr(step, "bad_sources", lambda i: "")(bad)
        raise NonFiniteError(
            f"{error}{where}\n{kept} A lower learning rate, a longer warm-up or a smaller clip "
            "often helps; the batch is draw(fold_in(key, update))."
        ) from None


def _no_words(*_: Any) -> nullcontext:
    return nullcontext()


def _over(seconds: float, limit: float | None) -> bool:
    return limit is not None and seconds >= limit


def _reached(every: int, before: int, now: int) -> bool:
    """A multiple of `every` lies in (before, now]."""
    return every > 0 and now // every > before // every


@contextmanager
def _stop_request(tell: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a question to be asked between chunks.

    An exception in the middle of a chunk would lose the state, whose buffers were donated.
    """
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        tell("stopping after this chunk of updates (again: at once, without saving)")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may handle signals
        return
    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
