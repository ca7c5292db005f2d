"""Photon transfer: gain, offset and read-out noise from the noise of an image itself.

A linear detector gives value = offset + gain · (Poisson(rate) + σ · normal), so that the noise has

    variance        gain · (mean - offset) + gain² σ²
    third cumulant  gain² · (mean - offset)

(Janesick, Photon Transfer, SPIE 2007). The noise is what is left of a line of the scan after a
local polynomial has been taken away. The variance against the mean gives the gain and *one*
combination of offset and read-out; they come apart through the third cumulant, the darkest places
(rate ≥ 0), the comb of single electrons in the histogram where there is one, or a known offset.

A straight line through noisy means would be too flat. Here the mean of the neighbouring lines,
whose noise is independent, serves as the instrument of the regression (Wald, Ann. Math. Stat. 11,
284 (1940)): consistent whatever the dose. Only differences along a line are used, which scan
jitter leaves alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import convolve1d, uniform_filter
from scipy.signal import savgol_coeffs, zoom_fft
from scipy.signal.windows import tukey
from scipy.stats import truncnorm

FILTERS = ((3, 5), (5, 6), (5, 5), (7, 6), (5, 4), (7, 5), (5, 3))
"""Local polynomials (order, half width in pixels), from the widest band of noise to the
narrowest."""
STRIPS = 16
"""Strips of lines that are left out in turn, for the errors (jackknife)."""
LEAK = 0.01
"""Variance of the specimen that may remain, as a part of the noise's."""


@dataclass(frozen=True)
class Transfer:
    """The straight line of variance against mean, and the offset from the third cumulant.

    Attributes
    ----------
    gain, gain_error : float
        Grey values per electron; NaN where the image has too little contrast.
    intercept : float
        Variance at grey value 0: gain² σ² - gain · offset.
    mean, variance : float
        Weighted mean grey value and noise variance, through which the line goes.
    variance_error : float
        One sigma of the variance at `mean`.
    offset, offset_error : float
        From the third cumulant alone.
    leak : float
        Variance of the filtered image over that of the highest frequencies, less 1.
    """

    gain: float
    gain_error: float
    intercept: float
    mean: float
    variance: float
    variance_error: float
    offset: float
    offset_error: float
    leak: float


@dataclass(frozen=True)
class Comb:
    """Single electrons seen in the histogram: spacing, phase and blur of the peaks."""

    gain: float
    gain_error: float
    phase: float
    phase_error: float
    sigma: float
    sigma_error: float


def row_spectrum(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(frequency [cycles/pixel], power) along the lines, so that white noise has its variance."""
    # second differences, so that the specimen's low frequencies do not leak through a short taper
    # (a long one would weigh the middle of the image more)
    curve = image[:, 2:] - 2 * image[:, 1:-1] + image[:, :-2]
    n = curve.shape[1]
    window = tukey(n, 0.2)
    power = np.abs(np.fft.rfft(curve * window, axis=1)) ** 2 / (window**2).sum()
    q = np.fft.rfftfreq(n)[1:]
    return q, power.mean(axis=0)[1:] / (2 - 2 * np.cos(2 * np.pi * q)) ** 2


def band_level(image: np.ndarray, low: float, high: float) -> float:
    """Power between two frequencies along the lines: a median, which Bragg spots do not raise."""
    q, power = row_spectrum(image)
    return float(np.median(power[(q >= low) & (q <= high)]))


def photon_transfer(
    frames: Sequence[np.ndarray],
    *,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    usable: Sequence[np.ndarray] | None = None,
    across: bool = False,
) -> Transfer:
    """Fit variance against mean.

    Parameters
    ----------
    frames : sequence of float [y, x]
        Images; of all together one line is fitted.
    pairs : sequence of (float [y, x], float [y, x])
        Repeats of the same area, aligned to a pixel: then the noise is that of their differences.
        `usable` belongs to the pairs then.
    usable : sequence of bool [y, x], optional
        Pixels to use (not clipped).
    across : bool
        Take the noise from differences across the lines, for a detector whose afterglow correlates
        neighbouring pixels of a line. Jitter adds to it then, unless repeats are given.

    Returns
    -------
    Transfer
    """
    if across:
        frames, pairs = [f.T for f in frames], [(a.T, b.T) for a, b in pairs]
        usable = None if usable is None else [m.T for m in usable]
    gap = 4 if across else 1  # lines away from which noise is independent
    # (noise, mean of the same pixels)
    sources = [((a - b) / math.sqrt(2), (a + b) / 2) for a, b in pairs] or [(f, f) for f in frames]
    masks = list(usable) if usable is not None else [np.ones(f.shape, bool) for f, _ in sources]
    number, leak = _choose_filter(sources, masks)
    weights = _weights(number)
    second = [_Moments.of(n, m, weights, k, gap) for (n, m), k in zip(sources, masks, strict=True)]
    kept = masks
    if pairs:  # the third cumulant of a difference is zero: it needs the frames themselves
        frames = [frame for pair in pairs for frame in pair]
        masks = [mask for mask in masks for _ in range(2)]

    gain, intercept = _line(_sums(second, lambda z: np.ones_like(z)).sum(axis=0))
    for _ in range(3):
        typical = max(float(np.median([np.mean(m.square) for m in second])), 1e-30)

        def variance(z, g=gain, b=intercept, floor=0.1 * typical):
            return np.maximum(g * z + b, floor)

        sums = _sums(second, lambda z: 1 / variance(z) ** 2)
        gain, intercept = _line(sums.sum(axis=0))
        if not np.isfinite(gain):
            break
    total = sums.sum(axis=0)
    left = total - sums
    gains, _ = _line(left)
    middle = total[2] / total[0]
    level = total[3] / total[0]
    levels = left[:, 3] / left[:, 0] - gain * (left[:, 2] / left[:, 0] - middle)

    offset, offset_error = _third(frames, masks, weights, variance, gain, gains, gap)
    # a specimen has a variance and a third moment as well: what another band of frequencies says
    other = _weights(number + 1 if number + 1 < len(FILTERS) else number - 1)
    again = [_Moments.of(n, m, other, k, gap) for (n, m), k in zip(sources, kept, strict=True)]
    change = _line(_sums(again, lambda z: 1 / variance(z) ** 2).sum(axis=0))[0] - gain
    check, check_error = _third(frames, masks, other, variance, gain, gains, gap)
    spread = max((check - offset) ** 2 - check_error**2, 0.0)
    return Transfer(
        gain=float(gain),
        gain_error=float(math.hypot(_jackknife(gains), 0.5 * change)),
        intercept=float(intercept),
        mean=float(middle),
        variance=float(level),
        variance_error=_jackknife(levels),
        offset=float(offset),
        offset_error=math.hypot(offset_error, math.sqrt(spread)),
        leak=leak,
    )


def find_comb(values: np.ndarray, gain: float, gain_error: float, step: float) -> Comb | None:
    """The comb of single electrons in a histogram, if it is there (read-out below 0.4 electrons).

    At the frequency 1/gain the characteristic function of gain · (Poisson + σ normal) + offset has
    the size exp(-2 π² σ²) and the phase of the offset, for any distribution of rates.

    Parameters
    ----------
    values : float [n]
        Grey values.
    gain, gain_error : float
        About where to search.
    step : float
        Smallest step between grey values in the file, 0 for real numbers. A comb of that spacing
        says nothing.
    """
    n = values.size
    reach = min(max(5 * gain_error / gain, 0.12), 0.4)
    if not gain > 0 or (step > 0 and gain * (1 + reach) < 2 * step):
        return None
    width = step if step > 0 else gain / 64
    low = float(values.min())
    bins = np.rint((values - low) / width).astype(np.int64)
    if bins.max() > 2**22:
        return None
    histogram = np.bincount(bins).astype(float)
    band = (width / gain / (1 + reach), min(width / gain * (1 + reach), 0.49))
    size = 2001
    phi = zoom_fft(histogram, band, m=size, fs=1.0, endpoint=True) / n
    f = np.linspace(*band, size)
    height = np.abs(phi)
    for sigma in (0.0, 0.15, 0.25, 0.35):
        # read-out and few electrons pull the peak to lower frequencies: undone step by step
        for _ in range(10):
            best = _peak(height * np.exp(2 * (np.pi * sigma * f * gain / width) ** 2))
            if best is None:
                break
            squared = max(float(height[best]) ** 2 - 1 / n, 1e-12)
            wide = math.sqrt(max(-math.log(squared), 0.0)) / (2 * math.pi)
            sigma = wide * width / (gain * f[best])
        if best is not None:
            sigma = wide
            break
    else:
        return None
    if float(height[best]) ** 2 * n < 25:
        return None
    # once more without bins, with parabolas through the top
    centre = f[best] / width
    for part in (0.01, 0.003, 0.001):
        beside = centre * np.array([1 - part, 1, 1 + part])
        exact = [abs(np.exp(-2j * np.pi * q * (values - low)).mean()) for q in beside]
        top = np.array(exact) * np.exp(2 * (np.pi * sigma * gain * beside) ** 2)
        bend = top[0] - 2 * top[1] + top[2]
        if bend < 0:
            centre *= 1 + part * float(np.clip(0.5 * (top[0] - top[2]) / bend, -1, 1))
    found = 1 / centre
    phi = np.exp(-2j * np.pi / found * (values - low)).mean()
    squared = min(max(abs(phi) ** 2 - 1 / n, 1e-12), 1.0)
    sigma = math.sqrt(-math.log(squared)) / (2 * math.pi)
    # error of the phase of a sum of n unit vectors, of which a part adds up
    angle = math.sqrt((1 - squared) / (2 * n * squared))
    spread = max(float(np.std(values)) / found, 0.5)
    offset = found * (-np.angle(phi)) / (2 * np.pi) + low
    return Comb(
        gain=float(found),
        gain_error=float(found * angle / (2 * math.pi * spread)),
        phase=float(offset % found),
        phase_error=float(found * angle / (2 * math.pi)),
        sigma=sigma,
        sigma_error=angle / (4 * math.pi**2 * max(sigma, 0.03)),
    )


def _peak(curve: np.ndarray) -> int | None:
    """The highest maximum that is not an end of the curve."""
    inside = curve[2:-2]
    rising = np.flatnonzero((inside > curve[1:-3]) & (inside >= curve[3:-1])) + 2
    return int(rising[np.argmax(curve[rising])]) if len(rising) else None


def darkest(frames: Sequence[np.ndarray], variance: float) -> float:
    """Grey value that is not below the offset: the darkest hundredth of 9 × 9 means, and noise."""
    low = min(float(np.quantile(uniform_filter(f, 9), 0.01)) for f in frames)
    return low + 2.5 * math.sqrt(variance) / 9


def offset_within(estimate: float, error: float, low: float, high: float) -> tuple[float, float]:
    """Mean and deviation of a normal estimate that is known to lie between two values."""
    if not high > low:
        return low, 0.0
    if not (np.isfinite(estimate) and np.isfinite(error) and error > 0):
        return (low + high) / 2, (high - low) / math.sqrt(12)
    a, b = (low - estimate) / error, (high - estimate) / error
    if a > 6 or b < -6:  # far outside: the nearer end
        return (low if a > 6 else high), error
    law = truncnorm(a, b, loc=estimate, scale=error)
    return float(law.mean()), float(law.std())


@dataclass(frozen=True)
class _Moments:
    """Per pixel: instrument, mean, square and cube of the noise [y, x], of one image."""

    instrument: np.ndarray
    mean: np.ndarray
    square: np.ndarray
    mean3: np.ndarray
    cube: np.ndarray
    strip: np.ndarray

    @staticmethod
    def of(noise: np.ndarray, mean: np.ndarray, weights: np.ndarray, usable: np.ndarray, gap: int):
        half = len(weights) // 2
        rest = convolve1d(noise, weights, axis=1)
        square, cube = weights**2, weights**3
        # lines k ± gap and the next ones, without line k, whose noise is in everything else
        distance = np.abs(np.arange(-gap - 1, gap + 2))
        smooth = convolve1d(uniform_filter(mean, (1, 5)), 1.0 * (distance >= gap), axis=0)
        rows = np.arange(noise.shape[0]) * STRIPS // noise.shape[0]
        inner = np.zeros(noise.shape, bool)
        inner[gap + 1 : -gap - 1, half:-half] = True
        keep = inner & usable
        return _Moments(
            (smooth / 4)[keep],
            (convolve1d(mean, square, axis=1) / square.sum())[keep],
            (rest**2 / square.sum())[keep],
            (convolve1d(mean, cube, axis=1) / cube.sum())[keep],
            (rest**3 / cube.sum())[keep],
            np.broadcast_to(rows[:, None], noise.shape)[keep],
        )


def _choose_filter(sources: list, masks: list) -> tuple[int, float]:
    """Number of the widest filter that leaves little of the specimen, and what it leaves.

    The reference is the level of the highest frequencies, where the specimen has no power; at the
    brightest quarter, where a specimen leaves most, it is the narrowest filter.
    """
    floor = np.mean([band_level(noise, 0.4, 0.49) for noise, _ in sources])
    bright = [uniform_filter(mean, 5) for _, mean in sources]
    bright = [b > np.quantile(b, 0.75) for b in bright]
    levels, tops = [], []
    for number in range(len(FILTERS)):
        weights, half = _weights(number), FILTERS[number][1]
        total = [convolve1d(n, weights, axis=1)[:, half:-half] ** 2 for n, _ in sources]
        inside = [m[:, half:-half] for m in masks]
        top = [k & b[:, half:-half] for k, b in zip(inside, bright, strict=True)]
        scale = (weights**2).sum()
        levels.append(_mean_where(total, inside) / scale / max(floor, 1e-30) - 1)
        tops.append(_mean_where(total, top) / scale)
    count = sum(noise.size for noise, _ in sources)
    allowed = LEAK + 2 / math.sqrt(0.2 * count)
    allowed_top = 2 * LEAK + 3 / math.sqrt(0.1 * count)
    for number, (level, top) in enumerate(zip(levels, tops, strict=True)):
        if level < allowed and top < (1 + allowed_top) * min(tops):
            return number, float(level)
    number = int(np.argmin(levels))
    return number, float(levels[number])


def _mean_where(images: list, masks: list) -> float:
    chosen = np.concatenate([i[m] for i, m in zip(images, masks, strict=True)])
    return float(chosen.mean()) if chosen.size else float("nan")


def _weights(number: int) -> np.ndarray:
    order, half = FILTERS[number]
    weights = -savgol_coeffs(2 * half + 1, order)
    weights[half] += 1
    return weights


def _sums(moments: list[_Moments], weight) -> np.ndarray:
    """[strips, 6] sums for the line."""
    columns = np.zeros((6, STRIPS))
    for m in moments:
        w, z = weight(m.instrument), m.instrument
        terms = (w, w * z, w * m.mean, w * m.square, w * z * m.mean, w * z * m.square)
        columns += [np.bincount(m.strip, t, STRIPS) for t in terms]
    return columns.T


def _third(frames, masks, weights, variance, gain, gains, gap) -> tuple[float, float]:
    """Offset from the third cumulant, weighted for it: the dark places count most."""
    columns = np.zeros((3, STRIPS))
    for frame, mask in zip(frames, masks, strict=True):
        m = _Moments.of(frame, frame, weights, mask, gap)
        w = 1 / variance(m.instrument) ** 3
        columns += [np.bincount(m.strip, t, STRIPS) for t in (w, w * m.mean3, w * m.cube)]
    left = columns.sum(axis=1, keepdims=True) - columns

    def offset(sums, slope):
        return (sums[1] - sums[2] / np.square(slope)) / sums[0]

    with np.errstate(divide="ignore", invalid="ignore"):
        return float(offset(columns.sum(axis=1), gain)), _jackknife(offset(left, gains))


def _line(sums: np.ndarray) -> tuple:
    """(slope, intercept) from the sums, through the instrument."""
    w, z, x, y, zx, zy = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (w * zy - z * y) / (w * zx - z * x)
        return slope, (y - slope * x) / w


def _jackknife(values: np.ndarray) -> float:
    n = len(values)
    return float(np.sqrt((n - 1) / n * np.sum((values - values.mean()) ** 2)))
