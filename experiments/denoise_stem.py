"""Remove noise and scan errors from STEM images, trained on nothing but simulated ones.

Rows D1, D3 to D9: Ede & Beanland, Ultramicroscopy 202, 18 (2019) and what followed. Random columns
of matter are imaged inside the training step; the network returns the image and how sure it is of
each pixel. It is told neither the dose nor the crystal, and its result follows any gain and offset.

    emjax run denoise_stem --preset cpu      # an hour on two cores
    emjax run denoise_stem --preset smoke    # half a minute: does it run?
    emjax denoise IMAGE --model runs/denoise_stem
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from emjax.config import OpticsConfig, OptimConfig
from emjax.data.column_scene import ColumnScene
from emjax.runs import Run


@dataclass(frozen=True)
class Config:
    """What to train, on what, and how it is judged."""

    optics: OpticsConfig = field(default_factory=OpticsConfig)
    """The microscope; training images scatter about it."""
    scene: ColumnScene = field(default_factory=ColumnScene)
    """The training images."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(steps=16000, learning_rate=2e-3, ema=0.999)
    )
    """The optimiser."""
    materials: tuple[str, ...] = ("hbn", "ws2", "mose2", "wse2", "rutile001")
    """Crystals of the training, beside random ones (names in simulators.specimens.MATERIALS)."""
    objective: str = "supervised"
    """What the network is trained by: a name in emjax.objectives.OBJECTIVES."""
    objective_args: str = ""
    """Its arguments as JSON, such as {"kind": "huber"}."""
    network: str = "fourier_unet"
    """Name of an architecture, or path/to/file.py:Name."""
    widths: tuple[int, ...] = (24, 48, 96, 128)
    """Channels of the levels of the U-Net."""
    network_args: str = ""
    """Further arguments of the network, as JSON."""
    batch: int = 8
    """Images per update."""
    methods: tuple[str, ...] = ("gaussian", "wiener_fourier", "tv_chambolle", "bm3d_binned")
    """Classical filters to compare with (names in emjax.baselines.restoration.DENOISERS)."""
    tests: int = 200
    """Test images of each condition."""
    quick: bool = False
    """Judge on few images."""
    seed: int = 0
    """Of the weights and the training images; the held-out images are always the same."""


PRESETS: dict[str, Config] = {
    "smoke": Config(
        scene=ColumnScene(patch=64),
        optim=OptimConfig(steps=30, warmup=10),
        widths=(8, 12),
        batch=4,
        methods=("gaussian",),
        tests=10,
        quick=True,
    ),
    "cpu": Config(),
    "gpu": Config(
        optim=OptimConfig(steps=60000, learning_rate=1e-3, ema=0.9995),
        scene=ColumnScene(patch=192),
        widths=(64, 128, 256, 384),
        batch=64,
    ),
}


def main(config: Config, run: Run) -> None:
    """Train, judge, report."""
    import jax

    from emjax.data.synthetic_columns import crystals, make_scenes
    from emjax.evaluation.restore import CONDITIONS, judge
    from emjax.evaluation.restore_report import write_restore_report
    from emjax.evaluation.restore_save import save_restorer
    from emjax.models import build_network, network_args
    from emjax.objectives import build, needs
    from emjax.objectives.training import train
    from emjax.optim import optimizer
    from emjax.restoration.restorer import load_restorer

    options = {"sure": True} if config.objective == "supervised" else {}
    options.update(json.loads(config.objective_args or "{}"))
    asks = needs(config.objective, **options)
    network = config.network if asks.network == "any" else asks.network
    sizes = {"inputs": 1, "outputs": asks.outputs, "widths": list(config.widths)}
    args = network_args(network, config.network_args, **sizes)
    start, key = jax.random.split(jax.random.key(config.seed))
    apply, params = build_network(network, args, key=start)
    objective = build(config.objective, apply, **options)
    draw = make_scenes(
        config.scene,
        crystals(config.materials),
        config.batch,
        optics=config.optics,
        copies=asks.copies,
    )
    params, objective = train(
        run,
        objective,
        draw,
        params,
        optimizer(config.optim),
        key,
        steps=config.optim.steps,
        batch=config.batch,
        ema_decay=config.optim.ema,
        quick=config.quick,
    )
    save_restorer(
        run.model_path,
        network=network,
        network_args=args,
        params=params,
        objective=objective,
        objective_args=options,
        scene=config.scene,
        draw=draw,
        quick=config.quick,
    )
    result = judge(
        load_restorer(run.model_path),
        config.scene,
        methods=config.methods,
        tests=config.tests,
        conditions=CONDITIONS[:1] if config.quick else CONDITIONS,
        validation=2 if config.quick else 10,
        say=run.print,
        quick=config.quick,
    )
    write_restore_report(run, config, result)


if __name__ == "__main__":
    from emjax.cli import run_module

    run_module(__file__)
