"""From an image to columns: scales, tiles, species, files; with a network of a few lines."""

from __future__ import annotations

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from emjax.analysis.columns import COLUMN_DTYPE
from emjax.cli import main
from emjax.predict import Prediction, PredictionError, peaks, predict_image
from emjax.predict_files import CSV_COLUMNS, FILES, save_prediction, summary

SPACING = 2.2  # Å
HEIGHTS = (1.0, 2.0)


def scene(shape, sampling, *, seed=0, noise=0.02):
    """A rotated square lattice of two kinds of columns: image [y, x], xy [n, 2] in pixels, kind."""
    (ny, nx), (step_y, step_x) = shape, np.broadcast_to(sampling, 2)
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[-60:60, -60:60].reshape(2, -1)
    cos, sin = SPACING * np.cos(0.3), SPACING * np.sin(0.3)
    x, y = (cos * i - sin * j) / step_x, (sin * i + cos * j) / step_y
    edge = 0.6 / min(step_x, step_y)
    inside = (x > edge) & (x < nx - 1 - edge) & (y > edge) & (y < ny - 1 - edge)
    xy, kind = np.stack([x, y], axis=1)[inside], ((i + j) % 2)[inside]
    yy, xx = np.mgrid[:ny, :nx]
    image = np.full(shape, 0.3)
    for (cx, cy), k in zip(xy, kind, strict=True):
        r2 = ((xx - cx) * step_x) ** 2 + ((yy - cy) * step_y) ** 2
        image += HEIGHTS[k] * np.exp(-r2 / (2 * 0.45**2))
    return (100 * (image + noise * rng.normal(size=shape))).astype(np.float32), xy, kind


def bright_places(params, tiles):
    """A network: a place is a column if it is brighter than its surroundings; species by height."""
    import jax.numpy as jnp
    from jax import lax

    def mean(x, size):
        window = (1, size, size, 1)
        return lax.reduce_window(x, 0.0, lax.add, window, (1, 1, 1, 1), "SAME") / size**2

    x = jnp.sinh(tiles[..., :1])  # undoes the compression of `normalise`
    x = x - x.min(axis=(1, 2), keepdims=True)
    fine = mean(mean(x, 3), 3)
    top = fine.max(axis=(1, 2), keepdims=True)
    height = (fine - 0.6 * mean(mean(x, 11), 11)) / top
    high = params["gain"] * (fine / top - 0.62)
    return jnp.concatenate([14 * (height - 0.15), -high, high], axis=-1)


@pytest.fixture
def model():
    meta = {"sampling": 0.1, "classes": ["light", "heavy"], "min_distance_A": 1.0}
    return SimpleNamespace(apply=bright_places, params={"gain": np.float32(30)}, meta=meta)


def compare(prediction, xy, kind):
    """Largest distance of fitted to true position [px], after a check that all are found."""
    columns = prediction.columns
    found = np.stack([columns["x_fit"], columns["y_fit"]], axis=1)
    distance = np.linalg.norm(found[:, None] - xy[None], axis=2)
    assert len(columns) == len(xy)
    nearest = distance.argmin(axis=1)
    assert len(set(nearest.tolist())) == len(xy)
    np.testing.assert_array_equal(columns["species"], kind[nearest])
    return distance.min(axis=1).max()


@pytest.mark.parametrize("sampling", [0.1, 0.07, 0.16])
def test_columns_come_back_in_pixels_of_the_image(model, sampling):
    shape = (round(26 / sampling), round(34 / sampling))
    image, xy, kind = scene(shape, sampling)
    prediction = predict_image(model, image, sampling)
    assert prediction.columns.dtype == COLUMN_DTYPE
    assert prediction.columns["ok"].all()
    assert compare(prediction, xy, kind) < 0.02 / sampling  # 0.02 Å
    found = np.stack([prediction.columns["x"], prediction.columns["y"]], axis=1)
    heat_error = np.linalg.norm(found[:, None] - xy[None], axis=2).min(axis=1)
    assert heat_error.max() < 0.05 / sampling
    assert prediction.sampling == (sampling, sampling)
    assert prediction.heat_sampling == (0.1, 0.1)
    assert prediction.heat.shape[2] == 3
    assert np.abs(np.array(prediction.heat.shape[:2]) * 0.1 - (26, 34)).max() < 0.4
    assert prediction.heat[..., 0].min() >= 0
    assert prediction.heat[..., 0].max() <= 1
    np.testing.assert_allclose(prediction.heat[..., 1:].sum(axis=-1), 1, atol=1e-5)


def test_pixels_that_are_not_square(model):
    image, xy, kind = scene((200, 240), (0.13, 0.1))
    prediction = predict_image(model, image, (0.13, 0.1))
    assert compare(prediction, xy, kind) < 0.4
    assert prediction.sampling == (0.13, 0.1)


def test_a_tiled_image_gives_the_columns_of_the_whole(model):
    image, xy, kind = scene((500, 430), 0.1)
    stages = []
    tiled = predict_image(model, image, 0.1, progress=lambda *args: stages.append(args))
    assert compare(tiled, xy, kind) < 0.3
    assert stages[0] == ("network", 4, 9)
    assert stages[-1] == ("positions", len(xy), len(xy))
    whole = predict_image(model, image, 0.1, tile=576)
    assert compare(whole, xy, kind) < 0.3
    a, b = (np.sort(p.columns["x_fit"]) for p in (tiled, whole))
    np.testing.assert_allclose(a, b, atol=0.01)


def test_peaks_in_bands_are_those_of_the_whole_map():
    rng = np.random.default_rng(1)
    yy, xx = np.mgrid[:600, :150]
    heat = np.zeros((600, 150, 3), np.float32)
    for x, y in zip(*(rng.uniform(0, n - 1, 150) for n in (150, 600)), strict=True):
        blob = rng.uniform(0.6, 1) * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 18)
        heat[..., 0] = np.maximum(heat[..., 0], blob)
    heat[..., 1] = rng.uniform(size=(600, 150))
    heat[..., 2] = 1 - heat[..., 1]
    whole, bands = (peaks(heat, 0.5, 5.0, most=most) for most in (10**9, 150 * 40))
    assert len(whole) > 80
    assert len(bands) == len(whole)
    for name in ("x", "y", "species", "confidence"):  # in the order of their confidence
        np.testing.assert_allclose(bands[name], whole[name], rtol=0, atol=1e-9)
    assert (np.diff(bands["confidence"]) <= 0).all()


def test_a_higher_threshold_gives_fewer_columns(model):
    image, xy, _ = scene((200, 200), 0.1)
    assert len(predict_image(model, image, 0.1).columns) == len(xy)
    model.meta["threshold"] = 0.97  # what the network says it needs
    few = predict_image(model, image, 0.1).columns
    assert (few["confidence"] >= 0.97).all()
    assert 0 < len(few) < len(xy)
    assert len(predict_image(model, image, 0.1, threshold=0.5).columns) == len(xy)


def test_nothing_found_is_a_result(model):
    image, _, _ = scene((100, 120), 0.1)
    prediction = predict_image(model, image, 0.1, threshold=0.9999)
    assert len(prediction.columns) == 0
    assert summary(prediction)["spacing_A"] is None


@pytest.mark.parametrize(
    ("image", "sampling", "message"),
    [
        (np.zeros((3, 64, 64)), 0.1, r"\[y, x\], not the shape \(3, 64, 64\)"),
        (np.zeros((64, 64), complex), 0.1, "real numbers, not complex128"),
        (np.zeros((64, 8)), 0.1, "8 × 64 pixels is too small"),
        (np.zeros((64, 64)), 0.1, "constant"),
        (
            np.where(np.eye(64) > 0, np.nan, 0),
            0.1,
            "64 pixels .* not finite, the first at x 0, y 0",
        ),
        (np.eye(64), 0.008, r"0.008 Å; .* from 0.02 to 0.6 Å .* given in nm, it is 0.08 Å"),
        (np.eye(64), 12.0, r"given in pm, it is 0.12 Å"),
        (np.eye(64), 0.9, r"0.9 Å; atom columns are found from"),
        (np.eye(64), np.nan, "the pixel size is nan Å"),
        (np.eye(16), 0.03, r"only 0.5 × 0.5 Å large; the network needs at least 1.6 Å"),
    ],
)
def test_images_that_cannot_be_used(model, image, sampling, message):
    with pytest.raises(PredictionError, match=message):
        predict_image(model, image, sampling)


def test_a_threshold_that_is_none(model):
    with pytest.raises(PredictionError, match=r"between 0 and 1, not at 1\.5"):
        predict_image(model, np.eye(64), 0.1, threshold=1.5)


def test_a_network_of_something_else(model):
    del model.meta["classes"]
    with pytest.raises(PredictionError, match="not a network of atom columns"):
        predict_image(model, np.eye(64), 0.1)
    model.meta["classes"] = ["C"]
    with pytest.raises(PredictionError, match=r"3 channels, but its 1 species \(C\) need 2"):
        predict_image(model, np.eye(64), 0.1)


def test_an_image_beyond_the_memory_is_refused_before_any_work(model, monkeypatch):
    from emjax import machine

    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(2**30, 2**30))
    image = np.broadcast_to(np.arange(2048.0, dtype=np.float32), (2048, 2048))
    with pytest.raises(PredictionError, match=r"6144 × 6144 pixels, .* 1.0 GiB are free. Crop"):
        predict_image(model, image, 0.3)


@pytest.fixture
def prediction():
    columns = np.zeros(3, COLUMN_DTYPE)
    columns["x"], columns["y"] = [10, 30, 50], [5, 5, 8]
    columns["x_fit"], columns["y_fit"] = columns["x"] + 0.25, columns["y"] - 0.5
    columns["species"], columns["confidence"] = [0, 1, 0], [0.9, 0.8, 0.7]
    columns["height"], columns["ok"] = 12.5, [True, False, True]
    heat = np.random.default_rng(0).uniform(size=(40, 70, 3)).astype(np.float32)
    return Prediction(heat, columns, ("C", "Si"), (0.2, 0.1), (0.12, 0.12))


def test_what_is_written(prediction, tmp_path):
    image = np.random.default_rng(0).uniform(size=(24, 80)).astype(np.float32)
    folder = save_prediction(tmp_path / "a" / "one", prediction, image, settings={"network": "n"})
    assert folder == tmp_path / "a" / "one"
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["one"]  # no part is left
    with (folder / "columns.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["species"] for row in rows] == ["C", "Si", "C"]
    second = rows[1]
    assert (float(second["x_px"]), float(second["y_px"])) == (30, 5)
    assert (float(second["x_A"]), float(second["y_A"])) == (3.0, 1.0)  # x by 0.1, y by 0.2 Å
    assert (float(second["x_fit_px"]), float(second["y_fit_px"])) == (30.25, 4.5)
    assert (float(second["x_fit_A"]), float(second["y_fit_A"])) == (3.025, 0.9)
    assert (second["fit_ok"], second["confidence"], second["index"]) == ("0", "0.8000", "1")
    with np.load(folder / "heat.npz") as file:
        np.testing.assert_allclose(file["heat"], prediction.heat[..., 0], atol=1e-3)
        np.testing.assert_allclose(file["species"], prediction.heat[..., 1:], atol=1e-3)
        assert file["classes"].tolist() == ["C", "Si"]
        assert file["sampling"].tolist() == [0.12, 0.12]
    told = json.loads((folder / "prediction.json").read_text())
    assert told["network"] == "n"
    assert told["sampling_A"] == {"y": 0.2, "x": 0.1}
    assert told["species"]["C"] == {"columns": 2, "confidence": 0.8, "fitted": 2}
    assert told["spacing_A"] == 2.0
    for name in ("overlay.png", "heat.png"):
        assert (folder / name).read_bytes()[:4] == b"\x89PNG"


def test_earlier_results_are_kept_unless_told_otherwise(prediction, tmp_path):
    image = np.eye(40, 80)
    folders = [save_prediction(tmp_path / "one", prediction, image).name for _ in range(3)]
    assert folders == ["one", "one-2", "one-3"]
    (tmp_path / "one" / "notes.txt").write_text("old")
    again = save_prediction(tmp_path / "one", prediction, image, overwrite=True)
    assert again.name == "one"
    assert sorted(p.name for p in again.iterdir()) == sorted(FILES)
    (tmp_path / "thesis").mkdir()
    with pytest.raises(PredictionError, match="not a folder of predictions, so it is not overwr"):
        save_prediction(tmp_path / "thesis", prediction, image, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "one-2", "one-3", "thesis"]


def test_a_failure_half_way_leaves_nothing(prediction, tmp_path, monkeypatch):
    from emjax import plots

    def broken(*args, **kwargs):
        raise OSError(28, "No space left on device")

    save_prediction(tmp_path / "one", prediction, np.eye(40, 80))
    before = (tmp_path / "one" / "columns.csv").read_bytes()
    monkeypatch.setattr(plots, "overlay_png", broken)
    for overwrite in (False, True):
        with pytest.raises(OSError, match="No space left"):
            save_prediction(tmp_path / "one", prediction, np.eye(40, 80), overwrite=overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["one"]
    assert (tmp_path / "one" / "columns.csv").read_bytes() == before


@pytest.fixture
def desk(tmp_path, monkeypatch, model):
    """A folder to work in, with an image in it, and the network above under the name "bright"."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    from emjax import models

    monkeypatch.setattr(models, "load_model", lambda name: model)
    image, xy, _ = scene((200, 240), 0.1)
    np.savez(tmp_path / "mine.npz", image=image, pixel_A=0.1)
    np.save(tmp_path / "bare.npy", image)
    np.save(tmp_path / "stack.npy", np.stack([image, image[::-1]]))
    return SimpleNamespace(folder=tmp_path, count=len(xy))


def test_the_command_from_file_to_files(desk, capsys):
    assert main(["predict", "bright", "mine.npz"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("emjax 0.1.0 · jax ")
    assert "240 × 200 pixels of 0.1 Å (from the file), 2.4 × 2 nm" in out
    assert "heavy" in out
    spacing = float(re.search(r"spacing  ([\d.]+) Å \(median distance", out).group(1))
    assert spacing == pytest.approx(SPACING, abs=0.02)
    for name in FILES:
        assert f"predictions/mine/{name}" in out
    rows = (desk.folder / "predictions/mine/columns.csv").read_text().splitlines()
    assert len(rows) == 1 + desk.count
    assert main(["predict", "bright", "mine.npz", "--threshold", "0.9"]) == 0
    assert "predictions/mine was there already and is kept" in capsys.readouterr().out
    assert json.loads((desk.folder / "predictions/mine-2/prediction.json").read_text())[
        "threshold"
    ] == pytest.approx(0.9)


def test_a_missing_calibration_says_what_to_do(desk, capsys):
    assert main(["predict", "bright", "bare.npy"]) == 1
    said = capsys.readouterr()
    assert "--sampling 0.1" in said.err
    assert "Traceback" not in said.err
    assert not (desk.folder / "predictions").exists()
    assert main(["predict", "bright", "bare.npy", "--sampling", "0.1", "--out", "x"]) == 0
    assert "(from --sampling)" in capsys.readouterr().out
    assert (desk.folder / "x/bare/columns.csv").is_file()


def test_a_frame_of_a_stack_has_its_own_folder(desk):
    line = ["predict", "bright", "stack.npy", "--frame", "1", "--sampling", "0.1"]
    assert main(line) == 0
    assert (desk.folder / "predictions/stack-frame1/columns.csv").is_file()


def test_of_several_images_the_bad_one_is_named_and_the_others_are_done(desk, capsys):
    assert main(["predict", "bright", "bare.npy", "mine.npz", "mien.npz"]) == 1
    err = capsys.readouterr().err
    assert "bare.npy has no pixel size" in err
    assert "mien.npz does not exist. Did you mean mine.npz" in err
    assert "2 of 3 images could not be used" in err
    assert (desk.folder / "predictions/mine/columns.csv").is_file()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["bright"], 2, "which image? emjax predict bright IMAGE"),
        (["bright", "mine.npz", "--tile", "100"], 2, "a multiple of 32 from 96 on"),
        (["bright", "mine.npz", "--samplng", "1"], 2, "--sampling"),
        (["bright", "mine.npz", "--sampling", "5"], 1, "from 0.02 to 0.6 Å per pixel"),
        (["bright", "mine.npz", "--threshold", "2"], 1, "between 0 and 1"),
        (["bright", "nothing.dm4"], 1, "nothing.dm4 does not exist"),
        ([], 2, "RUN"),
    ],
)
def test_mistakes_in_the_command(desk, capsys, words, status, message):
    assert main(["predict", *words]) == status
    said = capsys.readouterr()
    assert message in said.err + said.out
    assert "Traceback" not in said.err
    assert not (desk.folder / "predictions").exists()


def test_a_network_that_does_not_exist(desk, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.chdir(desk.folder)
    assert main(["predict", "locat_atoms_of_mine", "mine.npz"]) == 1
    assert "no trained network" in capsys.readouterr().err
