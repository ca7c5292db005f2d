"""The files of a data set: its manifest, its shards with their checksums, and how they are read.

`emjax.dataset` writes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import emjax
from emjax.files import plain, write_text
from emjax.h5_files import reading

FORMAT = "emjax-dataset"
SCHEMA = 1
"""Raised whenever a file of the old layout would be misread."""
BLOCK = 16
"""Images in one call of the compiled draw. Another number may change their last bits."""


class DatasetError(ValueError):
    """A data set cannot be written or read; the message says why and what to do."""


@dataclass(frozen=True)
class Plan:
    """What a data set holds, and in how many pieces. Made by `plan_dataset`."""

    recipe: str
    """Name in `emjax.data.synthetic_sets.RECIPES`, or ``file.py:Name``, wherever the file lies."""
    config: Any
    """The recipe with its settings."""
    count: int
    shards: int
    seed: int
    block: int = BLOCK
    code: str | None = None
    """SHA-256 of the recipe's own file; None of those that emjax brings along."""

    def bounds(self, shard: int) -> tuple[int, int]:
        """First and last + 1 image of a shard."""
        return shard * self.count // self.shards, (shard + 1) * self.count // self.shards

    def file(self, shard: int) -> str:
        """``shard-00003-of-00020.h5``, counted from 0."""
        return f"shard-{shard:05}-of-{self.shards:05}.h5"

    def settings(self) -> dict[str, Any]:
        """What decides every bit of the images, as JSON has it."""
        return {
            "recipe": self.recipe,
            "code": self.code,
            "config": plain(self.config),
            "seed": self.seed,
            "block": self.block,
        }


class Dataset:
    """A data set as `open_dataset` found it: ``len(data)``, ``data[i]``, ``data.read(indices)``."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.plan = Plan(
            manifest["recipe"],
            manifest["config"],
            manifest["count"],
            manifest["shards"],
            manifest["seed"],
            manifest["block"],
            manifest.get("code"),
        )
        self._starts = np.array([self.plan.bounds(i)[0] for i in range(self.plan.shards)])

    def __len__(self) -> int:
        return self.plan.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """One image with its labels."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of a data set of {len(self)}")
        return {k: v[0] for k, v in self.read(np.array([index % len(self)])).items()}

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Images by number (from 0, in any order, also twice), stacked along the first axis."""
        indices = np.asarray(indices)
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        result: dict[str, np.ndarray] = {}
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            rows, back = np.unique(indices[here] - self._starts[shard], return_inverse=True)
            with open_shard(self.folder / self.plan.file(shard)) as file:
                for name in self.manifest["fields"]:
                    values = file[f"data/{name}"][rows][back]
                    if name not in result:
                        result[name] = np.empty((len(indices), *values.shape[1:]), values.dtype)
                    result[name][here] = values
        return result

    def name(self, index: int) -> str:
        """Where an image comes from, for messages."""
        return f"{self.folder}[{index}]"

    def checksums(self) -> np.ndarray:
        """CRC-32 [count] of every image with its labels, as they were written."""
        found = []
        for shard in range(self.plan.shards):
            with open_shard(self.folder / self.plan.file(shard)) as file:
                found.append(file["crc32"][()])
        return np.concatenate(found)

    def digest(self) -> str:
        """SHA-256 over all images in order: equal for equal data, however they were divided."""
        return hashlib.sha256(self.checksums().astype("<u4").tobytes()).hexdigest()


def open_dataset(folder: str | os.PathLike) -> Dataset:
    """Read a data set that `write_dataset` wrote.

    Raises
    ------
    DatasetError
        No data set there, of another schema, or with shards missing (names them and the jobs).
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    data = Dataset(folder, manifest)
    missing = [i for i in range(data.plan.shards) if not (folder / data.plan.file(i)).is_file()]
    if missing:
        names = ", ".join(data.plan.file(i) for i in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DatasetError(
            f"{folder} lacks {len(missing)} of {data.plan.shards} shards ({names}{more}): run the "
            "command that writes it again, which adds what is missing"
        )
    return data


def verify_dataset(folder: str | os.PathLike) -> list[str]:
    """What is wrong with the files of a data set, a line each (reads all of it)."""
    folder = Path(folder)
    plan = Dataset(folder, read_manifest(folder)).plan
    problems = []
    for shard in range(plan.shards):
        path = folder / plan.file(shard)
        if not path.is_file():
            problems.append(f"{path.name} is missing")
        elif not sum_file(path).is_file():
            problems.append(f"{path.name} has no checksum")
        elif not is_whole(path):
            problems.append(f"{path.name} is damaged: its SHA-256 is not the one that was noted")
    return problems


def sum_file(path: Path) -> Path:
    """Where the checksum of a shard is, as ``sha256sum --check`` wants it."""
    return path.with_name(path.name + ".sha256")


def own_name(path: Path) -> Path:
    """A name beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")


def write_alone(path: Path, text: str) -> None:
    """A small text file, whole or not there, also where many jobs write the same at once."""
    write_text(own_name(path), text)
    os.replace(own_name(path), path)


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(path: Path) -> bool:
    """Whether a shard is there and has the checksum that was noted."""
    try:
        noted = sum_file(path).read_text().split()[0]
        return noted == sha256(path)
    except (OSError, IndexError):
        return False


def open_shard(path: Path) -> Any:
    """A shard to read from; whatever is wrong with it is a `CheckpointError`."""
    return reading(path, FORMAT, SCHEMA)


def read_manifest(folder: Path) -> dict[str, Any]:
    """``dataset.json`` of a folder; raises `DatasetError` where it cannot be used."""
    path = folder / "dataset.json"
    try:
        manifest = json.loads(path.read_text("utf-8"))
        if manifest["format"] != FORMAT:
            raise DatasetError(f"{path} is not the manifest of a data set of emjax")
        if manifest["schema"] != SCHEMA:
            raise DatasetError(
                f"{path} has schema {manifest['schema']}, written by emjax {manifest['emjax']}; "
                f"this emjax {emjax.__version__} reads schema {SCHEMA}: write the data again"
            )
    except FileNotFoundError:
        raise DatasetError(f"{folder} holds no data set: it has no dataset.json") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is damaged ({error}): remove it and write again") from error
    return manifest
