"""A network on many files, and on a folder while it fills."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import tifffile

from emjax import inference_files
from emjax.data.micrographs import read_micrograph
from emjax.inference_files import predict_files, watch


def toy(function):
    return SimpleNamespace(apply=lambda gain, x: function(gain * x), params=np.float32(2))


DOUBLE = toy(lambda x: x)
TWO = toy(lambda x: jnp.concatenate([x, -x], -1))
CLASSES = toy(lambda x: jnp.stack([x.mean((1, 2, 3)), x.max((1, 2, 3)), x.min((1, 2, 3))], -1))


def noise(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.fixture
def frames(tmp_path):
    for number in range(3):
        pixels = {"resolution": (100, 100), "metadata": {"unit": "nm"}}  # 0.1 Å
        tifffile.imwrite(
            tmp_path / f"frame{number}.tif", noise(40, 50) + number, imagej=True, **pixels
        )
    return tmp_path


def test_files_in_and_out(frames):
    (frames / "broken.tif").write_bytes(b"II*\0 and no more")
    done = list(predict_files(DOUBLE, sorted(frames.glob("*.tif")), frames / "out"))
    assert [d.source.name for d in done if d.result is None] == ["broken.tif"]
    assert "broken.tif" in done[0].error
    back = read_micrograph(done[2].result)
    np.testing.assert_allclose(back.image, 2 * (noise(40, 50) + 1), rtol=1e-5)
    assert back.sampling == pytest.approx((0.1, 0.1))
    before = done[2].result.stat().st_mtime_ns
    again = list(predict_files(DOUBLE, [frames / "frame1.tif"], frames / "out"))
    assert again[0].result.stat().st_mtime_ns == before
    other = frames / "elsewhere" / "frame1.tif"
    twice = list(predict_files(DOUBLE, [frames / "frame1.tif", other], frames / "out"))
    assert "is the result of" in twice[1].error


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_not_replaced_by_its_own_result(frames, overwrite):
    before = (frames / "frame0.tif").read_bytes()
    (done,) = predict_files(DOUBLE, [frames / "frame0.tif"], frames, overwrite=overwrite)
    assert done.result is None
    assert "choose another `out`" in done.error
    assert (frames / "frame0.tif").read_bytes() == before


def test_channels_and_classes_of_files(frames):
    (two,) = predict_files(TWO, [frames / "frame0.tif"], frames / "two")
    assert tifffile.imread(two.result).shape == (2, 40, 50)
    (kind,) = predict_files(CLASSES, [frames / "frame0.tif"], frames / "kind")
    assert kind.result.suffix == ".csv"
    assert len(kind.result.read_text().splitlines()) == 3


class Clock:
    """A clock that runs while somebody sleeps, and what a microscope writes at which time."""

    def __init__(self, events):
        self.now, self.events = 0.0, sorted(events, key=lambda event: event[0])

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        while self.events and self.events[0][0] <= self.now:
            _, path, data = self.events.pop(0)
            with path.open("ab") as file:
                file.write(data)


def test_files_as_they_appear(tmp_path, monkeypatch):
    (tmp_path / "old.npy").write_bytes(b"x")
    events = [
        (1.0, tmp_path / "a.npy", b"x"),
        (1.7, tmp_path / "a.npy", b"y"),  # still growing
        (1.2, tmp_path / "b.npy", b"x"),
        (3.0, tmp_path / "c.npy", b"x"),
        (3.1, tmp_path / "empty.npy", b""),
        (3.1, tmp_path / ".hidden.npy", b"x"),
        (3.1, tmp_path / "d.npy.part", b"x"),
        (9.0, tmp_path / "late.npy", b"x"),
    ]
    clock = Clock(events)
    monkeypatch.setattr(inference_files, "time", clock)
    found = watch(tmp_path, settle=1.0, idle=3.0)
    seen = [(path.name, path.stat().st_size, clock.now) for path in found]
    sizes = [("old.npy", 1), ("b.npy", 1), ("a.npy", 2), ("c.npy", 1)]
    assert [entry[:2] for entry in seen] == sizes
    for (_, _, at), done in zip(seen, (0, 1.2, 1.7, 3.0), strict=True):
        assert done + 1 <= at <= done + 1.6
    assert not list(watch(tmp_path, idle=1.0, existing=False))
    assert not list(watch(tmp_path, stop=lambda: True))
    with pytest.raises(FileNotFoundError, match="no folder"):
        next(watch(tmp_path / "nowhere"))


def test_a_folder_is_predicted_while_it_fills(frames):
    files = watch(frames, pattern="frame*.tif", settle=0.02, idle=0.1)
    done = list(predict_files(DOUBLE, files, frames / "out"))
    assert [d.result.name for d in done] == ["frame0.tif", "frame1.tif", "frame2.tif"]
