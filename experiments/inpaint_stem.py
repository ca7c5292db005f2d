"""Complete partial scans: spirals, jittered grids, random lines; dead pixels and lines.

Follows Ede & Beanland, Sci. Rep. 10, 8332 (2020) in its question and its rule (errors against
blurred truths at coverages that were really reached), on simulated specimens: proxy. `--method`:
partial, a U-Net of partial convolutions; gan, two generators in a row against critics of three
scales, with freak losses capped; diffusion, a prior of clean pictures and the scan's likelihood.
One network answers rows I1 to I5, against tuned interpolation and compressive sensing.

    emjax run inpaint_stem --preset cpu      # about 10 minutes, and as many for the comparison
    emjax run inpaint_stem --preset smoke    # half a minute: does it run?
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from emjax.config import OpticsConfig, OptimConfig
from emjax.data.column_scene import ColumnScene
from emjax.runs import Run

SCENE = ColumnScene(patch=64, dose=(2.0, 1000.0), dark=0.15, jitter=0.0, line_gain=0.0)


@dataclass(frozen=True)
class Config:
    """What to train, on what, and how it is judged."""

    method: str = "partial"
    """partial, gan or diffusion."""
    size: str = "cpu"
    """Of the networks: small, cpu or gpu."""
    network: str = ""
    """Another one than the method's: a name, or path/to/file.py:Name."""
    network_args: str = ""
    """Further arguments of the network, as JSON."""
    optics: OpticsConfig = field(default_factory=OpticsConfig)
    """The microscope; training images scatter about it."""
    scene: ColumnScene = SCENE
    """The training images; the dose is that of a dwell time."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=6000, learning_rate=3e-3))
    """The optimiser."""
    materials: tuple[str, ...] = ("graphene", "mos2", "srtio3", "silicon110", "gold001")
    """Crystals of the training, beside random ones."""
    kept_aside: tuple[str, ...] = ("hbn", "ws2", "mose2", "wse2", "rutile001")
    """Crystals of the test, beside other random ones."""
    plans: tuple[str, ...] = ("spiral", "jittered_grid", "random_lines", "random_pixels", "dead")
    """Scans of the training (`emjax.data.scan_masks.PLANS`)."""
    coverage: tuple[float, float] = (0.01, 1.0)
    """Of the scans, log-uniform."""
    bank: int = 400
    """Different scans."""
    adversarial: float = 1.0
    """Weight of the critics' opinion; the squared error has 200 (gan)."""
    batch: int = 12
    """Images per update."""
    scenes: int = 200
    """Test pictures of each condition."""
    validation: int = 12
    """Pictures on which classical methods are tuned."""
    quick: bool = False
    """Judge few methods on lattices alone, and tune them hardly."""
    seed: int = 0
    """Of the weights and the training images; the held-out images are always the same."""


PRESETS: dict[str, Config] = {
    "smoke": Config(
        size="small",
        scene=replace(SCENE, patch=32),
        optim=OptimConfig(steps=10, warmup=2),
        materials=("graphene",),
        coverage=(0.05, 1.0),
        bank=12,
        batch=2,
        scenes=2,
        validation=2,
        quick=True,
    ),
    "cpu": Config(),
    "gpu": Config(
        size="gpu",
        scene=replace(SCENE, patch=128),
        optim=OptimConfig(steps=100000, learning_rate=1e-3, ema=0.9995),
        bank=4000,
        batch=32,
    ),
}


def main(config: Config, run: Run) -> None:
    """Train, judge, report."""
    import jax

    from emjax.data.scan_masks import make_bank
    from emjax.data.synthetic_columns import crystals, make_scenes
    from emjax.data.synthetic_partial import make_partial_scans
    from emjax.evaluation.inpainting_report import write_inpainting_report
    from emjax.evaluation.inpainting_rows import Judged, judge
    from emjax.models import build_network, save_model
    from emjax.restoration.inpainting_methods import make_restorer, make_training, network_of
    from emjax.training import fit

    name, args = network_of(config.method, config.size, config.network_args, network=config.network)

    def scenes(names: tuple[str, ...], batch: int):
        return make_scenes(config.scene, crystals(names), batch, optics=config.optics)

    side = config.scene.patch
    bank = make_bank(config.plans, (side, side), config.coverage, config.bank, seed=config.seed)
    known = scenes(config.materials, config.batch)
    start, critics, train = jax.random.split(jax.random.key(config.seed), 3)
    apply, params = build_network(name, args, key=start)
    state, step = make_training(
        *(critics, config.method, apply, params),
        scans=make_partial_scans(known, bank),
        scenes=known,
        optim=config.optim,
        size=config.size,
        adversarial=config.adversarial,
    )
    state = fit(
        run,
        state,
        step,
        train,
        steps=config.optim.steps,
        chunk=min(100, config.optim.steps),
        images_per_step=config.batch,
    )
    how = {"batch": min(16, config.scenes), "quick": config.quick}
    restorer = make_restorer(config.method, apply, state.ema, **how)
    judged = Judged(config.scenes, config.validation, side, quick=config.quick)
    result = judge(restorer, scenes(config.kept_aside, 8), judged, run)
    save_model(
        run.model_path,
        network=name,
        network_args=args,
        params=state.ema,
        meta={"task": "partial scans", "method": config.method, "rms": result.headline},
        example=jax.random.normal(jax.random.key(0), (1, 32, 32, 2)),
        dtype="float16",
    )
    write_inpainting_report(run, config, result)


if __name__ == "__main__":
    from emjax.cli import run_module

    run_module(__file__)
