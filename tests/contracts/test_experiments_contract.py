"""Every experiment runs from beginning to end at its smoke size, and leaves what it promises."""

from __future__ import annotations

import json

import pytest

from emjax.cli import main
from emjax.cli.discover import scripts

SHIPPED = sorted({script.name for script in scripts()} - {"locate_atoms"})
"""`locate_atoms` is the README's own command, which runs outside of pytest."""


@pytest.mark.parametrize("name", SHIPPED)
def test_smoke(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMJAX_SHARED", raising=False)
    assert main(["run", name, "--preset", "smoke"]) == 0, capsys.readouterr().err
    folder = tmp_path / "runs" / name
    assert (folder / "report.html").stat().st_size > 10_000
    numbers = json.loads((folder / "results.json").read_text("utf-8"))
    assert numbers
    assert (folder / "config.json").is_file()
    assert list(folder.glob("metrics*.csv"))
