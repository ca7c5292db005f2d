"""Run folders: what is written, what is refused, and that metrics survive a killed process."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from emjax import environment as env_module
from emjax import files
from emjax.metrics_file import MetricsFile
from emjax.runs import Run, RunError, environment, list_runs, open_run, read_config


@dataclass(frozen=True)
class Optics:
    energy: float = 80e3
    angles: tuple[float, float] = (50.0, 200.0)


@dataclass(frozen=True)
class Config:
    seed: int = 0
    time_limit: float | None = None
    optics: Optics = field(default_factory=Optics)


def open_here(tmp_path, config=None, **kwargs):
    return open_run("experiments/denoise.py", config or Config(), root=tmp_path, **kwargs)


def test_a_run_is_described_by_its_folder(tmp_path, capsys):
    run = open_here(tmp_path, preset="smoke", command="emjax run denoise --preset smoke")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("emjax 0.1.0 · jax ")
    assert "· backend cpu (" in lines[0]
    assert lines[1] == f"run {run.path} (preset smoke)"
    assert run.path == tmp_path / "denoise"
    settings = read_config(run.path)
    assert settings["experiment"] == "denoise"
    assert settings["preset"] == "smoke"
    assert settings["config"]["optics"] == {"energy": 80e3, "angles": [50.0, 200.0]}
    env = json.loads((run.path / "env.json").read_text())
    assert env["command"] == "emjax run denoise --preset smoke"
    assert env["backend"] == "cpu"
    assert env["packages"]["jax"]
    assert not list(tmp_path.rglob("*.part"))


def test_a_second_run_takes_the_next_free_name(tmp_path):
    names = [open_here(tmp_path).path.name for _ in range(3)]
    assert names == ["denoise", "denoise-2", "denoise-3"]
    assert set(list_runs(tmp_path)) == set(names)


def test_overwrite_empties_a_run_but_no_other_folder(tmp_path):
    run = open_here(tmp_path)
    run.log(1, loss=2.0)
    again = open_here(tmp_path, overwrite=True)
    assert again.path == run.path
    assert again.metrics() == {"step": []}
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not the folder of a run, so --overwrite leaves it"):
        open_here(tmp_path, name="thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").exists()


@pytest.mark.parametrize("name", ["..", "a/b", "../x"])
def test_a_name_is_no_path(tmp_path, name):
    with pytest.raises(RunError, match="must be a plain folder name; use --root"):
        open_here(tmp_path, name=name)


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match=r"--root .*runs is a file|cannot make the folder"):
        open_here(tmp_path / "runs")


def test_resume_takes_the_latest_run_or_the_named_one(tmp_path):
    open_here(tmp_path)
    open_here(tmp_path)
    assert open_here(tmp_path, resume=True).path.name == "denoise-2"
    run = open_here(tmp_path, resume=True, name="denoise")
    assert run.path.name == "denoise"
    assert run.resumed
    env = json.loads((run.path / "env.json").read_text())
    assert len(env["resumed"]) == 1
    assert env["resumed"][0]["backend"] == "cpu"


def test_resume_with_nothing_there_suggests_a_name(tmp_path):
    open_here(tmp_path)
    with pytest.raises(RunError, match=r"no run .*denois to resume \(there are: denoise\)"):
        open_here(tmp_path, resume=True, name="denois")
    with pytest.raises(RunError, match="there is no run in"):
        open_here(tmp_path / "empty", resume=True)
    assert not (tmp_path / "empty").exists()
    with pytest.raises(RunError, match="choose one"):
        open_here(tmp_path, resume=True, overwrite=True)


def test_resume_with_other_settings_lists_them(tmp_path):
    open_here(tmp_path, preset="cpu")
    other = Config(seed=3, optics=Optics(energy=60e3))
    with pytest.raises(RunError) as caught:
        open_here(tmp_path, other, resume=True)
    message = str(caught.value)
    assert "seed: 0 in the run, 3 now" in message
    assert "optics.energy: 80000.0 in the run, 60000.0 now" in message
    assert "angles" not in message
    assert "the run has preset cpu" in message


def test_a_resumed_run_may_have_another_time_limit(tmp_path):
    open_here(tmp_path, Config(time_limit=60.0))
    assert open_here(tmp_path, replace(Config(), time_limit=600.0), resume=True).resumed


def test_a_damaged_config_is_refused(tmp_path):
    run = open_here(tmp_path)
    (run.path / "config.json").write_text('{"experiment": "den')
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        open_here(tmp_path, resume=True)
    with pytest.raises(RunError, match=r"it has no config\.json"):
        read_config(tmp_path)


def test_a_wrong_backend_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(env_module, "backend", lambda: ("cpu", ["cpu"]))
    monkeypatch.setattr(env_module, "nvidia_driver", lambda: None)
    with pytest.raises(RunError, match=r"--require gpu, but jax runs on the cpu. No NVIDIA"):
        open_here(tmp_path, require="gpu")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(env_module, "nvidia_driver", lambda: "550.54.15")
    monkeypatch.setattr(env_module.importlib.metadata, "distributions", lambda **_: iter(()))
    with pytest.raises(RunError, match=r"pip install 'emjax\[cuda12\]' \(driver 550"):
        open_here(tmp_path, require="gpu")
    with pytest.raises(RunError, match="choose cpu, gpu or tpu"):
        open_here(tmp_path, require="cuda")


def test_an_idle_gpu_is_mentioned(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(env_module, "nvidia_driver", lambda: "580.65.06")
    monkeypatch.setattr(env_module, "backend", lambda: ("cpu", ["cpu"]))
    open_here(tmp_path)
    assert "NVIDIA GPU that is not used" in capsys.readouterr().out
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    open_here(tmp_path)
    assert "NVIDIA" not in capsys.readouterr().out


def test_the_command_to_resume():
    run = Run("runs/night-2", command="emjax run denoise --seed 3 --name night --overwrite")
    assert run.resume_command == "emjax run denoise --seed 3 --name night-2 --resume"
    run = Run("runs/a", command="emjax run 'my file.py' --name=b --resume")
    assert run.resume_command == "emjax run 'my file.py' --name a --resume"


def test_environment_outside_of_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(env_module.emjax, "__file__", str(tmp_path / "emjax" / "__init__.py"))
    assert environment("x")["git"] is None
    monkeypatch.setenv("PATH", "")
    assert env_module.commit() is None


def test_metrics_are_rows_of_a_csv_file(tmp_path):
    run = Run(tmp_path)
    run.log(10, loss=0.1, rate=1e-9)
    run.log(20, loss=float("nan"))
    run.log(20, val_f1=0.5)  # same step: same row
    run.log(30, loss=1 / 3)
    text = (tmp_path / "metrics.csv").read_text()
    assert text == ("step,loss,rate,val_f1\n10,0.1,1e-09,\n20,nan,,0.5\n30,0.3333333333333333,,\n")
    metrics = Run(tmp_path).metrics()
    assert metrics["step"] == [10, 20, 30]
    assert metrics["loss"][2] == 1 / 3
    assert math.isnan(metrics["loss"][1])
    assert math.isnan(metrics["val_f1"][0])
    assert metrics["val_f1"][1] == 0.5
    with pytest.raises(ValueError, match="not a metric"):
        MetricsFile(tmp_path / "metrics.csv").append(1, {"step": 2.0})


def test_rewind_drops_later_rows_and_half_written_ones(tmp_path):
    run = Run(tmp_path)
    for step in (10, 20, 30):
        run.log(step, loss=step / 10)
    file = tmp_path / "metrics.csv"
    with file.open("a") as opened:
        opened.write("40,4.")  # the process was killed here
    run = Run(tmp_path)
    assert run.metrics()["step"] == [10, 20, 30]
    run.rewind(20)
    run.log(30, loss=7.0)
    assert file.read_text() == "step,loss\n10,1.0\n20,2.0\n30,7.0\n"
    with file.open("a") as opened:
        opened.write("40,4.")
    run = Run(tmp_path)
    run.log(40, loss=8.0)  # without rewind
    assert file.read_text().endswith("30,7.0\n40,8.0\n")


def test_a_foreign_table_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match="first column is 'x', not 'step'"):
        Run(tmp_path).metrics()
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2\n2,two\n")
    with pytest.raises(ValueError, match="line 3 is not a row of metrics"):
        Run(tmp_path).metrics()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    before = path.read_bytes()
    with suppress(RuntimeError), files.replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_bytes() == before
    assert not Path(f"{path}.part").exists()
    with pytest.raises(TypeError, match="of type object"):
        files.write_json(path, {"a": object()})
    assert path.read_bytes() == before


def test_opening_the_module_imports_no_slow_library():
    code = (
        "import sys, emjax.runs; "
        "print({'jax', 'flax', 'optax', 'matplotlib', 'rich.progress'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_folder_stays_locked_while_any_run_of_this_process_lives(tmp_path):
    first = open_run("count", {}, root=tmp_path)
    again = open_run("count", {}, root=tmp_path, name="count", resume=True)
    del first
    gc.collect()
    code = (
        "import sys\nfrom emjax.run_lock import lock_folder\n"
        "from emjax.environment import RunError\n"
        "try:\n    lock_folder(sys.argv[1])\nexcept RunError as error:\n    sys.exit(str(error))\n"
    )
    words = [sys.executable, "-c", code, str(again.path)]
    refused = subprocess.run(words, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "another process" in refused.stderr
    del again
    gc.collect()
    assert subprocess.run(words, capture_output=True).returncode == 0
