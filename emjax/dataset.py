"""Simulated data sets on disk, written in shards by any number of jobs.

::

    plan = plan_dataset("columns", Columns(), count=100_000, shards=100, seed=0)
    write_dataset("data/columns", plan)                    # all of it, here
    write_dataset("data/columns", plan, task=(3, 20))      # a twentieth of it; 20 jobs do the rest
    data = open_dataset("data/columns")
    data[17]["image"]

Image i is drawn from ``fold_in(key(seed), i)`` and nothing else, in blocks of fixed size that start
at multiples of it: how the images are divided into shards, and the shards among jobs, does not
change a bit of them (on one kind of processor with one version of jax; a job on another one is
refused, and so is one whose recipe's file has changed). Every shard is whole or not
there and has its SHA-256 beside it, so that an interrupted job is simply started again.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import shlex
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import emjax
from emjax.dataset_files import (
    BLOCK,
    FORMAT,
    SCHEMA,
    Dataset,
    DatasetError,
    Plan,
    is_whole,
    open_dataset,
    own_name,
    read_manifest,
    sha256,
    sum_file,
    verify_dataset,
    write_alone,
)
from emjax.files import plain
from emjax.h5_files import write_header, writing
from emjax.machine import processor

__all__ = [
    "Dataset",
    "DatasetError",
    "Plan",
    "open_dataset",
    "parse_task",
    "plan_dataset",
    "slurm_script",
    "verify_dataset",
    "write_dataset",
]


def plan_dataset(
    recipe: str, config: Any, *, count: int, shards: int = 1, seed: int = 0, block: int = BLOCK
) -> Plan:
    """Check the numbers of a data set, and note which code of the user's draws it.

    Of a recipe ``path/to/file.py:Name`` the SHA-256 of the file is kept, not its path. Other files
    that it imports are not looked at.

    Raises
    ------
    DatasetError
        No images, fewer images than shards, a negative seed, a recipe's file that is not there.
    """
    if count < 1:
        raise DatasetError(f"--count {count}: a data set has at least one image")
    if not 1 <= shards <= count:
        raise DatasetError(f"--shards {shards}: choose from 1 to the number of images, {count}")
    if not 0 <= seed < 2**31 or block < 1:
        raise DatasetError(f"--seed {seed}: choose a number from 0 to 2**31 - 1")
    file, _, name = recipe.rpartition(":")
    if not file.endswith(".py"):
        return Plan(recipe, config, count, shards, seed, block)
    path = Path(file)
    if not path.is_file():
        raise DatasetError(f"there is no file {file} of the recipe {name}")
    return Plan(f"{path.name}:{name}", config, count, shards, seed, block, sha256(path))


def parse_task(text: str) -> tuple[int, int]:
    """``"3/20"`` as (3, 20): the third of twenty jobs.

    Raises
    ------
    DatasetError
        Anything that is not i/n with 1 ≤ i ≤ n.
    """
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise DatasetError(f"--task {text}: write i/n with i from 1 to n, such as 3/20")
    return int(first), int(last)


def write_dataset(
    folder: str | os.PathLike,
    plan: Plan,
    *,
    task: tuple[int, int] = (1, 1),
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write the shards of one job that are not there yet.

    Parameters
    ----------
    folder
        Where to; ``dataset.json`` says what is (to be) in it.
    plan
        Of `plan_dataset`.
    task
        (i, n): the i-th of n jobs, which takes shards i - 1, i - 1 + n, …
    progress
        Called with (images done, images of this job); those of whole shards at once.

    Returns
    -------
    The shards that were written now.

    Raises
    ------
    DatasetError
        The folder holds another data set (says what differs), or was begun with another jax or on
        another kind of processor; a task that is not (i, n) with 1 ≤ i ≤ n; images that are not
        finite (names the index).
    """
    import jax

    folder, (number, of) = Path(folder), task
    if not 1 <= number <= of:
        raise DatasetError(
            f"task ({number}, {of}): give (i, n) with i from 1 to n, such as (3, 20)"
        )
    folder.mkdir(parents=True, exist_ok=True)
    mine = range(number - 1, plan.shards, of)
    total = sum(b - a for a, b in map(plan.bounds, mine))
    draw = _compiled(plan.config, plan.seed, plan.block)
    _claim(folder, plan, jax.eval_shape(draw, 0))
    done, written = 0, []
    say = progress or (lambda done, of: None)
    block = -1, {}
    for shard in mine:
        path, (first, last) = folder / plan.file(shard), plan.bounds(shard)
        if is_whole(path):
            done += last - first
            say(done, total)
            continue
        # two jobs that write the same shard do not meet: the last to end puts its equal file there
        part = own_name(path)
        _tidy(path)
        with writing(part) as file:
            write_header(file, FORMAT, SCHEMA, {**plan.settings(), "first": first, "last": last})
            for start in range(first // plan.block * plan.block, last, plan.block):
                if block[0] != start:
                    block = start, {k: np.asarray(v) for k, v in draw(start).items()}
                low, high = max(start, first), min(start + plan.block, last)
                piece = {k: v[low - start : high - start] for k, v in block[1].items()}
                _append(file, piece, low, first, last)
                say(done + high - first, total)
        _finish(part, path)
        written.append(path)
        done += last - first
    return written


def slurm_script(command: str, *, tasks: int, name: str, log: str) -> str:
    """A SLURM array job in which each of `tasks` jobs runs `command` with its own ``--task``."""
    return f"""#!/bin/bash
# Submit with: sbatch submit.slurm    Submit it again after a failure: whole shards are kept.
#SBATCH --job-name={shlex.quote(name)}
#SBATCH --array=1-{tasks}
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=04:00:00
#SBATCH --output={shlex.quote(log)}
#SBATCH --requeue

set -euo pipefail
# All jobs must run on one kind of processor, or the last bits of the images differ: where nodes are
# unlike, add a line such as  #SBATCH --constraint=...
srun {command} --task "$SLURM_ARRAY_TASK_ID/{tasks}"
"""


@functools.lru_cache(maxsize=1)  # shards and tasks of one plan compile once
def _compiled(config: Any, seed: int, block: int) -> Callable[[int], dict[str, Any]]:
    """``start -> images start … start + block - 1``."""
    import jax
    import jax.numpy as jnp

    one = jax.tree_util.Partial(config.build())

    @jax.jit
    def draw(one: Any, key: jax.Array, start: jax.Array) -> dict[str, Any]:
        numbers = start + jnp.arange(block, dtype=jnp.uint32)
        found = jax.vmap(one)(jax.vmap(jax.random.fold_in, (None, 0))(key, numbers))
        if not isinstance(found, dict):
            raise DatasetError(f"a recipe draws a dict of arrays, not a {type(found).__name__}")
        return found

    return lambda start: draw(one, jax.random.key(seed), jnp.uint32(start))


def _claim(folder: Path, plan: Plan, shapes: dict[str, Any]) -> None:
    """Write ``dataset.json``, or compare with the one that is there."""
    import jax

    device = jax.local_devices()[0]
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        **plan.settings(),
        "count": plan.count,
        "shards": plan.shards,
        "fields": {k: {"shape": v.shape[1:], "dtype": str(v.dtype)} for k, v in shapes.items()},
        "files": [plan.file(i) for i in range(plan.shards)],
        "emjax": emjax.__version__,
        "jax": importlib.metadata.version("jax"),
        "backend": jax.default_backend(),
        "processor": processor() if device.platform == "cpu" else device.device_kind,
    }
    path = folder / "dataset.json"
    if not path.is_file():
        write_alone(path, json.dumps(plain(manifest), indent=2, ensure_ascii=False) + "\n")
        return
    old, new = read_manifest(folder), json.loads(json.dumps(plain(manifest)))
    found = list(_differences(old, new))
    differ = [f"  {name}: {then} there, {now} now" for name, then, now in found]
    if differ:
        machine = any(name in ("jax", "backend", "processor") for name, _, _ in found)
        bits = "\nOn another kind of processor or with another jax the last bits may differ."
        more = [f"  … and {len(differ) - 8} more"] if len(differ) > 8 else []
        raise DatasetError(
            f"{folder} holds another data set, or was begun elsewhere:\n"
            + "\n".join(differ[:8] + more)
            + bits * machine
            + "\nGo on as it was begun, or choose another --out."
        )


def _differences(old: Any, new: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            if name != "files":
                yield from _differences(old.get(name), new.get(name), f"{at}.{name}".lstrip("."))
    elif old != new:
        yield at, old, new


def _append(file: h5py.File, piece: dict[str, np.ndarray], low: int, first: int, last: int) -> None:
    """Images `low` … of a shard that holds `first` … `last` - 1."""
    sums = np.zeros(len(next(iter(piece.values()))), np.uint32)
    place = slice(low - first, low - first + len(sums))
    for name in sorted(piece):
        values = np.ascontiguousarray(piece[name])
        if values.dtype.kind not in "biuf":
            raise DatasetError(f"the field {name} is {values.dtype}; draw real numbers")
        good = np.isfinite(values).reshape(len(values), -1).all(1)
        if not good.all():
            raise DatasetError(
                f"{name} of image {low + int(np.argmin(good))} is not finite; no shard is written"
            )
        if f"data/{name}" not in file:
            shape = (last - first, *values.shape[1:])
            file.create_dataset(
                f"data/{name}",
                shape,
                values.dtype,
                chunks=(_rows(values, last - first), *values.shape[1:]),
                compression="lzf",
                shuffle=True,
            )
        _dataset(file, f"data/{name}")[place] = values
        pairs = zip(values, sums.tolist(), strict=True)
        sums = np.array([zlib.crc32(v.tobytes(), before) for v, before in pairs])
    if "crc32" not in file:
        file.create_dataset("crc32", (last - first,), np.uint32)
        file["index"] = np.arange(first, last)
    _dataset(file, "crc32")[place] = sums.astype(np.uint32)


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    found = file[name]
    assert isinstance(found, h5py.Dataset)
    return found


def _rows(values: np.ndarray, most: int) -> int:
    """Images in one compressed piece: one, or as many as make 64 kB."""
    return min(max(2**16 // max(values[0].nbytes, 1), 1), most)


def _tidy(path: Path) -> None:
    """Remove what jobs that were killed more than a day ago left of a shard."""
    for part in path.parent.glob(f".{path.name}.*.part"):
        if time.time() - part.stat().st_mtime > 86400:
            part.unlink(missing_ok=True)


def _finish(part: Path, path: Path) -> None:
    """The name of the shard, and its checksum: in this order a checksum never lacks its shard."""
    line = f"{sha256(part)}  {path.name}\n"
    os.replace(part, path)
    write_alone(sum_file(path), line)
