"""What this machine has: memory, and the folder for compiled programs. Imports nothing slow."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
ARITHMETIC = ("sse", "avx", "fma", "f16c", "amx", "asimd", "sve")
"""How flags of instructions begin that change the last bits of results."""


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


def processor(root: Path = Path("/")) -> str:
    """The model of the CPU and a digest of its arithmetic instructions.

    Compiled arithmetic is the same to the last bit on equal ones alone. Flags that have nothing to
    do with it, which change with the kernel, are passed over.
    """
    lines = _cpu_lines(root)
    named = [line for line in lines if line.lower().startswith(("model name", "cpu part"))]
    model = ", ".join(sorted({line.partition(":")[2].strip() for line in named}))
    words = {word for line in lines for word in line.partition(":")[2].split()}
    flags = sorted(word for word in words if word.startswith(ARITHMETIC))
    digest = hashlib.sha256(" ".join(flags).encode()).hexdigest()[:8]
    return f"{model or platform.processor() or 'unknown'} ({platform.machine()}, {digest})"


def _cpu_flags(root: Path) -> str:
    kept = ("flags", "features", "model name")
    return "".join(sorted({line for line in _cpu_lines(root) if line.lower().startswith(kept)}))


def _cpu_lines(root: Path) -> list[str]:
    try:
        return (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


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
