"""Folders of scenes with known truth: their rules, and what is said of files that break them."""

from __future__ import annotations

import numpy as np
import pytest
from restoration_files import scene_arrays, write_scene

from emjax.evaluation.restoration_scenes import (
    LEVELS,
    Restored,
    checked_restored,
    dose_of,
    read_scene,
    read_scenes,
)


def test_a_scene(tmp_path):
    arrays = scene_arrays(3)
    scene = read_scene(write_scene(tmp_path / "dev_01_Si.npz", 3))
    assert scene.name == "dev_01_Si"
    np.testing.assert_array_equal(scene.xy, arrays["coords"][:, ::-1])
    assert scene.xy.dtype == scene.clean.dtype == np.float64
    assert (scene.sampling, scene.polarity, scene.mode) == (0.12, 1, "haadf")
    assert tuple(scene.counts) == LEVELS
    for level, counts in scene.counts.items():
        assert counts.dtype == np.float32
        assert counts.mean() == pytest.approx(dose_of(level) * scene.clean.mean(), rel=0.1)


def test_x_runs_along_the_rows(tmp_path):
    """A column at row 20, column 60 is bright in clean[20, 60]: x is 60."""
    y, x = np.mgrid[:96, :96]
    clean = np.exp(-0.5 * ((y - 20) ** 2 + (x - 60) ** 2) / 9)
    coords = np.array([[20.0, 60.0], [70.0, 30.0]])
    scene = read_scene(write_scene(tmp_path / "a.npz", clean=clean, coords=coords, Z=np.ones(2)))
    px, py = scene.xy[0]
    assert scene.clean[int(py), int(px)] == 1.0


def test_a_folder_by_name_levels_and_every(tmp_path):
    for n in (3, 1, 2, 4):
        write_scene(tmp_path / f"s{n}.npz", n, leave_out=("d50j",))
    (tmp_path / "README.md").write_text("no scene")
    found = read_scenes(tmp_path, levels=("d2", "d10"), every=2)
    assert [s.name for s in found] == ["s1", "s3"]
    assert set(found[0].counts) == {"d2", "d10"}
    with pytest.raises(ValueError, match=r"s1\.npz: the arrays d50j are missing"):
        read_scenes(tmp_path)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read_scenes(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no npz file\Z"):
        read_scenes(tmp_path)
    (tmp_path / "restoration").mkdir()
    write_scene(tmp_path / "restoration" / "a.npz")
    with pytest.raises(FileNotFoundError, match="there are some in restoration"):
        read_scenes(tmp_path)
    with pytest.raises(ValueError, match="every 0"):
        read_scenes(tmp_path / "restoration", every=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leave_out": ("coords", "px")}, "the arrays coords, px are missing"),
        ({"d10": np.zeros((40, 96), np.float32)}, r"d10 has shape \(40, 96\)"),
        ({"d2": np.full((96, 96), np.nan)}, "d2 holds NaN"),
        ({"clean": np.ones((3, 96, 96))}, r"clean is float64 of shape \(3, 96, 96\)"),
        ({"clean": np.full((96, 96), 0.5)}, "the maximum of clean is 0.5"),
        ({"coords": np.zeros((5, 3))}, r"coords has shape \(5, 3\)"),
        ({"coords": np.zeros((1, 2)), "Z": np.ones(1)}, "two columns"),
        ({"coords": np.array([[3.0, 4.0], [300.0, 5.0]]), "Z": np.ones(2)}, "coords run to"),
        ({"Z": np.ones(2)}, r"Z has \(2,\)"),
        ({"polarity": np.int64(0)}, "polarity is 0"),
        ({"px": np.float64(-0.1)}, r"px is -0\.1"),
        ({"px": np.array([0.1, 0.2])}, "px is .*it is one number"),
    ],
)
def test_broken_scenes_name_the_file_and_the_array(tmp_path, change, message):
    path = write_scene(tmp_path / "broken.npz", **change)
    with pytest.raises(ValueError, match=message) as error:
        read_scene(path)
    assert str(path) in str(error.value)


def test_no_npz_at_all(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match=r"a\.npz is not an npz file of a scene"):
        read_scenes(tmp_path)


def test_doses():
    assert [dose_of(level) for level in ("d2", "d50j", "d0.5")] == [2, 50, 0.5]
    for level in ("2", "d", "dj", "d0", "d10jj"):
        with pytest.raises(ValueError, match="such as"):
            dose_of(level)


def test_results_that_cannot_be_scored():
    image = np.ones((4, 5), np.float32)
    good = checked_restored(Restored(image, image), (4, 5), "net")
    assert good.image.dtype == np.float64
    with pytest.raises(ValueError, match=r"net gave an image \(4, 5\) for one of \(5, 5\)"):
        checked_restored(Restored(image), (5, 5), "net")
    with pytest.raises(ValueError, match="20 pixels that are NaN"):
        checked_restored(Restored(image * np.nan), (4, 5), "net")
    assert (checked_restored(Restored(image, 0 * image), (4, 5), "net").sigma > 0).all()
    for sigma in (-image, image[:2]):
        with pytest.raises(ValueError, match="one number that is not negative is needed"):
            checked_restored(Restored(image, sigma), (4, 5), "net")
