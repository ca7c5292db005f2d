"""`emjax doctor`: versions, devices, whether jax computes right numbers, memory, disk; advice."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.text import Text

from emjax.cli import probes
from emjax.cli.probes import Outcome, Probe
from emjax.machine import GIB, Memory, cache_folder, memory

OLDEST_JAX = (0, 10, 1)
BAD_JAX: dict[tuple[int, ...], str] = {
    (0, 10, 2): "computes wrong numbers on the CPU and crashes (jax#39103, jax#39257)",
    (0, 11, 0): "crashes on the CPU and gives NaN on some GPUs (jax#39257, jax#40633)",
    (0, 11, 1): "gives NaN on some GPUs (jax#40633), and flax 0.12.8 cannot be imported",
}
INSTALL = "`pip install -e . -c constraints.txt` in the checkout installs a tested set"
VARIABLES = ("JAX_", "XLA_", "CUDA_VISIBLE_DEVICES", "EMJAX_")


@dataclass(frozen=True)
class DoctorOptions:
    """Check this machine: versions, devices, whether jax computes right numbers, memory, disk.

    The exit status is 1 if emjax cannot be trusted to work here.
    """


@dataclass(frozen=True)
class Finding:
    """One line of the examination. `state` is "ok", "note" (works, could be better) or "bad"."""

    what: str
    value: str
    state: str = "ok"
    advice: str = ""


def main(argv: list[str]) -> int:
    """`emjax doctor`: prints the findings and returns 1 if one of them is bad."""
    tyro.cli(DoctorOptions, prog="emjax doctor", args=argv)
    # all at once: most of their time is the import of jax
    devices = Probe(probes.DEVICES)
    numbers = Probe(probes.NUMBERS, JAX_PLATFORMS="cpu", JAX_ENABLE_X64="1")
    crash = Probe(probes.CRASH, JAX_PLATFORMS="cpu")
    findings = [*judge_versions(_installed()), *machine_findings(memory(), Path.cwd())]
    console = Console(highlight=False, soft_wrap=True)
    _show(findings, console)
    with console.status("trying jax"):
        slow = [
            *judge_devices(devices.outcome()),
            judge_canary("right numbers", numbers.outcome()),
            judge_canary("no crash", crash.outcome()),
        ]
    _show(slow, console)
    findings += slow
    bad = [finding for finding in findings if finding.state == "bad"]
    print()
    if bad:
        print(f"{len(bad)} problem{'s' * (len(bad) > 1)}: {', '.join(f.what for f in bad)}.")
        return 1
    print("Everything that emjax needs works. Try: emjax run locate_atoms --preset smoke")
    return 0


def judge_versions(versions: Mapping[str, str]) -> list[Finding]:
    """Findings on the installed packages ({name: version}; "" where one is missing)."""
    python = platform.python_version()
    old = ("bad", "Python 3.11 or newer is needed.") if sys.version_info < (3, 11) else ()
    findings = [Finding("python", f"{python}, {platform.platform()}", *old)]
    missing = [name for name, version in versions.items() if not version]
    if missing:
        findings.append(Finding("not installed", ", ".join(missing), "bad", f"{INSTALL}."))
    for name, version in versions.items():
        if not version:
            continue
        if name in ("jax", "jaxlib"):
            findings.append(_judge_jax(name, version))
        else:
            findings.append(Finding(name, version))
    if versions.get("jax") and versions.get("jaxlib"):
        lib, jax = _numbers(versions["jaxlib"]), _numbers(versions["jax"])
        if lib[:2] != jax[:2]:
            text = f"jax {versions['jax']} with jaxlib {versions['jaxlib']}"
            findings.append(Finding("jax and jaxlib", text, "bad", f"They differ: {INSTALL}."))
    return findings


def _judge_jax(name: str, version: str) -> Finding:
    number = _numbers(version)
    if number[:3] in BAD_JAX:
        advice = f"This version {BAD_JAX[number[:3]]}. {INSTALL}."
        return Finding(name, version, "bad", advice)
    if number < OLDEST_JAX:
        advice = f"{'.'.join(map(str, OLDEST_JAX))} or newer is needed. {INSTALL}."
        return Finding(name, version, "bad", advice)
    return Finding(name, version)


def judge_devices(outcome: Outcome) -> list[Finding]:
    """Findings on the backend, its devices and the packages that need jax."""
    from emjax.environment import cores, gpu_advice, nvidia_driver

    if outcome.result is None:
        advice = f"`python -c 'import jax; jax.devices()'` shows the whole error. {INSTALL}."
        return [Finding("jax devices", outcome.problem, "bad", advice)]
    backend, devices = outcome.result["backend"], outcome.result["devices"]
    if backend == "cpu":
        count = cores()
        text = f"cpu, {count} core{'s' * (count > 1)}"
        idle = nvidia_driver() is not None
        findings = [
            Finding("backend", text, "note", f"An NVIDIA GPU is not used. {gpu_advice()}")
            if idle
            else Finding("backend", text)
        ]
    else:
        kinds = ", ".join(device["kind"] for device in devices)
        limit = min((device["memory"] or 0 for device in devices), default=0)
        text = f"{backend}: {kinds}"
        advice = ""
        if limit:
            text += f", {limit / GIB:.0f} GiB for jax"
        if os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "true").lower() == "true":
            advice = (
                "jax takes 75 % of the device's memory at its first use, even if it needs less; "
                "XLA_PYTHON_CLIENT_PREALLOCATE=false makes it share the device."
            )
        findings = [Finding("backend", text, "ok", advice)]
    broken = outcome.result.get("broken")
    if broken:
        advice = f"The versions do not go together, or one is missing. {INSTALL}."
        findings.append(Finding("import of flax", broken, "bad", advice))
    return findings


def judge_canary(what: str, outcome: Outcome) -> Finding:
    """Finding on one of the programs that broken versions of jax get wrong."""
    advice = (
        f"Nothing that this jax computes can be trusted. {INSTALL}. A way around it is to set "
        "XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type="
    )
    if outcome.result is None:
        return Finding(what, outcome.problem, "bad", advice)
    wrong = outcome.result["wrong"]
    return Finding(what, "; ".join(wrong), "bad", advice) if wrong else Finding(what, "yes")


def machine_findings(found: Memory, here: Path) -> list[Finding]:
    """Findings on memory, disk, the folder of compiled programs and the environment."""
    findings = []
    if found.total is not None:
        text = f"{found.total / GIB:.1f} GiB"
        low = False
        if found.available is not None:
            text += f", {found.available / GIB:.1f} GiB free"
            low = found.available < 3 * GIB
        advice = "Below 3 GiB training may stop: use smaller batches or close other programs."
        findings.append(Finding("memory", text, *(("note", advice) if low else ())))
    free = shutil.disk_usage(here).free
    advice = "A run needs some 10 MB, a set of simulated images gigabytes; use --root elsewhere."
    state = ("bad", advice) if free < 0.1 * GIB else ("note", advice) if free < 2 * GIB else ()
    findings.append(Finding("disk", f"{free / GIB:.1f} GiB free in {here}", *state))
    findings.append(_cache_finding())
    variables = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES)]
    if variables:
        findings.append(Finding("environment", " ".join(variables)))
    return findings


def _cache_finding() -> Finding:
    folder = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or cache_folder())
    size = sum(file.stat().st_size for file in folder.glob("*") if file.is_file())
    advice = "Old programs are never removed: this folder can be deleted." if size > GIB else ""
    state = "note" if advice else "ok"
    text = f"{size / 1e6:.0f} MB in {folder}"
    parent = next(p for p in (folder, *folder.parents) if p.exists())
    if not os.access(parent, os.W_OK):
        advice = "Programs are compiled anew in every run; JAX_COMPILATION_CACHE_DIR names a place."
        text, state = f"{folder} cannot be written", "note"
    return Finding("compiled programs", text, state, advice)


def _installed() -> dict[str, str]:
    from emjax.environment import PACKAGES

    versions = {}
    for name in ("emjax", *PACKAGES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "0.12.0.1" -> (0, 12, 0, 1)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def _show(findings: list[Finding], console: Console) -> None:
    marks = {"ok": ("ok  ", "green"), "note": ("note", "yellow"), "bad": ("BAD ", "bold red")}
    for finding in findings:
        mark, style = marks[finding.state]
        line = Text.assemble((mark, style), f"  {finding.what:<20}{finding.value}")
        console.print(line)
        if finding.advice:
            console.print(Text(f"      {'':<20}{finding.advice}", style="italic"))
