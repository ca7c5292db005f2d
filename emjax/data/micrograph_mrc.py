"""MRC, the format of cryo-EM and tomography (MRC2014: Cheng et al., J. Struct. Biol. 192, 146).

Read here and not through RosettaSciIO, which takes every file for little-endian and a header
without cell for 1 nm a pixel. Only the old FEI extended header (128 KiB, with the pixel size) is
left to it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emjax.data.micrograph_formats import Entry, FormatError, make_entry, rsciio_entries

_MODES = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2"}
_OLD_FEI_HEADER = 128 * 1024
_IMOD_STAMP = (
    1146047817  # "IMOD" at byte 152: mode 0 is unsigned unless bit 0 of the next word is set
)


def read(path: Path) -> tuple[str, list[Entry]]:
    """The image or stack of an MRC file, with the cell's step in Å where the header has one.

    Raises
    ------
    FormatError
        Not an MRC header, a data mode that is not read, or fewer bytes than the header announces.
    """
    with path.open("rb") as file:
        head = file.read(1024)
    if len(head) < 1024:
        raise FormatError(
            f"it is incomplete: an MRC header has 1024 bytes, the file {len(head)}. Copy it again"
        )
    order = _byte_order(head)
    words = np.frombuffer(head, dtype=f"{order}i4")
    nx, ny, nz, mode = (int(n) for n in words[:4])
    if min(nx, ny, nz) < 1 or max(nx, ny, nz) > 2**24 or not 0 <= mode < 1000:
        raise FormatError(
            f"it is not an MRC file: its header says {nx} x {ny} x {nz} pixels of mode {mode}"
        )
    if mode not in _MODES:
        raise FormatError(
            f"MRC mode {mode} is not read: convert it to 16-bit or float (mode 1, 6 or 2)"
        )
    extended = int(words[23])
    if extended == _OLD_FEI_HEADER and order == "<":
        return "MRC (FEI)", rsciio_entries(path, "rsciio.mrc")
    code = _MODES[mode]
    if mode == 0 and words[38] == _IMOD_STAMP and not words[39] & 1:
        code = "u1"
    dtype = np.dtype(f"{order}{code}")
    needed = 1024 + extended + nx * ny * nz * dtype.itemsize
    if path.stat().st_size < needed:
        raise FormatError(
            f"it is incomplete: the header announces {needed} bytes ({nz} x {ny} x {nx}, "
            f"{dtype.name}), the file has {path.stat().st_size}. Copy it again"
        )
    data = np.memmap(path, dtype=dtype, mode="r", offset=1024 + extended, shape=(nz, ny, nx))
    cell = np.frombuffer(head, dtype=f"{order}f4")[10:13]
    steps = [
        float(c) / int(m) if m > 0 and c > 0 else None
        for c, m in zip(cell, words[7:10], strict=True)
    ]
    x, y, _ = ((s, "Å") if s else (None, "") for s in steps)
    return "MRC", [make_entry(data, yx=(y, x), colour=False, metadata={"mode": mode})]


def _byte_order(head: bytes) -> str:
    """By the machine stamp; where it is empty, the order in which the mode makes sense."""
    if head[212] in (0x44, 0x11):
        return "<" if head[212] == 0x44 else ">"
    return "<" if 0 <= np.frombuffer(head, dtype="<i4")[3] < 1000 else ">"
