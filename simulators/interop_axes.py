"""What the axes in front of [y, x] are, in our words and in abTEM's.

abTEM itself is not imported here: its module of axes is handed in by `interop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np


class EnsembleAxis(NamedTuple):
    """One axis in front of [y, x].

    Attributes
    ----------
    kind : str
        "scan" (y before x), "thickness", "positions", "phonons", "parameter" (a series of anything
        else) or "unknown".
    label : str
    values : float [n], of "positions" [n, 2] (x, y); None where there are none
    units : str
    step : float or None
        Of a scan, so that one of a single line keeps it.
    """

    kind: str
    label: str = ""
    values: Any = None
    units: str = ""
    step: float | None = None


def scan_axis(axes: list) -> int | None:
    """Where abTEM's [x, y] raster begins among the axes in front, if there is one."""
    found = [i for i, axis in enumerate(axes) if type(axis).__name__ == "ScanAxis"]
    return found[0] if len(found) == 2 and found[1] == found[0] + 1 else None


_KINDS = {
    "ScanAxis": "scan",
    "ThicknessAxis": "thickness",
    "PositionsAxis": "positions",
    "FrozenPhononsAxis": "phonons",
}


def our_axis(axis: Any, n: int) -> EnsembleAxis:
    """One of abTEM's axes with its `n` entries."""
    kind = _KINDS.get(type(axis).__name__)
    known = hasattr(axis, "values") or kind == "scan"
    try:
        values = np.asarray(axis.coordinates(n), float) if known else None
    except (TypeError, ValueError):  # values that are no numbers
        values = None
    return EnsembleAxis(
        kind or ("parameter" if known else "unknown"),
        axis.label,
        values,
        axis.units or "",
        float(axis.sampling) if kind == "scan" else None,
    )


def abtem_axis(theirs: ModuleType, axis: EnsembleAxis, n: int) -> Any:
    """abTEM's axis of `n` entries; `theirs` is its module of axes."""
    if axis.kind == "phonons":
        return theirs.FrozenPhononsAxis(_ensemble_mean=True)
    if axis.kind == "unknown" or axis.values is None:
        return theirs.UnknownAxis(label=axis.label or "unknown")
    values = np.asarray(axis.values, float)
    if len(values) != n:
        raise ValueError(f"axis {axis.label!r} has {len(values)} values for {n} entries")
    if axis.kind == "thickness":
        return theirs.ThicknessAxis(label=axis.label or "thickness", values=tuple(values.tolist()))
    if axis.kind == "positions":
        return theirs.PositionsAxis(values=tuple(map(tuple, values.tolist())))
    if axis.kind == "parameter":
        each = tuple(map(tuple, values.tolist())) if values.ndim > 1 else tuple(values.tolist())
        return theirs.ParameterAxis(label=axis.label, values=each, units=axis.units)
    if axis.kind != "scan":
        raise ValueError(
            f"an axis of kind {axis.kind!r} is none of {(*_KINDS.values(), 'parameter')}"
        )
    gaps = np.diff(values)
    step = axis.step if axis.step is not None or n == 1 else float(gaps.mean())
    if step is None or (n > 1 and np.abs(gaps - step).max() > 1e-6 * abs(step)):
        raise ValueError(
            f"the scan axis {axis.label!r} has no constant step: give points as an axis of kind "
            "'positions'"
        )
    return theirs.ScanAxis(
        label=axis.label, sampling=step, offset=float(values[0]), units="Å", endpoint=False
    )


def front_axes(
    theirs: ModuleType,
    array: Any,
    axes: Sequence[EnsembleAxis] | None = None,
    scan_sampling: Any = None,
    scan_origin: tuple[float, float] = (0.0, 0.0),
) -> tuple[list, int | None]:
    """abTEM's description of the axes in front of [y, x], and where a raster begins."""
    shape = np.shape(array)[:-2]
    if axes is not None and scan_sampling is not None:
        raise ValueError("give either axes or scan_sampling: the axes say what the scan is")
    if axes is None:
        axes = [EnsembleAxis("unknown")] * len(shape)
    if scan_sampling is not None:
        if len(shape) < 2:
            raise ValueError(
                f"scan_sampling describes two scan axes [y, x] in front of the last two, but the "
                f"array has shape {np.shape(array)}"
            )
        steps = np.broadcast_to(np.asarray(scan_sampling, float), (2,))
        lines = zip("yx", scan_origin[::-1], steps, shape[-2:], strict=True)
        axes = [
            *axes[:-2],
            *(EnsembleAxis("scan", la, o + d * np.arange(n), "Å", d) for la, o, d, n in lines),
        ]
    if len(axes) != len(shape):
        raise ValueError(
            f"{len(axes)} axes describe an array of shape {np.shape(array)}, which has "
            f"{len(shape)} in front of its last two"
        )
    made = [abtem_axis(theirs, axis, n) for axis, n in zip(axes, shape, strict=True)]
    scan = scan_axis(made)
    if scan is not None:
        made[scan : scan + 2] = made[scan : scan + 2][::-1]
    return made, scan
