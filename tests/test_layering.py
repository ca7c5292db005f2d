"""Imports run one way: simulators <- emjax <- experiments, benchmarks (read from the source)."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 400

LEARNING = {"emjax", "flax", "optax", "experiments", "benchmarks"}
"""What the physics must not know."""

MAY_SIMULATE = ("data/synthetic", "retrieval/", "config.py")
"""Where emjax touches the simulators: paths below `emjax/` start with one of these."""

SLOW = {"jax", "jaxlib", "flax", "optax", "matplotlib", "skimage", "scipy", "abtem"}
"""Libraries of about a second and more; what the command line loads first goes without."""


class Import(NamedTuple):
    file: str
    """Path below the root, with forward slashes."""
    line: int
    module: str
    top_level: bool
    """Runs when the file is imported (not inside a function, not under TYPE_CHECKING)."""

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def is_type_checking(test: ast.expr) -> bool:
    return "TYPE_CHECKING" in ast.unparse(test)


def imports(source: str, file: str) -> list[Import]:
    """Every absolute import of a file; those under TYPE_CHECKING count as not at top level."""
    found: list[Import] = []

    def visit(node: ast.AST, top_level: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(file, node.lineno, a.name, top_level) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import; write the full name"
            found.append(Import(file, node.lineno, node.module or "", top_level))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            top_level = False
        if isinstance(node, ast.If) and is_type_checking(node.test):
            for child in node.body:
                visit(child, False)
            for child in node.orelse:
                visit(child, top_level)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, top_level)

    visit(ast.parse(source), True)
    return found


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports_of(*folders: str) -> list[Import]:
    return [
        entry
        for path in sources(*folders)
        for entry in imports(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())
    ]


def assert_none(broken: list[Import], rule: str) -> None:
    assert not broken, f"{rule}:\n" + "\n".join(map(str, broken))


def test_the_reader_of_imports():
    source = (
        "import a.b\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import c\n"
        "else:\n    import d\ndef f():\n    from e import g\nclass K:\n    import h\n"
    )
    found = {(entry.module, entry.top_level) for entry in imports(source, "x.py")}
    assert found == {
        ("a.b", True),
        ("typing", True),
        ("c", False),
        ("d", True),
        ("e", False),
        ("h", True),
    }


def test_simulators_know_nothing_of_learning():
    broken = [entry for entry in imports_of("simulators") if entry.package in LEARNING]
    assert_none(broken, "simulators/ is physics alone: move this code to emjax/")


def test_emjax_does_not_import_experiments():
    broken = [i for i in imports_of("emjax") if i.package in {"experiments", "benchmarks"}]
    assert_none(broken, "experiments are forked, never imported: move shared code into emjax/")


def test_only_synthetic_data_and_retrieval_touch_the_simulators():
    broken = [
        entry
        for entry in imports_of("emjax")
        if entry.package == "simulators"
        and not entry.file.removeprefix("emjax/").startswith(MAY_SIMULATE)
    ]
    assert_none(broken, f"inside emjax only {MAY_SIMULATE} may import simulators")


def test_abtem_is_imported_in_one_place_and_late():
    broken = [
        entry
        for entry in imports_of("simulators", "emjax", "experiments")
        if entry.package == "abtem" and (entry.top_level or entry.file != "simulators/interop.py")
    ]
    assert_none(broken, "abTEM (GPL, 9 s to import) only in functions of simulators/interop.py")


def test_experiments_do_not_import_each_other():
    broken = [entry for entry in imports_of("experiments") if entry.package == "experiments"]
    assert_none(broken, "an experiment stands alone, so that it can be forked")


def test_what_the_command_line_loads_first_is_light():
    light = ("emjax/__init__.py", "emjax/cli/", "emjax/config.py", "emjax/runs.py", "experiments/")
    broken = [
        entry
        for entry in imports_of("emjax", "experiments")
        if entry.file.startswith(light) and entry.top_level and entry.package in SLOW
    ]
    assert_none(broken, "import slow libraries inside the function that needs them")


def test_importing_an_experiment_loads_no_slow_library():
    """As the command line does it, with all that the experiment's own imports bring along."""
    names = [path.stem for path in sources("experiments") if not path.stem.startswith("_")]
    if not names:
        pytest.skip("there is no experiment yet")
    code = (
        "import importlib, json, sys\n"
        "import emjax.cli\n"
        f"for name in {names!r}:\n    importlib.import_module('experiments.' + name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert SLOW.isdisjoint(json.loads(result.stdout)), "find the import with `python -X importtime`"


@pytest.mark.parametrize("folder", ["simulators", "emjax", "experiments", "benchmarks", "tests"])
def test_files_are_short(folder):
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in sources(folder)
    }
    long = {name: n for name, n in lengths.items() if n > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines, so more than one idea each: {long}"
