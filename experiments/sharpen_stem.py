"""Noise, background and the probe taken out of annular dark-field images, by one network.

Row D10: what AtomSegNet does with a network each (Lin et al., Sci. Rep. 11, 5386, 2021). Random
crystals, glass and emptiness are imaged inside the training step; the network returns the expected
image, the same without background, and the same under a much narrower probe. It is told neither
dose, probe nor pixel size. Judged by PSNR and by the atoms that it invents.

    emjax run sharpen_stem --preset cpu      # about 8 minutes on one core
    emjax run sharpen_stem --preset smoke    # half a minute: does it run?
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emjax.config import OpticsConfig, OptimConfig
from emjax.data.column_scene import ColumnScene
from emjax.data.sharp_scene import linear_scene
from emjax.runs import Run


@dataclass(frozen=True)
class Config:
    """What to train, on what, and how it is judged."""

    optics: OpticsConfig = field(default_factory=OpticsConfig)
    """The microscope; training images scatter about it."""
    scene: ColumnScene = field(default_factory=lambda: linear_scene(72))
    """The training images."""
    judged: int = 96
    """Pixels a side of the test images."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=3000, learning_rate=3e-3))
    """The optimiser."""
    materials: tuple[str, ...] = ("hbn", "ws2", "mose2", "wse2", "rutile001")
    """Crystals of the training, beside random ones (names in simulators.specimens.MATERIALS)."""
    network: str = "unet"
    """Name of an architecture, or path/to/file.py:Name."""
    widths: tuple[int, ...] = (24, 32, 36)
    """Channels of the levels of the U-Net."""
    network_args: str = ""
    """Further arguments of the network, as JSON: {"blocks": 2}."""
    batch: int = 8
    """Images per update."""
    doses: tuple[float, ...] = (20.0, 100.0)
    """Electrons at the brightest pixel of the test images."""
    tests: int = 60
    """Test scenes."""
    validation: int = 16
    """Scenes on which the classical methods are tuned."""
    quick: bool = False
    """Tune the classical methods coarsely."""
    seed: int = 0
    """Of the weights and the training images; the held-out images are always the same."""


PRESETS: dict[str, Config] = {
    "smoke": Config(
        scene=linear_scene(48),
        judged=48,
        optim=OptimConfig(steps=12, warmup=4),
        widths=(8, 8),
        batch=2,
        doses=(20.0,),
        tests=8,
        validation=4,
        quick=True,
    ),
    "cpu": Config(),
    "gpu": Config(
        optim=OptimConfig(steps=40000, learning_rate=1e-3, ema=0.9995),
        scene=linear_scene(160),
        judged=160,
        widths=(64, 128, 256),
        batch=64,
        tests=200,
        validation=100,
    ),
}


def main(config: Config, run: Run) -> None:
    """Train, judge, report."""
    import dataclasses

    import jax
    import numpy as np

    from emjax.data.synthetic_columns import crystals
    from emjax.data.synthetic_sharp import HEADS, WIDTH, make_sharp
    from emjax.evaluation.sharpen import judge
    from emjax.evaluation.sharpen_report import write_sharpen_report
    from emjax.models import build_network, network_args, save_model
    from emjax.optim import optimizer
    from emjax.restoration.sharpening import OUTPUTS, sharpen_loss, sharpener
    from emjax.training import fit, init_state, make_step

    draw = make_sharp(config.scene, crystals(config.materials), config.batch, optics=config.optics)
    sizes = {"inputs": 1, "outputs": OUTPUTS, "widths": list(config.widths)}
    args = network_args(config.network, config.network_args, **sizes)
    start, key = jax.random.split(jax.random.key(config.seed))
    apply, params = build_network(config.network, args, key=start)
    tx = optimizer(config.optim)
    state = fit(
        run,
        init_state(params, tx),
        make_step(sharpen_loss(apply), draw, tx, ema_decay=config.optim.ema),
        key,
        steps=config.optim.steps,
        chunk=min(50, config.optim.steps),
        images_per_step=config.batch,
    )
    save_model(
        run.model_path,
        network=config.network,
        network_args=args,
        params=state.ema,
        meta={"task": "sharpening", "heads": list(HEADS), "width_px": WIDTH},
        example=jax.random.normal(jax.random.key(0), (1, 32, 32, 1)),
    )
    sharpen = jax.jit(sharpener(apply))

    def network(counts: np.ndarray) -> np.ndarray:
        images = counts[..., None].astype(np.float32)
        return np.concatenate([np.asarray(sharpen(state.ema, x[None])) for x in images])

    result = judge(
        network,
        dataclasses.replace(config.scene, patch=config.judged),
        doses=config.doses,
        tests=config.tests,
        validation=config.validation,
        quick=config.quick,
        say=run.print,
    )
    write_sharpen_report(run, config, result)


if __name__ == "__main__":
    from emjax.cli import run_module

    run_module(__file__)
