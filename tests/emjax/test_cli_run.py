"""`emjax run`: discovery, typed flags over presets, run folders, scripts run by Python itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emjax.cli import main
from emjax.cli.errors import UsageError
from emjax.cli.run import RunOptions, check_contract, load, prepare_jax, split_name

SCRIPT = '''"""Count to a number.

The second paragraph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from emjax.config import OpticsConfig
from helper import SUFFIX


@dataclass(frozen=True)
class Scene:
    species: tuple[str, ...] = ("C", "Si")
    """Chemical symbols."""
    sampling: tuple[float, float] = (0.1, 0.3)
    """Range of pixel sizes [Å]."""


@dataclass(frozen=True)
class Config:
    steps: int = 100
    """How far to count."""
    seed: int = 0
    """Random seed."""
    flip: bool = True
    """Count backwards too."""
    optics: OpticsConfig = OpticsConfig()
    scene: Scene = Scene()


PRESETS = {"smoke": Config(steps=3), "cpu": Config(), "gpu": Config(steps=1000)}


def main(config, run):
    (run.path / "out.txt").write_text(f"{config.steps}{SUFFIX}")
    run.log(config.steps, energy=config.optics.energy)
    print("species", config.scene.species)


if __name__ == "__main__":
    from emjax.cli import run_module

    run_module(__file__)
'''


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A working folder with ./experiments/count_up.py and a helper beside it."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "count_up.py").write_text(SCRIPT)
    (folder / "helper.py").write_text('SUFFIX = "!"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:  # the next test has another helper
        if name == "helper" or name.startswith("emjax_experiment_"):
            del sys.modules[name]


def settings(folder, name="count_up"):
    return json.loads((folder / "runs" / name / "config.json").read_text())


def test_flags_go_over_the_preset(desk, capsys):
    line = "run count_up --preset smoke --optics.energy 60e3 --scene.species B N --no-flip"
    assert main(line.split()) == 0
    told = settings(desk)
    assert told["experiment"] == "count_up"
    assert told["preset"] == "smoke"
    assert told["config"]["steps"] == 3
    assert told["config"]["optics"]["energy"] == 60e3
    assert told["config"]["scene"]["species"] == ["B", "N"]
    assert told["config"]["flip"] is False
    assert (desk / "runs/count_up/out.txt").read_text() == "3!"
    env = json.loads((desk / "runs/count_up/env.json").read_text())
    assert env["command"] == f"emjax {line}"
    out = capsys.readouterr().out
    assert out.startswith("emjax 0.1.0 · jax ")  # the backend comes first
    assert "species ('B', 'N')" in out


def test_the_default_preset_is_cpu(desk):
    assert main(["run", "count_up"]) == 0
    assert settings(desk)["preset"] == "cpu"
    assert settings(desk)["config"]["steps"] == 100


@pytest.mark.parametrize(
    "line",
    [
        "run count-up --preset=smoke --optics.source_size 1.5 --seed 7",
        "run --preset smoke count_up --optics.source-size 1.5 --seed 7",
        "run experiments/count_up.py --preset smoke --seed=7 --optics.source-size=1.5",
        "run count_up.py --seed 7 --preset smoke --optics.source-size 1.5",
    ],
)
def test_ways_to_say_the_same(desk, line):
    assert main(line.split()) == 0
    config = settings(desk)["config"]
    assert (config["steps"], config["seed"], config["optics"]["source_size"]) == (3, 7, 1.5)


def test_a_script_of_a_fork_runs_from_its_path_alone(desk, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("fork")
    (elsewhere / "mine.py").write_text(SCRIPT.replace("from helper import SUFFIX", 'SUFFIX = "?"'))
    assert main(["run", str(elsewhere / "mine.py"), "--preset", "smoke", "--name", "first"]) == 0
    assert (desk / "runs/first/out.txt").read_text() == "3?"
    assert settings(desk, "first")["experiment"] == "mine"


def test_names_are_kept_and_paths_are_printed(desk, capsys):
    body = "    (run.path / 'report.html').write_text('page')\n    run.model_path.write_text('m')\n"
    script = SCRIPT.replace("    print(", body + "    print(")
    (desk / "experiments" / "count_up.py").write_text(script)
    for expected in ("count_up", "count_up-2"):
        assert main(["run", "count_up", "--preset", "smoke"]) == 0
        out = capsys.readouterr().out
        assert f"report   runs/{expected}/report.html" in out
        assert f"predict  emjax predict runs/{expected} IMAGE" in out
    assert main(["run", "count_up", "--preset", "smoke", "--overwrite"]) == 0
    assert sorted(p.name for p in (desk / "runs").iterdir()) == ["count_up", "count_up-2"]


def test_resume_with_other_settings_lists_them(desk, capsys):
    assert main(["run", "count_up", "--preset", "smoke"]) == 0
    assert main(["run", "count_up", "--preset", "smoke", "--resume", "--seed", "3"]) == 1
    said = capsys.readouterr().err
    assert "seed: 0 in the run, 3 now" in said
    assert "Traceback" not in said
    assert main(["run", "count_up", "--preset", "smoke", "--resume"]) == 0


def test_a_backend_that_is_not_there(desk, capsys, monkeypatch):
    import jax

    if jax.default_backend() != "cpu":
        pytest.skip("there is an accelerator here")
    assert main(["run", "count_up", "--preset", "smoke", "--require", "gpu"]) == 1
    assert "--require gpu, but jax runs on the cpu" in capsys.readouterr().err
    assert not (desk / "runs").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run count_upp", 'Did you mean "count_up"?'),
        ("run cuont_up.py", "there is no file cuont_up.py"),
        ("run experiments/cuont_up.py", 'Did you mean "count_up.py"?'),
        ("run experiments/", "is a folder; name one of its .py files"),
        ("run count_up --preset smok", "no preset is called 'smok'. Did you mean \"smoke\"?"),
        ("run count_up --preset", "There are smoke, cpu, gpu."),
        ("run count_up --optics.enrgy 60e3", "--optics.energy"),
        ("run count_up --reusme", "--resume"),
        ("run count_up --steps many", "many"),
        ("run count_up --require moon", "moon"),
        ("run count_up smoke", "smoke"),
        ("run --steps 3 count_up", "name comes before --steps"),
        ("run helper", "no experiment is called 'helper'"),
        ("run experiments/helper.py", "it lacks a frozen dataclass `Config` and a dict `PRESETS`"),
    ],
)
def test_mistakes_get_an_answer_and_leave_nothing(desk, capsys, line, message):
    if line == "run helper":
        (desk / "experiments" / "helper.py").unlink()
    assert main(line.split()) == 2
    said = capsys.readouterr()
    assert message in " ".join((said.err + said.out).split())
    assert "Traceback" not in said.err
    assert not (desk / "runs").exists()


def test_an_error_in_a_script_keeps_its_traceback(desk):
    path = desk / "experiments" / "count_up.py"
    path.write_text(SCRIPT.replace("    print(", "    config.nothing\n    print("))
    with pytest.raises(AttributeError, match="nothing"):
        main(["run", "count_up", "--preset", "smoke"])
    path.write_text(SCRIPT + "import not_a_module\n")
    with pytest.raises(ModuleNotFoundError, match="not_a_module"):
        main(["run", "count_up"])
    assert "emjax_experiment_count_up" not in sys.modules


def test_the_contract_of_a_script(desk):
    path = desk / "experiments" / "count_up.py"
    path.write_text(SCRIPT.replace("    seed: int = 0", "    name: int = 0"))
    with pytest.raises(UsageError, match="rename the field 'name' of Config; --name is an option"):
        check_contract(load(path), path)
    path.write_text(SCRIPT.replace('"cpu": Config()', '"cpu": {}'))
    with pytest.raises(UsageError, match=r"PRESETS\['cpu'\] is not a Config"):
        check_contract(load(path), path)
    path.write_text(SCRIPT.replace("def main(", "def start("))
    with pytest.raises(UsageError, match=r"lacks a function `main\(config, run\)`"):
        check_contract(load(path), path)


def child(arguments, folder):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, timeout=60
    )


def test_help_shows_every_flag_with_its_text_and_imports_no_jax(desk):
    code = (
        "import sys\nfrom emjax.cli import main\n"
        "assert main(['run', 'count_up', '--preset', 'smoke', '--help']) == 0\n"
        "print([name for name in ('jax', 'flax', 'optax', 'matplotlib') if name in sys.modules])"
    )
    done = child(["-c", code], desk)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    text = " ".join(done.stdout.split())
    assert "Count to a number." in text
    assert "Beam energy [eV]. (default: 80000.0)" in text
    assert "How far to count. (default: 3)" in text  # of the preset that was named
    assert "Range of pixel sizes [Å]." in text
    assert "--preset {smoke,cpu,gpu}" in text
    for field in RunOptions.__dataclass_fields__:
        assert f"--{field}" in text
    assert not (desk / "runs").exists()


@pytest.mark.parametrize(
    ("start", "command"),
    [
        (["-m", "experiments.count_up"], "python -m experiments.count_up --preset smoke --seed 4"),
        (["experiments/count_up.py"], "python experiments/count_up.py --preset smoke --seed 4"),
    ],
)
def test_python_runs_a_script_the_same_way(desk, start, command):
    if start[0] == "-m":  # then the working folder, not the script's, is importable
        script = SCRIPT.replace("from helper", "from experiments.helper")
        (desk / "experiments" / "count_up.py").write_text(script)
    done = child([*start, "--preset", "smoke", "--seed", "4"], desk)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("emjax 0.1.0 · jax ")
    assert settings(desk)["config"]["seed"] == 4
    assert settings(desk)["experiment"] == "count_up"
    env = json.loads((desk / "runs/count_up/env.json").read_text())
    assert env["command"] == command
    wrong = child([*start, "--preset", "smok"], desk)
    assert wrong.returncode == 2
    assert 'Did you mean "smoke"?' in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_the_name_is_found_among_the_options():
    assert split_name(["a", "--x", "1"]) == ("a", ["--x", "1"])
    assert split_name(["--resume", "--root=r", "--name", "n", "a"]) == (
        "a",
        ["--resume", "--root=r", "--name", "n"],
    )
    assert split_name(["--help"]) == (None, ["--help"])


def test_the_overview_lists_the_experiments(desk, capsys):
    assert main(["run", "--help"]) == 0
    assert "count_up" in capsys.readouterr().out
    assert main(["run"]) == 2
    assert "Count to a number." in capsys.readouterr().err


def test_programs_are_cached_unless_the_environment_says_where(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    prepare_jax()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prepare_jax()
    folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert folder.parent == tmp_path / "emjax"
    assert folder.is_dir()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    prepare_jax()  # a home that cannot be written to
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
