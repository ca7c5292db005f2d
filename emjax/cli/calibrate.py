"""`emjax calibrate-noise`: the noise of one's own microscope, from images, for simulations."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from emjax.cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from emjax.analysis.noise_calibration import NoiseCalibration


@dataclass(frozen=True)
class CalibrateOptions:
    """Measure gain, offset, read-out noise, jitter and brightness of scan lines from raw images.

    All images must come from one detector with the same settings. Repeats of the same area (a
    movie, two exposures) are recognised and give the best numbers.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    """The image files: any file of an electron microscope, TIFF, PNG, NumPy, HDF5."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the calibration there as JSON; NoiseCalibration.load reads it."""
    offset: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Grey value of no electrons, if you know it."""
    dark: Annotated[Path | None, tyro.conf.arg(metavar="IMAGE")] = None
    """An image with the beam blanked: gives offset and read-out directly."""
    camera: bool = False
    """Images of a camera (TEM), which have no scan lines."""
    dataset: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Which array, for files that hold several: its name or number."""
    frames: Annotated[str | None, tyro.conf.arg(metavar="FIRST:END")] = None
    """Which images of a stack or movie, from 0: 0:5 takes the first five."""


def main(argv: list[str]) -> int:
    """`emjax calibrate-noise IMAGE...`: returns the exit status."""
    options = tyro.cli(
        CalibrateOptions,
        prog="emjax calibrate-noise",
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if not options.images:
        raise UsageError("which image? emjax calibrate-noise IMAGE")
    if options.out is not None and options.out.is_dir():
        raise UsageError(f"--out {options.out} is a folder: give a file, such as noise.json")
    if options.offset is not None and options.dark is not None:
        raise UsageError("give --offset or --dark, not both: the dark image has the offset in it")
    from emjax.analysis.noise_calibration import calibrate_noise

    images, names = _read(options)
    dark = None if options.dark is None else _one(options.dark, options, None)[0]
    found = calibrate_noise(
        images, offset=options.offset, dark=dark, camera=options.camera, names=names
    )
    print(summary(found))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        found.save(options.out)
        print(f"written  {options.out}")
    for line in found.warnings:
        print(f"warning: {line}", file=sys.stderr)
    return 0


def frame_numbers(text: str) -> range:
    """The images of a stack.

    >>> list(frame_numbers("2:5")), list(frame_numbers("3"))
    ([2, 3, 4], [3])
    """
    first, colon, end = text.partition(":")
    try:
        start = int(first or 0)
        numbers = range(start, int(end) if colon else start + 1)
    except ValueError:
        numbers = range(0)
    if not numbers or numbers[0] < 0:
        raise UsageError(f"--frames {text}: two whole numbers are needed, such as 0:5")
    return numbers


def summary(found: NoiseCalibration) -> str:
    """The numbers, their errors and where they come from, as text."""
    rows = [
        ("gain", found.gain, "grey values per electron"),
        ("offset", found.offset, "grey value of no electrons"),
        ("read-out", found.readout, "electrons"),
        ("jitter", found.jitter, "pixels, along the lines"),
        ("correlation", found.correlation, "of the jitter of neighbouring lines"),
        ("line gain", found.row_gain, "relative"),
    ]
    lines = []
    for name, value, unit in rows:
        if value is None:
            lines.append(f"{name:<12} not measurable")
        else:
            lines.append(f"{name:<12} {value!s:<22} {unit} ({value.how})")
    lines.append(f"{'dose':<12} {found.electrons:<22.4g} electrons per pixel")
    if found.repeated:
        lines.append("the images are repeats of one area: their differences were used")
    return "\n".join(lines)


def _read(options: CalibrateOptions) -> tuple[list[np.ndarray], list[str]]:
    numbers = [None] if options.frames is None else frame_numbers(options.frames)
    read = [_one(path, options, n) for path in options.images for n in numbers]
    return [image for image, _ in read], [source for _, source in read]


def _one(path: Path, options: CalibrateOptions, frame: int | None) -> tuple[np.ndarray, str]:
    from emjax.data.micrographs import read_micrograph

    name = options.dataset
    micrograph = read_micrograph(
        path,
        dataset=int(name) if name is not None and name.isdigit() else name,
        frame=frame,
    )
    return micrograph.image, micrograph.source
