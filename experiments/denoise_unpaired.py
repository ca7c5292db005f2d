"""Denoise images of columns with nothing but pictures of Gaussian spots beside them.

Noise2Atom (Wang et al., Appl. Microsc. 50, 23, 2020): a generator cleans, a second one goes back, a
Wasserstein critic with a gradient penalty compares the cleaned images with pictures of spots on
random lattices; neither knows a partner of the other. Noise2Void is trained beside it in as many
updates. Judged on crystals that were left out, against the truth: the published measure, similarity
of consecutive frames, can be had by smoothing.

    emjax run denoise_unpaired --preset cpu      # about 10 minutes on two cores
    emjax run denoise_unpaired --preset smoke    # half a minute: does it run?
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from emjax.config import OptimConfig
from emjax.data.column_scene import ColumnScene
from emjax.data.phantom_scenes import ONE_SETTING, SpotScene
from emjax.runs import Run


@dataclass(frozen=True)
class Config:
    """What to train, on what, and how it is judged."""

    scene: ColumnScene = ONE_SETTING
    """The noisy images."""
    spots: SpotScene = field(default_factory=SpotScene)
    """The clean pictures."""
    materials: tuple[str, ...] = ("graphene", "mos2", "srtio3", "silicon110")
    """Crystals of the training, beside random ones (names in simulators.specimens.MATERIALS)."""
    kept_aside: tuple[str, ...] = ("hbn", "wse2", "gold001", "rutile001")
    """Crystals of the test."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=1500, learning_rate=1e-3))
    """The optimiser of the generators."""
    critic_rate: float = 4e-4
    """Learning rate of the critic (Adam, no momentum)."""
    n_critic: int = 2
    """Updates of the critic for each of the generators; 5 as published."""
    low_pass: float = 1.5
    """Standard deviation of the Gaussian filter of the round trip [px]."""
    adversarial: float = 0.1
    """Weight of the critic's opinion."""
    cycle: float = 5.0
    """Weight of the round trips."""
    anchor: float = 5.0
    """Weight of equal low-passed images before and after; 0 as published."""
    network: str = "unet"
    """Name of an architecture, or path/to/file.py:Name."""
    widths: tuple[int, ...] = (16, 24, 32)
    """Channels of the levels of the U-Net."""
    network_args: str = ""
    """Further arguments of the network, as JSON: {"blocks": 2}."""
    critic_widths: tuple[int, ...] = (16, 24, 32)
    """Channels of the critic's layers."""
    frames: int = 768
    """Noisy images that there are."""
    batch: int = 8
    """Images per update."""
    each: int = 24
    """Test scenes, of three frames each; half as many are for tuning the classical methods."""
    quick: bool = False
    """Judge beside the simplest methods alone."""
    seed: int = 0
    """Of the weights and the training images; the held-out images are always the same."""


PRESETS: dict[str, Config] = {
    "smoke": Config(
        scene=replace(ONE_SETTING, patch=32),
        optim=OptimConfig(steps=8, warmup=2),
        kept_aside=Config.materials,
        widths=(8, 8),
        n_critic=1,
        frames=12,
        batch=2,
        each=4,
        quick=True,
    ),
    "cpu": Config(),
    "gpu": Config(
        optim=OptimConfig(steps=40000, learning_rate=5e-4),
        widths=(48, 64, 96, 128),
        critic_widths=(64, 128, 256),
        n_critic=5,
        frames=6000,
        batch=32,
    ),
}


def main(config: Config, run: Run) -> None:
    """Train, judge, report."""
    import jax
    import optax

    from emjax.data.synthetic_spots import make_spots
    from emjax.evaluation.unpaired import hold_out, judge, training_frames
    from emjax.evaluation.unpaired_report import write_unpaired_report
    from emjax.gan_step import init_gan_state, make_gan_step
    from emjax.models import build_network, network_args, save_model
    from emjax.networks import build
    from emjax.optim import optimizer
    from emjax.restoration import unpaired
    from emjax.training import fit

    sigma = config.low_pass
    spots = make_spots(config.spots, config.batch, config.scene.patch)
    draw = unpaired.unpaired_batches(training_frames(config), spots, sigma, config.batch)
    sizes = {"inputs": 1, "outputs": 1, "widths": list(config.widths)}
    args = network_args(config.network, config.network_args, **sizes)
    *keys, critic_key, train = jax.random.split(jax.random.key(config.seed), 5)
    generators = {}
    for name, key in zip(("clean", "back", "noise2void"), keys, strict=True):
        apply, generators[name] = build_network(config.network, args, key=key)
    critic, critic_params = build("patch_critic", critic_key, widths=list(config.critic_widths))
    weights = {k: getattr(config, k) for k in ("adversarial", "cycle", "anchor")}
    losses = unpaired.noise2atom_losses(apply, critic, sigma=sigma, **weights)
    tx, critic_tx = optimizer(config.optim), optax.adam(config.critic_rate, b1=0.0, b2=0.9)
    state = fit(
        run,
        init_gan_state(generators, critic_params, tx, critic_tx),
        make_gan_step(*losses, draw, tx, critic_tx, n_critic=config.n_critic),
        train,
        steps=config.optim.steps,
        chunk=min(50, config.optim.steps),
        images_per_step=config.batch * (config.n_critic + 1),
    )
    save_model(
        run.model_path,
        network=config.network,
        network_args=args,
        params=state.ema["clean"],
        meta={"task": "denoising without pairs", "low_pass": sigma},
        example=jax.random.normal(jax.random.key(0), (1, 32, 32, 1)),
    )
    restore = jax.jit(unpaired.unpaired_restorer(apply, sigma))
    networks = {
        name: lambda counts, p=state.ema[arm]: restore(p, counts[..., None])[..., 0]
        for name, arm in (("Noise2Atom", "clean"), ("Noise2Void", "noise2void"))
    }
    result = judge(networks, *hold_out(config), quick=config.quick, say=run.print)
    write_unpaired_report(run, config, result)


if __name__ == "__main__":
    from emjax.cli import run_module

    run_module(__file__)
