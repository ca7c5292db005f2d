"""Find experiment scripts by name or path, and read their titles without running them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from emjax.cli.errors import UsageError, suggestion


@dataclass(frozen=True)
class Script:
    """What a script says about itself in its source."""

    name: str
    path: Path
    title: str
    presets: tuple[str, ...]
    problem: str = ""


def folders() -> list[Path]:
    """The folders that are searched, in this order: ./experiments, then the checkout's."""
    checkout = Path(__file__).resolve().parents[2] / "experiments"
    found: list[Path] = []
    for folder in (Path.cwd() / "experiments", checkout):
        if folder.is_dir() and folder.resolve() not in [known.resolve() for known in found]:
            found.append(folder)
    return found


def scripts() -> list[Script]:
    """Every experiment in `folders()`, sorted by name; the first folder wins."""
    found: dict[str, Script] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.py")):
            script = None if path.name.startswith("_") else read_script(path)
            if script is not None:
                found.setdefault(script.name, script)
    return sorted(found.values(), key=lambda script: script.name)


def read_script(path: Path) -> Script | None:
    """Title and presets of a script from its syntax tree; None if it is no experiment.

    A file that Python cannot read is returned with its `problem`, so that it does not vanish from
    the list.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError) as error:
        return Script(path.stem, path, "", (), problem=f"cannot be read: {error}")
    presets = _presets(tree)
    if presets is None:
        return None
    title = (ast.get_docstring(tree) or "").strip().split("\n")[0]
    return Script(path.stem, path, title, presets)


def _presets(tree: ast.Module) -> tuple[str, ...] | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        if any(isinstance(target, ast.Name) and target.id == "PRESETS" for target in targets):
            value = getattr(node, "value", None)
            keys = value.keys if isinstance(value, ast.Dict) else []
            return tuple(str(key.value) for key in keys if isinstance(key, ast.Constant))
    return None


def find(name: str) -> Path:
    """The script that `name` means: the path of a .py file, or a name in `folders()`.

    Raises
    ------
    UsageError : there is none; the message says where was searched and which name is near.
    """
    if name.endswith(".py") or "/" in name or "\\" in name:
        return _find_path(Path(name).expanduser())
    stem = name.replace("-", "_")
    for folder in folders():
        if (folder / f"{stem}.py").is_file():
            return folder / f"{stem}.py"
    known = [script.name for script in scripts()]
    searched = " and ".join(str(folder) for folder in folders()) or "./experiments (no such folder)"
    there = f" There are {', '.join(known)}." if known else ""
    raise UsageError(
        f"no experiment is called {name!r} in {searched}.{suggestion(stem, known)}{there} "
        "The path of a .py file works too."
    )


def _find_path(path: Path) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name one of its .py files")
    if path.parent == Path() and any((folder / path.name).is_file() for folder in folders()):
        return find(path.stem)
    near = path.parent.glob("*.py") if path.parent.is_dir() else ()
    raise UsageError(f"there is no file {path}.{suggestion(path.name, [p.name for p in near])}")
