"""The report on a network of atom columns: tables, real frames, examples and the three worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emjax.evaluation import columns as ev
from emjax.evaluation.locate import Judgement, numbers
from emjax.metrics.detection import match_points
from emjax.metrics.statistics import bootstrap_f1
from emjax.report import (
    Card,
    Example,
    Panel,
    Points,
    Section,
    Table,
    training_curves,
    write_report,
)
from emjax.results import write_results

if TYPE_CHECKING:
    from emjax.data.synthetic_scenes import Scene
    from emjax.runs import Run

FEW = 5
"""Images below which no interval is given."""


def write_locate_report(run: Run, config: Any, result: Judgement) -> None:
    """``report.html`` and ``results.json`` of the run."""
    write_results(run.path, numbers(config, result))
    write_report(
        run.path,
        title="Atom columns from simulated training images",
        subtitle="A test that everything runs: the figures mean nothing"
        if result.quick
        else "Network against a tuned classical detector on multislice images it has not seen",
        summary=_summary(result),
        cards=_cards(result),
        sections=[
            _comparison(result),
            *_real_section(result),
            _examples(result),
            _species(result),
            Section(
                "Training",
                training_curves(run.metrics()),
                "The validation curves are of one batch drawn as the training images are.",
            ),
        ],
        config=config,
    )
    for line in _summary(result):
        run.print(line)


def _summary(result: Judgement) -> list[str]:
    lines = []
    if result.quick:
        lines.append(
            "A quick run: a few updates of a tiny network, judged on one specimen. It shows that "
            "everything works here; its figures mean nothing."
        )
    for name, row in result.totals.items():
        value, gain = row.network[0], row.difference[0]
        lines.append(
            f"{name}: F1 {value:.3f}{_interval(row, row.network)} within a fifth of the column "
            f"spacing, species right; the tuned classical detector {row.classical[0]:.3f} "
            f"(difference {gain:+.3f}{_interval(row, row.difference, '+')})."
        )
    for frame in result.real:
        if frame.strict is not None and frame.loose is not None:
            lines.append(
                f"Real frame {frame.name}: F1 {frame.strict.f1:.3f} within a fifth and "
                f"{frame.loose.f1:.3f} within half of the spacing of the published coordinates."
            )
    return lines


def _interval(
    row: ev.Row, value: tuple[float, float, float], sign: str = "", before: str = " "
) -> str:
    """Its 95 % interval in brackets; nothing where there are too few images for one."""
    if row.images < FEW:
        return ""
    return f"{before}[{value[1]:{sign}.3f}, {value[2]:{sign}.3f}]"


def _cards(result: Judgement) -> list[Card]:
    cards = [
        Card(
            f"F1, {name}",
            f"{row.network[0]:.3f}",
            f"classical {row.classical[0]:.3f}"
            + _interval(row, row.network, before="; 95 % of ours "),
        )
        for name, row in result.totals.items()
    ]
    marked = [f for f in result.real if f.loose is not None]
    if marked:
        counts = np.array([f.strict.counts for f in marked if f.strict is not None])
        value = bootstrap_f1(counts)[0]
        cards.append(Card("F1, real frames", f"{value:.3f}", "places, within a fifth"))
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
        "… fitted",
        "… LoG",
    ]

    def cells(r: ev.Row) -> list[Any]:
        few = r.images < FEW  # an interval over so few images says nothing
        scores = [x[0] if few else x for x in (r.network, r.classical, r.default, r.difference)]
        return [r.name, r.images, *scores, r.rmsd, r.rmsd_fitted, r.rmsd_classical]

    def mean(name: str) -> list[Any]:
        own = [r for r in result.rows if r.name.endswith(f", {name}")]
        columns = zip(*(cells(r)[2:] for r in own), strict=True)
        values = [float(np.mean([v[0] if isinstance(v, tuple) else v for v in c])) for c in columns]
        return [name, sum(r.images for r in own), *values]

    rows = [
        ["all columns together"],
        *map(cells, result.totals.values()),
        ["mean over the image classes"],
        *map(mean, result.totals),
        ["by image class"],
        *map(cells, result.rows),
    ]
    table = Table(
        "Class-aware F1, with 95 % intervals over images",
        header,
        rows,
        note="A column counts as found within a fifth of the column spacing, and if its element is "
        "right. Network and detector are scored at the places that they give first (the maximum of "
        "the heat map; for the detector what did better in tuning); the rmsd is given for the "
        "network's fitted places too. The detector is tuned on validation images of each image "
        f"class by itself; the network has one threshold ({result.threshold:g}) for everything. "
        "Images show one thermal snapshot of the specimen. Rutile is a crystal that no training "
        'image showed: the network is right if it calls its columns "other", which the detector, '
        "with one class there, does for free.",
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


def _panels(scene: Scene, found: ev.Found, result: Judgement) -> list[Panel]:
    def points(array: np.ndarray, species: np.ndarray) -> list[Points]:
        return [Points(array[species == k], result.classes[int(k)]) for k in np.unique(species)]

    truth, kind = scene.truth[:, :2], scene.truth[:, 2].astype(int)
    shown, called = np.stack([found.columns["x"], found.columns["y"]], 1), found.columns["species"]
    m = match_points(
        shown,
        truth,
        ev.radius_px(scene),
        pred_class=called,
        true_class=kind,
        shape=scene.image.shape,
        margin=ev.MARGIN / scene.sampling,
    )
    wrong = [
        Points(shown[m.false_positives], "false or misnamed", marker="square"),
        Points(truth[m.false_negatives], "missed or misnamed", marker="cross"),
    ]
    panels = [
        Panel("image", scene.image, scene.sampling),
        Panel("truth, without noise", scene.clean, scene.sampling, points(truth, kind)),
        Panel("network", scene.image, scene.sampling, points(shown, called)),
        Panel("its errors", scene.image, scene.sampling, [p for p in wrong if len(p.xy)]),
    ]
    if found.heat is not None:
        ny, nx = found.heat.shape
        sampling = scene.image.shape[0] * scene.sampling / ny
        sigma = result.width / sampling
        y, x = np.mgrid[:ny, :nx]
        wanted = np.zeros((ny, nx), np.float32)
        for px, py in truth * scene.sampling / sampling:
            bump = np.exp(-0.5 * ((x - px) ** 2 + (y - py) ** 2) / sigma**2)
            wanted = np.maximum(wanted, bump)
        panels += [
            Panel("heat map", found.heat, sampling, window=(0, 1), cmap="magma"),
            Panel("heat − truth", found.heat - wanted, sampling, window=(-1, 1), cmap="residual"),
        ]
    return panels


def _examples(result: Judgement) -> Section:
    def example(i: int) -> Example:
        scene, found = result.scenes[i], result.network[i]
        f1 = ev.score([found], [scene]).f1
        other = ev.score([result.classical[i]], [scene]).f1
        detail = f"{scene.detail} · F1 {f1:.3f}, classical {other:.3f}"
        return Example(scene.name, _panels(scene, found, result), detail)

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
                    m.tp + m.fn,
                    m.tp + m.fp,
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
