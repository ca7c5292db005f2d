"""The table of several runs: means, differences, and what it refuses."""

from __future__ import annotations

import json

import pytest

from benchmarks.locate_atoms import read, table


def _run(folder, f1, name="20 electrons"):
    row = {
        "name": name,
        "network": [f1, f1, f1],
        "classical": [0.7, 0.6, 0.8],
        "default": [0.5, 0.4, 0.6],
    }
    real = [{"frame": "a", "fifth": {"f1": f1}, "half": {"f1": 1.0}}]
    folder.mkdir()
    (folder / "results.json").write_text(
        json.dumps({"seed": 0, "totals": [row], "rows": [], "real": real})
    )
    return str(folder)


def test_seeds_stand_side_by_side_with_their_mean(tmp_path):
    folders = [_run(tmp_path / "a", 0.9), _run(tmp_path / "b", 0.8)]
    lines = table(read(folders))
    assert lines[2] == "| **20 electrons** | 0.900 | 0.800 | 0.850 | 0.700 | +0.150 | 0.500 |"
    assert lines[3].startswith("| real: a, within a fifth of the spacing | 0.900 | 0.800 | 0.850 |")


def test_different_images_and_unfinished_runs_are_refused(tmp_path):
    folders = [_run(tmp_path / "a", 0.9), _run(tmp_path / "b", 0.8, "hard")]
    with pytest.raises(SystemExit, match="different images"):
        table(read(folders))
    with pytest.raises(SystemExit, match=r"no results\.json"):
        read([str(tmp_path)])
