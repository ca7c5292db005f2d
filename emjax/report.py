"""What an experiment leaves behind for a person to look at: RUN/report.html.

An experiment hands over sections made of tables, curves and rows of pictures:

    write_report(
        run.path,
        title="Atom columns",
        summary=["What was done, what came out, what to doubt."],
        cards=[Card("F1, unseen scenes", (0.96, 0.95, 0.97))],
        sections=[
            Section("Results", [Table(...)]),
            Section("Training", training_curves(run.metrics())),
            Section("Examples", [Example("SrTiO3", [Panel(...), Panel(...)], "20 electrons")]),
        ],
    )

and gets one self-contained page: no script, nothing loaded from elsewhere, below 3 MB. The contents
are kept in RUN/report.json and RUN/report.npz; `rerender` makes the page again from these two
files (after a change of the template, say), without the network and without jax.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emjax import report_store
from emjax.files import write_text
from emjax.plots import CMAPS
from emjax.report_store import ReportError

MARKERS = ("ring", "dot", "cross", "plus", "square", "diamond", "triangle")
_NAMES = {"grad_norm": "gradient norm", "learning_rate": "learning rate", "f1": "F1"}
_CLOCKS = ("seconds", "time", "elapsed", "images_per_s")
MAX_BYTES = 3_000_000  # a page that still goes through the mail


class Points(NamedTuple):
    """Marks on a panel. `xy` [n, 2] in pixels of the panel's image, pixel i AT i."""

    xy: Any
    label: str
    colour: str = ""  # "#rrggbb"; if empty, one colour per label throughout the report
    marker: str = "ring"  # one of MARKERS


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture: `image` [y, x], or colours [y, x, 3] (uint8, or floats 0 to 1)."""

    title: str
    image: np.ndarray
    sampling: float | tuple[float, float] | None = None
    """Pixel size, a number or (y, x), in `unit`; None leaves the scale bar out."""
    points: Sequence[Any] = ()
    """Points, or plain tuples (xy, label), (xy, label, colour), (xy, label, colour, marker)."""
    window: tuple[float, float] | None = None
    """(black, white). None: the panels of one row that have the same `cmap` share a window, taken
    from percentiles of their pixels; residuals get a symmetric one."""
    cmap: str = "gray"
    """gray, magma, viridis, residual, phase (cyclic, -pi to pi) or labels (class numbers)."""
    unit: str = "Å"
    classes: Sequence[str] = ()
    """Names of the class numbers, for `labels`."""

    def __post_init__(self) -> None:
        image = np.asarray(self.image)
        where = f"the panel {self.title!r}"
        colours = image.ndim == 3 and image.shape[-1] == 3
        if image.size == 0 or not (image.ndim == 2 or colours):
            raise ReportError(
                f"{where} needs an image [y, x] (or colours [y, x, 3]), not an array of shape "
                f"{image.shape}: choose one image of the batch and one channel"
            )
        if np.iscomplexobj(image):
            raise ReportError(f"{where} is complex: show np.abs(...) or np.angle(...) of it")
        if self.cmap not in (*CMAPS, "labels"):
            known = ", ".join([*CMAPS, "labels"])
            raise ReportError(f"unknown colour map {self.cmap!r} of {where}: choose from {known}")
        steps = np.asarray(1.0 if self.sampling is None else self.sampling, float)
        if steps.shape not in ((), (2,)) or not (np.isfinite(steps) & (steps > 0)).all():
            raise ReportError(
                f"{where} has the pixel size {self.sampling!r}: give one positive number, (y, x), "
                "or None for a picture without a scale bar"
            )
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ReportError(f"{where} has the window {self.window}: give (black, white)")
        if image.dtype != np.uint8:
            image = image.astype(np.float32)
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "points", tuple(_points(p, where) for p in self.points))


@dataclass(frozen=True, eq=False)
class Example:
    """A row of panels with a caption; `detail` holds dose, pixel size, scores of this row."""

    caption: str
    panels: Sequence[Panel]
    detail: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of cells: text, a number, or (value, low, high) for a number with its 95 % interval.

    A row of a single cell is a heading for the rows below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    better: Mapping[str, str] = field(default_factory=dict)
    """{column: "high" or "low"}: the best number below each heading is set in bold."""
    highlight: Sequence[int] = ()
    """Rows (counted without headings) of the method that the report is about."""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) not in (1, len(self.columns)):
                raise ReportError(
                    f"row {number} of the table {self.title!r} has {len(row)} cells for "
                    f"{len(self.columns)} columns: give one cell a column, or one for a heading"
                )
        for column, which in self.better.items():
            if column not in self.columns or which not in ("high", "low"):
                raise ReportError(
                    f"better={{{column!r}: {which!r}}} of the table {self.title!r}: name one of "
                    f"the columns {list(self.columns)} and 'high' or 'low'"
                )


@dataclass(frozen=True, eq=False)
class Curve:
    """Lines over one pair of axes: {label: (x, y)} or {label: (x, y, low, high)} with a band.

    Points that are not finite, or not positive on a logarithmic axis, are left out.
    """

    title: str
    lines: Mapping[str, Any]
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    kind: str = "line"  # line, points or steps
    note: str = ""

    def __post_init__(self) -> None:
        lines = {}
        for label, arrays in self.lines.items():
            arrays = tuple(np.asarray(a, np.float64).ravel() for a in arrays)
            if len(arrays) not in (2, 4) or len({a.size for a in arrays}) > 1:
                raise ReportError(
                    f"the line {label!r} of {self.title!r} needs (x, y) or (x, y, low, high) of "
                    f"one length, not arrays of lengths {[a.size for a in arrays]}"
                )
            lines[label] = arrays
        if self.kind not in ("line", "points", "steps"):
            raise ReportError(
                f"unknown kind {self.kind!r} of {self.title!r}: choose from line, points, steps"
            )
        object.__setattr__(self, "lines", lines)


@dataclass(frozen=True, eq=False)
class Card:
    """A headline figure: text, a number or (value, low, high)."""

    label: str
    value: Any
    note: str = ""


@dataclass(frozen=True, eq=False)
class Section:
    """A heading with tables, curves and examples in the order given."""

    title: str
    items: Sequence[Table | Curve | Example]
    text: str = ""


@dataclass(frozen=True, eq=False)
class Report:
    """All that the page shows."""

    title: str
    name: str
    written: str
    subtitle: str
    summary: Sequence[str]
    cards: Sequence[Card]
    sections: Sequence[Section]
    config: Mapping[str, Any]
    env: Mapping[str, Any]
    commands: Mapping[str, str]


def write_report(
    run_path: str | os.PathLike[str],
    *,
    title: str,
    summary: Sequence[str] = (),
    cards: Sequence[Card] = (),
    sections: Sequence[Section] = (),
    config: Any = None,
    env: Mapping[str, Any] | None = None,
    command: str | Mapping[str, str] | None = None,
    subtitle: str = "",
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Write RUN/report.html (with report.json and report.npz beside it) and return its path.

    Parameters
    ----------
    title, subtitle : of the page.
    summary : a few sentences, each a paragraph: what was done, what came out, what to doubt.
    cards : the headline figures.
    sections : tables, curves and examples, in the order of the page.
    config, env : a dataclass or a dictionary; RUN/config.json and RUN/env.json if not given.
    command : the exact command to repeat the run, or {heading: command}; the "command" of `env`
        if not given.
    max_bytes : pictures are averaged to fewer pixels until the page is no larger than this.

    Raises
    ------
    ReportError : contents that cannot be shown (raised by Panel, Table and Curve, too).
    """
    folder = Path(run_path)
    env = _read_json(folder / "env.json") if env is None else env
    if config is None:
        config = _read_json(folder / "config.json")
        if isinstance(config.get("config"), dict):  # a run's: experiment, preset, config
            config = {k: v for k, v in config.items() if k != "config"} | config["config"]
    if command is None:
        command = str(env.get("command") or "")
    if isinstance(command, str):
        command = {"Repeat this run": command} if command else {}
    report = Report(
        title=title,
        name=folder.resolve().name,
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        subtitle=subtitle,
        summary=(summary,) if isinstance(summary, str) else tuple(summary),
        cards=tuple(cards),
        sections=tuple(sections),
        config=asdict(config) if is_dataclass(config) else dict(config),  # type: ignore[arg-type]
        env=dict(env),
        commands=dict(command),
    )
    folder.mkdir(parents=True, exist_ok=True)
    # the page is made from what was saved, so that `rerender` gives the same one
    return _write_page(folder, report_store.save(folder, report, _TYPES), max_bytes)


def rerender(run_path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Path:
    """Make RUN/report.html again from RUN/report.json and RUN/report.npz, and return its path.

    Raises
    ------
    ReportError : there is no saved report, or its files are damaged or do not belong together.
    """
    folder = Path(run_path)
    return _write_page(folder, load_report(folder), max_bytes)


def load_report(run_path: str | os.PathLike[str]) -> Report:
    """Read the contents of a report back. Raises ReportError as `rerender` does."""
    return report_store.load(Path(run_path), _TYPES)


def training_curves(metrics: Mapping[str, Sequence[float]], *, x: str = "step") -> list[Curve]:
    """Curves of a run's metrics ({column: values}, missing values NaN), over the column `x`.

    `loss` and `val_loss` (also eval_, valid_, test_) go into one picture. An axis is logarithmic
    when its values are positive and span more than a factor of ten. Columns that do not change, and
    clocks, are left out.
    """
    if x not in metrics:
        raise ReportError(f"no column {x!r} among the metrics {list(metrics)}")
    groups: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    steps = np.asarray(metrics[x], np.float64)
    for name, values in metrics.items():
        y = np.asarray(values, np.float64)
        there = np.isfinite(y)
        if name in (x, *_CLOCKS) or there.sum() < 2 or np.ptp(y[there]) == 0:
            continue
        part, _, rest = name.replace("/", "_").partition("_")
        held_out = part in ("val", "valid", "eval", "test")
        key, label = (rest, "held-out") if held_out else (name, "training")
        groups.setdefault(key, {})[label] = (steps[there], y[there])
    curves = []
    for key, lines in groups.items():
        y = np.concatenate([line[1] for line in lines.values()])
        log = bool(y.min() > 0 and y.max() / y.min() > 10)
        words = _NAMES.get(key, key.replace("_", " "))
        title = words[:1].upper() + words[1:]
        if list(lines) == ["held-out"]:
            title += ", held-out"
        curves.append(Curve(title, lines, x_label=x, log_y=log))
    return curves


def _points(item: Any, where: str) -> Points:
    points = Points(*item)
    xy = np.asarray(points.xy, np.float32)
    if xy.size == 0:
        xy = np.zeros((0, 2), np.float32)
    if xy.ndim != 2 or xy.shape[1] != 2:
        raise ReportError(
            f"the points {points.label!r} of {where} have the shape {xy.shape}: give [n, 2], (x, y)"
        )
    if points.marker not in MARKERS:
        known = ", ".join(MARKERS)
        raise ReportError(f"unknown marker {points.marker!r} of {where}: choose from {known}")
    return points._replace(xy=xy[np.isfinite(xy).all(axis=1)])


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _write_page(folder: Path, report: Report, max_bytes: int) -> Path:
    from emjax.report_page import render

    path = folder / "report.html"
    write_text(path, render(report, max_bytes=max_bytes))
    return path


_TYPES = {c.__name__: c for c in (Report, Section, Example, Panel, Points, Table, Curve, Card)}
