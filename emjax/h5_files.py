"""The frame of emjax's HDF5 files: kind, schema, writer; every fault of a file as one error.

Imports no jax, so that a file can be listed quickly.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

import emjax
from emjax.files import plain, replacing


class CheckpointError(ValueError):
    """A file cannot be used; the message says why and what to do."""


def write_header(file: h5py.File, kind: str, schema: int, meta: dict[str, Any]) -> None:
    """What `reading` checks: the kind of the file, its schema, who wrote it, and `meta`."""
    file.attrs.update(
        {
            "format": kind,
            "schema": schema,
            "emjax": emjax.__version__,
            "jax": importlib.metadata.version("jax"),
            "meta": json.dumps(plain(meta)),
        }
    )


@contextmanager
def abandoning(file: h5py.File) -> Iterator[None]:
    """Where the block fails, send what HDF5 still wants to write to nowhere.

    HDF5 ends the process with a segmentation fault when closing a file fails, as it does on a full
    disk. The file is about to be removed in any case.
    """
    try:
        yield
        file.flush()  # here and not at the closing
    except BaseException:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, file.id.get_vfd_handle())
        os.close(nowhere)
        raise


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[h5py.File]:
    """A new HDF5 file that takes the place of `path` once it is whole; never half a file."""
    with (
        replacing(path) as part,
        h5py.File(part, "w", locking=False) as file,
        abandoning(file),
    ):
        yield file


@contextmanager
def reading(path: str | os.PathLike, kind: str, schema: int) -> Iterator[Any]:
    """Open one of our HDF5 files; whatever is wrong with it becomes a `CheckpointError`."""
    path, what = Path(path), kind.removeprefix("emjax-")
    if not path.is_file():
        raise CheckpointError(f"there is no {what} {path}")
    try:
        with h5py.File(path, "r", locking=False) as file:
            found = file.attrs.get("format")
            if found != kind:
                other = f"an {found} file" if found else "an HDF5 file of another program"
                raise CheckpointError(f"{path} is not an {kind} file but {other}")
            if file.attrs["schema"] != schema:
                raise CheckpointError(
                    f"{path} has {what} schema {file.attrs['schema']}, written by emjax "
                    f"{file.attrs['emjax']}; this emjax {emjax.__version__} reads schema {schema}. "
                    f"Install emjax {file.attrs['emjax']} to use it, or train again."
                )
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        if not h5py.is_hdf5(path):
            raise CheckpointError(
                f"{path} is not an HDF5 file, so not a {what} of emjax"
            ) from error
        raise CheckpointError(
            f"{path} is truncated or damaged ({error}): copy it again, or train again"
        ) from error


def datasets(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Every dataset below `group` by its path."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, entry: Any) -> None:
        if isinstance(entry, h5py.Dataset):
            found[name] = entry

    group.visititems(visit)
    return found
