"""Judges a denoiser that was trained without pairs, on series of frames of scenes with a truth.

Similarity of consecutive frames (CSS), by which such denoisers are published, can be had by
smoothing alone: it stands beside PSNR and SSIM against the truth here, and counts only with them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from emjax.baselines.restoration import DENOISERS, affine_psnr, fit_affine, tune
from emjax.data.synthetic_series import FRAMES, Series, record_series
from emjax.metrics.image_quality import ssim
from emjax.metrics.series import consecutive_similarity, residual_correlation
from emjax.metrics.statistics import Interval, bootstrap_interval

KEYS = {"validation": 31, "test": 32}
"""Seeds of the held-out series: the same for every run."""
SCORES = ("psnr", "ssim", "css", "residual")
BASELINES = ("noisy", "gaussian", "wiener_fourier", "non_local_means", "bm3d_binned")
QUICK = ("noisy", "gaussian")
PSNR_MARGIN = 0.5
"""How far below Noise2Void the PSNR may be [dB], as the row was set."""
Restorer = Callable[[np.ndarray], np.ndarray]
"""Counts [n, y, x] -> images of the same shape."""


@dataclass(frozen=True, eq=False)
class Scored:
    """One method: a value for each scene, and its first frames in the truth's unit."""

    name: str
    values: dict[str, np.ndarray]
    images: np.ndarray
    """[n, y, x]"""
    setting: str = ""

    def mean(self, score: str) -> Interval:
        """(value, low, high): a bootstrap over scenes."""
        values = self.values[score]
        finite = values[np.isfinite(values)]
        return bootstrap_interval(finite) if len(finite) else (float("nan"),) * 3

    def over(self, other: Scored, score: str) -> Interval:
        """Mean difference from another method on the same scenes."""
        return bootstrap_interval(self.values[score] - other.values[score])


@dataclass(frozen=True, eq=False)
class Judgement:
    """All that is measured after training."""

    series: Series
    scored: dict[str, Scored]
    networks: tuple[str, ...]
    """Names of the networks among them: the one trained without pairs first."""
    left_out: dict[str, str]
    """Classical methods that could not run, and why."""
    quick: bool

    @property
    def css_rival(self) -> str:
        """The best by CSS of the others (but for the network's own row)."""
        others = [name for name in self.scored if name != self.networks[0]]
        return max(others, key=lambda name: self.scored[name].mean("css")[0])

    @property
    def verdict(self) -> dict[str, bool]:
        """The row's conditions by their point estimates."""
        own, n2v = (self.scored[name] for name in self.networks[:2])
        gaussian = self.scored["gaussian"]
        return {
            "css": own.over(self.scored[self.css_rival], "css")[0] >= 0,
            "psnr": own.over(n2v, "psnr")[0] >= -PSNR_MARGIN,
            "ssim": own.over(n2v, "ssim")[0] >= 0 and own.over(gaussian, "ssim")[0] >= 0,
        }


def training_frames(config: Any) -> np.ndarray:
    """[n, y, x, 1] noisy images of the training: `frames` of them, of `materials`."""
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    series = record_series(config.scene, config.materials, key, -(-config.frames // FRAMES))
    counts = series.counts.astype(np.float32)
    return counts.reshape(-1, *counts.shape[2:], 1)[: config.frames]


def hold_out(config: Any) -> tuple[Series, Series]:
    """(validation, test): series of crystals and scenes that no training sees.

    Parameters
    ----------
    config : with `scene`, `kept_aside` (crystals) and `each` (scenes of the test; half as many are
        for validation).
    """
    sizes = {"validation": max(config.each // 2, 2), "test": config.each}
    parts = [
        record_series(config.scene, config.kept_aside, jax.random.key(2**31 - KEYS[which]), n)
        for which, n in sizes.items()
    ]
    return parts[0], parts[1]


def score(name: str, restored: np.ndarray, series: Series, setting: str = "") -> Scored:
    """Means over the frames of each scene.

    Each scene's frames are brought to the truth's unit by one gain and offset for all of them
    (`psnr` and `ssim` with data range 1); CSS is taken in this unit.

    Raises
    ------
    ValueError : images of another shape, or not finite.
    """
    counts, clean = series.counts, series.clean.astype(np.float64)
    if restored.shape != counts.shape or not np.isfinite(restored).all():
        raise ValueError(f"{name} gave images {restored.shape} (or NaN) for counts {counts.shape}")
    rows, first = [], []
    for frames, seen, truth in zip(restored, counts, clean, strict=True):
        truths = np.broadcast_to(truth, frames.shape)
        fitted = fit_affine(frames, truths)
        first.append(fitted[0])
        rows.append(
            (
                np.mean([affine_psnr(f, truth, data_range=1.0) for f in frames]),
                np.mean(ssim(fitted, truths, data_range=1.0)),
                float(consecutive_similarity(fitted, data_range=1.0)),
                # in the counts' unit: what was taken away
                np.mean(residual_correlation(seen, fit_affine(frames, seen))),
            )
        )
    values = dict(zip(SCORES, np.array(rows, float).T, strict=True))
    return Scored(name, values, np.stack(first), setting)


def judge(
    networks: Mapping[str, Restorer],
    validation: Series,
    test: Series,
    *,
    quick: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Judgement:
    """Tune the classical methods on validation series (by PSNR), score everything on test series.

    `networks`: the one trained without pairs first, then the one that it is compared with.
    """
    say(f"tuning the classical methods on {len(validation.clean)} images …")
    metric = functools.partial(affine_psnr, data_range=1.0)
    scored, left_out = {}, {}
    for name in QUICK if quick else BASELINES:
        try:
            parameters = tune(name, [*validation.counts[:, 0]], [*validation.clean], metric=metric)
            restored = [
                [DENOISERS[name](frame, **parameters) for frame in frames] for frames in test.counts
            ]
        except (ModuleNotFoundError, ValueError) as error:
            left_out[name] = str(error)
            continue
        setting = ", ".join(f"{k} {v}" for k, v in parameters.items())
        scored[name] = score(name, np.array(restored), test, setting)
    n, t, y, x = test.counts.shape
    for name, restore in networks.items():
        images = np.asarray(restore(test.counts.reshape(n * t, y, x)))
        scored[name] = score(name, images.reshape(n, t, y, x), test)
    return Judgement(test, scored, tuple(networks), left_out, quick)


def numbers(result: Judgement) -> dict[str, Any]:
    """What `results.json` holds."""
    own, other = (result.scored[name] for name in result.networks[:2])
    return {
        "scenes": len(result.series.clean),
        "methods": {n: {key: s.mean(key) for key in SCORES} for n, s in result.scored.items()},
        "against_noise2void": {key: own.over(other, key) for key in SCORES[:3]},
        "css_rival": result.css_rival,
        "against_css_rival": own.over(result.scored[result.css_rival], "css"),
        "verdict": result.verdict,
        "left_out": result.left_out,
    }
