"""What the classical restorers share: checks of images and masks, and units of the noise.

A threshold or a weight means the same on every image when the noise has a standard deviation of 1.
`unit_noise` brings an image there and back: by the Anscombe transform for counts, by the estimated
noise otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from emjax.losses.anscombe import anscombe, inverse_anscombe

__all__ = ["NotApplicable", "checked_image", "checked_pair", "noise_level", "unit_noise"]


class NotApplicable(ValueError):
    """The input is sound, but this method with these parameters cannot work on it."""


def checked_image(image: np.ndarray, *, least: int = 1) -> np.ndarray:
    """The image (y, x) in float64.

    Raises
    ------
    ValueError : not two axes, complex, fewer than `least` pixels along an axis, NaN or infinite.
    """
    array = np.asarray(image)
    if array.ndim != 2:
        raise ValueError(
            f"the image has shape {array.shape}: the classical methods take one image (y, x)"
        )
    if np.iscomplexobj(array):
        raise ValueError("the image is complex: restore its real part, modulus or phase")
    if min(array.shape) < least:
        raise ValueError(f"the image has shape {array.shape}: at least {least} pixels are needed")
    array = array.astype(np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        y, x = np.argwhere(bad)[0]
        raise ValueError(
            f"{bad.sum()} pixels are NaN or infinite, the first at row {y}, column {x}: "
            "fill them first (emjax.baselines.restoration.FILLERS)"
        )
    return array


def checked_pair(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image in float64 with 0 where nothing was measured, and the mask as booleans.

    Parameters
    ----------
    image : (y, x); what stands in pixels that were not measured is ignored, NaN included.
    mask : (y, x), True or 1 where measured.

    Raises
    ------
    ValueError : another shape, values beside 0 and 1, nothing measured, NaN in measured pixels.
    """
    array, measured = np.asarray(image), np.asarray(mask)
    if array.ndim != 2 or measured.shape != array.shape:
        raise ValueError(
            f"the image has shape {array.shape} and its mask {measured.shape}: "
            "both have to be the same (y, x)"
        )
    if measured.dtype != bool:
        if not np.isin(measured, (0, 1)).all():
            raise ValueError("the mask holds values beside 0 and 1: it says measured or not")
        measured = measured.astype(bool)
    if not measured.any():
        raise ValueError("the mask's coverage is zero: no pixel was measured (True = measured)")
    filled = np.where(measured, array, 0)
    bad = ~np.isfinite(filled)
    if bad.any():
        y, x = np.argwhere(bad)[0]
        raise ValueError(
            f"{bad.sum()} measured pixels are NaN or infinite, the first at row {y}, column {x}: "
            "set the mask to False there"
        )
    return checked_image(filled), measured


def noise_level(image: np.ndarray) -> float:
    """Standard deviation of white noise, from the median of |diagonal differences| in 2 × 2 blocks.

    Donoho & Johnstone, Biometrika 1994, with Haar's finest diagonal coefficients: slopes and
    straight edges along the axes drop out, smooth structure hardly counts. Where most pixels are
    equal (counts far below 1) the median is 0 and the root mean square is taken.
    """
    y, x = (n // 2 * 2 for n in image.shape)
    a, b = image[0:y:2, 0:x:2], image[0:y:2, 1:x:2]
    c, d = image[1:y:2, 0:x:2], image[1:y:2, 1:x:2]
    detail = (a - b - c + d) / 2
    if detail.size == 0:
        return 0.0
    level = np.median(np.abs(detail)) / 0.6744897501960817
    return float(level if level > 0 else np.sqrt(np.mean(detail**2)))


def unit_noise(
    image: np.ndarray,
    *,
    stabilise: bool,
    gain: float = 1.0,
    offset: float = 0.0,
    read_out: float = 0.0,
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """The image in units in which its noise has a standard deviation of 1, and the way back.

    Parameters
    ----------
    image : (y, x) float64.
    stabilise : True: Anscombe's transform with `gain`, `offset` and `read_out` (recorded units, as
        in `emjax.losses.anscombe`) and its exact unbiased inverse. False: division by
        `noise_level`; an image without noise (the level is 0) stays as it is.

    Raises
    ------
    ValueError : a gain or read-out noise that is not possible, or values further below the offset
        than the read-out noise explains: then these are no counts.
    """
    if not stabilise:
        scale = noise_level(image) or 1.0
        return image / scale, lambda restored: restored * scale
    if gain <= 0 or read_out < 0:
        raise ValueError(f"gain {gain} has to be positive, read-out noise {read_out} not negative")
    lowest = image.min()
    if lowest < offset - 8 * read_out:
        raise ValueError(
            f"the square root of negative counts was asked for: the lowest value is {lowest:.4g}, "
            f"the offset {offset:.4g}, the read-out noise {read_out:.4g}. Say read_out= and "
            "offset= of the detector, or stabilise=False for an image that is no counts"
        )
    terms = {"gain": gain, "offset": offset, "sigma": read_out}

    def back(restored: np.ndarray) -> np.ndarray:
        return np.asarray(inverse_anscombe(_single(restored), **terms), np.float64)

    return np.asarray(anscombe(_single(image), **terms), np.float64), back


def _single(image: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(image.astype(np.float32))
