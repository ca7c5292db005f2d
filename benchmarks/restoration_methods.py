"""What `benchmarks.restoration` scores: classical methods, networks, other programs, their images.

All become a `Candidate`, which restores a scene at a level and knows its frozen settings: a
detector threshold for each level, and the classical methods' parameters for each level. (They are
told the level, which no network is.) Settings are chosen on development scenes and stored: of the
classical methods and the peers in `restoration_frozen.json` beside this file, of a network beside
its model file, under the digest of its weights, or by its maker in the file's own metadata.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emjax.baselines.restoration import DENOISERS, Method
from emjax.evaluation.restoration_scenes import (
    RestorationScene,
    Restored,
    Restorer,
    checked_restored,
    dose_of,
)
from emjax.files import write_json

FROZEN = Path(__file__).with_name("restoration_frozen.json")
PEERS = ("tk_r_em", "topaz")
READ_OUT = 0.25
"""Counts, of the levels with jitter; told to the methods that ask for it."""


@dataclass(eq=False)
class Candidate:
    """Something that is scored."""

    name: str
    identity: str
    """What its images depend on; a cache holds them under it."""
    restorer: Callable[[str], Restorer] | None
    """Level -> restorer; None for images from elsewhere."""
    frozen: Path
    """File of its settings."""
    key: str
    """Its entry there."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Level -> detector threshold."""
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Level -> arguments, of classical methods."""
    close: Callable[[], None] = lambda: None

    def restore(self, scene: RestorationScene, level: str) -> Restored:
        """Counts of one scene, restored; timed."""
        assert self.restorer is not None
        restorer, counts = self.restorer(level), scene.counts[level]
        start = time.perf_counter()
        restored = restorer(counts)
        seconds = time.perf_counter() - start
        checked = checked_restored(restored, counts.shape, self.name)
        return checked if checked.seconds is not None else checked._replace(seconds=seconds)

    def freeze(self, thresholds: dict[str, float]) -> None:
        """Store the thresholds, and the parameters where there are some."""
        entry: dict[str, Any] = {"thresholds": thresholds}
        if self.parameters:
            entry["parameters"] = self.parameters
        write_json(self.frozen, {**read_frozen(self.frozen), self.key: entry})
        self.thresholds = dict(thresholds)


class Arrays(Candidate):
    """Images that another program wrote: FOLDER/<scene>_<level>.npy in units of the clean image."""

    def __init__(self, folder: str | os.PathLike) -> None:
        place = Path(folder)
        if not place.is_dir():
            raise FileNotFoundError(f"there is no folder {place} of restored images")
        super().__init__(place.name, "", None, place / "restoration.json", "arrays")
        self.place = place
        self.thresholds = read_frozen(self.frozen).get(self.key, {}).get("thresholds", {})

    def restore(self, scene: RestorationScene, level: str) -> Restored:
        path = self.place / f"{scene.name}_{level}.npy"
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {path}: every scene and level is needed (--every and --levels choose)"
            )
        image = np.load(path, allow_pickle=False) * dose_of(level)
        return checked_restored(Restored(image), scene.clean.shape, str(path))


def read_frozen(path: Path) -> dict[str, Any]:
    """All settings of a file; empty if there is none."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file of frozen settings: {error}") from error


def classical(name: str) -> Candidate:
    """A method of `emjax.baselines.restoration` with its frozen parameters, or at its defaults."""
    if name not in DENOISERS:
        raise ValueError(f"there is no method {name!r}: choose one of {', '.join(DENOISERS)}")
    entry = read_frozen(FROZEN).get(name, {})
    parameters = {level: dict(p) for level, p in entry.get("parameters", {}).items()}
    method = DENOISERS[name]

    def restorer(level: str) -> Restorer:
        return with_parameters(
            method, {**detector_terms(method, level), **parameters.get(level, {})}
        )

    identity = json.dumps([parameters, inspect.getsource(method.function)], sort_keys=True)
    return Candidate(
        name, identity, restorer, FROZEN, name, entry.get("thresholds", {}), parameters
    )


def with_parameters(method: Method, parameters: dict[str, Any]) -> Restorer:
    """The method as a restorer. Likelihoods of counts (Richardson-Lucy) get them clipped at 0."""
    counts_only = method is DENOISERS["richardson_lucy"]

    def restore(counts: np.ndarray) -> Restored:
        image = np.clip(counts, 0, None) if counts_only else counts
        return Restored(method(image, **parameters))

    return restore


def detector_terms(method: Method, level: str) -> dict[str, float]:
    """Read-out noise for the methods that know it, at the levels that have it."""
    return {"read_out": READ_OUT} if level.endswith("j") and "read_out" in method.defaults else {}


def network(source: str | os.PathLike) -> Candidate:
    """A restorer of ours: a model file, or a run's folder."""
    try:
        from emjax.restoration.restorer import load_restorer
    except ImportError as error:
        raise ValueError(f"this emjax cannot load networks for restoration: {error}") from error
    from emjax.models import describe_model, find_model

    path = find_model(source)
    restore = load_restorer(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    own = describe_model(path).get("detector_thresholds") or {}
    beside = path.with_name(path.stem + ".restoration.json")
    stored = read_frozen(beside).get(digest, {}).get("thresholds", {})

    def restorer(level: str) -> Restorer:
        return lambda counts: Restored(*restore(counts))

    name = path.parent.name if path.name == "model.h5" else path.stem
    return Candidate(name, digest, restorer, beside, digest, {**stored, **own})


def peer(name: str, python: str, models: str = "") -> Candidate:
    """Another program in a Python environment of its own (see `peer_restoration.py`)."""
    if name not in PEERS:
        raise ValueError(f"there is no peer {name!r}: choose one of {', '.join(PEERS)}")
    process = PeerProcess(name, python, models)
    entry = read_frozen(FROZEN).get(name, {})
    return Candidate(
        name,
        f"{name} {models}",
        lambda level: process,
        FROZEN,
        name,
        entry.get("thresholds", {}),
        close=process.close,
    )


class PeerProcess:
    """A restorer that hands images to `peer_restoration.py`, started at the first image.

    Raises
    ------
    ValueError : the Python or the package is not there, or the peer failed; says what it said.
    """

    def __init__(self, name: str, python: str, models: str = "") -> None:
        self.name, self.python, self.models = name, python, models
        self._process: subprocess.Popen | None = None
        self._folder: tempfile.TemporaryDirectory | None = None

    def __call__(self, counts: np.ndarray) -> Restored:
        process, folder = self._started()
        paths = [str(folder / f"{name}.npy") for name in ("counts", "restored")]
        np.save(paths[0], np.asarray(counts, np.float32))
        assert process.stdin is not None
        process.stdin.write(json.dumps(paths) + "\n")
        process.stdin.flush()
        seconds = self._answer(process, folder)["seconds"]
        return Restored(np.load(paths[1]), None, seconds)

    def close(self) -> None:
        """End the peer; it starts anew with the next image."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
            self._process.wait(30)
        if self._folder is not None:
            self._folder.cleanup()
        self._process = self._folder = None

    def _started(self) -> tuple[subprocess.Popen, Path]:
        if self._process is not None and self._folder is not None:
            return self._process, Path(self._folder.name)
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        runner = str(Path(__file__).with_name("peer_restoration.py"))
        command = [self.python, runner, self.name, *([self.models] if self.models else [])]
        pipe = subprocess.PIPE
        try:
            with (folder / "log").open("w") as log:
                self._process = subprocess.Popen(
                    command, stdin=pipe, stdout=pipe, stderr=log, text=True
                )
            self._answer(self._process, folder)
        except OSError as error:
            self.close()
            raise ValueError(f"--peer-python {self.python} does not start: {error}") from error
        except ValueError:
            self.close()
            raise
        return self._process, folder

    def _answer(self, process: subprocess.Popen, folder: Path) -> dict[str, Any]:
        """The next line for us; what the peer itself prints is passed over."""
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("PEER "):
                answer = json.loads(line[5:])
                if "error" in answer:
                    raise ValueError(
                        f"{self.name} does not run in {self.python}: {answer['error']}. Install it "
                        "in an environment and name its Python with --peer-python"
                    )
                return answer
        said = (folder / "log").read_text("utf-8", errors="replace")[-2000:]
        raise ValueError(f"{self.name} in {self.python} ended: {said}")


class Cache:
    """Restored images on disk: FOLDER/<method>-<digest of its settings>/<scene>_<level>.npz.

    An image is used again if the method's settings and the counts are the same.
    """

    def __init__(self, folder: str | os.PathLike | None) -> None:
        self.folder = None if folder is None else Path(folder)

    def restore(self, candidate: Candidate, scene: RestorationScene, level: str) -> Restored:
        if self.folder is None or not candidate.identity:
            return candidate.restore(scene, level)
        digest = hashlib.sha256(candidate.identity.encode()).hexdigest()[:12]
        path = self.folder / f"{candidate.name}-{digest}" / f"{scene.name}_{level}.npz"
        check = zlib.crc32(np.ascontiguousarray(scene.counts[level]).tobytes())
        if path.is_file():
            with np.load(path, allow_pickle=False) as file:
                if int(file["counts"]) == check:
                    sigma = file["sigma"] if "sigma" in file.files else None
                    return Restored(file["image"], sigma, float(file["seconds"]))
        restored = candidate.restore(scene, level)
        arrays = {
            "image": restored.image.astype(np.float32),
            "seconds": restored.seconds,
            "counts": check,
        }
        if restored.sigma is not None:
            arrays["sigma"] = restored.sigma
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, **arrays)
        os.replace(part, path)
        return restored
