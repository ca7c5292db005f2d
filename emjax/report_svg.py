"""Small vector drawings for a report: curves with axes, interval whiskers, marks on pictures.

Functions return markup; every text that comes from outside is escaped here. Colours are classes
(c0 ... c5) of the page's style sheet, so that the drawings follow light and dark mode.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from emjax.report import Curve

WIDTH, HEIGHT = 480.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 14.0, 24.0, 42.0
COLOURS = 6
MAX_POINTS = 400  # of a line: more are not seen at this size


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 5 times a power of ten apart) from `low` to `high`."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    decade = 10.0 ** math.floor(math.log10(raw))
    step = next(m * decade for m in (1, 2, 5, 10) if m * decade >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> tuple[list[float], list[float]]:
    """(labelled, unlabelled) ticks of a logarithmic axis from `low` to `high` (both positive)."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = [(m * 10.0**d, m, d) for d in range(first, last + 1) for m in range(1, 10)]
    inside = [t for t in every if low * (1 - 1e-9) <= t[0] <= high * (1 + 1e-9)]
    decades = sum(m == 1 for _, m, _ in inside)
    skip = 1 + (last - first) // 7
    if decades >= 3:
        named = [v for v, m, d in inside if m == 1 and d % skip == 0]
    else:
        named = [v for v, m, _ in inside if m in ((1, 2, 5) if decades else range(1, 10))]
    return named, [v for v, _, _ in inside if v not in named] if skip == 1 else []


def power(value: float) -> str:
    """A decade as a power of ten: '10⁻³'; 1 and 10 as they are."""
    raised = round(math.log10(value))
    return f"{value:g}" if raised in (0, 1) else f"10{_raise(raised)}"


def _raise(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def number(value: float) -> str:
    """A tick's label: 0.25, 5000, 20 000, 3×10⁻⁴.

    >>> [number(v) for v in (0.25, 5000, 20000, 3e-4, 1e7)]
    ['0.25', '5000', '20\u202f000', '3×10⁻⁴', '10⁷']
    """
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e7:
        text = f"{value:.6g}"
        if abs(value) < 1e4:
            return text.replace("-", "−")
        return f"{value:,.7g}".replace(",", "\u202f").replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    head = "" if mantissa == "1" else mantissa.replace("-", "−") + "×"
    return f"{head}10{_raise(int(exponent))}"


def curve_svg(curve: Curve) -> str:
    """The drawing of a Curve (without its title and legend)."""
    lines = [_clean(curve, arrays) for arrays in curve.lines.values()]
    shown = [line for line in lines if line[0].size]
    if not shown:
        return '<p class="empty">No finite values to draw.</p>'
    x_axis = _Axis([line[0] for line in shown], curve.log_x, LEFT, WIDTH - RIGHT, pad=0.0)
    y_all = [a for line in shown for a in line[1:]]
    y_axis = _Axis(y_all, curve.log_y, HEIGHT - BOTTOM, TOP, pad=0.06)
    parts = [_axes(curve, x_axis, y_axis)]
    for index, line in enumerate(lines):
        if line[0].size:
            parts.append(_line(curve.kind, line, x_axis, y_axis, line_class(index)))
    top = 0.0 if curve.y_label else TOP - 12  # no empty strip where the label would be
    about = html.escape(f"{curve.title}: {curve.y_label or 'values'} over {curve.x_label}")
    return (
        f'<svg class="chart" viewBox="0 {top:g} {WIDTH:g} {HEIGHT - top:g}" '
        f'role="img" aria-label="{about}">'
        f"{''.join(parts)}</svg>"
    )


def line_class(index: int) -> str:
    """Classes of the line `index`: its colour, and dashes when the colours come round again."""
    return f"c{index % COLOURS}" + (" again" if index >= COLOURS else "")


def whisker_svg(value: float, low: float, high: float, axis: tuple[float, float]) -> str:
    """A dot with its interval, on the range `axis` shared by a table's column."""
    start, stop = axis
    scale = 92 / (stop - start) if stop > start else 0.0
    x, x0, x1 = (4 + (v - start) * scale for v in (value, low, high))
    return (
        '<svg class="whisker" viewBox="0 0 100 14" aria-hidden="true">'
        '<path class="axis" d="M0 7H100"/>'
        f'<path d="M{x0:.1f} 7H{x1:.1f}M{x0:.1f} 4V10M{x1:.1f} 4V10"/>'
        f'<circle cx="{x:.1f}" cy="7" r="3.4"/></svg>'
    )


def marker_path(xy: np.ndarray, marker: str, radius: float) -> str:
    """SVG path of the marks at `xy` [n, 2] (px, pixel i AT i) in a picture's own pixels.

    The picture spans 0 to its number of pixels, hence the half pixel.
    """
    r, d, wide, tall, arm, span = (f"{radius * k:.2f}" for k in (1, 2, 1.2, 1.9, 1.15, 2.3))
    shapes = {
        "ring": f"m-{r} 0a{r} {r} 0 1 0 {d} 0a{r} {r} 0 1 0 -{d} 0",
        "dot": "h0",
        "cross": f"m-{arm} -{arm}l{span} {span}m0 -{span}l-{span} {span}",
        "plus": f"m-{r} 0h{d}m-{r} -{r}v{d}",
        "square": f"m-{r} -{r}h{d}v{d}h-{d}z",
        "diamond": f"m0 -{wide}l{wide} {wide} -{wide} {wide} -{wide} -{wide}z",
        "triangle": f"m0 -{wide}l{wide} {tall}h-{wide}h-{wide}z",
    }
    return "".join(f"M{x + 0.5:.2f} {y + 0.5:.2f}{shapes[marker]}" for x, y in xy.tolist())


class _Axis:
    """Maps values to drawing coordinates, linearly or logarithmically."""

    def __init__(
        self, arrays: list[np.ndarray], log: bool, start: float, stop: float, pad: float
    ) -> None:
        values = np.concatenate(arrays)
        self.log, self.start, self.stop = log, start, stop
        low, high = (self._forward(float(v)) for v in (values.min(), values.max()))
        if high - low < 1e-12 * max(1.0, abs(low)):
            low, high = (low - 0.5, high + 0.5) if low or log else (-0.5, 0.5)
            pad = 0.0
        self.low, self.high = low - pad * (high - low), high + pad * (high - low)

    def _forward(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: np.ndarray | float) -> np.ndarray:
        scaled = np.log10(value) if self.log else np.asarray(value)
        return self.start + (scaled - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> tuple[list[float], list[float]]:
        if self.log:
            return log_ticks(10.0**self.low, 10.0**self.high)
        return linear_ticks(self.low, self.high), []

    def label(self, ticks: list[float]) -> Callable[[float], str]:
        """How to write the ticks: decades over a wide range are powers, all of them."""
        return power if self.log and len(ticks) > 1 and ticks[-1] / ticks[0] > 9999 else number


def _clean(curve: Curve, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    stack = np.stack(arrays)
    keep = np.isfinite(stack).all(axis=0)
    if curve.log_x:
        keep &= stack[0] > 0
    if curve.log_y:
        keep &= (stack[1:] > 0).all(axis=0)
    return tuple(_thin(stack[:, keep]))


def _thin(stack: np.ndarray) -> np.ndarray:
    """At most MAX_POINTS points: the lowest and the highest of each stretch, so spikes stay."""
    count = stack.shape[1]
    if count <= MAX_POINTS:
        return stack
    chosen = {0, count - 1}
    for part in np.array_split(np.arange(count), MAX_POINTS // 2 - 1):
        chosen |= {int(part[np.argmin(stack[1, part])]), int(part[np.argmax(stack[1, part])])}
    return stack[:, sorted(chosen)]


def _axes(curve: Curve, x_axis: _Axis, y_axis: _Axis) -> str:
    base, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    named, small = y_axis.ticks()
    text = y_axis.label(named)
    for value in named:
        y = float(y_axis(value))
        parts.append(f'<path class="grid" d="M{LEFT:g} {y:.1f}H{end:g}"/>')
        parts.append(f'<text x="{LEFT - 8:g}" y="{y + 4:.1f}" class="end">{text(value)}</text>')
    for value in small:
        parts.append(f'<path class="tick" d="M{LEFT:g} {float(y_axis(value)):.1f}h-3"/>')
    parts.append(f'<path class="axis" d="M{LEFT:g} {base:g}H{end:g}"/>')
    named, small = x_axis.ticks()
    text = x_axis.label(named)
    for value in named:
        x = float(x_axis(value))
        parts.append(f'<path class="tick" d="M{x:.1f} {base:g}v4"/>')
        parts.append(f'<text x="{x:.1f}" y="{base + 18:g}" class="mid">{text(value)}</text>')
    for value in small:
        parts.append(f'<path class="tick" d="M{float(x_axis(value)):.1f} {base:g}v2.5"/>')
    if curve.y_label:
        parts.append(f'<text x="2" y="11" class="name">{html.escape(curve.y_label)}</text>')
    parts.append(
        f'<text x="{end:g}" y="{HEIGHT - 5:g}" class="name end">{html.escape(curve.x_label)}</text>'
    )
    return "".join(parts)


def _line(
    kind: str, line: tuple[np.ndarray, ...], x_axis: _Axis, y_axis: _Axis, colour: str
) -> str:
    x, y = x_axis(line[0]), y_axis(line[1])
    parts = []
    if len(line) == 4:
        low, high = y_axis(line[2]), y_axis(line[3])
        band = _path(np.r_[x, x[::-1]], np.r_[high, low[::-1]]) + "z"
        parts.append(f'<path class="band {colour}" d="{band}"/>')
    if kind == "steps":  # each value holds until half-way to the next
        edges = (x[1:] + x[:-1]) / 2
        x_line = np.repeat(np.r_[x[0], edges, x[-1]], 2)[1:-1]
        parts.append(f'<path class="line {colour}" d="{_path(x_line, np.repeat(y, 2))}"/>')
    elif kind == "line":
        parts.append(f'<path class="line {colour}" d="{_path(x, y)}"/>')
    if kind == "points" or (kind == "line" and x.size <= 25):
        dots = zip(x.tolist(), y.tolist(), line[0].tolist(), line[1].tolist(), strict=True)
        parts += [
            f'<circle class="{colour}" cx="{px:.1f}" cy="{py:.1f}" r="2.6">'
            f"<title>{number(vx)}: {number(vy)}</title></circle>"
            for px, py, vx, vy in dots
        ]
    return "".join(parts)


def _path(x: np.ndarray, y: np.ndarray) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
