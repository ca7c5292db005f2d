"""Speed of the networks: training steps and inference, beside the same networks in PyTorch.

    python -m benchmarks.networks [--only unet,resunet,…] [--rounds 3] [--peer-python PATH]

Each network runs in a process of its own for each program and round, programs in turn, float32, on
all cores, warm. PyTorch gets emjax's weights and must give emjax's output before it is timed; its
times are the better of its two memory layouts. Also printed: the time to compile, what the host
takes of a step (the same step with a loss that costs nothing), and many updates in one call against
one call an update. `benchmarks.network_table` compares how well the networks learn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZES: dict[str, dict[str, Any]] = {
    "unet": {
        "args": {"widths": (32, 48, 64)},
        "train": (8, 128, 128, 1),
        "image": (1, 256, 256, 1),
    },
    "resunet": {
        "args": {"widths": (16, 32, 64)},
        "train": (8, 64, 64, 1),
        "image": (1, 256, 256, 1),
    },
    "deeplab": {
        "args": {
            "stem": (16, 32),
            "entry": (32, 48),
            "middle": 2,
            "exit": ((48, 48, 64), (64, 64, 64)),
            "rates": (2, 4, 6),
            "context": 32,
            "skip": 16,
        },
        "train": (8, 64, 64, 1),
        "image": (1, 256, 256, 1),
    },
    "nafnet": {
        "args": {"width": 16, "encoder": (1, 1), "middle": 1, "decoder": (1, 1)},
        "train": (8, 64, 64, 1),
        "image": (1, 256, 256, 1),
    },
    "unet3d": {
        "args": {"widths": (16, 32, 64)},
        "train": (1, 32, 32, 32, 1),
        "image": (1, 64, 64, 64, 1),
    },
}
UPDATES = 10
"""In one call of the training step."""
LEAST_TIME = 4.0
"""Calls are repeated until they add up to this many seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--out", type=Path, help="folder for networks.json")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        program, name, folder = options.worker
        print(json.dumps((_ours if program == "emjax" else _torch)(name, Path(folder))))
        return
    names = options.only.split(",")
    unknown = set(names) - set(SIZES)
    if unknown:
        parser.error(f"no network {', '.join(sorted(unknown))}: choose from {', '.join(SIZES)}")
    peer = _has_torch(options.peer_python)
    if not peer:
        print("no PyTorch in --peer-python: emjax alone")
    results = {}
    for name in names:
        rounds: dict[str, list[dict]] = {"emjax": [], **({"torch": []} if peer else {})}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(options.rounds):
                for program, each in rounds.items():
                    python = sys.executable if program == "emjax" else options.peer_python
                    each.append(_spawn(python, program, name, folder))
        results[name] = rounds
        _print(name, rounds)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"cores": os.cpu_count(), "results": results}, indent=1)
        (options.out / "networks.json").write_text(text)


def _ours(name: str, folder: Path) -> dict[str, float]:
    import jax
    import jax.numpy as jnp
    import optax

    from emjax.checkpoints import named_leaves
    from emjax.networks import build, count
    from emjax.training import init_state, make_step

    size = SIZES[name]
    apply, params = build(name, jax.random.key(0), inputs=1, outputs=1, **size["args"])
    example = jax.random.normal(jax.random.key(1), size["image"])
    compiled = jax.jit(apply)
    began = time.perf_counter()
    output = jax.block_until_ready(compiled(params, example))
    inference_compile = time.perf_counter() - began
    weights = {k: np.asarray(v) for k, v in named_leaves(params).items()}
    with (folder / "weights.npz").open("wb") as file:
        np.savez(file, **weights)
    np.save(folder / "example.npy", np.asarray(example))
    np.save(folder / "output.npy", np.asarray(output))
    inference = _median(lambda: jax.block_until_ready(compiled(params, example)))

    x = jax.random.normal(jax.random.key(2), size["train"])
    batch = jax.tree_util.Partial(lambda x, key: x, x)
    tx, key = optax.adam(1e-3), jax.random.key(3)

    def loss(params: Any, x: jax.Array) -> tuple[jax.Array, dict]:
        return jnp.mean(jnp.square(apply(params, x) - 1.0)), {}

    def nothing(params: Any, x: jax.Array) -> tuple[jax.Array, dict]:
        return sum((p.ravel()[0] for p in jax.tree.leaves(params)), x.ravel()[0]), {}

    step = make_step(loss, batch, tx)
    state = init_state(params, tx)
    began = time.perf_counter()
    step.compile(state, key, UPDATES)
    train_compile = time.perf_counter() - began
    many = _per_update(step, params, tx, key, UPDATES)
    single = _per_update(step, params, tx, key, 1)
    host = _per_update(make_step(nothing, batch, tx), params, tx, key, UPDATES)
    return {
        "weights": count(params),
        "train_steps_per_s": 1 / many,
        "images_per_s": 1 / inference,
        "compile_s": train_compile,
        "compile_inference_s": inference_compile,
        "host_share": host / many,
        "many_over_single": single / many,
    }


def _per_update(step: Any, params: Any, tx: Any, key: Any, n: int) -> float:
    import jax

    from emjax.training import init_state

    state = init_state(params, tx)

    def call() -> None:
        nonlocal state
        state, history = step(state, key, n)
        jax.block_until_ready((state.params, history))

    call()
    return _median(call) / n


def _torch(name: str, folder: Path) -> dict[str, float]:
    import torch
    from torch.nn import functional

    from benchmarks.torch_networks import NETWORKS, load

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    size = SIZES[name]
    module = NETWORKS[name](1, 1, **size["args"])
    with np.load(folder / "weights.npz") as weights:
        load(module, dict(weights))
    output = np.moveaxis(np.load(folder / "output.npy"), -1, 1)
    example = torch.from_numpy(np.moveaxis(np.load(folder / "example.npy"), -1, 1).copy())
    with torch.no_grad():
        mine = module(example).numpy()
    error = float(np.abs(mine - output).max() / np.abs(output).max())
    if not error < 1e-4:
        raise SystemExit(f"PyTorch's {name} is not emjax's: outputs differ by {error:.2g}")
    channels_last = torch.channels_last if example.ndim == 4 else torch.channels_last_3d
    best: dict[str, float] = {}
    for layout in (torch.contiguous_format, channels_last):
        net = module.to(memory_format=layout)
        image = example.to(memory_format=layout)
        batch = torch.randn(size["train"][0], 1, *size["train"][1:-1]).to(memory_format=layout)
        optimiser = torch.optim.Adam(net.parameters(), 1e-3)

        def infer(net: Any = net, image: Any = image) -> None:
            with torch.no_grad():
                net(image)

        def train(net: Any = net, batch: Any = batch, optimiser: Any = optimiser) -> None:
            optimiser.zero_grad(set_to_none=True)
            functional.mse_loss(net(batch), torch.ones_like(batch)).backward()
            optimiser.step()

        infer()
        train()
        found = {"images_per_s": 1 / _median(infer), "train_steps_per_s": 1 / _median(train)}
        best = {k: max(v, best.get(k, 0.0)) for k, v in found.items()}
    return {"weights": sum(p.numel() for p in module.parameters()), "difference": error, **best}


def _median(call: Callable[[], None]) -> float:
    times: list[float] = []
    while sum(times) < LEAST_TIME or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _has_torch(python: str) -> bool:
    return not subprocess.run([python, "-c", "import torch"], capture_output=True).returncode


def _spawn(python: str, program: str, name: str, folder: str) -> dict[str, float]:
    command = [python, "-m", "benchmarks.networks", "--worker", program, name, folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{program} failed on {name}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _print(name: str, rounds: dict[str, list[dict]]) -> None:
    size = SIZES[name]
    shapes = [" × ".join(map(str, size[k][:-1])) for k in ("train", "image")]
    print(f"{name}: training on {shapes[0]}, inference on {shapes[1]}")
    middle = {
        program: {k: statistics.median(r[k] for r in each) for k in each[0]}
        for program, each in rounds.items()
    }
    for program, numbers in middle.items():
        print(f"    {program:6s} " + "   ".join(f"{k} {v:.4g}" for k, v in numbers.items()))
    if "torch" in rounds:
        for key in ("train_steps_per_s", "images_per_s"):
            pairs = zip(rounds["emjax"], rounds["torch"], strict=True)
            ratios = [mine[key] / theirs[key] for mine, theirs in pairs]
            spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
            print(f"    emjax / PyTorch, {key}: {spread}", flush=True)


if __name__ == "__main__":
    main()
