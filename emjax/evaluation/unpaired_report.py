"""The report on denoising without pairs: similarity of frames never without the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emjax.evaluation.unpaired import PSNR_MARGIN, SCORES, Judgement, numbers
from emjax.report import Card, Example, Panel, Section, Table, training_curves, write_report
from emjax.results import write_results

if TYPE_CHECKING:
    from emjax.runs import Run

HEADER = ("PSNR [dB]", "SSIM", "CSS", "residual")
SHOWN = 3


def write_unpaired_report(run: Run, config: Any, result: Judgement) -> None:
    """``report.html`` and ``results.json`` of the run."""
    write_results(run.path, numbers(result))
    lines = summary(result)
    own = result.scored[result.networks[0]]
    write_report(
        run.path,
        title="Denoising without pairs",
        subtitle="A test that everything runs: the figures mean nothing"
        if result.quick
        else "Noisy images of columns on one side, pictures of spots on the other",
        summary=lines,
        cards=[
            Card("PSNR [dB]", own.mean("psnr"), _beside(result, "psnr", ".2f")),
            Card("SSIM", own.mean("ssim"), _beside(result, "ssim", ".3f")),
            Card("CSS", own.mean("css"), f"best of the others: {result.css_rival}"),
        ],
        sections=[
            Section("Against the truth, and frame against frame", [_table(result)]),
            Section("Training", training_curves(run.metrics())),
            Section("Examples", _examples(result)),
        ],
        config=config,
    )
    for line in lines:
        run.print(line)


def summary(result: Judgement) -> list[str]:
    """Sentences for the report and the terminal."""
    name, n2v = result.networks[:2]
    own, other, scored = result.scored[name], result.scored[n2v], result.scored
    lines = []
    if result.quick:
        lines.append("A quick run: it shows that everything works here; its figures mean nothing.")
    lines.append(
        f"{name}: PSNR {_text(own.mean('psnr'), '.2f')} dB, SSIM {_text(own.mean('ssim'), '.3f')}, "
        f"CSS {_text(own.mean('css'), '.3f')}."
    )
    lines.append(
        f"Against {n2v}, trained on the same images in as many updates: PSNR "
        f"{_text(own.over(other, 'psnr'), '+.2f')} dB (no less than -{PSNR_MARGIN:g} is asked "
        f"for), SSIM {_text(own.over(other, 'ssim'), '+.3f')}."
    )
    rival = result.css_rival
    lines.append(
        f"CSS against the best of the others by CSS ({rival}): "
        f"{_text(own.over(scored[rival], 'css'), '+.3f')}. CSS rewards smoothing: "
        f"{rival} has SSIM {scored[rival].mean('ssim')[0]:.3f} against the truth."
    )
    verdict = result.verdict
    failed = [key.upper() for key, good in verdict.items() if not good]
    lines.append(
        "All conditions are met: CSS, PSNR and true SSIM."
        if not failed
        else f"Not met: {', '.join(failed)}."
        + (" Its true SSIM is below that of simpler methods." if not verdict["ssim"] else "")
    )
    lines.append(
        f"Intervals are bootstraps over {len(result.series.clean)} scenes, of one training."
        + "".join(f" Left out: {n} ({why})." for n, why in result.left_out.items())
    )
    return lines


def _text(value: tuple[float, float, float], form: str) -> str:
    return f"{value[0]:{form}} [{value[1]:{form}}, {value[2]:{form}}]"


def _beside(result: Judgement, score: str, form: str) -> str:
    names = [name for name in result.scored if name != result.networks[0]]
    best = max(names, key=lambda name: result.scored[name].mean(score)[0])
    return f"best of the others: {best} {result.scored[best].mean(score)[0]:{form}}"


def _table(result: Judgement) -> Table:
    names = list(result.scored)
    rows = [[name, *(result.scored[name].mean(key) for key in SCORES)] for name in names]
    settings = "; ".join(f"{n}: {s.setting}" for n, s in result.scored.items() if s.setting)
    return Table(
        "Means with 95 % intervals over scenes",
        ["method", *HEADER],
        rows,
        note="PSNR and SSIM (Gaussian window of 1.5 px) after one gain and offset of least "
        "squares, data range 1. CSS: SSIM of each frame with the one before; a constant image has "
        "1. Residual: correlation of neighbouring pixels of what was removed, 0 for noise alone. "
        f"Tuned by PSNR on other scenes: {settings}.",
        better={"PSNR [dB]": "high", "SSIM": "high"},
        highlight=[names.index(result.networks[0])],
    )


def _examples(result: Judgement) -> list[Example]:
    series, examples = result.series, []
    own = result.scored[result.networks[0]]
    order = np.argsort(own.values["psnr"])
    shown = [n for n in ("gaussian", "wiener_fourier") if n in result.scored]
    shown = [*shown[-1:], *reversed(result.networks)]
    for i in dict.fromkeys([*range(min(SHOWN, len(order))), int(order[0])]):
        panels = [
            Panel("recorded", series.counts[i, 0]),
            Panel("truth", series.clean[i], window=(0, 1)),
        ]
        panels += [Panel(n, result.scored[n].images[i], window=(0, 1)) for n in shown]
        detail = " · ".join(f"{n} {result.scored[n].values['psnr'][i]:.1f} dB" for n in shown)
        caption = f"scene {i + 1}" + (", the worst" if i == order[0] else "")
        examples.append(Example(caption, panels, detail))
    return examples
