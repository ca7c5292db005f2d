"""The restorers that come with emjax: one registry file, `weights/restorers.json`.

The registry says which file is meant by which name, what it is for, and which one is taken when
none is named. How a network was trained lies in its own file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from emjax.models import WEIGHTS

REGISTRY = "restorers.json"


class NoRestorer(ValueError):
    """No network to restore with; the message says how to get one."""


@dataclass(frozen=True)
class Shipped:
    """A network of the package."""

    name: str
    path: Path
    title: str
    """What its images show."""


def shipped_restorers(folder: Path = WEIGHTS) -> dict[str, Shipped]:
    """The restorers whose weights are installed, by name; the default comes first (no jax)."""
    registry = folder / REGISTRY
    if not registry.is_file():
        return {}
    told = json.loads(registry.read_text(encoding="utf-8"))
    found = {
        name: Shipped(name, folder / entry["file"], entry["title"])
        for name, entry in told["restorers"].items()
        if (folder / entry["file"]).is_file()
    }
    return dict(sorted(found.items(), key=lambda item: item[0] != told["default"]))


def find_restorer(name: str | Path | None = None, *, folder: Path = WEIGHTS) -> str | Path:
    """What `load_restorer` is given for `name`: a shipped network's file, or `name` itself.

    Raises
    ------
    NoRestorer
        No name was given, and no network is installed.
    """
    shipped = shipped_restorers(folder)
    if name is not None:
        return shipped[str(name)].path if str(name) in shipped else name
    if not shipped:
        raise NoRestorer(
            "no network for denoising is installed with this version: train one with "
            "`emjax run denoise_stem --preset cpu` and name it with --model runs/denoise_stem"
        )
    return next(iter(shipped.values())).path
