"""Our simulators against reference arrays, driven by each file's own recipes.

    python -m benchmarks.abtem_parity DIR [--strict]

runs every npz of the format described in the file's `meta` (arrays [x, y], point lists (x, y[, z]),
`recipes` naming for each output all that makes it) in float32 and float64. One line per output:
file, output, error = max|a - b| / max|b|, pass mark, verdict; the last line has the counts. Exits 1
if anything fails; with --strict also where a recipe is not supported yet.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recipes import NotSupported, produce

MARKS = {"float32": 2e-5, "float64": 1e-6}
PRISM_MARK = 5e-6
"""float64 mark where the reference itself was computed with float32 plane waves."""


def mark_of(recipe: dict, reference: np.ndarray, precision: str) -> float:
    """The pass mark; outputs stored in single precision are compared at that precision."""
    mark = MARKS[precision]
    if precision == "float64" and recipe.get("engine") == "prism":
        mark = PRISM_MARK
    return mark


def error_of(result: Any, reference: np.ndarray) -> float:
    """max|a - b| / max|b| over the whole array; infinite where shapes differ or numbers are not."""
    result = np.asarray(result)
    if result.shape != reference.shape:
        return float("inf")
    error = np.abs(result - reference).max() / np.abs(reference).max()
    return float(error) if np.isfinite(error) else float("inf")


def run_file(path: Path, precision: str) -> list[tuple[str, str, float, float, str]]:
    """(file, output, error, mark, verdict) of every output of one file."""
    rows = []
    with np.load(path, allow_pickle=False) as stored:
        data = {key: stored[key] for key in stored.files}
    meta = json.loads(str(data.pop("meta")))
    for name, recipe in meta["recipes"].items():
        if recipe.get("kind") == "internal":
            continue
        reference, mark = data[name], mark_of(recipe, data[name], precision)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a detector cut by the band limit, as in abTEM
                error = error_of(produce(recipe, name, data, meta, precision), reference)
            verdict = "pass" if error <= mark else "FAIL"
        except NotSupported as reason:
            error, verdict = float("nan"), f"not supported yet ({reason})"
        rows.append((path.name, name, error, mark, verdict))
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run all files in both precisions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of npz files")
    parser.add_argument("--strict", action="store_true", help="unsupported outputs fail too")
    args = parser.parse_args(argv)
    files = sorted(args.folder.glob("*.npz"))
    if not files:
        print(f"no npz files in {args.folder}", file=sys.stderr)
        return 1
    counts = {"pass": 0, "FAIL": 0, "not supported yet": 0}
    import jax

    for precision in MARKS:
        with jax.enable_x64(precision == "float64"):
            for path in files:
                for file, name, error, mark, verdict in run_file(path, precision):
                    print(f"{precision} {file} {name} {error:.1e} {mark:.0e} {verdict}", flush=True)
                    counts[verdict.split(" (")[0]] += 1
    print(", ".join(f"{n} {what}" for what, n in counts.items()))
    return int(counts["FAIL"] > 0 or (args.strict and counts["not supported yet"] > 0))


if __name__ == "__main__":
    sys.exit(main())
