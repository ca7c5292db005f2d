"""A trained network over the patterns of a 4D-STEM scan in LiberTEM (optional, libertem.github.io).

::

    from libertem.api import Context
    ctx = Context()
    data = ctx.load("auto", path="scan.emd")
    maps = ctx.run_udf(data, network_udf("runs/strain"))["result"].data      # [sy, sx, ...]

LiberTEM cuts the scan into partitions and calls the network on each in a worker process. The
workers get the path of the model, not the model: each loads it once, and proves it (`load_model`).
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from emjax.inference import Tiling, predict


@functools.lru_cache(maxsize=4)
def load(source: str) -> Any:
    """A model file, run, shipped network (`load_model`) or exported one; loaded once a process."""
    import h5py

    from emjax import exported, models

    if os.path.isfile(source) and h5py.is_hdf5(source):
        with h5py.File(source, "r", locking=False) as file:
            if file.attrs.get("format") == exported.FORMAT:
                return exported.load_exported(source)
    return models.load_model(source)


def apply_to_frames(
    source: str,
    frames: np.ndarray,
    *,
    batch: int = 32,
    prepare: Callable[[np.ndarray], Any] | None = None,
) -> np.ndarray:
    """The network's results [n, …] of frames [n, y, x]: what the UDF calls on each partition."""
    return predict(
        load(source), frames, axes="nyx", tiling=Tiling(batch=batch, tile=512), prepare=prepare
    )


def result_shape(
    source: str, frame: tuple[int, int], prepare: Callable[[np.ndarray], Any] | None = None
) -> tuple[int, ...]:
    """Shape of the result of one frame [y, x]: of an image, or of the classes."""
    blank = np.zeros((1, *frame), np.float32)
    return apply_to_frames(source, blank, batch=1, prepare=prepare).shape[1:]


def network_udf(
    source: str | os.PathLike,
    *,
    batch: int = 32,
    prepare: Callable[[np.ndarray], Any] | None = None,
) -> Any:
    """A LiberTEM UDF that applies a network to every frame of a data set.

    Parameters
    ----------
    source
        As of `emjax.models.load_model`, or a file of `emjax.exported.export_model`.
    batch
        Frames in one call of the network.
    prepare
        Of every frame [y, x, 1] -> [y, x, k], before the network.

    Returns
    -------
    libertem.udf.UDF
        Its buffer ``result`` has the scan's shape, then that of the network's result.

    Raises
    ------
    ImportError
        LiberTEM is not installed.
    """
    try:
        udf: Any = importlib.import_module("libertem.udf")
    except ImportError as error:
        raise ImportError("network_udf needs LiberTEM: pip install libertem") from error

    class NetworkUDF(udf.UDF):
        """Applies a network to whole partitions."""

        def get_preferred_input_dtype(self) -> Any:
            return np.float32

        def get_result_buffers(self) -> dict[str, Any]:
            frame = tuple(self.meta.dataset_shape.sig)
            shape = result_shape(self.params.source, frame, self.params.prepare)
            return {"result": self.buffer(kind="nav", dtype="float32", extra_shape=shape)}

        def process_partition(self, partition: np.ndarray) -> None:
            self.results.result[:] = apply_to_frames(
                self.params.source,
                np.asarray(partition),
                batch=self.params.batch,
                prepare=self.params.prepare,
            )

    place = os.fspath(source)
    place = os.path.abspath(place) if os.path.exists(place) else place
    return NetworkUDF(source=place, batch=batch, prepare=prepare)
