"""Judges a network of atom columns on multislice images and real frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import jax

from emjax.evaluation import columns as ev
from emjax.evaluation.real_frames import RealFrame, judge_frames
from emjax.metrics.detection import DetectionScores

if TYPE_CHECKING:
    from emjax.data.synthetic_scenes import Scene
    from emjax.models import Model
    from emjax.runs import Run

KEYS = {"validation": 11, "test": 12}
"""Seeds of the held-out images: the same for every run."""
STANDARD = "20 electrons"
"""The part that comes first."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """All that is measured after training."""

    classes: tuple[str, ...]
    threshold: float
    scenes: Sequence[Scene]
    network: Sequence[ev.Found]
    classical: Sequence[ev.Found]
    rows: Sequence[ev.Row]
    totals: dict[str, ev.Row]
    scores: dict[str, DetectionScores]
    real: Sequence[RealFrame]
    real_path: str
    width: float
    """Standard deviation of a column in the heat map, Å."""
    quick: bool

    @property
    def headline(self) -> float:
        """Class-aware F1 at 20 electrons, or of what there is."""
        return next(iter(self.totals.values())).network[0]


def judge(model: Model, config: Any, run: Run, *, real: str = "") -> Judgement:
    """Choose the threshold on validation images, then score on test images and real frames.

    Parameters
    ----------
    model : the network.
    config : with `classes`, `scene`, `each` and `quick`. Specimens with an element that is not
        among the classes are left out.
    run : for messages.
    real : npz of real frames, see `real_frames.read_frames`; "" for none.
    """
    from emjax.data import synthetic_scenes as held_out

    classes = tuple(config.classes)
    parts = held_out.PARTS
    specimens = (held_out.validation_specimens(), held_out.test_specimens())
    if config.quick:
        specimens, parts = (held_out.quick_specimens(),) * 2, parts[1:2]

    def images(which: str, these: Sequence[Any]) -> list[Scene]:
        these = [s for s in these if held_out.nameable(s, classes)]
        run.print(f"{which} images by multislice: {len(these)} specimens …")
        # every pixel size once for tuning, where images are few
        each = config.each if config.quick or which == "test" else len(held_out.PIXELS)
        key = jax.random.key(KEYS[which])
        return held_out.scenes(key, these, classes, each=each, parts=parts)

    validation = images("validation", specimens[0])
    test = images("test", specimens[1])
    run.print(f"tuning the classical detector on {len(validation)} images …")
    settings = ev.tune_classical(validation, grid=ev.QUICK if config.quick else None)
    named = [s for s in validation if s.family in _named(specimens[0])]
    threshold, _ = ev.best_threshold(ev.run_network(model, named), named)
    network = ev.above(ev.run_network(model, test), threshold)
    classical, default = ev.run_classical(test, settings), ev.run_default(test, validation)

    groups = ev.by_name(test)
    rows = ev.compare(test, network, classical, default, groups.items())
    by_part = {
        p.name: [i for i, s in enumerate(test) if s.part == p.name]
        for p in sorted(parts, key=lambda p: p.name != STANDARD)
    }
    totals = ev.compare(test, network, classical, default, by_part.items())
    scores = {
        name: ev.score([network[i] for i in g], [test[i] for i in g]) for name, g in by_part.items()
    }
    at = type(model)(model.apply, model.params, {**model.meta, "threshold": threshold})
    frames = judge_frames(at, real) if real else []
    return Judgement(
        classes,
        threshold,
        test,
        network,
        classical,
        rows,
        {row.name: row for row in totals},
        scores,
        frames,
        real,
        config.scene.width,
        config.quick,
    )


def _named(specimens: Sequence[Any]) -> set[str]:
    return {s.family for s in specimens if s.named}


def numbers(config: Any, result: Judgement) -> dict[str, Any]:
    """What `results.json` holds."""
    frames = [
        {
            "frame": f.name,
            "sampling": f.sampling,
            "found": len(f.found.columns),
            **{
                name: {
                    "precision": m.precision,
                    "recall": m.recall,
                    "f1": m.f1,
                    "mean_distance_A": m.mean_distance * f.sampling,
                }
                for name, m in (("fifth", f.strict), ("half", f.loose))
                if m is not None
            },
        }
        for f in result.real
    ]
    return {
        "seed": getattr(config, "seed", 0),
        "real_frames": result.real_path,
        "threshold": result.threshold,
        "rows": [asdict(row) for row in result.rows],
        "totals": [asdict(row) for row in result.totals.values()],
        "real": frames,
    }
