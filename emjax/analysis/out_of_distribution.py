"""Whether an image is of the kind that a network was trained on.

A restorer answers every picture with a plausible one, also a picture of something that it has never
seen. What tells the two apart are plain statistics: how the variance above the noise is spread over
frequencies, how sharp the peaks of the spectrum are, how far the image correlates with itself, how
its grey values are distributed and how its noise goes with its brightness. None of them depends on
gain and offset.

How far they are from those of the training alone is a poor score: it rejects good images for a
detector of another kind, and lets dim pictures of anything pass. So a small classifier learns to
tell the training's images from `foreign_images`, which are no recordings but random fields, discs,
membranes, particles and diffraction patterns (outlier exposure: Hendrycks et al., ICLR 2019). Its
weights are kept with those of the network (`Reference.as_meta`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter, minimum, uniform_filter

from emjax.analysis.foreign_images import foreign_image

BANDS = (0.0, 0.02, 0.04, 0.065, 0.1, 0.15, 0.22, 0.3, 0.4)
"""Limits of the frequency bands [cycles per pixel]."""
NAMES = (
    *(f"band_{low:g}" for low in BANDS[:-1]),
    *("signal", "noise", "noise_colour", "peaks", "ring_peaks", "slope", "off_slope"),
    *("trough", "echo", "trough_at"),
    *("skew_fine", "tails_fine", "skew_coarse", "tails_coarse"),
    *("noise_tails", "noise_law", "noise_spread"),
)
SMALLEST = 64
"""Pixels a side that an image needs to be judged."""
RIDGE = 0.03
EXCEEDED = 0.02
"""Share of the training's own tiles whose score is above the limit."""


class Verdict(NamedTuple):
    """What `judge` says of an image."""

    score: float
    """Median over tiles: about -1 for images like those of the training, +1 for others."""
    limit: float
    tiles: int
    """How many were looked at."""

    @property
    def foreign(self) -> bool:
        """Whether the image looks like something else than what the network was trained on."""
        return self.score > self.limit


@dataclass(frozen=True, eq=False)
class Reference:
    """The classifier of one network's training images; made by `fit_reference`.

    Attributes
    ----------
    tile : pixels a side of the tiles that the statistics are of.
    centre, spread : [d], of the statistics `NAMES`.
    weights : [1 + d + d (d + 1) / 2], of 1, the scaled statistics and their products.
    limit : score above which an image counts as foreign.
    """

    tile: int
    centre: np.ndarray
    spread: np.ndarray
    weights: np.ndarray
    limit: float

    def as_meta(self) -> dict[str, Any]:
        """Numbers and lists, some kilobytes, for ``Model.meta["images"]``."""
        arrays = {name: getattr(self, name) for name in ("centre", "spread", "weights")}
        rounded = {k: [float(f"{v:.5g}") for v in values] for k, values in arrays.items()}
        return {"statistics": list(NAMES), "tile": self.tile, **rounded, "limit": self.limit}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Reference:
        """The inverse of `as_meta`.

        Raises
        ------
        ValueError
            They are not the statistics of this version.
        """
        if tuple(meta["statistics"]) != NAMES:
            raise ValueError(
                "the network's file holds other statistics of its training images than this emjax "
                "computes: use the version that wrote it, or train again"
            )
        names = ("centre", "spread", "weights")
        arrays = {name: np.asarray(meta[name], float) for name in names}
        return cls(tile=int(meta["tile"]), limit=float(meta["limit"]), **arrays)

    def score(self, values: np.ndarray) -> np.ndarray:
        """Scores [n] of statistics [n, d]."""
        return _products(_scaled(values, self.centre, self.spread)) @ self.weights


def fit_reference(
    images: Iterable[np.ndarray], *, tile: int = 128, count: int = 1200, seed: int = 0
) -> Reference:
    """The classifier that tells images like these from others.

    Parameters
    ----------
    images : [y, x] each, of at least `tile` pixels a side: the noisy images of the training, some
        hundreds, and a part of them with little noise if good images are to pass as well.
    tile : pixels a side that are looked at in one piece.
    count : foreign images that are made.
    seed : of the foreign images.

    Raises
    ------
    ValueError
        Fewer than 16 images, or images that are too small.
    """
    own = np.concatenate([_values(image, tile, most=1) for image in images] or [np.zeros((0, 0))])
    if len(own) < 16:
        raise ValueError(f"{len(own)} usable images are too few to know others from: give hundreds")
    rng = np.random.default_rng(seed)
    others = np.stack([statistics(foreign_image(rng, tile)) for _ in range(count)])
    # every fold is judged by a classifier that has not seen it
    folds = np.arange(len(own)) % 4
    held_out = [
        Reference(tile, *_fit(own[folds != k], others), 0.0).score(own[folds == k])
        for k in range(4)
    ]
    limit = float(np.quantile(np.concatenate(held_out), 1 - EXCEEDED))
    return Reference(tile, *_fit(own, others), round(max(limit, 0.0), 4))


def judge(reference: Reference, image: np.ndarray, *, most: int = 16) -> Verdict:
    """Whether an image [y, x] is like those of the training, from `most` tiles across it.

    Raises
    ------
    ValueError
        It is smaller than SMALLEST, not finite, or constant.
    """
    values = _values(image, reference.tile, most)
    if not len(values):
        raise ValueError("the image is constant wherever it was looked at")
    score = float(np.median(reference.score(values)))
    return Verdict(score, reference.limit, len(values))


def statistics(tile: np.ndarray) -> np.ndarray:
    """The numbers `NAMES` of one tile [y, x]; the same for any gain and offset of the detector.

    Raises
    ------
    ValueError
        The tile is constant, not finite, or too small.
    """
    tile = np.asarray(tile, float)
    if tile.ndim != 2 or min(tile.shape) < SMALLEST:
        raise ValueError(f"at least {SMALLEST} × {SMALLEST} pixels are needed, not {tile.shape}")
    mean, size = tile.mean(), tile.std()
    if not np.isfinite(size) or size <= 1e-9 * np.abs(tile).max():
        raise ValueError("a tile that is constant or not finite has no statistics")
    x = (tile - mean) / size
    return np.asarray([*_spectrum(x), *_grey_values(x)])


def _spectrum(x: np.ndarray) -> list[float]:
    shape = x.shape
    n = min(shape)
    q, window, rings = _frequencies(shape)
    power = np.abs(np.fft.fft2(x * window)) ** 2 / (window**2).sum()
    # the median of an exponential law, as the power of noise has, is its mean times log 2
    floor = float(np.median(power[(q > 0.4) & (q < 0.5)]) / np.log(2))
    above = power - floor
    bands = [
        max(above[(q >= low) & (q < high) & (q > 0)].sum() / power.size, 0.0)
        for low, high in pairwise(BANDS)
    ]
    signal = sum(bands)
    found = [np.log(band / (signal + 1e-9) + 0.01) for band in bands]
    colour = np.median(power[(q > 0.3) & (q < 0.4)]) / np.log(2) / (floor + 1e-4)
    middle = power[(q > 0.03) & (q < 0.4)]
    found += [
        np.log(signal + 0.02),
        np.log(floor + 0.01),
        np.clip(np.log(colour + 1e-4), -2, 2),
        np.log((middle**2).mean() / (middle.mean() ** 2 + 1e-12) + 1e-6),
    ]

    count, first, second = (
        np.bincount(rings.ravel(), None if w is None else w.ravel())
        for w in (None, power, power**2)
    )
    near = slice(3, int(0.3 * n))
    contrast = second[near] * count[near] / (first[near] ** 2 + 1e-12)
    weight = np.maximum(first[near] - floor * count[near], 0)
    found.append(np.log((contrast * weight).sum() / (weight.sum() + 1e-9) + 0.5))

    near = slice(2, int(0.25 * n))
    mean = (first / count)[near]
    curve = np.log(np.maximum(mean - floor, 0) + 0.05 * floor + 1e-3)
    line = np.stack([np.ones(len(curve)), np.log(np.arange(near.start, near.stop) / n)], axis=1)
    best = np.linalg.lstsq(line, curve, rcond=None)[0]
    found += [best[1], np.log((curve - line @ best).std() + 0.1)]

    # how the image, without its noise and its slow changes, correlates with itself
    alike = np.fft.ifft2(np.maximum(above, 0) * (q > 0.012)).real
    alike = alike / (alike[0, 0] + 1e-12)
    distance = _distances(shape)
    low = np.asarray(minimum(alike, np.floor(distance), np.arange(1, n // 4)))
    at = int(low.argmin()) + 1
    echo = alike[(distance > at) & (distance < 0.45 * n)].max()
    return [*found, float(low.min()), float(echo), np.log(at)]


def _grey_values(x: np.ndarray) -> list[float]:
    found: list[float] = []
    for sigma in (1.0, 2.5):
        smooth = gaussian_filter(x, sigma)
        smooth = (smooth - smooth.mean()) / (smooth.std() + 1e-9)
        found += [np.arcsinh((smooth**3).mean()), np.arcsinh((smooth**4).mean() - 3)]
    noise = x - uniform_filter(x, 3)
    found.append(np.arcsinh((noise**4).mean() / ((noise**2).mean() ** 2 + 1e-18) - 3))
    mean, variance = gaussian_filter(x, 2.0), gaussian_filter(noise**2, 2.0)
    spread = variance.std()
    together = ((mean - mean.mean()) * (variance - variance.mean())).mean()
    found.append(together / (mean.std() * spread + 1e-18))
    found.append(np.log((spread + 1e-9) / (variance.mean() + 1e-9)))
    return found


@functools.lru_cache(maxsize=8)
def _frequencies(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(frequency of every mode, window, number of its ring)."""
    q = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None])
    window = np.hanning(shape[0])[:, None] * np.hanning(shape[1])[None]
    return q, window, np.rint(q * min(shape)).astype(int)


@functools.lru_cache(maxsize=8)
def _distances(shape: tuple[int, int]) -> np.ndarray:
    y, x = (np.fft.fftfreq(n) * n for n in shape)
    return np.hypot(y[:, None], x[None])


def _values(image: np.ndarray, tile: int, most: int) -> np.ndarray:
    """Statistics [n, d] of up to `most` tiles, evenly across the image; constant ones left out."""
    image = np.asarray(image, float)
    if image.ndim != 2 or min(image.shape) < SMALLEST:
        raise ValueError(
            f"an image [y, x] of at least {SMALLEST} px a side can be judged, not {image.shape}"
        )
    if not np.isfinite(image).all():
        raise ValueError("the image is not finite")
    ny, nx = (min(tile, n) for n in image.shape)
    side = max(int(most**0.5), 1)
    counts = [min(side, -(-n // m)) for n, m in zip(image.shape, (ny, nx), strict=True)]
    corners = [
        np.linspace(0, n - m, c + 2)[1:-1] if c == 1 else np.linspace(0, n - m, c)
        for n, m, c in zip(image.shape, (ny, nx), counts, strict=True)
    ]
    found = []
    for y in corners[0].astype(int):
        for x in corners[1].astype(int):
            part = image[y : y + ny, x : x + nx]
            if part.std() > 1e-9 * np.abs(part).max():
                found.append(statistics(part))
    return np.array(found).reshape(-1, len(NAMES))


def _scaled(values: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Far values count little more than near ones: products of them would be huge."""
    return np.arcsinh((np.atleast_2d(values) - centre) / spread)


def _products(z: np.ndarray) -> np.ndarray:
    i, j = np.triu_indices(z.shape[1])
    return np.concatenate([np.ones((len(z), 1)), z, z[:, i] * z[:, j]], axis=1)


def _fit(own: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(centre, spread, weights): least squares to -1 and +1, both kinds of equal weight."""
    both = np.concatenate([own, others])
    centre, spread = np.median(both, axis=0), both.std(axis=0) + 0.02
    design = _products(_scaled(both, centre, spread))
    wanted = np.concatenate([np.full(len(own), -1.0), np.full(len(others), 1.0)])
    share = np.concatenate([np.full(len(own), 1 / len(own)), np.full(len(others), 1 / len(others))])
    penalty = np.full(design.shape[1], RIDGE)
    penalty[0] = 1e-6
    normal = design.T @ (design * share[:, None]) + np.diag(penalty)
    return centre, spread, np.linalg.solve(normal, design.T @ (share * wanted))
