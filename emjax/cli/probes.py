"""Small programs that show whether jax works here. Each runs in a process of its own.

A bad jax may crash or hang, and only one process can open some accelerators; `emjax doctor` must
survive both.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

# The last line of the output is JSON; a crash leaves no core file behind.
_START = """
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except Exception:
    pass
import json
import warnings
warnings.simplefilter("ignore")
"""

DEVICES = """
import jax
result = {"backend": jax.default_backend(), "devices": []}
for device in jax.devices():
    try:
        memory = (device.memory_stats() or {}).get("bytes_limit")
    except Exception:
        memory = None
    result["devices"].append({"kind": device.device_kind, "memory": memory})
try:
    import optax
    from flax import nnx
except Exception as error:
    result["broken"] = f"{type(error).__name__}: {error}"
print(json.dumps(result))
"""

# jax-ml/jax#39103: matrix times every row, then the squared norm. The matrix is the identity and
# row i is (i, 0, 0), so the result is i squared; jax 0.10.2 gets the last rows wrong.
NUMBERS = """
import jax
import jax.numpy as jnp
import numpy as np
wrong = []
for dtype, rows in ((jnp.float32, 32769), (jnp.float64, 16385)):
    index = np.arange(rows, dtype=dtype)
    points = jnp.asarray(np.stack([index, 0 * index, 0 * index], axis=1))
    eye = jnp.eye(3, dtype=dtype)
    found = np.asarray(jax.jit(jax.vmap(lambda row: ((eye @ row) ** 2).sum()))(points))
    bad = np.flatnonzero(np.abs(found - index**2) > 1e-6 * index**2)
    if bad.size:
        i = int(bad[-1])
        wrong.append(f"{np.dtype(dtype)} row {i}: {found[i]:.0f} instead of {index[i] ** 2:.0f}")
print(json.dumps({"wrong": wrong}))
"""

# jax-ml/jax#39257: a product of eight axes, summed over one; jaxlib 0.10.2 and 0.11.0 crash or
# hang.
CRASH = """
import jax
import jax.numpy as jnp
small, large = jnp.ones((8, 4, 6)), jnp.full((8, 4, 6, 9, 9, 9, 9, 9), 2.0)
def run(a, b):
    return jnp.log(jnp.maximum((a[(...,) + 5 * (None,)] * b).sum(2), 1e-30))
found = jax.jit(run)(small, large)
error = float(jnp.abs(found - jnp.log(12.0)).max())
print(json.dumps({"wrong": [] if error < 1e-5 else [f"off by {error:.2g}"]}))
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a probe: its result, or what went wrong."""

    result: dict[str, Any] | None
    problem: str = ""


class Probe:
    """A probe that runs beside this process from the moment it is made."""

    def __init__(self, code: str, **variables: str):
        self.folder = tempfile.TemporaryDirectory()
        environment = {**os.environ, **variables}
        # a program from the cache would not show what this jax compiles
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START + code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.folder.name,
            env=environment,
        )

    def outcome(self, timeout: float = 120.0) -> Outcome:
        """Wait for the probe; a crash, a hang and an error are outcomes, not exceptions."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            return Outcome(None, f"hangs: no answer within {timeout:.0f} s")
        finally:
            self.folder.cleanup()
        status = self.process.returncode
        if status < 0:
            return Outcome(None, f"crashes ({_signal_name(-status)})")
        if status > 0:
            return Outcome(None, (err.strip().splitlines() or [f"exit status {status}"])[-1])
        try:
            return Outcome(json.loads(out.strip().splitlines()[-1]))
        except (ValueError, IndexError):
            return Outcome(None, f"gave no answer: {out[-200:]!r}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
