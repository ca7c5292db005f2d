"""The example of the learning library's README, as it stands there, and the names in it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from emjax.networks import NETWORKS

README = Path(__file__).resolve().parents[2] / "emjax" / "README.md"


def test_the_example():
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert code is not None
    made: dict = {}
    exec(code.group(1), made)
    assert made["restored"].shape == (4, 32, 32, 1)
    assert np.isfinite(made["history"]["loss"]).all()


def test_the_table_names_every_network():
    table = README.read_text(encoding="utf-8").split("| from | to |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(NETWORKS)


def test_what_it_points_to_is_there():
    text = README.read_text(encoding="utf-8")
    root = README.parent
    for path in re.findall(r"`((?:losses|metrics|networks|data)\.\w+)[` .]", text):
        assert (root / f"{path.replace('.', '/')}.py").is_file(), path
    for module, name in re.findall(
        r"`(?:\w+\()?(mixed_precision|gan_step|ensembles|augment|transfer|lr_finder|diffusion|"
        r"inference|inference_files|exported|inference_libertem|schedules)\.(\w+)",
        text,
    ):
        assert f"def {name}(" in (root / f"{module}.py").read_text(encoding="utf-8"), name
