"""Speed of the simulators against abTEM: both programs on the same scenes, on both cores.

    python -m benchmarks.simulators --peer abtem [--only abcdefgh] [--rounds 3] [--out DIR]

Each scene runs in a process of its own for each program and round, programs in turn, float32, warm
(the first call, with its compilation, is not counted). Printed are medians over the rounds, their
ratio, peak memory and, for scans, the distance to the converged result (twice the sampling, half
the slice thickness, exact potential, symmetric step) as root mean square relative to its mean.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scenes import SCENES

OURS_ALONE = {
    "f": "labelled training images per second",
    "g": "gradient of 8 × 8 positions of b with respect to all atoms",
}
LEAST_TIME = 4.0
"""Calls are repeated until they add up to this many seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=("abtem", "none"), default="abtem")
    parser.add_argument("--only", default="abcdefgh", help="letters of the scenes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for simulators.json and the plot")
    parser.add_argument("--worker", nargs=2, metavar=("PROGRAM", "SCENE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(*options.worker)))
        return
    unknown = set(options.only) - set(SCENES) - set(OURS_ALONE)
    if unknown:
        parser.error(f"no scene {', '.join(sorted(unknown))}: choose from abcdefgh")
    results = {}
    for name in options.only:
        programs = ["emjax"] if name in OURS_ALONE or options.peer == "none" else ["emjax", "abtem"]
        rounds: dict[str, list[dict]] = {program: [] for program in programs}
        for _ in range(options.rounds):
            for program in programs:
                rounds[program].append(_spawn(program, name))
        results[name] = rounds
        _print(name, rounds)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"cores": os.cpu_count(), "results": results}, indent=1)
        (options.out / "simulators.json").write_text(text)


def work(program: str, name: str) -> dict[str, Any]:
    """One process: prepare, warm, time."""
    if program == "emjax":
        from benchmarks import ours as side
    elif program == "abtem":
        from benchmarks import peer_abtem as side
    else:
        raise SystemExit(f"no program {program}")
    if name in OURS_ALONE:
        return side.alone(name) | {"memory_mb": _memory()}
    scene = SCENES[name]
    call, factor, values = side.prepare(scene, name)
    call()
    times: list[float] = []
    while sum(times) < LEAST_TIME:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    memory = _memory()
    result = {"seconds": statistics.median(times) * factor, "memory_mb": memory}
    if factor != 1:
        result["scaled_by"] = factor
    if scene.converged:
        from benchmarks.ours import converged

        truth = converged(name)
        error = np.asarray(values()).ravel() - truth.ravel()
        result["error"] = float(np.sqrt(np.mean(error**2)) / truth.mean())
    return result


def _memory() -> float:
    """Peak resident memory of this process [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _spawn(program: str, name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.simulators", "--worker", program, name]
    cache = str(Path(tempfile.gettempdir()) / "emjax-benchmark-cache")
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{program} failed on scene {name}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _print(name: str, rounds: dict[str, list[dict]]) -> None:
    title = SCENES[name].title if name in SCENES else OURS_ALONE[name]
    print(f"({name}) {title}")
    for program, each in rounds.items():
        keys = [k for k in each[0] if isinstance(each[0][k], (int, float))]
        middle = {k: statistics.median(r[k] for r in each) for k in keys}
        print(f"    {program:6s} " + "   ".join(f"{k} {v:.4g}" for k, v in middle.items()))
    if "abtem" in rounds:
        ratios = [
            theirs["seconds"] / mine["seconds"]
            for mine, theirs in zip(rounds["emjax"], rounds["abtem"], strict=True)
        ]
        print(
            f"    abTEM / emjax {statistics.median(ratios):.2f} "
            f"[{min(ratios):.2f}, {max(ratios):.2f}]",
            flush=True,
        )


if __name__ == "__main__":
    main()
