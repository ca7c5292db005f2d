"""Minimal files of the formats that RosettaSciIO reads but does not write, byte by byte.

Made from the published descriptions: DigitalMicrograph 3 and 4 (C. Boothroyd and others' notes on
the tag structure), TIA's ser (C. Boothroyd), MRC2014 (Cheng et al. 2015), and the JSON that Velox
keeps beside each image. Only what a reader needs is written.
"""

from __future__ import annotations

import importlib
import json
import struct
import warnings
from pathlib import Path

import numpy as np


def counts(dtype: str = "uint16", *, frames: int | None = None, seed: int = 0) -> np.ndarray:
    """Poisson counts about 50, oblong [24, 40] or [frame, 24, 40]."""
    shape = (24, 40) if frames is None else (frames, 24, 40)
    return np.random.default_rng(seed).poisson(50, shape).astype(dtype)


def write_rsciio(module: str, path: Path, data: dict) -> Path:
    """A file by RosettaSciIO's own writer, from a dictionary such as `signal` makes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the writers' own remarks are not what is tested
        importlib.import_module(f"rsciio.{module}").file_writer(str(path), data)
    return path


# DigitalMicrograph: (image data type, element type of the tag's array) for each NumPy type
_DM_TYPES = {
    "int16": (1, 2),
    "float32": (2, 6),
    "uint8": (6, 10),
    "int32": (7, 3),
    "int8": (9, 9),
    "uint16": (10, 4),
    "uint32": (11, 5),
    "float64": (12, 7),
}


class _DM:
    def __init__(self, version: int) -> None:
        self.version = version
        self.long = ">q" if version == 4 else ">i"  # lengths and codes; always big-endian

    def _longs(self, *values: int) -> bytes:
        return b"".join(struct.pack(self.long, v) for v in values)

    def group(self, tags: list[tuple[str, object]], root: bool = False) -> bytes:
        body = b"".join(self._tag(name, value) for name, value in tags)
        size = b"" if root or self.version == 3 else self._longs(len(body))
        return b"\0\1" + size + self._longs(len(tags)) + body

    def _tag(self, name: str, value: object) -> bytes:
        head = struct.pack(">H", len(name)) + name.encode()
        if isinstance(value, list):
            return b"\x14" + head + self.group(value)
        if isinstance(value, str):
            units = value.encode("utf-16-le")
            data = self._longs(3, 20, 4, len(units) // 2) + units
        elif isinstance(value, float):
            data = self._longs(1, 7) + struct.pack("<d", value)
        elif isinstance(value, int):
            data = self._longs(1, 5) + struct.pack("<I", value)
        else:
            array = np.asarray(value)
            code = _DM_TYPES[array.dtype.name][1]
            little = array.astype(array.dtype.newbyteorder("<")).tobytes()
            data = self._longs(3, 20, code, array.size) + little
        size = b"" if self.version == 3 else self._longs(len(data) + 4)
        return b"\x15" + head + size + b"%%%%" + data


def write_dm(
    path: Path,
    image: np.ndarray,
    steps: tuple[float, ...] = (0.2, 0.3),
    units: str = "nm",
    *,
    version: int = 3,
    thumbnail: bool = True,
) -> Path:
    """A DigitalMicrograph file; `steps` along the array's axes, so (y, x) or (frame, y, x)."""
    dm = _DM(version)

    def one(array: np.ndarray, name: str, steps: tuple[float, ...], units: str) -> list:
        axes = [
            ("", [("Origin", 0.0), ("Scale", float(s)), ("Units", units if i < 2 else "")])
            for i, s in enumerate(steps[::-1])  # x first
        ]
        brightness = [("Origin", 0.0), ("Scale", 1.0), ("Units", "")]
        return [
            (
                "ImageData",
                [
                    ("Calibrations", [("Brightness", brightness), ("Dimension", axes)]),
                    ("Data", array),
                    ("DataType", _DM_TYPES[array.dtype.name][0]),
                    ("Dimensions", [("", int(n)) for n in array.shape[::-1]]),
                    ("PixelDepth", array.dtype.itemsize),
                ],
            ),
            ("ImageTags", [("Microscope Info", [("Voltage", 80000.0)])]),
            ("Name", name),
        ]

    images = [("", one(image, "HAADF", steps, units))]
    tags: list = []
    if thumbnail:  # as DigitalMicrograph itself does: image 0 is the preview
        images.insert(0, ("", one(np.zeros((16, 16), np.uint8), "preview", (1.0, 1.0), "")))
        tags = [("Thumbnails", [("", [("ImageIndex", 0)])])]
    body = dm.group([("ImageList", images), *tags], root=True)
    size = struct.pack(dm.long, len(body))
    path.write_bytes(struct.pack(">i", version) + size + struct.pack(">i", 1) + body + bytes(8))
    return path


_SER_TYPES = {"uint8": 1, "uint16": 2, "uint32": 3, "int16": 5, "int32": 6, "float32": 7}


def write_ser(
    path: Path,
    images: np.ndarray,
    steps: tuple[float, float] = (2e-10, 3e-10),
    *,
    version: int = 0x210,
) -> Path:
    """A TIA series [frame, y, x]; steps (y, x) in metres; rows run upwards as TIA's do."""
    count, ny, nx = images.shape
    code = _SER_TYPES[images.dtype.name]
    word = "<I" if version <= 0x210 else "<Q"
    dimension = struct.pack("<IddII", count, 0.0, 1.0, 0, 6) + b"Number" + struct.pack("<I", 0)
    start = 22 + struct.calcsize(word) + 4 + len(dimension)
    elements = []
    for image in images:
        geometry = struct.pack("<ddIddI", 0.0, steps[1], 0, 0.0, steps[0], 0)
        pixels = image.astype(image.dtype.newbyteorder("<")).tobytes()
        elements.append(geometry + struct.pack("<HII", code, nx, ny) + pixels)
    first = start + 2 * count * struct.calcsize(word)
    tag = struct.pack("<HHI", 0x4152, 0, 1_500_000_000)
    offsets = [first + i * (len(elements[0]) + len(tag)) for i in range(count)]
    tags = [o + len(elements[0]) for o in offsets]
    head = struct.pack("<HHHIIII", 0x4949, 0x0197, version, 0x4122, 0x4152, count, count)
    table = b"".join(struct.pack(word, o) for o in offsets + tags)
    body = b"".join(element + tag for element in elements)
    path.write_bytes(
        head + struct.pack(word, start) + struct.pack("<I", 1) + dimension + table + body
    )
    return path


_MRC_MODES = {"int8": 0, "uint8": 0, "int16": 1, "float32": 2, "complex64": 4, "uint16": 6}


def write_mrc(
    path: Path,
    volume: np.ndarray,
    steps: tuple[float, float] | None = (2.0, 3.0),
    *,
    order: str = "<",
    extended: int = 0,
) -> Path:
    """An MRC2014 file [z, y, x]; steps (y, x) in Å, None for a header without a cell."""
    nz, ny, nx = volume.shape
    y, x = steps or (0.0, 0.0)
    words = struct.pack(
        f"{order}10i", nx, ny, nz, _MRC_MODES[volume.dtype.name], 0, 0, 0, nx, ny, nz
    )
    cell = struct.pack(f"{order}6f", nx * x, ny * y, nz * 1.0, 90, 90, 90)
    statistics = struct.pack(f"{order}3i3f2i", 1, 2, 3, 0, 0, 0, 0, extended)
    head = bytearray(1024)
    head[: len(words + cell + statistics)] = words + cell + statistics
    if volume.dtype == np.uint8:  # IMOD's unsigned bytes
        head[152:156] = struct.pack(f"{order}i", 1146047817)
    head[208:216] = b"MAP " + (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    data = volume.astype(volume.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(bytes(head) + bytes(extended) + data)
    return path


def write_velox(
    path: Path, images: dict[str, np.ndarray], step: tuple[float, float], units: str = "m"
) -> Path:
    """A Velox emd file: per detector an array [y, x, frame] with its JSON metadata."""
    import h5py

    with h5py.File(path, "w") as file:
        version = json.dumps({"format": "Velox", "version": "7"}).encode()
        file["Version"] = np.array([version], dtype=h5py.string_dtype())
        for i, (detector, array) in enumerate(images.items()):
            metadata = {
                "BinaryResult": {
                    "DetectorIndex": "0",
                    "PixelSize": {"height": str(step[0]), "width": str(step[1])},
                    "Offset": {"x": "0", "y": "0"},
                    "PixelUnitX": units,
                    "PixelUnitY": units,
                },
                "Detectors": {"Detector-0": {"DetectorName": detector, "ExposureTime": "1"}},
                "Scan": {"FrameTime": "1"},
                "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1500000000"}},
            }
            text = np.frombuffer(json.dumps(metadata).encode(), dtype=np.uint8)
            group = file.create_group(f"Data/Image/{i:032x}")
            group["Data"] = array
            group["Metadata"] = np.repeat(text[:, None], array.shape[2], axis=1)
    return path


def signal(
    data: np.ndarray,
    steps: tuple[float, ...] = (0.2, 0.3),
    units: str = "nm",
    *,
    title: str = "haadf",
) -> dict:
    """RosettaSciIO's dictionary for its writers: the last two axes are the image."""
    scales = (1.0,) * (data.ndim - len(steps)) + tuple(steps)
    first = data.ndim - 2
    return {
        "data": data,
        "axes": [
            {
                "_type": "UniformDataAxis",
                "name": "abyx"[i - data.ndim],
                "size": size,
                "scale": scales[i],
                "offset": 0.0,
                "units": units if i >= first else "",
                "index_in_array": i,
                "navigate": i < first,
            }
            for i, size in enumerate(data.shape)
        ],
        "metadata": {"General": {"title": title}, "Signal": {"signal_type": ""}},
        "original_metadata": {},
        "package_info": {"package": "test", "package_version": "1"},
        "learning_results": {},
        "tmp_parameters": {},
        "attributes": {"_lazy": False, "ragged": False},
        "models": None,
    }
