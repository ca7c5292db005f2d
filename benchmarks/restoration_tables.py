"""Markdown and JSON of `benchmarks.restoration`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from emjax.evaluation.restoration_fidelity import FieldScore, summarise_fields
from emjax.evaluation.restoration_scores import LEVEL_SCORES, LevelScore, SceneScore
from emjax.files import plain

Summary = Mapping[str, Mapping[str, tuple[float, float, float]]]
PLAIN = ("d2", "d10", "d50")
"""Levels of the columns that show more than PSNR."""
SHOWN = {
    "SSIM": ("ssim", 3, 1.0),
    "F1": ("f1", 3, 1.0),
    "strict F1": ("f1_strict", 3, 1.0),
    "error, pm": ("error_pm", 1, 1.0),
    "intensity error, %": ("intensity", 1, 100.0),
}
FIDELITY = {
    "slope": ("centred", "slope", 2),
    "rms, pm": ("centred", "rms_pm", 1),
    "slope, all lattices": ("lattices", "slope", 2),
    "rms, pm, all lattices": ("lattices", "rms_pm", 1),
    "ghosts": ("lattices", "ghosts", 2),
    "recall": ("lattices", "recall", 3),
    "phantoms, glass": ("amorphous", "phantoms", 3),
    "phantoms, empty": ("empty", "phantoms", 3),
    "covered by 90 %": ("lattices", "coverage", 3),
}
NONE = "–"


def score_header(levels: Sequence[str], time: bool) -> list[str]:
    """Two lines: one column of PSNR a level, then the others at the levels without jitter."""
    several = " / ".join(level for level in PLAIN if level in levels)
    names = [f"{name} {several}" for name in SHOWN] if several else []
    psnr = [f"PSNR {level}" for level in levels]
    head = ["method", *psnr, *names, *(["s per 256²"] if time else [])]
    return [row(head), row(["---"] * len(head))]


def score_row(
    name: str, scores: Mapping[str, LevelScore], seconds: float | None, time: bool
) -> str:
    """One method."""
    cells = [number(s.values["psnr"][0], 2) for s in scores.values()]
    known = [scores[level] for level in PLAIN if level in scores]
    for key, digits, factor in SHOWN.values():
        values = [s.values[key][0] * factor if key in s.values else None for s in known]
        if known:
            cells.append(" / ".join(number(v, digits) for v in values))
    if time:
        cells.append(NONE if seconds is None else f"{seconds:.2g}")
    return row([name, *cells])


def fidelity_table(results: Mapping[str, Mapping[float, Summary]]) -> list[str]:
    """Method -> dose -> summary of `summarise_fields`, as lines; one row a method.

    A number that is the same at all doses stands once.
    """
    doses = next(iter(results.values()))
    several = " / ".join(f"d{dose:g}" for dose in doses)
    head = ["method", *(f"{name} {several}" for name in FIDELITY)]
    lines = [row(head), row(["---"] * len(head))]
    for name, summaries in results.items():
        cells = []
        for kind, key, digits in FIDELITY.values():
            found = [s.get(kind, {}).get(key, (None,))[0] for s in summaries.values()]
            shown = [number(v, digits) for v in found]
            cells.append(shown[0] if len(set(shown)) == 1 else " / ".join(shown))
        lines.append(row([name, *cells]))
    return lines


def number(value: float | None, digits: int) -> str:
    if value is None or math.isnan(value):
        return NONE
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def level_json(summary: LevelScore, scores: Sequence[SceneScore]) -> dict[str, Any]:
    """Everything of one method at one level: means with intervals, and scene by scene."""
    scenes = {}
    for score in scores:
        entry = {key: getattr(score, key) for key in LEVEL_SCORES if hasattr(score, key)}
        if summary.threshold is not None:
            found = score.detections[summary.threshold]
            entry |= {"loose": found.loose, "strict": found.strict, "error_pm": found.error_pm}
        scenes[score.scene] = entry
    return {"threshold": summary.threshold, **summary.values, "scenes": scenes}


def fidelity_json(scores: Sequence[FieldScore]) -> dict[str, Any]:
    """Of one dose: kind -> score -> (mean, low, high), and field by field."""
    return {"mean": summarise_fields(scores), "fields": list(scores)}


def strict_json(value: Any) -> Any:
    """JSON's own types; NaN and infinity, which JSON does not have, become null."""

    def clean(entry: Any) -> Any:
        if isinstance(entry, float):
            return entry if math.isfinite(entry) else None
        if isinstance(entry, dict):
            return {key: clean(v) for key, v in entry.items()}
        return [clean(v) for v in entry] if isinstance(entry, list) else entry

    return clean(plain(value))
