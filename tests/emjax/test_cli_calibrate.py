"""`emjax calibrate-noise` from files."""

from __future__ import annotations

import numpy as np
import pytest
from noisy_scans import particle, record

from emjax.analysis.noise_calibration import NoiseCalibration
from emjax.cli.calibrate import frame_numbers, main
from emjax.cli.errors import UsageError, guarded


@pytest.fixture
def stack(tmp_path):
    rng = np.random.default_rng(0)
    images = [record(rng, 20 * particle(128), gain=10, offset=50, readout=1) for _ in range(3)]
    np.save(tmp_path / "stack.npy", np.array(images, np.float32))
    np.save(tmp_path / "one.npy", images[0].astype(np.float32))
    return tmp_path


def test_one_image_to_json(stack, capsys):
    assert main([str(stack / "one.npy"), "--out", str(stack / "deep" / "noise.json")]) == 0
    said = capsys.readouterr().out
    assert "gain" in said
    assert "grey values per electron" in said
    found = NoiseCalibration.load(stack / "deep" / "noise.json")
    assert found.gain.value == pytest.approx(10, rel=0.1)
    assert found.images == (str(stack / "one.npy"),)


def test_frames_of_a_stack_are_repeats(stack, capsys):
    argv = [str(stack / "stack.npy"), "--frames", "0:2", "--offset", "50"]
    assert main(argv) == 0
    assert "repeats of one area" in capsys.readouterr().out


def test_mistakes_in_the_command_line(stack):
    assert list(frame_numbers(":2")) == [0, 1]
    for text in ("a:b", "3:2", "-1"):
        with pytest.raises(UsageError, match="--frames"):
            frame_numbers(text)
    one = str(stack / "one.npy")
    with pytest.raises(UsageError, match="a folder"):
        main([one, "--out", str(stack)])
    with pytest.raises(UsageError, match="not both"):
        main([one, "--offset", "1", "--dark", one])


def test_errors_for_people(stack, capsys):
    assert guarded(lambda: main([str(stack / "stack.npy")])) == 1
    assert "stack" in capsys.readouterr().err
    assert guarded(lambda: main([str(stack / "missing.npy")])) == 1
    assert "does not exist" in capsys.readouterr().err
