"""The report on a network for noise, background and probe: tables, false atoms, examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emjax.baselines.restoration import fit_affine
from emjax.data.synthetic_sharp import HEADS
from emjax.evaluation.sharpen import Judgement, Scored, numbers
from emjax.metrics.statistics import bootstrap_interval
from emjax.report import Card, Example, Panel, Section, Table, training_curves, write_report
from emjax.results import write_results

if TYPE_CHECKING:
    from emjax.runs import Run

NAMES = {"clean": "noise removed", "flat": "background removed", "sharp": "probe removed"}
SHOWN = 3


def write_sharpen_report(run: Run, config: Any, result: Judgement) -> None:
    """``report.html`` and ``results.json`` of the run."""
    write_results(run.path, numbers(result))
    lines = summary(result)
    write_report(
        run.path,
        title="Noise, background and probe taken out of annular dark-field images",
        subtitle="A test that everything runs: the figures mean nothing"
        if result.quick
        else "One network for every dose and probe against filters tuned for each dose",
        summary=lines,
        cards=_cards(result),
        sections=[
            *(Section(NAMES[head].capitalize(), [_quality(result, head)]) for head in HEADS),
            Section("False atoms", [_atoms(result)]),
            Section("Examples", _examples(result)),
            Section("Training", training_curves(run.metrics())),
        ],
        config=config,
    )
    for line in lines:
        run.print(line)


def summary(result: Judgement) -> list[str]:
    """One line per dose and head."""
    lines = []
    if result.quick:
        lines.append("A quick run: it shows that everything works here; its figures mean nothing.")
    for dose, heads in result.scored.items():
        for head in HEADS:
            best, own = result.best(dose, head), heads[head]["network"]
            line = f"{dose:g} electrons, {NAMES[head]}: PSNR "
            line += f"{_text(bootstrap_interval(own.psnr), '.2f')} dB, "
            line += f"{_text(result.gain(dose, head, best), '+.2f')} dB against {best}, tuned"
            if own.atoms is not None:
                rival = heads[head][best]
                line += f"; false atoms {_share(own.false_rate())}, {best} "
                line += f"{_share(rival.false_rate())}; missed columns "
                line += f"{_share(own.missed_rate())}, {best} {_share(rival.missed_rate())}"
            lines.append(line + ".")
    lines.append(
        f"Intervals are bootstraps over {len(result.scenes.pixel)} scenes, of one training."
    )
    return lines


def _text(value: tuple[float, float, float], form: str) -> str:
    return f"{value[0]:{form}} [{value[1]:{form}}, {value[2]:{form}}]"


def _share(value: tuple[float, float, float]) -> str:
    return _text(tuple(100 * v for v in value), ".2f") + " %"


def _cards(result: Judgement) -> list[Card]:
    dose = next(iter(result.scored))
    cards = []
    for head in HEADS:
        best, scored = result.best(dose, head), result.scored[dose][head]
        cards.append(
            Card(
                f"{NAMES[head]}, {dose:g} electrons",
                f"{scored['network'].psnr.mean():.2f} dB",
                f"{best}, tuned: {scored[best].psnr.mean():.2f} dB",
            )
        )
    return cards


def _quality(result: Judgement, head: str) -> Table:
    doses = list(result.scored)
    names = list(result.scored[doses[0]][head])
    rows = [
        [
            name if name == "network" else f"{name}, tuned",
            *(
                bootstrap_interval(getattr(result.scored[dose][head][name], what))
                for what in ("psnr", "ssim")
                for dose in doses
            ),
        ]
        for name in names
    ]
    header = [f"{what}, {d:g} e" for what in ("PSNR [dB]", "SSIM") for d in doses]
    tuned = "; ".join(
        f"{name}, {dose:g} e: {dict(result.scored[dose][head][name].setting)}"
        for name in names[1:]
        for dose in doses
    )
    exact = " The deconvolutions are given the exact probe of every image." * (head == "sharp")
    return Table(
        NAMES[head].capitalize(),
        ["method", *header],
        rows,
        note="Mean over scenes with matter, of crystals that were not trained, with 95 % "
        f"intervals; after the best gain and offset.{exact} "
        f"Tuned by PSNR on other scenes: {tuned}.",
        better=dict.fromkeys(header, "high"),
        highlight=[0],
    )


def _atoms(result: Judgement) -> Table:
    filled = result.scenes.filled
    rows = []
    for dose, heads in result.scored.items():
        for name, scored in heads["sharp"].items():
            rates = [scored.false_rate()]
            rates += [
                scored.false_rate(kept) if kept.any() else "none" for kept in (filled, ~filled)
            ]
            rows.append([f"{name}, {dose:g} e", *rates, scored.missed_rate()])
    header = ["false", "false, with matter", "false, empty scenes", "missed"]
    return Table(
        "Columns in the sharp image, per true column",
        ["method", *header],
        rows,
        note=f"{int(filled.sum())} scenes with matter (crystals with vacancies, edges and dopants, "
        f"glass), {int((~filled).sum())} with nothing but background. False: a maximum of the "
        "Laplacian of Gaussian above a quarter of a typical column's, where the true sharp image "
        "has nowhere half of that within 0.35 Å. One threshold for all methods.",
        better=dict.fromkeys(header, "low"),
        highlight=[i for i, row in enumerate(rows) if row[0].startswith("network")],
    )


def _examples(result: Judgement) -> list[Example]:
    dose, heads = next(iter(result.scored.items()))
    scenes, counts = result.scenes, result.scenes.counts(dose)
    filled = np.flatnonzero(scenes.filled)
    order = filled[np.argsort(heads["sharp"]["network"].psnr)]
    picked = list(dict.fromkeys([order[0], *order[len(order) // 2 :][:SHOWN]]))
    examples = []
    for i in picked:
        panels = [Panel("counts", counts[i])]
        for head in HEADS:
            true = scenes.truth[head][i] / scenes.truth[head][i].max()
            rival = result.best(dose, head)
            for name in ("network", rival):
                image = fit_affine(_image(heads[head][name], i), true)
                panels.append(Panel(f"{NAMES[head]}, {name}", image, window=(0, 1)))
            panels.append(Panel(f"{NAMES[head]}, truth", true, window=(0, 1)))
        caption = f"scene {i + 1}, {dose:g} electrons" + (", the worst" if i == order[0] else "")
        examples.append(Example(caption, panels))
    return examples


def _image(scored: Scored, index: int) -> np.ndarray:
    return np.asarray(scored.images[index], np.float64)
