"""Scans that skip pixels: where the beam was, and for how long.

A scan is a `ScanPlan`: the time that the beam spent in every pixel. A beam that moves on while it
measures has a finite dwell time, so a spiral or a line is drawn as the time that its path takes to
cross each pixel; where it clips a corner for less than `LEAST` of a dwell time nothing is read out.
The share of measured pixels is the actual coverage, ``plan.coverage``, and not the nominal one: the
published spirals of "1/16" and "1/100" covered 1/17.9 and 1/87.0 (Ede & Beanland, Sci. Rep. 2020).

>>> plan = make_plan("spiral", (64, 64), 1 / 7, seed=0)
>>> plan.mask.shape, abs(plan.coverage * 7 - 1) < 0.06
((64, 64), True)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["PLANS", "ScanPlan", "adaptive", "make_bank", "make_plan"]

LEAST = 0.2
"""Dwell times below this are lost: the beam only clipped a corner of the pixel."""
STEP = 0.05
"""Pixels between two points of a path when its time is counted."""


@dataclass(frozen=True, eq=False)
class ScanPlan:
    """Where a scan measures.

    Attributes
    ----------
    dwell : float32 (y, x)
        Time in each pixel, in units of the time that a path takes to cross one; 0: not measured.
        The electrons expected there are the rate times this.
    """

    dwell: np.ndarray

    def __post_init__(self) -> None:
        dwell = np.asarray(self.dwell, np.float32)
        if dwell.ndim != 2 or not np.isfinite(dwell).all() or (dwell < 0).any():
            raise ValueError(f"dwell times must be (y, x) and not negative; shape {dwell.shape}")
        if not dwell.any():
            raise ValueError("the coverage is zero: this scan measures no pixel")
        object.__setattr__(self, "dwell", dwell)

    @property
    def mask(self) -> np.ndarray:
        """True where measured (y, x)."""
        return self.dwell > 0

    @property
    def coverage(self) -> float:
        """Share of the pixels that are measured."""
        return float(self.mask.mean())

    def at_dose(self, mean: float = 1.0) -> ScanPlan:
        """The same path, slower or faster: `mean` dwell times a pixel of the whole picture.

        Plans of one mean put the same total dose on a specimen that scatters evenly.
        """
        if not mean > 0:
            raise ValueError(f"a mean dwell time of {mean}: it must be positive")
        return ScanPlan(self.dwell * (mean / self.dwell.mean()))


def make_plan(name: str, shape: tuple[int, int], coverage: float, *, seed: int = 0) -> ScanPlan:
    """A random plan whose actual coverage is as near to the one asked for as pixels allow.

    Parameters
    ----------
    name : of `PLANS`.
    shape : (y, x) pixels.
    coverage : share of the pixels to measure, above 0 to 1.
    seed : of its place, its turn and its random choices.

    Raises
    ------
    ValueError : an unknown name (suggests one), a coverage out of range, or of less than a pixel.
    """
    if name not in PLANS:
        close = difflib.get_close_matches(name, PLANS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(PLANS)}"
        raise ValueError(f"there is no scan plan {name!r}: {hint}")
    height, width = (int(n) for n in shape)
    if height < 1 or width < 1:
        raise ValueError(f"a scan of shape {shape} has no pixels")
    if not 0 < coverage <= 1:
        raise ValueError(f"a coverage of {coverage}: it is a share above 0, of 1 at most")
    if coverage * height * width < 1:
        raise ValueError(
            f"a coverage of {coverage:g} of {height} x {width} pixels is not one pixel"
        )
    rng = np.random.default_rng(seed)
    return ScanPlan(PLANS[name](rng, (height, width), float(coverage)))


def make_bank(
    names: Sequence[str],
    shape: tuple[int, int],
    coverage: tuple[float, float],
    count: int,
    *,
    seed: int = 0,
) -> np.ndarray:
    """Dwell times float32 (count, y, x) of plans of all the names in turn.

    Coverages are spread evenly in their logarithm between the two.
    """
    low, high = np.log(coverage)
    wanted = np.exp(np.random.default_rng(seed).uniform(low, high, count))
    plans = [
        make_plan(names[i % len(names)], shape, float(c), seed=seed + 1 + i)
        for i, c in enumerate(wanted)
    ]
    return np.stack([plan.dwell for plan in plans])


def adaptive(
    first: ScanPlan, values: np.ndarray, coverage: float, *, seed: int = 0, floor: float = 0.3
) -> ScanPlan:
    """A second pass over what the first one found: more pixels where its picture changes.

    Pixels are drawn without replacement with a chance that grows with the slope of the first pass's
    interpolation and with the distance from what is measured.

    Parameters
    ----------
    first : the first pass; its measurements are kept.
    values : (y, x) what it measured; other pixels are ignored.
    coverage : of both passes together.
    seed : of the choice.
    floor : slope, in units of the mean one, that every pixel has at least: 0 trusts the first pass
        entirely, much more than 1 spreads the second one evenly.

    Raises
    ------
    ValueError : values of another shape, or a coverage that the first pass has reached already.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_gradient_magnitude

    values, mask = np.asarray(values), first.mask
    if values.shape != mask.shape:
        raise ValueError(f"the picture has shape {values.shape} and its scan plan {mask.shape}")
    more = round(coverage * mask.size) - int(mask.sum())
    if more < 1 or coverage > 1:
        raise ValueError(
            f"a coverage of {coverage:.3g} in all leaves nothing for a second pass: the first one "
            f"measured {first.coverage:.3g}"
        )
    distance = distance_transform_edt(~mask)
    # a weighted mean of what is near: the gaps of the first pass decide how near
    width = max(float(distance.mean()), 0.5)
    weight = gaussian_filter(mask.astype(float), width, mode="nearest")
    smooth = gaussian_filter(np.where(mask, values, 0.0), width, mode="nearest")
    slope = gaussian_gradient_magnitude(smooth / np.maximum(weight, 1e-9), width / 2)
    slope = slope / max(float(slope.mean()), 1e-12)
    chance = np.where(mask, 0.0, (slope + floor) * distance).ravel()
    rng = np.random.default_rng(seed)
    chosen = rng.choice(mask.size, more, replace=False, p=chance / chance.sum())
    dwell = first.dwell.copy()
    dwell.flat[chosen] = float(first.dwell[mask].mean())
    return ScanPlan(dwell)


def _dense(rng: np.random.Generator, shape: tuple[int, int], coverage: float) -> np.ndarray:
    """All pixels, whatever the coverage."""
    return np.ones(shape, np.float32)


def _spiral(rng: np.random.Generator, shape: tuple[int, int], coverage: float) -> np.ndarray:
    """An Archimedean spiral at constant speed, about a place near the centre."""
    centre = (np.array(shape) - 1) / 2 + rng.uniform(-0.05, 0.05, 2) * shape
    turn, hand = 2 * np.pi * rng.uniform(), rng.choice([-1.0, 1.0])
    reach = np.hypot(*np.maximum(centre, np.array(shape) - 1 - centre)) + 1

    def draw(pitch: float) -> np.ndarray:
        a = pitch / (2 * np.pi)
        # equal steps of arc length, that of the angle φ being a φ²/2 (exact but for the first turn,
        # where each point counts the time that it stands for)
        n = int(reach**2 / (2 * a) / STEP) + 2
        angle = np.sqrt(2 * STEP / a * np.arange(n))
        time = a * np.sqrt(1 + angle**2) * np.gradient(angle)
        y = centre[0] + a * angle * np.sin(hand * angle + turn)
        x = centre[1] + a * angle * np.cos(hand * angle + turn)
        return _rasterised(y, x, time, shape)

    return _fitted(draw, coverage, 1 / coverage, shape)


def _jittered_grid(rng: np.random.Generator, shape: tuple[int, int], coverage: float) -> np.ndarray:
    """One pixel at a random place in each cell of a square grid."""
    dwell = np.zeros(shape, np.float32)
    # as many rows and columns as give the nearest number of pixels
    wanted = coverage * shape[0] * shape[1]
    rows = np.arange(1, shape[0] + 1)
    columns = np.clip(np.rint(wanted / rows), 1, shape[1])
    skew = np.abs(np.log(rows / columns * shape[1] / shape[0]))
    ny = int(rows[np.argmin(np.abs(np.log(rows * columns / wanted)) + 0.3 * skew)])
    nx = int(np.clip(np.rint(wanted / ny), 1, shape[1]))
    i, j = np.mgrid[:ny, :nx]
    y = (i + rng.uniform(size=i.shape)) * (shape[0] / ny)
    x = (j + rng.uniform(size=j.shape)) * (shape[1] / nx)
    # a cell may end within a pixel: two of them can share it
    y, x = np.minimum(y.astype(int), shape[0] - 1), np.minimum(x.astype(int), shape[1] - 1)
    np.add.at(dwell, (y, x), 1.0)
    return dwell


def _random_lines(rng: np.random.Generator, shape: tuple[int, int], coverage: float) -> np.ndarray:
    """Lines from left to right at random heights, which wander up and down on their way.

    As in line hopping (Kovarik et al., Appl. Phys. Lett. 2016).
    """
    lines = max(1, round(coverage * shape[0]))
    gap = shape[0] / lines
    x = np.arange(0, shape[1], STEP) - 0.5
    knots = np.linspace(x[0], x[-1], max(3, round(shape[1] / max(gap, 2.0))))
    dwell = np.zeros(shape, np.float32)
    for i in range(lines):
        start = (i + rng.uniform()) * gap - 0.5
        walk = np.cumsum(rng.normal(size=len(knots))) * 0.25 * gap if gap > 2 else 0 * knots
        y = np.clip(start + np.interp(x, knots, walk - np.mean(walk)), -0.49, shape[0] - 0.51)
        # a slanting line has the same speed along the picture's x: the scan coils of x set the pace
        dwell += _rasterised(y, x, np.full(len(x), STEP), shape)
    return dwell


def _random_pixels(rng: np.random.Generator, shape: tuple[int, int], coverage: float) -> np.ndarray:
    """Single pixels anywhere."""
    dwell = np.zeros(shape, np.float32)
    chosen = rng.choice(dwell.size, max(1, round(coverage * dwell.size)), replace=False)
    dwell.flat[chosen] = 1.0
    return dwell


def _dead(rng: np.random.Generator, shape: tuple[int, int], coverage: float) -> np.ndarray:
    """A dense picture that misses single pixels and whole lines, half of the loss each.

    Lines have one to three pixels of width, in both directions, but as many as are lost.
    """
    dwell = np.ones(shape, np.float32)
    lost = round((1 - coverage) * dwell.size)
    while (dwell == 0).sum() + 2 * max(shape) <= lost / 2 + max(shape):
        width, axis = int(rng.integers(1, 4)), int(rng.integers(2))
        at = int(rng.integers(max(shape[axis] - width, 1)))
        stripe = (slice(None),) * axis + (slice(at, at + width),)
        dwell[stripe] = 0.0
    alive = np.flatnonzero(dwell)
    more = min(max(lost - int((dwell == 0).sum()), 0), len(alive) - 1)
    dwell.flat[rng.choice(alive, more, replace=False)] = 0.0
    return dwell


PLANS: dict[str, Callable[[np.random.Generator, tuple[int, int], float], np.ndarray]] = {
    "dense": _dense,
    "spiral": _spiral,
    "jittered_grid": _jittered_grid,
    "random_lines": _random_lines,
    "random_pixels": _random_pixels,
    "dead": _dead,
}
"""``(rng, (y, x), coverage) -> dwell times`` by name; `adaptive` needs a picture too."""


def _rasterised(
    y: np.ndarray, x: np.ndarray, time: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Time (y, x) that a path spends in each pixel; pixel i reaches from i - 0.5 to i + 0.5."""
    row, column = np.rint(y).astype(int), np.rint(x).astype(int)
    inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    index = row[inside] * shape[1] + column[inside]
    dwell = np.bincount(index, time[inside], shape[0] * shape[1]).reshape(shape)
    return np.where(dwell < LEAST, 0.0, dwell).astype(np.float32)


def _fitted(
    draw: Callable[[float], np.ndarray], coverage: float, pitch: float, shape: tuple[int, int]
) -> np.ndarray:
    """The path whose turns lie so far apart that it covers what was asked for."""
    if coverage > 0.95:  # turns within turns would be needed
        return np.maximum(draw(0.5), 1.0)
    low, high = 0.3 * pitch, 4.0 * pitch + 2
    best = draw(pitch)
    for _ in range(14):
        middle = np.sqrt(low * high)
        dwell = draw(middle)
        if abs((dwell > 0).mean() - coverage) < abs((best > 0).mean() - coverage):
            best = dwell
        if (dwell > 0).mean() > coverage:
            low = middle
        else:
            high = middle
    if not best.any():  # the whole path clips corners: one dwell time at its start
        best[shape[0] // 2, shape[1] // 2] = 1.0
    return best
