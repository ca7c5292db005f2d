"""Restorers on scenes whose truth is known: PSNR, SSIM, columns, intensities, fidelity, seconds.

    python -m benchmarks.restoration DIR --run runs/denoise --method wiener_fourier --fidelity
    python -m benchmarks.restoration --tune DEV --method gaussian --method bm3d_binned
    python -m benchmarks.restoration DEV --run runs/denoise --freeze

DIR holds scenes as `emjax.evaluation.restoration_scenes` describes them, `restoration_scores` says
what the columns of the table mean, `restoration_fidelity` those of the second one. Detector
thresholds and the parameters of classical methods are frozen: chosen on a development folder
(--tune, --freeze), stored, and used on all others. A network without stored thresholds has no
scores of columns. Rows are printed as they come, --json is written anew after each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import emjax
from benchmarks import restoration_methods as methods
from benchmarks import restoration_tables as tables
from emjax.baselines.restoration import DENOISERS, tune
from emjax.evaluation.restoration_fidelity import DOSES, restore_fields, summarise_fields
from emjax.evaluation.restoration_fields import Field, standard_fields
from emjax.evaluation.restoration_scenes import LEVELS, RestorationScene, dose_of, read_scenes
from emjax.evaluation.restoration_scores import (
    SceneScore,
    choose_threshold,
    score_scene,
    summarise,
)
from emjax.files import write_json
from emjax.restoration.shipped import shipped_restorers

DEFAULT = ("noisy", "gaussian", "wiener_fourier")
ROUNDS = 5
"""Of timing, the methods in turn."""
PROBLEMS = (ValueError, FileNotFoundError, ModuleNotFoundError)
"""What a method or a file can be at fault for; their messages are for people."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    levels = options.levels.split(",")
    try:
        for level in levels:
            dose_of(level)
        if options.tune:
            tune_methods(options.tune, options.method or DEFAULT, levels, options.every)
        if options.dir:
            benchmark(options, levels)
    except PROBLEMS as error:
        raise SystemExit(f"benchmarks.restoration: {error}") from error


def benchmark(options: argparse.Namespace, levels: Sequence[str]) -> dict[str, Any]:
    """Score every candidate; print, write and give back the results."""
    scenes = read_scenes(options.dir, levels=levels, every=options.every)
    candidates = _candidates(options)
    fields = standard_fields(repeats=options.repeats) if options.fidelity else []
    if fields:
        clean = {dose: restore_fields(None, fields, dose) for dose in DOSES}
        fidelity = {"clean": {d: summarise_fields(s) for d, s in clean.items()}}
    results: dict[str, Any] = {
        "folder": str(options.dir),
        "emjax": emjax.__version__,
        "scenes": [s.name for s in scenes],
        "methods": {},
        **(
            {"clean": {f"d{d:g}": tables.fidelity_json(s) for d, s in clean.items()}}
            if fields
            else {}
        ),
    }
    cache = methods.Cache(options.cache)
    total = len(scenes) * len(levels) + len(fields) * len(DOSES)
    print("\n".join(tables.score_header(levels, False)), flush=True)
    done = []
    with _progress(total * len(candidates)) as step:
        for index, candidate in enumerate(candidates):
            try:
                scores = evaluate(candidate, scenes, levels, cache, step)
                if options.freeze:
                    _freeze(candidate, scores)
                elif not candidate.thresholds:
                    _say(f"{candidate.name} has no frozen thresholds: no columns are scored")
                entry, summary = _summary(candidate, scores)
                if fields and candidate.restorer is not None:
                    found = judge_fields(candidate, fields, step)
                    entry["fidelity"] = {
                        f"d{d:g}": tables.fidelity_json(s) for d, s in found.items()
                    }
                    fidelity[candidate.name] = {d: summarise_fields(s) for d, s in found.items()}
            except PROBLEMS as error:
                _say(f"{candidate.name} is left out: {error}")
                step(completed=total * (index + 1))
                continue
            results["methods"][candidate.name] = entry
            done.append(candidate)
            print(tables.score_row(candidate.name, summary, None, False), flush=True)
            _write(options.json, results)
    if fields:
        print("\n" + "\n".join(tables.fidelity_table(fidelity)), flush=True)
    if options.time:
        seconds = time_methods(done, scenes)
        print("\n" + tables.row(["method", "s per 256²"]) + "\n" + tables.row(["---"] * 2))
        for name, value in seconds.items():
            results["methods"][name]["seconds_per_256"] = value
            print(tables.row([name, f"{value:.3g}"]), flush=True)
    for candidate in candidates:
        candidate.close()
    _write(options.json, results)
    if not done:
        raise ValueError("no method could be scored")
    return results


def evaluate(
    candidate: methods.Candidate,
    scenes: Sequence[RestorationScene],
    levels: Sequence[str],
    cache: methods.Cache,
    step: Any,
) -> dict[str, list[SceneScore]]:
    """Level -> scores of all scenes."""
    scores: dict[str, list[SceneScore]] = {level: [] for level in levels}
    for level in levels:
        for scene in scenes:
            scores[level].append(score_scene(cache.restore(candidate, scene, level), scene, level))
            step(text=f"{candidate.name} {level}")
    return scores


def judge_fields(
    candidate: methods.Candidate, fields: Sequence[Field], step: Any
) -> dict[float, Any]:
    """Dose -> scores of all fields; classical methods have the parameters of that dose's level."""
    assert candidate.restorer is not None
    return {
        dose: restore_fields(
            candidate.restorer(f"d{dose:g}"), fields, dose, name=candidate.name, progress=step
        )
        for dose in DOSES
    }


def time_methods(
    candidates: Sequence[methods.Candidate], scenes: Sequence[RestorationScene]
) -> dict[str, float]:
    """Median seconds for 256 × 256 pixels: warm, the methods in turn, one image of the middle dose.

    The first call of each (compilation, a peer's start) is not counted. A larger image is cropped,
    the time of a smaller one scaled.
    """
    scene = scenes[0]
    level = "d10" if "d10" in scene.counts else next(iter(scene.counts))
    counts = np.ascontiguousarray(scene.counts[level][:256, :256])
    timed = {c.name: c.restorer(level) for c in candidates if c.restorer is not None}
    times: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(ROUNDS + 1):
        for name, restorer in timed.items():
            start = time.perf_counter()
            restored = restorer(counts)
            wall = time.perf_counter() - start
            if turn:
                times[name].append(wall if restored.seconds is None else restored.seconds)
    return {name: statistics.median(t) * 256**2 / counts.size for name, t in times.items()}


def tune_methods(folder: str, names: Sequence[str], levels: Sequence[str], every: int) -> None:
    """Parameters with the best mean PSNR on every second scene, then thresholds on all; stored."""
    scenes = read_scenes(folder, levels=levels, every=every)
    names = list(DENOISERS) if "all" in names else names
    with _progress(len(names) * len(levels) * (len(scenes) + 1)) as step:
        for name in names:
            candidate = methods.classical(name)
            method = DENOISERS[name]
            try:
                for level in levels:
                    noisy = [s.counts[level] for s in scenes[::2]]
                    if name == "richardson_lucy":
                        noisy = [np.clip(image, 0, None) for image in noisy]
                    fixed = methods.detector_terms(method, level)
                    found = tune(name, noisy, [s.clean for s in scenes[::2]], fixed=fixed)
                    candidate.parameters[level] = {k: v for k, v in found.items() if k not in fixed}
                    step(text=f"tuning {name} {level}")
                candidate.restorer = _parametrised(candidate)
                scores = evaluate(candidate, scenes, levels, methods.Cache(None), step)
            except PROBLEMS as error:
                _say(f"{name} is left out: {error}")
                continue
            candidate.freeze({level: choose_threshold(s) for level, s in scores.items()})
            _say(f"{name}: {candidate.parameters}, thresholds {candidate.thresholds}")


def _parametrised(candidate: methods.Candidate) -> Any:
    method = DENOISERS[candidate.name]
    return lambda level: methods.with_parameters(
        method, {**methods.detector_terms(method, level), **candidate.parameters[level]}
    )


def _freeze(candidate: methods.Candidate, scores: dict[str, list[SceneScore]]) -> None:
    if candidate.thresholds:
        _say(
            f"{candidate.name} has frozen thresholds; they stay (take {candidate.key} out of "
            f"{candidate.frozen} to choose again)"
        )
        return
    candidate.freeze({level: choose_threshold(s) for level, s in scores.items()})
    _say(f"{candidate.name}: thresholds {candidate.thresholds} stored in {candidate.frozen}")


def _summary(
    candidate: methods.Candidate, scores: dict[str, list[SceneScore]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What goes into the JSON file, and level -> `LevelScore`."""
    summary = {k: summarise(s, candidate.thresholds.get(k)) for k, s in scores.items()}
    levels = {level: tables.level_json(summary[level], s) for level, s in scores.items()}
    return {"parameters": candidate.parameters, "levels": levels}, summary


def _candidates(options: argparse.Namespace) -> list[methods.Candidate]:
    names = options.method or []
    others = [*options.run, *options.model, *options.peer, *options.arrays]
    networks = [*options.run, *options.model]
    if not names and not others:
        names = list(DEFAULT)
        networks = list(shipped_restorers())
    found = [methods.classical(n) for n in (DENOISERS if "all" in names else names)]
    found += [methods.network(source) for source in networks]
    found += [methods.peer(n, options.peer_python, options.peer_models) for n in options.peer]
    found += [methods.Arrays(folder) for folder in options.arrays]
    for n, candidate in enumerate(found):
        same = sum(c.name == candidate.name for c in found[:n])
        candidate.name += f" ({same + 1})" if same else ""
    return found


@contextmanager
def _progress(total: int) -> Any:
    """A function that moves the bar on stderr by one, or to `completed`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = Progress(
        *parts, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )
    task = shown.add_task("", total=total)

    def step(text: str | None = None, completed: int | None = None) -> None:
        more = {"advance": 1} if completed is None else {"completed": completed}
        shown.update(task, description=text, **more)

    with shown:
        yield step


def _write(path: str | None, results: dict[str, Any]) -> None:
    if path:
        write_json(path, tables.strict_json(results))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restoration", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("dir", nargs="?", help="folder of scenes")
    told = ", ".join(DEFAULT) + " and the networks of the package"
    many: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME"}
    add("--method", **many, help=f"classical method, or all; default: {told}")
    add("--run", **{**many, "metavar": "RUN"}, help="folder of a run")
    add("--model", **{**many, "metavar": "FILE"}, help="model file, or a shipped network's name")
    add("--peer", **many, help=f"another program: {', '.join(methods.PEERS)}")
    add("--peer-python", default=sys.executable, metavar="PY", help="a Python that has the peers")
    add(
        "--peer-models", default="", metavar="DIR", help="the peer's weights, if not in its package"
    )
    add("--arrays", **{**many, "metavar": "DIR"}, help="<scene>_<level>.npy in units of clean")
    add("--levels", default=",".join(LEVELS), help="default: %(default)s")
    add("--every", type=int, default=1, metavar="N", help="every N-th scene alone")
    add("--fidelity", action="store_true", help="displacements, ghosts, phantoms, coverage")
    add("--repeats", type=int, default=3, metavar="N", help="fields of each kind (--fidelity)")
    add("--time", action="store_true", help="seconds per 256 × 256, warm, methods in turn")
    add("--json", metavar="FILE", help="write all results")
    add("--cache", metavar="DIR", help="keep restored images, and use them again")
    add("--tune", metavar="DEV", help="choose and store parameters and thresholds of methods")
    add(
        "--freeze", action="store_true", help="store thresholds chosen on DIR: a development folder"
    )
    options = parser.parse_args(arguments)
    if not options.dir and not options.tune:
        parser.error("name a folder of scenes, or --tune with a development folder")
    return options


if __name__ == "__main__":
    main()
