"""Several seeds in one command, and searches that can be stopped, resumed and shared."""

from __future__ import annotations

import csv
import json
import sys

import pytest

from emjax.cli import main
from emjax.cli.errors import UsageError
from emjax.cli.sweep import changed, parsed_range
from emjax.config import OptimConfig
from emjax.results import ResultsError, read_results, wanted, write_results

SCRIPT = '''"""A parabola."""

from __future__ import annotations

from dataclasses import dataclass, field

from emjax.config import OptimConfig
from emjax.results import write_results


@dataclass(frozen=True)
class Config:
    optim: OptimConfig = field(default_factory=OptimConfig)
    widths: tuple[int, ...] = (8, 12)
    stop: bool = False
    seed: int = 0


PRESETS = {"smoke": Config()}


def main(config, run):
    x = config.optim.learning_rate
    if run.path.name == "trial-0001" and not (run.path / "tried").exists():
        (run.path / "tried").touch()
        if config.stop:
            raise KeyboardInterrupt
    run.log(1, loss=x)
    write_results(run.path, {"value": (x - 0.3) ** 2 + len(config.widths) + config.seed})
'''


@pytest.fixture
def desk(tmp_path, monkeypatch):
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "parabola.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("emjax_experiment_parabola", None)


def table(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_seeds_have_a_mean_and_an_interval(desk, capsys):
    words = ["run", "parabola", "--seeds", "3", "--seed", "4", "--optim.learning-rate", "0.3"]
    assert main(words) == 0
    head, *rows = table(desk / "runs/parabola-seeds/seeds.csv")
    assert head == ["number", "seed 4", "seed 5", "seed 6", "mean", "low", "high"]
    (value,) = [row for row in rows if row[0] == "value"]
    # 6, 7, 8: Student's t of two degrees of freedom, 4.303 · 1 / √3
    assert [float(v) for v in value[1:]] == pytest.approx([6, 7, 8, 7, 7 - 2.484, 7 + 2.484], 1e-3)
    assert "value" in capsys.readouterr().out
    told = json.loads((desk / "runs/parabola-seeds/seed-5/config.json").read_text())
    assert told["config"]["seed"] == 5
    (desk / "runs/parabola-seeds/seed-6/results.json").unlink()
    kept = (desk / "runs/parabola-seeds/seed-4/results.json").stat().st_mtime_ns
    assert main([*words, "--resume"]) == 0
    assert (desk / "runs/parabola-seeds/seed-4/results.json").stat().st_mtime_ns == kept
    assert (desk / "runs/parabola-seeds/seed-6/results.json").is_file()
    assert main(["run", "parabola", "--seeds", "0"]) == 2


def test_results_by_name(tmp_path):
    write_results(tmp_path, {"f1": {"easy": 0.9, "n": 3}, "title": "x"})
    assert read_results(tmp_path) == {"f1.easy": 0.9, "f1.n": 3.0}
    with pytest.raises(ResultsError, match=r"no number 'f1.esy'. There are: f1.easy"):
        wanted(read_results(tmp_path), "f1.esy", "here")
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ResultsError, match="damaged"):
        read_results(tmp_path)


def test_ranges_are_checked_against_the_settings():
    config = OptimConfig()
    assert parsed_range(config, "--learning-rate=1e-4:1e-2:log") == (
        "learning_rate",
        {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True},
    )
    assert parsed_range(config, "steps=10:20")[1]["kind"] == "int"
    assert changed(config, "steps", 7).steps == 7
    for text, message in (
        ("learning_rate", "FLAG=LOW:HIGH"),
        ("learnin_rate=1:2", "Did you mean .learning_rate"),
        ("steps=20:10", "LOW below HIGH"),
        ("steps=a:b", "are numbers"),
        ("clip=0:1:log", "above 0"),
        ("clip=a|b", "is not like"),
    ):
        with pytest.raises(UsageError, match=message):
            parsed_range(config, text)


def test_a_search_that_is_stopped_goes_on(desk, capsys):
    pytest.importorskip("optuna", reason="the extra emjax[sweep] is not installed")
    words = [
        *(["sweep", "parabola", "--trials", "6", "--metric", "value", "--stop"]),
        *("--vary", "optim.learning_rate=0.1:0.5", "--vary", "widths=(8,12)|(8,12,16)"),
    ]
    assert main(words) == 130, "interrupted in the second trial"
    assert main(words) == 0
    folder = desk / "runs/parabola-sweep"
    head, *rows = table(folder / "trials.csv")
    assert head == ["folder", "value", "optim.learning_rate", "widths"]
    assert len(rows) == 6
    assert len({row[0] for row in rows}) == 6
    assert "trial-0001" in {row[0] for row in rows}, "taken up where it was left"
    values = [float(row[1]) for row in rows]
    assert values == sorted(values)
    for _, value, rate, widths in rows:
        assert float(value) == pytest.approx((float(rate) - 0.3) ** 2 + widths.count(",") + 1)
    assert "sweep    " in capsys.readouterr().out
    assert main(words) == 0, "nothing left to do"
    assert len(table(folder / "trials.csv")) == 7
    other = [word.replace("0.5", "0.6") for word in words]
    assert main(other) == 2
    assert "another --vary" in capsys.readouterr().err


def test_mistakes_in_a_sweep(desk, capsys):
    assert main(["sweep", "parabola"]) == 2
    assert "say what to search" in capsys.readouterr().err
    assert main(["sweep"]) == 2
    words = [
        "sweep",
        "parabola",
        "--trials",
        "1",
        "--metric",
        "valeu",
        "--vary",
        "optim.learning_rate=0.1:0.5",
    ]
    pytest.importorskip("optuna", reason="the extra emjax[sweep] is not installed")
    assert main(words) == 1
    assert "no number 'valeu'" in capsys.readouterr().err


def test_a_series_of_other_settings_is_not_taken_for_this_one(desk, capsys):
    words = ["run", "parabola", "--seeds", "2", "--optim.learning-rate"]
    assert main([*words, "0.1"]) == 0
    assert main([*words, "0.2"]) == 2
    assert "--resume goes on with it" in capsys.readouterr().err
    assert main([*words, "0.2", "--resume"]) == 2
    assert "other settings (optim)" in capsys.readouterr().err
    assert main([*words, "0.2", "--overwrite"]) == 0
    rows = dict(row[:2] for row in table(desk / "runs/parabola-seeds/seeds.csv"))
    assert float(rows["value"]) == pytest.approx(0.1**2 + 2)


def test_settings_that_fail_count_and_others_are_refused(desk, capsys):
    pytest.importorskip("optuna", reason="the extra emjax[sweep] is not installed")
    script = desk / "experiments/parabola.py"
    bad = "    if x > 0.3:\n        raise NonFiniteError('update 3 is not finite')\n"
    text = script.read_text().replace("    run.log(1", bad + "    run.log(1")
    script.write_text(
        text.replace("@dataclass", "from emjax.training import NonFiniteError\n\n\n@dataclass", 1)
    )
    words = ["sweep", "parabola", "--trials", "5", "--metric", "value"]
    words += ["--vary", "optim.learning_rate=0.2|0.4"]
    assert main(words) == 0
    folders = sorted((desk / "runs/parabola-sweep").glob("trial-*"))
    assert len(folders) == 5, "each once, whether it failed or not"
    assert "is not finite" in capsys.readouterr().out
    assert main([*words, "--optim.clip", "3"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main([*words, "--seeds", "2"]) == 2
