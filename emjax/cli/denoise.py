"""`emjax denoise`: the noise of a microscope's images taken away, from the files themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from emjax.cli.calibrate import frame_numbers
from emjax.cli.errors import UsageError
from emjax.cli.predict import result_name
from emjax.cli.run import prepare_jax

if TYPE_CHECKING:
    import numpy as np

    from emjax.analysis.out_of_distribution import Verdict
    from emjax.data.micrographs import Micrograph
    from emjax.restoration.restorer import Restorer


@dataclass(frozen=True)
class DenoiseOptions:
    """Take the noise out of images: any file of an electron microscope, TIFF, PNG, NumPy, HDF5.

    Writes OUT/NAME.tif, in the grey values and with the pixel size of the recording, its standard
    deviation (NAME_sigma.tif), a picture to look at and NAME.json. Says what makes it doubtful:
    filtered or saturated images, images of another kind than those of the network's training.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """The image files."""
    model: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """A run's folder (runs/denoise_stem), a model file, or the name of a network that comes with
    emjax; without it the one for atom columns."""
    out: Path = Path("denoised")
    """Folder for the results."""
    sampling: Annotated[float | None, tyro.conf.arg(metavar="Å")] = None
    """Pixel size, kept in the result; it goes before the calibration of the file."""
    dataset: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Which array, for files that hold several: its name or number."""
    frames: Annotated[str | None, tyro.conf.arg(metavar="FIRST:END", aliases=("--frame",))] = None
    """Which images of a stack or movie, from 0: 0:5 takes the first five, 3 takes the fourth."""
    noise: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The detector's gain, offset and read-out noise, as `emjax calibrate-noise --out FILE` writes
    them; only networks need it that calculate with electrons."""
    format: Literal["tif", "npz", "hspy"] = "tif"
    """Of the results."""
    overwrite: bool = False
    """Replace earlier results of an image; without it they are kept and NAME-2 is written."""


def main(argv: list[str]) -> int:
    """`emjax denoise IMAGE...`: returns the exit status.

    With several images, one that cannot be used is reported and the others are done; the status
    is 1 then. Warnings do not change it.
    """
    options = tyro.cli(
        DenoiseOptions,
        prog="emjax denoise",
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if not options.images:
        raise UsageError("which image? emjax denoise IMAGE")
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out} is a file: give a folder")
    numbers = [None] if options.frames is None else frame_numbers(options.frames)
    work = [(path, number) for path in options.images for number in numbers]
    from emjax.restoration.shipped import find_restorer

    source = find_restorer(options.model)
    prepare_jax()
    from emjax.data.micrographs import MicrographError
    from emjax.restoration.files import RestoredFilesError
    from emjax.restoration.restorer import RestorationError

    restorer, failed, names = None, 0, set()
    for path, number in work:
        try:
            micrograph = _read(path, number, options)  # a wrong file is refused before jax starts
            restorer = restorer or _load(source)
            name = result_name(path, options.dataset, number)
            # of two files of one name in this call, the second does not replace the first
            overwrite = options.overwrite and name not in names
            names.add(name)
            _denoise_one(restorer, micrograph, path, name, overwrite, options)
        except (MicrographError, RestorationError, RestoredFilesError) as error:
            if len(work) == 1:
                raise
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    if failed:
        print(f"{failed} of {len(work)} images could not be used", file=sys.stderr)
    return 1 if failed else 0


def verdict_of(restorer: Restorer, micrograph: Micrograph) -> Verdict | None:
    """Whether the image is like those of the training; None where that cannot be told: the
    network's file says nothing of them, or the image is too small."""
    from emjax.analysis.out_of_distribution import SMALLEST, Reference, judge

    told = restorer.meta.get("images")
    if told is None or min(micrograph.image.shape) < SMALLEST:
        return None
    return judge(Reference.from_meta(told), micrograph.image)


def _read(path: Path, number: int | None, options: DenoiseOptions) -> Micrograph:
    from emjax.data.micrographs import read_micrograph

    name = options.dataset
    return read_micrograph(
        path,
        sampling=options.sampling,
        dataset=int(name) if name is not None and name.isdigit() else name,
        frame=number,
    )


def _load(source: str | Path) -> Restorer:
    from emjax.environment import backend_line
    from emjax.restoration.restorer import load_restorer

    print(backend_line())
    restorer = load_restorer(source)
    title = restorer.meta.get("title", "")
    print(f"network  {source}{': ' if title else ''}{title}")
    return restorer


def _denoise_one(
    restorer: Restorer,
    micrograph: Micrograph,
    path: Path,
    name: str,
    overwrite: bool,
    options: DenoiseOptions,
) -> None:
    from emjax import __version__
    from emjax.analysis.restoration_checks import REACH, concerns
    from emjax.restoration.files import save_restored, summary
    from emjax.restoration.restorer import OF_ELECTRONS

    image, sampling = micrograph.image, micrograph.sampling
    print(f"image    {micrograph.source}: {_size(micrograph)}")
    electrons = restorer.meta.get("objective") in OF_ELECTRONS
    pixel = restorer.meta.get("pixel")
    warnings = concerns(
        image,
        reach=int(restorer.meta.get("reach", REACH)),
        sampling=sampling,
        trained=None if pixel is None else (float(pixel[0]), float(pixel[1])),
        electrons=electrons,
    )
    if electrons and options.noise is None:
        warnings.append(
            "this network calculates with electrons, and the grey values were taken for them. "
            "Measure gain and offset (emjax calibrate-noise IMAGE --out noise.json) and give "
            "--noise noise.json"
        )
    verdict = verdict_of(restorer, micrograph)
    if verdict is not None and verdict.foreign:
        kind = restorer.meta.get("title") or "those of its training"
        warnings.append(
            f"this does not look like an image that the network knows ({kind}; score "
            f"{verdict.score:.2f}, limit {verdict.limit:.2f}): it may show what is not there. "
            "Do not measure from the result before you have compared it with the recording"
        )
    with _progress() as advance:
        clean, sigma = _restore(restorer, image, options.noise if electrons else None, advance)
    files = save_restored(
        options.out,
        name,
        image,
        clean,
        sigma,
        sampling=sampling,
        settings={
            "emjax": __version__,
            "image": micrograph.source,
            "calibration": micrograph.metadata["calibration"],
            "network": restorer.meta.get("path", options.model),
            "unlike_training": None if verdict is None else {**verdict._asdict()},
            "warnings": warnings,
        },
        kind=options.format,
        overwrite=overwrite,
        source=path,
    )
    found = summary(image, clean, sigma)
    error = "" if found["error"] is None else f", the error of what is left {found['error']:.4g}"
    print(f"removed  {found['removed']:.4g} grey values{error} (standard deviations)")
    for number, file in enumerate(files):
        print(f"{'' if number else 'written':<9}{file}")
    for line in warnings:
        print(f"warning: {path.name}: {line}.", file=sys.stderr)


def _restore(
    restorer: Restorer,
    image: np.ndarray,
    noise: Path | None,
    advance: Callable[[int, int], None] | None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and standard deviation in grey values; by way of electrons where there is `noise`."""
    if noise is None:
        restored = restorer(image, progress=advance)
        return restored.image, restored.sigma
    from emjax.analysis.noise_model import NoiseCalibration

    found = NoiseCalibration.load(noise)
    gain, offset = found.gain.value, found.offset.value
    restored = restorer((image - offset) / gain, readout=found.readout.value, progress=advance)
    sigma = None if restored.sigma is None else restored.sigma * gain
    return restored.image * gain + offset, sigma


def _size(micrograph: Micrograph) -> str:
    ny, nx = micrograph.image.shape
    if micrograph.sampling is None:
        return f"{nx} × {ny} pixels of unknown size"
    y, x = micrograph.sampling
    size = f"{x:.4g}" if x == y else f"{x:.4g} (x) and {y:.4g} (y)"
    origin = "--sampling" if micrograph.metadata["calibration"] == "argument" else "the file"
    return f"{nx} × {ny} pixels of {size} Å (from {origin})"


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, for images of several tiles; nothing in a file."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stdout)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task: list[Any] = []

        def advance(done: int, of: int) -> None:
            if not task:
                task.append(bar.add_task("restoring", total=of))
            bar.update(task[0], completed=done)

        yield advance
