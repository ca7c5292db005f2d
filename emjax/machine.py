"""What this machine has: memory, and the folder for compiled programs. Imports nothing slow."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Main memory in bytes; None where the system does not say."""

    total: int | None
    available: int | None


def memory(root: Path = Path("/")) -> Memory:
    """Main memory, or the share of it that a container or batch job may use if that is less.

    `root` is where `proc` and `sys` lie (for tests).
    """
    total, available = _proc_memory(root)
    limit, used = _cgroup_memory(root)
    if limit is not None and (total is None or limit < total):
        left = limit - (used or 0)
        return Memory(limit, left if available is None else min(available, left))
    return Memory(total, available)


def cache_folder(root: Path = Path("/")) -> Path:
    """Where compiled programs are kept: one folder per user and kind of processor."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home()))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    kind = platform.machine() + _cpu_flags(root)
    return base / "emjax" / f"jax-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"


def _cpu_flags(root: Path) -> str:
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    found = [line for line in lines if line.lower().startswith(("flags", "features", "model name"))]
    return "".join(sorted(set(found)))


def _proc_memory(root: Path) -> tuple[int | None, int | None]:
    values = {}
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            values[name] = int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
        except (ValueError, OSError, AttributeError):
            return None, None
    return values.get("MemTotal"), values.get("MemAvailable")


def _cgroup_memory(root: Path) -> tuple[int | None, int | None]:
    """(limit, used without the page cache) of this process's control group, version 2 or 1."""
    own = "sys/fs/cgroup" + _cgroup_path(root)
    for folder, limit, used, cache in (
        (own, "memory.max", "memory.current", "inactive_file"),
        ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        (
            "sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        try:
            most = int((root / folder / limit).read_text())
            now = int((root / folder / used).read_text())
            stat = (root / folder / "memory.stat").read_text().split()
        except (OSError, ValueError):  # no such file, or "max"
            continue
        return most, now - int(dict(zip(stat[::2], stat[1::2], strict=False)).get(cache, 0))
    return None, None


def _cgroup_path(root: Path) -> str:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split("::")[1].rstrip("/") for line in lines if line.startswith("0::")), "")
