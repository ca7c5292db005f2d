"""Ptychography on scans with known truth: seconds, iterations to a quality, final quality.

    python -m benchmarks.ptychography FILE… [--slices 1 2] [--epochs 14] [--json FILE]

FILEs hold `counts`, `pos_nominal`, `pos_true`, `phase` and `phase_slices` (`retrieval.scan_data`,
`metrics.phase`). Every plan runs once from a cold start in this process; seconds are CPU and wall
time, compilation in them, the scoring left out. The rate is the median over the epochs after the
first, per 1000 patterns. Use one core (`taskset -c 0`) to compare with others' CPU seconds. The
data error is √(Σ(√model - √counts)² / Σ counts).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emjax.files import write_json
from emjax.metrics.phase import PhaseScore, compare_phases
from emjax.retrieval.plans import Plan
from emjax.retrieval.ptychography import Frame, Unknowns, rates
from emjax.retrieval.scan_data import ScanData, read_scan
from simulators.optics import Optics

LEVELS = (22.0, 24.0, 26.0, 30.0)
"""dB, to which iterations and seconds are counted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument(
        "--slices", nargs="*", type=int, help="default: 1 and the file's own number"
    )
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--positions", action="store_true", help="correct the positions, too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    heads = [f"{level:g} dB: epochs, CPU s, s" for level in LEVELS]
    columns = ["scan", "slices", "CPU s / 1000", "s / 1000", *heads]
    columns += ["PSNR", "SSIM", "FRC, Å", "data error", "positions, Å"]
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    results = []
    for path in options.files:
        data, told = read_scan(path)
        slices = options.slices or sorted({1, len(told["phase_slices"])})
        for count in slices:
            plan = Plan(
                slices=count,
                thickness=float(told["dz_slices"]) * len(told["phase_slices"]),
                epochs=options.epochs,
                batch=options.batch,
                positions=options.positions,
            )
            result = measure(data, told, plan)
            results.append({"file": path.stem, **result})
            print(row(path.stem, result), flush=True)
            if options.json:
                write_json(options.json, results)


def measure(data: ScanData, told: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """One plan on one scan."""
    optics = Optics(
        energy=data.energy, semiangle=float(told["semiangle"]), C10=float(told.get("C10", 0.0))
    )
    clock = [time.process_time(), time.perf_counter()]
    spent, scores = [], []

    def watch(_: int, frame: Frame, unknowns: Unknowns, __: Any) -> None:
        jax.block_until_ready(unknowns)
        spent.append((time.process_time() - clock[0], time.perf_counter() - clock[1]))
        scores.append(score(unknowns, frame, told))
        clock[:] = time.process_time(), time.perf_counter()

    frame, found, history = plan.run(data, optics, jax.random.key(0), watch=watch)
    total = np.cumsum(spent, axis=0)
    reached = {}
    for level in LEVELS:
        epoch = next((i for i, s in enumerate(scores) if s.psnr >= level), None)
        if epoch is not None:
            reached[f"{level:g}"] = [epoch + 1, *(float(t) for t in total[epoch])]
    later = spent[1:] or spent
    return {
        "slices": plan.slices,
        "epochs": len(spent),
        "cpu_per_1000": statistics.median(t[0] for t in later) * 1000 / data.n,
        "wall_per_1000": statistics.median(t[1] for t in later) * 1000 / data.n,
        "total": [float(t) for t in total[-1]],
        "reached": reached,
        "score": scores[-1]._asdict(),
        "data_error": data_error(data, frame, found),
        "positions": position_error(data, found, told),
        "misfit": history.misfit,
    }


def score(unknowns: Unknowns, frame: Frame, told: Mapping[str, Any]) -> PhaseScore:
    """Of the sum of all slices, over the box of the true positions."""
    sampling = frame.grid.sampling[0]
    pixels = np.asarray(told["pos_true"], float).reshape(-1, 2) / sampling
    box = np.ceil(pixels.min(0)).astype(int), np.floor(pixels.max(0)).astype(int)
    phase = unknowns.phase()
    return compare_phases(
        phase.sum(0),
        told["phase"],
        corner=frame.origin,
        box=box,
        sampling=sampling,
        wrap=len(phase) == 1,
    )


def data_error(data: ScanData, frame: Frame, unknowns: Unknowns, every: int = 4) -> float:
    """Of every fourth pattern."""
    index = np.arange(0, data.n, every)
    run = jax.jit(lambda at: rates(unknowns, frame, at))
    above = below = 0.0
    for part in np.array_split(index, max(1, len(index) // 32)):
        at = jnp.asarray(data.positions[part]) + unknowns.shifts[part]
        model, counts = np.asarray(run(at)), np.asarray(data.counts[part], float)
        above += float(np.square(np.sqrt(model) - np.sqrt(counts)).sum())
        below += float(counts.sum())
    return float(np.sqrt(above / below))


def position_error(data: ScanData, unknowns: Unknowns, told: Mapping[str, Any]) -> list[float]:
    """Root mean square distance (in the plane) from the true positions, before and after, in Å.

    Without the mean, which no pattern knows.
    """
    true = np.asarray(told["pos_true"], float).reshape(-1, 2)[:, ::-1]
    found = []
    for shift in (0.0, np.asarray(unknowns.shifts, float)):
        off = np.asarray(data.positions, float) + shift - true
        found.append(float(np.sqrt(np.square(off - off.mean(0)).sum(1).mean())))
    return found


def row(name: str, result: Mapping[str, Any]) -> str:
    cells = [name, str(result["slices"])]
    cells += [f"{result['cpu_per_1000']:.3f}", f"{result['wall_per_1000']:.3f}"]
    for level in LEVELS:
        found = result["reached"].get(f"{level:g}")
        cells.append(f"{found[0]}, {found[1]:.1f}, {found[2]:.1f}" if found else "–")
    score = result["score"]
    cells += [f"{score['psnr']:.2f}", f"{score['ssim']:.3f}", f"{score['frc']:.3f}"]
    before, after = result["positions"]
    cells += [f"{result['data_error']:.4f}", f"{before:.3f} → {after:.3f}"]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
