"""`emjax denoise` from files to files, with a network of one line; what it warns of and refuses."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from noisy_scans import field, record
from scipy.ndimage import gaussian_filter

from emjax.cli.denoise import main
from emjax.cli.errors import UsageError, guarded
from emjax.data.micrographs import read_micrograph
from emjax.restoration.files import RestoredFilesError, save_restored
from emjax.restoration.shipped import NoRestorer, find_restorer, shipped_restorers


class Smoother:
    """A restorer as `restoration.load_restorer` gives: equivariant, with a deviation."""

    def __init__(self, sigma: bool = True) -> None:
        self.meta = {"title": "lattices", "path": "smoother.h5", "reach": 4, "pixel": [0.05, 0.3]}
        self.sigma = sigma

    def __call__(self, counts, *, readout=None, progress=None):
        self.given = counts, readout
        if progress is not None:
            progress(1, 1)
        image = gaussian_filter(np.asarray(counts, float), 1.0).astype(np.float32)
        deviation = np.full(image.shape, 0.2 * counts.std(), np.float32) if self.sigma else None
        return SimpleNamespace(image=image, sigma=deviation)


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with images in it, and the network above instead of every other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    restorer, asked = Smoother(), []

    class RestorationError(ValueError):
        pass

    def load_restorer(source):
        asked.append(source)
        return restorer

    names = {"load_restorer": load_restorer, "RestorationError": RestorationError}
    fake = SimpleNamespace(**names, OF_ELECTRONS=("pn2v",))
    monkeypatch.setitem(sys.modules, "emjax.restoration.restorer", fake)
    rng = np.random.default_rng(0)
    image = record(rng, 20 * field(96)).astype(np.int32)
    np.savez(tmp_path / "mine.npz", image=image, pixel_A=0.1)
    np.save(tmp_path / "bare.npy", image)
    np.save(tmp_path / "stack.npy", np.stack([image, image[::-1], image[:, ::-1]]))
    return SimpleNamespace(folder=tmp_path, image=image, restorer=restorer, asked=asked)


@pytest.mark.parametrize("kind", ["tif", "npz", "hspy"])
def test_what_is_written_has_the_grey_values_and_the_calibration_of_the_recording(
    desk, capsys, kind
):
    assert main(["mine.npz", "--model", "own.h5", "--format", kind]) == 0
    said = capsys.readouterr()
    assert "96 × 96 pixels of 0.1 Å (from the file)" in said.out
    assert "removed" in said.out
    assert said.err == ""
    assert desk.asked == ["own.h5"]
    wanted = gaussian_filter(desk.image.astype(float), 1.0)
    found = read_micrograph(f"denoised/mine.{kind}")
    np.testing.assert_allclose(found.image, wanted, rtol=1e-5)
    assert found.sampling == pytest.approx((0.1, 0.1), rel=1e-4)
    if kind == "npz":
        deviation = np.load("denoised/mine.npz")["sigma"]
    else:
        deviation = np.full(1, 0.2 * desk.image.std())  # constant: no micrograph
        assert (desk.folder / f"denoised/mine_sigma.{kind}").is_file()
    np.testing.assert_allclose(deviation, 0.2 * desk.image.std(), rtol=1e-5)
    told = json.loads((desk.folder / "denoised/mine.json").read_text())
    assert told["network"] == "smoother.h5"
    assert told["sampling_A"] == {"y": 0.1, "x": 0.1}
    assert told["warnings"] == []
    assert told["removed"] == pytest.approx(np.std(desk.image - wanted), rel=1e-4)
    assert (desk.folder / "denoised/mine.png").read_bytes()[:4] == b"\x89PNG"
    assert not list((desk.folder / "denoised").glob(".*")), "no part is left"


def test_earlier_results_are_kept_unless_told_otherwise(desk):
    for _ in range(2):
        assert main(["bare.npy", "--model", "m", "--sampling", "0.2"]) == 0
    assert main(["bare.npy", "--model", "m", "--overwrite"]) == 0
    names = sorted(p.name for p in (desk.folder / "denoised").glob("*.tif"))
    assert names == ["bare-2.tif", "bare-2_sigma.tif", "bare.tif", "bare_sigma.tif"]
    assert read_micrograph("denoised/bare.tif").sampling is None
    assert read_micrograph("denoised/bare-2.tif").sampling == pytest.approx((0.2, 0.2), rel=1e-4)


def test_the_recording_is_never_replaced(desk):
    before = (desk.folder / "mine.npz").read_bytes()
    line = ["mine.npz", "--model", "m", "--out", ".", "--format", "npz"]
    assert guarded(lambda: main([*line, "--overwrite"])) == 1
    assert main(line) == 0
    assert (desk.folder / "mine.npz").read_bytes() == before
    assert (desk.folder / "mine-2.npz").is_file()


def test_frames_of_a_movie(desk):
    assert main(["stack.npy", "--model", "m", "--frames", "1:3"]) == 0
    assert main(["stack.npy", "--model", "m", "--frame", "0"]) == 0
    found = read_micrograph("denoised/stack-frame1.tif").image
    wanted = gaussian_filter(desk.image[::-1].astype(float), 1.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    names = sorted(p.name for p in (desk.folder / "denoised").glob("*[0-9].tif"))
    assert names == ["stack-frame0.tif", "stack-frame1.tif", "stack-frame2.tif"]


def test_a_network_without_a_deviation(desk, capsys):
    desk.restorer.sigma = False
    assert main(["mine.npz", "--model", "m"]) == 0
    assert "the error of" not in capsys.readouterr().out
    assert not (desk.folder / "denoised/mine_sigma.tif").exists()


def test_of_several_images_the_bad_one_is_named_and_the_others_are_done(desk, capsys):
    np.save("hole.npy", np.where(np.eye(96) > 0, np.nan, desk.image))
    assert main(["hole.npy", "mine.npz", "mien.npz", "stack.npy", "--model", "m"]) == 1
    err = capsys.readouterr().err
    assert "96 of 9216 pixels are not finite" in err
    assert "mien.npz does not exist. Did you mean mine.npz" in err
    assert "a stack of 3 images" in err
    assert "3 of 4 images could not be used" in err
    assert (desk.folder / "denoised/mine.tif").is_file()
    assert len(desk.asked) == 1, "loaded once"


def test_warnings_are_said_and_kept(desk, capsys):
    np.save("smooth.npy", gaussian_filter(desk.image.astype(float), 1.5) - 15)
    assert main(["smooth.npy", "--model", "m", "--sampling", "0.9"]) == 0
    err = capsys.readouterr().err
    for words in ("filtered already", "are negative", "whose scale is unknown", "0.9 Å per pixel"):
        assert f"{words}" in err
    assert err.count("warning: smooth.npy: ") == 4
    told = json.loads((desk.folder / "denoised/smooth.json").read_text())
    assert len(told["warnings"]) == 4


def test_an_image_of_something_else(desk, capsys, monkeypatch):
    from emjax.analysis import out_of_distribution
    from emjax.analysis.out_of_distribution import NAMES, Verdict

    count = len(NAMES)
    desk.restorer.meta["images"] = {
        **{"statistics": list(NAMES), "tile": 64, "limit": 0.3},
        **{"centre": [0.0] * count, "spread": [1.0] * count},
        "weights": [0.5] + [0.0] * (count * (count + 3) // 2),
    }
    assert main(["mine.npz", "--model", "m"]) == 0
    err = capsys.readouterr().err
    assert "does not look like an image that the network knows (lattices; score 0.50" in err
    told = json.loads((desk.folder / "denoised/mine.json").read_text())["unlike_training"]
    assert told == {"score": 0.5, "limit": 0.3, "tiles": 4}
    monkeypatch.setattr(out_of_distribution, "judge", lambda *_: Verdict(-1.0, 0.3, 4))
    assert main(["mine.npz", "--model", "m"]) == 0
    assert capsys.readouterr().err == ""


def test_a_network_that_calculates_with_electrons(desk, capsys):
    from emjax.analysis.noise_calibration import calibrate_noise

    recorded = 10 * desk.image.astype(np.float32) + 50
    np.save("grey.npy", recorded)
    desk.restorer.meta["objective"] = "pn2v"
    assert main(["grey.npy", "--model", "m"]) == 0
    assert "calculates with electrons" in capsys.readouterr().err
    found = calibrate_noise([recorded], offset=50.0, names=["grey.npy"])
    found.save("noise.json")
    assert main(["grey.npy", "--model", "m", "--noise", "noise.json", "--overwrite"]) == 0
    assert "calculates with electrons" not in capsys.readouterr().err
    counts, readout = desk.restorer.given
    np.testing.assert_allclose(counts, (recorded - 50) / found.gain.value, rtol=1e-5)
    assert readout == pytest.approx(found.readout.value)
    wanted = gaussian_filter(recorded.astype(float), 1.0)
    np.testing.assert_allclose(read_micrograph("denoised/grey.tif").image, wanted, rtol=1e-4)
    sigma = json.loads((desk.folder / "denoised/grey.json").read_text())["error"]
    assert sigma == pytest.approx(0.2 * recorded.std(), rel=1e-4), "in grey values"


def test_mistakes_in_the_command_line(desk):
    with pytest.raises(UsageError, match="which image"):
        main([])
    with pytest.raises(UsageError, match="is a file: give a folder"):
        main(["mine.npz", "--out", "bare.npy"])
    with pytest.raises(UsageError, match="--frames"):
        main(["mine.npz", "--frames", "3:1"])
    assert guarded(lambda: main(["bare.npy", "--model", "m", "--format", "hspy"])) == 1


def test_what_cannot_be_written(tmp_path):
    image = np.eye(32)
    with pytest.raises(RestoredFilesError, match="choose from tif, npz, hspy"):
        save_restored(tmp_path, "a", image, image, None, sampling=None, kind="bmp")
    assert list(tmp_path.iterdir()) == []


def test_the_registry_names_every_restorer_of_the_package():
    from emjax.models import WEIGHTS

    told = json.loads((WEIGHTS / "restorers.json").read_text())
    assert told["default"] in told["restorers"]
    listed = {entry["file"] for entry in told["restorers"].values()}
    installed = {path.name for path in WEIGHTS.glob("restore_*.h5")}
    assert installed <= listed
    assert sum((WEIGHTS / name).stat().st_size for name in installed) < 4e6


def test_which_restorer_is_meant(tmp_path):
    with pytest.raises(NoRestorer, match="emjax run denoise_stem"):
        find_restorer(folder=tmp_path)
    entries = {name: {"file": f"restore_{name}.h5", "title": name} for name in ("sem", "stem")}
    told = {"default": "stem", "restorers": entries}
    (tmp_path / "restorers.json").write_text(json.dumps(told))
    with pytest.raises(NoRestorer):
        find_restorer(folder=tmp_path)
    for name in ("sem", "stem"):
        (tmp_path / f"restore_{name}.h5").touch()
    assert list(shipped_restorers(tmp_path)) == ["stem", "sem"]
    assert find_restorer(folder=tmp_path) == tmp_path / "restore_stem.h5"
    assert find_restorer("sem", folder=tmp_path) == tmp_path / "restore_sem.h5"
    assert find_restorer("runs/mine", folder=tmp_path) == "runs/mine"
