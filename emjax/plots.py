"""Micrographs as pictures: display window, colour map, scale bar and marked columns.

Everything here is about looking: nothing returned by these functions is measured from again.
Pictures are arrays [y, x]; points are (x, y) in pixels, pixel i AT i, so that the point (0, 0) lies
in the middle of the first pixel.

Pillow draws and encodes; matplotlib is imported late, for its colour tables and its font only.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emjax.files import replacing

# Bright enough for a grey micrograph, and apart for the common colour-vision deficiencies.
SPECIES_COLOURS = (
    *("#ffa62b", "#4cc9f0", "#ff6fae", "#5fe0a0", "#ffe45e", "#b9a2ff", "#ff7b54"),
    *("#5b8cff", "#f2f2f2", "#b5cc3a"),
)
CLASS_COLOURS = ("#20242c", "#4cc9f0", "#ffa62b", "#ff6fae", "#5fe0a0", "#ffe45e", "#b9a2ff")
ERROR_COLOUR = "#ff5a5f"  # for what was missed, or is not there
# our name -> matplotlib's; "labels" is CLASS_COLOURS, repeated
CMAPS = {
    "gray": "gray",
    "magma": "magma",
    "viridis": "viridis",
    "residual": "RdBu_r",
    "phase": "twilight",
}
NOT_FINITE = (255, 0, 255)  # pixels that are NaN or infinite are shown in this colour
_INK, _FAINT, _PAPER = (255, 255, 255), (165, 172, 184), (24, 27, 33)


def species_colour(index: int) -> str:
    """Colour ("#rrggbb") of the species `index`; the same in reports and overlays."""
    return SPECIES_COLOURS[index % len(SPECIES_COLOURS)]


def display_window(
    images: Sequence[np.ndarray], low: float = 0.3, high: float = 99.7
) -> tuple[float, float]:
    """One display window (black, white) for several pictures, from percentiles of all their pixels.

    A few hot pixels do not darken the rest. Not finite pixels are left out; pictures that are
    constant get a window one wide.
    """
    pixels = np.concatenate([_finite(image) for image in images]) if len(images) else np.zeros(0)
    if pixels.size == 0:
        return 0.0, 1.0
    lo, hi = (float(v) for v in np.percentile(pixels, [low, high]))
    if not hi > lo:  # sparse counts: more than 99.7 % of the pixels are zero
        lo, hi = float(pixels.min()), float(pixels.max())
    return (lo, hi) if hi > lo else (lo - 0.5, lo + 0.5)


def symmetric_window(images: Sequence[np.ndarray], high: float = 99.7) -> tuple[float, float]:
    """A window (-w, w) for residuals: zero gets the neutral colour."""
    pixels = np.concatenate([np.abs(_finite(image)) for image in images] or [np.zeros(0)])
    width = float(np.percentile(pixels, high)) if pixels.size else 0.0
    width = width if width > 0 else float(pixels.max(initial=0.0))
    return (-width, width) if width > 0 else (-1.0, 1.0)


def nice_length(length: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not above `length`.

    >>> [nice_length(v) for v in (0.9, 1.0, 4.99, 23.0)]
    [0.5, 1.0, 2.0, 20.0]
    """
    if not (np.isfinite(length) and length > 0):
        raise ValueError(f"a length must be positive and finite, not {length!r}")
    decade = 10.0 ** np.floor(np.log10(length) + 1e-9)
    return float(round(max(m for m in (1, 2, 5) if m * decade <= length * (1 + 1e-9)) * decade, 12))


def scale_bar(pixels: int, sampling: float, unit: str = "Å") -> tuple[float, str]:
    """A scale bar for a picture `pixels` wide: (fraction of the width, label such as "2 nm").

    The bar is the longest 1-2-5 length that takes at most 0.3 of the width. Å turn into pm, nm, µm
    and mm where these read better; any other unit is written as it is given.
    """
    if not (np.isfinite(sampling) and sampling > 0):
        raise ValueError(
            f"a pixel size must be positive and finite, not {sampling!r}: give {unit} per pixel, "
            "or None for a picture without a scale bar"
        )
    length = nice_length(0.3 * pixels * sampling)
    fraction = length / (pixels * sampling)
    if unit == "Å":
        for power, name in ((7, "mm"), (4, "µm"), (1, "nm"), (0, "Å"), (-2, "pm")):
            if length >= 10.0**power * (1 - 1e-9) or name == "pm":
                return fraction, f"{length / 10.0**power:g} {name}"
    return fraction, f"{length:g} {unit}".rstrip()


def marker_radius(xy: np.ndarray, width: float) -> float:
    """Radius [px] for marks at `xy` [n, 2] in a picture `width` pixels wide.

    A third of the median distance to the nearest other point, so that neighbours stay apart,
    between 1/150 and 1/45 of the width.
    """
    radius = width / 60
    if len(xy) > 1:
        from scipy.spatial import KDTree

        distance = KDTree(xy).query(xy, k=2)[0][:, 1]
        distance = distance[distance > 0]
        radius = 0.33 * float(np.median(distance)) if distance.size else radius
    return float(np.clip(radius, width / 150, width / 45))


@functools.cache
def palette(cmap: str) -> np.ndarray:
    """The 256 colours of a colour map, uint8 [256, 3].

    `cmap` is one of CMAPS, or "labels" for class numbers.
    """
    if cmap == "labels":
        colours = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in CLASS_COLOURS]
        # class 0 (the background) keeps its dark colour, the others come round again
        order = [0 if i == 0 else 1 + (i - 1) % (len(colours) - 1) for i in range(256)]
        return np.array(colours, np.uint8)[order]
    if cmap not in CMAPS:
        raise ValueError(
            f"unknown colour map {cmap!r}: choose from {', '.join([*CMAPS, 'labels'])}"
        )
    if cmap == "gray":
        return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    import matplotlib

    return matplotlib.colormaps[CMAPS[cmap]](np.arange(256), bytes=True)[:, :3]


def picture(image: np.ndarray, window: tuple[float, float], cmap: str = "gray") -> Any:
    """`image` [y, x] in a display window as a Pillow image: values outside are clipped.

    Gray pictures come as mode "L", others as mode "P" (one byte a pixel either way), or "RGB" where
    pixels are not finite (drawn magenta). An array [y, x, 3] is taken as colours: bytes, or floats
    from 0 to 1.
    """
    from PIL import Image

    if image.ndim == 3:
        colours = image if image.dtype == np.uint8 else np.clip(image, 0, 1) * 255.0 + 0.5
        return Image.fromarray(np.ascontiguousarray(colours, dtype=np.uint8))
    levels, finite = _levels(image, window, cmap), np.isfinite(image)
    if not finite.all():
        colours = palette(cmap)[levels]
        colours[~finite] = NOT_FINITE
        return Image.fromarray(colours)
    if cmap == "gray":
        return Image.fromarray(levels)
    shown = Image.frombytes("P", levels.shape[::-1], levels.tobytes())
    shown.putpalette(palette(cmap).tobytes())
    return shown


def shrink(image: np.ndarray, max_side: int, *, labels: bool = False) -> np.ndarray:
    """Average `image` [y, x] (or [y, x, 3]) down until no side is above `max_side` pixels.

    Class numbers (`labels`) are picked rather than averaged. The edges of the picture stay
    where they were, so points scale with the number of pixels.
    """
    from PIL import Image

    ny, nx = image.shape[:2]
    if max(ny, nx) <= max_side:
        return image
    size = (max(1, round(nx * max_side / max(ny, nx))), max(1, round(ny * max_side / max(ny, nx))))
    how = Image.Resampling.NEAREST if labels else Image.Resampling.BOX
    if image.ndim == 3:
        return np.asarray(picture(image, (0, 1)).resize(size, how))
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, how))


def png_bytes(shown: Any) -> bytes:
    """A Pillow image as a PNG file in memory."""
    buffer = io.BytesIO()
    # the last per cent of a large picture would take seconds
    shown.save(buffer, "PNG", optimize=shown.width * shown.height < 400_000)
    return buffer.getvalue()


def overlay_png(
    path: str | os.PathLike[str],
    image: np.ndarray,
    sampling: float | tuple[float, float] | None,
    columns: np.ndarray | None = None,
    classes: Sequence[str] = (),
    *,
    window: tuple[float, float] | None = None,
    cmap: str = "gray",
) -> Path:
    """Write `image` [y, x] with a ring per column, a scale bar and a legend, as a PNG file.

    Parameters
    ----------
    sampling : Å per pixel, a number or (y, x); None leaves the scale bar out.
    columns : structured array with fields x, y [px] and, where there are classes, species.
        None draws no rings.
    classes : names of the species; the legend gives those that there are columns of, with their
        numbers.
    window : (black, white); percentiles of the picture if not given.

    Small pictures are enlarged (smoothly, about 1000 px on the long side), large ones are reduced
    to 4096 px at most, so that rings and letters are legible in every viewer. Written atomically.
    """
    from PIL import Image

    image = np.asarray(image)
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"a picture to draw on has the axes [y, x], not the shape {image.shape}")
    window = window or (symmetric_window if cmap == "residual" else display_window)([image])
    ny, nx = image.shape
    step = np.broadcast_to(1.0 if sampling is None else np.asarray(sampling, float), (2,))
    zoom = min(max(1.0, round(1000 / max(ny, nx))), 4096 / max(ny, nx))
    # pixels that are not square are drawn as long as they are
    zoom_y, zoom_x = zoom * step[0] / step.max(), zoom * step[1] / step.max()
    size = (max(1, round(nx * zoom_x)), max(1, round(ny * zoom_y)))
    how = Image.Resampling.BICUBIC if zoom > 1 else Image.Resampling.BOX
    shown = picture(image, window, cmap)
    shown = (shown if cmap == "gray" else shown.convert("RGB")).resize(size, how).convert("RGB")

    groups = _groups(columns, classes)
    if groups:
        everything = np.concatenate([xy for _, _, xy in groups])
        scaled = (everything + 0.5) * (zoom_x, zoom_y)
        radius = max(4.0, marker_radius(scaled, max(size)))
        for _, colour, xy in groups:
            sprite, mask = _ring(radius, colour)
            corner = np.round((xy + 0.5) * (zoom_x, zoom_y) - sprite.size[0] / 2).astype(int)
            for x, y in corner.tolist():
                shown.paste(sprite, (x, y), mask)

    letters = _font(max(13, min(round(max(size) / 45), 60)))
    if sampling is not None:
        fraction, label = scale_bar(nx, float(step[1]))
        _draw_bar(shown, fraction, label, letters)
    named = [group for group in groups if group[0]]
    if named:
        found = [group for group in named if len(group[2])]
        shown = _with_legend(shown, found or named, letters, radius)
    path = Path(path)
    with replacing(path) as part:
        part.write_bytes(png_bytes(shown))
    return path


def _finite(image: np.ndarray) -> np.ndarray:
    flat = np.asarray(image, np.float32).ravel()
    return flat[np.isfinite(flat)]


def _levels(image: np.ndarray, window: tuple[float, float], cmap: str) -> np.ndarray:
    if cmap == "labels":
        return np.clip(np.nan_to_num(image), 0, 255).astype(np.uint8)
    lo, hi = window
    scaled = (np.nan_to_num(image, posinf=hi, neginf=lo).astype(np.float32) - lo) / (hi - lo)
    return (np.clip(scaled, 0, 1) * 255 + 0.5).astype(np.uint8)


def _groups(
    columns: np.ndarray | None, classes: Sequence[str]
) -> list[tuple[str, str, np.ndarray]]:
    """(name, colour, xy [n, 2]) of each species, in the order of `classes`."""
    if columns is None:
        return []
    xy = np.stack([columns["x"], columns["y"]], axis=-1).astype(float)
    if "species" not in (columns.dtype.names or ()):
        return [("", species_colour(0), xy)] if len(xy) else []
    names = list(classes)
    names += [
        f"species {i}" for i in range(len(names), int(columns["species"].max(initial=-1)) + 1)
    ]
    return [(n, species_colour(i), xy[columns["species"] == i]) for i, n in enumerate(names)]


@functools.lru_cache(maxsize=32)
def _ring(radius: float, colour: str) -> tuple[Any, Any]:
    """A smooth ring with a dark outline: a square picture and its mask."""
    from PIL import Image

    line = float(np.clip(0.2 * radius, 1.5, 5.0))
    half = int(np.ceil(radius + line + 1.5))
    offset = np.arange(2 * half + 1) - half
    away = np.abs(np.hypot(offset[:, None], offset[None, :]) - radius)
    line_part = np.clip(line / 2 - away + 0.5, 0, 1)
    dark_part = 0.55 * np.clip(line / 2 + 1.0 - away + 0.5, 0, 1)
    alpha = line_part + dark_part * (1 - line_part)
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], float)
    share = (line_part / np.maximum(alpha, 1e-6))[..., None]
    sprite = Image.fromarray((share * rgb + 0.5).astype(np.uint8))
    return sprite, Image.fromarray((alpha * 255 + 0.5).astype(np.uint8))


@functools.cache
def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    # Pillow's own font has no Å and no µ
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def _draw_bar(shown: Any, fraction: float, label: str, letters: Any) -> None:
    """A white bar and its length on a darkened box in the lower left corner."""
    from PIL import Image, ImageDraw

    size, long = letters.size, fraction * shown.width
    thick, pad, edge = max(3, round(size * 0.24)), round(size * 0.6), round(size * 0.7)
    high = round(size * 1.75) + thick + pad
    wide = round(max(long, letters.getlength(label)) + 2 * pad)
    x0, y0 = edge, max(0, shown.height - edge - high)
    box = (x0, y0, min(x0 + wide, shown.width), y0 + high)
    region = shown.crop(box)
    shown.paste(Image.blend(region, Image.new("RGB", region.size, (10, 12, 16)), 0.62), box)
    draw = ImageDraw.Draw(shown)
    middle = x0 + wide / 2
    draw.text((middle, y0 + pad * 0.6 + size / 2), label, anchor="mm", font=letters, fill=_INK)
    top = y0 + high - pad - thick
    draw.rectangle((middle - long / 2, top, middle + long / 2 - 1, top + thick - 1), fill=_INK)


def _with_legend(shown: Any, groups: list, letters: Any, radius: float) -> Any:
    """`shown` with a dark strip below: a ring, the name and the number of columns per species."""
    from PIL import Image, ImageDraw

    size, gap = letters.size, letters.size
    rows: list[list[tuple[float, int]]] = [[]]
    x = float(gap)
    for i, (name, _, xy) in enumerate(groups):
        wide = size * 1.6 + letters.getlength(f"{name}  {len(xy)}") + gap * 1.5
        if rows[-1] and x + wide > shown.width:  # no room left: one more line
            rows.append([])
            x = float(gap)
        rows[-1].append((x, i))
        x += wide
    high = round(size * 1.9)
    sheet = Image.new("RGB", (shown.width, shown.height + high * len(rows)), _PAPER)
    sheet.paste(shown, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for line, row in enumerate(rows):
        middle = shown.height + high * (line + 0.5)
        for x, i in row:
            name, colour, xy = groups[i]
            sprite, mask = _ring(min(radius, size * 0.5), colour)
            corner = (round(x + size / 2 - sprite.width / 2), round(middle - sprite.height / 2))
            sheet.paste(sprite, corner, mask)
            draw.text((x + size * 1.6, middle), name, anchor="lm", font=letters, fill=_INK)
            along = x + size * 1.6 + letters.getlength(name + "  ")
            draw.text(
                (along, middle), str(len(xy)), anchor="lm", font=letters, fill=(165, 172, 184)
            )
    return sheet
