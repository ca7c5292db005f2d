"""A network as a compiled-for-anything file: it needs neither its Python code nor flax to run.

The file holds the program (StableHLO, by `jax.export`), the weights, and an input with the output
that belongs to it. `load_exported` runs the input again and refuses a file whose output has
changed, that another program wrote, that this jax cannot read, or that was made for other devices.
Where a model file (`emjax.models`) is the thing to keep and to train on, this is the thing to give
away: it works for as long as jax reads it (promised for six months after the jax that wrote it),
and whatever becomes of the code of the network.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emjax.files import plain
from emjax.h5_files import CheckpointError, reading, write_header, writing
from emjax.models import TOLERANCE, Apply

FORMAT = "emjax-exported"
SCHEMA = 1
"""Raised whenever a file of the old layout would be misread."""
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""Devices that a program is made for."""
INSTALL = "pip install flatbuffers (a small package without dependencies, which jax.export needs)"


@dataclass(frozen=True, eq=False)
class Exported:
    """A program with its weights: ``model.apply(model.params, x)``, or `emjax.inference.predict`.

    Attributes
    ----------
    apply : ``(params, x) -> y``.
    params : list of arrays.
    meta : what `export_model` was given, and ``channels``, ``input`` (the shape, such as
        ["b", "8*y", "8*x", 2]), ``platforms``, ``emjax``, ``jax``, ``path``.
    program : the `jax.export.Exported`.
    """

    apply: Apply
    params: list[Any]
    meta: dict[str, Any]
    program: Any


def export_model(
    path: str | os.PathLike,
    model: Any,
    example: np.ndarray,
    *,
    any_size: int = 0,
    platforms: Sequence[str] = PLATFORMS,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write a network as a file that runs without its code.

    Parameters
    ----------
    path
        The file.
    model
        Anything with ``apply``, ``params`` and perhaps ``meta`` (`emjax.models.load_model`).
    example
        An input [b, y, x, c] like those that it will see; the number of images stays free.
    any_size
        The program takes images of any multiple of this along y and x, such as 16 for a U-Net with
        four halvings; 0: of the size of `example` alone.
    platforms
        Of `PLATFORMS`: what it is to run on.
    meta
        What a user of the network must know; added to that of the model.

    Raises
    ------
    ValueError
        An example that is not finite [b, (z,) y, x, c] or no multiple of `any_size`; a platform
        that there is not; a network whose shapes depend on the image's size in a way that jax
        cannot write down (says what jax says); an output that is not finite.
    ImportError
        The package flatbuffers is missing.
    """
    import jax
    from jax import export

    _flatbuffers()
    example = np.asarray(example, np.float32)
    if example.ndim not in (4, 5) or not np.isfinite(example).all():
        raise ValueError(f"example must be finite and [b, y, x, c]; its shape is {example.shape}")
    unknown = sorted(set(platforms) - set(PLATFORMS))
    if unknown or not platforms:
        raise ValueError(f"platforms {list(platforms)}: choose from {', '.join(PLATFORMS)}")
    shape = _symbolic(example.shape, any_size)
    leaves, tree = jax.tree.flatten(model.params)
    leaves = [np.asarray(leaf) for leaf in leaves]

    def run(leaves: list[Any], x: Any) -> Any:
        return model.apply(jax.tree.unflatten(tree, leaves), x)

    abstract = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    sizes = export.symbolic_shape(", ".join(map(str, shape)))
    try:
        program = export.export(jax.jit(run), platforms=platforms)(
            abstract, jax.ShapeDtypeStruct(sizes, np.float32)
        )
    except Exception as error:
        more = f"a larger multiple such as {2 * any_size}" if any_size else "another example"
        raise ValueError(
            f"this network cannot be exported for images [{', '.join(map(str, shape))}]: its own "
            f"sizes must follow from these by whole numbers. Try {more} (any_size is the stride of "
            f"the network, or a multiple). jax says: {str(error).splitlines()[0][:200]}"
        ) from error
    output = np.asarray(_exactly(program.call, leaves, example))
    if not np.isfinite(output).all():
        raise ValueError("the network's output for the example is not finite; it was not exported")
    binary = bytes(program.serialize())
    with writing(path) as file:
        write_header(file, FORMAT, SCHEMA, {**plain(getattr(model, "meta", {})), **(meta or {})})
        file.attrs["input"] = json.dumps(shape)
        file.attrs["platforms"] = json.dumps(list(platforms))
        file.attrs["sha256"] = _digest(binary, leaves)
        file.create_dataset("program", data=np.frombuffer(binary, np.uint8))
        for index, leaf in enumerate(leaves):
            file.create_dataset(f"params/{index}", data=leaf)
        for name, value in (("input", example), ("output", output)):
            file.create_dataset(f"example/{name}", data=value, compression="gzip", shuffle=True)


def load_exported(path: str | os.PathLike) -> Exported:
    """Read a network that `export_model` wrote and prove that it works as it did.

    Raises
    ------
    CheckpointError
        No such file; of another program; truncated or changed; of another schema; of a jax that is
        too new or too old for this one; made for other devices; an output that differs by more
        than 1e-3 from the stored one.
    ImportError
        The package flatbuffers is missing.
    """
    import jax
    from jax import export

    _flatbuffers()
    path = Path(path)
    with reading(path, FORMAT, SCHEMA) as file:
        attrs = file.attrs
        binary = file["program"][()].tobytes()
        group = file["params"]
        params = [group[str(i)][()] for i in range(len(group))]
        example, expected = file["example/input"][()], file["example/output"][()]
        shape, platforms = json.loads(attrs["input"]), json.loads(attrs["platforms"])
        meta = {
            **json.loads(attrs["meta"]),
            "channels": int(shape[-1]),
            "input": shape,
            "platforms": platforms,
            "emjax": str(attrs["emjax"]),
            "jax": str(attrs["jax"]),
            "path": str(path),
        }
        stored = attrs["sha256"]
    by = f"{path} (written by emjax {meta['emjax']} with jax {meta['jax']})"
    if _digest(binary, params) != stored:
        raise CheckpointError(f"{by} was changed or damaged: copy it again, or export again")
    platform = export.default_export_platform()
    if platform not in platforms:
        raise CheckpointError(
            f"{by} was made for {', '.join(platforms)}, but jax runs on {platform} here. Export it "
            f"again with platforms=({platform!r},), or set JAX_PLATFORMS={platforms[0]}."
        )
    try:
        program = export.deserialize(bytearray(binary))
        call = jax.jit(program.call)
        output = np.asarray(_exactly(program.call, params, example))
    except Exception as error:
        raise CheckpointError(
            f"{by} cannot be run by jax {jax.__version__}: {str(error).splitlines()[0]}. Install "
            f"jax {meta['jax']}, or export the network again."
        ) from error
    _verify(output, expected, by)
    params = jax.device_put(params)
    return Exported(_checked(call, shape, by), params, meta, program)


def _checked(call: Apply, shape: list[Any], by: str) -> Apply:
    """`call` with a sentence where an image has a size that the program is not made for."""

    def apply(params: Any, x: Any) -> Any:
        _check_size(tuple(x.shape), shape, by)
        return call(params, x)

    return apply


def _check_size(found: tuple[int, ...], shape: list[Any], by: str) -> None:
    good = len(found) == len(shape)
    for n, wanted in zip(found, shape, strict=False):
        if isinstance(wanted, int):
            good = good and n == wanted
        elif "*" in wanted:
            good = good and n > 0 and n % int(wanted.split("*")[0]) == 0
    if not good:
        raise ValueError(
            f"{by} takes images [{', '.join(map(str, shape))}], not {list(found)}: pad, crop or "
            "tile them, or export the network for other sizes"
        )


def _symbolic(shape: tuple[int, ...], any_size: int) -> list[Any]:
    """The shape of the input with letters for what is free."""
    if any_size < 0 or (any_size and any(n % any_size for n in shape[1:-1])):
        raise ValueError(
            f"any_size={any_size}: the example {shape} must be a multiple of it along its sides"
        )
    spatial: list[Any] = list(shape[1:-1])
    if any_size:
        letters = "zyx"[-len(spatial) :]
        spatial = [f"{any_size}*{c}" if any_size > 1 else c for c in letters]
    return ["b", *spatial, shape[-1]]


def _exactly(call: Apply, params: Any, x: np.ndarray) -> Any:
    from emjax.models import run_exactly

    return run_exactly(call, params, x)


def _verify(output: np.ndarray, expected: np.ndarray, by: str) -> None:
    scale = float(np.abs(expected).max()) or 1.0
    error = np.inf
    if output.shape == expected.shape:
        error = float(np.abs(output - expected).max()) / scale
    if not error <= TOLERANCE:  # NaN fails too
        import jax

        raise CheckpointError(
            f"{by} does not reproduce its stored output: with jax {jax.__version__} on "
            f"{jax.default_backend()} it differs by {error:.2g} of the largest value "
            f"({TOLERANCE:g} is allowed), so its results would be wrong. Export the network again."
        )


def _digest(binary: bytes, leaves: list[np.ndarray]) -> str:
    found = hashlib.sha256(binary)
    for leaf in leaves:
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def _flatbuffers() -> None:
    try:
        importlib.import_module("flatbuffers")
    except ImportError as error:
        raise ImportError(f"exported networks need flatbuffers: {INSTALL}") from error
