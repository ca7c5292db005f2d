"""The `emjax` command itself: help without jax, suggestions, readable errors, exit statuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from emjax.cli import COMMANDS, main
from emjax.cli.errors import UsageError, foreseen, guarded, suggestion

SLOW = ("jax", "flax", "optax", "matplotlib", "scipy", "skimage", "h5py", "abtem", "numpy")


def fresh(code, *, cwd, **variables):
    """Run code in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **variables},
        timeout=60,
    )


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS), ["predikt"], ["run"]],
)
def test_help_and_mistakes_import_nothing_slow(words, tmp_path):
    code = (
        "import sys\n"
        "from emjax.cli import main\n"
        f"status = main({words!r})\n"
        f"print('slow:', [name for name in {SLOW!r} if name in sys.modules])\n"
        "sys.exit(status)"
    )
    done = fresh(code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "slow: []"
    assert done.returncode == (2 if words in (["predikt"], ["run"]) else 0)


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert main([]) == 2
    assert "usage: emjax COMMAND" in capsys.readouterr().err
    assert main(["help", "doctor"]) == 0
    assert "emjax doctor" in capsys.readouterr().out


def test_version(capsys):
    import emjax

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"emjax {emjax.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predikt", "a"], "unknown command 'predikt'. Did you mean \"predict\"?"),
        (["xyzzy"], f"The commands are {', '.join(COMMANDS)}."),
        (["--preset", "smoke"], "a command comes first"),
        (["list", "--verbos"], "--verbos"),
        (["report"], "RUN"),
    ],
)
def test_mistakes_are_explained(words, message, capsys):
    assert main(words) == 2
    said = capsys.readouterr()
    assert message in said.err + said.out
    assert "Traceback" not in said.err


def test_an_experiment_without_run_is_understood(tmp_path, monkeypatch, capsys):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "my_task.py").write_text("PRESETS = {}\n")
    monkeypatch.chdir(tmp_path)
    assert main(["my-task", "--preset", "smoke"]) == 2
    assert "is an experiment: emjax run my-task --preset smoke" in capsys.readouterr().err


def test_python_dash_m_emjax(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "emjax", "--version"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.startswith("emjax ")


def test_the_list_shows_titles_presets_and_broken_scripts(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "experiments"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    (folder / "one.py").write_text(
        '"""Find things.\n\nMore."""\nPRESETS = {"smoke": 1, "cpu": 2}\n'
    )
    (folder / "two.py").write_text('"""Typed."""\nPRESETS: dict[str, int] = {"cpu": 2}\n')
    (folder / "torn.py").write_text("def main(:\n")
    (folder / "helper.py").write_text("PI = 3\n")
    (folder / "_draft.py").write_text("PRESETS = {}\n")
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  one +Find\ things\.\ \ \[smoke,\ cpu\]", out, re.M)
    assert re.search(r"^  two +Typed\.\ \ \[cpu\]", out, re.M)
    assert re.search(r"^  torn +cannot\ be\ read:\ invalid\ syntax", out, re.M)
    assert "helper" not in out
    assert "_draft" not in out
    assert "networks" in out


def test_report_renders_again_and_finds_runs_by_name(tmp_path, monkeypatch, capsys):
    from emjax.report import Section, write_report

    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine"
    page = write_report(run, title="Mine", summary=["A sentence."], sections=[Section("S", [])])
    (run / "config.json").write_text("{}")
    first = page.read_text()
    for name in ("mine", "runs/mine", str(run)):
        page.unlink()
        assert main(["report", name]) == 0
        assert page.read_text() == first
        assert "report.html" in capsys.readouterr().out
    assert main(["report", "mnie"]) == 2
    assert 'Did you mean "mine"?' in capsys.readouterr().err
    (tmp_path / "runs" / "empty").mkdir()
    assert main(["report", "empty"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said


def raising(error):
    def call():
        raise error

    return call


def test_exit_statuses(capsys):
    assert guarded(lambda: None) == 0
    assert guarded(lambda: 1) == 1
    assert guarded(raising(UsageError("not so"))) == 2
    assert guarded(raising(FileNotFoundError(2, "No such file or directory", "x.dm4"))) == 1
    assert guarded(raising(SystemExit(3))) == 3
    assert guarded(raising(SystemExit("stop here"))) == 1
    assert guarded(raising(KeyboardInterrupt())) == 130
    said = capsys.readouterr().err
    assert "error: not so\n" in said
    assert "error: x.dm4: No such file or directory\n" in said
    assert "stop here\n" in said


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError, match="gone"):
        guarded(raising(KeyError("gone")))
    with pytest.raises(ValueError, match="of a user"):  # raised here, not in emjax
        guarded(raising(ValueError("of a user's script")))


def test_errors_that_emjax_raises_on_purpose_are_messages(monkeypatch, capsys):
    import numpy as np

    from emjax.data.patches import apply_tiled, tile_corners
    from emjax.runs import RunError

    def wrong():
        apply_tiled(lambda tiles: tiles, np.zeros(3))

    assert guarded(wrong) == 1
    assert "error: tiles are cut from a picture [y, x, c]" in capsys.readouterr().err
    assert guarded(raising(RunError("no GPU"))) == 1

    def bug():
        tile_corners(0, "three", 9)  # a TypeError inside emjax that nobody wrote

    with pytest.raises(TypeError):
        guarded(bug)
    monkeypatch.setenv("EMJAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="tiles are cut"):
        guarded(wrong)


def test_a_full_device_says_what_to_do(capsys):
    class XlaRuntimeError(RuntimeError):
        pass

    error = XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore\nmore")
    assert foreseen(error)
    assert guarded(raising(error)) == 1
    said = capsys.readouterr().err
    assert "out of memory" in said
    assert "smaller batch" in said
    assert "more" not in said


def test_a_closed_pipe_is_silent(tmp_path):
    code = "import sys; from emjax.cli import main; sys.exit(main(['--help']))"
    shell = f'"{sys.executable}" -c "{code}" | true'
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""


def test_letters_that_a_terminal_lacks_are_replaced(tmp_path):
    code = "import sys; from emjax.cli import main; sys.exit(main(['predict', '--help']))"
    done = fresh(code, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "--sampling" in done.stdout


def test_suggestions_are_near():
    assert suggestion("reprot", COMMANDS) == ' Did you mean "report"?'
    assert suggestion("zzz", COMMANDS) == ""


def test_the_entry_point_is_this_command():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["scripts"]["emjax"] == "emjax.cli:main"
