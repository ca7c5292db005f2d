"""A trained network on many files, and on a folder while a microscope writes into it.

::

    for done in predict_files(model, watch("incoming"), "denoised"):
        print(done.source, done.result or done.error)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emjax.files import replacing
from emjax.inference import InferenceError, Network, Tiling, predict


@dataclass(frozen=True)
class Done:
    """What became of one file."""

    source: Path
    result: Path | None
    """Where the result lies; None if the file could not be used."""
    error: str = ""
    """Why not."""


def predict_files(
    model: Network,
    paths: Iterable[str | os.PathLike],
    out: str | os.PathLike,
    *,
    sampling: float | Sequence[float] | None = None,
    dataset: str | int | None = None,
    tiling: Tiling | None = None,
    prepare: Callable[[np.ndarray], Any] | None = None,
    overwrite: bool = False,
) -> Iterator[Done]:
    """Apply a network to one file after the other and write ``OUT/NAME.tif``.

    Parameters
    ----------
    model, tiling, prepare
        Of `emjax.inference.predict`; `prepare` gets [y, x, 1].
    paths
        Any microscope files with one image each; may be an endless iterator (`watch`).
    out
        Folder of the results: float32 TIFF with the pixel size, one page for each channel, or for
        a classifier ``NAME.csv`` with one number for each class. A file that would be replaced by
        its own result is refused.
    sampling, dataset
        Of `emjax.data.micrographs.read_micrograph`.
    overwrite
        Without it, files whose result is there already are left alone.

    Yields
    ------
    Done
        For each file, as soon as its result is written. A file that cannot be used does not stop
        the others.
    """
    from emjax.data.micrographs import MicrographError, read_micrograph

    folder, taken = Path(out), {}
    folder.mkdir(parents=True, exist_ok=True)
    for path in map(Path, paths):
        other = taken.setdefault(path.stem, path)
        if other != path:
            # NAME.tif of one folder must not become that of another
            yield Done(path, None, f"{path.stem} is the result of {other} already: rename one")
            continue
        old = [file for kind in (".tif", ".csv") if (file := folder / (path.stem + kind)).is_file()]
        if path.exists() and any(file.samefile(path) for file in old):
            # it is neither its own result nor to be replaced by it
            problem = (
                f"the results in {folder} would take the place of {path}: choose another `out`"
            )
            yield Done(path, None, problem)
            continue
        if old and not overwrite:
            yield Done(path, old[0])
            continue
        try:
            found = read_micrograph(path, sampling=sampling, dataset=dataset)
            result = predict(model, found.image, tiling=tiling, prepare=prepare)
        except (MicrographError, InferenceError, ValueError) as error:
            yield Done(path, None, str(error))
            continue
        yield Done(path, _write(folder / path.stem, result, found.sampling))


def watch(
    folder: str | os.PathLike,
    *,
    pattern: str = "*",
    settle: float = 1.0,
    idle: float | None = None,
    existing: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Path]:
    """Files of a folder in the order in which they become complete, each once.

    Parameters
    ----------
    folder
        Looked into again and again; it may be on a network drive (nothing but listing is used).
    pattern
        Of the names. Hidden files and ``*.part``, ``*.tmp`` are passed over.
    settle
        A file is complete when it has not grown for so long [s].
    idle
        End when no file came for so long [s]; None: go on until `stop` or Ctrl-C.
    existing
        Begin with the files that are there.
    stop
        Asked before every look; ends the iteration when true.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to watch")
    seen = set() if existing else set(folder.iterdir())
    growing: dict[Path, tuple[int, float]] = {}
    last = time.monotonic()
    while not stop():
        ready = []
        for path in sorted(folder.glob(pattern)):
            name = path.name
            if path in seen or name.startswith(".") or name.endswith((".part", ".tmp")):
                continue
            try:
                size = path.stat().st_size if path.is_file() else -1
            except OSError:  # removed or renamed in between
                continue
            now = time.monotonic()
            before = growing.get(path)
            if size >= 0 and (before is None or before[0] != size):
                growing[path] = (size, now)
                last = now
            elif size > 0 and before is not None and now - before[1] >= settle:
                ready.append(path)
        for path in ready:
            seen.add(path)
            growing.pop(path, None)
            yield path
            last = time.monotonic()
        if idle is not None and time.monotonic() - last > max(idle, settle):
            return
        if not ready:
            time.sleep(min(settle / 4, 0.5))


def _write(stem: Path, result: np.ndarray, sampling: tuple[float, float] | None) -> Path:
    if result.ndim == 1:
        path = stem.with_name(stem.name + ".csv")
        with replacing(path) as part:
            part.write_text("".join(f"{i},{value:.6g}\n" for i, value in enumerate(result)))
        return path
    import tifffile

    pages = result if result.ndim == 2 else np.moveaxis(result, -1, 0)
    path = stem.with_name(stem.name + ".tif")
    options: dict[str, Any] = {"metadata": {"axes": "YX" if pages.ndim == 2 else "CYX"}}
    if sampling is not None:
        y, x = sampling
        options["resolution"] = (10 / x, 10 / y)  # pixels per nm
        options["metadata"] |= {"unit": "nm"}
    with replacing(path) as part, part.open("wb") as file:
        tifffile.imwrite(file, pages.astype(np.float32), imagej=True, **options)
    return path
