"""Images whose truth is known to a hundredth of a pixel: displaced lattices, glass, nothing.

What restorers do to matter that is not a perfect crystal cannot be seen on perfect crystals. Here
every column of a rotated lattice is displaced at random, some are vacant, and there are fields
without any column. Drawn with NumPy alone; the same seed gives the same field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "KINDS",
    "Field",
    "Lattice",
    "amorphous_field",
    "counts_of",
    "empty_field",
    "lattice_field",
    "render",
    "standard_fields",
]

SAMPLING = 0.12
"""Å per pixel."""
BACKGROUND = 0.05
"""Of lattices and glass, relative to the brightest column alone."""
EMPTY = 0.3
"""Of fields without anything, on the same scale."""


@dataclass(frozen=True)
class Lattice:
    """A cell and what is in it."""

    cell: tuple[tuple[float, float], tuple[float, float]]
    """Its two edges (x, y) in pixels."""
    basis: tuple[tuple[float, float, float], ...]
    """Columns (fraction of the first edge, of the second, height)."""
    width: float
    """Gaussian sigma of a column in pixels."""
    spacing: float
    """Smallest distance of two columns in pixels."""


KINDS: dict[str, Lattice] = {
    "centred": Lattice(((22, 0), (0, 22)), ((0, 0, 1), (0.5, 0.5, 0.6)), 3.6, 22 / 2**0.5),
    "square": Lattice(((16, 0), (0, 16)), ((0, 0, 1),), 3.4, 16),
    "hexagonal": Lattice(((17, 0), (8.5, 8.5 * 3**0.5)), ((0, 0, 1),), 3.8, 17),
    "honeycomb": Lattice(
        ((27, 0), (13.5, 13.5 * 3**0.5)),
        ((0, 0, 1), (1 / 3, 1 / 3, 0.4)),
        3.5,
        27 / 3**0.5,
    ),
    "dumbbell": Lattice(
        ((48, 0), (0, 34)),
        ((0, 0, 1), (0.25, 0, 0.9), (0.5, 0.5, 1), (0.75, 0.5, 0.9)),
        2.9,
        12,
    ),
}
"""By name; "centred" is the one that published slopes of restorers were measured on (rock salt
along [001], heights 1 and 0.6)."""


@dataclass(frozen=True, eq=False)
class Field:
    """An image and what is true of it."""

    kind: str
    clean: np.ndarray
    """(y, x) float64, 1 at its maximum (empty: `EMPTY` everywhere)."""
    unit: float
    """Height in `clean` of the brightest column by itself."""
    spacing: float
    """Pixels; of fields without columns, that of "centred"."""
    width: float
    """Gaussian sigma of a column in pixels; likewise."""
    sites: np.ndarray
    """(n, 2) places of the lattice (x, y) in pixels; none in fields without columns."""
    displacements: np.ndarray
    """(n, 2) of the columns from there."""
    vacant: np.ndarray
    """(n,) whether there is no column."""
    sampling: float = SAMPLING


def render(
    xy: np.ndarray, heights: np.ndarray, width: float, size: int, background: float = BACKGROUND
) -> np.ndarray:
    """(size, size) sum of Gaussians, sampled at the pixels, on a constant."""
    pixels = np.arange(size)
    x, y = (np.exp(-0.5 * ((pixels - c[:, None]) / width) ** 2) for c in np.asarray(xy).T)
    return (y * np.asarray(heights)[:, None]).T @ x + background


def lattice_field(
    seed: int,
    kind: str = "centred",
    *,
    size: int = 256,
    displacement: float = 0.8,
    vacancies: float = 0.04,
) -> Field:
    """A lattice turned by a random angle, displaced column by column.

    Parameters
    ----------
    kind : in `KINDS`.
    displacement : standard deviation along x and along y, in pixels; 0.8 are 9.6 pm.
    vacancies : share of the columns that are left out.

    Raises
    ------
    ValueError : an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no lattice {kind!r}: choose one of {', '.join(KINDS)}")
    lattice = KINDS[kind]
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    cell = np.asarray(lattice.cell, float)
    reach = int(np.ceil(size / np.linalg.norm(cell, axis=1).min() / 0.8)) + 1
    cells = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2), -1).reshape(-1, 1, 2)
    basis = np.asarray(lattice.basis)
    origin = rng.uniform(0, 1, 2)
    sites = ((cells + basis[:, :2] + origin) @ cell @ turn).reshape(-1, 2) + size / 2
    heights = np.tile(basis[:, 2], len(cells))
    near = ((sites > -3 * lattice.width) & (sites < size + 3 * lattice.width)).all(1)
    sites, heights = sites[near], heights[near]
    shifts = rng.normal(0, displacement, sites.shape)
    vacant = rng.uniform(size=len(sites)) < vacancies
    image = render(sites + shifts, heights * ~vacant, lattice.width, size)
    top = image.max()
    return Field(kind, image / top, 1 / top, lattice.spacing, lattice.width, sites, shifts, vacant)


def amorphous_field(seed: int, *, size: int = 256, density: float = 12.0) -> Field:
    """Atoms at random places, `density` per squared column spacing, blurred like columns."""
    like = KINDS["centred"]
    rng = np.random.default_rng([seed, 101])
    frame = 3 * like.width
    count = rng.poisson(density * ((size + 2 * frame) / like.spacing) ** 2)
    xy = rng.uniform(-frame, size + frame, (count, 2))
    image = render(xy, np.ones(count), like.width, size)
    top = image.max()
    # an atom's own height says nothing here: what looks like a column has the image's contrast
    unit = float((top - image.min()) / top)
    return Field("amorphous", image / top, unit, like.spacing, like.width, *_no_columns())


def empty_field(seed: int = 0, *, size: int = 256) -> Field:
    """A constant background alone (`seed` changes the noise, not the field)."""
    like = KINDS["centred"]
    flat = np.full((size, size), EMPTY)
    return Field("empty", flat, 1.0, like.spacing, like.width, *_no_columns())


def counts_of(field: Field, dose: float, seed: int) -> np.ndarray:
    """(y, x) float32 Poisson counts, `dose` where the clean image is 1."""
    rng = np.random.default_rng([seed, 202])
    return rng.poisson(dose * field.clean).astype(np.float32)


def standard_fields(
    *, repeats: int = 3, kinds: Sequence[str] = tuple(KINDS), size: int = 256
) -> list[Field]:
    """`repeats` of each lattice, of glass and of nothing."""
    seeds = range(1, repeats + 1)
    lattices = [lattice_field(seed, kind, size=size) for kind in kinds for seed in seeds]
    glass = [amorphous_field(seed, size=size) for seed in seeds]
    return [*lattices, *glass, *(empty_field(seed, size=size) for seed in seeds)]


def _no_columns() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, bool)
