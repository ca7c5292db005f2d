"""How noisy is my microscope? Gain, offset, read-out, jitter and line gain from one's own images.

>>> calibration = calibrate_noise([image])                       # doctest: +SKIP
>>> calibration.noise(), calibration.scan(sampling=0.1)          # doctest: +SKIP

The result builds the noise models of `simulators`, so that simulated training data look like the
images. Of several images of one size that show the same area (repeats, a movie) the differences
are used, to which the specimen adds nothing. The parts: `photon_transfer`, `scan_errors`,
`noise_checks`, `repeats`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from emjax.analysis.noise_checks import FLAT, advice, clipped_ends, grey_step, unclipped, whiteness
from emjax.analysis.noise_model import CalibrationError, Estimate, NoiseCalibration
from emjax.analysis.photon_transfer import (
    Transfer,
    darkest,
    find_comb,
    offset_within,
    photon_transfer,
)
from emjax.analysis.repeats import aligned_pairs
from emjax.analysis.scan_errors import line_gain, line_jitter

__all__ = ["CalibrationError", "Estimate", "NoiseCalibration", "calibrate_noise"]

SMALLEST = 64
"""Pixels a side below which an image says too little."""
UNSURE = 0.9
"""Error of a measured line shift [pixels] from which the jitter is not reported; from 2/3 of it a
warning says that it is uncertain."""


def calibrate_noise(
    images: Sequence[np.ndarray],
    *,
    offset: float | None = None,
    dark: np.ndarray | None = None,
    camera: bool = False,
    names: Sequence[str] = (),
) -> NoiseCalibration:
    """Measure the noise of images from one detector with the same settings.

    Parameters
    ----------
    images : sequence of float [y, x]
        Raw grey values. Lines of the scan run along x.
    offset : float, optional
        Grey value of no electrons, if known. Otherwise it comes from the skewness of the noise,
        with large errors where the image has no dark area and many electrons per pixel.
    dark : float [y, x], optional
        An image with the beam blanked: gives offset and read-out directly.
    camera : bool
        Images of a camera (TEM), which have no scan lines: jitter and line gain are not sought.
    names : sequence of str, optional
        Names of the images for messages.

    Returns
    -------
    NoiseCalibration

    Raises
    ------
    CalibrationError
        No image; not two-dimensional, below 64 × 64, NaN, constant, clipped nearly everywhere,
        without noise, or too uniform to tell the gain.
    """
    names = tuple(names) or tuple(f"image {i}" for i in range(len(images)))
    frames = [_checked(image, name) for image, name in zip(images, names, strict=True)]
    if not frames:
        raise CalibrationError("no image to calibrate from: give one or more")
    said: list[str] = []
    steps = [grey_step(f) for f in frames]
    ends = [clipped_ends(f, s) for f, s in zip(frames, steps, strict=True)]
    ends = [_without_zeros(f, e, s) for f, e, s in zip(frames, ends, steps, strict=True)]
    usable = [unclipped(f, e) for f, e in zip(frames, ends, strict=True)]
    for frame, step, end, name in zip(frames, steps, ends, names, strict=True):
        said += [f"{name}: {line}" for line in advice(frame, ends=end, step=step)]
    for name, good in zip(names, usable, strict=True):
        if good.mean() < 0.05:
            raise CalibrationError(
                f"{name}: {1 - good.mean():.0%} of the image is clipped or next to clipped pixels: "
                "record it with other brightness and contrast."
            )
    step = min(steps)
    pairs, masks = aligned_pairs(frames, usable)
    x, y = np.min([whiteness(f) for f in frames], axis=0)
    across = bool(x < FLAT <= y)
    transfer = photon_transfer(
        frames, pairs=pairs, usable=masks if pairs else usable, across=across
    )
    values = np.concatenate([f[m] for f, m in zip(frames, usable, strict=True)])
    gain, zero, readout = _electrons(transfer, frames, values, step, offset, dark, names)
    if gain.error > 0.1 * gain.value:
        said.append(
            f"the gain is uncertain ({gain}): more images, or one with more contrast between dark "
            "and bright areas, help"
        )
    jitter = None if camera else line_jitter(frames, pairs=pairs)
    if jitter is not None and jitter.measured > UNSURE:
        said.append(
            f"the shift of a line is measurable to {jitter.measured:.1f} pixels only (too noisy, "
            "or too little contrast along the lines): no jitter is given. Use a longer exposure."
        )
        jitter = None
    elif jitter is not None and (
        jitter.measured > UNSURE * 2 / 3 or jitter.sigma_error > 0.3 * jitter.sigma > 0.05
    ):
        said.append("the jitter is uncertain: more lines, repeats or a longer exposure help")
    row_gain = (math.nan, 0.0) if camera else line_gain(frames, zero.value, pairs=pairs)
    if transfer.leak > 0.05 and (across or min(x, y) > FLAT):
        said.append(
            f"the specimen has details as small as a pixel: they add {transfer.leak:.0%} to the "
            "variance that is taken for noise. Use finer sampling, or give repeats."
        )
    how = "repeats" if pairs else "neighbouring lines"
    return NoiseCalibration(
        gain=gain,
        offset=zero,
        readout=readout,
        jitter=None if jitter is None else Estimate(jitter.sigma, jitter.sigma_error, how),
        correlation=None
        if jitter is None
        else Estimate(jitter.correlation, jitter.correlation_error, how),
        row_gain=Estimate(*row_gain, how) if np.isfinite(row_gain[0]) else None,
        electrons=float(np.mean((values - zero.value) / gain.value)),
        bits=_bits(ends),
        repeated=bool(pairs),
        images=names,
        warnings=tuple(said),
    )


def _checked(image: np.ndarray, name: str) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 2 or np.iscomplexobj(image):
        raise CalibrationError(
            f"{name} has shape {image.shape} ({image.dtype}): one real image [y, x] is needed"
        )
    if min(image.shape) < SMALLEST:
        raise CalibrationError(
            f"{name} has {image.shape[0]} × {image.shape[1]} pixels: from {SMALLEST} × {SMALLEST} "
            "on there is enough noise to measure"
        )
    image = image.astype(np.float64)
    if not np.isfinite(image).all():
        raise CalibrationError(
            f"{name}: {int((~np.isfinite(image)).sum())} pixels are NaN or infinite: crop them away"
        )
    if image.min() == image.max():
        raise CalibrationError(f"{name} is constant ({image.min():g}): the detector was off")
    return image


def _without_zeros(frame: np.ndarray, ends: tuple, step: float) -> tuple:
    """Clipped ends without the pile at 0 of counted electrons, which vacuum makes."""
    if ends[0] == 0 and step > 0:
        counts = photon_transfer([frame])
        if abs(counts.gain - step) < 4 * counts.gain_error + 0.1 * step:
            return None, ends[1]
    return ends


def _electrons(
    transfer: Transfer,
    frames: list[np.ndarray],
    values: np.ndarray,
    step: float,
    offset: float | None,
    dark: np.ndarray | None,
    names: Sequence[str],
) -> tuple[Estimate, Estimate, Estimate]:
    """(gain, offset, read-out) from all that is known."""
    g, error = transfer.gain, transfer.gain_error
    if not transfer.variance > 1e-7 * np.var(values):
        raise CalibrationError(f"{names[0]} has no noise: it was simulated without, or denoised")
    if not (np.isfinite(g) and g > 2 * error):
        raise CalibrationError(
            f"{names[0]}: the noise does not grow with the brightness (gain {g:.3g} ± {error:.2g} "
            "grey values per electron). The image is too uniform or too small, was normalised "
            "locally, filtered or stretched (gamma), or its contrast is inverted. Give a raw image "
            "with dark and bright areas, or several."
        )
    if dark is not None:
        black = _checked(dark, "the dark image")
        zero = Estimate(float(black.mean()), float(black.std() / math.sqrt(black.size)), "dark")
        return (
            Estimate(g, error, "variance against mean"),
            zero,
            Estimate(
                float(black.std() / g),
                float(black.std() / g * math.hypot(error / g, 1 / math.sqrt(2 * black.size))),
                "dark image",
            ),
        )
    comb = find_comb(values, g, error, step)
    rough = offset if offset is not None else -transfer.intercept / g
    if comb is not None:
        # the phase says the offset up to whole electrons
        about = comb.sigma**2 * comb.gain - (transfer.variance / comb.gain - transfer.mean)
        about = offset if offset is not None else about
        whole = round((about - comb.phase) / comb.gain)
        how = "single electrons in the histogram"
        return (
            Estimate(comb.gain, comb.gain_error, how),
            Estimate(float(comb.phase + whole * comb.gain), comb.phase_error, how),
            Estimate(comb.sigma, comb.sigma_error, how),
        )
    counts = step > 0 and abs(g - step) < 4 * error + 0.02 * step
    allowed = 4 * (transfer.variance_error + abs(transfer.mean - rough) * error) / g + 0.05 * step
    nearest = step * round(rough / step) if step > 0 else rough
    if abs(rough) < allowed:
        nearest = 0.0
    if counts and float(values.min()) >= nearest and abs(rough - nearest) < allowed:
        how = "whole numbers whose variance is their mean: counted electrons"
        return Estimate(step, 0.0, how), Estimate(nearest, 0.0, how), Estimate(0.0, 0.0, how)
    gain = Estimate(g, error, "variance against mean")
    if offset is not None:
        zero = Estimate(float(offset), 0.0, "given")
    else:
        low = -transfer.intercept / g
        high = darkest(frames, max(transfer.variance, 0.0))
        zero = Estimate(
            *offset_within(transfer.offset, transfer.offset_error, low, high),
            "skewness of the noise",
        )
    # variance at the offset, where only read-out is left
    square = (transfer.intercept + g * zero.value) / g**2
    sigma = math.sqrt(max(square, 0.0))
    # a known offset fixes the rate at which the variance was measured; else the two errors go
    # together, and only the scale in electrons is left of that of the gain
    lever = 2 * square if offset is None else 2 * square + (transfer.mean - zero.value) / g
    blur = math.hypot(transfer.variance_error / g**2, zero.error / g, lever * error / g)
    wrong = min(blur / (2 * max(sigma, 1e-9)), math.sqrt(blur))
    return gain, zero, Estimate(sigma, wrong, "variance at the offset")


def _bits(ends: list) -> int | None:
    """The converter's bits, where the upper end of clipped values is 2^bits - 1."""
    for _, high in ends:
        if high is not None and high >= 127 and high == int(high):
            bits = math.log2(high + 1)
            if bits == int(bits) and bits <= 24:
                return int(bits)
    return None
