"""How well image-to-image networks learn: one task, about 70,000 weights, equal time, three seeds.

    python -m benchmarks.network_table [--seconds 60] [--seeds 3] [--only unet,nafnet,…] [--out DIR]

The task is to remove shot and read-out noise, line jitter and line gain from annular dark-field
images (`emjax.data.synthetic_pairs`). Every network sees the square root of the counts, adds its
output to it, and is compared with the square root of the true rate. Training crystals are graphene,
MoS2, SrTiO3 and Si [110]; the test images are of others (WSe2, rutile, gold [001] and random
ones), 128 images at each of three doses. Each training has one core and so many seconds of its
time, whatever else the machine does; Adam with a constant rate, moving average of the weights.
The first row is a Gaussian filter whose width is the best for each dose.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import inspect
import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {"widths": (16, 26, 38)},
    "unet_classic": {"widths": (16, 26, 40)},
    "unet_plus_plus": {"widths": (14, 26, 40)},
    "convnext_unet": {"widths": (26, 50), "blocks": (1, 2)},
    "resunet": {"widths": (13, 24, 46)},
    "fusionnet": {"widths": (8, 16, 30)},
    "mcnn": {"widths": (22, 42)},
    "fcn": {"widths": (16, 36, 48), "depths": (2, 2, 1), "hidden": 64},
    "segnet": {"widths": (24, 46)},
    "fc_densenet": {"growth": 11},
    "deeplab": {
        "stem": (16, 24),
        "entry": (24, 40),
        "middle": 2,
        "exit": ((40, 40, 56), (56, 56, 64)),
        "context": 32,
    },
    "dncnn": {"width": 33, "depth": 9},
    "rdn": {"width": 24, "growth": 16},
    "rrdb": {"width": 20, "growth": 9},
    "nafnet": {"width": 16},
    "restormer": {"width": 18, "expansion": 1.75},
    "blind_spot": {"width": 17},
}
BLIND = ("blind_spot",)
"""Cannot take out the noise of a pixel that it does not see: its output is the image itself."""
DOSES = (5.0, 20.0, 100.0)
"""Electrons at the brightest pixel of the test images."""
BATCH, TESTS, CHUNK = 8, 128, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, compiled before")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--out", type=Path, help="folder for network_table.json")
    parser.add_argument("--worker", nargs=2, metavar=("NETWORK", "SEED"), help=argparse.SUPPRESS)
    parser.add_argument("--tests", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, seed = options.worker
        with np.load(options.tests) as file:
            tests = {dose: (file[f"counts{dose}"], file[f"rate{dose}"]) for dose in DOSES}
        print(json.dumps(trained(name, int(seed), options.seconds, tests)))
        return
    names = options.only.split(",")
    unknown = set(names) - set(NETWORKS)
    if unknown:
        parser.error(f"no network {', '.join(sorted(unknown))}: choose from {', '.join(NETWORKS)}")
    tests = held_out()
    baseline = [best_gaussian(*tests[dose]) for dose in DOSES]
    heads = " | ".join(f"{dose:g} e" for dose in DOSES)
    print(f"| network | weights | updates | {heads} |")
    print("| --- | --- | --- |" + " --- |" * len(DOSES))
    cells = " | ".join(f"{psnr:.2f}" for psnr, _ in baseline)
    print(f"| Gaussian, tuned for each dose | | | {cells} |", flush=True)
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name) / "tests.npz"
    both = {f"counts{d}": pair[0] for d, pair in tests.items()}
    np.savez(file, **both, **{f"rate{d}": pair[1] for d, pair in tests.items()})
    cores: queue.Queue = queue.Queue()
    for core in _cores():
        cores.put(core)
    pool = concurrent.futures.ThreadPoolExecutor(cores.qsize())
    jobs = {
        name: [
            pool.submit(_spawn, name, seed, options.seconds, str(file), cores)
            for seed in range(options.seeds)
        ]
        for name in names
    }
    found = {}
    for name in names:
        rows = found[name] = [job.result() for job in jobs[name]]
        cells = " | ".join(_cell([row["psnr"][i] for row in rows]) for i in range(len(DOSES)))
        updates = int(np.mean([row["updates"] for row in rows]))
        print(f"| {name} | {rows[0]['weights']} | {updates} | {cells} |", flush=True)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"seconds": options.seconds, "gaussian": baseline, "found": found})
        (options.out / "network_table.json").write_text(text)


def _cores() -> list[int]:
    """The cores that this process may use (fewer under `taskset`)."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _spawn(name: str, seed: int, seconds: float, tests: str, cores: queue.Queue) -> dict[str, Any]:
    """One training in a process of its own, on one core: all have the same, and none waits."""
    core = cores.get()
    try:
        command = [sys.executable, "-m", "benchmarks.network_table", "--seconds", str(seconds)]
        command += ["--worker", name, str(seed), "--tests", tests]
        if hasattr(os, "sched_setaffinity"):
            pin = f"import os, runpy, sys; os.sched_setaffinity(0, [{core}]); "
            pin += "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__')"
            command = [sys.executable, "-c", pin, *command[2:]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        cores.put(core)


def _cell(values: list[float]) -> str:
    """Mean and Student's 95 % interval over the seeds."""
    from emjax.cli.seeds import summary

    mean, low, high = summary([{"x": value} for value in values])["x"]
    return f"{mean:.2f}" + (f" ± {(high - low) / 2:.2f}" if len(values) > 1 else "")


def drawn(materials: tuple[str, ...], batch: int, **changes: Any) -> Callable:
    from emjax.config import SceneConfig
    from emjax.data.synthetic_pairs import make_pairs
    from simulators.specimens import MATERIALS

    scene = dataclasses.replace(SceneConfig(), **changes)
    return make_pairs(scene, {name: MATERIALS[name] for name in materials}, batch)


def held_out() -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """(counts, rate) [128, 64, 64, 1] of other crystals, by dose."""
    import jax

    found = {}
    for i, dose in enumerate(DOSES):
        draw = drawn(("wse2", "rutile001", "gold001"), TESTS, dose=(dose, dose))
        pair = jax.device_get(jax.jit(draw)(jax.random.key(1000 + i)))
        found[dose] = (pair["counts"], pair["rate"])
    return found


def trained(name: str, seed: int, seconds: float, tests: dict) -> dict[str, Any]:
    """Train one network for so long; its scores on the held-out images."""
    import jax
    import jax.numpy as jnp
    import optax

    from emjax.networks import build, count, network_class
    from emjax.training import init_state, make_step

    own = "residual" in inspect.signature(network_class(name).__init__).parameters
    more = {"residual": False} if own else {}
    start, key = jax.random.split(jax.random.key(seed))
    apply, params = build(name, start, inputs=1, outputs=1, **NETWORKS[name], **more)
    draw = drawn(("graphene", "mos2", "srtio3", "silicon110"), BATCH)

    def restored(params: Any, counts: jax.Array) -> jax.Array:
        x = jnp.sqrt(jnp.maximum(counts, 0) + 0.375)
        size = x.mean(axis=(1, 2, 3), keepdims=True)  # the same for every dose
        found = apply(params, x / size)
        return (found if name in BLIND else x / size + found) * size

    def loss(params: Any, batch: dict) -> tuple[jax.Array, dict]:
        error = restored(params, batch["counts"]) - jnp.sqrt(batch["rate"] + 0.375)
        return jnp.square(error).mean(), {}

    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-3))
    step = make_step(loss, draw, tx, ema_decay=0.99)
    state = init_state(params, tx)
    step.compile(state, key, CHUNK)
    began = time.process_time()
    while time.process_time() - began < seconds:
        state, history = step(state, key, CHUNK)
        jax.block_until_ready(history)
    run = jax.jit(restored)
    scores = []
    for counts, rate in tests.values():
        parts = [run(state.ema, part) for part in np.split(counts, len(counts) // BATCH)]
        scores.append(psnr(np.square(np.concatenate(parts)) - 0.375, rate))
    return {"weights": count(params), "updates": int(state.step), "psnr": scores}


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean over images of 10 log10(range² / MSE), the range that of the truth."""
    from emjax.metrics.image_quality import psnr as one

    pairs = zip(image.astype(float), truth.astype(float), strict=True)
    return float(np.mean([one(a, b, data_range=np.ptp(b)) for a, b in pairs]))


def best_gaussian(counts: np.ndarray, rate: np.ndarray) -> tuple[float, float]:
    """(PSNR, σ [px]) of the best Gaussian filter for these images."""
    from scipy.ndimage import gaussian_filter

    sigmas = np.arange(0.4, 4.1, 0.2)
    return max(
        (psnr(gaussian_filter(counts, (0, sigma, sigma, 0)), rate), float(sigma))
        for sigma in sigmas
    )


if __name__ == "__main__":
    main()
