"""HyperSpy signals of our arrays. HyperSpy (optional) is imported by the function only."""

from __future__ import annotations

from typing import Any

from emjax.data import export_layout as layout
from emjax.data.export_arrays import Export


def to_hyperspy(export: Export) -> Any:
    """A HyperSpy signal: Signal2D, Signal1D, their complex kinds, or BaseSignal.

    Axes, units, offsets and metadata are those of the file that `write_export` makes. For pyxem:
    ``signal.set_signal_type("electron_diffraction")``.

    Raises
    ------
    ModuleNotFoundError
        HyperSpy is not installed; says what to install.
    """
    try:
        from hyperspy import signals  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name != "hyperspy":
            raise
        raise ModuleNotFoundError(
            "signals need HyperSpy, which is not installed: pip install hyperspy. "
            "write_export makes .hspy files without it.",
            name="hyperspy",
        ) from error
    dimension = len(export.shape) - export.navigation
    kind = {1: "Signal1D", 2: "Signal2D"}.get(dimension, "BaseSignal")
    if export.data.dtype.kind == "c":
        kind = "ComplexSignal" + kind.removeprefix("Signal").replace("BaseSignal", "")
    axes = []
    for axis, n in zip(export.axes, export.shape, strict=True):
        place = (
            {"axis": axis.coordinates(n)}
            if axis.values is not None
            else {"scale": axis.step, "offset": axis.offset, "size": n}
        )
        axes.append(
            {"name": axis.name, "units": axis.units or None, "navigate": axis.navigate, **place}
        )
    header = layout.make_header(export)
    return getattr(signals, kind)(
        export.data,
        axes=axes,
        metadata=layout.metadata(export, header),
        original_metadata={"emjax": layout.summary(header)},
    )
