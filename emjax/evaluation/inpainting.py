"""Restorers of partial scans on the same pictures: what is measured, how, and by which classical
methods it is filled. The rows of the comparison are in `inpainting_rows`.

A restorer is ``(values [n, y, x], dwell [n, y, x]) -> pictures [n, y, x]``: electrons per dwell
time, 0 where not measured, and the dwell times of the scan plan. A clean picture's maximum is 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emjax.baselines.images import NotApplicable
from emjax.baselines.restoration import DENOISERS, FILLERS
from emjax.data.scan_masks import ScanPlan
from emjax.metrics.statistics import Interval, bootstrap_interval
from emjax.restoration.inpainting import blurred

Restorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""(restored, clean, mask) -> number, higher is better."""

ERROR = "RMS"
"""Unit of `rms_blurred`."""
SLOW = ("biharmonic", "cubic", "exemplar")
"""Classical methods that are shown fewer pictures."""
CONTRAST = 0.2
"""Clean pictures with less are not judged: there is nothing to complete in them."""


@dataclass(frozen=True, eq=False)
class Line:
    """One method under one condition, with a number for each picture."""

    row: str
    condition: str
    method: str
    setting: str
    unit: str
    coverage: float
    """Actual, mean over the pictures."""
    values: np.ndarray

    @property
    def interval(self) -> Interval:
        """Mean and its 95 % interval over pictures."""
        return bootstrap_interval(self.values)


@dataclass(frozen=True)
class Bar:
    """A number that a row asks for."""

    row: str
    text: str
    value: Interval
    wanted: float
    above: bool
    """Whether the number has to be above `wanted`, or below."""

    @property
    def met(self) -> bool:
        """By the interval's end on the wrong side, not by its middle."""
        return self.value[1] >= self.wanted if self.above else self.value[2] <= self.wanted


@dataclass(frozen=True, eq=False)
class Measured:
    """Partial scans of some pictures."""

    clean: np.ndarray
    """[n, y, x], brightest pixel 1."""
    values: np.ndarray
    """[n, y, x], electrons per dwell time; 0 where not measured."""
    dwell: np.ndarray
    dose: float
    """Electrons at the brightest pixel in a dwell time."""

    @property
    def coverage(self) -> float:
        return float((self.dwell > 0).mean())

    def first(self, n: int) -> Measured:
        return Measured(self.clean[:n], self.values[:n], self.dwell[:n], self.dose)


@dataclass(frozen=True)
class Candidate:
    """A classical method ``(image, mask, **parameters) -> image``, and what its tuning tries."""

    name: str
    function: Callable[..., np.ndarray]
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def measure(
    seed: int, clean: np.ndarray, plans: Sequence[ScanPlan], dose: float, *, readout: float = 0.3
) -> Measured:
    """Record pictures along plans, with the noise of counting and of the read-out.

    Raises
    ------
    ValueError : a plan of another shape than the pictures, or not as many.
    """
    clean = np.asarray(clean, np.float64)
    if len(plans) != len(clean) or any(p.dwell.shape != clean.shape[1:] for p in plans):
        shapes = sorted({p.dwell.shape for p in plans})
        raise ValueError(f"pictures {clean.shape} and {len(plans)} scan plans of shapes {shapes}")
    dwell = np.stack([p.dwell for p in plans])
    rng = np.random.default_rng(seed)
    counts = rng.poisson(clean * dose * dwell) + readout * rng.normal(size=clean.shape)
    values = np.where(dwell > 0, counts / np.where(dwell > 0, dwell, 1), 0)
    return Measured(clean, values, dwell, dose)


def held_out(draw: Callable[[Any], Mapping[str, Any]], count: int, seed: int) -> np.ndarray:
    """Clean pictures [count, y, x] with a contrast of at least `CONTRAST`.

    Parameters
    ----------
    draw : ``key -> batch`` with ``rate`` [b, y, x, 1]; of specimens that no training has seen.
    """
    import jax

    compiled, found, tried = jax.jit(draw), [], 0
    while len(found) < count:
        rate = np.asarray(compiled(jax.random.fold_in(jax.random.key(seed), tried))["rate"])
        tried += 1
        for picture in rate[..., 0].astype(np.float64):
            picture = picture / max(picture.max(), 1e-9)
            if 1 - picture.min() >= CONTRAST:
                found.append(picture)
        if tried > 50 + count and not found:
            raise ValueError(f"no picture has a contrast of {CONTRAST:g}: nothing to complete")
    return np.stack(found[:count])


def network_restorer(apply: Callable, params: Any, *, batch: int = 16) -> Restorer:
    """Of a network as `emjax.restoration.inpainting.restore` uses it."""
    import jax

    from emjax.restoration.inpainting import restore

    run = jax.jit(lambda params, values, mask: restore(apply, params, values, mask))

    def restorer(values: np.ndarray, dwell: np.ndarray) -> np.ndarray:
        parts = []
        for i in range(0, len(values), batch):
            v, m = values[i : i + batch], dwell[i : i + batch] > 0
            missing = batch - len(v)  # one compilation for all
            v, m = (np.concatenate([a, np.repeat(a[:1], missing, 0)]) for a in (v, m))
            out = run(params, v[..., None].astype(np.float32), m[..., None].astype(np.float32))
            parts.append(np.asarray(out)[: batch - missing, ..., 0])
        return np.concatenate(parts).astype(np.float64)

    return restorer


def rms_blurred(restored: np.ndarray, clean: np.ndarray, mask: np.ndarray) -> float:
    """Root mean squared error of the blurred picture, with the truth scaled to -1 … 1; negative.

    The rule of Ede & Beanland (2020): 5 x 5 pixels, sigma 2.5. Both pictures are blurred.
    """
    error = blurred(restored) - blurred(clean)
    return -2 * float(np.sqrt(np.mean(error**2)) / np.ptp(clean))


def psnr(restored: np.ndarray, clean: np.ndarray, mask: np.ndarray) -> float:
    """Peak signal-to-noise ratio [dB] of a range of 1, without any fit."""
    return -10 * float(np.log10(np.mean((restored - clean) ** 2)))


def hole_psnr(restored: np.ndarray, clean: np.ndarray, mask: np.ndarray) -> float:
    """The same of the pixels that were not measured."""
    return -10 * float(np.log10(np.mean((restored - clean)[~mask] ** 2)))


def fillers(names: Sequence[str], *, quick: bool, smooth: bool = False) -> list[Candidate]:
    """Registered fillers; with `smooth`, those that keep noise are followed by a Gaussian."""
    chosen = []
    for name in names:
        method = FILLERS[name]
        grid = {} if quick else dict(method.grid)
        if smooth and name != "dct_tv":
            grid["smooth"] = (0.0, 1.0) if quick else (0.0, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
            chosen.append(Candidate(f"{name} + gaussian", _smoothed(method.function), grid))
        else:
            chosen.append(Candidate(name, method.function, grid))
    return chosen


def denoisers(names: Sequence[str], *, quick: bool) -> list[Candidate]:
    """Registered denoisers, for dense pictures."""

    def of(name: str) -> Callable[..., np.ndarray]:
        return lambda image, mask, **parameters: DENOISERS[name].function(image, **parameters)

    return [Candidate(n, of(n), {} if quick else DENOISERS[n].grid) for n in names]


def median(image: np.ndarray, mask: np.ndarray, *, size: int = 5) -> np.ndarray:
    """Missing pixels from the median of the measured ones in a window; the nearest if none is."""
    half = size // 2
    known = np.pad(np.where(mask, image, np.nan), half, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(known, (size, size))
    missing = np.argwhere(~mask)
    result = FILLERS["nearest"].function(image, mask)
    for y, x in missing:
        window = windows[y, x]
        if np.isfinite(window).any():
            result[y, x] = np.nanmedian(window)
    return result


def network_line(
    row: str, condition: str, restorer: Restorer, test: Measured, metric: Metric, unit: str
) -> tuple[Line, np.ndarray]:
    """The network's line, and its pictures with a maximum of about 1."""
    pictures = np.asarray(restorer(test.values, test.dwell)) / test.dose
    masks = test.dwell > 0
    values = [metric(*these) for these in zip(pictures, test.clean, masks, strict=True)]
    values = _sign(unit) * np.array(values)
    return Line(row, condition, "network", "", unit, test.coverage, values), pictures


def classical_lines(
    row: str,
    condition: str,
    candidates: Sequence[Candidate],
    validation: Measured,
    test: Measured,
    metric: Metric,
    unit: str,
    *,
    slow: int,
) -> list[Line]:
    """Each candidate tuned on the validation pictures, and at its defaults if that is different.

    Candidates that cannot work on these scans have no line; `SLOW` ones see `slow` test pictures.
    """
    lines = []
    for candidate in candidates:
        is_slow = candidate.name.split()[0] in SLOW
        shown = test.first(slow) if is_slow else test
        tried = validation.first(3) if is_slow else validation
        best = _tuned(candidate, tried, metric)
        if best is None:
            continue
        settings = {"tuned": best} if best else {"no parameters": {}}
        if best:
            settings["default"] = {}
        for setting, parameters in settings.items():
            scores = _scores(candidate, shown, metric, parameters)
            if scores is not None:
                scores = _sign(unit) * scores
                lines.append(
                    Line(row, condition, candidate.name, setting, unit, shown.coverage, scores)
                )
    return lines


def best_classical(lines: Sequence[Line]) -> Line:
    """The line with the best mean that is no network's."""
    return max(
        (line for line in lines if line.method != "network"),
        key=lambda line: _sign(line.unit) * line.values.mean(),
    )


def paired(a: Line, b: Line, of: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
    """A statistic of two lines on the same pictures, with an interval over pictures."""
    n = min(len(a.values), len(b.values))

    def statistic(index: np.ndarray) -> float:
        chosen = index.astype(int)
        return float(of(a.values[chosen], b.values[chosen]))

    return bootstrap_interval(np.arange(n, dtype=float), statistic=statistic)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.mean() - b.mean())


def ratio(a: np.ndarray, b: np.ndarray) -> float:
    return float(a.mean() / b.mean())


def _sign(unit: str) -> float:
    """A metric is better where it is higher; errors are shown as they are."""
    return -1.0 if unit == ERROR else 1.0


def _smoothed(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def smoothed(
        image: np.ndarray, mask: np.ndarray, *, smooth: float = 0.0, **parameters: Any
    ) -> np.ndarray:
        from scipy.ndimage import gaussian_filter

        filled = function(image, mask, **parameters)
        return gaussian_filter(filled, smooth, mode="nearest") if smooth else filled

    return smoothed


def _tuned(candidate: Candidate, data: Measured, metric: Metric) -> dict[str, Any] | None:
    """The best of the grid and of the defaults ({}); None if nothing works."""
    settings = [
        dict(zip(candidate.grid, values, strict=True))
        for values in itertools.product(*candidate.grid.values())
    ]
    best, most = None, -np.inf
    for setting in settings:
        scores = _scores(candidate, data, metric, setting)
        if scores is not None and scores.mean() > most:
            best, most = setting, float(scores.mean())
    return best


def _scores(
    candidate: Candidate, data: Measured, metric: Metric, parameters: Mapping[str, Any]
) -> np.ndarray | None:
    masks, scores = data.dwell > 0, []
    try:
        for values, mask, clean in zip(data.values, masks, data.clean, strict=True):
            restored = candidate.function(values, mask, **parameters) / data.dose
            scores.append(metric(restored, clean, mask))
    except NotApplicable:
        return None
    return np.array(scores)
