"""Judges networks for super-resolution beside enlargement, filters and deconvolution.

All images are brought to the truth's unit by one gain and offset of least squares before they are
scored. The test images are recordings at low magnification, for every method: also for a network
that was trained on averages of sharp images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from emjax.baselines.restoration import DENOISERS, affine_psnr, fit_affine, tune
from emjax.data.synthetic_low_resolution import make_low_resolution
from emjax.data.synthetic_sections import make_sections
from emjax.data.synthetic_sem import make_sem
from emjax.metrics.edges import edge_errors, middle_level, object_counts, spectrum_error
from emjax.metrics.image_quality import psnr, ssim
from emjax.metrics.statistics import Interval, bootstrap_interval
from emjax.restoration.super_resolution import enlarge

KEYS = {"validation": 21, "test": 22}
"""Seeds of the held-out images: the same for every run."""
SCENES = ("particles", "sections")
SCORES = ("psnr", "ssim", "spectrum", "edge", "invented", "lost")
"""dB, 1, dB, pixels of the sharp image, share of the regions found, share of the true regions."""
Restorer = Callable[[np.ndarray], np.ndarray]
"""Coarse images [n, y, x] -> sharp ones [n, factor·y, factor·x]."""


@dataclass(frozen=True, eq=False)
class Scenes:
    """Held-out images."""

    coarse: np.ndarray
    """[n, y, x] recordings at low magnification, electrons."""
    ideal: np.ndarray
    """[n, y, x] averages of a sharp recording."""
    clean: np.ndarray
    """[n, Y, X] the truth, 1 at its maximum."""
    mask: np.ndarray
    """[n, Y, X] 1 in objects."""

    @property
    def factor(self) -> int:
        return self.clean.shape[1] // self.coarse.shape[1]


@dataclass(frozen=True, eq=False)
class Scored:
    """One method on all test scenes."""

    name: str
    images: np.ndarray
    """[n, Y, X] in the truth's unit."""
    values: dict[str, np.ndarray]
    """Score -> [n]; NaN where a scene has no outline or no object."""
    weights: dict[str, np.ndarray]
    """Score -> [n] weights of the mean: points of outlines, or regions."""

    def mean(self, score: str) -> Interval:
        """(value, low, high): a bootstrap over scenes."""
        values, weights = self.values[score], self.weights[score]
        kept = np.isfinite(values) & (weights > 0)
        if not kept.any():
            return (float("nan"),) * 3
        return bootstrap_interval(values[kept], weights=weights[kept])

    def over(self, other: Scored, score: str, *, ratio: bool = False) -> Interval:
        """Difference from (or ratio to) another method on the same scenes, resampled in pairs."""
        mine, his = self.values[score], other.values[score]
        w = np.minimum(self.weights[score], other.weights[score])
        kept = np.isfinite(mine) & np.isfinite(his) & (w > 0)
        if not kept.any():
            return (float("nan"),) * 3
        mine, his, w = mine[kept], his[kept], w[kept]

        def of(index: np.ndarray) -> float:
            i = index.astype(int)
            a, b = ((w[i] * v[i]).sum() / w[i].sum() for v in (mine, his))
            return a / b if ratio and b else (a - b if not ratio else float("nan"))

        return bootstrap_interval(np.arange(len(mine)), statistic=of)


@dataclass(frozen=True, eq=False)
class Judgement:
    """All that is measured after training."""

    scenes: Scenes
    scored: dict[str, Scored]
    parameters: dict[str, dict[str, Any]]
    """Of the tuned methods."""
    ideal: dict[str, Interval]
    """PSNR of the networks on averages of sharp images, where both should do well."""
    quick: bool


def make_phantoms(config: Any, batch: int) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """``draw(key)`` of the phantom that ``config.scene`` names, ``config.patch`` pixels a side.

    Raises
    ------
    ValueError : an unknown scene.
    """
    if config.scene not in SCENES:
        raise ValueError(f"--scene {config.scene!r}: choose one of {', '.join(SCENES)}")
    if config.scene == "particles":
        return make_sem(config.particles, batch, config.patch)
    return make_sections(config.sections, batch, config.patch)


def hold_out(config: Any) -> tuple[Scenes, Scenes]:
    """(validation, test): scenes that no training sees.

    Parameters
    ----------
    config : as of `make_phantoms`, with `degradation` and `each` (scenes of the test; half as many
        are for validation).
    """
    draw = make_low_resolution(make_phantoms(config, config.each), config.degradation)
    draw = jax.jit(draw)  # one program for both
    parts = []
    for which, count in (("validation", max(config.each // 2, 2)), ("test", config.each)):
        batch = jax.device_get(draw(jax.random.key(2**31 - KEYS[which])))
        arrays = [*(batch[name][..., 0] for name in ("real", "ideal", "clean")), batch["mask"]]
        parts.append(Scenes(*(array[:count] for array in arrays)))
    return parts[0], parts[1]


def enlarged(images: np.ndarray, factor: int, method: str = "cubic") -> np.ndarray:
    """[n, y, x] -> [n, factor·y, factor·x]."""
    return np.asarray(enlarge(jax.numpy.asarray(images)[..., None], factor, method))[..., 0]


def baselines(
    validation: Scenes, *, quick: bool = False
) -> tuple[dict[str, Restorer], dict[str, dict[str, Any]]]:
    """Classical methods by name, and the parameters of those that were tuned on `validation`.

    "bicubic" and "Lanczos" enlarge; the others do something else first or afterwards, each with its
    best parameters by PSNR: a Gaussian filter, non-local means before it is enlarged, and
    Richardson-Lucy deconvolution.
    """
    factor = validation.factor
    metric = functools.partial(affine_psnr, data_range=1.0)
    large = [*np.maximum(enlarged(validation.coarse, factor), 0)]
    clean = [*validation.clean]
    rl_grid = {"sigma": (1.0, 1.5, 2.0, 2.5), "iterations": (2, 4, 8, 16), "smooth": (False, True)}
    if quick:
        rl_grid = {"sigma": (1.5,), "iterations": (2, 6), "smooth": (True,)}
    tuned = {
        "Gaussian": tune("gaussian", large, clean, metric=metric),
        "Richardson-Lucy": tune("richardson_lucy", large, clean, metric=metric, grid=rl_grid),
    }

    def after(name: str, parameters: Mapping[str, Any]) -> Restorer:
        def restore(coarse: np.ndarray) -> np.ndarray:
            images = np.maximum(enlarged(coarse, factor), 0)
            return np.stack([DENOISERS[name](image, **parameters) for image in images])

        return restore

    methods = {
        "bicubic": lambda coarse: enlarged(coarse, factor),
        "Lanczos": lambda coarse: enlarged(coarse, factor, "lanczos3"),
        "bicubic + Gaussian, tuned": after("gaussian", tuned["Gaussian"]),
        "Richardson-Lucy, default": after("richardson_lucy", {}),
        "Richardson-Lucy, tuned": after("richardson_lucy", tuned["Richardson-Lucy"]),
    }
    if not quick:
        small = [*_shrunk(validation.clean, factor)]
        grid = {"h": (0.5, 0.8, 1.2, 2.0), "sigma": (0.5, 1.0)}
        tuned["non-local means"] = tune(
            "non_local_means", [*validation.coarse], small, metric=metric, grid=grid
        )

        def first(coarse: np.ndarray) -> np.ndarray:
            method, parameters = DENOISERS["non_local_means"], tuned["non-local means"]
            return enlarged(np.stack([method(image, **parameters) for image in coarse]), factor)

        methods["non-local means, tuned, + bicubic"] = first
    return methods, tuned


def score(name: str, images: np.ndarray, scenes: Scenes) -> Scored:
    """All scores of one method's images.

    Raises
    ------
    ValueError : images of another shape, or not finite.
    """
    if images.shape != scenes.clean.shape or not np.isfinite(images).all():
        raise ValueError(
            f"{name} gave images {images.shape} (or NaN) for truths of {scenes.clean.shape}"
        )
    rows, weights, fitted = [], [], []
    for image, truth, mask in zip(images, scenes.clean, scenes.mask, strict=True):
        image, truth = fit_affine(image, truth), truth.astype(np.float64)
        fitted.append(image)
        some = 0 < mask.mean() < 1
        level, sign = middle_level(truth, mask) if some else (float("nan"), 1)
        edges = edge_errors(image, truth, level) if some else np.zeros(0)
        objects = object_counts(image, mask, level, sign) if some else (0, 0, 0, 0)
        found, invented, true, lost = objects
        rows.append(
            (
                psnr(image, truth, data_range=1.0),
                ssim(image, truth, data_range=1.0),
                spectrum_error(image, truth),
                edges.mean() if len(edges) else np.nan,
                invented / found if found else np.nan,
                lost / true if true else np.nan,
            )
        )
        weights.append((1, 1, 1, len(edges), found, true))
    return Scored(
        name,
        np.stack(fitted),
        dict(zip(SCORES, np.array(rows, float).T, strict=True)),
        dict(zip(SCORES, np.array(weights, float).T, strict=True)),
    )


def judge(
    networks: Mapping[str, Restorer],
    validation: Scenes,
    test: Scenes,
    *,
    quick: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Judgement:
    """Tune the classical methods on validation scenes, then score everything on test scenes."""
    say(f"tuning the classical methods on {len(validation.coarse)} images …")
    methods, parameters = baselines(validation, quick=quick)
    scored = {
        name: score(name, np.asarray(restore(test.coarse)), test)
        for name, restore in {**methods, **networks}.items()
    }
    ideal = {}
    for name, restore in networks.items():
        ideal[name] = score(name, np.asarray(restore(test.ideal)), test).mean("psnr")
    return Judgement(test, scored, parameters, ideal, quick)


def numbers(result: Judgement) -> dict[str, Any]:
    """What `results.json` holds."""
    bicubic = result.scored["bicubic"]
    return {
        "proxy": "phantoms stand in for recorded pairs",
        "scenes": len(result.scenes.clean),
        "methods": {
            name: {key: s.mean(key) for key in SCORES} for name, s in result.scored.items()
        },
        "against_bicubic": {
            name: {
                "psnr": s.over(bicubic, "psnr"),
                "spectrum": s.over(bicubic, "spectrum", ratio=True),
                "edge": s.over(bicubic, "edge", ratio=True),
            }
            for name, s in result.scored.items()
        },
        "psnr_on_ideal": result.ideal,
        "tuned": result.parameters,
    }


def _shrunk(images: Sequence[np.ndarray] | np.ndarray, factor: int) -> np.ndarray:
    n, y, x = np.shape(images)
    return np.reshape(images, (n, y // factor, factor, x // factor, factor)).mean((2, 4))
