"""Restorers on real frames: one recording in, compared with an independent one of the same area.

    python -m benchmarks.real_frames DIR [--updates 1500] [--only haadf_pairs,…] [--json FILE]

DIR holds `repeated_frames/serialem_haadf_pairs.npz` (``pairs`` [n, 2, y, x]),
`repeated_frames/abf_movie_5x512.npz` (``frames`` [n, y, x], drifting) and
`cryoem_apoferritin/micrographs_bin2.npz` (``single`` and ``averaged``, [n, y, x]); what is not
there is left out. There is no truth, but noise is independent: the residual, rms(restored - other)
over the standard deviation of the other, falls with the error alone, and not below what the other
frame's own noise leaves. Classical filters are given the parameters that are best on the very pair
they are scored on; networks see the one frame alone: Noise2Void trains on it, the network of the
package is used as it is. Intervals of 95 % are over tiles of 64 × 64 pixels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from emjax.baselines.restoration import DENOISERS, tune
from emjax.files import write_json
from emjax.metrics.statistics import bootstrap_interval

CLASSICAL = ("gaussian", "wiener_fourier", "tv_chambolle", "non_local_means", "bm3d_binned")
TILE, PATCH, BATCH = 64, 64, 8
NETWORK = ("unet", {"inputs": 1, "outputs": 1, "widths": (16, 26, 38)})


def haadf_pairs(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = np.load(folder / "repeated_frames" / "serialem_haadf_pairs.npz")["pairs"]
    return [(a.astype(float), b.astype(float)) for a, b in pairs]


def abf_movie(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    from emjax.analysis.repeats import aligned_pairs

    frames = np.load(folder / "repeated_frames" / "abf_movie_5x512.npz")["frames"].astype(float)
    return aligned_pairs(list(frames), [np.ones(f.shape, bool) for f in frames])[0]


def apoferritin(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    file = np.load(folder / "cryoem_apoferritin" / "micrographs_bin2.npz")
    return [
        (a.astype(float), b.astype(float))
        for a, b in zip(file["single"], file["averaged"], strict=True)
    ]


TASKS: dict[str, Callable[[Path], list[tuple[np.ndarray, np.ndarray]]]] = {
    "haadf_pairs": haadf_pairs,
    "abf_movie": abf_movie,
    "apoferritin": apoferritin,
}


def tiles(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean square of the difference after the best gain and offset, over `other`'s, tile by tile.

    Averaged frames have another contrast than single ones, so gain and offset are fitted for all;
    their two degrees of freedom are nothing beside the pixels.
    """
    slope = np.cov(image.ravel(), other.ravel(), bias=True)[0, 1] / max(image.var(), 1e-12)
    square = np.square(slope * (image - image.mean()) + other.mean() - other)
    ny, nx = (n // TILE for n in square.shape)
    cut = square[: ny * TILE, : nx * TILE].reshape(ny, TILE, nx, TILE)
    return cut.mean((1, 3)).ravel() / other.var()


def noise2void(frame: np.ndarray, updates: int, **options: Any) -> np.ndarray:
    """The frame, restored by a network that has seen nothing but the frame."""
    import jax
    import jax.numpy as jnp

    from emjax.config import OptimConfig
    from emjax.models import build_network
    from emjax.objectives import build
    from emjax.objectives.training import train
    from emjax.optim import optimizer
    from emjax.runs import Run

    mean, spread = frame.mean(), frame.std()
    whole = jnp.asarray((frame - mean) / spread, jnp.float32)
    start, key = jax.random.split(jax.random.key(0))
    apply, params = build_network(*NETWORK, key=start)
    objective = build("noise2void", apply, scaling="none", **options)
    limit = jnp.asarray([n - PATCH + 1 for n in frame.shape])

    def crop(key: jax.Array, image: jax.Array) -> jax.Array:
        place, turn = jax.random.split(key)
        y, x = jax.random.randint(place, (2,), 0, limit)
        part = jax.lax.dynamic_slice(image, (y, x), (PATCH, PATCH))
        # rows stay rows: what they share is noise of the scan
        flips = [part, part[::-1], part[:, ::-1], part[::-1, ::-1]]
        return jnp.stack(flips)[jax.random.randint(turn, (), 0, 4)]

    def draw(image: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        crops = jax.vmap(crop, (0, None))(jax.random.split(key, BATCH), image)
        return {"counts": crops[..., None]}

    with tempfile.TemporaryDirectory() as folder:
        params, objective = train(
            Run(folder),
            objective,
            jax.tree_util.Partial(draw, whole),
            params,
            optimizer(OptimConfig(steps=updates, learning_rate=2e-3, warmup=updates // 20)),
            key,
            steps=updates,
            batch=BATCH,
            ema_decay=0.99,
            quick=True,
        )
    found = jax.jit(objective.restore)(params, whole[None, ..., None])[0, ..., 0]
    return np.asarray(found) * spread + mean


def methods(updates: int) -> Iterator[tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]]:
    """(name, (frame, other) -> restored); only the classical ones look at the other frame."""
    from emjax.restoration.restorer import load_restorer
    from emjax.restoration.shipped import shipped_restorers

    yield "raw", lambda frame, other: frame
    for name in CLASSICAL:
        yield name, lambda frame, other, name=name: _classical(name, frame, other)
    yield "noise2void", lambda frame, other: noise2void(frame, updates)
    yield "noise2void, rows hidden", lambda frame, other: noise2void(frame, updates, line="x")
    for shipped in shipped_restorers().values():
        restorer = load_restorer(shipped.path)
        yield shipped.name, lambda frame, other, restorer=restorer: restorer(frame).image


def _classical(name: str, frame: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The filter with its best parameters for this very pair."""
    # filters of counts need a gain and an offset with which shot noise explains the difference
    covariance = np.cov(frame.ravel(), other.ravel(), bias=True)[0, 1]
    noise = np.sqrt(max(frame.var() - covariance * frame.std() / other.std(), 1e-3 * frame.var()))
    mean = np.square((frame.mean() - frame.min()) / noise)
    counts = np.maximum((frame - frame.mean()) * np.sqrt(mean) / noise + mean, 0)
    truth = (other - other.min()) / np.ptp(other)
    best = tune(name, [counts], [truth])
    return DENOISERS[name](counts, **best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir", type=Path)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--only", default=",".join(TASKS))
    parser.add_argument("--limit", type=int, default=4, help="pairs of each kind, at most")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    print("| frames | method | residual | below the best classical filter by |")
    print("| --- | --- | --- | --- |")
    for task in options.only.split(","):
        try:
            pairs = TASKS[task](options.dir)[: options.limit]
        except FileNotFoundError as error:
            print(f"{task} is left out: {error}", file=sys.stderr)
            continue
        scores: dict[str, np.ndarray] = {}
        for name, restore in methods(options.updates):
            try:
                parts = [tiles(restore(a, b), b) for a, b in pairs]
            except ImportError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                continue
            scores[name] = np.concatenate(parts)
            print(f"{task}, {name}: {np.sqrt(scores[name].mean()):.3f}", file=sys.stderr)
        results[task] = table(task, len(pairs), scores)
        if options.json:
            write_json(options.json, results)


def table(task: str, pairs: int, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Print the rows of one kind of frames; the numbers as a dict."""
    told = {}
    best = min((n for n in scores if n in CLASSICAL), key=lambda n: scores[n].mean())
    for name, square in scores.items():
        residual = float(np.sqrt(square.mean()))
        won, low, high = bootstrap_interval(scores[best] - square)
        # of the mean squares, as a difference of residuals
        less = [float(d / (2 * residual)) for d in (won, low, high)]
        told[name] = {"residual": residual, "less_than_best_classical": less, "best": best}
        versus = "" if name == best else f"{less[0]:+.4f} [{less[1]:+.4f}, {less[2]:+.4f}]"
        print(f"| {task} ({pairs}) | {name} | {residual:.4f} | {versus} |", flush=True)
    return told


if __name__ == "__main__":
    main()
