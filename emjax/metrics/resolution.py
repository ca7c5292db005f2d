"""Resolution from agreement in Fourier space: FRC of images, FSC of volumes, thresholds.

Two traps, both tested. FRC does not see a filter: both halves times any transfer function give the
same curve, so a blurred image is "as resolved" (look at `spectral.transfer`). And the halves must
be independent: a network that adds the same prior to both raises their FRC without being right;
only the FRC against the truth of a simulation shows it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from emjax.metrics.arrays import Array, divide, module_of, numbers, root, square
from emjax.metrics.rings import RingCurve, ring_sum, transforms

__all__ = [
    "Resolution",
    "RingCurve",
    "bit_threshold",
    "fourier_correlation",
    "resolution",
    "sigma_threshold",
    "split_counts",
    "ssnr_from_correlation",
]


def fourier_correlation(
    image: Array,
    other: Array,
    *,
    sampling: float | tuple[float, ...] = 1.0,
    ndim: int = 2,
    window: str | None = "hann",
) -> RingCurve:
    """FRC (ndim=2) or FSC (ndim=3): Re Σ A B* / sqrt(Σ|A|² Σ|B|²) over each ring.

    Parameters
    ----------
    image, other : [..., (z,) y, x] real or complex; two independent halves, or an image and the
        truth. Leading axes are a batch.
    sampling : pixel size in Å, one or one per axis.
    ndim : 1, 2 or 3 image axes (the last ones).
    window : "hann", or None for periodic images.

    Returns
    -------
    RingCurve with value [..., rings], -1 to 1; 0 where a ring of either is empty (NaN of an image
    with NaN in it, in JAX). A ring below
    1e-6 of the strongest amplitude is rounding error in float32: use NumPy arrays for such.
    (Saxton and Baumeister 1982; Harauz and van Heel 1986.)

    Raises
    ------
    ValueError : shapes that differ, fewer than 4 pixels along an axis, an unknown window.
    """
    xp, a, b, rings = transforms(image, other, sampling, ndim, window)
    cross = ring_sum(xp, (a * xp.conj(b)).real, rings)
    # the root of each: the product of two powers leaves float32's range sooner
    powers = [ring_sum(xp, square(xp, v), rings) for v in (a, b)]
    norm = root(xp, powers[0]) * root(xp, powers[1])
    return RingCurve(rings.frequency, divide(xp, cross, norm, 0.0), rings.count)


def bit_threshold(count: Array, bits: float = 0.5) -> Array:
    """Information threshold of a ring of `count` Fourier pixels (van Heel and Schatz 2005).

    `bits` of information per pixel in the sum of both halves: 0.5 (half-bit) or 1 (one-bit). Tends
    to 0.1716 (half-bit) and 1/3 (one-bit) for large rings.
    """
    xp = module_of(count)
    snr = (2**bits - 1) / 2  # of one half
    small = 1 / xp.sqrt(xp.asarray(count) * 1.0)
    root = 2 * np.sqrt(snr) * small
    return (snr + root + small) / (1 + snr + root)


def sigma_threshold(count: Array, sigma: float = 3.0) -> Array:
    """sigma / sqrt(count / 2): what chance alone exceeds with that many standard deviations.

    Half of the pixels of a ring are independent (Friedel). Not a resolution: it says where there is
    any signal at all.
    """
    xp = module_of(count)
    return sigma / xp.sqrt(xp.asarray(count) / 2)


class Resolution(NamedTuple):
    """Where a curve falls below its threshold.

    Attributes
    ----------
    length : 1 / frequency, in units of the sampling (Å).
    frequency : of the crossing.
    limited : the curve never falls below: `length` is that of the last ring, and the sampling, not
        the image, set it. A bound, not a measurement.
    """

    length: float
    frequency: float
    limited: bool


def resolution(curve: RingCurve, threshold: float | str | Any = 1 / 7) -> Resolution:
    """The first crossing of one FRC curve, linear between rings. NumPy only.

    Parameters
    ----------
    curve : of `fourier_correlation`, one image.
    threshold : a number (1/7 = 0.143 for independent halves, Rosenthal and Henderson 2003; 0.5 for
        an image against the truth), "half-bit", "one-bit", "3-sigma", or one value per ring.

    Raises
    ------
    ValueError : a batch of curves, a curve with NaN in it, an unknown threshold.
    """
    value = np.asarray(curve.value, float)
    if value.ndim != 1:
        raise ValueError(f"curves of shape {value.shape}: pass one image's curve at a time.")
    if not np.isfinite(value).all():  # NaN is never below a threshold
        raise ValueError(f"{int((~np.isfinite(value)).sum())} rings of the curve are not finite.")
    named = {
        "half-bit": lambda: bit_threshold(curve.count, 0.5),
        "one-bit": lambda: bit_threshold(curve.count, 1.0),
        "3-sigma": lambda: sigma_threshold(curve.count, 3.0),
    }
    if isinstance(threshold, str):
        if threshold not in named:
            raise ValueError(f"threshold {threshold!r}: a number or one of {', '.join(named)}.")
        threshold = named[threshold]()
    gap = value - np.broadcast_to(np.asarray(threshold, float), value.shape)
    below = np.flatnonzero(gap < 0)
    f = curve.frequency
    if below.size == 0:
        return Resolution(float(1 / f[-1]), float(f[-1]), True)
    i = int(below[0])
    if i == 0:  # not even the first ring: nothing is resolved but the field of view
        return Resolution(float(1 / f[0]), float(f[0]), False)
    part = gap[i - 1] / (gap[i - 1] - gap[i])
    at = float(f[i - 1] + part * (f[i] - f[i - 1]))
    return Resolution(1 / at, at, False)


def ssnr_from_correlation(correlation: Array) -> Array:
    """Spectral signal-to-noise of the SUM of both halves, 2 FRC / (1 - FRC); 0 below 0.

    (Unser 1987; the same without the 2 is that of one half.) Infinity at 1.
    """
    xp, c = numbers(correlation, names=("correlation",))
    c = xp.maximum(c, 0.0)
    return divide(xp, 2 * c, 1 - c, xp.inf)


def split_counts(key: Any, counts: Array) -> tuple[Any, Any]:
    """Two independent halves of one counted image: each electron goes to either with chance 1/2.

    Poisson counts give two independent Poisson images of half the dose, so that one exposure has an
    FRC. Not for images that were filtered, interpolated, or scaled: those are not counts.

    Parameters
    ----------
    key : random key.
    counts : whole numbers >= 0 (floats hold them).
    """
    import jax
    import jax.numpy as jnp

    if module_of(counts) is np:
        array = np.asarray(counts)
        if (array < 0).any() or (array != np.round(array)).any():
            raise ValueError("counts must be whole numbers >= 0: scaled images cannot be split.")
    n = jnp.asarray(counts, jnp.zeros(()).dtype)
    half = jax.random.binomial(key, n, 0.5).astype(n.dtype)
    return half, n - half
