"""Diffraction spots: where a crystal's reflections lie, their indices, and their intensities.

A crystal is its cell: three rows a, b, c [Å] in the frame of the microscope (x, y, and z along the
beam), conventional or primitive; `turned` turns a cell until a zone axis is along the beam.
Reciprocal vectors are without 2π: |g| = 1 / d.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from simulators.backend import array_module
from simulators.electron import wavelength
from simulators.patterns import Patterns
from simulators.scattering import scattering_factor
from simulators.tree import pytree, static

CENTRINGS = {
    "P": (),
    "I": (((1, 1, 1), 2),),
    "F": (((1, 1, 0), 2), ((0, 1, 1), 2)),
    "A": (((0, 1, 1), 2),),
    "B": (((1, 0, 1), 2),),
    "C": (((1, 1, 0), 2),),
    "R": (((-1, 1, 1), 3),),
}
"""Centrings: a reflection is allowed where each (vector · hkl) is a multiple of the number.

R is for hexagonal axes, obverse setting (International Tables A, table 2.2.3.1).
"""


@pytree
class Spots:
    """Reflections and what was measured at them.

    Attributes
    ----------
    intensity : float [..., s]
        Sum over the spot's disc.
    hkl : tuple of (h, k, l), static
    k : tuple of (x, y), static
        1/Å.
    energy : float, static
        eV.
    """

    intensity: Any
    hkl: tuple[tuple[int, int, int], ...] = static()
    k: tuple[tuple[float, float], ...] = static()
    energy: float = static()

    @property
    def angles(self) -> np.ndarray:
        """(x, y) [s, 2] in mrad."""
        return np.reshape(self.k, (-1, 2)) * 1e3 * wavelength(self.energy)

    @property
    def spacings(self) -> np.ndarray:
        """d = 1 / |g| [s] in Å; infinite for the direct beam (spots of the zero-order zone)."""
        with np.errstate(divide="ignore"):
            return 1 / np.hypot(*np.reshape(self.k, (-1, 2)).T)

    def of(self, *hkl: int) -> Any:
        """Intensity [...] of one reflection; ValueError where it is not in the list."""
        if hkl not in self.hkl:
            raise ValueError(f"no spot {hkl} among the {len(self.hkl)} that were measured")
        return self.intensity[..., self.hkl.index(hkl)]


def cell_matrix(cell: Any) -> np.ndarray:
    """[3, 3] with rows a, b, c: of three side lengths, a matrix, or (a, b, c, α, β, γ) in degrees.

    Raises
    ------
    ValueError
        Anything else, or a cell without volume.
    """
    cell = np.asarray(cell, float)
    if cell.shape == (3,):
        cell = np.diag(cell)
    elif cell.shape == (6,):
        from ase.geometry import cellpar_to_cell

        cell = cellpar_to_cell(cell)
    if cell.shape != (3, 3) or not np.isfinite(cell).all() or abs(np.linalg.det(cell)) < 1e-6:
        raise ValueError(
            "a cell is three side lengths [Å], three row vectors, or (a, b, c, α, β, γ) in Å and "
            f"degrees, with a volume; got {cell.tolist()}"
        )
    return cell


def turned(cell: Any, zone_axis: Sequence[int], along_x: Sequence[int] | None = None) -> np.ndarray:
    """The cell [3, 3] turned until the direction `zone_axis` [uvw] is along +z.

    Parameters
    ----------
    cell
        See `cell_matrix`.
    zone_axis : (u, v, w)
        In units of a, b, c.
    along_x : (u, v, w), optional
        Direction whose projection is along +x; if not given, the one of a, b, c that is nearest to
        perpendicular to the zone axis.

    Raises
    ------
    ValueError
        A zone axis [000], or `along_x` parallel to it.
    """
    matrix = cell_matrix(cell)
    z = np.asarray(zone_axis, float) @ matrix
    if not np.linalg.norm(z) > 0:
        raise ValueError("the zone axis must not be [0 0 0]")
    z = z / np.linalg.norm(z)
    if along_x is None:
        unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        x = unit[np.argmin(np.round(np.abs(unit @ z), 9))]
    else:
        x = np.asarray(along_x, float) @ matrix
    x = x - (x @ z) * z
    if np.linalg.norm(x) < 1e-6:
        raise ValueError(f"along_x = {along_x} is parallel to the zone axis {zone_axis}")
    x = x / np.linalg.norm(x)
    frame = np.stack([x, np.cross(z, x), z])
    return matrix @ frame.T


def reflections(
    cell: Any,
    maximum: float,
    *,
    centring: str = "P",
    zones: Sequence[int] = (0,),
    tolerance: float = 1e-3,
) -> tuple[np.ndarray, np.ndarray]:
    """Reflections in Laue zones about the beam.

    Parameters
    ----------
    cell
        In the frame of the microscope (see `turned`, or `axes` of
        `specimens.oriented`).
    maximum : float
        Largest lateral |g| in 1/Å.
    centring : {"P", "I", "F", "A", "B", "C", "R"}
        Of the conventional cell: what it forbids is left out.
    zones : sequence of int
        Laue zones, counted along z; 0 holds the direct beam. With the beam along +z the first
        zone that the Ewald sphere reaches is -1.
    tolerance : float
        How far g may lie from the zone, 1/Å; larger for a crystal that is tilted a little.

    Returns
    -------
    hkl : int [s, 3]
    g : float [s, 3]
        (x, y, z) in 1/Å, by increasing lateral |g|.
    """
    if centring not in CENTRINGS:
        raise ValueError(f"centring must be one of {', '.join(CENTRINGS)}, got {centring!r}")
    matrix = cell_matrix(cell)
    reciprocal = np.linalg.inv(matrix).T
    if not zones:
        raise ValueError("give at least one Laue zone")
    spacing = _zone_spacing(reciprocal, tolerance) if any(zones) else 0.0
    reach = np.hypot(maximum, max(abs(n) for n in zones) * spacing + tolerance)
    # |h| = |a·g| <= |a| |g|
    limits = np.floor(np.linalg.norm(matrix, axis=1) * reach + 1e-9).astype(int)
    axes = [np.arange(-n, n + 1) for n in limits]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    g = hkl @ reciprocal
    lateral = np.hypot(g[:, 0], g[:, 1])
    heights = np.abs(g[:, 2][:, None] - spacing * np.asarray(zones, float)[None, :])
    keep = (heights.min(axis=1) <= tolerance) & (lateral <= maximum * (1 + 1e-9))
    for vector, divisor in CENTRINGS[centring]:
        keep &= hkl @ np.array(vector) % divisor == 0
    hkl, g, lateral = hkl[keep], g[keep], lateral[keep]
    order = np.lexsort((hkl[:, 2], hkl[:, 1], hkl[:, 0], np.round(lateral, 9)))
    return hkl[order], g[order]


def _zone_spacing(reciprocal: np.ndarray, tolerance: float) -> float:
    """Smallest height above 0 [1/Å] of small reciprocal lattice vectors."""
    index = np.arange(-6, 7)
    hkl = np.stack(np.meshgrid(index, index, index, indexing="ij"), axis=-1).reshape(-1, 3)
    heights = np.abs(hkl @ reciprocal[:, 2])
    return float(heights[heights > max(tolerance, 1e-6)].min())


def find_spots(
    p: Patterns,
    cell: Any,
    *,
    radius: float | None = None,
    maximum: float | None = None,
    centring: str = "P",
    zones: Sequence[int] = (0,),
    tolerance: float = 1e-3,
) -> Spots:
    """Index the patterns of a known crystal and add up each spot's disc.

    Parameters
    ----------
    p : Patterns
        [..., ny, nx], of a plane wave (spots) or a nanobeam (discs).
    cell
        Of the crystal in the frame of the microscope; for a supercell along x, y, z the side
        lengths of the unit cell (the cell's divided by the repeats).
    radius : float, optional
        Of the discs in mrad: the semiangle of a nanobeam. If not given, half the distance of the
        nearest spots, which share out the pattern.
    maximum : float, optional
        Largest angle in mrad; what the pattern holds if not given.
    centring, zones, tolerance
        See `reflections`.

    Raises
    ------
    ValueError
        No reflection in the pattern.

    Warns
    -----
    UserWarning
        Discs that overlap: their intensities are counted twice.
    """
    ky, kx = p.frequencies()
    half = [d / 2 * (1 + 1e-9) for d in p.sampling]
    corner = np.hypot(np.abs(ky).max(), np.abs(kx).max())
    largest = corner if maximum is None else min(maximum / p.mrad, corner)
    hkl, g = reflections(cell, largest, centring=centring, zones=zones, tolerance=tolerance)
    inside = (g[:, 0] >= kx[0] - half[1]) & (g[:, 0] <= kx[-1] + half[1])
    inside &= (g[:, 1] >= ky[0] - half[0]) & (g[:, 1] <= ky[-1] + half[0])
    hkl, g = hkl[inside], g[inside]
    if len(hkl) == 0:
        raise ValueError(
            "no reflection of this cell lies in the pattern: is the cell in Å and along the beam?"
        )
    nearest = _nearest(g[:, :2])
    if radius is None:
        size = 0.5 * nearest * (1 - 1e-6) if np.isfinite(nearest) else max(p.sampling)
    else:
        size = float(radius) / p.mrad
        if not size > 0:
            raise ValueError(f"radius must be positive mrad, got {radius}")
        if size > 0.5 * nearest * (1 + 1e-6):
            warnings.warn(
                f"discs of {size * p.mrad:.2f} mrad overlap: the nearest spots are "
                f"{nearest * p.mrad:.2f} mrad apart",
                stacklevel=2,
            )
    intensity = disc_sums(p, g[:, :2], size)
    return Spots(
        intensity,
        tuple((int(h), int(k), int(m)) for h, k, m in hkl),
        tuple((float(x), float(y)) for x, y in g[:, :2]),
        p.energy,
    )


def _nearest(k: np.ndarray) -> float:
    """Smallest distance between two different points."""
    from scipy.spatial import KDTree

    if len(k) < 2:
        return np.inf
    distance = KDTree(k).query(k, k=2)[0][:, 1]
    return float(distance[distance > 1e-9].min(initial=np.inf))


def disc_sums(p: Patterns, k: Any, radius: float) -> Any:
    """Sums [..., s] over the pixels within `radius` [1/Å] of points (x, y) [s, 2] in 1/Å.

    At least the nearest pixel counts; pixels outside the pattern count 0.
    """
    shape = p.intensity.shape[-2:]
    k = np.asarray(k, float)
    near, offset = [], []
    for axis, coordinate in ((0, k[:, 1]), (1, k[:, 0])):
        step = p.sampling[axis]
        middle = (coordinate - p.first[axis]) / step
        around = np.arange(-int(np.ceil(radius / step)), int(np.ceil(radius / step)) + 1)
        pixel = np.rint(middle).astype(int)[:, None] + around[None]
        near.append(pixel)
        offset.append((pixel - middle[:, None]) * step)
    y, x = near[0][:, :, None], near[1][:, None, :]
    distance = np.hypot(offset[0][:, :, None], offset[1][:, None, :])
    first = distance == distance.min(axis=(1, 2), keepdims=True)
    inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
    weight = (((distance <= radius * (1 + 1e-9)) | first) & inside).reshape(len(k), -1)
    index = np.clip(y, 0, shape[0] - 1) * shape[1] + np.clip(x, 0, shape[1] - 1)
    xp = array_module(p.intensity)
    flat = p.intensity.reshape(*p.intensity.shape[:-2], -1)
    picked = flat[..., index.reshape(len(k), -1)]
    weight = np.expand_dims(weight, tuple(range(picked.ndim - 2)))
    return (picked * xp.asarray(weight, picked.dtype)).sum(axis=-1)


def structure_factors(
    numbers: Any,
    fractions: Any,
    cell: Any,
    hkl: Any,
    *,
    sigma: Any = 0.0,
    parametrization: str = "lobato",
) -> np.ndarray:
    """Kinematic structure factors F(hkl) [s], complex, in Å.

    F = Σ f_e(g²) exp(2πi g·r) exp(-2π²σ²g²); systematic absences come out as 0.

    Parameters
    ----------
    numbers : int [n]
        Atomic numbers.
    fractions : float [n, 3]
        In units of a, b, c.
    hkl : int [s, 3]
    sigma : float or [n]
        Thermal displacement per direction, Å.
    """
    hkl, fractions = np.asarray(hkl, float).reshape(-1, 3), np.asarray(fractions, float)
    numbers = np.asarray(numbers)
    g2 = ((hkl @ np.linalg.inv(cell_matrix(cell)).T) ** 2).sum(axis=1)
    sigma = np.broadcast_to(np.asarray(sigma, float), numbers.shape)
    total = np.zeros(len(hkl), complex)
    for z in np.unique(numbers):  # a table per element
        these = numbers == z
        factor = np.asarray(scattering_factor(int(z), g2, parametrization))
        damping = np.exp(-2 * np.pi**2 * np.outer(g2, sigma[these] ** 2))
        phase = np.exp(2j * np.pi * (hkl @ fractions[these].T))
        total += factor * (phase * damping).sum(axis=1)
    return total
