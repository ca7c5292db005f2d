"""Centre of mass: differential phase contrast, its integral, and what its curl says.

The centre of mass of a pattern is ∇φ / 2π of a thin object, blurred by the probe's intensity
(Lazić, Bosch & Lazar, Ultramicroscopy 160, 265 (2016)). A gradient has no curl, and that tells how
the scan is turned against the detector and whether the detector is mirrored. `Raster` is the
regular scan on which all direct methods work, `bright_field` the disc on the detector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from emjax.retrieval.scan_data import ScanData, ScanError, bright_field_radius
from simulators.electron import wavelength
from simulators.measurements import find_rotation, integrate_gradient, rotate_vectors

IRREGULAR = 0.4
"""Positions may be off the raster by this share of a step (root mean square)."""


@dataclass(frozen=True)
class Raster:
    """A regular scan, row after row.

    Attributes
    ----------
    shape : (rows, columns)
    across, down : (x, y) in Å
        From column to column and from row to row, in the axes of the positions.
    """

    shape: tuple[int, int]
    across: tuple[float, float]
    down: tuple[float, float]

    @property
    def sampling(self) -> tuple[float, float]:
        """(down, across): lengths of the steps in Å."""
        return float(np.hypot(*self.down)), float(np.hypot(*self.across))

    @property
    def handed(self) -> float:
        """1 where x, y and columns, rows turn the same way, -1 in a mirror."""
        return float(np.sign(self.across[0] * self.down[1] - self.across[1] * self.down[0]))

    def components(self, field: np.ndarray) -> np.ndarray:
        """Vectors (x, y) [..., 2] as components along `across` and along `down`."""
        units = np.array([self.across, self.down]) / np.array(self.sampling)[::-1, None]
        return field @ units.T

    def frequencies(self, shape: tuple[int, int], upsample: int = 1) -> np.ndarray:
        """(x, y) [ny, nx, 2] in 1/Å of a Fourier transform over `shape` scan points, FFT order."""
        rows, columns = (np.fft.fftfreq(n, 1 / upsample) for n in shape)
        turns = np.stack(np.meshgrid(columns, rows), axis=-1)
        return turns @ np.linalg.inv(np.array([self.across, self.down])).T


def raster_of(data: ScanData, scan_shape: tuple[int, int] | None = None) -> Raster:
    """The raster nearest to the positions.

    Parameters
    ----------
    scan_shape : (rows, columns); found where the positions run back, if not given.

    Raises
    ------
    ScanError : not a raster, fewer than three rows or columns, or a shape that does not fit.
    """
    at = np.asarray(data.positions, float)
    rows, columns = scan_shape or _scan_shape(at)
    if rows * columns != data.n:
        raise ScanError(
            f"a scan of {rows} × {columns} has {rows * columns} points, but there are {data.n} "
            "patterns: correct scan_shape (rows, columns)"
        )
    if min(rows, columns) < 3:
        raise ScanError(f"a scan of {rows} × {columns}: at least three rows and three columns")
    j, i = np.divmod(np.arange(data.n), columns)
    design = np.stack([np.ones(data.n), i, j], axis=1)
    found, *_ = np.linalg.lstsq(design, at, rcond=None)
    across, down = found[1], found[2]
    area = abs(across[0] * down[1] - across[1] * down[0])
    step = np.sqrt(area)
    off = np.sqrt(np.square(at - design @ found).sum(1).mean())
    if not area > 1e-3 * max(across @ across, down @ down) or off > IRREGULAR * step:
        raise ScanError(
            f"the positions are no raster of {rows} × {columns} (off by {off:.2g} Å, steps of "
            f"{step:.2g} Å): check scan_shape, give the patterns row by row in one direction, "
            "or use an iterative engine, which takes any positions"
        )
    return Raster(
        (int(rows), int(columns)),
        (float(across[0]), float(across[1])),
        (float(down[0]), float(down[1])),
    )


def _scan_shape(at: np.ndarray) -> tuple[int, int]:
    """(rows, columns) of positions [n, 2] that run along x and jump back."""
    step = np.diff(at, axis=0)
    usual = np.median(step, axis=0)
    jumps = np.nonzero(np.linalg.norm(step - usual, axis=1) > 3 * np.linalg.norm(usual))[0]
    columns = int(jumps[0]) + 1 if len(jumps) else len(at)
    if len(at) % columns:
        raise ScanError(
            f"{len(at)} positions with rows of {columns} make no raster: give scan_shape "
            "(rows, columns)"
        )
    return len(at) // columns, columns


@dataclass(frozen=True)
class Disc:
    """The bright-field disc: its radius, and its centre (x, y) from zero frequency, in mrad."""

    radius: float
    centre: tuple[float, float]


def bright_field(data: ScanData) -> Disc:
    """Radius and centre of the disc in the mean pattern, to a fraction of a pixel.

    The disc with a soft edge that explains most of the variance, started from the area above half
    of the plateau.
    """
    step_y, step_x = data.angle_step
    mean = np.zeros(data.counts.shape[-2:])
    for part in np.array_split(np.asarray(data.counts), max(1, data.n // 64)):
        mean += part.sum(axis=0, dtype=np.float64)
    mask = np.ones(mean.shape) if data.mask is None else np.asarray(data.mask, float)
    y, x = (
        np.fft.fftfreq(n, 1 / n) * step for n, step in zip(mean.shape, data.angle_step, strict=True)
    )
    y, x = np.broadcast_arrays(y[:, None], x[None])
    radius = bright_field_radius(data)
    if radius <= 0:
        raise ScanError("the mean pattern has no bright-field disc: check the counts")
    brightest = np.sort(mean[mask > 0])[::-1]
    level = 0.5 * np.median(brightest[: max(1, int(np.pi * radius**2 / (step_y * step_x)))])
    seen = (mean > level) * mask
    start = [(seen * x).sum() / seen.sum(), (seen * y).sum() / seen.sum(), radius]
    width = np.sqrt(step_y * step_x)

    def unexplained(at: np.ndarray) -> float:
        wave = np.clip((at[2] - np.hypot(x - at[0], y - at[1])) / width + 0.5, 0, 1)
        disc = np.square(wave)  # the soft edge of `simulators.optics` is one of the amplitude
        disc = disc - (disc * mask).sum() / mask.sum()
        power = (mask * disc**2).sum()
        return 0.0 if power <= 0 else -float((mask * disc * mean).sum() ** 2 / power) / scale

    scale = float(np.square(mean).sum())
    simplex = np.array(start) + width * np.vstack([np.zeros(3), np.eye(3)])
    options = {"initial_simplex": simplex, "xatol": 0.01 * width, "fatol": 1e-9, "maxiter": 300}
    best = minimize(unexplained, start, method="Nelder-Mead", options=options).x
    return Disc(float(best[2]), (float(best[0]), float(best[1])))


def centre_of_mass(
    data: ScanData, raster: Raster, *, limit: float | None = None, descan: str = "mean"
) -> np.ndarray:
    """Centre of mass (x, y) [rows, columns, 2] of every pattern in 1/Å, in the detector's axes.

    Parameters
    ----------
    limit : mrad; the detector ends there. All of it if not given.
    descan : what is taken off: "mean", "plane" (a beam that wanders with the scan) or "none".

    Raises
    ------
    ValueError : an unknown `descan`.
    """
    if descan not in ("mean", "plane", "none"):
        raise ValueError(f"descan must be 'mean', 'plane' or 'none', got {descan!r}")
    shape = data.counts.shape[-2:]
    angle_y, angle_x = (
        np.fft.fftfreq(n, 1 / n) * step for n, step in zip(shape, data.angle_step, strict=True)
    )
    angle_y, angle_x = np.broadcast_arrays(angle_y[:, None], angle_x[None])
    weight = np.ones(shape) if data.mask is None else np.asarray(data.mask, float)
    if limit is not None:
        weight = weight * (np.hypot(angle_y, angle_x) <= limit)
    per = 1e-3 / wavelength(data.energy)
    moments = np.stack([weight, weight * angle_x * per, weight * angle_y * per], axis=-1)
    moments = moments.reshape(-1, 3).astype(np.float32)
    parts = np.array_split(np.asarray(data.counts), max(1, data.n // 64))
    sums = np.concatenate([p.reshape(len(p), -1).astype(np.float32) @ moments for p in parts])
    field = sums[:, 1:].astype(float) / np.maximum(sums[:, :1], 1e-12)
    if descan != "none":
        j, i = np.divmod(np.arange(data.n), raster.shape[1])
        terms = [np.ones(data.n), i, j] if descan == "plane" else [np.ones(data.n)]
        design = np.stack(terms, axis=1)
        field = field - design @ np.linalg.lstsq(design, field, rcond=None)[0]
    return field.reshape(*raster.shape, 2)


@dataclass(frozen=True)
class Orientation:
    """How scan and detector lie to each other.

    Attributes
    ----------
    rotation : rad
        Turns the scan's vectors into the detector's axes, from +x towards +y.
    flip : bool
        Whether the detector's y axis has to be mirrored first.
    curl : float
        Share of the field's energy that is curl; a gradient has none, noise has one half.
    """

    rotation: float
    flip: bool
    curl: float


def orientations(
    field: np.ndarray, raster: Raster, *, band: float = np.inf
) -> tuple[Orientation, Orientation]:
    """The two orientations of least curl, without and with a mirror; the better one first.

    Of the two rotations half a turn apart it is the one whose phase has a positive skewness: atoms
    are few, and attract electrons.

    Parameters
    ----------
    field : of `centre_of_mass`.
    band : 1/Å; nothing but noise lies beyond twice the aperture.
    """
    found = []
    for flip in (False, True):
        along = raster.components(field * (np.array([1.0, -1.0]) if flip else 1.0))
        along = _low_pass(along, raster, band)
        angle = float(find_rotation(along, raster.sampling, periodic=False))
        curl = _curl(rotate_vectors(along, angle), raster)
        turn = -angle * raster.handed
        found.append(Orientation(float((turn + np.pi) % (2 * np.pi) - np.pi), flip, curl))
    first, second = sorted(found, key=lambda o: o.curl)
    return first, second


def _low_pass(along: np.ndarray, raster: Raster, band: float) -> np.ndarray:
    k = np.linalg.norm(raster.frequencies(raster.shape), axis=-1)
    keep = np.clip((band - k) / (0.1 * band) + 0.5, 0, 1) if np.isfinite(band) else np.ones_like(k)
    return np.fft.ifft2(np.fft.fft2(along, axes=(0, 1)) * keep[..., None], axes=(0, 1)).real


def _curl(along: np.ndarray, raster: Raster) -> float:
    """Transverse share of a field's energy, edges faded out."""
    fade = [np.hanning(n + 2)[1:-1] for n in raster.shape]
    window = fade[0][:, None] * fade[1][None]
    gx, gy = (np.fft.fft2((along[..., c] - along[..., c].mean()) * window) for c in (0, 1))
    (ny, nx), (dy, dx) = raster.shape, raster.sampling
    ky, kx = np.fft.fftfreq(ny, dy)[:, None], np.fft.fftfreq(nx, dx)[None]
    k2 = ky**2 + kx**2
    k2[0, 0] = np.inf
    curl, div = np.abs(kx * gy - ky * gx) ** 2 / k2, np.abs(kx * gx + ky * gy) ** 2 / k2
    return float(curl.sum() / max(curl.sum() + div.sum(), 1e-30))


def icom(
    data: ScanData,
    scan_shape: tuple[int, int] | None = None,
    *,
    rotation: float = 0.0,
    flip: bool = False,
    limit: float | None = None,
    descan: str = "mean",
    periodic: bool = False,
) -> np.ndarray:
    """Integrated centre of mass [rows, columns]: the phase in rad, blurred by the probe; least 0.

    Parameters
    ----------
    rotation, flip : of `Orientation`; none for a scan that `with_geometry` has put right.
    periodic : whether the scan is whole periods; its edges are mirrored otherwise.

    Others as of `centre_of_mass` and `raster_of`.
    """
    raster = raster_of(data, scan_shape)
    field = centre_of_mass(data, raster, limit=limit, descan=descan)
    if flip:
        field = field * np.array([1.0, -1.0])
    along = raster.components(rotate_vectors(field, -rotation))
    return 2 * np.pi * np.asarray(integrate_gradient(along, raster.sampling, periodic=periodic))
