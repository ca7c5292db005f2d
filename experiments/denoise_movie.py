"""Denoise movies of drifting, changing crystals with networks that saw nothing but noisy movies.

After UDVD (Sheth et al., ICCV 2021): a network with a blind spot in the middle one of five frames
learns from the noisy movies themselves (`source` "own") or from other, simulated ones ("many").
Beside it the same network of single frames, smoothing in space and time, averaging along the drift.

    emjax run denoise_movie --preset cpu      # about 6 minutes on one core
    emjax run denoise_movie --preset smoke    # half a minute: does it run?
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emjax.config import OptimConfig
from emjax.data.movie_scene import MovieScene
from emjax.runs import Run


@dataclass(frozen=True)
class Config:
    """What to train, on what, and how it is judged."""

    scene: MovieScene = field(default_factory=lambda: MovieScene(patch=48))
    """The movies; `patch` pixels and `frames` are what the network sees at once in training."""
    source: str = "own"
    """Train on the movies that are to be restored ("own"), or on others, simulated ("many")."""
    materials: tuple[str, ...] = ("hbn", "ws2", "mose2", "wse2", "rutile001")
    """Crystals of the simulated movies of the training."""
    kept_aside: tuple[str, ...] = ("graphene", "mos2", "srtio3", "silicon110", "gold001")
    """Crystals of the movies to restore (names in simulators.specimens.MATERIALS)."""
    movies: int = 12
    """Movies to restore; half as many others are for tuning the classical methods."""
    length: int = 16
    """Their frames."""
    side: int = 96
    """Their pixels a side."""
    turned: bool = False
    """Whether "own" movies are shown mirrored, turned and backwards in time, too."""
    prior: str = "gamma"
    """What the networks tell of a pixel: "gamma" (exact for counts) or "gaussian" (faster)."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=1200, learning_rate=3e-3))
    """The optimiser, of both networks."""
    network: str = "blind_video"
    """Name of an architecture, or path/to/file.py:Name. One without a blind spot is given one."""
    width: int = 12
    """Channels of the networks."""
    levels: int = 2
    """How often they halve the resolution."""
    network_args: str = ""
    """Further arguments of the network, as JSON: {"ahead": 5}."""
    batch: int = 4
    """Middle frames per update."""
    quick: bool = False
    """Judge beside the simplest methods alone."""
    seed: int = 0
    """Of the weights and the batches; the movies to restore are always the same."""


PRESETS: dict[str, Config] = {
    "smoke": Config(
        scene=MovieScene(patch=16, frames=3, pixel=(0.2, 0.25)),
        prior="gaussian",
        optim=OptimConfig(steps=8, warmup=2),
        kept_aside=("graphene", "mos2"),
        movies=2,
        length=3,
        side=24,
        width=4,
        levels=1,
        batch=2,
        quick=True,
    ),
    "cpu": Config(),
    "gpu": Config(
        scene=MovieScene(patch=96),
        optim=OptimConfig(steps=30000, learning_rate=1e-3),
        movies=40,
        length=40,
        side=192,
        width=48,
        levels=4,
        batch=32,
    ),
}


def main(config: Config, run: Run) -> None:
    """Train, judge, report."""
    import jax

    from emjax.data.synthetic_columns import crystals
    from emjax.data.synthetic_movies import make_movies
    from emjax.evaluation.movies import hold_out, judge
    from emjax.evaluation.movies_report import write_movies_report
    from emjax.models import build_network, network_args, save_model
    from emjax.optim import optimizer
    from emjax.restoration import movies
    from emjax.training import fit, init_state, make_step

    if config.source not in ("own", "many"):
        raise ValueError(f"source {config.source!r}: choose own or many")
    frames = config.scene.frames
    cut = frames, config.scene.patch, config.batch
    validation, test = hold_out(config)
    if config.source == "own":
        draw = movies.recorded_windows(test.counts, test.readout, *cut, turned=config.turned)
    else:
        made = make_movies(config.scene, crystals(config.materials), config.batch)
        draw = movies.drawn_windows(made)
    *keys, train = jax.random.split(jax.random.key(config.seed), 3)
    sizes = {"inputs": frames, "outputs": 2, "frames": frames, "width": config.width}
    args = network_args(config.network, config.network_args, **sizes, levels=config.levels)
    params = {}
    for name, key in zip(movies.NAMES, keys, strict=True):
        apply, params[name] = build_network(config.network, args, key=key)
    if hidden := not movies.is_blind(apply, params["video"], frames):
        run.print(f"{config.network} has no blind spot: pixels are hidden from it, in four runs")
        apply = movies.blinded(apply)
    tx, loss = optimizer(config.optim), movies.movie_loss(apply, prior=config.prior)
    state = fit(
        run,
        init_state(params, tx),
        make_step(loss, draw, tx, ema_decay=config.optim.ema),
        train,
        steps=config.optim.steps,
        chunk=min(50, config.optim.steps),
        images_per_step=config.batch,
    )
    save_model(
        run.model_path,
        network=config.network,
        network_args=args,
        params=state.ema["video"],
        meta={"task": "denoising of movies", "frames": frames, "hidden": hidden},
        example=jax.random.normal(jax.random.key(0), (1, 32, 32, frames)),
    )
    restore = movies.movie_restorer(apply, frames, prior=config.prior)
    restorers = {
        f"blind spot, {frames} frames": lambda c, r: restore(state.ema["video"], c, r),
        "blind spot, single frames": lambda c, r: restore(state.ema["single"], c, r, False),
    }
    result = judge(restorers, validation, test, quick=config.quick, say=run.print)
    write_movies_report(run, config, result)


if __name__ == "__main__":
    from emjax.cli import run_module

    run_module(__file__)
