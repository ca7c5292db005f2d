"""What a run ran on: versions, devices, commit; and whether the accelerator is really used."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import emjax

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "h5py", "ase", "abtem"),
    *("scikit-image", "rosettasciio", "tifffile"),
)
"""The distributions whose versions `environment` notes."""


class RunError(RuntimeError):
    """A run cannot start; the message says what to do."""


def environment(command: str | None = None) -> dict[str, Any]:
    """What somebody needs to repeat a run, or to see why it cannot be repeated. Imports jax.

    Returns
    -------
    dict
        ``emjax``, ``python``, ``platform``, ``cores``, ``packages``, ``backend``, ``devices``,
        ``variables`` (those that change JAX), ``git`` (or None), ``command``, ``time``.
    """
    name, devices = backend()
    return {
        "emjax": emjax.__version__,
        "command": command or command_line(),
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "backend": name,
        "devices": devices,
        "cores": cores(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions(),
        "variables": {
            key: value
            for key, value in sorted(os.environ.items())
            if key.startswith(("JAX_", "XLA_")) or key == "CUDA_VISIBLE_DEVICES"
        },
        "git": commit(),
    }


def versions() -> dict[str, str]:
    """Installed versions of `PACKAGES` (no import; absent ones are left out)."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def backend() -> tuple[str, list[str]]:
    """JAX's backend ("cpu", "gpu", "tpu") and the kind of each of its devices. Imports jax.

    Raises
    ------
    RunError
        JAX cannot start the backend that it was told to use.
    """
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        wanted = os.environ.get("JAX_PLATFORMS")
        hint = f" (JAX_PLATFORMS={wanted} is set: unset it to let jax choose)" if wanted else ""
        raise RunError(f"jax finds no device{hint}: {error}\n{gpu_advice()}") from error
    return devices[0].platform.replace("cuda", "gpu"), [d.device_kind for d in devices]


def backend_line() -> str:
    """Line 1 of every run: ``emjax 0.1.0 · jax 0.10.1 · backend cpu (1 device, 2 cores)``."""
    import jax

    name, devices = backend()
    count = f"{len(devices)} device{'s' * (len(devices) > 1)}"
    if name == "cpu":
        what = f"{count}, {cores()} core{'s' * (cores() > 1)}"
    else:
        what = f"{len(devices)} × {devices[0]}" if len(set(devices)) == 1 else ", ".join(devices)
    return f"emjax {emjax.__version__} · jax {jax.__version__} · backend {name} ({what})"


def check_backend(require: str | None) -> str | None:
    """A warning if a GPU lies idle, else None.

    Raises
    ------
    RunError
        The backend is not `require` ("cpu", "gpu" or "tpu"); says why that may be.
    """
    name, _ = backend()
    if require not in (None, "cpu", "gpu", "tpu"):
        raise RunError(f"--require {require}: choose cpu, gpu or tpu")
    if require and name != require:
        advice = {
            "gpu": gpu_advice(),
            "tpu": "On a TPU machine: pip install 'emjax[tpu]'.",
            "cpu": "Set the environment variable JAX_PLATFORMS=cpu.",
        }[require]
        raise RunError(f"--require {require}, but jax runs on the {name}. {advice}")
    if name == "cpu" and require is None and nvidia_driver() and not _asked_for_cpu():
        return f"This machine has an NVIDIA GPU that is not used. {gpu_advice()}"
    return None


def _asked_for_cpu() -> bool:
    return os.environ.get("JAX_PLATFORMS", "").startswith("cpu")


def nvidia_driver() -> str | None:
    """Version of the NVIDIA driver, "unknown", or None where there is no driver."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown" if shutil.which("nvidia-smi") else None
    found = re.search(r"Kernel Module.*?\s(\d+\.\d+[.\d]*)", text)
    return found.group(1) if found else "unknown"


def gpu_advice() -> str:
    """Why jax may not see a GPU here, and the command that helps."""
    if _asked_for_cpu():
        return "The environment variable JAX_PLATFORMS=cpu forbids it: unset it."
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU: unset it."
    driver = nvidia_driver()
    if driver is None:
        return (
            "No NVIDIA driver was found (`nvidia-smi` is missing): on a cluster ask for a GPU "
            "node, elsewhere install the driver; then pip install 'emjax[cuda13]'."
        )
    plugins = [
        name
        for name in ("jax-cuda13-plugin", "jax-cuda12-plugin")
        if any(True for _ in importlib.metadata.distributions(name=name))
    ]
    if plugins:
        return (
            f"{plugins[0]} is installed and the driver is {driver}, yet jax cannot use the GPU: "
            "cuda13 needs driver 580 or newer, cuda12 525 or newer; "
            "`python -c 'import jax; jax.devices(\"gpu\")'` shows the reason."
        )
    major = int(driver.split(".")[0]) if driver[0].isdigit() else 580
    extra = "cuda13" if major >= 580 else "cuda12"
    return f"jax came without GPU support: pip install 'emjax[{extra}]' (driver {driver})."


def commit() -> dict[str, Any] | None:
    """Git commit of the checkout that emjax runs from, else of the working directory, else None.

    Returns
    -------
    dict or None
        ``commit``, ``dirty`` (files were changed), ``of`` ("emjax" or "working directory").
    """
    package = Path(emjax.__file__).resolve().parents[1]
    for folder, of in ((package, "emjax"), (Path.cwd(), "working directory")):
        top = _git(folder, "rev-parse", "--show-toplevel")
        # a site-packages folder inside somebody's repository is not a checkout of emjax
        if not top or (of == "emjax" and Path(top).resolve() != package):
            continue
        head = _git(folder, "rev-parse", "HEAD")
        if head:
            dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
            return {"commit": head, "dirty": dirty, "of": of}
    return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def command_line() -> str:
    """The command that started this process, as one types it."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None:
        start = ["python", "-m", spec.name.removesuffix(".__main__")]
    elif sys.argv[0] in ("", "-c"):
        start = ["python"]
    elif Path(sys.argv[0]).suffix == ".py":
        start = ["python", sys.argv[0]]
    else:
        start = [Path(sys.argv[0]).name]  # an installed command, such as emjax
    return shlex.join(start + sys.argv[1:])
