"""The report on super-resolution: networks beside the classical methods, and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emjax.evaluation.super_resolution import SCORES, Judgement, enlarged, numbers
from emjax.report import Card, Example, Panel, Section, Table, training_curves, write_report
from emjax.results import write_results

if TYPE_CHECKING:
    from emjax.runs import Run

HEADER = ("PSNR [dB]", "SSIM", "spectrum [dB]", "edges [px]", "invented", "lost")
BETTER = dict(zip(HEADER, ("high", "high", "low", "low", "low", "low"), strict=True))
SHOWN = 3


def write_super_resolution_report(run: Run, config: Any, result: Judgement) -> None:
    """``report.html`` and ``results.json`` of the run."""
    found = numbers(result)
    write_results(run.path, found)
    lines = summary(result)
    write_report(
        run.path,
        title=f"Super-resolution, {result.scenes.factor} × finer pixels",
        subtitle="A test that everything runs: the figures mean nothing"
        if result.quick
        else "Proxy: phantoms stand in for recorded pairs of images",
        summary=lines,
        cards=_cards(result),
        sections=[
            Section("On recordings at low magnification", [_table(result)]),
            Section("Training", training_curves(run.metrics())),
            Section("Examples", _examples(result)),
        ],
        config=config,
    )
    for line in lines:
        run.print(line)


def summary(result: Judgement) -> list[str]:
    """Sentences for the report and the terminal."""
    lines = []
    if result.quick:
        lines.append("A quick run: it shows that everything works here; its figures mean nothing.")
    scored, bicubic = result.scored, result.scored["bicubic"]
    for name in result.ideal:
        gain = scored[name].over(bicubic, "psnr")
        lines.append(
            f"{name} (proxy): PSNR {_text(scored[name].mean('psnr'), '.2f')} dB, "
            f"{_text(gain, '+.2f')} dB against bicubic; spectrum error "
            f"{_text(scored[name].over(bicubic, 'spectrum', ratio=True), '.2f')} and edge error "
            f"{_text(scored[name].over(bicubic, 'edge', ratio=True), '.2f')} of bicubic's; "
            f"{_text(scored[name].mean('invented'), '.3f')} of the objects are invented, "
            f"{_text(scored[name].mean('lost'), '.3f')} lost."
        )
    if {"network, ideal", "network, real"} <= set(scored):
        worse = scored["network, ideal"].over(scored["network, real"], "psnr")
        lines.append(
            "Trained on averages of sharp images instead of recordings, the same network is "
            f"{_text(worse, '+.2f')} dB on recordings; on averages of sharp images it has "
            f"{_text(result.ideal['network, ideal'], '.2f')} dB against "
            f"{_text(result.ideal['network, real'], '.2f')} dB of the other."
        )
    rivals = {n: s for n, s in scored.items() if n not in result.ideal}
    best = max(rivals, key=lambda name: rivals[name].mean("psnr")[0])
    lines.append(
        f"The best classical method is {best} with "
        f"{_text(rivals[best].mean('psnr'), '.2f')} dB. Intervals are bootstraps over "
        f"{len(result.scenes.clean)} scenes, of one training."
    )
    return lines


def _text(value: tuple[float, float, float], form: str) -> str:
    return f"{value[0]:{form}} [{value[1]:{form}}, {value[2]:{form}}]"


def _cards(result: Judgement) -> list[Card]:
    bicubic = result.scored["bicubic"]
    return [
        Card(
            f"PSNR, {name}",
            result.scored[name].mean("psnr"),
            f"bicubic {bicubic.mean('psnr')[0]:.2f} dB",
        )
        for name in result.ideal
    ]


def _table(result: Judgement) -> Table:
    names = list(result.scored)
    rows = [[name, *(result.scored[name].mean(key) for key in SCORES)] for name in names]
    tuned = "; ".join(f"{name}: {values}" for name, values in result.parameters.items())
    return Table(
        "Means with 95 % intervals over scenes",
        ["method", *HEADER],
        rows,
        note="After one gain and offset of least squares; data range 1, Gaussian window of 1.5 px. "
        "Spectrum: mean over rings of the difference of powers. Edges: distance from the true "
        "outline along its normal, 4 px where there is none. Invented: regions above the level "
        "half way between objects and surroundings that touch no true object; lost: true "
        f"objects of which nothing was found. Tuned by PSNR on other scenes: {tuned}.",
        better=BETTER,
        highlight=[i for i, name in enumerate(names) if name in result.ideal],
    )


def _examples(result: Judgement) -> list[Example]:
    scenes, examples = result.scenes, []
    first = next(iter(result.ideal))
    order = np.argsort(result.scored[first].values["psnr"])
    picked = list(dict.fromkeys([*range(min(SHOWN, len(order))), int(order[0])]))
    shown = [n for n in ("bicubic", "Richardson-Lucy, tuned", *result.ideal) if n in result.scored]
    for i in picked:
        coarse = enlarged(scenes.coarse[i : i + 1], scenes.factor, "nearest")[0]
        panels = [Panel("recorded", coarse), Panel("truth", scenes.clean[i], window=(0, 1))]
        panels += [Panel(n, result.scored[n].images[i], window=(0, 1)) for n in shown]
        detail = " · ".join(f"{n} {result.scored[n].values['psnr'][i]:.1f} dB" for n in shown)
        caption = f"scene {i + 1}" + (", the worst" if i == order[0] else "")
        examples.append(Example(caption, panels, detail))
    return examples
