"""`emjax predict`: atom columns in the images of a microscope, from the files themselves."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from emjax.cli.errors import UsageError
from emjax.cli.run import prepare_jax

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from emjax.data.micrographs import Micrograph
    from emjax.models import Model


@dataclass(frozen=True)
class PredictOptions:
    """Find the atom columns in images: any file of an electron microscope, TIFF, PNG, NumPy, HDF5.

    Writes OUT/<name of the image>/ with columns.csv (positions in Å and pixels, species,
    confidence, fitted positions), overlay.png, heat.png, heat.npz and prediction.json.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's folder (runs/locate_atoms), a model file, or the name of a network that comes with
    emjax (locate_atoms; `emjax list` shows them)."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """The image files."""
    sampling: Annotated[float | None, tyro.conf.arg(metavar="Å")] = None
    """Pixel size; it goes before the calibration of the file."""
    dataset: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Which array, for files that hold several: its name or number."""
    frame: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Which image of a stack or movie, from 0."""
    threshold: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Least height of the heat map at a column, 0 to 1; the network's own if not given."""
    out: Path = Path("predictions")
    """Folder for the results."""
    overwrite: bool = False
    """Replace earlier results of an image; without it they are kept and NAME-2 is written."""
    tile: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Side of the tiles in pixels of the network, a multiple of 32; less needs less memory."""


def main(argv: list[str]) -> int:
    """`emjax predict RUN IMAGE...`: returns the exit status.

    With several images, one that cannot be used is reported and the others are done; the status
    is 1 then.
    """
    options = tyro.cli(
        PredictOptions,
        prog="emjax predict",
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if not options.images:
        raise UsageError(f"which image? emjax predict {options.run} IMAGE")
    if options.tile is not None and (options.tile % 32 or options.tile < 96):
        raise UsageError(f"--tile {options.tile}: a multiple of 32 from 96 on is needed")
    prepare_jax()
    from emjax.data.micrographs import MicrographError
    from emjax.predict import PredictionError

    console, model, failed = _console(), None, 0
    for path in options.images:
        try:
            micrograph = _read(path, options)  # before jax starts: a wrong file is refused at once
            model = model or _load(options.run, console)
            _predict_one(model, micrograph, path, options, console)
        except (MicrographError, PredictionError) as error:
            if len(options.images) == 1:
                raise
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    if failed:
        print(f"{failed} of {len(options.images)} images could not be used", file=sys.stderr)
    return 1 if failed else 0


def _read(path: Path, options: PredictOptions) -> Micrograph:
    from emjax.data.micrographs import read_micrograph, require_sampling

    number = options.dataset is not None and options.dataset.isdigit()
    micrograph = read_micrograph(
        path,
        sampling=options.sampling,
        dataset=int(options.dataset) if number else options.dataset,  # type: ignore[arg-type]
        frame=options.frame,
    )
    require_sampling(micrograph)
    return micrograph


def _load(name: str, console: Console) -> Model:
    from emjax.environment import backend_line
    from emjax.models import load_model

    console.print(backend_line(), markup=False)
    model = load_model(name)
    classes = ", ".join(str(name) for name in model.meta.get("classes", ()))
    console.print(f"network  {name}: {classes}", markup=False)
    return model


def _predict_one(
    model: Model, micrograph: Micrograph, path: Path, options: PredictOptions, console: Console
) -> None:
    from emjax import __version__
    from emjax.data.micrographs import require_sampling
    from emjax.predict import predict_image
    from emjax.predict_files import FILES, save_prediction, summary

    step_y, step_x = require_sampling(micrograph)
    ny, nx = micrograph.image.shape
    size = f"{step_x:.4g}" if step_x == step_y else f"{step_x:.4g} (x) and {step_y:.4g} (y)"
    origin = "from the file" if options.sampling is None else "from --sampling"
    console.print(
        f"image    {micrograph.source}: {nx} × {ny} pixels of {size} Å ({origin}), "
        f"{nx * step_x / 10:.3g} × {ny * step_y / 10:.3g} nm",
        markup=False,
    )
    trained = model.meta["sampling"]
    if not all(0.5 * trained <= step <= 1.5 * trained for step in (step_y, step_x)):
        console.print(
            f"[yellow]note[/]     the network was trained on images of {0.5 * trained:g} to "
            f"{1.5 * trained:g} Å per pixel: is {size} Å right? Look at the overlay."
        )
    with _progress(console) as advance:
        prediction = predict_image(
            model,
            micrograph.image,
            (step_y, step_x),
            threshold=options.threshold,
            tile=options.tile,
            progress=advance,
        )
    threshold = model.meta.get("threshold", 0.5) if options.threshold is None else options.threshold
    wanted = options.out / result_name(path, options.dataset, options.frame)
    settings = {
        "emjax": __version__,
        "image": micrograph.source,
        "calibration": origin,
        "network": options.run,
        "threshold": threshold,
    }
    with console.status("writing"):
        folder = save_prediction(
            wanted,
            prediction,
            micrograph.image,
            settings=settings,
            overwrite=options.overwrite,
        )
    _show(summary(prediction), console)
    if folder != wanted:
        console.print(
            f"{wanted} was there already and is kept (--overwrite replaces it)", markup=False
        )
    for number, file in enumerate(FILES):
        console.print(f"{'' if number else 'written':<9}{folder / file}", markup=False)


def result_name(path: Path, dataset: str | None, frame: int | None) -> str:
    """Name of the folder for an image's results.

    >>> result_name(Path("scans/frames.h5"), "data/haadf", 3)
    'frames-data_haadf-frame3'
    """
    parts = [path.stem]
    if dataset is not None:
        parts.append(re.sub(r"[^\w.-]+", "_", dataset).strip("_"))
    if frame is not None:
        parts.append(f"frame{frame}")
    return "-".join(parts)


def _show(found: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    if not found["columns"]:
        console.print(
            "No column was found. Is the pixel size right (--sampling), are the columns bright "
            "(a bright-field image must be inverted), or is the --threshold too high?",
            style="yellow",
            markup=False,
        )
        return
    table = Table("species", "columns", "median confidence", "fitted", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in found["species"].items():
        confidence = "" if row["confidence"] is None else f"{row['confidence']:.2f}"
        table.add_row(name, str(row["columns"]), confidence, str(row["fitted"]))
    console.print(table)
    if found["spacing_A"] is not None:
        console.print(
            f"spacing  {found['spacing_A']:.3f} Å (median distance to the nearest column)"
        )


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    shown = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeRemainingColumn(),
    )
    # nothing but the results goes into a file
    bar = Progress(*shown, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, done: int, of: int) -> None:
            if stage not in tasks:
                unit = "tiles" if stage == "network" else "columns"
                tasks[stage] = bar.add_task(stage, unit=unit)
            bar.update(tasks[stage], completed=done, total=of)

        yield advance


def _console() -> Console:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, soft_wrap=True)
