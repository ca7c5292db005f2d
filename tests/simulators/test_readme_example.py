"""The example of the simulators' README, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

README = Path(__file__).resolve().parents[2] / "simulators" / "README.md"


def test_from_a_crystal_to_an_image():
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert code is not None
    made: dict = {}
    exec(code.group(1), made)
    image = np.asarray(made["haadf"])
    assert image.shape == made["scan"].shape[:2]
    assert 0 < image.min() < 0.1 * image.max(), "columns on a dark ground"
    assert 0.98 < float(made["pattern"].intensity.sum()) <= 1
    assert made["pattern"].intensity.shape[0] > made["pattern"].intensity.shape[1], "y is longer"
