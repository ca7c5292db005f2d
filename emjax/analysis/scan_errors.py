"""Errors of a scan, seen in the image: jitter of the lines and their brightness.

The shift between two lines is the maximum of their cross-correlation. It holds the jitter, the
noise of the data and what the specimen really does from line to line. The last two differ from
one part of a line to another, the jitter does not: leaving out one part after the other
(jackknife) says how much of the shifts is *not* jitter, whatever the noise of the detector. The
rest is fitted by maximum likelihood as an autoregressive process of first order, which is what
`simulators.scan.ScanDistortion` draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.ndimage import convolve1d, median_filter
from scipy.optimize import minimize
from scipy.signal import savgol_coeffs

UPSAMPLE = 4
"""Steps per pixel of the cross-correlation, in front of the parabola through its maximum."""
CHUNK = 256
"""Lines of one covariance matrix; the likelihoods of several are added."""
LAGS = 4
"""Lines apart up to which errors of the measured shifts are correlated."""
LARGEST = 2048
"""Lines and pixels a line that are used at most: the middle of a larger image."""


@dataclass(frozen=True)
class Jitter:
    """Jitter of lines along the scan in pixels, with one-sigma errors.

    `measured` is the standard deviation of the error of one measured shift: what noise of the data
    and the specimen contribute.
    """

    sigma: float
    sigma_error: float
    correlation: float
    correlation_error: float
    measured: float


def row_shifts(
    first: np.ndarray, second: np.ndarray, *, parts: int | None = None, reach: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By how many pixels each line of `second` lies further right than that of `first`.

    Parameters
    ----------
    first, second : float [lines, n]
    parts : int, optional
        Into how many parts the lines are cut for the jackknife; by default of about 48 pixels.
    reach : float, optional
        Largest shift [pixels]; by default to where the lines' own correlation has its first
        minimum (half a lattice spacing), 1.5 to 8 pixels.

    Returns
    -------
    shifts : float [lines]
    without : float [parts, lines]
        The same with one part of the lines left out.
    alike : float [lines]
        Correlation of the two lines at the maximum.
    """
    lines, n = first.shape
    parts = parts or int(np.clip(n // 48, 4, 16))
    a, b = _prepared(first, second)
    if reach is None:
        reach = _reach(a)
    step = np.arange(-round(reach * UPSAMPLE), round(reach * UPSAMPLE) + 1)
    pad = len(step) // 2
    inner = slice(pad, a.shape[1] - pad)
    edges = np.linspace(0, a.shape[1] - 2 * pad, parts + 1).astype(int)[:-1]
    product = np.empty((len(step), parts, lines))
    energy = np.empty_like(product)
    for i, lag in enumerate(step):
        moved = b[:, pad + lag : a.shape[1] - pad + lag]
        product[i] = np.add.reduceat(a[:, inner] * moved, edges, axis=1).T
        energy[i] = np.add.reduceat(moved**2, edges, axis=1).T

    def best(p: np.ndarray, e: np.ndarray) -> np.ndarray:
        return _maximum(p / np.sqrt(np.maximum(e, 1e-30)), step) / UPSAMPLE

    p, e = product.sum(axis=1), energy.sum(axis=1)
    whole = best(p, e)
    own = np.sum(a[:, inner] ** 2, axis=1)
    alike = (p / np.sqrt(np.maximum(e * own, 1e-30))).max(axis=0)
    without = [
        best(product.sum(axis=1) - product[:, i], energy.sum(axis=1) - energy[:, i])
        for i in range(parts)
    ]
    return whole, np.stack(without), alike


def line_jitter(
    frames: Sequence[np.ndarray], *, pairs: Sequence[tuple[np.ndarray, np.ndarray]] = ()
) -> Jitter | None:
    """Jitter of the scan lines.

    Parameters
    ----------
    frames : sequence of float [y, x]
        Images: the shifts between neighbouring lines are used.
    pairs : sequence of (float [y, x], float [y, x])
        Repeats of the same area, aligned to a pixel: then the shifts of each line between the two
        are used, to which the specimen adds nothing.

    Returns
    -------
    Jitter or None
        None where the lines are too short or have nothing in them to correlate.
    """
    series = []
    for item in pairs or frames:
        if pairs:
            a, b = (_middle(x) for x in item)
        else:
            image = _middle(item)
            a, b = image[:-1], image[1:]
        if a.shape[1] < 64 or a.shape[0] < 24:
            return None
        shifts, without, alike = row_shifts(a, b)
        parts = len(without)
        away = without - without.mean(axis=0)
        error = (parts - 1) / parts * np.sum(away**2, axis=0)
        # lines without contrast, and mistaken maxima
        good = np.isfinite(shifts) & np.isfinite(error) & (alike > 0.5 * np.quantile(alike, 0.9))
        scale = 1.4826 * np.median(np.abs(shifts[good] - np.median(shifts[good])))
        good &= np.abs(shifts - np.median(shifts[good])) < max(5 * scale, 0.5)
        good &= error < max(9 * np.median(error[good]), 1e-6)
        if good.sum() < 24:
            return None
        waves = [] if pairs else _periodic(shifts - np.median(shifts[good]), good)
        noise = [
            (parts - 1) / parts * np.mean(np.sum(away[:, k:] * away[:, : len(shifts) - k], axis=0)[
                good[k:] & good[: len(shifts) - k]
            ])
            for k in range(LAGS)
        ]  # fmt: skip
        for start in range(0, len(shifts), CHUNK):
            index = start + np.flatnonzero(good[start : start + CHUNK])
            if len(index) >= 24:
                series.append((index, shifts[index], np.array(noise), waves))
    return _fit(series, differences=not pairs) if series else None


def line_gain(
    frames: Sequence[np.ndarray],
    offset: float,
    *,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]] = (),
) -> tuple[float, float]:
    """Relative brightness of lines, standard deviation and its error; lines are independent.

    What all parts of a line have in common after a smooth course over the lines (a polynomial of
    5th order in a window) has been taken away. Of windows that leave more or less of the specimen
    the lowest result is taken. With pairs the ratio of the two repeats is used instead.
    """
    best = (math.inf, math.inf)
    for order, half in ((3, 5), (5, 5), (5, 4), (5, 3)):
        weights = -savgol_coeffs(2 * half + 1, order)
        weights[half] += 1
        found, count = [], 0
        for item in pairs or frames:
            a, b = item if pairs else (item, None)
            parts = max(a.shape[1] // 32, 4)
            sums = _parts(a - offset, parts)
            smooth = sums - _along(sums, weights)
            ratio = _along(sums, weights) / np.where(smooth > 0, smooth, np.nan)
            if b is not None:
                other = _parts(b - offset, parts)
                quotient = sums / np.where(other > 0, other, np.nan)
                ratio = _along(quotient / np.nanmean(quotient), weights)
            ratio = ratio[half:-half]
            # parts weigh by their brightness, as the line's total does
            bright = np.maximum(smooth[half:-half], 0)
            weigh = np.where(np.isfinite(ratio), bright, 0.0)
            # dark lines say nothing, and edges of the specimen too much
            total = bright.sum(axis=1)
            keep = total > 0.3 * np.median(total)
            weigh = weigh / np.maximum(weigh.sum(axis=1, keepdims=True), 1e-30)
            ratio = np.nan_to_num(ratio)
            mean = (weigh * ratio).sum(axis=1)
            own = (weigh**2 * (ratio - mean[:, None]) ** 2).sum(axis=1) * parts / (parts - 1)
            keep &= np.abs(mean) < 6 * np.median(np.abs(mean[keep])) / 0.6745 + 1e-12
            if keep.sum() < 16:
                continue
            mean, own = mean[keep], own[keep]
            found.append((np.mean(mean**2) - np.mean(own), np.mean(mean**2)))
            count += len(mean)
        if not found:
            return math.nan, math.nan
        scale = (weights**2).sum() * (2 if pairs else 1)
        common, total = (float(np.mean(x)) / scale for x in zip(*found, strict=True))
        # neighbouring lines share a filter: about half of them are independent
        error = total * math.sqrt(4 / count)
        if common + error < best[0] + 0.2 * best[1]:
            best = common, error
    value = math.sqrt(max(best[0], 0.0))
    return value, float(min(best[1] / (2 * max(value, 1e-9)), math.sqrt(best[1])))


def _parts(image: np.ndarray, parts: int) -> np.ndarray:
    edges = np.linspace(0, image.shape[1], parts + 1).astype(int)[:-1]
    return np.add.reduceat(image, edges, axis=1)


def _along(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return convolve1d(columns, weights, axis=0)


def _middle(image: np.ndarray) -> np.ndarray:
    y, x = (max(0, (s - LARGEST) // 2) for s in image.shape)
    return image[y : y + LARGEST, x : x + LARGEST]


def _prepared(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lines without their mean, weighted in Fourier space by signal/(signal + noise), upsampled."""
    n = first.shape[1]
    spectra = []
    for lines in (first, second):
        flat = lines - lines.mean(axis=1, keepdims=True)
        # reflected, so that the ends meet
        spectra.append(np.fft.rfft(np.concatenate([flat, flat[:, ::-1]], axis=1), axis=1))
    power = sum(np.mean(np.abs(s) ** 2, axis=0) for s in spectra) / 2
    q = np.fft.rfftfreq(2 * n)
    floor = np.median(power[q > 0.4])
    smooth = np.convolve(np.pad(power, 4, mode="edge"), np.ones(9) / 9, mode="valid")
    weight = np.maximum(1 - floor / np.maximum(smooth, 1e-30), 0.0) * (q < 0.45)
    weight[: max(2, round(0.01 * 2 * n))] = 0  # slow unevenness has no place
    size = 2 * n * UPSAMPLE
    return tuple(np.fft.irfft(s * weight, size, axis=1)[:, : n * UPSAMPLE] for s in spectra)


def _reach(lines: np.ndarray) -> float:
    """Pixels to the first minimum of the lines' own correlation."""
    spectrum = np.mean(np.abs(np.fft.rfft(lines, 2 * lines.shape[1], axis=1)) ** 2, axis=0)
    own = np.fft.irfft(spectrum)[: 8 * UPSAMPLE + 2]
    rises = np.flatnonzero(np.diff(own) > 0)
    first = rises[0] if len(rises) else 8 * UPSAMPLE
    return float(np.clip(first / UPSAMPLE, 1.5, 8))


def _maximum(correlation: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Position of the maximum along the first axis, between the steps."""
    top = np.clip(np.argmax(correlation, axis=0), 1, len(step) - 2)
    column = np.arange(correlation.shape[1])
    low, mid, high = (correlation[top + k, column] for k in (-1, 0, 1))
    bend = low - 2 * mid + high
    part = np.where(bend < 0, 0.5 * (low - high) / np.where(bend < 0, bend, -1.0), 0.0)
    return step[top] + np.clip(part, -1, 1)


def _periodic(shifts: np.ndarray, good: np.ndarray) -> list[float]:
    """Frequencies [cycles/line] of what repeats from line to line: a lattice, no jitter.

    Lines of a staggered lattice are shifted against each other in every part alike. In the power
    spectrum that is a peak of more than 10 times the level beside it, which noise reaches in one of
    200 images.
    """
    rest, found = np.where(good, shifts, 0.0), []
    lines = np.arange(len(rest))
    q = np.fft.rfftfreq(4 * len(rest))
    window = np.hanning(len(rest))
    for _ in range(8):
        power = np.abs(np.fft.rfft(rest * window, 4 * len(rest))) ** 2
        level = median_filter(power, min(161, len(power) // 2 * 2 - 1)) / math.log(2)
        ratio = np.where((q > 4 / len(rest)) & (q < 0.5), power / np.maximum(level, 1e-30), 0.0)
        peak = int(np.argmax(ratio))
        if ratio[peak] < 10:
            break
        found.append(float(q[peak]))
        waves = [t(2 * np.pi * f * lines) for f in found for t in (np.cos, np.sin)]
        basis = np.stack(waves, axis=1) * good[:, None]
        target = np.where(good, shifts, 0.0)
        rest = target - basis @ np.linalg.lstsq(basis, target, rcond=None)[0]
    return found


def _fit(series: list, *, differences: bool) -> Jitter:
    """Maximum likelihood of (σ, ρ) over all series of (line numbers, shifts, noise by lag)."""
    prepared = []
    for index, shifts, noise, waves in series:
        gap = np.abs(index[:, None] - index[None, :])
        angle = [2 * np.pi * f * index for f in waves]
        line = [np.ones(len(index)), (index - index.mean()) / len(index)]
        trend = np.stack(line + [t(a) for a in angle for t in (np.cos, np.sin)], axis=1)
        known = np.where(gap < LAGS, noise[np.minimum(gap, LAGS - 1)], 0.0)
        # a covariance estimated lag by lag need not be positive: its spectrum is made so
        values, vectors = np.linalg.eigh(known)
        known = (vectors * np.maximum(values, 1e-2 * noise[0] + 1e-8)) @ vectors.T
        prepared.append((gap, shifts, known, trend))

    def cost(p: np.ndarray) -> float:
        variance, rho = math.exp(2 * p[0]), 1 / (1 + math.exp(-p[1]))
        power = rho ** np.arange(CHUNK + 2)
        by_lag = 2 * power[:-1]
        if differences:  # of s[k + 1] - s[k]
            by_lag = by_lag - power[np.abs(np.arange(-1, CHUNK))] - power[1:]
        total = 0.0
        for gap, shifts, known, trend in prepared:
            try:
                factor = cho_factor(variance * by_lag[gap] + known, lower=True)
            except LinAlgError:
                return 1e12
            solved = cho_solve(factor, np.column_stack([shifts, trend]))
            normal = trend.T @ solved[:, 1:]
            projected = shifts @ solved[:, 0] - (trend.T @ solved[:, 0]) @ np.linalg.solve(
                normal, trend.T @ solved[:, 0]
            )
            half = np.log(np.diag(factor[0])).sum() + 0.5 * np.linalg.slogdet(normal)[1]
            total += 0.5 * projected + half
        # very weak: keeps the correlation from running away where there is no jitter
        return total + 0.5 * (p[1] / 4) ** 2

    spread = max(np.std(np.concatenate([s for _, s, _, _ in series])), 1e-3)
    starts = [(math.log(spread), p) for p in (-2.0, 0.0, 2.0)]
    begin = min([*starts, (math.log(spread / 4), 0.0)], key=lambda p: cost(np.array(p)))
    simplex = np.array([begin] * 3) + np.array([[0, 0], [0.3, 0], [0, 0.7]])
    options = {"xatol": 3e-3, "fatol": 1e-3, "maxiter": 200, "initial_simplex": simplex}
    found = minimize(cost, begin, method="Nelder-Mead", options=options)
    log_sigma, odds = found.x
    sigma, rho = math.exp(log_sigma), 1 / (1 + math.exp(-odds))
    bend = np.zeros((2, 2))
    h = 0.1
    for i in range(2):
        for j in range(2):
            e, f = h * np.eye(2)[i], h * np.eye(2)[j]
            corners = [cost(found.x + a * e + b * f) * a * b for a in (1, -1) for b in (1, -1)]
            bend[i, j] = sum(corners) / (4 * h * h)
    values, vectors = np.linalg.eigh(bend)
    covariance = (vectors / np.maximum(values, 0.05)) @ vectors.T
    measured = math.sqrt(max(float(np.mean([n[0] for _, _, n, _ in series])), 0.0))
    sigma_error = sigma * min(math.sqrt(covariance[0, 0]), 1.0)
    if sigma < 0.02 * max(measured, 1e-3):  # none found: how much could hide
        sigma, sigma_error = 0.0, 0.5 * measured * (2 / len(series[0][0])) ** 0.25
    return Jitter(
        sigma=sigma,
        sigma_error=sigma_error,
        correlation=rho if sigma > 0 else 0.0,
        correlation_error=min(rho * (1 - rho) * math.sqrt(covariance[1, 1]), 0.5),
        measured=measured,
    )
