"""Ways to train a denoiser beside each other: one scene, one budget, several seeds.

    python -m benchmarks.denoising_objectives --out DIR [--updates 5000] [--only noise2noise,…]

Rows D3 to D9. Every training sees random crystals and five others, at 5 to 100 electrons at the
brightest pixel, with shot noise and up to half an electron of read-out noise, without errors of the
scan; every network has about 70,000 weights and the same number of updates of eight images of 64².
The test images show crystals that no training has seen, 100 at each dose; 1 electron is a fifth of
the lowest dose that was trained. PSNR is after the best gain and offset, in units of the brightest
true pixel. The classical filters are tuned for each dose on validation images. A training that is
finished is kept in DIR and not repeated.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.denoising_objectives_table import print_tables

UNET = ("unet", {"widths": (16, 26, 38)})
MCNN = ("mcnn", {"widths": (22, 42)})
BLIND = ("blind_spot", {"width": 17})
DOSES = (1.0, 5.0, 20.0, 100.0)
MATERIALS = ("hbn", "ws2", "mose2", "wse2", "rutile001")
CLASSICAL = ("gaussian", "wiener_fourier", "tv_chambolle", "bm3d_binned")
PATCH, BATCH, TESTS, RATE = 64, 8, 100, 2e-3


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to train."""

    objective: str
    seeds: int = 1
    network: tuple[str, Mapping[str, Any]] = UNET
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    change: str = "unchanged"
    """A function of `emjax.evaluation.controls` on the training images."""
    test_change: str = "unchanged"
    """The same on the test images."""
    told: bool = False
    """Whether the network is given the dose."""


MSE = {"kind": "mse", "unit": "spread"}
ROWS: dict[str, Row] = {
    "supervised": Row("supervised", 3, options=MSE),
    "noise2noise": Row("noise2noise", 3),
    "noise2void": Row("noise2void", 3),
    "mcnn": Row("supervised", 3, MCNN, MSE),
    "noise2noise_biased": Row("noise2noise", change="biased_targets"),
    "noise2void_independent": Row("noise2void", change="independent", test_change="independent"),
    "noise2void_rows": Row("noise2void", change="row_correlated", test_change="row_correlated"),
    "noise2self": Row("noise2self"),
    "blindspot": Row("blindspot", network=BLIND),
    "pn2v": Row("pn2v"),
    "pn2v_bootstrap": Row("pn2v_bootstrap"),
    "dose_given": Row("supervised", 3, options=MSE, told=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished trainings")
    parser.add_argument("--updates", type=int, default=5000)
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--json", type=Path, help="file for the table's numbers")
    parser.add_argument("--worker", nargs=2, metavar=("ROW", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, seed = options.worker
        found = classical() if name == "classical" else trained(name, int(seed), options)
        print(json.dumps(found))
        return
    names = options.only.split(",")
    unknown = set(names) - set(ROWS)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}: choose from {', '.join(ROWS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    # one seed of each row first, the slowest network last: an early table is nearly a whole one
    jobs = [(n == "mcnn", s, i, n) for i, n in enumerate(names) for s in range(ROWS[n].seeds)]
    jobs = [*sorted(jobs), (False, 0, 0, "classical")]
    cores: queue.Queue = queue.Queue()
    for core in _cores():
        cores.put(core)
    with concurrent.futures.ThreadPoolExecutor(cores.qsize()) as pool:
        waiting = {pool.submit(_spawn, n, s, options, cores): (n, s) for _, s, _, n in jobs}
        found: dict[str, list[dict]] = {}
        for job in concurrent.futures.as_completed(waiting):
            name, seed = waiting[job]
            found.setdefault(name, []).append(job.result())
            print(f"finished {name}, seed {seed}", file=sys.stderr, flush=True)
    told = print_tables(found, DOSES)
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))


def _cores() -> list[int]:
    """The cores that this process may use (fewer under `taskset`)."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _spawn(name: str, seed: int, options: Any, cores: queue.Queue) -> dict[str, Any]:
    """One training in a process of its own, on one core; or what is left of an earlier one."""
    done = options.out / f"{name}-{seed}.json"
    if done.exists():
        return json.loads(done.read_text())
    core = cores.get()
    try:
        call = ["-m", "benchmarks.denoising_objectives", "--worker", name, str(seed)]
        call += ["--updates", str(options.updates), "--out", str(options.out)]
        pin = f"import os, runpy, sys; os.sched_setaffinity(0, [{core}]); sys.argv = sys.argv[2:]; "
        pin += "runpy.run_module('benchmarks.denoising_objectives', run_name='__main__')"
        if hasattr(os, "sched_setaffinity"):
            call = ["-c", pin, *call]
        process = subprocess.run([sys.executable, *call], capture_output=True, text=True)
        if process.returncode:
            raise SystemExit(f"{name}, seed {seed}, failed:\n{process.stderr[-2000:]}")
        text = process.stdout.splitlines()[-1]
        aside = done.with_suffix(".part")
        aside.write_text(text)
        aside.replace(done)
        return json.loads(text)
    finally:
        cores.put(core)


def scene(**changes: Any) -> Any:
    """The training's; or that of test images, by changes."""
    from emjax.data.column_scene import ColumnScene

    quiet = ColumnScene(patch=PATCH, dose=(5.0, 100.0), jitter=0.0, line_gain=0.0)
    return dataclasses.replace(quiet, **changes)


def images(which: int, dose: float, count: int, change: str = "unchanged") -> dict[str, Any]:
    """Held-out images [count, y, x, 1] of other crystals."""
    import jax

    from emjax.data.synthetic_columns import crystals, make_scenes
    from emjax.evaluation import controls
    from emjax.evaluation.restore import CRYSTALS, TOGETHER

    other = scene(dose=(dose, dose), generic=0.0, lattice=1.0)
    draw = getattr(controls, change)(make_scenes(other, crystals(CRYSTALS), TOGETHER))
    key = jax.random.fold_in(jax.random.key(which), DOSES.index(dose))
    run = jax.jit(draw)
    parts = [jax.device_get(run(jax.random.fold_in(key, i))) for i in range(-(-count // TOGETHER))]
    return {k: np.concatenate([p[k] for p in parts])[:count] for k in parts[0]}


def trained(name: str, seed: int, options: Any) -> dict[str, Any]:
    """Train one row; its PSNR on every held-out image, by dose."""
    import jax

    from emjax.config import OptimConfig
    from emjax.data.synthetic_columns import crystals, make_scenes
    from emjax.evaluation import controls
    from emjax.evaluation.restore import score
    from emjax.models import build_network
    from emjax.networks import count
    from emjax.objectives import build, needs
    from emjax.objectives.training import train
    from emjax.optim import optimizer
    from emjax.runs import Run

    row = ROWS[name]
    asks = needs(row.objective, **row.options)
    network, sizes = row.network
    args = {"inputs": 3 if row.told else 1, "outputs": asks.outputs, **sizes}
    start, key = jax.random.split(jax.random.key(seed))
    apply, params = build_network(network, args, key=start)
    more = {"scaling": "none"} if row.told else {}
    objective = build(row.objective, told_dose(apply) if row.told else apply, **row.options, **more)
    draw = make_scenes(scene(), crystals(MATERIALS), BATCH, copies=asks.copies)
    draw = getattr(controls, row.change)(draw)
    folder = options.out / f"{name}-{seed}"
    folder.mkdir(exist_ok=True)
    stage = options.updates // (2 if objective.advance else 1)
    optim = OptimConfig(steps=stage, warmup=min(100, stage // 2), learning_rate=RATE)
    params, objective = train(
        Run(folder),
        objective,
        draw,
        params,
        optimizer(optim),
        key,
        steps=options.updates,
        batch=BATCH,
        quick=True,
    )
    restore = jax.jit(objective.restore)
    found = {}
    for dose in DOSES:
        test = images(32, dose, TESTS, row.test_change)
        made = [
            np.asarray(restore(params, test["counts"][i : i + 10], test["readout"][i : i + 10]))
            for i in range(0, TESTS, 10)
        ]
        scored = score(np.concatenate(made)[..., 0], test["rate"][..., 0], 0.0)
        found[f"{dose:g}"] = {"psnr": scored.psnr.tolist(), "ssim": scored.ssim.tolist()}
    return {"seed": seed, "weights": count(params), "scores": found}


def told_dose(apply: Callable) -> Callable:
    """A network of three channels that is also told how many electrons there are.

    It sees what a network sees that is not told, the image without its mean and in units of its
    standard deviation, and the logarithms of both in electrons.
    """
    import jax.numpy as jnp

    from emjax.objectives.base import image_scale

    def run(params: Any, counts: Any) -> Any:
        offset, factor = image_scale(counts)
        flat = jnp.broadcast_to(jnp.log(jnp.maximum(offset, 1e-3)), counts.shape)
        size = jnp.broadcast_to(jnp.log(factor), counts.shape)
        seen = jnp.concatenate([(counts - offset) / factor, flat, size], axis=-1)
        return offset + factor * apply(params, seen)

    return run


@functools.cache
def classical() -> dict[str, Any]:
    """PSNR of the classical filters, tuned for each dose on other images."""
    from emjax.baselines.restoration import DENOISERS, tune
    from emjax.evaluation.restore import score

    found: dict[str, Any] = {}
    for dose in DOSES:
        held, test = images(31, dose, 20), images(32, dose, TESTS)
        counts, rate = ([*held[k][..., 0]] for k in ("counts", "rate"))
        for name in CLASSICAL:
            try:
                best = tune(name, counts, rate)
                made = [DENOISERS[name](image, **best) for image in test["counts"][..., 0]]
            except ImportError:
                continue
            scored = score(made, test["rate"][..., 0], 0.0)
            found.setdefault(name, {})[f"{dose:g}"] = {
                "psnr": scored.psnr.tolist(),
                "ssim": scored.ssim.tolist(),
            }
    return {"seed": 0, "filters": found}


if __name__ == "__main__":
    main()
