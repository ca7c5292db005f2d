"""How much memory there is, and refusing what does not fit before it starts."""

from __future__ import annotations

from pathlib import Path

import jax

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much a container may use."""


def available_memory() -> int | None:
    """Bytes that an array of JAX's default device may take now; None where nobody says.

    On an accelerator its own limit less what is in use; on the CPU the memory that Linux calls
    available, or the limit of the container where that is lower.
    """
    statistics = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return int(statistics["bytes_limit"]) - int(statistics.get("bytes_in_use", 0))
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(1024 * int(line.split()[1]))
    except OSError:
        return None
    for name in LIMITS:
        try:
            found.append(int(Path(name).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(found, default=None)


def as_text(size: float) -> str:
    """Bytes for people: 3.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def check_memory(needed: float, what: str, advice: str) -> None:
    """Raise before the start where `needed` bytes are more than there are.

    Parameters
    ----------
    needed : float
        Bytes at the peak, an estimate.
    what : str
        What needs them, with the numbers that decide ("400 slices of 8192 × 8192 in float32").
    advice : str
        Settings that would fit.

    Raises
    ------
    MemoryError
    """
    have = available_memory()
    if have is not None and needed > have:
        raise MemoryError(
            f"{what} would take about {as_text(needed)} but only {as_text(have)} are free: {advice}"
        )
