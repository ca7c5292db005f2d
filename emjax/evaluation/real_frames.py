"""Real micrographs on which somebody else has marked the columns."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emjax.metrics.detection import column_spacing, match_points
from emjax.metrics.matching import Matches
from emjax.predict import Prediction, predict_image

if TYPE_CHECKING:
    from emjax.models import Model

SUFFIX = "_coords_network"


@dataclass(frozen=True, eq=False)
class RealFrame:
    """A micrograph, what was found, and how it agrees with published coordinates."""

    name: str
    image: np.ndarray
    sampling: float
    published: np.ndarray | None
    """[n, 2] x and y in pixels."""
    found: Prediction
    strict: Matches | None
    """Within a fifth of the column spacing; distances in pixels."""
    loose: Matches | None
    """Within half of it."""


def read_frames(path: str | Path) -> dict[str, tuple[np.ndarray, float, np.ndarray | None]]:
    """Frames of an npz: name -> (image, Å per pixel, published columns [n, 2] (x, y) in pixels).

    Parameters
    ----------
    path : npz whose array NAME is an image, and NAME_coords_network its columns as (row, column).
        The pixel size is the array NAME_sampling (Å), or follows from a field of view that the
        name ends with, such as "grain_boundary_4nm".

    Raises
    ------
    ValueError : not such a file, or a frame without a pixel size.
    """
    try:
        # opened here, because np.load leaves a broken file open
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not an npz file of frames: {error}") from error
    frames = {}
    for name, image in arrays.items():
        if image.ndim != 2 or name.endswith(SUFFIX):
            continue
        field = re.search(r"_(\d+(?:\.\d+)?)nm$", name)
        if f"{name}_sampling" in arrays:
            sampling = float(arrays[f"{name}_sampling"])
        elif field:
            sampling = 10 * float(field[1]) / image.shape[1]
        else:
            raise ValueError(
                f"{path}: the frame {name!r} has no pixel size; add an array {name}_sampling with "
                "its Å per pixel"
            )
        points = arrays.get(name + SUFFIX)
        columns = None if points is None else points[:, ::-1].astype(float)
        frames[name] = (image.astype(np.float32), sampling, columns)
    if not frames:
        raise ValueError(f"{path} holds no image: arrays {sorted(arrays)}")
    return frames


def find_frames(path: str) -> str:
    """The npz of real frames to judge on: `path`, or that of the reference data, or "".

    Reference data are looked for below the folder that EMJAX_SHARED names.

    Raises
    ------
    FileNotFoundError, ValueError : `path` is given and is no such file.
    """
    if path:
        read_frames(path)
        return path
    shared = os.environ.get("EMJAX_SHARED", "")
    found = Path(shared) / "data/real/stem_graphene/frames.npz"
    return str(found) if shared and found.is_file() else ""


def judge_frames(model: Model, path: str | Path, *, margin: float = 0.8) -> list[RealFrame]:
    """The network on every frame of a file (see `read_frames`).

    Columns closer to the border than `margin` [Å] are not counted.
    """
    result = []
    for name, (image, sampling, published) in read_frames(path).items():
        found = predict_image(model, image, sampling)
        matches: list[Matches | None] = [None, None]
        if published is not None:
            xy = np.stack([found.columns["x"], found.columns["y"]], axis=1)
            spacing = column_spacing(published)
            matches = [
                match_points(
                    xy, published, f * spacing, shape=image.shape, margin=margin / sampling
                )
                for f in (0.2, 0.5)
            ]
        result.append(RealFrame(name, image, sampling, published, found, *matches))
    return result
