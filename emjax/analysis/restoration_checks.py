"""What an image must be for its restoration to be trusted: sentences for the person who has it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from emjax.analysis.noise_checks import FLAT, clipped_ends, grey_step, whiteness

REACH = 48
"""Pixels to every side that a network looks at, where its file does not say."""
SHARPER = 0.12
"""Excess of power at the highest frequencies, along both axes, from which on noise is not white."""
SATURATED = 1e-4
"""Share of the pixels at the highest grey value that is worth a word."""


def concerns(
    image: np.ndarray,
    *,
    reach: int = REACH,
    sampling: tuple[float, float] | None = None,
    trained: tuple[float, float] | None = None,
    electrons: bool = False,
) -> list[str]:
    """Sentences about everything that makes a restoration doubtful; [] where nothing does.

    Parameters
    ----------
    image : [y, x], finite and not constant, as recorded.
    reach : pixels to every side of one that the network looks at.
    sampling : Å per pixel (y, x), if known.
    trained : smallest and largest Å per pixel of the network's training, if known.
    electrons : whether the image is in electrons, as some networks need it.
    """
    image = np.asarray(image)
    step = grey_step(image)
    found = [*_small(image, reach), *_pixel(sampling, trained), *_negative(image)]
    found += _cut_off(image, step)
    found += _filtered(image)
    found += [] if electrons else _scale(image, step)
    return found


def reach_of(
    apply: Callable[[Any, Any], Any], params: Any, *, side: int = 256, share: float = 0.99
) -> int:
    """How far a network looks [px]: the half width of the square around a pixel that its output
    there depends on.

    A norm over the picture lets every pixel depend a little on all others, so the square is that
    which holds `share` of the sum of the absolute derivatives.
    """
    import jax
    import jax.numpy as jnp

    x = jax.random.normal(jax.random.key(0), (1, side, side, 1))
    middle = side // 2
    slope = jax.grad(lambda x: apply(params, x)[0, middle, middle, 0])(x)
    weight = jnp.abs(slope[0, :, :, 0])
    y, x = np.abs(np.mgrid[:side, :side] - middle)
    rings = np.bincount(np.maximum(y, x).ravel(), np.asarray(weight, float).ravel())
    total = np.cumsum(rings)
    return int(np.searchsorted(total, share * total[-1]))


def _small(image: np.ndarray, reach: int) -> list[str]:
    ny, nx = image.shape
    if min(ny, nx) > 2 * reach:
        return []
    return [
        f"the image has {nx} × {ny} pixels, fewer than the {2 * reach + 1} a side that the network "
        "looks at: every pixel is near an edge, where less is known. Take a larger field if you can"
    ]


def _pixel(sampling: tuple[float, float] | None, trained: tuple[float, float] | None) -> list[str]:
    if sampling is None or trained is None:
        return []
    low, high = trained
    if all(low / 1.25 <= step <= 1.25 * high for step in sampling):
        return []
    what = "bin it before" if max(sampling) < low else "the columns are too close in it"
    return [
        f"the image has {max(sampling):.3g} Å per pixel; the network was trained on {low:g} to "
        f"{high:g} Å: {what}"
    ]


def _negative(image: np.ndarray) -> list[str]:
    part = float(np.mean(image < 0))
    if not part:
        return []
    return [
        f"{part:.2g} of all pixels are negative, down to {float(image.min()):.4g}: counts cannot "
        "be. An offset was taken away, or the image was filtered. The first does no harm (the "
        "network takes any offset), the second does: use the raw image"
    ]


def _cut_off(image: np.ndarray, step: float) -> list[str]:
    found = []
    low, high = clipped_ends(image, step)
    if high is not None and (part := float(np.mean(image == high))) > SATURATED:
        found.append(
            f"the detector or the file's format is saturated: {part:.2g} of all pixels have the "
            f"highest value {high:g}. What was above it cannot be restored, and the standard "
            "deviation given there is too small. Record with less gain or a lower offset"
        )
    if low is not None:
        part = float(np.mean(image == low))
        found.append(
            f"{part:.2g} of all pixels have the lowest value {low:g}: nothing arrived there, or "
            "the dark end is cut off. Where it is, noise is one-sided and the result too bright: "
            "record with a higher offset"
        )
    return found


def _filtered(image: np.ndarray) -> list[str]:
    x, y = whiteness(image)
    if not (math.isfinite(x) and math.isfinite(y)):
        return []
    # three standard deviations of a ratio of medians: small images hold few modes
    doubt = 3 * 1.8 / math.sqrt(0.07 * image.size)
    flat, sharpened = min(FLAT, 1 - doubt), 1 + max(SHARPER, doubt / math.sqrt(2))
    if min(x, y) < flat:
        axis = "along the lines" if y >= flat else "in columns" if x >= flat else "everywhere"
        return [
            f"the noise of neighbouring pixels is correlated {axis} (the highest frequencies have "
            f"{min(x, y):.2f} of the power of lower ones): the image was filtered already, resized "
            "or interpolated, or it has no noise. The network knows the noise of independent "
            "pixels: it may take what is left for structure. Use the raw image"
        ]
    both = math.sqrt(x * y)
    if both > sharpened:
        return [
            f"the image was sharpened (the highest frequencies have {both:.2f} times the power of "
            "lower ones): its noise is not that of the training. Use the raw image"
        ]
    return []


def _scale(image: np.ndarray, step: float) -> list[str]:
    if step > 0:
        return []
    return [
        "the grey values are real numbers whose scale is unknown. The network needs none: for "
        "a·image + b it gives a·result + b. So result and standard deviation are in the units of "
        "the file, and not in electrons"
    ]
