"""Sharper images from scans with large pixels: what training on averages of sharp images costs.

Two networks are trained side by side on the same scenes: one on averages of sharp images, as is
usual, and one on recordings with a broader probe, lower dose and scan errors, as low magnification
makes them; both are judged on such recordings. The third has a critic's opinion beside it (a GAN,
Isola et al., CVPR 2017): its outlines and spectrum are judged, and how many objects it invents.
Scenes are phantoms (gold particles on carbon, or sections of cells), so the results are a proxy.

    emjax run super_resolve --preset cpu                    # gold particles, about 10 minutes
    emjax run super_resolve --preset cpu --scene sections
    emjax run super_resolve --preset smoke                  # half a minute: does it run?
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emjax.config import OptimConfig
from emjax.data.phantom_scenes import DegradationConfig, SectionScene, SEMScene
from emjax.runs import Run


@dataclass(frozen=True)
class Config:
    """What to train, on what, and how it is judged."""

    scene: str = "particles"
    """What the images show: particles, or sections."""
    particles: SEMScene = field(default_factory=SEMScene)
    """Gold particles on carbon."""
    sections: SectionScene = field(default_factory=SectionScene)
    """Stained sections of cells."""
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    """How they are recorded at low magnification."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=2500, learning_rate=2e-3))
    """The optimiser of the networks."""
    arms: tuple[str, ...] = ("ideal", "real", "adversarial")
    """What is trained, side by side."""
    adversarial: float = 0.02
    """Weight of the critic's opinion."""
    penalty: float = 1.0
    """Weight of the critic's gradient penalty."""
    critic_rate: float = 4e-4
    """Learning rate of the critic."""
    critic_widths: tuple[int, ...] = (16, 24, 32)
    """Channels of the critic's layers."""
    network: str = "unet"
    """Name of an architecture, or path/to/file.py:Name."""
    widths: tuple[int, ...] = (24, 32, 36)
    """Channels of the levels of the U-Net."""
    network_args: str = ""
    """Further arguments of the network, as JSON: {"blocks": 2}."""
    patch: int = 96
    """Pixels a side of the sharp image."""
    batch: int = 8
    """Images per update."""
    each: int = 48
    """Test images; half as many are for tuning the classical methods."""
    quick: bool = False
    """Tune the classical methods coarsely."""
    seed: int = 0
    """Of the weights and the training images; the held-out images are always the same."""


PRESETS: dict[str, Config] = {
    "smoke": Config(
        optim=OptimConfig(steps=12, warmup=4),
        arms=("ideal", "adversarial"),
        widths=(8, 8),
        penalty=0.0,
        critic_widths=(8, 8),
        patch=64,
        batch=2,
        each=4,
        quick=True,
    ),
    "cpu": Config(),
    "gpu": Config(
        optim=OptimConfig(steps=40000, learning_rate=1e-3),
        degradation=DegradationConfig(factor=4),
        widths=(64, 96, 128, 192),
        critic_widths=(64, 128, 256),
        patch=512,
        batch=16,
        each=64,
    ),
}


def main(config: Config, run: Run) -> None:
    """Train, judge, report."""
    import jax
    import numpy as np
    import optax

    from emjax.data.synthetic_low_resolution import make_low_resolution
    from emjax.evaluation.super_resolution import hold_out, judge, make_phantoms
    from emjax.evaluation.super_resolution_report import write_super_resolution_report
    from emjax.gan_step import init_gan_state, make_gan_step
    from emjax.models import build_network, network_args, save_model
    from emjax.networks import build
    from emjax.optim import optimizer
    from emjax.restoration import super_resolution as sr
    from emjax.training import fit

    factor = config.degradation.factor
    draw = make_low_resolution(make_phantoms(config, config.batch), config.degradation)
    sizes = {"inputs": 1, "outputs": sr.outputs_of(factor), "widths": list(config.widths)}
    args = network_args(config.network, config.network_args, **sizes)
    start, critic_key, train = jax.random.split(jax.random.key(config.seed), 3)
    apply, params = build_network(config.network, args, key=start)
    widths = list(config.critic_widths)
    critic, critic_params = build("patch_critic", critic_key, inputs=2, widths=widths)
    weights = {name: getattr(config, name) for name in ("arms", "adversarial", "penalty")}
    losses = sr.super_resolution_losses(apply, critic, factor=factor, **weights)
    tx, critic_tx = optimizer(config.optim), optax.adam(config.critic_rate, b1=0.5)
    step = make_gan_step(*losses, draw, tx, critic_tx, ema_decay=config.optim.ema)
    state = fit(
        run,
        init_gan_state({arm: params for arm in config.arms}, critic_params, tx, critic_tx),
        step,
        train,
        steps=config.optim.steps,
        chunk=min(50, config.optim.steps),
        images_per_step=config.batch,
    )

    best = "real" if "real" in config.arms else config.arms[0]
    save_model(
        run.model_path,
        network=config.network,
        network_args=args,
        params=state.ema[best],
        meta={"task": "super-resolution", "factor": factor, "trained_on": best, "proxy": True},
        example=jax.random.normal(jax.random.key(0), (1, 32, 32, 1)),
    )
    sharpen = jax.jit(sr.upscaler(apply, factor))
    networks = {
        f"network, {arm}": lambda x, p=state.ema[arm]: np.asarray(sharpen(p, x[..., None]))[..., 0]
        for arm in config.arms
    }
    result = judge(networks, *hold_out(config), quick=config.quick, say=run.print)
    write_super_resolution_report(run, config, result)


if __name__ == "__main__":
    from emjax.cli import run_module

    run_module(__file__)
