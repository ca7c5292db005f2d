"""`emjax list`: the experiments one can run and the networks one can use at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from emjax.cli.discover import folders, scripts


@dataclass(frozen=True)
class ListOptions:
    """Show the experiments that `emjax run` finds and the networks that come with emjax."""


def main(argv: list[str]) -> int:
    """`emjax list`: returns the exit status."""
    tyro.cli(ListOptions, prog="emjax list", args=argv)
    print("\n".join([*experiment_lines(), "", *network_lines()]))
    return 0


def experiment_lines() -> list[str]:
    """The experiments, a line each, under the folder that they lie in."""
    found = scripts()
    if not found:
        searched = ", ".join(str(folder) for folder in folders()) or "./experiments"
        return [f"experiments: none in {searched}"]
    width = max(len(script.name) for script in found) + 2
    lines = []
    for folder in folders():
        mine = [script for script in found if script.path.parent == folder]
        if mine:
            lines += [f"experiments in {folder}   (emjax run NAME)"]
        for script in mine:
            presets = f"  [{', '.join(script.presets)}]" if script.presets else ""
            lines.append(f"  {script.name:<{width}}{script.problem or script.title}{presets}")
    return lines


def network_lines() -> list[str]:
    """The trained networks in the package, a line each."""
    from emjax.models import shipped_models
    from emjax.restoration.shipped import shipped_restorers

    restorers = {name: shipped.path for name, shipped in shipped_restorers().items()}
    others = {k: path for k, path in shipped_models().items() if path not in restorers.values()}
    if not restorers and not others:
        return ["networks: none come with this version; train one with `emjax run`"]
    width = max(len(name) for name in [*restorers, *others]) + 2
    lines = []
    for command, networks in (
        ("emjax predict NAME IMAGE", others),
        ("emjax denoise IMAGE --model NAME", restorers),
    ):
        if networks:
            lines += [f"networks that come with emjax   ({command})"]
            lines += [f"  {name:<{width}}{_describe(path)}" for name, path in networks.items()]
    return lines


def _describe(path: Path) -> str:
    from emjax.models import describe_model

    size = f"{path.stat().st_size / 1e3:.0f} kB"
    try:
        meta = describe_model(path)
    except ValueError as error:
        return f"{size}, cannot be used: {error}"
    parts = [", ".join(str(name) for name in meta.get("classes", ())), meta.get("title", "")]
    if "sampling" in meta:
        parts.append(f"{float(meta['sampling']):g} Å per pixel")
    return "; ".join([part for part in parts if part] + [size])
