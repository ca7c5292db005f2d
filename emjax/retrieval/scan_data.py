"""A four-dimensional scan: diffraction patterns, where they were taken, and the geometry."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np

from simulators.electron import wavelength
from simulators.grid import Grid
from simulators.tree import pytree, replace, static


class ScanError(ValueError):
    """Data or geometry that cannot be; the message says what and what to do."""


@pytree
class ScanData:
    """Patterns of a scan.

    Attributes
    ----------
    counts : [n, ky, kx]
        Electrons, zero frequency first (FFT order); uint16 stays uint16 on the device.
    positions : float [n, 2]
        (x, y) of the probe in Å.
    energy : eV, static
    angle_step : (y, x) mrad a pixel, static
    mask : float [ky, kx] or None
        1 where the detector works, 0 where it does not.
    """

    counts: Any
    positions: Any
    energy: float = static()
    angle_step: tuple[float, float] = static()
    mask: Any = None

    @property
    def n(self) -> int:
        """Patterns."""
        return len(self.positions)

    @property
    def grid(self) -> Grid:
        """Of the waves: as many pixels as a pattern, and the sampling that its angles ask for."""
        shape = tuple(int(n) for n in self.counts.shape[-2:])
        steps = zip(shape, self.angle_step, strict=True)
        sampling = tuple(wavelength(self.energy) / (n * step * 1e-3) for n, step in steps)
        return Grid(shape, sampling)

    def mean_electrons(self) -> float:
        """Counts of a pattern, in the mean."""
        total = sum(np.asarray(part).sum(dtype=np.float64) for part in self.counts)
        return float(total) / self.n


def make_scan(
    patterns: Any,
    positions: Any,
    *,
    energy: float,
    angle_step: float | tuple[float, float],
    centred: bool = True,
    mask: Any = None,
) -> ScanData:
    """Check patterns and geometry and bring them into order.

    Parameters
    ----------
    patterns : [n, ky, kx] or [scan_y, scan_x, ky, kx]
        Electrons. Pixels that are not finite are taken out of the mask of all patterns.
    positions : float [n, 2]
        (x, y) in Å.
    energy : eV
    angle_step : mrad a pixel, or (y, x)
    centred : whether zero frequency is pixel [ky / 2, kx / 2] (True) or [0, 0].
    mask : [ky, kx], arranged as the patterns, 1 where the detector works.

    Raises
    ------
    ScanError
        Shapes that do not fit, negative counts, no counts at all, positions that are not finite.
    """
    patterns = np.asarray(patterns)
    if patterns.ndim == 4:
        patterns = patterns.reshape(-1, *patterns.shape[-2:])
    if patterns.ndim != 3:
        raise ScanError(
            f"the patterns have shape {patterns.shape}: give [n, ky, kx] or "
            "[scan_y, scan_x, ky, kx]"
        )
    positions = np.asarray(positions, np.float64)
    if positions.shape != (len(patterns), 2):
        raise ScanError(
            f"{len(patterns)} patterns but positions of shape {positions.shape}: give one (x, y) "
            "in Å for each, in the order of the patterns"
        )
    if not np.isfinite(positions).all():
        raise ScanError("some scan positions are not finite")
    steps = np.broadcast_to(np.asarray(angle_step, float), 2)
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        raise ScanError(f"angle_step is {angle_step} mrad a pixel: it must be positive")
    good = np.ones(patterns.shape[-2:], np.float32)
    if mask is not None:
        if np.shape(mask) != good.shape:
            raise ScanError(f"the mask is {np.shape(mask)}, the patterns are {good.shape}")
        good = np.asarray(mask, np.float32)
    patterns, good = _usable(patterns, good)
    if centred:
        patterns = np.fft.ifftshift(patterns, axes=(1, 2))
        good = np.fft.ifftshift(good)
    return ScanData(
        np.ascontiguousarray(patterns),
        positions.astype(np.float32),
        float(energy),
        (float(steps[0]), float(steps[1])),
        None if good.all() else good,
    )


def _usable(patterns: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts that are counts, in a small type, and the mask without dead pixels."""
    if patterns.dtype.kind == "f":
        finite = np.isfinite(patterns).all(axis=0)
        if not finite.any():
            raise ScanError("no detector pixel is finite in all patterns")
        if not finite.all():
            warnings.warn(
                f"{np.count_nonzero(~finite)} detector pixels are NaN or infinite somewhere: they "
                "are masked in all patterns",
                stacklevel=3,
            )
            good = good * finite
            patterns = np.where(finite, patterns, 0)
    elif patterns.dtype.kind not in "iub":
        raise ScanError(f"patterns of type {patterns.dtype}: give counts")
    seen = patterns[:, good > 0]
    if seen.size and seen.min() < 0:
        raise ScanError(
            f"the patterns have negative values (down to {seen.min():g}): subtract no more than "
            "the detector's offset, or clip them and say so"
        )
    if not seen.any():
        raise ScanError("the patterns hold no electrons: is the dose zero, or the mask inverted?")
    if patterns.dtype.kind != "f":
        patterns = patterns.astype(np.uint16 if patterns.max() < 2**16 else np.float32)
        return patterns, good
    whole = patterns.max() < 2**16 and np.array_equal(seen[:16], np.round(seen[:16]))
    if whole and np.array_equal(patterns, np.round(patterns)):
        return patterns.astype(np.uint16), good
    return patterns.astype(np.float32), good


def bright_field_radius(data: ScanData) -> float:
    """Radius of the bright-field disc in mrad, from the mean pattern (half of its plateau).

    The area above half of the disc's median intensity; good to about half a pixel.
    """
    mean = np.zeros(data.counts.shape[-2:])
    for part in np.array_split(np.asarray(data.counts), max(1, data.n // 64)):
        mean += part.sum(axis=0, dtype=np.float64)
    order = np.sort(mean.ravel())[::-1]
    share = np.searchsorted(np.cumsum(order), 0.5 * order.sum())
    level = 0.5 * np.median(order[: max(int(share), 1)])
    area = np.count_nonzero(mean > level)
    return float(np.sqrt(area * data.angle_step[0] * data.angle_step[1] / np.pi))


def check_geometry(data: ScanData, semiangle: float) -> None:
    """Warn where data and geometry disagree.

    Raises
    ------
    ScanError : a bright-field disc that the detector clips.
    """
    limit = [n // 2 * step for n, step in zip(data.counts.shape[-2:], data.angle_step, strict=True)]
    if semiangle >= min(limit):
        raise ScanError(
            f"the bright-field disc of {semiangle:g} mrad does not fit the detector, which ends at "
            f"{min(limit):.1f} mrad: pad the patterns, or correct angle_step"
        )
    found = bright_field_radius(data)
    if abs(found - semiangle) > 0.15 * semiangle + 0.75 * max(data.angle_step):
        warnings.warn(
            f"the mean pattern's disc has a radius of {found:.1f} mrad where the semiangle is "
            f"{semiangle:g} mrad: check angle_step, semiangle or the centring of the patterns",
            stacklevel=2,
        )


def read_scan(path: str | os.PathLike) -> tuple[ScanData, dict[str, Any]]:
    """A scan from our HDF5 layout, and what else the file tells.

    The file has `counts` [scan_y, scan_x, ky, kx] with zero frequency in the middle, `pos_nominal`
    [n, 2] as (y, x) in Å, and the attributes `energy` (eV), `dk_mrad`, `semiangle` (mrad), `C10`
    (Å, positive for overfocus). Positions come back as (x, y), `C10` as in `Optics`.

    Raises
    ------
    ScanError : not such a file (says what is missing), or data that cannot be.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            arrays = {name: file[name][()] for name in file}
            told = {name: value for name, value in file.attrs.items()}
    except OSError as error:
        raise ScanError(f"{path} is not an HDF5 file that can be read: {error}") from error
    missing = [k for k in ("counts", "pos_nominal") if k not in arrays]
    missing += [k for k in ("energy", "dk_mrad", "semiangle") if k not in told]
    if missing:
        raise ScanError(f"{path} lacks {', '.join(missing)}")
    data = make_scan(
        arrays.pop("counts"),
        np.reshape(arrays["pos_nominal"], (-1, 2))[:, ::-1],
        energy=float(told["energy"]),
        angle_step=float(told["dk_mrad"]),
    )
    return data, {**told, **arrays}


def subset(data: ScanData, index: Any) -> ScanData:
    """Some of the patterns."""
    return replace(data, counts=data.counts[index], positions=data.positions[index])
