"""The tables of `benchmarks.denoising_objectives`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emjax.cli.seeds import summary
from emjax.metrics.statistics import bootstrap_interval

CLAIMS = (
    # row, minus this one, dose, what is expected of it
    ("mcnn", "supervised", 20.0, "D3: at least -0.2 dB in the trained range"),
    ("mcnn", "mcnn@5", 1.0, "D3: what a fifth of the lowest trained dose costs"),
    ("noise2noise", "supervised", 20.0, "D4: within 0.3 dB"),
    ("noise2noise_biased", "noise2noise", 20.0, "D4, control: must fail"),
    ("noise2void", "gaussian", 20.0, "D5: at least +1 dB"),
    ("noise2void_rows", "noise2void_independent", 20.0, "D5, control: must collapse"),
    ("noise2self", "noise2void", 20.0, "D6"),
    ("blindspot", "noise2void", 20.0, "D7: at least +0.3 dB"),
    ("blindspot", "noise2noise", 20.0, "D7: not above"),
    ("pn2v", "noise2void", 20.0, "D8: at least +0.2 dB"),
    ("pn2v_bootstrap", "pn2v", 20.0, "D9: within 0.2 dB"),
    ("dose_given", "supervised", 20.0, "what knowing the dose is worth"),
    ("dose_given", "supervised", 5.0, "the same"),
)


def print_tables(found: Mapping[str, Sequence[Mapping]], doses: Sequence[float]) -> dict[str, Any]:
    """Print the PSNR of every row and the differences that are claimed; all numbers as a dict."""
    rows = {name: runs for name, runs in found.items() if name != "classical"}
    for runs in found.get("classical", ()):
        for name, scores in runs["filters"].items():
            rows[name] = [{"seed": 0, "weights": 0, "scores": scores}]
    heads = " | ".join(f"{dose:g} e" for dose in doses)
    print(f"| trained by | seeds | weights | {heads} |")
    print("| --- | --- | --- |" + " --- |" * len(doses))
    told: dict[str, Any] = {"psnr": {}, "differences": []}
    for name, runs in rows.items():
        cells = []
        for dose in doses:
            mean, low, high = _interval([np.array(r["scores"][f"{dose:g}"]["psnr"]) for r in runs])
            told["psnr"].setdefault(name, {})[f"{dose:g}"] = [mean, low, high]
            cells.append(f"{mean:.2f} [{low:.2f}, {high:.2f}]")
        weights = runs[0]["weights"] or ""
        print(f"| {name} | {len(runs) if weights else ''} | {weights} | {' | '.join(cells)} |")
    print("\n| difference | dose | dB | expected |\n| --- | --- | --- | --- |")
    for name, other, dose, what in CLAIMS:
        other, _, at = other.partition("@")
        if name not in rows or other not in rows:
            continue
        other_dose = float(at or dose)
        mean, low, high = _interval(_paired(rows[name], rows[other], dose, other_dose))
        told["differences"].append([name, other, dose, other_dose, mean, low, high, what])
        label = f"{name} - {other}" + (f" at {at} e" if at else "")
        print(f"| {label} | {dose:g} e | {mean:+.2f} [{low:+.2f}, {high:+.2f}] | {what} |")
    print("\nIntervals of 95 %: over seeds (Student) where there are several, else over scenes.")
    return told


def _paired(
    a: Sequence[Mapping], b: Sequence[Mapping], dose: float, other: float
) -> list[np.ndarray]:
    """Differences per scene, one array a seed; a row of one seed meets every seed of the other."""
    first = {run["seed"]: np.array(run["scores"][f"{dose:g}"]["psnr"]) for run in a}
    second = {run["seed"]: np.array(run["scores"][f"{other:g}"]["psnr"]) for run in b}
    both = first.keys() & second.keys()
    if len(second) == 1:
        both = first.keys()
        second = dict.fromkeys(both, next(iter(second.values())))
    return [first[seed] - second[seed] for seed in sorted(both)]


def _interval(values: Sequence[np.ndarray]) -> tuple[float, float, float]:
    if len(values) > 1:
        return tuple(summary([{"x": float(v.mean())} for v in values])["x"])
    return tuple(bootstrap_interval(values[0]))
