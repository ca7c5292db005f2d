"""The report on a restorer: tables, examples with how sure it is, calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emjax.baselines.restoration import fit_affine
from emjax.evaluation.restore import EIGHT, QUANTILE, Judgement
from emjax.metrics.statistics import bootstrap_interval
from emjax.report import (
    Card,
    Curve,
    Example,
    Panel,
    Section,
    Table,
    training_curves,
    write_report,
)
from emjax.results import write_results

if TYPE_CHECKING:
    from emjax.runs import Run

LEVELS = np.linspace(0.05, 0.95, 19)


def numbers(result: Judgement) -> dict[str, Any]:
    """What `results.json` holds."""
    found: dict[str, Any] = {}
    for i, images in enumerate(result.images):
        key = images.condition.name.replace(", ", "_").replace(" ", "_")
        own = result.network[i]
        rows = {"network": own, **{n: s[i] for n, s in result.classical.items()}}
        found[key] = {
            name: {"psnr": row.mean("psnr"), "ssim": row.mean("ssim"), "seconds": row.seconds}
            for name, row in rows.items()
        }
        if result.classical:
            best = result.best(i)
            found[key]["best"] = best
            found[key]["gain"] = bootstrap_interval(own.psnr - result.classical[best][i].psnr)
            gain = own.ssim - result.classical[best][i].ssim
            found[key]["gain_ssim"] = bootstrap_interval(gain)
        eight = [name for name in EIGHT if name in result.default]
        if eight:  # the headline of Ede & Beanland: against the best filter at its defaults
            least = min(result.default[name][i].mse.mean() for name in eight)
            found[key]["mse_against_defaults"] = float(own.mse.mean() / least - 1)
        if result.coverage[i] is not None:
            found[key]["coverage"] = result.coverage[i]
    return found


def summary(result: Judgement) -> list[str]:
    """One line per condition."""
    lines = []
    if result.quick:
        lines.append("A quick run shows that everything works here; its figures mean nothing.")
    for i, images in enumerate(result.images):
        value, low, high = result.network[i].mean("psnr")
        line = f"{images.condition.name} ({images.condition.dose:g} e): "
        line += f"PSNR {value:.2f} dB [{low:.2f}, {high:.2f}], "
        line += f"SSIM {result.network[i].ssim.mean():.3f}"
        if result.classical:
            best = result.best(i)
            other = result.classical[best][i]
            gain = bootstrap_interval(result.network[i].psnr - other.psnr)
            line += f"; the best tuned filter, {best}, {other.psnr.mean():.2f} dB, "
            line += f"{other.ssim.mean():.3f} (difference {gain[0]:+.2f} dB "
            line += f"[{gain[1]:+.2f}, {gain[2]:+.2f}])"
        if result.coverage[i] is not None:
            line += f"; 90 % intervals hold {100 * result.coverage[i]:.0f} %"
        lines.append(line + ".")
    return lines


def write_restore_report(run: Run, config: Any, result: Judgement) -> None:
    """``report.html`` and ``results.json`` of the run."""
    write_results(run.path, numbers(result))
    lines = summary(result)
    write_report(
        run.path,
        title="Restored annular dark-field and bright-field images",
        subtitle="One network for every dose against filters tuned for each condition",
        summary=lines,
        cards=[
            Card(
                images.condition.name, f"{result.network[i].psnr.mean():.2f} dB", _beside(result, i)
            )
            for i, images in enumerate(result.images)
        ],
        sections=[
            Section("Against classical filters", [_table(result, "psnr"), _table(result, "ssim")]),
            _examples(result),
            *_calibration(result),
            Section("Training", training_curves(run.metrics())),
        ],
        config=config,
    )
    for line in lines:
        run.print(line)


def _beside(result: Judgement, i: int) -> str:
    if not result.classical:
        return ""
    best = result.best(i)
    return f"{best}, tuned: {result.classical[best][i].psnr.mean():.2f} dB"


def _table(result: Judgement, what: str) -> Table:
    names = [images.condition.name for images in result.images]
    rows = [["network, one for all", *(s.mean(what) for s in result.network)]]
    rows += [
        [f"{n}, tuned", *(s.mean(what) for s in found)] for n, found in result.classical.items()
    ]
    rows += [
        [f"{n}, default", *(s.mean(what) for s in found)] for n, found in result.default.items()
    ]
    count = len(result.images[0].counts)
    return Table(
        {"psnr": "PSNR [dB]", "ssim": "SSIM"}[what],
        ["method", *names],
        rows,
        note=f"Mean over {count} images of crystals that were not trained, with 95 % intervals; "
        "after the best gain and offset, in units of the brightest pixel"
        + (", Gaussian window of 1.5 pixels." if what == "ssim" else "."),
        better=dict.fromkeys(names, "high"),
    )


def _examples(result: Judgement) -> Section:
    items = []
    for i, images in enumerate(result.images):
        order = np.argsort(result.network[i].psnr)
        for label, j in (("worst", order[0]), ("median", order[len(order) // 2])):
            clean = images.rate[j] / images.rate[j].max()
            image = fit_affine(result.restored[i][j].astype(float), clean)
            panels = [
                Panel("counts", images.counts[j]),
                Panel("restored", image, window=(0, 1)),
                Panel("truth", clean, window=(0, 1)),
                Panel("restored − truth", image - clean, window=(-0.2, 0.2), cmap="residual"),
            ]
            sigma = result.sigma[i]
            if sigma is not None:
                panels.append(
                    Panel("standard deviation", sigma[j] / images.rate[j].max(), cmap="magma")
                )
            detail = f"PSNR {result.network[i].psnr[j]:.2f} dB"
            items.append(Example(f"{images.condition.name}, {label}", panels, detail))
    return Section("Examples: the worst and the median of each condition", items)


def _calibration(result: Judgement) -> list[Section]:
    from scipy.stats import norm

    lines = {}
    for images, restored, sigma in zip(result.images, result.restored, result.sigma, strict=True):
        if sigma is None:
            continue
        ratio = (abs(restored - images.rate) / np.maximum(sigma, 1e-12)).ravel()[::11]
        inside = [float((ratio < norm.ppf(0.5 + level / 2)).mean()) for level in LEVELS]
        lines[images.condition.name] = (LEVELS, np.array(inside))
    if not lines:
        return []
    curve = Curve(
        "Share of pixels within the interval",
        {"as stated": (LEVELS, LEVELS), **lines},
        x_label="stated",
        y_label="found",
        note=f"At 90 %: the restored value ± {QUANTILE:.3f} standard deviations.",
    )
    return [Section("How sure the network is", [curve])]
