"""Find atom columns and their elements, trained on nothing but simulated images.

Follows Ziatdinov et al., ACS Nano 11, 12742 (2017) and Sci. Adv. 5, eaaw8989 (2019): a U-Net maps
an annular dark-field image to the places of the columns of each element. Random crystals are imaged
inside the training step by the linear model; validation and test are multislice images of other
specimens with other defects, as they are for the tuned Laplacian of Gaussian in the report.

    emjax run locate_atoms --preset cpu      # about 10 minutes; expect F1 0.98 at 20 electrons
    emjax run locate_atoms --preset smoke    # half a minute: does it run?
    emjax predict runs/locate_atoms IMAGE
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from emjax.config import OpticsConfig, OptimConfig, SceneConfig
from emjax.runs import Run


@dataclass(frozen=True)
class Config:
    """What to train, on what, and how it is judged."""

    optics: OpticsConfig = field(default_factory=OpticsConfig)
    """The microscope; training images scatter about it."""
    scene: SceneConfig = field(default_factory=SceneConfig)
    """The training images."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=5000, learning_rate=4e-3))
    """The optimiser."""
    materials: tuple[str, ...] = ("graphene", "mos2", "ws2", "wse2", "srtio3", "silicon110")
    """Crystals of the training (names in simulators.specimens.MATERIALS)."""
    classes: tuple[str, ...] = ("C", "Si", "S", "Se", "Mo", "W", "Ti", "Sr", "other")
    """What a column can be: its heaviest element, or "other" in a crystal that has no name."""
    network: str = "unet"
    """Name of an architecture, or path/to/file.py:Name."""
    widths: tuple[int, ...] = (24, 32, 40)
    """Channels of the levels of the U-Net."""
    network_args: str = ""
    """Further arguments of the network, as JSON: {"blocks": 2}."""
    batch: int = 16
    """Images per update."""
    kind_weight: float = 0.5
    """Weight of the species in the loss."""
    engine: str = "linear"
    """Image model of the training: linear, or prism (dynamical, from scattering matrices)."""
    specimens: int = 512
    """Scattering matrices that the engine prism makes before the training; about 10 MB each."""
    each: int = 2
    """Test images of every specimen and condition."""
    quick: bool = False
    """Judge on few images and tune the classical detector coarsely."""
    real: str = ""
    """npz of real frames with published columns; default: below the folder EMJAX_SHARED, if set."""
    seed: int = 0
    """Of the weights and the training images; the held-out images are always the same."""


SMOKE = OptimConfig(steps=40, warmup=10)
PRESETS: dict[str, Config] = {
    "smoke": Config(optim=SMOKE, widths=(8, 12), batch=4, each=1, quick=True),
    "cpu": Config(),
    "gpu": Config(
        optim=OptimConfig(steps=60000, learning_rate=1e-3),
        widths=(64, 96, 128, 192),
        batch=64,
        each=4,
        engine="prism",
    ),
}


def main(config: Config, run: Run) -> None:
    """Train, judge, report."""
    import jax
    from jax.tree_util import Partial

    from emjax.data.synthetic import make_draw
    from emjax.evaluation.locate import judge
    from emjax.evaluation.locate_report import write_locate_report
    from emjax.evaluation.real_frames import find_frames
    from emjax.losses import column_loss
    from emjax.models import build_network, load_model, network_args, save_model
    from emjax.optim import optimizer
    from emjax.training import fit, init_state, make_step
    from simulators.specimens import find_material

    real = find_frames(config.real)
    draw = make_draw(
        config.scene,
        {name: find_material(name) for name in config.materials},
        config.classes,
        config.batch,
        optics=config.optics,
        engine=config.engine,
        specimens=config.specimens,
    )
    sizes = {"inputs": 2, "outputs": 1 + len(config.classes), "widths": list(config.widths)}
    args = network_args(config.network, config.network_args, **sizes)
    start, train = jax.random.split(jax.random.key(config.seed))
    apply, params = build_network(config.network, args, key=start)
    loss = column_loss(apply, kind_weight=config.kind_weight)
    tx = optimizer(config.optim)
    step = make_step(loss, draw, tx, ema_decay=config.optim.ema)
    evaluate = None
    if not config.quick:  # one batch like those of the training
        held_out = jax.jit(lambda f, key: f(key))(Partial(draw), jax.random.key(2**31 - 1))
        compiled = jax.jit(lambda p, batch: loss(p, batch)[1])
        evaluate = functools.partial(compiled, batch=held_out)
    state = fit(
        run,
        init_state(params, tx),
        step,
        train,
        steps=config.optim.steps,
        chunk=min(100, config.optim.steps),
        images_per_step=config.batch,
        evaluate=evaluate,
        evaluate_every=max(config.optim.steps // 10, 1),
    )

    meta = {
        "sampling": config.scene.sampling,
        "classes": list(config.classes),
        "min_distance_A": 0.7,
        "task": "atom columns in annular dark-field images",
    }

    def save(**more: float) -> None:
        save_model(
            run.model_path,
            network=config.network,
            network_args=args,
            params=state.ema,
            meta={**meta, **more},
            example=jax.random.normal(jax.random.key(0), (1, 64, 64, 2)),
            dtype="float16",
        )

    save()
    result = judge(load_model(run.model_path), config, run, real=real)
    save(threshold=result.threshold, test_f1=result.headline)
    write_locate_report(run, config, result)


if __name__ == "__main__":
    from emjax.cli import run_module

    run_module(__file__)
