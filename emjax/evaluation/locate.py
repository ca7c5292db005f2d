"""Judges a network of atom columns on multislice images and real frames, and writes the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from emjax.evaluation import columns as ev
from emjax.evaluation.real_frames import RealFrame, judge_frames
from emjax.files import write_text
from emjax.metrics.detection import DetectionScores
from emjax.metrics.statistics import bootstrap_f1
from emjax.report import (
    Card,
    Curve,
    Example,
    Panel,
    Points,
    Section,
    Table,
    training_curves,
    write_report,
)

if TYPE_CHECKING:
    from emjax.data.synthetic_scenes import Scene
    from emjax.models import Model
    from emjax.runs import Run

KEYS = {"validation": 11, "test": 12}
"""Seeds of the held-out images: the same for every run."""
STANDARD, HARD = "20 electrons", "hard"


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

    @property
    def headline(self) -> float:
        """Class-aware F1 at 20 electrons, or of what there is."""
        return next(iter(self.totals.values())).network[0]


def judge(model: Model, config: Any, run: Run, *, real: str = "") -> Judgement:
    """Choose the threshold on validation images, then score on test images and real frames.

    Parameters
    ----------
    model : the network.
    config : with `classes`, `each` and `quick`.
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
        run.print(f"{which} images by multislice: {len(these)} specimens …")
        key = jax.random.key(KEYS[which])
        return held_out.scenes(key, these, classes, each=config.each, parts=parts)

    validation = images("validation", specimens[0])
    test = images("test", specimens[1])
    run.print(f"tuning the classical detector on {len(validation)} images …")
    settings = ev.tune_classical(validation, grid=ev.QUICK if config.quick else None)
    named = [s for s in validation if s.family in _named(specimens[0])]
    threshold, _ = ev.best_threshold(ev.run_network(model, named), named)
    network = ev.above(ev.run_network(model, test), threshold)
    classical, default = ev.run_classical(test, settings), ev.run_default(test)

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
    )


def _named(specimens: Sequence[Any]) -> set[str]:
    return {s.family for s in specimens if s.named}


def write_locate_report(run: Run, config: Any, result: Judgement) -> None:
    """``report.html`` and ``results.json`` of the run."""
    write_text(run.path / "results.json", json.dumps(_numbers(result), indent=1))
    write_report(
        run.path,
        title="Atom columns from simulated training images",
        subtitle="Network against a tuned classical detector on multislice images it has not seen",
        summary=_summary(result),
        cards=_cards(result),
        sections=[
            _comparison(result),
            *_real_section(result),
            _examples(result),
            _species(result),
            Section("Training", training_curves(run.metrics())),
        ],
        config=config,
    )
    for line in _summary(result):
        run.print(line)


def _numbers(result: Judgement) -> dict[str, Any]:
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
        "threshold": result.threshold,
        "rows": [asdict(row) for row in result.rows],
        "totals": [asdict(row) for row in result.totals.values()],
        "real": frames,
    }


def _summary(result: Judgement) -> list[str]:
    lines = []
    for name, row in result.totals.items():
        value, low, high = row.network
        gain, g0, g1 = row.difference
        lines.append(
            f"{name}: F1 {value:.3f} [{low:.3f}, {high:.3f}] within a fifth of the column spacing, "
            f"species right; the tuned classical detector {row.classical[0]:.3f} "
            f"(difference {gain:+.3f} [{g0:+.3f}, {g1:+.3f}])."
        )
    for frame in result.real:
        if frame.strict is not None and frame.loose is not None:
            lines.append(
                f"Real frame {frame.name}: F1 {frame.strict.f1:.3f} within a fifth and "
                f"{frame.loose.f1:.3f} within half of the spacing of the published coordinates."
            )
    return lines


def _cards(result: Judgement) -> list[Card]:
    cards = [
        Card(f"F1, {name}", row.network, f"classical {row.classical[0]:.3f}")
        for name, row in result.totals.items()
    ]
    marked = [f for f in result.real if f.loose is not None]
    if marked:
        counts = np.array([f.loose.counts for f in marked if f.loose is not None])
        cards.append(Card("F1, real frames", bootstrap_f1(counts)[0], "within half the spacing"))
    return cards


def _comparison(result: Judgement) -> Section:
    header = [
        "images",
        "n",
        "network",
        "LoG + Gaussian fit, tuned",
        "… untuned",
        "difference",
        "rmsd [Å]",
        "rmsd LoG [Å]",
    ]
    cells = [
        [
            r.name,
            r.images,
            r.network,
            r.classical,
            r.default,
            r.difference,
            r.rmsd,
            r.rmsd_classical,
        ]
        for r in (*result.totals.values(), *result.rows)
    ]
    count = len(result.totals)
    table = Table(
        "Class-aware F1, with 95 % intervals over images",
        header,
        [["together"], *cells[:count], ["by image class"], *cells[count:]],
        note="A column counts as found within a fifth of the column spacing, and if its element is "
        "right. The classical detector is tuned on validation images of each image class by "
        f"itself; the network has one threshold ({result.threshold:g}) for everything. Rutile is a "
        'crystal that no training image showed: its columns are to be called "other".',
    )
    return Section("Network and classical detector", [table])


def _species(result: Judgement) -> Section:
    tables = []
    for name, scores in result.scores.items():
        if scores.confusion is None:
            continue
        n = len(scores.confusion)
        names = list(result.classes[:n])
        rows = [[names[i], *(int(v) for v in scores.confusion[i])] for i in range(n)]
        tables.append(
            Table(
                f"True species (rows) and what they were called: {name}",
                ["", *names],
                [row for row in rows if any(row[1:])],
            )
        )
    return Section("Species", tables)


def _panels(scene: Scene, found: ev.Found, sampling: float, result: Judgement) -> list[Panel]:
    def points(array: np.ndarray, species: np.ndarray, marker: str) -> list[Points]:
        return [
            Points(array[species == k], result.classes[int(k)], marker=marker)
            for k in np.unique(species)
        ]

    truth = scene.truth
    shown = np.stack([found.columns["x"], found.columns["y"]], axis=1)
    panels = [
        Panel("image", scene.image, scene.sampling),
        Panel(
            "truth",
            scene.clean,
            scene.sampling,
            points(truth[:, :2], truth[:, 2].astype(int), "ring"),
        ),
        Panel(
            "network", scene.image, scene.sampling, points(shown, found.columns["species"], "ring")
        ),
    ]
    if found.heat is not None:
        panels.append(Panel("heat map", found.heat, sampling, window=(0, 1), cmap="magma"))
        ny, nx = found.heat.shape
        y, x = np.mgrid[:ny, :nx]
        wanted = np.zeros((ny, nx), np.float32)
        for px, py, _ in truth * scene.sampling / sampling:
            wanted = np.maximum(wanted, np.exp(-0.5 * ((x - px) ** 2 + (y - py) ** 2) / 1.6**2))
        panels.append(
            Panel("heat − truth", found.heat - wanted, sampling, window=(-1, 1), cmap="residual")
        )
    return panels


def _examples(result: Judgement) -> Section:
    sampling = 0.2

    def example(i: int) -> Example:
        scene, found = result.scenes[i], result.network[i]
        f1 = ev.score([found], [scene]).f1
        other = ev.score([result.classical[i]], [scene]).f1
        detail = f"{scene.detail} · F1 {f1:.3f}, classical {other:.3f}"
        heat = None if found.heat is None else found.heat
        pixel = sampling if heat is None else scene.image.shape[0] * scene.sampling / heat.shape[0]
        return Example(scene.name, _panels(scene, found, pixel, result), detail)

    first = [group[0] for group in ev.by_name(result.scenes).values()]
    f1 = [ev.score([f], [s]).f1 for f, s in zip(result.network, result.scenes, strict=True)]
    worst = [int(i) for i in np.argsort(f1)[:3]]
    items: list[Any] = [example(i) for i in first]
    return Section(
        "Examples: the first of every image class, then the three worst",
        [*items, *(_named_worst(example(i)) for i in worst)],
    )


def _named_worst(example: Example) -> Example:
    return Example(f"among the worst: {example.caption}", example.panels, example.detail)


def _real_section(result: Judgement) -> list[Section]:
    if not result.real:
        return []
    rows, items = [], []
    for frame in result.real:
        if frame.published is not None and frame.strict is not None and frame.loose is not None:
            rows += [
                [
                    frame.name,
                    within,
                    len(frame.published),
                    len(frame.found.columns),
                    m.precision,
                    m.recall,
                    m.f1,
                    m.mean_distance * frame.sampling,
                ]
                for within, m in (("a fifth", frame.strict), ("half", frame.loose))
            ]
        columns = frame.found.columns
        xy = np.stack([columns["x"], columns["y"]], axis=1)
        marks = [
            Points(xy[columns["species"] == k], result.classes[int(k)])
            for k in np.unique(columns["species"])
        ]
        panels = [
            Panel("micrograph", frame.image, frame.sampling),
            Panel("network", frame.image, frame.sampling, marks),
        ]
        if frame.published is not None:
            panels.append(
                Panel(
                    "published coordinates",
                    frame.image,
                    frame.sampling,
                    [Points(frame.published, "published", marker="cross")],
                )
            )
        items.append(Example(frame.name, panels, f"{frame.sampling:.4f} Å per pixel"))
    table = Table(
        "Against published coordinates (of another network; not manual truth)",
        [
            "frame",
            "within … of the spacing",
            "published",
            "found",
            "precision",
            "recall",
            "F1",
            "mean distance [Å]",
        ],
        rows,
        note="Places only: the published coordinates name no elements.",
    )
    return [Section("Real micrographs", [table, *items])]


_ = Curve
