"""The repository's promises to a newcomer: commands, versions, links, nothing of one machine."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import emjax

ROOT = Path(__file__).resolve().parents[1]
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".cff", ".cfg", ".j2", ".json", ".sh", ""}


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def readme_commands() -> dict[str, str]:
    """The marked shell blocks of the README: name -> command."""
    pattern = r"<!-- command: (\w+) -->\n```sh\n(.*?)```"
    return dict(re.findall(pattern, read("README.md"), re.DOTALL))


def repository_files() -> list[str]:
    """What git holds or would add; in a copy without git, every file that is not hidden."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return sorted(name for name in set(listed.stdout.splitlines()) if (ROOT / name).is_file())
    return sorted(
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*")
        if path.is_file() and not any(p[0] == "." for p in path.relative_to(ROOT).parts)
    )


def text_files() -> list[str]:
    return [name for name in repository_files() if (ROOT / name).suffix in TEXT]


def experiments() -> list[str]:
    paths = (ROOT / "experiments").glob("*.py")
    return sorted(path.stem for path in paths if not path.stem.startswith("_"))


def test_the_readme_has_two_commands_that_stand_alone():
    commands = readme_commands()
    assert set(commands) == {"run", "test"}
    for command in commands.values():
        assert command.startswith("python3.11 -m venv .venv && "), "sets itself up"
        assert "-c constraints.txt" in command
        assert len(re.sub(r"\\\n", "", command).strip().splitlines()) == 1, "one line to paste"
    assert commands["run"].strip().endswith(".venv/bin/emjax run locate_atoms --preset smoke")
    assert commands["test"].strip().endswith(".venv/bin/pytest -n 2")


@pytest.mark.parametrize("name", ["run", "test"])
def test_ci_runs_the_readme_commands(name):
    shown = subprocess.run(
        ["bash", ".ci/run", "--show", name], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout == readme_commands()[name]
    assert re.search(rf"^  follow_readme {name}$", read(".ci/run"), re.MULTILINE)
    syntax = subprocess.run(["bash", "-n"], input=shown.stdout, text=True, capture_output=True)
    assert syntax.returncode == 0, syntax.stderr


def test_constraints_pin_the_tested_pairs_and_name_no_place():
    lines = read("constraints.txt").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.match(r"[A-Za-z0-9._-]+==[^ @/]+( ; .+)?$", pin) for pin in pins)
    assert not any("://" in line or "@ " in line or "index" in line for line in lines)
    old, new = "python_full_version < '3.12'", "python_full_version >= '3.12'"
    for package in ("jax", "jaxlib"):
        assert f"{package}==0.10.1 ; {old}" in pins
        assert sum(pin.startswith(f"{package}==") and pin.endswith(new) for pin in pins) == 1
    assert f"flax==0.12.8 ; {old}" in pins


def test_constraints_cover_the_dependencies():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = {line.split("==")[0] for line in read("constraints.txt").splitlines()}
    missing = {re.match(r"[A-Za-z0-9._-]+", name)[0].lower() for name in wanted} - pinned
    assert not missing, "make constraints.txt again: the command is in its head"


def test_the_known_bad_versions_of_jax_are_excluded():
    dependencies = tomllib.loads(read("pyproject.toml"))["project"]["dependencies"]
    for package in ("jax", "jaxlib"):
        [line] = [d for d in dependencies if re.match(rf"{package}\W", d)]
        assert {"!=0.10.2", "!=0.11.0", "!=0.11.1"} <= set(line.split(",")), line


def test_the_version_is_the_same_everywhere():
    pyproject = tomllib.loads(read("pyproject.toml"))
    if "version" in pyproject["project"].get("dynamic", ()):
        source = pyproject["tool"]["setuptools"]["dynamic"]["version"]
        assert source == {"attr": "emjax.__version__"}
    else:
        assert pyproject["project"]["version"] == emjax.__version__
    assert re.search(rf"^version: {re.escape(emjax.__version__)}$", read("CITATION.cff"), re.M)
    newest = re.search(r"^## (\S+)", read("CHANGELOG.md"), re.M)
    assert newest is not None
    assert newest[1] == emjax.__version__


def test_nothing_names_one_machine_or_a_package_registry():
    # spelled so that this file does not match itself
    machine = re.compile(r"(?<![\w.}~*-])/(?:work|tmp|root|home|Users|mnt|private)/\w")
    registry = re.compile(r"py(?:pi|thonhosted)\.org|(?:index|registry)[_-]url|file:/{2}")
    found = []
    for name in text_files():
        text = (ROOT / name).read_text("utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            if machine.search(line) or registry.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_no_lock_file_and_no_large_file():
    names = repository_files()
    assert "uv.lock" not in names, "a lock file names registry hosts; constraints.txt does its work"
    size = {n: (ROOT / n).stat().st_size for n in names}
    weights = {n: s for n, s in size.items() if n.startswith("emjax/weights/")}
    assert sum(weights.values()) < 4e6, f"the networks of the package: {weights}"
    large = {n: s for n, s in size.items() if s > 2**20 and n not in weights}
    assert not large, f"over 1 MiB: {large}"


@pytest.mark.parametrize("page", sorted(n for n in repository_files() if n.endswith(".md")))
def test_links_and_pictures_of_a_page_exist(page):
    targets = re.findall(r"\]\(([^)#\s]+)", read(page))
    local = [target for target in targets if "://" not in target]
    missing = [t for t in local if not ((ROOT / page).parent / t).exists()]
    assert not missing, f"{page} points to what is not there: {missing}"


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_has_a_row_of_results(name):
    rows = [line for line in read("experiments/README.md").splitlines() if f"[{name}](" in line]
    assert len(rows) == 1, f"give {name} one row in experiments/README.md"


@pytest.mark.parametrize("page", ["README.md", "experiments/README.md", "simulators/README.md"])
def test_no_place_is_left_open(page):
    assert "TBD" not in read(page), f"{page} still has an open place: fill it or take it out"
    empty = re.findall(r"^(## .+)\n+(?=## |\Z)", read(page), re.MULTILINE)
    assert not empty, f"{page} has headings without text: {empty}"
