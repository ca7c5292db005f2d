"""Judges a restorer on images it has not seen, beside classical filters at their best.

The test images show crystals that the training left out, at two doses, as counted and with the
errors of a scan. Every classical filter is tuned for each of the four conditions by itself, on
validation images of the same kind; the network is one for all, and is told neither.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from emjax.baselines.restoration import DENOISERS, NotApplicable, fit_affine, tune
from emjax.data.column_scene import ColumnScene
from emjax.data.synthetic_columns import crystals, make_scenes
from emjax.metrics.image_quality import psnr, ssim
from emjax.metrics.statistics import Interval, bootstrap_interval

KEYS = {"validation": 21, "test": 22}
"""Seeds of the held-out images: the same for every run."""
CRYSTALS = ("graphene", "mos2", "srtio3", "silicon110", "gold001")
"""What the held-out images show."""
EIGHT = (
    "gaussian",
    "median",
    "bilateral",
    "wiener_local",
    "wavelet",
    "tv_chambolle",
    "tv_bregman",
    "non_local_means",
)
"""The filters that Ede & Beanland (2019) compare with, at their defaults."""
TOGETHER = 10
"""Images that are drawn in one call."""
QUANTILE = 1.6449
"""Of the standard normal distribution: 90 % lie within ± this."""


@dataclass(frozen=True)
class Condition:
    """How test images were recorded."""

    name: str
    dose: float
    """Electrons at the brightest pixel."""
    scan: bool = False
    """With line jitter, line gain and read-out noise."""

    def of(self, scene: ColumnScene) -> ColumnScene:
        """The scene that it makes of that of the training."""
        errors = {} if self.scan else {"jitter": 0.0, "line_gain": 0.0, "readout": 0.0}
        return dataclasses.replace(
            scene, generic=0.0, lattice=1.0, dose=(self.dose, self.dose), **errors
        )


CONDITIONS = (
    Condition("low dose", 5.0),
    Condition("ordinary dose", 50.0),
    Condition("low dose, scan errors", 5.0, scan=True),
    Condition("ordinary dose, scan errors", 50.0, scan=True),
)


@dataclass(frozen=True, eq=False)
class Images:
    """Held-out images of one condition, [n, y, x] each."""

    condition: Condition
    counts: np.ndarray
    rate: np.ndarray


@dataclass(frozen=True, eq=False)
class Score:
    """One method under one condition: a value per image."""

    psnr: np.ndarray
    ssim: np.ndarray
    mse: np.ndarray
    seconds: float
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def mean(self, name: str) -> Interval:
        """Mean and 95 % interval over the images."""
        return bootstrap_interval(getattr(self, name))


@dataclass(frozen=True, eq=False)
class Judgement:
    """All that is measured after training."""

    images: Sequence[Images]
    network: Sequence[Score]
    restored: Sequence[np.ndarray]
    sigma: Sequence[np.ndarray | None]
    coverage: Sequence[float | None]
    classical: Mapping[str, Sequence[Score]]
    default: Mapping[str, Sequence[Score]]
    quick: bool

    def best(self, index: int) -> str:
        """The tuned filter with the highest PSNR under a condition."""
        return max(self.classical, key=lambda name: self.classical[name][index].psnr.mean())


def held_out(
    scene: ColumnScene,
    condition: Condition,
    which: str,
    count: int,
    *,
    names: Sequence[str] = CRYSTALS,
) -> Images:
    """Images of one condition, always the same."""
    draw = _draw(condition.of(scene), tuple(names))
    key = jax.random.fold_in(jax.random.key(KEYS[which]), CONDITIONS.index(condition))
    keys = [jax.random.fold_in(key, i) for i in range(-(-count // TOGETHER))]
    parts = [jax.device_get(draw(key)) for key in keys]
    counts, rate = (
        np.concatenate([p[k][..., 0] for p in parts])[:count] for k in ("counts", "rate")
    )
    return Images(condition, counts, rate)


@functools.lru_cache(maxsize=8)
def _draw(scene: ColumnScene, names: tuple[str, ...]) -> Callable[[jax.Array], Any]:
    """Compiled once for validation and test."""
    return jax.jit(make_scenes(scene, crystals(names), TOGETHER))


def score(restored: Sequence[np.ndarray], rate: np.ndarray, seconds: float, **more: Any) -> Score:
    """PSNR and SSIM after the best gain and offset, in units of the brightest true pixel."""
    found = []
    for image, true in zip(restored, rate.astype(np.float64), strict=True):
        clean = true / true.max()
        fitted = fit_affine(np.asarray(image, np.float64), clean)
        error = float(np.square(fitted - clean).mean())
        found.append(
            (psnr(fitted, clean, data_range=1.0), ssim(fitted, clean, data_range=1.0), error)
        )
    return Score(*np.array(found).T, seconds, more)


def judge(
    restorer: Callable[[np.ndarray], Any],
    scene: ColumnScene,
    *,
    methods: Sequence[str],
    tests: int = 200,
    validation: int = 10,
    conditions: Sequence[Condition] = CONDITIONS,
    say: Callable[[str], None] = lambda text: None,
    quick: bool = False,
) -> Judgement:
    """Score a restorer and the classical methods on held-out images.

    Parameters
    ----------
    restorer : counts [y, x] -> (image, sigma or None), as of `emjax.restoration.load_restorer`.
    scene : that of the training.
    methods : names in `emjax.baselines.restoration.DENOISERS`; those whose package is not
        installed are left out, and `say` tells.
    tests, validation : images of each condition.
    say : called with lines of progress.
    """
    images = [held_out(scene, c, "test", tests) for c in conditions]
    tuning = [held_out(scene, c, "validation", validation) for c in conditions]
    network, outputs, sigmas, coverage = [], [], [], []
    for part in images:
        start = time.perf_counter()
        both = [restorer(counts) for counts in part.counts]
        seconds = (time.perf_counter() - start) / len(both)
        outputs.append(np.stack([image for image, _ in both]))
        known = both[0][1] is not None
        sigmas.append(np.stack([sigma for _, sigma in both]) if known else None)
        network.append(score(outputs[-1], part.rate, seconds))
        inside = None
        if sigmas[-1] is not None:
            inside = float((abs(outputs[-1] - part.rate) < QUANTILE * sigmas[-1]).mean())
        coverage.append(inside)
    tuned: dict[str, list[Score]] = {}
    default: dict[str, list[Score]] = {}
    for name in methods:
        say(f"tuning {name} on {len(conditions)} × {validation} images …")
        try:
            pairs = [
                _classical(name, part, held, scene.readout)
                for part, held in zip(images, tuning, strict=True)
            ]
        except ImportError as error:
            say(f"{name} is left out: {error}")
            continue
        tuned[name], default[name] = ([pair[i] for pair in pairs] for i in (0, 1))
    return Judgement(images, network, outputs, sigmas, coverage, tuned, default, quick)


def spread_factor(
    restorer: Callable[[np.ndarray], Any],
    scene: ColumnScene,
    *,
    count: int = 10,
    conditions: Sequence[Condition] = CONDITIONS,
) -> float:
    """What a network's standard deviations are multiplied by for 90 % intervals to hold 90 %.

    Over the pixels of validation images of all conditions, alike.
    """
    ratios = []
    for condition in conditions:
        part = held_out(scene, condition, "validation", count)
        for counts, rate in zip(part.counts, part.rate, strict=True):
            image, sigma = restorer(counts)
            ratios.append((abs(image - rate) / np.maximum(sigma, 1e-12)).ravel()[::7])
    return float(np.quantile(np.concatenate(ratios), 0.9) / QUANTILE)


def _classical(
    name: str, images: Images, validation: Images, readout: float
) -> tuple[Score, Score]:
    """A filter tuned on validation images, and at its defaults; told the detector's noise."""
    method = DENOISERS[name]
    told = images.condition.scan and "read_out" in method.defaults
    fixed = {"read_out": readout} if told else {}
    parameters = tune(name, list(validation.counts), list(validation.rate), fixed=fixed)
    found = []
    for setting in (parameters, fixed):
        start = time.perf_counter()
        restored = []
        for counts in images.counts:
            try:
                restored.append(method(counts, **setting))
            except NotApplicable:  # nothing to go by in this image: it stays as it is
                restored.append(counts)
        seconds = (time.perf_counter() - start) / len(restored)
        found.append(score(restored, images.rate, seconds, **setting))
    return found[0], found[1]
