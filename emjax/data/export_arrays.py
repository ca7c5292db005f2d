"""An array with its axes, units and origin, ready to leave emjax: what `emjax.data.export` writes.

`images`, `patterns`, `potential` and `waves` make one from a simulator's array; the last axes are
always the picture, and everything in front of them is stepped through (scan positions, thicknesses,
detectors, slices). Patterns arrive in FFT order and leave with zero frequency at [n // 2, m // 2],
where every other program expects it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Order = Literal["corner", "centre"]
"""Where patterns have their zero frequency: in the corner (FFT order) or at [n // 2, m // 2]."""


class ExportError(ValueError):
    """Something that cannot be written or read; the message says why and what to do."""


@dataclass(frozen=True)
class Axis:
    """One axis of an array: entry i lies at ``offset + i * step``, or at ``values[i]``.

    Attributes
    ----------
    name : str
    step, offset : float
        In `units`; not used where `values` are given.
    units : str
        "Å", "1/Å", "mrad", "eV"; "" for none.
    navigate : bool
        Stepped through (a scan position, a thickness) rather than part of the picture.
    values : tuple of float, optional
        Coordinates that are not equally spaced.
    labels : tuple of str, optional
        Names of the entries, of detectors for instance.
    """

    name: str
    step: float = 1.0
    units: str = ""
    offset: float = 0.0
    navigate: bool = False
    values: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None

    @classmethod
    def of(cls, name: str, values: Any, units: str = "") -> Axis:
        """The stepped axis with these coordinates, equally spaced or not.

        >>> Axis.of("thickness", [10, 20, 30], "Å").step
        10.0
        >>> Axis.of("thickness", [10, 20, 40], "Å").values
        (10.0, 20.0, 40.0)
        """
        found = np.asarray(values, float)
        if found.ndim != 1 or found.size == 0 or not np.isfinite(found).all():
            raise ExportError(f"the values of axis {name!r} must be a list of finite numbers")
        steps = np.diff(found)
        if found.size == 1:
            return cls(name, 1.0, units, float(found[0]), navigate=True)
        if steps[0] != 0 and np.abs(steps - steps[0]).max() <= 1e-9 * np.abs(found).max():
            return cls(name, float(steps.mean()), units, float(found[0]), navigate=True)
        return cls(name, units=units, navigate=True, values=tuple(found.tolist()))

    @classmethod
    def named(cls, name: str, labels: Sequence[str]) -> Axis:
        """The stepped axis whose entries have names: ``Axis.named("detector", ["BF"])``."""
        return cls(name, navigate=True, labels=tuple(str(label) for label in labels))

    @property
    def size(self) -> int | None:
        """How many entries it must have; None where it says nothing about that."""
        fixed = self.values if self.values is not None else self.labels
        return None if fixed is None else len(fixed)

    def coordinates(self, n: int) -> np.ndarray:
        """Where its `n` entries lie, float64 [n]."""
        if self.values is not None:
            return np.asarray(self.values, float)
        return self.offset + self.step * np.arange(n)


@dataclass(frozen=True)
class Export:
    """An array with its axes and its origin.

    Attributes
    ----------
    data : ndarray
        Patterns are centred. Where the array is written piece by piece (`open_export`), anything
        that has a `shape` and a `dtype`, such as `jax.ShapeDtypeStruct`.
    axes : tuple of Axis
        One for each axis of the array, the picture's last.
    kind : str
        "images", "patterns", "potential", "waves" or a word of your own.
    quantity, units : str
        What the numbers are, e.g. "intensity" and "fraction of the dose".
    title : str
    parameters : dict
        How it was made; anything that `emjax.files.plain` turns into JSON (dataclasses too).
    seed : int or list or None
        Of the random draws in it.
    energy : float or None
        eV.
    written : dict
        After reading: `emjax` (version) and, where it was asked for, `date`.
    """

    data: Any
    axes: tuple[Axis, ...]
    kind: str
    quantity: str = ""
    units: str = ""
    title: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    seed: Any = None
    energy: float | None = None
    written: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = tuple(self.data.shape)
        if len(self.axes) != len(shape):
            names = ", ".join(axis.name for axis in self.axes)
            raise ExportError(
                f"{len(self.axes)} axes ({names}) describe an array of shape {shape}: give one "
                "axis for each of its dimensions"
            )
        if not shape or 0 in shape:
            raise ExportError(f"an array of shape {shape} holds nothing that could be written")
        for axis, n in zip(self.axes, shape, strict=True):
            if axis.size not in (None, n):
                raise ExportError(
                    f"axis {axis.name!r} has {axis.size} values or labels, the array {n} entries"
                )
        stepped = [axis.navigate for axis in self.axes]
        if stepped != sorted(stepped, reverse=True):
            raise ExportError(
                "the axes that are stepped through come first, those of the picture last"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self.data.shape)

    @property
    def navigation(self) -> int:
        """How many axes in front are stepped through."""
        return sum(axis.navigate for axis in self.axes)

    def sampling(self) -> tuple[float, ...]:
        """Steps of the picture's axes (y, x), in their units."""
        return tuple(axis.step for axis in self.axes if not axis.navigate)

    def in_corner(self) -> np.ndarray:
        """The data with zero frequency in the corner, as `simulators` has patterns.

        Raises
        ------
        ExportError
            Patterns without a pixel at zero frequency in the middle (binned or shifted ones).
        """
        if self.kind != "patterns":
            return self.data
        for axis, n in zip(self.axes[-2:], self.shape[-2:], strict=True):
            if abs(axis.offset + (n // 2) * axis.step) > 1e-6 * axis.step:
                raise ExportError(
                    f"{axis.name} begins at {axis.offset:g} 1/Å, so that pixel {n // 2} is not at "
                    "zero frequency: these patterns have no FFT order"
                )
        return np.fft.ifftshift(self.data, axes=(-2, -1))


def images(
    array: Any,
    sampling: Any,
    *,
    stack: Sequence[Axis] = (),
    origin: tuple[float, float] = (0.0, 0.0),
    quantity: str = "intensity",
    units: str = "",
    title: str = "image",
    **about: Any,
) -> Export:
    """Images [..., y, x] in real space: HRTEM, or scans.

    Parameters
    ----------
    array : [..., ny, nx]
    sampling : float or (y, x)
        Å per pixel.
    stack : sequence of Axis, optional
        What the axes in front are, e.g. ``[Axis.named("detector", ["BF", "HAADF"])]``. Left out,
        they are counted.
    origin : (y, x)
        Position of pixel [0, 0] in Å.
    quantity, units, title : str
    **about
        `parameters`, `seed`, `energy` of `Export`.

    Raises
    ------
    ExportError
        No pixel size, or one that is not positive; axes that do not fit.

    >>> thickness = Axis.of("thickness", [4, 8, 12], "Å")
    >>> images(np.zeros((3, 40, 50)), (0.2, 0.1), stack=[thickness]).sampling()
    (0.2, 0.1)
    """
    array = _array(array)
    steps = _steps(sampling, "images", "Å per pixel")
    front = _front(array, 2, stack, "images [..., y, x]")
    (y, x), (dy, dx) = origin, steps
    picture = (Axis("y", dy, "Å", float(y)), Axis("x", dx, "Å", float(x)))
    return Export(array, (*front, *picture), "images", quantity, units, title, **about)


def waves(array: Any, sampling: Any, *, title: str = "wave", **about: Any) -> Export:
    """Complex wave functions [..., y, x] in real space; arguments as of `images`.

    Raises
    ------
    ExportError
        An array that is not complex.
    """
    if np.dtype(array.dtype).kind != "c":
        raise ExportError(
            f"a wave is complex, got {np.dtype(array.dtype)}: use images for intensities"
        )
    made = images(array, sampling, title=title, quantity="wave function", **about)
    return dataclasses.replace(made, kind="waves")


def patterns(
    array: Any,
    sampling: Any = None,
    *,
    scan_sampling: Any = None,
    stack: Sequence[Axis] = (),
    order: Order = "corner",
    first: tuple[float, float] | None = None,
    quantity: str = "intensity",
    units: str = "fraction of the dose",
    title: str = "diffraction",
    **about: Any,
) -> Export:
    """Diffraction patterns [..., ky, kx], of a scan [..., sy, sx, ky, kx] for 4D-STEM.

    Parameters
    ----------
    array : [..., nky, nkx] or simulators.patterns.Patterns
        `Patterns` know their sampling, order, first frequency and energy.
    sampling : float or (ky, kx)
        1/Å per pixel: one over the extent of the waves' grid.
    scan_sampling : float or (y, x), optional
        Å; the two axes in front of the pattern are then a raster [sy, sx].
    stack : sequence of Axis, optional
        The axes in front of the scan and the pattern.
    order : {"corner", "centre"}
        Where the zero frequency is: "corner" is that of `simulators.imaging.cbed`.
    first : (ky, kx), optional
        Frequency of pixel [0, 0] in 1/Å where it is not that of "centre" (binned patterns).
    quantity, units, title, **about
        As of `images`.

    >>> scan = patterns(np.zeros((3, 4, 8, 10)), (0.1, 0.2), scan_sampling=0.5)
    >>> [(axis.name, axis.step, axis.offset) for axis in scan.axes[2:]]
    [('ky', 0.1, -0.4), ('kx', 0.2, -1.0)]
    """
    if hasattr(array, "intensity") and hasattr(array, "first"):
        order, sampling, first = "centre", array.sampling, array.first
        about.setdefault("energy", array.energy)
        array = array.intensity
    if order not in ("corner", "centre"):
        raise ExportError(f"order={order!r} is neither 'corner' nor 'centre'")
    array = _array(array)
    dky, dkx = _steps(sampling, "patterns", "1/Å per pixel")
    scan: tuple[Axis, ...] = ()
    if scan_sampling is not None:
        sy, sx = _steps(scan_sampling, "the scan", "Å per step")
        scan = (Axis("scan_y", sy, "Å", navigate=True), Axis("scan_x", sx, "Å", navigate=True))
    what = "a scan [..., sy, sx, ky, kx]" if scan else "patterns [..., ky, kx]"
    front = _front(array, 2 + len(scan), stack, what)
    ny, nx = array.shape[-2:]
    ky, kx = (-(ny // 2) * dky, -(nx // 2) * dkx) if first is None else first
    picture = (Axis("ky", dky, "1/Å", float(ky)), Axis("kx", dkx, "1/Å", float(kx)))
    if order == "corner" and isinstance(array, np.ndarray):
        array = np.fft.fftshift(array, axes=(-2, -1))
    return Export(array, (*front, *scan, *picture), "patterns", quantity, units, title, **about)


def potential(
    slices: Any, sampling: Any, thickness: Any, *, title: str = "potential", **about: Any
) -> Export:
    """Slices [z, y, x] of a projected potential in V·Å.

    Parameters
    ----------
    slices : float [nz, ny, nx]
    sampling : float or (y, x)
        Å per pixel.
    thickness : float or float [nz]
        Of the slices in Å. Slice i begins at the sum of those before it, which is its z; all are
        kept in the parameters as `slice_thickness`.
    title, **about
        As of `images`.
    """
    shape = tuple(slices.shape)
    if len(shape) != 3:
        raise ExportError(f"a potential has slices [z, y, x], got an array of shape {shape}")
    try:
        each = np.broadcast_to(np.asarray(thickness, float), shape[:1])
    except (TypeError, ValueError):
        raise ExportError(
            f"{shape[0]} slices need one thickness or {shape[0]} in Å, got {thickness!r}"
        ) from None
    if not (np.isfinite(each).all() and (each > 0).all()):
        raise ExportError(f"slices have a positive thickness in Å, got {thickness!r}")
    z = Axis.of("z", np.concatenate([[0.0], np.cumsum(each)[:-1]]), "Å")
    if shape[0] == 1:
        z = dataclasses.replace(z, step=float(each[0]))
    parameters = {**about.pop("parameters", {}), "slice_thickness": each.tolist()}
    about = {"quantity": "projected potential", "units": "V·Å", "parameters": parameters, **about}
    made = images(slices, sampling, stack=[z], title=title, **about)
    return dataclasses.replace(made, kind="potential")


def _array(array: Any) -> Any:
    """A NumPy array; what has a shape and a dtype but no values stays what it is."""
    if hasattr(array, "__array__") or not hasattr(array, "shape"):
        return np.asarray(array)
    return array


def _steps(sampling: Any, what: str, unit: str) -> tuple[float, float]:
    if sampling is None:
        raise ExportError(f"{what} without a calibration: give sampling in {unit}")
    try:
        pair = np.broadcast_to(np.asarray(sampling, float), (2,)).tolist()
    except (TypeError, ValueError):
        pair = [math.nan]
    if not all(math.isfinite(step) and step > 0 for step in pair):
        raise ExportError(
            f"sampling of {what} must be one positive number or a (y, x) pair in {unit}, got "
            f"{sampling!r}"
        )
    return pair[0], pair[1]


def _front(array: Any, picture: int, stack: Sequence[Axis], what: str) -> list[Axis]:
    """The axes in front of the last `picture`, as the caller describes them or counted."""
    count = len(array.shape) - picture
    if count < 0:
        raise ExportError(
            f"{what} need at least {picture} axes, got an array of shape {array.shape}"
        )
    if not stack:
        return [Axis("index" if count == 1 else f"index_{i}", navigate=True) for i in range(count)]
    if len(stack) != count:
        names = ", ".join(axis.name for axis in stack)
        raise ExportError(
            f"{what} of shape {tuple(array.shape)} have {count} axes in front, but stack describes "
            f"{len(stack)} ({names})"
        )
    return [dataclasses.replace(axis, navigate=True) for axis in stack]
