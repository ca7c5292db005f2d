"""A trained network as one file: weights, architecture, and a proof that it still works.

The file keeps an input and the output that the network gave when it was saved. `load_model` runs
the input again and refuses a network whose output has changed: an old file in a new version must
fail with a sentence, never with empty pictures.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import emjax
from emjax.files import plain
from emjax.h5_files import CheckpointError, datasets, reading, write_header, writing

if TYPE_CHECKING:
    import jax

FORMAT = "emjax-model"
SCHEMA = 1
"""Raised whenever a file of the old layout would be misread."""

WEIGHTS = Path(__file__).parent / "weights"
"""The networks that are shipped with the package."""

TOLERANCE = 1e-3
"""Largest difference from the stored output, relative to its largest value."""

Apply = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Model:
    """A trained network, ready to use: ``model.apply(model.params, x)``."""

    apply: Apply
    """``(params, x[b, y, x, c]) -> y[b, y, x, k]``, compiled for each shape of x."""
    params: dict[str, Any]
    """Nested dict of float32 arrays."""
    meta: dict[str, Any]
    """What `save_model` was given (``classes``, ``sampling`` …), and ``network``,
    ``network_args``, ``emjax``, ``jax``, ``path``."""


def save_model(
    path: str | os.PathLike,
    *,
    network: str,
    network_args: Mapping[str, Any],
    params: Any,
    meta: Mapping[str, Any],
    example: np.ndarray,
    dtype: str = "float32",
) -> None:
    """Write a trained network, atomically.

    Parameters
    ----------
    path
        The file (``model.h5`` of a run).
    network
        A name in `emjax.networks.NETWORKS`, or ``path/to/file.py:Name``.
    network_args
        What the architecture was built with: numbers, strings, lists.
    params
        The weights; for a trained state, ``state.ema``.
    meta
        What a user of the network must know; becomes `Model.meta`.
    example
        An input [b, y, x, c] like those the network will see; small (64 pixels are enough).
    dtype
        How the weights are stored; "float16" halves the file. They are used as float32, and the
        stored output is that of the rounded weights.

    Raises
    ------
    ValueError
        `params` do not belong to this architecture, the example is not [b, y, x, c], or the output
        is not finite.
    """
    import jax

    from emjax.checkpoints import write_leaves

    example = np.asarray(example, np.float32)
    if not 2 <= example.ndim <= 5 or not np.isfinite(example).all():
        raise ValueError(
            f"example must be finite and [b, (z,) y, x, c] or [b, c]; its shape is {example.shape}"
        )
    if not np.issubdtype(np.dtype(dtype), np.floating):
        raise ValueError(f"dtype {dtype!r}: choose float32 or float16")
    apply, template = build_network(network, network_args)
    if fingerprint(template) != fingerprint(params):
        raise ValueError(
            f"these weights are not those of {network} with {dict(network_args)}: "
            + _difference(_shapes(template), _shapes(params))
        )
    params = jax.tree.map(lambda p: np.asarray(p).astype(dtype), params)
    used = jax.tree.map(lambda p: p.astype(np.float32), params)
    output = np.asarray(run_exactly(apply, used, example))
    if not np.isfinite(output).all():
        raise ValueError("the network's output for the example is not finite; it was not saved")
    with writing(path) as file:
        write_header(file, FORMAT, SCHEMA, dict(meta))
        file.attrs["network"] = network
        file.attrs["network_args"] = json.dumps(plain(network_args))
        file.attrs["fingerprint"] = fingerprint(params)
        write_leaves(file.create_group("params"), params)
        for name, value in (("input", example), ("output", output.astype(np.float32))):
            file.create_dataset(f"example/{name}", data=value, compression="gzip", shuffle=True)


def load_model(source: str | os.PathLike) -> Model:
    """Read a trained network and prove that it works as it did.

    Parameters
    ----------
    source
        A model file, a run's folder (its ``model.h5``), the name of a shipped network, or of a run
        in ``./runs``.

    Raises
    ------
    CheckpointError
        Nothing of that name (suggests some); truncated or damaged; another schema; an architecture
        that is unknown or has other parameters here; an output that differs by more than 1e-3.
    """
    import jax

    from emjax.checkpoints import read_leaves

    path = find_model(source)
    with reading(path, FORMAT, SCHEMA) as file:
        meta = _meta(file, path)
        stored = file.attrs["fingerprint"]
        example, expected = file["example/input"][()], file["example/output"][()]
    by = f"{path} (written by emjax {meta['emjax']} with jax {meta['jax']})"
    # outside of `reading`: what fails here is not the file
    try:
        apply, template = build_network(meta["network"], meta["network_args"], near=path.parent)
    except Exception as error:
        raise CheckpointError(
            f"{by} needs the network {meta['network']} with {meta['network_args']}, which cannot "
            f"be built here: {error}"
        ) from error
    with reading(path, FORMAT, SCHEMA) as file:
        if fingerprint(template) != stored:
            here = f"{meta['network']} of this emjax {emjax.__version__}"
            found = {name: data.shape for name, data in datasets(file["params"]).items()}
            raise CheckpointError(
                f"{by} does not fit {here}: {_difference(_shapes(template), found)}. "
                f"Install emjax {meta['emjax']} to use it, or train again."
            )
        params = read_leaves(file["params"], template, cast=True)
    apply = jax.jit(apply)
    output = np.asarray(run_exactly(apply, params, example))
    _verify(output, expected, by)
    return Model(apply, params, meta)


def describe_model(source: str | os.PathLike) -> dict[str, Any]:
    """`Model.meta` of a file without building the network. Raises as `load_model`."""
    path = find_model(source)
    with reading(path, FORMAT, SCHEMA) as file:
        return _meta(file, path)


def shipped_models() -> dict[str, Path]:
    """The networks that lie in the package, by name (imports no jax)."""
    return {path.stem: path for path in sorted(WEIGHTS.glob("*.h5"))}


def find_model(source: str | os.PathLike) -> Path:
    """The file that `load_model` reads for `source` (see there)."""
    path, text = Path(source), os.fspath(source)
    shipped = shipped_models()
    if path.is_file():
        return path
    if (path / "model.h5").is_file():
        return path / "model.h5"
    if text in shipped:
        return shipped[text]
    if len(path.parts) == 1 and (Path("runs") / path / "model.h5").is_file():
        return Path("runs") / path / "model.h5"
    for folder in (path, Path("runs") / path):
        if (folder / "config.json").is_file():
            raise CheckpointError(
                f"the run {folder} has no model.h5: its training did not end. Run its command "
                f"(see {folder / 'env.json'}) again with --name {folder.name} --resume."
            )
    if path.is_dir():
        raise CheckpointError(f"{path} is not a run: it has neither model.h5 nor config.json")
    runs = [f"runs/{file.parent.name}" for file in sorted(Path("runs").glob("*/model.h5"))]
    close = difflib.get_close_matches(text, [*shipped, *runs], n=3, cutoff=0.5)
    known = ", ".join(close or [*shipped, *runs][:6]) or "none yet; train one with `emjax run`"
    raise CheckpointError(
        f"no trained network {text!r}: it is neither a file, nor a run's folder, nor the name of a "
        f"shipped network. {'Did you mean' if close else 'There are'}: {known}"
    )


def network_args(network: str, given: str = "", **wanted: Any) -> dict[str, Any]:
    """Arguments for `build_network` out of what an experiment would like.

    Parameters
    ----------
    network
        As in `build_network`.
    given
        JSON of further arguments, which a user wrote: ``{"width": 24}``. They come last.
    **wanted
        Arguments that are passed on where the architecture has them; `inputs` and `outputs` always.

    Raises
    ------
    ValueError
        `given` is no JSON object.
    """
    try:
        own = json.loads(given or "{}")
    except ValueError as error:
        raise ValueError(f"--network-args {given!r} is not JSON ({error})") from error
    if not isinstance(own, dict):
        raise ValueError(f'--network-args {given!r} must be a JSON object such as {{"width": 24}}')
    factory = _factory(network)
    made = factory.__init__ if isinstance(factory, type) else factory
    parameters = inspect.signature(made).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    kept = {k: v for k, v in wanted.items() if takes_all or k in parameters}
    return {**{k: wanted[k] for k in ("inputs", "outputs") if k in wanted}, **kept, **own}


def build_network(
    network: str,
    args: Mapping[str, Any],
    *,
    key: jax.Array | None = None,
    near: Path | None = None,
) -> tuple[Apply, Any]:
    """``(apply, params)`` of a registered architecture or of one in a user's file.

    Parameters
    ----------
    network
        A name in `emjax.networks.NETWORKS`, or ``path/to/file.py:Name``. The file is executed.
        Name is a class of `flax.nnx.Module` (made with `args` and `rngs`), or a function
        ``(key, **args) -> (apply, params)``.
    args
        Its arguments.
    key
        Random key of the initial weights; default: `jax.random.key(0)`.
    near
        A second folder in which a relative path is looked up.
    """
    import jax

    from emjax import networks

    key = jax.random.key(0) if key is None else key
    if ".py:" not in network:
        return networks.build(network, key, **args)
    factory = _factory(network, near)
    if isinstance(factory, type):
        from flax import nnx

        return networks.pure(factory(**args, rngs=nnx.Rngs(key)))
    return factory(key, **args)


def _factory(network: str, near: Path | None = None) -> Any:
    """The class or function that a network's name stands for."""
    file, colon, name = network.rpartition(":")
    if not (colon and file.endswith(".py")):
        from emjax.networks import network_class

        return network_class(network)
    places = [Path(file), *([near / file, near / Path(file).name] if near else [])]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"there is no file {file}; run from the folder that it is in")
    spec = importlib.util.spec_from_file_location(f"emjax_network_{found.stem}", found)
    if spec is None or spec.loader is None:
        raise ImportError(f"{found} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise AttributeError(f"{found} defines no {name}")
    return getattr(module, name)


def fingerprint(params: Any) -> str:
    """SHA-256 of the paths and shapes of all weights: equal where files can be exchanged."""
    return hashlib.sha256(json.dumps(sorted(_shapes(params).items())).encode()).hexdigest()


def run_exactly(apply: Apply, params: Any, x: np.ndarray) -> Any:
    """`apply` in full float32: an accelerator's default rounds products to ten bits or fewer."""
    import jax

    exact = jax.default_matmul_precision("highest")
    with nullcontext() if jax.default_backend() == "cpu" else exact:
        return jax.jit(apply)(params, x)


def _verify(output: np.ndarray, expected: np.ndarray, by: str) -> None:
    import jax

    this = f"this emjax {emjax.__version__} with jax {jax.__version__} on {jax.default_backend()}"
    if output.shape != expected.shape:
        raise CheckpointError(
            f"{by} gave an output of shape {expected.shape} when it was saved; with {this} it is "
            f"{output.shape}. Install the versions that wrote it, or train again."
        )
    scale = float(np.abs(expected).max()) or 1.0
    error = float(np.abs(output - expected).max()) / scale
    if not error <= TOLERANCE:  # NaN fails too
        raise CheckpointError(
            f"{by} does not reproduce its stored output: with {this} it differs by {error:.2g} of "
            f"the largest value ({TOLERANCE:g} is allowed), so its results would be wrong. Install "
            "the versions that wrote it, or train again."
        )


def _meta(file: Any, path: Path) -> dict[str, Any]:
    attrs = file.attrs
    return {
        **json.loads(attrs["meta"]),
        "network": str(attrs["network"]),
        "network_args": json.loads(attrs["network_args"]),
        "emjax": str(attrs["emjax"]),
        "jax": str(attrs["jax"]),
        "path": str(path),
    }


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    from emjax.checkpoints import named_leaves

    return {name: tuple(leaf.shape) for name, leaf in named_leaves(params).items()}


def _difference(want: dict[str, tuple[int, ...]], have: dict[str, tuple[int, ...]]) -> str:
    """The first few parameters that differ, of shapes by name."""
    lines = [
        f"{name} has shape {have[name]}, not {want[name]}"
        for name in want
        if name in have and have[name] != want[name]
    ]
    lines += [f"{name} is missing" for name in want if name not in have]
    lines += [f"{name} is not expected" for name in have if name not in want]
    more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
    return "; ".join(lines[:5]) + more
