"""The report on a restorer of partial scans: bars, tables of every row, examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emjax.evaluation.inpainting import ERROR, Bar, Line
from emjax.evaluation.inpainting_rows import Judgement
from emjax.report import Card, Example, Panel, Section, Table, training_curves, write_report
from emjax.results import write_results

if TYPE_CHECKING:
    from emjax.runs import Run

TITLES = {
    "I1": "I1: few measured pixels, error against the blurred truth",
    "I2": "I2: few pixels for long, or all pixels briefly, at one total dose",
    "I3": "I3: a fifth of the pixels of lattices, against compressive sensing",
    "I5": "I5: dead pixels and lines in lattices",
}
NOTES = {
    "I1": "Root mean squared error of pictures whose truth spans -1 … 1, both blurred over 5 x 5 "
    "pixels (sigma 2.5). Coverages are actual ones. The published 0.038 at 1/17.9 and 0.062 at "
    "1/87 are of other, experimental pictures (proxy).",
    "I2": "PSNR of a range of 1, without any fit. The doses are electrons at the brightest pixel, "
    "averaged over all pixels, measured or not.",
    "I3": "PSNR of a range of 1, without any fit; Gaussian columns (proxy).",
    "I5": "PSNR of the missing pixels alone; Gaussian columns (proxy).",
}


def numbers(config: Any, result: Judgement) -> dict[str, Any]:
    """What `results.json` holds."""
    return {
        "seed": getattr(config, "seed", 0),
        "quick": result.quick,
        "pictures": result.scenes,
        "bars": [
            {"row": b.row, "what": b.text, "value": b.value, "wanted": b.wanted, "met": b.met}
            for b in result.bars
        ],
        "lines": [
            {
                **{name: getattr(line, name) for name in NAMES},
                "pictures": len(line.values),
                "value": line.interval,
            }
            for line in result.lines
        ],
        "defects": result.defects,
    }


NAMES = ("row", "condition", "method", "setting", "unit", "coverage")


def write_inpainting_report(run: Run, config: Any, result: Judgement) -> None:
    """``report.html`` and ``results.json`` of the run, and the bars on the screen."""
    summary = _summary(result)
    write_results(run.path, numbers(config, result))
    write_report(
        run.path,
        title="Partial scans completed",
        subtitle="A test that everything runs: the figures mean nothing"
        if result.quick
        else "Network against tuned interpolation and compressive sensing, on unseen specimens",
        summary=summary,
        cards=[_card(bar) for bar in result.bars if not bar.text.startswith(("linear", "dct"))],
        sections=[
            _bars(result),
            *(_row(result, row) for row in TITLES),
            _defects(result),
            _examples(result),
            Section("Training", training_curves(run.metrics())),
        ],
        config=config,
    )
    for line in summary:
        run.print(line)


def _summary(result: Judgement) -> list[str]:
    lines = []
    if result.quick:
        lines.append(
            "A quick run: a few updates of a tiny network, judged on a few pictures. It shows that "
            "everything works here; its figures mean nothing."
        )
    return lines + [f"{bar.row} {_said(bar)}." for bar in result.bars]


def _said(bar: Bar) -> str:
    value, low, high = bar.value
    side = "at least" if bar.above else "at most"
    verdict = "met" if bar.met else "not met"
    return (
        f"{bar.text}: {value:.3f} [{low:.3f}, {high:.3f}], {side} {bar.wanted:g} wanted, {verdict}"
    )


def _card(bar: Bar) -> Card:
    side = "≥" if bar.above else "≤"
    note = f"95 % [{bar.value[1]:.3f}, {bar.value[2]:.3f}]; bar {side} {bar.wanted:g}"
    return Card(f"{bar.row}: {bar.text}", f"{bar.value[0]:.3f}", note)


def _bars(result: Judgement) -> Section:
    rows = [
        [b.row, b.text, b.value, f"{'≥' if b.above else '≤'} {b.wanted:g}", _met(b)]
        for b in result.bars
    ]
    note = "A bar is met by the unfavourable end of the 95 % interval over pictures."
    columns = ["row", "what", "value", "wanted", "met"]
    return Section("Bars", [Table("What was asked for", columns, rows, note=note)])


def _met(bar: Bar) -> str:
    return "yes" if bar.met else "no"


def _row(result: Judgement, row: str) -> Section:
    lines: list[Line] = [line for line in result.lines if line.row == row]
    unit = lines[0].unit
    cells: list[list[Any]] = []
    highlight, count = [], 0
    for condition in dict.fromkeys(line.condition for line in lines):
        cells.append([condition])
        for line in (x for x in lines if x.condition == condition):
            if line.method == "network":
                highlight.append(count)
            cells.append(
                [line.method, line.setting, line.coverage, len(line.values), line.interval]
            )
            count += 1
    table = Table(
        f"{unit}, mean over pictures",
        ["method", "setting", "coverage", "pictures", unit],
        cells,
        note=NOTES[row],
        better={unit: "low" if unit == ERROR else "high"},
        highlight=highlight,
    )
    return Section(TITLES[row], [table])


def _defects(result: Judgement) -> Section:
    names = (
        ("recall on the path", "on"),
        ("recall off the path", "off"),
        ("present, shown as missing: on", "hallucinated_on"),
        ("… off", "hallucinated_off"),
        ("detection on", "detection_on"),
        ("detection off", "detection_off"),
        ("difference", "difference"),
    )
    rows = [[name, *(rates[key] for _, key in names)] for name, rates in result.defects.items()]
    note = (
        "Missing columns on the path of a spiral of 1/17.9 and off it. Off the path nothing was "
        "measured of them: a method that shows a gap there shows as many where columns are. "
        "Detection is recall less the rate among columns that are there."
    )
    columns = ["method", *(title for title, _ in names)]
    return Section("I4: what was not measured is not found", [Table("Rates", columns, rows, note)])


def _examples(result: Judgement) -> Section:
    items = [
        Example(name, [Panel(title, image) for title, image in pictures.items()])
        for name, pictures in result.examples.items()
    ]
    return Section("Examples: the first picture of each condition", items)
