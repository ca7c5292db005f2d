"""What an image must be for its noise to be measured: unclipped, unfiltered, on a known scale."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import maximum_filter

from emjax.analysis.photon_transfer import row_spectrum

FLAT = 0.85
"""Power at 0.42–0.49 cycles/pixel over that at 0.30–0.38, below which noise is not white."""
SHARPENED = 1.35


def grey_step(image: np.ndarray) -> float:
    """Smallest step between grey values where they lie on a grid (whole numbers), else 0.

    >>> grey_step(np.array([0.0, 3.0, 5.0, 9.0]))
    1.0
    """
    values = np.unique(image)
    if len(values) > 2**17 or len(values) < 2:
        return 0.0
    gaps = np.diff(values)
    step = float(gaps.min())
    whole = gaps / step
    if np.abs(whole - np.rint(whole)).max() > 1e-3:  # for instance 0, 3, 5: the step is 1
        if np.all(values == np.rint(values)):
            return float(np.gcd.reduce(np.rint(gaps).astype(np.int64)))
        return 0.0
    # real numbers never repeat so often
    return step if len(values) < 0.5 * image.size or step >= 1 else 0.0


def clipped_ends(image: np.ndarray, step: float) -> tuple[float | None, float | None]:
    """(lowest, highest) grey value where values pile up at that end, each None where not.

    At an end of a distribution that is not cut off there are fewer pixels than next to it. Counts
    of few electrons pile up at 0 as well, which is no fault: the lower end is one only where its
    pile is more than a Poisson law, or any other falling law, could give.
    """
    flat = image.ravel()
    ends: list[float | None] = []
    for sign in (1.0, -1.0):
        values = sign * flat
        end = float(values.min())
        if step > 0:
            counts = [np.count_nonzero(np.abs(values - end - i * step) < step / 4) for i in (0, 1)]
            piled = counts[0] > 3 * counts[1] + 8
            if sign > 0 and piled:
                # a Poisson law with n0 pixels at 0 and n1 at 1 has n1²/2n0 at 2
                second = np.count_nonzero(np.abs(values - end - 2 * step) < step / 4)
                piled = second > 3 * max(counts[1] ** 2 / (2 * counts[0]), 1) + 8
        else:  # real numbers: only a limit makes many of them equal
            piled = np.count_nonzero(values == end) > 8
        ends.append(sign * end if piled else None)
    return ends[0], ends[1]


def unclipped(image: np.ndarray, ends: tuple[float | None, float | None]) -> np.ndarray:
    """True [y, x] where a pixel is away from clipped ones."""
    bad = np.zeros(image.shape, bool)
    for end in ends:
        if end is not None:
            bad |= image == end
    return ~maximum_filter(bad, (7, 15)) if bad.any() else ~bad


def whiteness(image: np.ndarray) -> tuple[float, float]:
    """Power at the highest frequencies over that at lower ones, along lines (x) and across (y).

    1 for the noise of independent pixels. Medians over frequencies: a lattice does not count.
    """

    def ratio(lines: np.ndarray) -> float:
        q, power = row_spectrum(lines)
        top, low = (np.median(power[(q >= a) & (q <= b)]) for a, b in ((0.42, 0.49), (0.3, 0.38)))
        return float(top / low) if low > 0 else math.nan

    return ratio(image), ratio(image.T)


def advice(image: np.ndarray, *, ends: tuple, step: float) -> list[str]:
    """Sentences about everything that makes the calibration doubtful."""
    found = []
    for end, name in zip(ends, ("darkest", "brightest"), strict=True):
        if end is not None:
            part = float(np.mean(image == end))
            found.append(
                f"{part:.2g} of all pixels have the {name} value {end:g}: the detector or the "
                "file's format cut them off. They are left out, but record with other brightness "
                "and contrast."
            )
    x, y = whiteness(image)
    low = [axis for axis, value in (("x", x), ("y", y)) if value < FLAT]
    if low:
        numbers = f"the highest frequencies have {min(x, y):.2f} of the power of lower ones"
        if low == ["x"]:
            found.append(
                f"the noise of neighbouring pixels of a line is correlated ({numbers}): the "
                "detector's afterglow at a short dwell time, or a filter along the lines. Gain and "
                "read-out are measured across the lines, per pixel; noise without that "
                "correlation, as the simulation makes it, is easier than this one. Use a longer "
                "dwell time."
            )
        else:
            found.append(
                f"the noise of neighbouring pixels is correlated ({numbers}): the image was "
                "filtered, resized, drift-corrected by interpolation or compressed, or the camera "
                "blurs (MTF). Gain and read-out come out too small: use the raw image."
            )
    elif max(x, y) > SHARPENED and x > SHARPENED:
        found.append(
            f"the highest frequencies have {x:.2f} times the power of lower ones: the image was "
            "sharpened. Gain and read-out come out too large: use the raw image."
        )
    low, high = float(image.min()), float(image.max())
    if step < 1 and ((low >= -1 and high <= 1) or _standard(image)):
        found.append(
            f"grey values from {low:.3g} to {high:.3g} look rescaled: the calibration holds for "
            "this file, and for others only if they were scaled by the same numbers."
        )
    return found


def _standard(image: np.ndarray) -> bool:
    """Mean 0 and deviation 1: normalised."""
    return abs(float(image.mean())) < 1e-3 and abs(float(image.std()) - 1) < 1e-3
