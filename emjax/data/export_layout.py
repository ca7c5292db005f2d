"""One HDF5 file that HyperSpy, py4DSTEM and plain HDF5 programs all open.

The array is stored once. Two trees describe it, and each program looks at its own::

    /emd                     EMD 1.0 (py4DSTEM, emdfile, RosettaSciIO's EMD reader)
        <title>/data         the array
        <title>/dim0 …       coordinates of its axes
        metadatabundle/      py4DSTEM's calibration; `emjax`: everything as JSON
    /Experiments/<title>     HyperSpy 3.1 (.hspy): axes, metadata, and a link to the array

EMD 1.0 is described at emdatasets.com/format, HyperSpy's layout in RosettaSciIO's manual. Arrays
keep their order: HyperSpy's axes 0, 1 … and EMD's dim0, dim1 … are those of the array. py4DSTEM's
"x" is the array's first axis of a pair, our y.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import h5py
import numpy as np

import emjax
from emjax.data.export_arrays import Axis, Export, ExportError
from emjax.files import plain

SCHEMA = 1
"""Raised whenever a file of the old layout would be misread."""

ROOT = "emd"
HEADER = f"{ROOT}/metadatabundle/emjax/header"
KEPT = ("kind", "quantity", "units", "title", "parameters", "seed", "energy")
"""The fields of `Export` that the header keeps as they are."""

CHUNK_BYTES = 2**20
_EMD_UNITS = {"Å": "A", "1/Å": "A^-1"}
_LONGEST_ATTRIBUTE = 30_000  # characters; HDF5 refuses attributes beyond 64 kB


def create(file: h5py.File, export: Export, header: dict, compression: str | None) -> h5py.Dataset:
    """Both trees of an empty file; returns the dataset, which has no values yet."""
    name = node_name(export)
    is_scan = _is_scan(export)
    file.attrs.update(
        {
            **{"emd_group_type": "file", "version_major": 1, "version_minor": 0},
            **{"authoring_program": "emjax", "authoring_user": ""},
            **{"file_format": "HyperSpy", "file_format_version": "3.1"},
            "emjax": header["emjax"],
        }
    )
    root = _group(file, ROOT, emd_group_type="root", python_class="Root")
    node = _group(
        root, name, emd_group_type="array", python_class="DataCube" if is_scan else "Array"
    )
    dataset = node.create_dataset(
        "data",
        shape=export.shape,
        dtype=export.data.dtype,
        chunks=chunks(export.shape, export.navigation, np.dtype(export.data.dtype).itemsize),
        compression=compression,
        shuffle=compression is not None,
    )
    dataset.attrs["units"] = export.units
    for i, (axis, n) in enumerate(zip(export.axes, export.shape, strict=True)):
        _write_dimension(node, i, axis, n)
    bundle = _group(root, "metadatabundle", emd_group_type="metadatabundle")
    about = _group(bundle, "emjax", emd_group_type="metadata", python_class="Metadata")
    _write_item(about, "header", json.dumps(header, ensure_ascii=False))
    if is_scan:
        _write_calibration(bundle, export, name)
    _write_hyperspy(file, export, header, name, link=str(dataset.name))
    return dataset


def make_header(export: Export, date: bool = False) -> dict:
    """Everything but the values, as JSON has it.

    Raises
    ------
    ExportError
        Parameters that JSON cannot hold.
    """
    seed = export.seed
    if "key<" in str(getattr(seed, "dtype", "")):  # jax.random.key
        import jax

        seed = jax.random.key_data(seed)
    try:
        header = {
            **{
                "schema": SCHEMA,
                "emjax": emjax.__version__,
                "data": f"{ROOT}/{node_name(export)}/data",
            },
            **{key: plain(getattr(export, key)) for key in KEPT if key != "seed"},
            "seed": plain(seed),
            "axes": [plain(axis) for axis in export.axes],
            "labels": {axis.name: list(axis.labels) for axis in export.axes if axis.labels},
        }
    except TypeError as error:
        raise ExportError(f"the parameters {error}: give numbers, text, lists and dicts") from error
    if date:
        header["date"] = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return header


def node_name(export: Export) -> str:
    """The title as the name of an HDF5 group."""
    return export.title.strip().replace("/", "-").strip(".") or export.kind


def chunks(shape: tuple[int, ...], navigation: int, itemsize: int) -> tuple[int, ...]:
    """Whole pictures of about 1 MB together, from one row of the scan; large ones in tiles.

    >>> chunks((64, 64, 128, 128), 2, 4)
    (1, 16, 128, 128)
    >>> chunks((4096, 4096), 0, 4)
    (512, 1024)
    """
    picture = list(shape[navigation:])
    while np.prod(picture) * itemsize > 2 * CHUNK_BYTES:
        longest = int(np.argmax(picture))
        picture[longest] = -(-picture[longest] // 2)
    together = max(1, int(CHUNK_BYTES // (np.prod(picture) * itemsize)))
    front = [1] * navigation
    if navigation:
        front[-1] = min(shape[navigation - 1], together)
    return (*front, *picture)


def _is_scan(export: Export) -> bool:
    """py4DSTEM's own kind of array: real patterns of a rectangular scan."""
    patterns = [axis.units for axis in export.axes] == ["Å", "Å", "1/Å", "1/Å"]
    uniform = all(axis.values is None for axis in export.axes)
    return patterns and uniform and export.navigation == 2 and export.data.dtype.kind != "c"


def _group(parent: h5py.Group, name: str, /, **attributes: Any) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs.update(attributes)
    return group


def _write_dimension(node: h5py.Group, i: int, axis: Axis, n: int) -> None:
    # two numbers stand for an equally spaced axis, whatever its length
    values = axis.coordinates(2 if axis.values is None else n)
    dimension = node.create_dataset(f"dim{i}", data=values)
    dimension.attrs["name"] = axis.name
    dimension.attrs["units"] = _EMD_UNITS.get(axis.units, axis.units)


def _write_item(group: h5py.Group, name: str, value: str | float | bool) -> None:
    """A value of an EMD metadata group."""
    if isinstance(value, str):
        item, kind = group.create_dataset(name, data=value.encode("utf-8")), "string"
    else:
        item = group.create_dataset(name, data=value)
        kind = "bool" if isinstance(value, bool) else "number"
    item.attrs["type"] = kind


def _write_calibration(bundle: h5py.Group, export: Export, name: str) -> None:
    """What py4DSTEM knows of a scan: one pixel size for both axes, origin in pixels."""
    group = _group(bundle, "calibration", emd_group_type="metadata", python_class="Calibration")
    for letter, first in (("R", 0), ("Q", 2)):
        steps = [axis.step for axis in export.axes[first : first + 2]]
        known = abs(steps[0] - steps[1]) <= 1e-6 * max(steps)
        units = _EMD_UNITS[export.axes[first].units]
        # it has no place for two different steps: the axes (dim0 …) keep them, it counts pixels
        _write_item(group, f"{letter}_pixel_size", float(steps[0]) if known else 1.0)
        _write_item(group, f"{letter}_pixel_units", units if known else "pixels")
    for key, axis in (("qx0", export.axes[2]), ("qy0", export.axes[3])):
        origin = round(-axis.offset / axis.step, 6)
        _write_item(group, key, origin)
        _write_item(group, f"{key}_mean", origin)
    _write_item(group, "QR_flip", False)
    _write_item(group, "_root_treepath", "")
    targets = _group(group, "_target_paths", type="list_of_strings", length=1)
    targets.create_dataset("0", data=f"/{name}".encode())


def _write_hyperspy(file: h5py.File, export: Export, header: dict, name: str, link: str) -> None:
    group = _group(file, f"Experiments/{name}", package="", package_version="")
    group["data"] = h5py.SoftLink(link)
    for i, (axis, n) in enumerate(zip(export.axes, export.shape, strict=True)):
        entry = _group(
            group, f"axis-{i}", name=axis.name, units=axis.units or "_None_", navigate=axis.navigate
        )
        if axis.values is not None:
            entry.attrs["_type"] = "DataAxis"
            entry.create_dataset("axis", data=axis.coordinates(n))
        else:
            entry.attrs.update(
                {"_type": "UniformDataAxis", "scale": axis.step, "offset": axis.offset, "size": n}
            )
        entry.attrs["is_binned"] = False
    _group(group, "attributes", _lazy=False, ragged=False)
    _write_dict(group.create_group("metadata"), metadata(export, header))
    _write_dict(group.create_group("original_metadata"), {"emjax": summary(header)})


def metadata(export: Export, header: dict) -> dict:
    """HyperSpy's metadata of an array."""
    found: dict[str, Any] = {
        "General": {"title": export.title},
        "Signal": {
            "signal_type": "",
            "quantity": f"{export.quantity} ({export.units})" if export.units else export.quantity,
        },
    }
    if "date" in header:
        found["General"]["date"], _, time = header["date"].partition("T")
        found["General"]["time"] = time
    if export.energy is not None:
        found["Acquisition_instrument"] = {"TEM": {"beam_energy": export.energy / 1e3}}  # keV
    return found


def summary(header: dict) -> dict:
    """The origin of an array for HyperSpy's original_metadata: names to text and numbers."""
    found = {}
    for key in ("emjax", "seed", "parameters", "labels"):
        text = json.dumps(header.get(key), ensure_ascii=False)
        found["version" if key == "emjax" else key] = (
            text.strip('"') if len(text) <= _LONGEST_ATTRIBUTE else f"too long: see /{HEADER}"
        )
    return found


def _write_dict(group: h5py.Group, values: dict) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            _write_dict(group.create_group(key), value)
        else:
            group.attrs[key] = value
