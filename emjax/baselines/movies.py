"""Classical denoisers of movies [t, y, x]: smoothing in space and time, averaging along the drift.

Drift is found by cross-correlation of each frame with the mean of all others: of a lattice, every
translation by a lattice vector correlates as well, so it is looked for near where the frame before
was.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["GRIDS", "METHODS", "drift_corrected", "find_drift", "space_time", "tune_movies"]


def space_time(movie: np.ndarray, *, sigma: float = 1.0, tau: float = 1.0) -> np.ndarray:
    """Gaussian filter of `sigma` pixels and `tau` frames, mirrored at the borders."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(_checked(movie), (tau, sigma, sigma))


def drift_corrected(
    movie: np.ndarray,
    *,
    sigma: float = 0.5,
    tau: float = 4.0,
    drift: np.ndarray | None = None,
) -> np.ndarray:
    """Each frame as the mean of all, moved to where it is, by a Gaussian of `tau` frames.

    Parameters
    ----------
    movie : [t, y, x]
    sigma : then smoothed by so many pixels; 0 is no smoothing.
    tau : in frames; infinite for the plain average.
    drift : [t, 2], where the specimen is (x, y) in pixels; found by `find_drift` if None.

    Returns
    -------
    [t, y, x]
    """
    from scipy.ndimage import gaussian_filter, shift

    movie = _checked(movie)
    drift = find_drift(movie) if drift is None else np.asarray(drift, float)
    if drift.shape != (len(movie), 2):
        raise ValueError(f"drift is [t, 2] = ({len(movie)}, 2), not of shape {drift.shape}")
    away = (drift - drift.mean(0))[:, ::-1]
    edge = int(np.ceil(np.abs(away).max())) + 2
    border = ((0, 0), (edge, edge), (edge, edge))

    def moved(frames: np.ndarray, way: np.ndarray, order: int) -> np.ndarray:
        pairs = zip(frames, way, strict=True)
        mode = "nearest" if order > 1 else "constant"
        return np.stack([shift(frame, d, order=order, mode=mode) for frame, d in pairs])

    aligned = moved(np.pad(movie, border, mode="edge"), -away, 3)
    weight = moved(np.pad(np.ones_like(movie), border), -away, 1)
    time = np.arange(len(movie))
    near = np.exp(-0.5 * np.square((time[:, None] - time) / tau))
    total = np.einsum("ts,syx->tyx", near, weight)
    mean = np.einsum("ts,syx->tyx", near, weight * aligned) / np.maximum(total, 1e-6)
    back = moved(np.where(total > 1e-6, mean, aligned), away, 3)
    inner = slice(edge, -edge)
    return gaussian_filter(back[:, inner, inner], (0, sigma, sigma))


def find_drift(
    movie: np.ndarray, *, smooth: float = 1.5, reach: float = 2.5, rounds: int = 3
) -> np.ndarray:
    """Where the specimen is in each frame, (x, y) [t, 2] in pixels, nought in the middle frame.

    Rigid registration by cross-correlation, from the middle frame outwards and then in `rounds`
    over all frames. A frame is compared with the mean of the others only: its own noise in the
    mean would say that it has not moved. Nor may the window, which does not move with the specimen:
    correlations are divided by those of the windows.

    Parameters
    ----------
    movie : [t, y, x]
    smooth : frames are smoothed so much first [px].
    reach : how far from the frame before a frame may be [px]; below half a lattice spacing.
    """
    from scipy.ndimage import gaussian_filter

    movie = _checked(movie)
    count, *shape = movie.shape
    fine = gaussian_filter(movie, (0, smooth, smooth))
    slow = gaussian_filter(movie, (0, 6 * smooth, 6 * smooth))
    taper = np.outer(*(np.hanning(n + 2)[1:-1] for n in shape))
    if count == 1:
        return np.zeros((1, 2))
    windows = np.broadcast_to(taper, movie.shape)
    forms = np.fft.rfft2(np.stack([(fine - slow) * taper, windows], axis=1))
    ky = np.fft.fftfreq(shape[0])[:, None]
    kx = np.fft.rfftfreq(shape[1])[None]

    def moved(form: np.ndarray, d: np.ndarray) -> np.ndarray:
        return form * np.exp(-2j * np.pi * (kx * d[0] + ky * d[1]))

    drift = np.zeros((count, 2))
    middle = count // 2
    total = forms[middle].copy()
    for order in (range(middle + 1, count), range(middle - 1, -1, -1)):
        before = middle
        for t in order:
            drift[t] = _peak(forms[t] * np.conj(total), shape, drift[before], reach)
            total = total + moved(forms[t], -drift[t])
            before = t
    for _ in range(rounds):
        for t in range(count):
            own = moved(forms[t], -drift[t])
            found = _peak(forms[t] * np.conj(total - own), shape, drift[t], reach)
            drift[t] = found
            total = total - own + moved(forms[t], -found)
    return drift - drift[middle]


def _peak(product: np.ndarray, shape: Any, about: np.ndarray, reach: float) -> np.ndarray:
    """(x, y) of the highest correlation within `reach` of a place, between the pixels.

    `product`: transforms of the frames' correlation, and of the windows'.
    """
    correlation, window = np.fft.irfft2(product, s=shape)
    correlation = correlation / np.maximum(window, 0.05 * window.max())
    sides, start = np.array(shape), about[::-1]
    away = [(np.arange(n) - a + n / 2) % n - n / 2 for n, a in zip(sides, start, strict=True)]
    far = np.hypot(away[0][:, None], away[1][None]) > reach
    place = np.array(np.unravel_index(np.argmax(np.where(far, -np.inf, correlation)), shape))
    found = np.empty(2)
    for axis, step in enumerate(np.eye(2, dtype=int)):
        low, top, high = (correlation[tuple((place + d * step) % sides)] for d in (-1, 0, 1))
        bend = low - 2 * top + high
        part = 0.5 * (low - high) / bend if bend < 0 else 0.0
        found[axis] = start[axis] + away[axis][place[axis]] + np.clip(part, -0.5, 0.5)
    return found[::-1]


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "space_time": space_time,
    "drift_corrected": drift_corrected,
}
"""By name: ``method(movie[t, y, x], **parameters) -> [t, y, x]``."""

GRIDS: dict[str, Mapping[str, Sequence[float]]] = {
    "space_time": {"sigma": (0.7, 1.0, 1.5, 2.0, 3.0), "tau": (0.0, 0.5, 1.0, 1.5, 2.5, 4.0)},
    "drift_corrected": {"sigma": (0.0, 0.5, 0.8, 1.2, 1.7), "tau": (1.0, 2.0, 4.0, 8.0, 1e9)},
}
"""What `tune_movies` tries of each parameter."""


def tune_movies(
    name: str,
    noisy: Sequence[np.ndarray],
    clean: Sequence[np.ndarray],
    metric: Callable[[np.ndarray, np.ndarray], float],
    *,
    grid: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, float]:
    """The parameters with the highest mean of ``metric(restored, clean)`` over some movies.

    Raises
    ------
    ValueError : an unknown name, no movies, or not as many clean ones.
    """
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r} for movies: choose {', '.join(METHODS)}")
    if not len(noisy) or len(noisy) != len(clean):
        raise ValueError(f"{len(noisy)} noisy and {len(clean)} clean movies: as many are needed")
    grid = GRIDS[name] if grid is None else grid
    methods = [METHODS[name]] * len(noisy)
    if name == "drift_corrected":  # the drift does not depend on what is tuned
        methods = [functools.partial(drift_corrected, drift=find_drift(m)) for m in noisy]
    settings = [dict(zip(grid, v, strict=True)) for v in itertools.product(*grid.values())]

    def score(setting: dict[str, float]) -> float:
        pairs = zip(methods, noisy, clean, strict=True)
        return float(np.mean([metric(method(m, **setting), c) for method, m, c in pairs]))

    return max(settings, key=score)


def _checked(movie: np.ndarray) -> np.ndarray:
    movie = np.asarray(movie, float)
    if movie.ndim != 3 or movie.size == 0:
        raise ValueError(f"a movie is [t, y, x], not of shape {movie.shape}")
    if not np.isfinite(movie).all():
        bad = np.flatnonzero(~np.isfinite(movie).all((1, 2)))
        raise ValueError(f"frame {bad[0]} of the movie holds values that are not finite")
    return movie
