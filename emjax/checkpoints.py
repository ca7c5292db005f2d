"""Trees of arrays in one HDF5 file: written whole or not at all, read back exactly.

Every leaf is a dataset whose HDF5 path is its path in the tree (``leaves/params/encoder/kernel``),
so that any HDF5 viewer shows it. Beside the bytes a leaf keeps what HDF5 has no type for: JAX's
random keys, bfloat16, Python numbers. A CRC-32 of each leaf is checked at load.
"""

from __future__ import annotations

import difflib
import json
import os
import zlib
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from emjax.h5_files import CheckpointError, datasets, reading, write_header, writing

__all__ = [
    "CheckpointError",
    "load_checkpoint",
    "named_leaves",
    "read_leaves",
    "save_checkpoint",
    "write_leaves",
]

FORMAT = "emjax-checkpoint"
SCHEMA = 1
"""Raised whenever a file of the old layout would be misread."""


def save_checkpoint(path: str | os.PathLike, tree: Any, *, meta: dict[str, Any]) -> None:
    """Write a pytree of arrays, random keys and Python numbers; atomic.

    Parameters
    ----------
    path
        The file; an old one is replaced when the new one is complete.
    tree
        Any pytree.
    meta
        Anything that `emjax.files.plain` turns into JSON.

    Raises
    ------
    TypeError
        A leaf is neither an array nor a number; names it.
    """
    with writing(path) as file:
        write_header(file, FORMAT, SCHEMA, meta)
        write_leaves(file.create_group("leaves"), tree)


def load_checkpoint(path: str | os.PathLike, like: Any) -> tuple[Any, dict[str, Any]]:
    """Read a pytree that has the structure, shapes and dtypes of `like`.

    Parameters
    ----------
    path
        A file of `save_checkpoint`.
    like
        A pytree of the same structure; its values do not matter. JAX arrays come back as JAX
        arrays (with the sharding of a committed one), NumPy arrays as NumPy arrays.

    Returns
    -------
    tree, meta
        Equal to what was saved, bit for bit.

    Raises
    ------
    CheckpointError
        No such file; truncated or damaged; not a checkpoint; of another schema; leaves missing,
        left over, or of another shape or dtype (the first five are named).
    """
    with reading(path, FORMAT, SCHEMA) as file:
        return read_leaves(file["leaves"], like), json.loads(file.attrs["meta"])


def write_leaves(group: h5py.Group, tree: Any) -> None:
    """One dataset for each leaf of `tree`."""
    named = named_leaves(tree)
    # one transfer for all; keys as the integers that they are
    raw = jax.device_get({k: jax.random.key_data(v) if _is_key(v) else v for k, v in named.items()})
    for name, leaf in named.items():
        value = np.asarray(raw[name])
        if value.dtype.kind in "OSUMm":
            raise TypeError(f"leaf {name} is a {type(leaf).__name__}, not an array or a number")
        data = np.ascontiguousarray(value).reshape(value.shape)
        if not _native(data.dtype):  # bfloat16, float8: HDF5 stores the bytes
            data = data.view(f"u{data.dtype.itemsize}")
        dataset = group.create_dataset(name, data=data)
        dataset.attrs["dtype"] = str(leaf.dtype) if _is_key(leaf) else value.dtype.name
        dataset.attrs["crc32"] = zlib.crc32(data.tobytes())
        if _is_key(leaf):
            dataset.attrs["key"] = str(jax.random.key_impl(leaf))


def read_leaves(group: h5py.Group, like: Any, *, cast: bool = False) -> Any:
    """The tree that `write_leaves` wrote, in the structure of `like` (see `load_checkpoint`).

    With `cast`, another floating-point width is converted to that of `like`.
    """
    wanted = named_leaves(like)
    stored = datasets(group)
    _compare(group.file.filename, wanted, stored, cast)
    leaves = []
    for name, leaf in wanted.items():
        dataset = stored[name]
        data = dataset[()]
        if zlib.crc32(np.asarray(data).tobytes()) != dataset.attrs["crc32"]:
            raise CheckpointError(
                f"{group.file.filename} is damaged: the checksum of {name} is wrong; "
                "copy it again, or train again"
            )
        leaves.append(_restore(data, dataset, leaf, cast))
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), leaves)


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by path: ``params/encoder/kernel``; a slash inside a name becomes %2F."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = "/".join(_escape(jax.tree_util.keystr((k,), simple=True)) for k in path) or "%00"
        if name in named:
            raise TypeError(f"two leaves of the tree have the path {name}")
        named[name] = leaf
    return named


def _escape(part: str) -> str:
    part = part.replace("%", "%25").replace("/", "%2F")
    return {"": "%00", ".": "%2E"}.get(part, part)


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _native(dtype: np.dtype) -> bool:
    return dtype.kind in "biufc"


def _shape_dtype(leaf: Any) -> tuple[tuple[int, ...], str]:
    """Of an array, a `jax.ShapeDtypeStruct` or a Python number, as `write_leaves` notes them."""
    if hasattr(leaf, "dtype"):
        return tuple(leaf.shape), str(leaf.dtype)
    return (), np.asarray(leaf).dtype.name


def _compare(
    filename: str, wanted: dict[str, Any], stored: dict[str, h5py.Dataset], cast: bool
) -> None:
    def described(shape: tuple[int, ...], dtype: str) -> str:
        return f"{dtype}[{','.join(map(str, shape))}]"

    problems = []
    left_over = [name for name in stored if name not in wanted]
    for name, leaf in wanted.items():
        shape, dtype = _shape_dtype(leaf)
        if name not in stored:
            close = difflib.get_close_matches(name, left_over, n=1, cutoff=0.9)
            problems.append(f"missing: {name}" + (f" (there is {close[0]})" if close else ""))
            continue
        dataset = stored[name]
        has_shape, has_dtype = dataset.shape, str(dataset.attrs["dtype"])
        if "key" in dataset.attrs:
            has_shape = has_shape[:-1]
        floats = cast and all(d.startswith(("float", "bfloat")) for d in (dtype, has_dtype))
        if has_shape != shape or (has_dtype != dtype and not floats):
            problems.append(
                f"{name}: {described(has_shape, has_dtype)} in the file, "
                f"{described(shape, dtype)} expected"
            )
    problems += [f"not expected: {name}" for name in left_over]
    if problems:
        more = [f"… and {len(problems) - 5} more"] if len(problems) > 5 else []
        raise CheckpointError(
            f"{filename} is of another architecture or optimiser: "
            f"{len(problems)} of its leaves do not fit:\n  "
            + "\n  ".join(problems[:5] + more)
            + "\nUse the settings that it was saved with, or start a new run."
        )


def _restore(data: Any, dataset: h5py.Dataset, like: Any, cast: bool) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(data), impl=str(dataset.attrs["key"]))
    value = np.asarray(data)
    dtype = np.dtype(dataset.attrs["dtype"])  # ml_dtypes registers bfloat16 with NumPy
    value = value if value.dtype == dtype else value.view(dtype)
    if not hasattr(like, "dtype"):
        return type(like)(value.item())
    if cast:
        value = value.astype(like.dtype)
    if isinstance(like, np.ndarray | np.generic):
        return value[()] if isinstance(like, np.generic) else value
    if isinstance(like, jax.Array) and like.committed:
        return jax.device_put(value, like.sharding)
    return jnp.asarray(value)
