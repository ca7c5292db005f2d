"""Filling by examples: missing pixels are copied from patches that look like their surroundings.

Criminisi, Pérez & Toyama, IEEE TIP 2004. For dead lines and holes, not for scattered measured
pixels: the examples are patches without any missing pixel.
"""

from __future__ import annotations

import numpy as np

from emjax.baselines.images import NotApplicable, checked_pair

__all__ = ["exemplar"]


def exemplar(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    patch: int = 9,
    matches: int = 1,
    examples: int = 20000,
    seed: int = 0,
) -> np.ndarray:
    """Fill from the rim inwards, where most is known and where edges run into the gap first.

    Parameters
    ----------
    image, mask : (y, x), True where measured.
    patch : side in pixels, odd; more than the texture's period.
    matches : the mean of this many best examples is copied: 1 keeps the texture with its noise,
        more make it smooth.
    examples : at most so many patches are compared, drawn with `seed` if there are more.

    Raises
    ------
    NotApplicable : no whole patch was measured.
    ValueError : an even patch; see `emjax.baselines.filling` for masks.
    """
    if patch < 3 or patch % 2 == 0 or matches < 1:
        raise ValueError(f"patch={patch} has to be odd and 3 or more, matches={matches} 1 or more")
    data, measured = checked_pair(image, mask)
    if measured.all():
        return data
    mean, scale = data[measured].mean(), data[measured].std() or 1.0
    x = np.where(measured, (data - mean) / scale, 0).astype(np.float32)
    sources = _examples(x, measured, patch, examples, seed)
    squares = sources**2
    matches = min(matches, len(sources))
    known, confidence = measured.copy(), measured.astype(np.float64)
    while not known.all():
        for y0, x0, trust in _rim(x, known, confidence, patch):
            box = (slice(y0, y0 + patch), slice(x0, x0 + patch))
            here = known[box].ravel().astype(np.float32)
            distance = squares @ here - 2 * sources @ (here * x[box].ravel())
            best = np.argpartition(distance, matches - 1)[:matches]
            new = ~known[box]
            x[box][new] = sources[best].mean(0).reshape(patch, patch)[new]
            confidence[box][new] = trust
            known[box] = True
    return np.where(measured, data, x.astype(np.float64) * scale + mean)


def _examples(x: np.ndarray, measured: np.ndarray, patch: int, most: int, seed: int) -> np.ndarray:
    """(n, patch²): the patches without a missing pixel."""
    view = np.lib.stride_tricks.sliding_window_view
    whole = np.zeros((0, 2), int)
    if min(x.shape) >= patch:
        whole = np.argwhere(view(measured, (patch, patch)).all((2, 3)))
    if len(whole) == 0:
        raise NotApplicable(
            f"no patch of {patch} x {patch} pixels was measured as a whole (coverage "
            f"{measured.mean():.3g}): exemplar filling is for gaps in dense images; choose a "
            "smaller patch, or interpolate"
        )
    if len(whole) > most:
        whole = whole[np.random.default_rng(seed).choice(len(whole), most, replace=False)]
    return view(x, (patch, patch))[whole[:, 0], whole[:, 1]].reshape(len(whole), -1)


def _rim(x: np.ndarray, known: np.ndarray, confidence: np.ndarray, patch: int):
    """Corners (y0, x0) and confidence of patches to fill now, by priority; they do not overlap.

    Several at once (those with half of the highest priority or more), since they cannot see one
    another. The priority is the paper's: mean confidence of the patch, times how much the
    image's edges point into the gap.
    """
    from scipy.ndimage import binary_dilation, gaussian_filter, uniform_filter

    front = binary_dilation(known) & ~known
    trust = uniform_filter(np.where(known, confidence, 0), patch)[front]
    weight = gaussian_filter(known.astype(np.float64), 1.0)
    smooth = gaussian_filter(np.where(known, x, 0).astype(np.float64), 1.0)
    slope = np.stack(np.gradient(smooth / np.maximum(weight, 1e-3)))[:, front]
    normal = np.stack(np.gradient(weight))[:, front]
    normal /= np.maximum(np.hypot(*normal), 1e-9)
    priority = trust * (np.abs(slope[0] * normal[1] - slope[1] * normal[0]) + 1e-3)

    places = np.argwhere(front)
    taken = np.zeros(x.shape, bool)
    chosen = []
    for i in np.argsort(-priority, kind="stable"):
        if chosen and priority[i] < priority.max() / 2:
            break
        y0, x0 = (
            int(np.clip(c - patch // 2, 0, n - patch))
            for c, n in zip(places[i], x.shape, strict=True)
        )
        box = (slice(y0, y0 + patch), slice(x0, x0 + patch))
        if not taken[box].any():
            taken[box] = True
            chosen.append((y0, x0, max(float(trust[i]), 1e-6)))
    return chosen
