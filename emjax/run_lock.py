"""One run folder, one writer: a lock that a killed process cannot leave behind."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

from emjax.environment import RunError

NAME = "lock"


def lock_folder(folder: str | os.PathLike) -> int | None:
    """Lock a run's folder until the returned file is closed or this process ends, however it ends.

    The lock is the operating system's (POSIX record lock), so it also holds between the hosts of a
    shared file system. The same process may lock a folder again.

    Returns
    -------
    int or None
        A file descriptor for `os.close`; None where there are no such locks (Windows, some network
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
    return handle


def _holder(handle: int) -> str:
    try:
        who = json.loads(os.pread(handle, 4096, 0))
        return f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "which has just started"
