"""Checkpoints of a training that several processes share, by Orbax.

One process writes one HDF5 file (`emjax.checkpoints`), several write an Orbax folder together; each
can be read by any number of processes. Of what lies beside each other the newer is taken, so that a
run may move between a laptop and a cluster. Orbax is an extra: ``pip install 'emjax[cluster]'``.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from emjax import distributed
from emjax.checkpoints import load_checkpoint, named_leaves, save_checkpoint
from emjax.h5_files import CheckpointError, reading
from emjax.sharding import data_mesh, replicate

KEEP = 2
"""Orbax checkpoints kept: a process that is killed while it writes one leaves the one before."""


def save_state(path: Path, tree: Any, meta: dict[str, Any]) -> None:
    """Write a checkpoint of ``meta["step"]`` updates; all processes must call it.

    Parameters
    ----------
    path
        The HDF5 file; an Orbax checkpoint becomes the folder of this name without ``.h5``.
    tree
        Pytree of arrays and random keys; the same in all processes.
    meta
        Numbers and texts, with ``step``.
    """
    folder = path.with_suffix("")
    if distributed.processes() == 1:
        save_checkpoint(path, tree, meta=meta)
        if folder.is_dir():
            shutil.rmtree(folder)  # older, of a run that began on several hosts
        return
    ocp = _orbax()
    with _manager(ocp, folder) as manager:
        args = ocp.args.Composite(
            leaves=ocp.args.StandardSave(_plain_leaves(tree)), meta=ocp.args.JsonSave(meta)
        )
        manager.save(meta["step"], args=args, force=True)
        manager.wait_until_finished()
    if distributed.rank() == 0:
        path.unlink(missing_ok=True)
    distributed.wait_for_all("emjax checkpoint")


class Found(NamedTuple):
    """A checkpoint that all processes see."""

    path: Path
    """The HDF5 file, or the Orbax folder of all steps."""
    step: int


def newest(path: Path) -> Found | None:
    """The newest checkpoint of either kind, or None; all processes must call it.

    The first process decides, so that all start from the same update wherever a process looks at a
    file system of its own.

    Parameters
    ----------
    path
        As in `save_state`.

    Raises
    ------
    CheckpointError
        A process does not see the checkpoint of the first one; it is damaged.
    """
    mine, problem = None, None
    try:
        mine = _newest(path)
    except CheckpointError as error:
        problem = error
    first = distributed.from_first("" if mine is None else f"{mine.step} {mine.path.name}")
    step, _, name = first.partition(" ")
    found = Found(path.parent / name, int(step)) if first else None
    lacks = problem is None and found is not None and not _is_there(found)
    failed, missing = distributed.any_process(problem is not None, lacks)
    if problem is not None:
        raise problem
    if failed:
        raise CheckpointError(f"another process cannot read its checkpoint at {path}; it says why")
    if missing:
        who = f"process {distributed.rank()} on {socket.gethostname()}"
        raise CheckpointError(
            f"the first process would go on from {path.parent / name} after {step} updates, "
            + (f"but {who} does not see it. " if lacks else "but another process does not see it. ")
            + "The run's folder must lie on a file system that all hosts share: choose it with "
            "--root, or copy the folder to the same place on every host."
        )
    return found


def load_state(found: Found, like: Any) -> tuple[Any, dict[str, Any]]:
    """A checkpoint as ``(tree, meta)``; all processes must call it.

    Parameters
    ----------
    found
        Of `newest`.
    like
        Pytree of the structure, shapes and types that are wanted.

    Raises
    ------
    CheckpointError
        It is damaged, here or in another process, or its leaves do not fit `like` (names the
        first five).
    """
    if found.path.suffix == ".h5":
        return _load_file(found.path, like)
    ocp, folder, step = _orbax(), found.path, found.step
    wanted = _plain_leaves(like)
    with _manager(ocp, folder) as manager:
        try:
            stored = manager.item_metadata(step)["leaves"]
            _compare(folder / str(step), wanted, stored)
            target = {k: _target(value) for k, value in wanted.items()}
            restored = manager.restore(
                step,
                args=ocp.args.Composite(
                    leaves=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
                ),
            )
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise CheckpointError(
                f"{folder / str(step)} is truncated or damaged ({error}): remove that folder to "
                "go on from the checkpoint before it"
            ) from error
    values = [_keyed(leaf, restored["leaves"][name]) for name, leaf in named_leaves(like).items()]
    tree = jax.tree.unflatten(jax.tree.structure(like), values)
    return tree, dict(restored["meta"])


def _load_file(path: Path, like: Any) -> tuple[Any, dict[str, Any]]:
    """Read by each process for itself; none goes on without the others."""
    loaded, problem = None, None
    try:
        loaded = load_checkpoint(path, like)
    except CheckpointError as error:
        problem = error
    (failed,) = distributed.any_process(problem is not None)
    if problem is not None:
        raise problem
    if failed or loaded is None:
        raise CheckpointError(f"another process cannot read {path}; it says why")
    return loaded


def exists(path: Path) -> bool:
    """Whether there is a checkpoint of either kind."""
    return path.is_file() or newest_step(path.with_suffix("")) is not None


def _newest(path: Path) -> Found | None:
    """What this process sees."""
    folder = path.with_suffix("")
    step = newest_step(folder)
    written = _step(path) if path.is_file() else None
    if written is not None and (step is None or written >= step):
        return Found(path, written)
    return None if step is None else Found(folder, step)


def _is_there(found: Found) -> bool:
    if found.path.suffix == ".h5":
        return found.path.is_file() and _step(found.path) == found.step
    return (found.path / str(found.step)).is_dir()


def newest_step(folder: Path) -> int | None:
    """The last whole checkpoint of an Orbax folder (unfinished ones have other names)."""
    if not folder.is_dir():
        return None
    steps = [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]
    return max(steps, default=None)


def require_orbax() -> None:
    """Say before the training, not at its first checkpoint, that Orbax is missing."""
    if distributed.processes() > 1:
        _orbax()


def _orbax() -> Any:
    try:
        import orbax.checkpoint as ocp
    except ImportError:
        raise CheckpointError(
            "checkpoints of several processes are written by Orbax, which is not installed: "
            "pip install 'emjax[cluster]' (or pip install orbax-checkpoint)"
        ) from None
    for name in ("absl", "orbax"):  # a line for each file
        logging.getLogger(name).setLevel(logging.ERROR)
    return ocp


@contextmanager
def _manager(ocp: Any, folder: Path) -> Iterator[Any]:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEEP, create=True, enable_async_checkpointing=False
    )
    handlers = {"leaves": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
    manager = ocp.CheckpointManager(folder.resolve(), options=options, item_handlers=handlers)
    try:
        yield manager
    finally:
        manager.close()


def _plain_leaves(tree: Any) -> dict[str, Any]:
    """Leaves by path, whole on all devices of all processes; random keys as integers."""
    leaves = {name: _unkeyed(leaf) for name, leaf in named_leaves(tree).items()}
    mesh = data_mesh() if distributed.processes() > 1 else None
    return leaves if mesh is None else replicate(leaves, mesh)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _unkeyed(leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)


def _keyed(like: Any, value: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(value, impl=jax.random.key_impl(like))
    return value if hasattr(like, "dtype") else type(like)(np.asarray(value).item())


def _target(leaf: Any) -> Any:
    """Restored to where `leaf` lies; what is no jax array yet, to this process's first device."""
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    place = leaf.sharding if isinstance(leaf, jax.Array) else one
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _compare(folder: Path, wanted: dict[str, Any], stored: Any) -> None:
    have = {name: (tuple(m.shape), str(np.dtype(m.dtype))) for name, m in stored.items()}
    want = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in wanted.items()}
    problems = [
        f"{name}: {have.get(name, 'missing')} in the checkpoint, {want.get(name, 'nothing')} wanted"
        for name in sorted(have.keys() | want.keys())
        if have.get(name) != want.get(name)
    ]
    if problems:
        raise CheckpointError(
            f"{folder} is of another architecture or optimiser: {len(problems)} of its leaves do "
            "not fit:\n  "
            + "\n  ".join(problems[:5])
            + "\nUse the settings that it was saved with, or start a new run."
        )


def _step(path: Path) -> int:
    with reading(path, "emjax-checkpoint", 1) as file:
        return int(json.loads(file.attrs["meta"]).get("step", 0))
