"""Judges a network for noise, background and probe beside classical methods at their best.

The same scenes of crystals that the training left out are recorded at several doses. Every
classical method is tuned for each dose on other scenes of the same kind, and the deconvolutions are
given the exact probe of every single image; the network is one for all, and is told neither dose,
probe nor pixel size.

False atoms are counted in the sharp image by one detector for all methods, a Laplacian of Gaussian:
a maximum as high as a quarter of a typical column's whose surroundings (0.35 Å) in the true sharp
image nowhere have half of that. They are given per true column; scenes without anything count as if
they had as many columns as the others in the mean, and their typical column is one that alone
would make the brightest pixel. A column is missed if no maximum of half the height is near it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy.ndimage import maximum_filter
from scipy.spatial import KDTree

from emjax.baselines import denoising, fourier_filters, sharpening
from emjax.baselines.log_detector import response_map
from emjax.baselines.restoration import affine_psnr, fit_affine
from emjax.data.column_scene import ColumnScene
from emjax.data.synthetic_columns import crystals
from emjax.data.synthetic_sharp import HEADS, WIDTH, make_sharp
from emjax.evaluation.restoration_scores import detect_spots
from emjax.metrics.image_quality import psnr, ssim
from emjax.metrics.statistics import Interval, bootstrap_interval

KEYS = {"validation": 21, "test": 22}
"""Seeds of the held-out images: the same for every run."""
CRYSTALS = ("graphene", "mos2", "srtio3", "silicon110", "gold001")
"""What they show."""
DETECTOR = 1.6
"""The detector's width in pixels."""
HIGH, NEAR, MARGIN = 0.25, 0.35, 5
"""Threshold relative to a typical column, distance in Å, border in pixels."""
DECONVOLVERS = ("Richardson-Lucy", "Wiener deconvolution")
"""Are called with the probe."""

Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """A classical method, and all settings that are tried."""

    name: str
    function: Callable[..., np.ndarray]
    settings: Sequence[Setting]


@dataclass(frozen=True, eq=False)
class Scenes:
    """Held-out images, [n, y, x] each, without noise, 1 at the maximum of the clean one."""

    truth: Mapping[str, np.ndarray]
    """By head."""
    probe: np.ndarray
    """[n, k, l] transfer functions."""
    pixel: np.ndarray
    """[n] Å."""

    def counts(self, dose: float) -> np.ndarray:
        """Recorded with so many electrons at the brightest pixel; always the same."""
        rng = np.random.default_rng([int(1000 * dose), len(self.pixel)])
        return rng.poisson(dose * np.maximum(self.truth["clean"], 0)).astype(np.float64)

    @property
    def filled(self) -> np.ndarray:
        """[n] whether there is any matter."""
        return np.ptp(self.truth["flat"], axis=(1, 2)) > 1e-3


@dataclass(frozen=True, eq=False)
class Scored:
    """One method for one head at one dose."""

    images: np.ndarray
    """[n, y, x] for counts of 1 at the maximum."""
    psnr: np.ndarray
    """[m] of the scenes with matter."""
    ssim: np.ndarray
    setting: Setting
    atoms: np.ndarray | None = None
    """[n, 4] false, missed and true columns, and by how many the first is divided; sharp only."""

    def false_rate(self, kept: np.ndarray | slice = slice(None)) -> Interval:
        """False atoms per true column, over some of the scenes."""
        assert self.atoms is not None
        false, _, _, per = self.atoms[kept].T
        return bootstrap_interval(false / per, weights=per)

    def missed_rate(self) -> Interval:
        """Share of the true columns that are not found."""
        assert self.atoms is not None
        some = self.atoms[self.atoms[:, 2] > 0]
        return bootstrap_interval(some[:, 1] / some[:, 2], weights=some[:, 2])


@dataclass(frozen=True, eq=False)
class Judgement:
    """All that is measured after training: by dose, head and method (the network is "network")."""

    scenes: Scenes
    scored: Mapping[float, Mapping[str, Mapping[str, Scored]]]
    quick: bool

    def best(self, dose: float, head: str) -> str:
        """The classical method with the highest PSNR."""
        rivals = {n: s for n, s in self.scored[dose][head].items() if n != "network"}
        return max(rivals, key=lambda name: rivals[name].psnr.mean())

    def gain(self, dose: float, head: str, name: str) -> Interval:
        """PSNR of the network minus that of a method, in pairs."""
        scored = self.scored[dose][head]
        return bootstrap_interval(scored["network"].psnr - scored[name].psnr)


def hold_out(scene: ColumnScene, tests: int, validation: int) -> tuple[Scenes, Scenes]:
    """(validation, test) scenes of other crystals; every sixth or so shows nothing, or glass alone.

    `scene` : that of the training.
    """
    scene = dataclasses.replace(scene, generic=0.0, lattice=0.8, amorphous=0.4)
    together = max(tests, validation)
    draw = jax.jit(make_sharp(scene, crystals(CRYSTALS), together))
    parts = []
    for which, count in (("validation", validation), ("test", tests)):
        drawn = jax.device_get(draw(jax.random.key(2**31 - KEYS[which])))
        truth = drawn["targets"].astype(np.float64) / drawn["peak"][:, None, None, None]
        heads = {head: truth[:count, ..., i] for i, head in enumerate(HEADS)}
        parts.append(Scenes(heads, drawn["probe"][:count], drawn["pixel"][:count]))
    return parts[0], parts[1]


def methods(head: str, *, quick: bool = False) -> list[Method]:
    """The classical methods for a head."""
    sigmas = (1.0, 2.0) if quick else (0.5, 0.8, 1.2, 1.6, 2.2, 3.0)
    found = [Method("Gaussian", denoising.gaussian, _product(sigma=sigmas))]
    if head != "sharp":
        grid = _product(strength=(1.0, 2.0, 4.0), smoothing=(0.5, 0.7, 1.0, 1.5, 2.0))
        found += [Method("Wiener", fourier_filters.wiener_fourier, grid[:: 8 if quick else 1])]
    if head == "flat":
        # no removal at all is among the settings
        radii = (None, 12.0) if quick else (None, 6.0, 9.0, 14.0, 20.0, 30.0)
        grid = _product(sigma=sigmas, radius=radii)
        found += [Method("high-pass", sharpening.high_pass, grid)]
        grid = _product(sigma=sigmas, radius=radii, height=(2.0,) if quick else (0.5, 2.0))
        found += [Method("rolling ball", sharpening.rolling_ball, grid)]
    if head == "sharp":
        steps = (8, 64) if quick else (4, 16, 64, 128, 256, 512)
        grid = _product(iterations=steps, sigma=(0.0,) if quick else (0.0, 0.8, 1.6))
        found += [Method("Richardson-Lucy", sharpening.lucy, grid)]
        grid = _product(strength=(0.0, 1.0, 2.0, 4.0), floor=(1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3))
        grid = [
            {**setting, "smoothing": s}
            for setting in grid
            for s in ((0.7, 1.5) if setting["strength"] else (1.0,))
        ]
        found += [
            Method(
                "Wiener deconvolution", sharpening.wiener_deconvolution, grid[:: 9 if quick else 1]
            )
        ]
    return found


def apply_method(
    method: Method, counts: np.ndarray, setting: Setting, probe: np.ndarray
) -> np.ndarray:
    """[n, y, x] of counts [n, y, x]."""
    if method.name not in DECONVOLVERS:
        return np.stack([method.function(image, **setting) for image in counts])
    pairs = zip(counts, probe, strict=True)
    return np.stack([method.function(image, h, width=WIDTH, **setting) for image, h in pairs])


def tune_method(method: Method, counts: np.ndarray, scenes: Scenes, head: str) -> Setting:
    """The setting with the highest mean PSNR on scenes with matter."""
    some = scenes.filled

    def score(setting: Setting) -> float:
        made = apply_method(method, counts[some], setting, scenes.probe[some])
        pairs = zip(made, scenes.truth[head][some], strict=True)
        return float(np.mean([affine_psnr(m, t, data_range=t.max()) for m, t in pairs]))

    return max(method.settings, key=score)


def score(images: np.ndarray, scenes: Scenes, head: str, setting: Setting | None = None) -> Scored:
    """PSNR and SSIM after the best gain and offset, in units of the truth's brightest pixel.

    Parameters
    ----------
    images : [n, y, x] for a brightest clean pixel of 1 (which matters to false atoms).

    Raises
    ------
    ValueError : images of another shape than the truth.
    """
    truth = scenes.truth[head]
    if np.shape(images) != truth.shape:
        raise ValueError(f"images of shape {np.shape(images)} for a truth of {truth.shape}")
    rows = []
    for image, true in zip(images[scenes.filled], truth[scenes.filled], strict=True):
        clean = true / true.max()
        fitted = fit_affine(np.asarray(image, np.float64), clean)
        rows.append((psnr(fitted, clean, data_range=1.0), ssim(fitted, clean, data_range=1.0)))
    quality = np.array(rows).T
    atoms = count_atoms(images, scenes) if head == "sharp" else None
    return Scored(np.asarray(images), *quality, setting or {}, atoms)


def count_atoms(images: np.ndarray, scenes: Scenes) -> np.ndarray:
    """[n, 4] false, missed and true columns, and what the false ones are divided by."""
    rows = []
    for image, true, probe, pixel in zip(
        images, scenes.truth["sharp"], scenes.probe, scenes.pixel, strict=True
    ):
        answer = response_map(true - true.mean(), np.full(2, DETECTOR))
        spots = detect_spots(true, DETECTOR)
        strong = spots.response > 0.1 * spots.response.max(initial=0)
        lone = _lone(probe)
        typical = lone
        if strong.any() and spots.response.max() > 0.05 * lone:
            typical = np.percentile(spots.response[strong], 90)
        found, columns = detect_spots(image, DETECTOR), spots.xy[spots.response > HIGH * typical]
        reach = NEAR / float(pixel)
        radius = np.hypot(*np.mgrid[-9:10, -9:10]) <= reach
        there = maximum_filter(answer, footprint=radius) > HIGH / 2 * typical
        high = _inner(found.xy[found.response > HIGH * typical], true.shape)
        x, y = np.rint(high).astype(int).T
        columns, lower = (
            _inner(columns, true.shape),
            found.xy[found.response > HIGH / 2 * typical],
        )
        missed = len(columns)
        if len(columns) and len(lower):
            missed = int((KDTree(lower).query(columns)[0] > reach).sum())
        rows.append((int((~there[y, x]).sum()), missed, len(columns)))
    counted = np.array(rows, float)
    mean = max(counted[counted[:, 2] > 0, 2].mean() if counted[:, 2].any() else 1.0, 1.0)
    per = np.where(counted[:, 2] > 0, np.maximum(counted[:, 2], 1), mean)
    return np.concatenate([counted, per[:, None]], axis=1)


def judge(
    network: Callable[[np.ndarray], np.ndarray],
    scene: ColumnScene,
    *,
    doses: Sequence[float],
    tests: int,
    validation: int,
    quick: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Judgement:
    """Tune the classical methods on validation scenes, then score everything on test scenes.

    Parameters
    ----------
    network : counts [n, y, x] -> [n, y, x, 3] in the order of `HEADS`, in electrons.
    scene : that of the training.
    doses : electrons at the brightest pixel.
    tests, validation : scenes; the same at every dose.
    say : called with lines of progress.
    """
    tuning, test = hold_out(scene, tests, validation)
    scored: dict[float, dict[str, dict[str, Scored]]] = {}
    for dose in doses:
        say(f"tuning the classical methods on {validation} images of {dose:g} electrons …")
        before, counts = tuning.counts(dose), test.counts(dose)
        made = np.asarray(network(counts)) / dose
        scored[dose] = {}
        for i, head in enumerate(HEADS):
            rows = scored[dose][head] = {"network": score(made[..., i], test, head)}
            for method in methods(head, quick=quick):
                setting = tune_method(method, before, tuning, head)
                images = apply_method(method, counts, setting, test.probe) / dose
                rows[method.name] = score(images, test, head, setting)
    return Judgement(test, scored, quick)


def numbers(result: Judgement) -> dict[str, Any]:
    """What `results.json` holds."""
    found: dict[str, Any] = {"scenes": len(result.scenes.pixel)}
    for dose, heads in result.scored.items():
        found[f"{dose:g} electrons"] = {
            head: {
                name: {
                    "psnr": bootstrap_interval(s.psnr),
                    "ssim": bootstrap_interval(s.ssim),
                    "gain_of_the_network": result.gain(dose, head, name),
                    "setting": dict(s.setting),
                    **_rates(result, s),
                }
                for name, s in methods_.items()
            }
            for head, methods_ in heads.items()
        }
    return found


def _rates(result: Judgement, scored: Scored) -> dict[str, Any]:
    if scored.atoms is None:
        return {}
    rates = {"false": scored.false_rate(), "missed": scored.missed_rate()}
    for name, kept in (("matter", result.scenes.filled), ("empty", ~result.scenes.filled)):
        if kept.any():
            rates[f"false_{name}"] = scored.false_rate(kept)
    return rates


@functools.lru_cache(maxsize=4)
def _narrow(k: int) -> np.ndarray:
    """A sharp column of sum 1, in the middle of k × k pixels."""
    d = np.arange(k) - k // 2
    line = np.exp(-0.5 * (d / WIDTH) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def _lone(probe: np.ndarray) -> float:
    """The detector's response to the sharp column whose image is 1 at its brightest pixel."""
    k = len(probe)
    seen = np.fft.irfft2(probe, (k, k)).max()
    sharp = _narrow(k) / seen
    return float(response_map(sharp, np.full(2, DETECTOR)).max())


def _inner(xy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    last = np.array([shape[1], shape[0]]) - 1
    return xy[((xy >= MARGIN) & (xy <= last - MARGIN)).all(axis=1)]


def _product(**values: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip(values, v, strict=True)) for v in itertools.product(*values.values())]
