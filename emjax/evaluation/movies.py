"""Judges denoisers of movies: images against the truth, and whether changes survive.

Averaging over time makes good pictures of what stays, and smears what changes, which is what
movies are taken for. So beside PSNR and SSIM stands the slope of restored on true changes at the
columns whose atoms hop or get lost: 1 if they are as large as they were, 0 if they are gone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from scipy.ndimage import map_coordinates, uniform_filter

from emjax.baselines.movies import (
    METHODS,
    drift_corrected,
    find_drift,
    space_time,
    tune_movies,
)
from emjax.baselines.restoration import DENOISERS, NotApplicable, fit_affine, tune
from emjax.data.synthetic_columns import crystals
from emjax.data.synthetic_movies import make_movies
from emjax.metrics.image_quality import ssim
from emjax.metrics.statistics import Interval, bootstrap_interval

KEYS = {"validation": 41, "test": 42}
"""Seeds of the held-out movies: the same for every run."""
SCORES = ("psnr", "ssim", "slope")
FRAMEWISE = ("gaussian", "wiener_fourier", "bm3d_binned")
"""Classical filters of single frames (names in `emjax.baselines.restoration.DENOISERS`)."""
KNOWN_DRIFT = "average, true drift known"
BEST_GAUSSIAN = "space_time, best for each movie"
"""Rows that are no methods: nobody knows the drift, or the truth of the movie to restore."""
NO_METHODS = (KNOWN_DRIFT, BEST_GAUSSIAN)
QUANTILE = 1.6449
"""Of the standard normal distribution: 90 % lie within ± this."""
QUICKLY_COMPILED = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
"""For what runs once: to compile the movies takes far longer than to draw them."""
Restorer = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]
"""(counts [t, y, x], readout) -> image and variance [t, y, x], in electrons."""


@dataclass(frozen=True, eq=False)
class Movies:
    """Movies with their truth."""

    counts: np.ndarray
    """[m, t, y, x] electrons."""
    rate: np.ndarray
    """[m, t, y, x] expected electrons."""
    peak: np.ndarray
    """[m], largest expected electrons: the dose."""
    readout: np.ndarray
    """[m] electrons."""
    drift: np.ndarray
    """[m, t, 2] (x, y) pixels."""
    sites: np.ndarray
    """[m, t, s, 2] (x, y) pixels of the columns that may change."""

    @property
    def clean(self) -> np.ndarray:
        """[m, t, y, x], 1 at the maximum."""
        return self.rate / self.peak.reshape(-1, 1, 1, 1)

    def part(self, where: slice) -> Movies:
        """Some of the movies."""
        return Movies(*(getattr(self, f.name)[where] for f in dataclasses.fields(self)))


@dataclass(frozen=True, eq=False)
class Scored:
    """One method: a value for each movie, and its images in the truth's unit."""

    name: str
    values: dict[str, np.ndarray]
    images: np.ndarray
    """[m, t, y, x]"""
    setting: str = ""
    coverage: np.ndarray | None = None
    """Share of pixels [m] whose truth lies in the 90 % interval, where there is one."""

    def mean(self, score: str) -> Interval:
        """(value, low, high): a bootstrap over movies."""
        return _interval(self.values[score])

    def over(self, other: Scored, score: str) -> Interval:
        """Mean difference from another method on the same movies."""
        return _interval(self.values[score] - other.values[score])


@dataclass(frozen=True, eq=False)
class Judgement:
    """All that is measured after training."""

    movies: Movies
    scored: dict[str, Scored]
    networks: tuple[str, ...]
    """Names of the networks among them: the one of several frames first."""
    drift_error: np.ndarray
    """Mean distance [m] of the drift that was found from the true one [px]."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Classical methods that could not run, and why."""
    quick: bool = False

    @property
    def rival(self) -> str:
        """The best classical method by PSNR."""
        names = [n for n in self.scored if n not in (*self.networks, *NO_METHODS)]
        return max(names, key=lambda name: self.scored[name].mean("psnr")[0])


def hold_out(config: Any) -> tuple[Movies, Movies]:
    """(validation, test): movies of crystals that training on simulated movies does not see.

    Parameters
    ----------
    config : with `scene`, `kept_aside` (crystals), `movies` of the test (half as many are for
        validation), and their `length` and `side`.
    """
    scene = dataclasses.replace(config.scene, frames=config.length, patch=config.side)
    names = [f.name for f in dataclasses.fields(Movies)]
    sizes = {"validation": max(config.movies // 2, 2), "test": config.movies}
    together = sizes["validation"]
    movies = make_movies(scene, crystals(config.kept_aside), together)
    draw = jax.jit(movies, compiler_options=QUICKLY_COMPILED)
    parts = []
    for which, n in sizes.items():
        key = jax.random.key(2**31 - KEYS[which])
        drawn = [jax.device_get(draw(jax.random.fold_in(key, i))) for i in range(-(-n // together))]
        parts.append(Movies(*(np.concatenate([d[name] for d in drawn])[:n] for name in names)))
    return parts[0], parts[1]


def movie_psnr(restored: np.ndarray, truth: np.ndarray) -> float:
    """Mean PSNR [dB] of the frames, the truth's peak being 1, after one affine fit of the movie."""
    error = np.square(fit_affine(restored, truth) - truth).mean((1, 2))
    return float(np.mean(-10 * np.log10(np.maximum(error, 1e-10))))


def change_slope(restored: np.ndarray, truth: np.ndarray, sites: np.ndarray) -> float:
    """Slope of restored on true changes of brightness at some places of a movie.

    A change is the mean of 3 × 3 pixels less its mean over time. The truth has no noise, so that
    noise in the restored movie does not bias the slope.

    Parameters
    ----------
    restored, truth : [t, y, x] in one unit: the same gain for every method (a fitted one would be
        smaller the noisier the images are, and call that smearing).
    sites : (x, y) [t, s, 2] pixels; those that are not inside all the time are left out.

    Returns
    -------
    float : NaN where nothing changes but the beam (by less than 0.03, r.m.s.).
    """
    limit = np.array(truth.shape[:0:-1]) - 2.0
    inside = ((sites > 1) & (sites < limit)).all((0, 2))
    if not inside.any():
        return float("nan")
    seen = []
    for movie in (restored, truth):
        smooth = uniform_filter(np.asarray(movie, float), (0, 3, 3))
        pairs = zip(smooth, sites[:, inside], strict=True)
        values = np.stack([map_coordinates(f, xy.T[::-1], order=1) for f, xy in pairs])
        seen.append(values - values.mean(0))
    power = np.square(seen[1]).mean()
    return float((seen[0] * seen[1]).mean() / power) if power > 9e-4 else float("nan")


def score(
    name: str,
    restored: np.ndarray,
    movies: Movies,
    setting: str = "",
    variance: np.ndarray | None = None,
) -> Scored:
    """Scores of restored movies [m, t, y, x] in electrons.

    PSNR and SSIM after one gain and offset of least squares for each movie, which a network in any
    unit would need; the slope of changes without.

    Raises
    ------
    ValueError : images of another shape, or not finite.
    """
    clean = movies.clean.astype(np.float64)
    if restored.shape != clean.shape or not np.isfinite(restored).all():
        raise ValueError(f"{name} gave movies {restored.shape} (or NaN) for counts {clean.shape}")
    fitted = np.stack([fit_affine(r, c) for r, c in zip(restored, clean, strict=True)])
    rows = [
        (
            movie_psnr(image, truth),
            float(np.mean(ssim(image, truth, data_range=1.0))),
            change_slope(electrons / peak, truth, sites),
        )
        for image, electrons, peak, truth, sites in zip(
            fitted, restored, movies.peak, clean, movies.sites, strict=True
        )
    ]
    values = dict(zip(SCORES, np.array(rows, float).T, strict=True))
    coverage = None
    if variance is not None:
        inside = np.abs(restored - movies.rate) <= QUANTILE * np.sqrt(variance)
        coverage = inside.mean((1, 2, 3))
    return Scored(name, values, fitted.astype(np.float32), setting, coverage)


def judge(
    networks: Mapping[str, Restorer],
    validation: Movies,
    test: Movies,
    *,
    quick: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Judgement:
    """Tune the classical methods on validation movies (by PSNR), score everything on test movies.

    `networks`: the one of several frames first, then the one of single frames.
    """
    say(f"tuning the classical methods on {len(validation.counts)} movies …")
    scored, left_out = {"noisy": score("noisy", test.counts, test)}, {}
    middle = test.counts.shape[1] // 2
    for name in FRAMEWISE[:1] if quick else FRAMEWISE:
        frames = validation.counts[:, middle], validation.clean[:, middle]
        try:
            setting = tune(name, *frames, metric=lambda r, t: movie_psnr(r[None], t[None]))
            made = [[DENOISERS[name](f, **setting) for f in movie] for movie in test.counts]
        except (ModuleNotFoundError, NotApplicable) as error:
            left_out[name] = str(error)
            continue
        scored[name] = score(name, np.array(made), test, _words(setting))
    drifts = [find_drift(movie) for movie in test.counts]
    tuned = {}
    grid = {"sigma": (1.0, 2.0), "tau": (1.0,)} if quick else None
    for name, method in METHODS.items():
        found = tune_movies(name, validation.counts, validation.clean, movie_psnr, grid=grid)
        more = [{"drift": d} if name == "drift_corrected" else {} for d in drifts]
        pairs = zip(test.counts, more, strict=True)
        made = np.stack([method(movie, **found, **m) for movie, m in pairs])
        scored[name], tuned[name] = score(name, made, test, _words(found)), found
    found = tuned["drift_corrected"]
    pairs = zip(test.counts, test.drift, strict=True)
    made = np.stack([drift_corrected(movie, **found, drift=d) for movie, d in pairs])
    scored[KNOWN_DRIFT] = score(KNOWN_DRIFT, made, test, _words(found))
    best = [
        space_time(movie, **tune_movies("space_time", [movie], [clean], movie_psnr, grid=grid))
        for movie, clean in zip(test.counts, test.clean, strict=True)
    ]
    scored[BEST_GAUSSIAN] = score(BEST_GAUSSIAN, np.stack(best), test)
    for name, restore in networks.items():
        both = [restore(c, r) for c, r in zip(test.counts, test.readout, strict=True)]
        image, variance = (np.stack([np.asarray(b[i]) for b in both]) for i in (0, 1))
        scored[name] = score(name, image, test, variance=variance)
    apart = np.array(drifts) - test.drift
    apart = np.linalg.norm(apart - apart.mean(1, keepdims=True), axis=-1).mean(1)
    return Judgement(test, scored, tuple(networks), apart, left_out, quick)


def numbers(result: Judgement) -> dict[str, Any]:
    """What `results.json` holds."""
    own = result.scored[result.networks[0]]
    return {
        "movies": len(result.movies.counts),
        "frames": result.movies.counts.shape[1],
        "dose": result.movies.peak,
        "methods": {n: {key: s.mean(key) for key in SCORES} for n, s in result.scored.items()},
        "settings": {n: s.setting for n, s in result.scored.items() if s.setting},
        "single_frames": result.networks[1],
        "best_classical": result.rival,
        "against": {
            name: {key: own.over(other, key) for key in SCORES}
            for name, other in result.scored.items()
            if name != result.networks[0]
        },
        "coverage_90": {n: _interval(result.scored[n].coverage) for n in result.networks},
        "drift_error_px": _interval(result.drift_error),
        "left_out": result.left_out,
    }


def _interval(values: Any) -> Interval:
    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    return bootstrap_interval(finite) if len(finite) else (float("nan"),) * 3


def _words(setting: Mapping[str, Any]) -> str:
    texts = {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in setting.items()}
    return ", ".join(f"{k} {text}" for k, text in texts.items())
