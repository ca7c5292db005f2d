"""Against the truth, ring by ring: what got through, what was added.

A restored image F and the truth T are compared as F = H T + E in each ring: `transfer` is H (1:
faithful; below 1: smoothed; above: sharpened), `fourier_bias` is H - 1, and `ssnr` is the power of
T over that of F - T, so a bias counts as an error there. FRC sees E but not H.
"""

from __future__ import annotations

from emjax.metrics.arrays import Array, divide, square
from emjax.metrics.rings import RingCurve, ring_sum, transforms

__all__ = ["fourier_bias", "ssnr", "transfer"]


def transfer(
    prediction: Array,
    truth: Array,
    *,
    sampling: float | tuple[float, ...] = 1.0,
    ndim: int = 2,
    window: str | None = "hann",
) -> RingCurve:
    """H = Re Σ F T* / Σ|T|² of each ring: the share of the true structure that is in the image.

    Least squares: the factor by which T is best multiplied to give F. For an average over images
    sum numerator and denominator, or average H of images with alike spectra.

    Parameters
    ----------
    prediction, truth, sampling, ndim, window : as in `resolution.fourier_correlation`.

    Returns
    -------
    RingCurve; NaN where the truth has nothing in a ring.
    """
    xp, f, t, rings = transforms(prediction, truth, sampling, ndim, window)
    cross = ring_sum(xp, (f * xp.conj(t)).real, rings)
    value = divide(xp, cross, ring_sum(xp, square(xp, t), rings))
    return RingCurve(rings.frequency, value, rings.count)


def fourier_bias(
    prediction: Array,
    truth: Array,
    *,
    sampling: float | tuple[float, ...] = 1.0,
    ndim: int = 2,
    window: str | None = "hann",
) -> RingCurve:
    """H - 1 of each ring (`transfer`): -1 where all structure is lost, 0 where it is faithful."""
    curve = transfer(prediction, truth, sampling=sampling, ndim=ndim, window=window)
    return curve._replace(value=curve.value - 1)


def ssnr(
    prediction: Array,
    truth: Array,
    *,
    sampling: float | tuple[float, ...] = 1.0,
    ndim: int = 2,
    window: str | None = "hann",
) -> RingCurve:
    """Σ|T|² / Σ|F - T|² of each ring; infinity where F equals T. Arguments as in `transfer`."""
    xp, f, t, rings = transforms(prediction, truth, sampling, ndim, window)
    signal = ring_sum(xp, square(xp, t), rings)
    value = divide(xp, signal, ring_sum(xp, square(xp, f - t), rings), xp.inf)
    return RingCurve(rings.frequency, value, rings.count)
