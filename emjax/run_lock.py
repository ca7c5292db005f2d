"""One run folder, one writer: a lock that a killed process cannot leave behind."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from emjax.environment import RunError

NAME = "lock"

# The one state that belongs to a process and not to a run: closing any descriptor of a file gives
# up all of the process's locks on it, so each file is opened once and its users are counted.
_held: dict[tuple[int, int, int], list[int]] = {}
"""(process, device, inode) -> [descriptor, users]. A forked process does not have the locks."""


def lock_folder(folder: str | os.PathLike) -> int | None:
    """Lock a run's folder until its `release` or the end of this process, however it ends.

    The lock is the operating system's (POSIX record lock), so it also holds between the hosts of a
    shared file system. The same process may lock a folder again, and holds it until each of its
    locks is released.

    Returns
    -------
    int or None
        For `release`; None where there are no such locks (Windows, some network
        file systems): nothing is checked there.

    Raises
    ------
    RunError
        Another process has the folder: says which one, where, and since when.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    path = Path(folder) / NAME
    if path.exists() and (known := _held.get(_identity(os.stat(path)))):
        known[1] += 1
        return known[0]
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = _holder(handle)
        os.close(handle)
        raise RunError(
            f"{folder} is being written by another process ({holder}). Two would spoil each "
            "other's files: wait for it, stop it, or choose another --name."
        ) from None
    except OSError:  # a file system without locks
        os.close(handle)
        return None
    os.ftruncate(handle, 0)
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
    os.write(handle, json.dumps(who).encode())
    _held[_identity(os.fstat(handle))] = [handle, 1]
    return handle


def release(lock: int) -> None:
    """Give back what `lock_folder` returned; the last user's release unlocks the folder."""
    mine = (key for key, (handle, _) in _held.items() if handle == lock and key[0] == os.getpid())
    key = next(mine, None)
    if key is None:  # inherited by a forked process, which does not hold the lock
        return
    _held[key][1] -= 1
    if not _held[key][1]:
        del _held[key]
        os.close(lock)


def _identity(stat: os.stat_result) -> tuple[int, int, int]:
    # not the path: a folder that was overwritten has another file there
    return os.getpid(), stat.st_dev, stat.st_ino


def _holder(handle: int) -> str:
    try:
        who = json.loads(os.pread(handle, 4096, 0))
        return f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "which has just started"
