"""How well columns are found: a network and the tuned classical detector, image class by class.

An image class is one family of specimens under one kind of condition. The classical detector is
tuned on the validation images of each class by itself; the network has one threshold for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from emjax.baselines.columns import Grid, LogParameters, detect, tune
from emjax.metrics.detection import DetectionScores, column_spacing, detection_scores
from emjax.metrics.statistics import bootstrap_difference, bootstrap_f1
from emjax.predict import Prediction, predict_image

if TYPE_CHECKING:
    from emjax.data.synthetic_scenes import Scene
    from emjax.models import Model

FRACTION = 0.2
"""Of the column spacing: a column must be found within this."""
MARGIN = 0.8
"""Columns closer than this to the border [Å] are not counted."""
TILE, HALO = 128, 24
"""Tiles for small images: one holds a scene."""
THRESHOLDS = np.round(np.arange(0.1, 0.75, 0.025), 3)
QUICK = Grid(sigmas=(0.14, 0.22, 0.35), thresholds=(0.1, 0.2, 0.35, 0.5), percentiles=(90.0,))
"""A coarser search of the classical detector's settings, for smoke tests."""


@dataclass(frozen=True, eq=False)
class Found:
    """What one method found in one scene."""

    columns: np.ndarray
    heat: np.ndarray | None = None


def radius_px(scene: Scene) -> float:
    """A fifth of the scene's column spacing, in its pixels."""
    return FRACTION * column_spacing(scene.truth[:, :2])


def run_network(
    model: Model, scenes: Sequence[Scene], *, progress: Callable[[], None] = lambda: None
) -> list[Found]:
    """Every column above the lowest of THRESHOLDS, of every scene."""
    result = []
    for scene in scenes:
        found: Prediction = predict_image(
            model,
            scene.image,
            scene.sampling,
            threshold=float(THRESHOLDS[0]),
            tile=TILE,
            halo=HALO,
            batch=1,
        )
        result.append(Found(found.columns, found.heat[..., 0]))
        progress()
    return result


def above(found: Sequence[Found], threshold: float) -> list[Found]:
    """Those with at least this confidence."""
    return [replace(f, columns=f.columns[f.columns["confidence"] >= threshold]) for f in found]


def score(
    found: Sequence[Found],
    scenes: Sequence[Scene],
    *,
    fitted: bool = False,
    class_aware: bool = True,
) -> DetectionScores:
    """Scores over scenes, in Å; see FRACTION and MARGIN."""
    pairs, radii = [], []
    for f, scene in zip(found, scenes, strict=True):
        names = ("x_fit", "y_fit", "species") if fitted else ("x", "y", "species")
        predicted = np.stack([f.columns[n].astype(float) for n in names], axis=1)
        pairs.append((_scaled(predicted, scene), _scaled(scene.truth, scene)))
        radii.append(radius_px(scene) * scene.sampling)
    # `match_points` takes the last pixel to lie at shape - 1, here in Å
    shapes = [tuple((n - 1) * s.sampling + 1 for n in s.image.shape) for s in scenes]
    return detection_scores(
        pairs,
        radii,
        shapes=shapes,
        margin=MARGIN,
        class_aware=class_aware,  # type: ignore[arg-type]
    )


def _scaled(points: np.ndarray, scene: Scene) -> np.ndarray:
    return points * np.array([scene.sampling, scene.sampling, 1.0])


def best_threshold(found: Sequence[Found], scenes: Sequence[Scene]) -> tuple[float, float]:
    """(threshold, F1): the best mean of the F1 of the image classes, on validation images."""
    groups = by_name(scenes)

    def mean_f1(threshold: float) -> float:
        kept = above(found, threshold)
        return float(
            np.mean(
                [score([kept[i] for i in g], [scenes[i] for i in g]).f1 for g in groups.values()]
            )
        )

    values = [mean_f1(t) for t in THRESHOLDS]
    best = int(np.argmax(values))
    return float(THRESHOLDS[best]), values[best]


def by_name(scenes: Sequence[Scene]) -> dict[str, list[int]]:
    """Indices of the scenes of each image class, in order of appearance."""
    groups: dict[str, list[int]] = {}
    for index, scene in enumerate(scenes):
        groups.setdefault(scene.name, []).append(index)
    return groups


def tune_classical(
    scenes: Sequence[Scene],
    *,
    grid: Grid | None = None,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, LogParameters]:
    """The best Laplacian-of-Gaussian detector of each image class."""
    result = {}
    for name, group in by_name(scenes).items():
        own = [scenes[i] for i in group]
        result[name] = tune(
            [s.image for s in own],
            [_structured(s.truth) for s in own],
            [s.sampling for s in own],
            grid,
            radius_px=[radius_px(s) for s in own],
            margin=[MARGIN / s.sampling for s in own],
        )
        # a search over few images can end below where it began
        kinds = tuple(sorted({int(k) for s in own for k in s.truth[:, 2]}))
        plain = LogParameters(order=kinds)
        if score(_with(own, plain), own).f1 > score(_with(own, result[name]), own).f1:
            result[name] = plain
        progress()
    return result


def _with(scenes: Sequence[Scene], setting: LogParameters) -> list[Found]:
    return [Found(_both(detect(s.image, s.sampling, setting))) for s in scenes]


def run_classical(scenes: Sequence[Scene], settings: dict[str, LogParameters]) -> list[Found]:
    """The tuned detector of each scene's image class."""
    return [Found(_both(detect(s.image, s.sampling, settings[s.name]))) for s in scenes]


def run_default(scenes: Sequence[Scene], validation: Sequence[Scene]) -> list[Found]:
    """The detector as it comes, with as many species as the class's validation images have."""
    kinds: dict[str, set[int]] = {}
    for s in validation:
        kinds.setdefault(s.name, set()).update(int(k) for k in s.truth[:, 2])
    return [
        _with([s], LogParameters(order=tuple(sorted(kinds.get(s.name, {0})))))[0] for s in scenes
    ]


def _both(columns: np.ndarray) -> np.ndarray:
    """The detector's own choice of position (`LogParameters.refine`) as the position."""
    columns = columns.copy()
    columns["x"], columns["y"] = columns["x_fit"], columns["y_fit"]
    return columns


def _structured(truth: np.ndarray) -> np.ndarray:
    result = np.zeros(len(truth), [("x", float), ("y", float), ("species", int)])
    result["x"], result["y"], result["species"] = truth.T
    return result


@dataclass(frozen=True)
class Row:
    """One image class, or several together."""

    name: str
    images: int
    network: tuple[float, float, float]
    classical: tuple[float, float, float]
    default: tuple[float, float, float]
    difference: tuple[float, float, float]
    rmsd: float
    rmsd_fitted: float
    rmsd_classical: float


def compare(
    scenes: Sequence[Scene],
    network: Sequence[Found],
    classical: Sequence[Found],
    default: Sequence[Found],
    groups: Iterable[tuple[str, Sequence[int]]],
) -> list[Row]:
    """Class-aware F1 with 95 % intervals over images, for groups (name, indices) of scenes."""
    rows = []
    for name, group in groups:
        own = [scenes[i] for i in group]
        one, two, three = (
            score([method[i] for i in group], own) for method in (network, classical, default)
        )
        rows.append(
            Row(
                name,
                len(own),
                bootstrap_f1(one.table),
                bootstrap_f1(two.table),
                bootstrap_f1(three.table),
                bootstrap_difference(one.table, two.table),
                one.rmsd,
                score([network[i] for i in group], own, fitted=True).rmsd,
                two.rmsd,
            )
        )
    return rows
