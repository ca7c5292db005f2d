"""The classical restorers by name, and the one function that tunes each of them.

`DENOISERS` are called as ``method(image, **parameters)``, `FILLERS` as ``method(image, mask,
**parameters)`` with the mask True where measured. A comparison with a method at its defaults says
little: published margins over classical filters shrink or vanish when those are tuned. So every
table has two rows for each method, tuned on validation images and at its defaults, which
`tuned_and_default` makes:

>>> import numpy as np
>>> y, x = np.mgrid[:32, :32]
>>> clean = 10 + 5 * np.sin(x / 2) * np.sin(y / 2)
>>> noisy = np.random.default_rng(0).poisson(clean)
>>> parameters = tune("gaussian", [noisy], [clean])
>>> image = DENOISERS["gaussian"].function(noisy, **parameters)
>>> affine_psnr(image, clean) > affine_psnr(noisy, clean) + 3
True

Defaults are the libraries' or the papers', put in units of the noise where a method works in them.
Optional packages: `wavelet` needs PyWavelets; the two of BM3D need bm3d, whose licence allows
non-commercial use only.
"""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emjax.baselines import compressive, denoising, exemplar, filling, fourier_filters
from emjax.baselines.images import NotApplicable

__all__ = [
    "DENOISERS",
    "FILLERS",
    "Method",
    "Row",
    "affine_psnr",
    "fit_affine",
    "tune",
    "tuned_and_default",
]

Metric = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Method:
    """A restorer, what `tune` tries of each parameter, and every parameter's default."""

    function: Callable[..., np.ndarray]
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def defaults(self) -> dict[str, Any]:
        """Read off the function's signature."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def __call__(self, *arrays: np.ndarray, **parameters: Any) -> np.ndarray:
        return self.function(*arrays, **parameters)


DENOISERS: dict[str, Method] = {
    "noisy": Method(denoising.noisy),
    "gaussian": Method(denoising.gaussian, {"sigma": (0.5, 0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)}),
    "median": Method(denoising.median, {"size": (3, 5, 7, 9)}),
    "bilateral": Method(
        denoising.bilateral,
        {"sigma_value": (1.5, 3.0, 6.0, 12.0), "sigma_space": (1.0, 2.0, 3.0)},
    ),
    "wiener_local": Method(
        denoising.wiener_local, {"size": (3, 5, 7, 9, 13), "strength": (1.0, 2.0, 4.0, 8.0)}
    ),
    "wiener_fourier": Method(
        fourier_filters.wiener_fourier,
        {"strength": (1.0, 1.5, 2.0, 3.0), "smoothing": (0.5, 0.7, 1.0, 1.5, 2.0)},
    ),
    "wavelet": Method(
        denoising.wavelet,
        {"sigma": (0.35, 0.5, 0.7, 1.0, 1.4), "wavelet": ("db1", "sym8"), "shifts": (1, 4)},
    ),
    "tv_chambolle": Method(
        denoising.tv_chambolle,
        {"weight": (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0), "tolerance": (2e-4, 2e-3, 1e-2)},
    ),
    "tv_bregman": Method(
        denoising.tv_bregman, {"weight": (0.35, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0)}
    ),
    "non_local_means": Method(
        denoising.non_local_means,
        {
            "h": (0.25, 0.5, 0.8, 1.2, 2.0),
            "patch": (5, 9),
            "distance": (5, 11),
            "sigma": (0.5, 1.0),
        },
    ),
    "bm3d": Method(denoising.bm3d, {"sigma": (1.0, 1.25, 1.6)}),
    "bm3d_binned": Method(denoising.bm3d_binned, {"sigma": (1.0, 1.25, 1.6)}),
    "richardson_lucy": Method(
        fourier_filters.richardson_lucy,
        {"sigma": (1.0, 1.5, 2.0, 3.0), "iterations": (4, 8, 16), "smooth": (False, True)},
    ),
    "bragg": Method(
        fourier_filters.bragg,
        {"threshold": (6.0, 9.0, 14.0), "low": (0.01, 0.02, 0.04), "softness": (1.0, 1.5, 2.0)},
    ),
}
"""Denoisers: image (y, x) -> image (y, x)."""

FILLERS: dict[str, Method] = {
    "nearest": Method(filling.nearest),
    "linear": Method(filling.linear),
    "natural_neighbour": Method(filling.natural_neighbour),
    "cubic": Method(filling.cubic),
    "biharmonic": Method(filling.biharmonic),
    "exemplar": Method(exemplar.exemplar, {"patch": (5, 9, 15), "matches": (1, 5, 20)}),
    "dct_tv": Method(
        compressive.dct_tv,
        {"tv": (0.0, 0.1, 0.3, 1.0, 3.0), "fidelity": (None, 1.0, 10.0)},
    ),
}
"""Fillers: image (y, x) and mask (y, x; True where measured) -> image (y, x)."""


@dataclass(frozen=True)
class Row:
    """One line of a table of methods."""

    method: str
    setting: str
    """"tuned" or "default"."""
    parameters: dict[str, Any]
    scores: tuple[float, ...]
    """One per image."""
    seconds: float
    """Median per image."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))


def fit_affine(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """a · prediction + b with the a and b of least squares against the truth."""
    p, t = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    if p.shape != t.shape:
        raise ValueError(f"the prediction has shape {p.shape}, the truth {t.shape}")
    variance = p.var()
    slope = ((p - p.mean()) * (t - t.mean())).mean() / variance if variance > 0 else 0.0
    return slope * (p - p.mean()) + t.mean()


def affine_psnr(
    prediction: np.ndarray, truth: np.ndarray, *, data_range: float | None = None
) -> float:
    """PSNR in dB after the best gain and offset, so that counts compare with any other unit.

    `data_range`: the truth's largest minus smallest value if None.
    """
    error = np.mean((fit_affine(prediction, truth) - truth) ** 2)
    peak = float(np.ptp(truth)) if data_range is None else data_range
    return float(10 * np.log10(peak**2 / error)) if error > 0 else float("inf")


def tune(
    name: str,
    noisy: Sequence[np.ndarray],
    clean: Sequence[np.ndarray],
    *,
    masks: Sequence[np.ndarray] | None = None,
    metric: Metric = affine_psnr,
    grid: Mapping[str, Sequence[Any]] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The parameters with the highest mean of the metric over validation images.

    Every combination of the grid is tried, and the defaults: tuned is never worse than default on
    these images. Settings that cannot work on them (`NotApplicable`) are left out.

    Parameters
    ----------
    name : in `DENOISERS`, or in `FILLERS` if masks are given.
    noisy, clean : as many images (y, x) each; in any unit if the metric is `affine_psnr`.
    masks : where measured, for fillers.
    metric : (restored, clean) -> number, higher is better.
    grid : instead of the method's own.
    fixed : parameters that are not tuned, such as the detector's ``{"read_out": 0.25}``.

    Returns
    -------
    dict : the grid's parameters and `fixed`, to be passed on as ``**parameters``.

    Raises
    ------
    KeyError : an unknown name; the message lists the known ones.
    ValueError : no images, lists of different lengths, unknown parameters, or no setting works.
    """
    method = _method(name, masks is not None)
    scenes = _scenes(noisy, clean, masks)
    fixed, grid = dict(fixed or {}), dict(method.grid if grid is None else grid)
    unknown = (set(fixed) | set(grid)) - set(method.defaults)
    if unknown:
        raise ValueError(f"{name} has no parameter {sorted(unknown)}: it has {[*method.defaults]}")
    free = {key: values for key, values in grid.items() if key not in fixed}
    settings = [
        dict(zip(free, values, strict=True)) for values in itertools.product(*free.values())
    ]
    default = {key: method.defaults[key] for key in free}
    best, score, reason = None, -np.inf, None
    for setting in [default, *settings] if free else [default]:
        parameters = {**fixed, **setting}
        try:
            value = np.mean([metric(method(*inputs, **parameters), t) for inputs, t in scenes])
        except NotApplicable as error:
            reason = error
            continue
        if np.isnan(value):
            raise ValueError(f"the metric of {name} with {parameters} is NaN")
        if value > score or best is None:
            best, score = parameters, value
    if best is None:
        raise NotApplicable(f"no setting of {name} works on these images: {reason}") from reason
    return best


def tuned_and_default(
    name: str,
    validation: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    test: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    *,
    validation_masks: Sequence[np.ndarray] | None = None,
    test_masks: Sequence[np.ndarray] | None = None,
    metric: Metric = affine_psnr,
    grid: Mapping[str, Sequence[Any]] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Two rows of a table: tuned on `validation`, and at the defaults; both scored on `test`.

    `validation` and `test` are (noisy, clean); `fixed` (properties of the detector) holds in both
    rows. A row whose setting is NotApplicable is left out. The rest as in `tune`.
    """
    filling_ = validation_masks is not None
    if filling_ != (test_masks is not None):
        raise ValueError("give masks for the validation and for the test images, or for neither")
    method, scenes = _method(name, filling_), _scenes(*test, test_masks)
    tuned = tune(name, *validation, masks=validation_masks, metric=metric, grid=grid, fixed=fixed)
    rows = []
    for setting, parameters in (("tuned", tuned), ("default", dict(fixed or {}))):
        scores, seconds = [], []
        try:
            for inputs, truth in scenes:
                start = time.perf_counter()
                restored = method(*inputs, **parameters)
                seconds.append(time.perf_counter() - start)
                scores.append(float(metric(restored, truth)))
        except NotApplicable:
            continue
        shown = {**method.defaults, **parameters}
        rows.append(Row(name, setting, shown, tuple(scores), float(np.median(seconds))))
    return rows


def _method(name: str, fills: bool) -> Method:
    registry, kind = (FILLERS, "filler") if fills else (DENOISERS, "denoiser")
    if name not in registry:
        other = " (fillers need masks)" if name in FILLERS and not fills else ""
        raise KeyError(f"there is no {kind} {name!r}{other}: choose one of {', '.join(registry)}")
    return registry[name]


def _scenes(noisy, clean, masks) -> list[tuple[tuple[np.ndarray, ...], np.ndarray]]:
    """((image,) or (image, mask), truth) each."""
    lists = [noisy, clean] if masks is None else [noisy, masks, clean]
    lengths = [len(images) for images in lists]
    if len(set(lengths)) > 1 or lengths[0] == 0:
        raise ValueError(f"lists of {lengths} images: one or more, and as many of each, are needed")
    return [(row[:-1], np.asarray(row[-1])) for row in zip(*lists, strict=True)]
