"""Several processes, on one machine or many, that train one network together.

Every process runs the same script. `emjax run` (through `emjax.runs.open_run`) calls `initialize`
before anything else, and `emjax.training` does the rest; a script has no word about it::

    srun emjax run locate_atoms                                      # SLURM: one process a task
    EMJAX_COORDINATOR=node1:12355 EMJAX_PROCESSES=2 EMJAX_RANK=0 \\
        emjax run locate_atoms                                       # by hand: rank 0, 1 … n - 1
    EMJAX_DISTRIBUTED=1 emjax run locate_atoms                       # Cloud TPU, Open MPI: ask jax
    EMJAX_DISTRIBUTED=0 srun emjax run …                             # independent runs

Where one process dies, jax ends the others within two minutes; start all of them again with
--resume, as many as you like.

jax itself does the work (`jax.distributed`); nothing here is a protocol of our own. How arrays lie
on the devices is told in `emjax.sharding`. jax is imported inside the functions, so that the
command line answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

VARIABLES = ("EMJAX_COORDINATOR", "EMJAX_PROCESSES", "EMJAX_RANK")


class ClusterError(RuntimeError):
    """The processes cannot find each other; the message says what to set."""


def initialize(
    address: str | None = None,
    processes: int | None = None,
    rank: int | None = None,
    *,
    timeout: int = 300,
) -> bool:
    """Join the other processes, if there are any; call it before jax is used.

    Parameters
    ----------
    address
        ``host:port`` of the process of rank 0. Default: what `detect` reads from the environment.
    processes
        How many there are.
    rank
        Which one this is, from 0.
    timeout
        How long to wait for the others [s].

    Returns
    -------
    bool
        Whether there are several. False changes nothing. A second call is harmless.

    Raises
    ------
    ClusterError
        Arguments or variables are incomplete; jax was used before; the others did not come.
    """
    import jax

    if jax.distributed.is_initialized():
        return jax.process_count() > 1
    if (address, processes, rank) == (None, None, None):
        found = detect(os.environ)
    else:
        found = _explicit(address, processes, rank, ("address", "processes", "rank"))
    if found is None:
        return False
    try:
        jax.distributed.initialize(**found, initialization_timeout=timeout)
    except (RuntimeError, ValueError) as error:
        before = "before any JAX" in str(error)
        help_ = (
            "jax was used before: call emjax.distributed.initialize() first thing in the script"
            if before
            else f"{error}\nIs every process started, with the same address, and may it be reached "
            "through the firewall? EMJAX_DISTRIBUTED=0 runs this process by itself."
        )
        where = found.get("coordinator_address", "the address that jax found")
        raise ClusterError(f"cannot join the processes at {where}: {help_}") from error
    return jax.process_count() > 1


def detect(env: Mapping[str, str]) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize` for this environment; None for a single process.

    In this order: ``EMJAX_DISTRIBUTED=0`` (never) or 1 (whatever jax finds: Cloud TPU, Open MPI,
    Kubernetes); ``EMJAX_COORDINATOR``, ``EMJAX_PROCESSES`` and ``EMJAX_RANK``; a SLURM step of
    several tasks (that is, inside `srun`: a batch script by itself has one process, although
    SLURM_NTASKS is larger); a TPU slice of several hosts.

    >>> detect({"EMJAX_COORDINATOR": "node1:12355", "EMJAX_PROCESSES": "2", "EMJAX_RANK": "1"})
    {'coordinator_address': 'node1:12355', 'num_processes': 2, 'process_id': 1}

    Raises
    ------
    ClusterError
        Some of the three variables are missing or are not numbers.
    """
    wanted = env.get("EMJAX_DISTRIBUTED", "").lower()
    if wanted in ("0", "off", "no", "false"):
        return None
    given = [env.get(name) for name in VARIABLES]
    if any(given):
        return _explicit(*given, VARIABLES)
    if wanted in ("1", "on", "yes", "true"):
        return {}
    if wanted not in ("", "auto"):
        raise ClusterError(f"EMJAX_DISTRIBUTED={wanted!r}: choose 0, 1 or auto")
    if int(env.get("SLURM_STEP_NUM_TASKS") or 1) > 1 and "SLURM_PROCID" in env:
        return {}
    hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES") or ""
    return {} if "," in hosts else None


def _explicit(address: Any, processes: Any, rank: Any, names: tuple[str, ...]) -> dict[str, Any]:
    values = dict(zip(names, (address, processes, rank), strict=True))
    missing = [name for name, value in values.items() if value in (None, "")]
    if missing:
        raise ClusterError(
            f"{' and '.join(missing)} must be set too: host:port of rank 0, the number of "
            "processes, and this one's rank from 0"
        )
    try:
        count, number = int(processes), int(rank)
    except ValueError:
        raise ClusterError(
            f"{names[1]}={processes!r} and {names[2]}={rank!r} must be whole numbers"
        ) from None
    if not 0 <= number < count:
        raise ClusterError(f"{names[2]}={number} must lie in 0 … {count - 1}")
    if not str(address).rpartition(":")[2].isdecimal() or ":" not in str(address):
        raise ClusterError(f"{names[0]}={address!r} must be host:port, such as node1:12355")
    return {"coordinator_address": str(address), "num_processes": count, "process_id": number}


def rank() -> int:
    """Which process this is: 0 if it is alone. Does not start jax's backends."""
    return _state()[0]


def processes() -> int:
    """How many processes work together: 1 without `initialize`."""
    return _state()[1]


def _state() -> tuple[int, int]:
    import jax

    if not jax.distributed.is_initialized():
        return 0, 1
    return jax.process_index(), jax.process_count()


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Each flag: is it set in any process? All processes must ask, at the same place.

    A decision by the clock or by a signal must be the same everywhere: a process that left the
    loop alone would leave the others waiting for its part of the sum.
    """
    if processes() == 1:
        return flags
    from jax.experimental import multihost_utils

    together = multihost_utils.process_allgather(np.array(flags, np.int32))
    return tuple(bool(flag) for flag in np.asarray(together).any(axis=0))


def from_first(text: str) -> str:
    """`text` of the process of rank 0, in every process. All processes must ask."""
    if processes() == 1:
        return text
    from jax.experimental import multihost_utils

    data = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(data.size)))
    data = np.resize(data, size) if data.size else np.zeros(size, np.int32)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(data)).astype(np.uint8)).decode()


def wait_for_all(name: str) -> None:
    """Go on when every process has come here."""
    if processes() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
