"""From the contents of a report to its HTML page.

Numbers are formatted, pictures encoded and given their display windows here; how things look is in
templates/report.html.j2. Pictures are reduced until the page fits its size.
"""

from __future__ import annotations

import base64
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emjax import plots, report_svg
from emjax.report import Card, Curve, Example, Panel, Report, Table

SIDES = (512, 384, 288, 224, 176, 128, 96)  # px of the longest side that are tried, in this order


def render(report: Report, *, max_bytes: int) -> str:
    """The page as text, its pictures just small enough for `max_bytes` (if 96 px are enough)."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    template = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("report.html.j2")
    colours = _label_colours(report)
    page = ""
    for side in SIDES:
        sections = [
            {"title": s.title, "text": s.text, "blocks": list(_blocks(s.items, side, colours))}
            for s in report.sections
        ]
        page = template.render(
            report=report,
            cards=[_card(card) for card in report.cards],
            sections=sections,
            config=_flat(report.config),
            env=_flat({k: v for k, v in report.env.items() if k != "command"}),
            gradients={cmap: _gradient(cmap) for cmap in sorted(_cmaps(report))},
            reduced=side if _largest(report) > side else 0,
        )
        if len(page.encode("utf-8")) <= max_bytes:
            break
    return page


def format_column(cells: Sequence[Any]) -> list[str]:
    """Texts of a table's column: numbers get the same, sensible number of decimals.

    Intervals ask for the digits that their half width gives sense to, plain numbers for three.
    """
    values = [_middle(cell) for cell in cells]
    floats = [abs(v) for v in values if isinstance(v, float) and math.isfinite(v) and v]
    halves = [(c[2] - c[1]) / 2 for c in cells if _is_interval(c) and c[2] > c[1]]
    decimals = 0
    if halves:
        # two digits of half widths up to 0.0355, one of larger ones up to 0.1 (the PDG's rule)
        decimals = max(-math.floor(math.log10(half / 3.55)) for half in halves)
    elif floats:
        decimals = 2 - math.floor(np.mean(np.log10(floats)))
    # one rule does not fit 0.001 and 1000: then each number gets its own three digits
    mixed = bool(floats) and not halves and max(floats) / min(floats) > 300
    return [_text(v, None if mixed else min(max(decimals, 0), 4)) for v in values]


def _text(value: Any, decimals: int | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        text = f"{value:,}" if abs(value) >= 10_000 else str(value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
        if decimals is None or (value and abs(value) < 0.5 * 10.0**-decimals):
            return report_svg.number(float(f"{value:.3g}"))
        text = f"{value:,.{decimals}f}" if abs(value) >= 10_000 else f"{value:.{decimals}f}"
    else:
        return str(value)
    return text.replace(",", "\u202f").replace("-", "−")


def _is_interval(cell: Any) -> bool:
    return (
        isinstance(cell, (tuple, list))
        and len(cell) == 3
        and all(isinstance(v, (int, float)) for v in cell)
    )


def _middle(cell: Any) -> Any:
    return float(cell[0]) if _is_interval(cell) else cell


def _range(cell: Any, like: str) -> str:
    """ "low – high" of an interval, with the decimals of the formatted value `like`."""
    if not _is_interval(cell) or not all(math.isfinite(v) for v in cell[1:]):
        return ""
    decimals = len(like.partition(".")[2]) if "×" not in like else None
    return f"{_text(float(cell[1]), decimals)} – {_text(float(cell[2]), decimals)}"


def _card(card: Card) -> dict[str, str]:
    value = format_column([card.value])[0]
    return {
        "label": card.label,
        "value": value,
        "range": _range(card.value, value),
        "note": card.note,
    }


def _table(table: Table) -> dict[str, Any]:
    body = [row for row in table.rows if len(row) > 1 or len(table.columns) == 1]
    columns = [[row[i] for row in body] for i in range(len(table.columns))]
    texts = [format_column(column) for column in columns]
    numeric = [
        any(isinstance(_middle(c), (int, float)) for c in column) and i > 0
        for i, column in enumerate(columns)
    ]
    axes = [_axis(column) for column in columns]
    if sum(axis is not None for axis in axes) > 3:  # too narrow to tell anything
        axes = [None] * len(axes)
    best = _best(table, body)
    rows: list[dict[str, Any]] = []
    number = 0
    for row in table.rows:
        if len(row) == 1 and len(table.columns) > 1:
            rows.append({"heading": row[0]})
            continue
        cells = []
        for i, cell in enumerate(row):
            text, axis = texts[i][number], axes[i]
            whisker = axis is not None and _range(cell, text) != ""
            svg = ""
            if whisker and axis:
                svg = report_svg.whisker_svg(float(cell[0]), float(cell[1]), float(cell[2]), axis)
            cells.append(
                {
                    "text": text,
                    "range": _range(cell, text),
                    "svg": svg,
                    "best": (number, i) in best,
                    "numeric": numeric[i],
                }
            )
        rows.append({"heading": "", "cells": cells, "ours": number in table.highlight})
        number += 1
    heads = [{"text": c, "numeric": n} for c, n in zip(table.columns, numeric, strict=True)]
    return {"kind": "table", "table": table, "heads": heads, "rows": rows}


def _axis(column: Sequence[Any]) -> tuple[float, float] | None:
    """Common range of a column's whiskers, None where fewer than two rows have one."""
    found = [c for c in column if _is_interval(c) and all(math.isfinite(v) for v in c)]
    if len(found) < 2:
        return None
    low, high = min(min(c) for c in found), max(max(c) for c in found)
    return (low, high) if high > low else None


def _best(table: Table, body: Sequence[Sequence[Any]]) -> set[tuple[int, int]]:
    """(row, column) of the best numbers, among the rows between two headings."""
    groups: list[list[int]] = [[]]
    number = 0
    for row in table.rows:
        if len(row) == 1 and len(table.columns) > 1:
            groups.append([])
        else:
            groups[-1].append(number)
            number += 1
    best = set()
    for column, which in table.better.items():
        i = list(table.columns).index(column)
        for group in groups:
            values = {n: _middle(body[n][i]) for n in group}
            values = {n: v for n, v in values.items() if isinstance(v, (int, float)) and v == v}
            if len(values) > 1:
                top = (max if which == "high" else min)(values.values())
                best |= {(n, i) for n, v in values.items() if v == top}
    return best


def _blocks(
    items: Sequence[Any], side: int, colours: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """What the template lays out: tables, rows of pictures, and runs of curves side by side."""
    curves: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, Curve):
            colours_of = [report_svg.line_class(i) for i in range(len(item.lines))]
            svg = report_svg.curve_svg(item)
            curves.append({"curve": item, "svg": svg, "colours": colours_of})
            continue
        if curves:
            yield {"kind": "curves", "curves": curves}
            curves = []
        yield _table(item) if isinstance(item, Table) else _example(item, side, colours)
    if curves:
        yield {"kind": "curves", "curves": curves}


def _example(example: Example, side: int, colours: Mapping[str, str]) -> dict[str, Any]:
    legend: dict[tuple[str, str], dict[str, str]] = {}
    for panel in example.panels:
        for points in panel.points:
            colour, marker = points.colour or colours[points.label], points.marker
            if points.label:
                path = report_svg.marker_path(np.array([[7.5, 7.5]]), marker, 4.2)
                legend[points.label, marker] = {
                    "label": points.label,
                    "colour": colour,
                    "path": path,
                    "width": "6" if marker == "dot" else "1.7",
                }
        for number, name in enumerate(panel.classes):
            rgb = plots.palette("labels")[number]
            colour = "#" + "".join(f"{v:02x}" for v in rgb)
            legend[name, "class"] = {"label": name, "colour": colour, "path": "", "width": "0"}
    windows = _windows(example.panels)
    panels = [
        _panel(panel, window, side, colours)
        for panel, window in zip(example.panels, windows, strict=True)
    ]
    across = len(panels) if len(panels) <= 5 else 4
    return {
        "kind": "example",
        "example": example,
        "panels": panels,
        "legend": list(legend.values()),
        "across": across,
    }


def _windows(panels: Sequence[Panel]) -> list[tuple[float, float]]:
    """The display window of each panel: its own, or one shared by the row's panels of its map."""
    shared: dict[str, tuple[float, float]] = {"labels": (0.0, 255.0), "phase": (-math.pi, math.pi)}
    for cmap in {p.cmap for p in panels} - set(shared):
        images = [
            p.image for p in panels if p.cmap == cmap and p.window is None and p.image.ndim == 2
        ]
        make = plots.symmetric_window if cmap == "residual" else plots.display_window
        shared[cmap] = make(images)
    return [p.window or shared[p.cmap] for p in panels]


def _panel(
    panel: Panel, window: tuple[float, float], side: int, colours: Mapping[str, str]
) -> dict[str, Any]:
    ny, nx = panel.image.shape[:2]
    small = plots.shrink(panel.image, side, labels=panel.cmap == "labels")
    step_y, step_x = np.broadcast_to(1.0 if panel.sampling is None else panel.sampling, (2,))
    everything = np.concatenate([p.xy for p in panel.points] or [np.zeros((0, 2))])
    radius = plots.marker_radius(everything, nx)
    marks = [
        {
            "path": report_svg.marker_path(p.xy, p.marker, radius),
            "colour": p.colour or colours[p.label],
            "weight": {"dot": "dot", "cross": "line", "plus": "line"}.get(p.marker, ""),
            "title": f"{p.label} ({len(p.xy)})",
        }
        for p in panel.points
        if len(p.xy)
    ]
    bar = None
    if panel.sampling is not None:
        fraction, label = plots.scale_bar(nx, float(step_x), panel.unit)
        bar = {"percent": f"{100 * fraction:.3f}", "label": label}
    has_values = panel.image.ndim == 2 and panel.cmap != "labels"
    png = plots.png_bytes(plots.picture(small, window, panel.cmap))
    broken = int(panel.image.size - np.isfinite(panel.image).sum()) if has_values else 0
    return {
        "title": panel.title,
        "png": base64.b64encode(png).decode("ascii"),
        "nx": nx,
        "ny": ny,
        "aspect": f"{nx * float(step_x):.6g} / {ny * float(step_y):.6g}",
        "coarse": max(nx, ny) <= 128,
        "marks": marks,
        # small rings get a thin line: they must not hide what they mark
        "stroke": f"{np.clip(180 * radius / nx, 1.2, 1.9):.2f}",
        "bar": bar,
        "cmap": panel.cmap if has_values else "",
        "low": _text(float(window[0]), None),
        "high": _text(float(window[1]), None),
        "broken": broken,
    }


def _panels(report: Report) -> Iterator[Panel]:
    for section in report.sections:
        for item in section.items:
            if isinstance(item, Example):
                yield from item.panels


def _label_colours(report: Report) -> dict[str, str]:
    """A colour for every label of points without one: the same in every row of the page."""
    labels = [p.label for panel in _panels(report) for p in panel.points if not p.colour]
    return {label: plots.species_colour(i) for i, label in enumerate(dict.fromkeys(labels))}


def _cmaps(report: Report) -> set[str]:
    return {p.cmap for p in _panels(report) if p.image.ndim == 2 and p.cmap != "labels"}


def _largest(report: Report) -> int:
    return max((max(p.image.shape[:2]) for p in _panels(report)), default=0)


@functools.cache
def _gradient(cmap: str) -> str:
    stops = plots.palette(cmap)[np.linspace(0, 255, 13).astype(int)]
    return ",".join("#" + "".join(f"{v:02x}" for v in rgb) for rgb in stops)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested dictionaries as ("optics.energy", "60000.0") pairs."""
    pairs: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            pairs.append((name, ", ".join(str(v) for v in value)))
        else:
            pairs.append((name, "" if value is None else str(value)))
    return pairs
