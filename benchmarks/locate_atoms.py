"""One table of several runs (seeds) of `locate_atoms`: python -m benchmarks.locate_atoms RUN…

    for s in 0 1 2; do emjax run locate_atoms --seed $s --name locate_atoms-seed$s; done
    python -m benchmarks.locate_atoms runs/locate_atoms-seed*

Prints markdown: class-aware F1 of each seed, their mean, the tuned classical detector on the same
images, and the agreement with published coordinates where a run judged real frames.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read(folders: Sequence[str]) -> list[dict[str, Any]]:
    """`results.json` of every run."""
    results = []
    for folder in folders:
        path = Path(folder) / "results.json"
        if not path.is_file():
            raise SystemExit(f"{folder} has no results.json: run locate_atoms to its end first")
        results.append(json.loads(path.read_text("utf-8")))
    return results


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown lines: seeds side by side."""
    seeds = [f"seed {result['seed']}" for result in results]
    header = ["images", *seeds, "mean", "LoG, tuned", "difference", "LoG, untuned"]
    lines = [_row(header), _row(["---"] * len(header))]
    for kind in ("totals", "rows"):
        for rows in zip(*(r[kind] for r in results), strict=True):
            names = {row["name"] for row in rows}
            if len(names) > 1:
                raise SystemExit(f"the runs judged different images: {sorted(names)}")
            f1 = [row["network"][0] for row in rows]
            mean, classical = sum(f1) / len(f1), rows[0]["classical"][0]
            name = f"**{rows[0]['name']}**" if kind == "totals" else rows[0]["name"]
            cells = [*f1, mean, classical]
            lines.append(
                _row(
                    [
                        name,
                        *(f"{v:.3f}" for v in cells),
                        f"{mean - classical:+.3f}",
                        f"{rows[0]['default'][0]:.3f}",
                    ]
                )
            )
    for frame in results[0]["real"]:
        for within in ("fifth", "half"):
            if within not in frame:
                continue
            same = [f for r in results for f in r["real"] if f["frame"] == frame["frame"]]
            f1 = [f[within]["f1"] for f in same]
            name = f"real: {frame['frame']}, within a {within} of the spacing"
            lines.append(
                _row([name, *(f"{v:.3f}" for v in f1), f"{sum(f1) / len(f1):.3f}", "", "", ""])
            )
    return lines


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    print("\n".join(table(read(sys.argv[1:]))))
