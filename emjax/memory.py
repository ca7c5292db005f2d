"""A device out of memory: which batch would have fitted."""

from __future__ import annotations

from typing import Any

import jax

from emjax.machine import GIB, memory


class OutOfMemoryError(RuntimeError):
    """An update needs more memory than the device has; the message says which batch would fit."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether XLA reports that an allocation failed."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def batch_that_fits(batch: int, *, fixed: float, growing: float, limit: float) -> int:
    """Largest batch for which ``fixed + growing · n / batch`` stays below nine tenths of `limit`.

    Parameters
    ----------
    batch
        The batch that did not fit.
    fixed
        Bytes whatever the batch: weights, the optimiser's state, gradients.
    growing
        Bytes that this batch needs besides: intermediate results.
    limit
        Bytes that the device has.

    >>> batch_that_fits(64, fixed=2e9, growing=16e9, limit=10e9)
    28
    """
    if growing <= 0:
        return 0
    return max(int(batch * (0.9 * limit - fixed) / growing), 0)  # 0.9: memory is fragmented


def explained(
    error: BaseException,
    compiled: Any,
    *,
    batch: int,
    weights: int,
    device: jax.Device,
    accumulate: int = 1,
) -> OutOfMemoryError:
    """What to tell the user, from the compiled update's own account of its memory.

    Parameters
    ----------
    error
        XLA's.
    compiled
        The compiled update (`jax.stages.Compiled`), or None if its compilation failed.
    batch
        Images per update.
    weights
        Bytes of the parameters, of which a gradient needs as many.
    device
        Where it ran.
    accumulate
        Number of parts that the batch was cut into already.
    """
    limit = device_memory(device)
    sizes = compiled.memory_analysis() if compiled is not None else None
    first = (str(error).splitlines() or [""])[0][:200]
    where = f"{device.device_kind} (device {device.id})"
    tips = "make_step(..., remat=True) needs about a third of the memory for a little more time."
    if sizes is None or limit is None:
        return OutOfMemoryError(
            f"{where} is out of memory with a batch of {batch}. Halve it, or keep it with "
            f"make_step(..., accumulate={2 * accumulate}), which does it in {2 * accumulate} "
            f"parts; {tips}\n({first})"
        )
    kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    fixed, growing = kept + weights, sizes.temp_size_in_bytes - weights
    part = batch // accumulate  # whose intermediate results were in memory at a time
    fits = batch_that_fits(part, fixed=fixed, growing=growing, limit=limit)
    need = (kept + sizes.temp_size_in_bytes) / GIB
    how = f" in {accumulate} parts" if accumulate > 1 else ""
    text = f"a batch of {batch}{how} needs {need:.3g} GiB and {where} has {limit / GIB:.3g} GiB"
    if fits >= part:  # by its own account it fits: others hold the memory
        text += ": another program holds some of it (`emjax doctor` shows what is free)."
    elif fits == 0:
        text += (
            f", of which weights and optimiser take {fixed / GIB:.3g} GiB: no batch fits. "
            "Use smaller images or a smaller network, or more memory."
        )
    else:
        divisors = (n for n in range(accumulate + 1, batch + 1) if batch % n == 0)
        parts = next((n for n in divisors if batch // n <= fits), 0)
        text += f": a batch of {fits * accumulate} would fit."
        if parts:
            text += f" make_step(..., accumulate={parts}) keeps {batch}, in {parts} parts."
        text += f" {tips}"
    return OutOfMemoryError(f"{text}\n({first})")


def device_memory(device: jax.Device) -> int | None:
    """Bytes that jax may use on a device; of the CPU, main memory."""
    if device.platform == "cpu":
        return memory().total
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit")
