"""Standard figures of a fit: R², R factor, reduced χ², signal-to-noise ratio."""

from __future__ import annotations

from typing import Any

import numpy as np

from emjax.metrics.arrays import Array, divide, numbers, same_shape, square

__all__ = ["poisson_chi_squared", "r_factor", "r_squared", "signal_to_noise"]


def r_squared(prediction: Array, truth: Array) -> Array:
    """1 - Σ(truth - prediction)² / Σ(truth - mean)²: 1 perfect, 0 as good as the truth's mean.

    Negative when worse than that; NaN for a constant truth. Not the squared correlation, which a
    wrong scale or offset leaves at 1.
    """
    same_shape(prediction, truth)
    xp, p, t = numbers(prediction, truth)
    return 1 - divide(xp, square(xp, t - p).sum(), square(xp, t - t.mean()).sum())


def r_factor(prediction: Array, truth: Array) -> Array:
    """Σ | |truth| - |prediction| | / Σ |truth|: of amplitudes or intensities; 0 is perfect.

    Amplitudes and intensities give different numbers: say which. Complex values count by their
    modulus, so phases are not judged.
    """
    same_shape(prediction, truth)
    xp, p, t = numbers(prediction, truth)
    p, t = xp.abs(p), xp.abs(t)
    return divide(xp, xp.abs(t - p).sum(), t.sum())


def poisson_chi_squared(counts: Array, rate: Array, *, parameters: int = 0) -> Array:
    """Pearson's Σ (counts - rate)² / rate over (pixels - fitted parameters): 1 for the true model.

    Parameters
    ----------
    counts : what was measured, electrons.
    rate : what the model expects; pixels without counts where it is 0 are left out, and counts
        where it is 0, which cannot be, make the result infinite.
    parameters : number of fitted parameters.

    Raises
    ------
    ValueError : rates below 0 (NumPy).
    """
    same_shape(counts, rate, ("counts", "rate"))
    xp, n, r = numbers(counts, rate, names=("counts", "rate"))
    if xp is np and (r < 0).any():
        raise ValueError(f"rate: {int((r < 0).sum())} of {r.size} values are below 0.")
    total = xp.where((r == 0) & (n != 0), xp.inf, divide(xp, (n - r) ** 2, r, 0.0))
    return divide(xp, xp.asarray(total).sum(), (r > 0).sum() - parameters)


def signal_to_noise(image: Array, truth: Array, *, axis: Any = None) -> Array:
    """10 log10(variance of the truth / variance of image - truth) in dB.

    With the truth of a simulation. Figures from real images put an estimate of the background in
    its place and are not comparable. Infinity where nothing differs but an offset.
    """
    same_shape(image, truth, ("image", "truth"))
    xp, a, t = numbers(image, truth, names=("image", "truth"))
    signal, noise = t.var(axis), (a - t).var(axis)
    ratio = divide(xp, signal, noise, xp.inf)
    some = (ratio != 0) & (ratio != xp.inf)  # NaN too, and it stays NaN
    value = xp.where(some, 10 * xp.log10(xp.where(some, ratio, 1.0)), xp.inf)
    value = xp.where(signal == 0, -xp.inf, value)
    return float(value) if xp is np and np.ndim(value) == 0 else value
