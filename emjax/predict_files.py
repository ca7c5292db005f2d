"""A prediction as files: a table, two pictures, the heat map and how it was made.

::

    predictions/image_17/
        columns.csv      one row per atom column        overlay.png   the image with the columns
        heat.npz         heat map and probabilities     heat.png      the heat map to look at
        prediction.json  network, pixel sizes, threshold, counts
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emjax.predict import Prediction, PredictionError

FILES = ("columns.csv", "overlay.png", "heat.png", "heat.npz", "prediction.json")
CSV_COLUMNS = (
    *("index", "x_A", "y_A", "x_px", "y_px", "species", "confidence"),
    *("x_fit_px", "y_fit_px", "x_fit_A", "y_fit_A", "height", "fit_ok"),
)


def save_prediction(
    folder: str | os.PathLike[str],
    prediction: Prediction,
    image: np.ndarray,
    *,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write FILES into a new folder and return its path.

    All files appear at once: they are written into `FOLDER.<process>.part`, which is then renamed.

    Parameters
    ----------
    folder : if it exists, `FOLDER-2`, `FOLDER-3` … is taken, unless `overwrite`.
    image : [y, x], the image that was predicted from.
    settings : what else prediction.json shall hold.
    overwrite : replace the folder; refused (PredictionError) if it is not one of predictions.
    """
    folder = Path(folder)
    if overwrite and folder.exists() and not (folder / "columns.csv").is_file():
        raise PredictionError(
            f"{folder} is not a folder of predictions, so it is not overwritten: "
            "choose another --out"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        _write(part, prediction, image, dict(settings or {}))
        return _move(part, folder, overwrite)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def summary(prediction: Prediction) -> dict[str, Any]:
    """Counts per species, median confidence, fits, and the median spacing [Å] (None below two)."""
    from emjax.metrics.detection import column_spacing

    columns, (step_y, step_x) = prediction.columns, prediction.sampling
    xy = np.stack([columns["x_fit"] * step_x, columns["y_fit"] * step_y], axis=1)
    species = {}
    for number, name in enumerate(prediction.classes or ("column",)):
        mine = columns[columns["species"] == number] if prediction.classes else columns
        species[name] = {
            "columns": len(mine),
            "confidence": round(float(np.median(mine["confidence"])), 4) if len(mine) else None,
            "fitted": int(mine["ok"].sum()),
        }
    spacing = round(float(column_spacing(xy)), 4) if len(xy) > 1 else None
    return {"columns": len(columns), "species": species, "spacing_A": spacing}


def _write(
    folder: Path, prediction: Prediction, image: np.ndarray, settings: dict[str, Any]
) -> None:
    from emjax.files import write_json
    from emjax.plots import overlay_png

    _write_csv(folder / "columns.csv", prediction)
    classes, heat = prediction.classes, prediction.heat
    overlay_png(folder / "overlay.png", image, prediction.sampling, prediction.columns, classes)
    overlay_png(
        folder / "heat.png",
        heat[..., 0],
        prediction.heat_sampling,
        window=(0.0, 1.0),
        cmap="magma",
    )
    # three decimals are all that a probability here is worth, and they compress ten times better
    small = np.round(heat, 3).astype(np.float16)
    np.savez_compressed(
        folder / "heat.npz",
        heat=small[..., 0],
        species=small[..., 1:],
        classes=np.array(classes, dtype=str),
        sampling=np.array(prediction.heat_sampling),
    )
    y, x = image.shape
    write_json(
        folder / "prediction.json",
        {
            **settings,
            "image_pixels": {"y": y, "x": x},
            "sampling_A": dict(zip("yx", prediction.sampling, strict=True)),
            "network_sampling_A": dict(zip("yx", prediction.heat_sampling, strict=True)),
            "classes": list(classes),
            **summary(prediction),
        },
    )


def _write_csv(path: Path, prediction: Prediction) -> None:
    step_y, step_x = prediction.sampling
    names = prediction.classes
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        for index, column in enumerate(prediction.columns):
            x, y, x_fit, y_fit = (float(column[n]) for n in ("x", "y", "x_fit", "y_fit"))
            writer.writerow(
                [
                    index,
                    *(f"{v:.4f}" for v in (x * step_x, y * step_y)),
                    *(f"{v:.3f}" for v in (x, y)),
                    names[column["species"]] if names else "",
                    f"{column['confidence']:.4f}",
                    *(f"{v:.3f}" for v in (x_fit, y_fit)),
                    *(f"{v:.4f}" for v in (x_fit * step_x, y_fit * step_y)),
                    f"{column['height']:.6g}",
                    int(column["ok"]),
                ]
            )


def _move(part: Path, folder: Path, overwrite: bool) -> Path:
    if overwrite and folder.exists():
        old = folder.with_name(f"{folder.name}.{os.getpid()}.old.part")
        os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old)
        return folder
    free, number = folder, 1
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    os.replace(part, free)
    return free
