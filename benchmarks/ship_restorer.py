"""Put a trained restorer into the package, with what its users must know of it.

    python -m benchmarks.restoration DEV --run RUN --freeze --fidelity --json SCORES.json
    python -m benchmarks.ship_restorer RUN SCORES.json [--name restore_stem]

The file gets the command, the commit, the configuration and the seconds of the training, the scores
on the development folder and the thresholds of the column detector that were frozen there; weights
and test pair stay as the run wrote them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import h5py

from benchmarks.restoration_methods import network
from emjax.files import plain
from emjax.metrics_file import MetricsFile
from emjax.models import WEIGHTS, find_model


def provenance(run: Path) -> dict[str, Any]:
    """What a run's folder tells of its training; no paths, no machine."""
    told = json.loads((run / "env.json").read_text(encoding="utf-8"))
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    seconds = MetricsFile(run / "metrics.csv").series()["seconds"]
    return {
        "command": told["command"],
        "commit": (told.get("git") or {}).get("commit", "unknown"),
        "device": f"{told['backend']}, {told['cores']} cores",
        "packages": {name: told["packages"][name] for name in ("jax", "flax", "optax", "numpy")},
        "seconds": round(float(seconds[-1])),
        "config": config,
    }


def short(scores: dict[str, Any]) -> dict[str, Any]:
    """Means and intervals over all scenes, to four digits."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: rounded(v) for k, v in value.items() if k not in ("scenes", "threshold")}
        if isinstance(value, list):
            return [rounded(v) for v in value]
        return float(f"{value:.4g}") if isinstance(value, float) else value

    fields = {dose: found["mean"] for dose, found in scores.get("fidelity", {}).items()}
    return rounded({"levels": scores["levels"], "fidelity": fields})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("scores", type=Path, help="of `benchmarks.restoration --json`")
    parser.add_argument("--name", default="restore_stem")
    options = parser.parse_args()
    candidate = network(options.run)
    if not candidate.thresholds:
        parser.error("no thresholds are frozen: run benchmarks.restoration with --freeze first")
    scored = json.loads(options.scores.read_text(encoding="utf-8"))["methods"]
    if candidate.name not in scored:
        parser.error(f"{options.scores} has no scores of {candidate.name}")
    to = WEIGHTS / f"{options.name}.h5"
    aside = to.with_suffix(".part")
    shutil.copyfile(find_model(options.run), aside)
    with h5py.File(aside, "r+") as file:
        meta = json.loads(file.attrs["meta"])
        meta["trained"] = provenance(options.run)
        meta["scores"] = short(scored[candidate.name])
        meta["detector_thresholds"] = candidate.thresholds
        file.attrs["meta"] = json.dumps(plain(meta))
    aside.replace(to)
    print(f"{to}: {to.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
