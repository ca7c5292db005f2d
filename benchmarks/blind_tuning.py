"""Classical filters tuned on one noisy image alone, against the best that knowing the truth gives.

    python -m benchmarks.blind_tuning [--scenes 16] [--only gaussian,…] [--json FILE]

Every image is tuned by itself, by its two self-supervised losses (hidden electrons, hidden pixels:
`emjax.baselines.self_tuning`) and by its true PSNR (the oracle: `emjax.baselines.restoration.tune`)
over the same settings; the scenes are crystals in annular dark field with 5, 20 and 100 electrons
at the brightest pixel and no scan errors. PSNR in dB after the best gain and offset, peak 1; "lost"
is what the oracle has more, in pairs; mean and 95 % bootstrap interval over scenes. It is to stay
within 0.2 dB. Below two minutes on one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "gaussian": {"sigma": (0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 4.0)},
    "tv_chambolle": {"weight": (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0), "tolerance": (2e-3,)},
    "wavelet": {"sigma": (0.35, 0.5, 0.7, 1.0, 1.4), "wavelet": ("db1", "sym8"), "shifts": (2,)},
    "non_local_means": {
        "h": (0.25, 0.5, 0.8, 1.2, 2.0),
        "patch": (5,),
        "distance": (5,),
        "sigma": (0.5, 1.0),
    },
}
"""What both try: parts of the grids of `emjax.baselines.restoration.DENOISERS`."""
CRYSTALS = ("graphene", "mos2", "srtio3", "silicon110", "gold001", "wse2", "rutile001")
DOSES = (5.0, 20.0, 100.0)
"""Electrons at the brightest pixel."""
SIDE, SEED, WITHIN = 96, 23, 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--only", default=",".join(GRIDS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    names = options.only.split(",")
    unknown = set(names) - set(GRIDS)
    if unknown or options.scenes < 2:
        parser.error(f"two scenes at least, and filters of {', '.join(GRIDS)}")
    clean = scenes(options.scenes)
    print(
        "| filter | electrons | default | self-supervised | oracle | lost | lost, pixels hidden |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    for name in names:
        for dose in DOSES:
            rows.append(row(name, dose, clean))
            print(line(rows[-1]), flush=True)
    for kind, what in (("lost", "electrons"), ("lost_pixels", "pixels")):
        kept = sum(r[kind][0] <= WITHIN for r in rows)
        print(f"{what} hidden: {kept} of {len(rows)} lose {WITHIN} dB or less in the mean")
    if options.json:
        options.json.write_text(json.dumps({"scenes": len(clean), "rows": rows}, indent=1))


def scenes(count: int) -> np.ndarray:
    """[n, y, x] noise-free images, 1 at their maximum; always the same."""
    import jax

    from emjax.data.column_scene import ColumnScene
    from emjax.data.synthetic_columns import crystals, make_scenes

    plain = {"generic": 0.0, "lattice": 1.0, "jitter": 0.0, "line_gain": 0.0, "readout": 0.0}
    scene = dataclasses.replace(ColumnScene(patch=SIDE), **plain)
    draw = jax.jit(make_scenes(scene, crystals(CRYSTALS), count))
    rate = np.asarray(draw(jax.random.key(SEED))["rate"])[..., 0].astype(np.float64)
    return rate / rate.max((1, 2), keepdims=True)


def row(name: str, dose: float, clean: np.ndarray) -> dict[str, Any]:
    """One filter at one dose: intervals, and every image's choices."""
    from emjax.baselines.restoration import DENOISERS, affine_psnr, tune
    from emjax.baselines.self_tuning import tune_blind
    from emjax.metrics.statistics import bootstrap_interval

    rng = np.random.default_rng([SEED, int(dose)])
    method, scores, chosen = DENOISERS[name], [], []
    for truth in clean:
        counts = rng.poisson(dose * truth).astype(np.float64)
        settings = (
            {},
            tune_blind(name, [counts], grid=GRIDS[name], hide="electrons"),
            tune_blind(name, [counts], grid=GRIDS[name], hide="pixels"),
            tune(name, [counts], [truth], grid=GRIDS[name]),
        )
        restored = [method(counts, **parameters) for parameters in settings]
        scores.append([affine_psnr(image, truth, data_range=1.0) for image in restored])
        chosen.append(settings[1:])
    default, blind, pixels, oracle = np.array(scores).T
    return {
        "filter": name,
        "electrons": dose,
        "default": bootstrap_interval(default),
        "self_supervised": bootstrap_interval(blind),
        "oracle": bootstrap_interval(oracle),
        "lost": bootstrap_interval(oracle - blind),
        "lost_pixels": bootstrap_interval(oracle - pixels),
        "chosen": chosen,
    }


def line(found: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [
        f"{value:.2f} [{low:.2f}, {high:.2f}]"
        for value, low, high in (
            found[k] for k in ("default", "self_supervised", "oracle", "lost", "lost_pixels")
        )
    ]
    return f"| {found['filter']} | {found['electrons']:g} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
