"""The command line of the restoration benchmark: tables, frozen settings, peers, networks."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
from restoration_files import scene_arrays, write_scene

from benchmarks import restoration_methods as methods
from benchmarks.restoration import main
from benchmarks.restoration_tables import number, strict_json
from emjax.evaluation.restoration_scenes import Restored, read_scenes
from emjax.evaluation.restoration_scores import score_scene, summarise

LEVELS = ["--levels", "d2,d10j"]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "scenes"
    place.mkdir()
    for n in (0, 1):
        write_scene(place / f"dev_{n}.npz", n)
    return place


@pytest.fixture
def frozen(tmp_path, monkeypatch):
    """An empty file of frozen settings instead of the repository's."""
    path = tmp_path / "frozen.json"
    monkeypatch.setattr(methods, "FROZEN", path)
    return path


def test_frozen_settings_belong_to_methods_that_exist():
    for name, entry in methods.read_frozen(methods.FROZEN).items():
        assert set(entry["thresholds"]) == {"d2", "d10", "d50", "d2j", "d10j", "d50j"}
        if name not in methods.PEERS:
            method = methods.DENOISERS[name]
            for parameters in entry.get("parameters", {}).values():
                assert set(parameters) <= set(method.defaults)
    assert {"noisy", "gaussian", "wiener_fourier"} <= set(methods.read_frozen(methods.FROZEN))


def test_tuned_on_one_folder_and_scored_on_it(folder, frozen, tmp_path, capsys):
    main(["--tune", str(folder), "--method", "gaussian", *LEVELS])
    entry = json.loads(frozen.read_text())["gaussian"]
    assert entry["parameters"]["d2"]["sigma"] > entry["parameters"]["d10j"]["sigma"] - 1e-9
    out, cache = tmp_path / "out.json", tmp_path / "cache"
    command = [
        str(folder),
        "--method",
        "gaussian",
        *LEVELS,
        "--json",
        str(out),
        "--cache",
        str(cache),
    ]
    main([*command, "--time"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| method | PSNR d2 | PSNR d10j | SSIM d2 | F1 d2 | strict F1 d2 |")
    assert lines[2].startswith("| gaussian | ")
    assert lines[4] == "| method | s per 256² |"
    result = json.loads(out.read_text())
    level = result["methods"]["gaussian"]["levels"]["d2"]
    assert level["threshold"] == entry["thresholds"]["d2"]
    assert set(level["scenes"]) == {"dev_0", "dev_1"}
    psnr = [s["psnr"] for s in level["scenes"].values()]
    assert level["psnr"][0] == pytest.approx(np.mean(psnr))
    assert f"{level['psnr'][0]:.2f}" in lines[2]
    assert result["methods"]["gaussian"]["seconds_per_256"] > 0

    # the cache is used: what lies in it is what is scored
    (held,) = cache.glob("gaussian-*")
    assert len(list(held.glob("*.npz"))) == 4
    path = held / "dev_0_d2.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "image": 2 * scene_arrays(0)["clean"]})
    main(command)
    again = json.loads(out.read_text())["methods"]["gaussian"]["levels"]["d2"]
    assert again["scenes"]["dev_0"]["psnr"] is None, "infinite"
    assert again["scenes"]["dev_1"]["psnr"] == pytest.approx(psnr[1], abs=1e-4)
    # other counts are restored anew
    write_scene(folder / "dev_0.npz", 0, d2=scene_arrays(0)["d2"] + 1)
    main(command)
    anew = json.loads(out.read_text())["methods"]["gaussian"]["levels"]["d2"]
    assert anew["scenes"]["dev_0"]["psnr"] == pytest.approx(psnr[0], abs=0.5)


def test_fidelity(folder, frozen, tmp_path, capsys):
    out = tmp_path / "out.json"
    main(
        [
            str(folder),
            "--method",
            "noisy",
            "--levels",
            "d10",
            "--every",
            "2",
            "--fidelity",
            "--repeats",
            "1",
            "--json",
            str(out),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].startswith("| method | slope d2 / d10 / d50 | rms, pm d2 / d10 / d50 |")
    assert [line.split(" | ")[0] for line in lines[6:]] == ["| clean", "| noisy"]
    result = json.loads(out.read_text())
    mean = result["methods"]["noisy"]["fidelity"]["d50"]["mean"]
    assert mean["centred"]["slope"][0] == pytest.approx(
        result["clean"]["d50"]["mean"]["centred"]["slope"][0], abs=0.05
    )
    assert mean["amorphous"]["phantoms"][0] < 0.1


def test_images_of_another_program(folder, tmp_path, capsys):
    place = tmp_path / "other"
    place.mkdir()
    with pytest.raises(SystemExit, match="no method could be scored"):
        main([str(folder), "--arrays", str(place), *LEVELS])
    assert "every scene and level is needed" in capsys.readouterr().err
    for n in (0, 1):
        for level in ("d2", "d10j"):
            np.save(place / f"dev_{n}_{level}.npy", scene_arrays(n)["clean"])
    main([str(folder), "--arrays", str(place), *LEVELS])
    shown = capsys.readouterr()
    assert "other has no frozen thresholds: no columns are scored" in shown.err
    assert shown.out.splitlines()[2].split(" | ")[-1] == "0.0 |", "intensities need no detector"
    assert " – | – | – |" in shown.out.splitlines()[2]
    main([str(folder), "--arrays", str(place), *LEVELS, "--freeze"])
    assert (place / "restoration.json").is_file()
    assert " – |" not in capsys.readouterr().out
    main([str(folder), "--arrays", str(place), *LEVELS, "--freeze"])
    assert "they stay" in capsys.readouterr().err


def test_a_network(folder, tmp_path, monkeypatch, capsys):
    """Against the loader's signature: path -> (counts -> (image, sigma or None))."""
    loader = types.ModuleType("emjax.restoration.restorer")
    given = []

    def load_restorer(path):
        given.append(path)
        return lambda counts: (counts * 0.5 + 1, np.full(counts.shape, 0.5))

    loader.load_restorer = load_restorer
    monkeypatch.setitem(sys.modules, "emjax.restoration.restorer", loader)
    monkeypatch.setattr("emjax.models.describe_model", lambda path: {"task": "restoration"})
    run = tmp_path / "denoise"
    run.mkdir()
    (run / "model.h5").write_bytes(b"weights")
    out = tmp_path / "out.json"
    command = [str(folder), *LEVELS, "--run", str(run), "--json", str(out)]
    main([*command, "--freeze"])
    assert given == [run / "model.h5"]
    assert "| denoise | " in capsys.readouterr().out
    level = json.loads(out.read_text())["methods"]["denoise"]["levels"]["d2"]
    assert 0 < level["coverage"][0] < 1
    assert level["threshold"] == methods.network(run).thresholds["d2"]
    # thresholds belong to these weights: others have none
    (run / "model.h5").write_bytes(b"other weights")
    assert methods.network(run).thresholds == {}
    # the maker's own, in the file's metadata, come first
    own = {"detector_thresholds": {"d2": 0.4}}
    monkeypatch.setattr("emjax.models.describe_model", lambda path: own)
    assert methods.network(run).thresholds == {"d2": 0.4}


FAKES = {
    "topaz/__init__.py": "",
    "topaz/denoise.py": (
        "class Denoise:\n"
        "    def __init__(self, name):\n"
        "        print('loading', name)\n"
        "    def denoise(self, x):\n"
        "        print('PEERless noise on stdout')\n"
        "        if x.shape[0] == 7: raise RuntimeError('seven')\n"
        "        return 2 * x\n"
    ),
}


def test_a_peer_in_its_own_process(tmp_path, monkeypatch):
    for name, text in FAKES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    candidate = methods.peer("topaz", sys.executable)
    restorer = candidate.restorer("d2")
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    for _ in range(2):
        found = restorer(image)
        np.testing.assert_array_equal(found.image, 2 * image)
        assert 0 <= found.seconds < 5
    with pytest.raises(ValueError, match=r"topaz does not run in .*RuntimeError: seven"):
        restorer(np.ones((7, 7)))
    candidate.close()
    candidate.close()


def test_peers_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="there is no peer 'matlab': choose one of tk_r_em, topaz"):
        methods.peer("matlab", sys.executable)
    nowhere = methods.peer("topaz", str(tmp_path / "python"))
    with pytest.raises(ValueError, match="does not start"):
        nowhere.restorer("d2")(np.ones((4, 4)))
    absent = methods.peer("tk_r_em", sys.executable)
    with pytest.raises(ValueError, match=r"No module named 'tk_r_em'\. Install it in an environ"):
        absent.restorer("d2")(np.ones((4, 4)))
    models = methods.peer("tk_r_em", sys.executable, str(tmp_path))
    with pytest.raises(ValueError, match=r"sfr_hrstem: unpack the source package"):
        models.restorer("d2")(np.ones((4, 4)))


def test_wrong_words_on_the_command_line(folder, capsys):
    for wrong, message in (
        (["--method", "guassian"], "no method 'guassian': choose one of noisy"),
        (["--levels", "d2,dose10"], "level 'dose10'"),
        (["--levels", "d3"], r"dev_0\.npz: the arrays d3 are missing"),
        (["--model", "nothing.h5"], "nothing"),
        (["--arrays", "no/such"], "there is no folder no/such"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([str(folder), *wrong])
    with pytest.raises(SystemExit):
        main([])
    assert "name a folder of scenes" in capsys.readouterr().err


def test_classical_methods_are_told_of_read_out(folder):
    """Negative counts do not stop those that work on square roots."""
    (scene, _) = read_scenes(folder)
    assert scene.counts["d2j"].min() < 0
    restored = methods.classical("richardson_lucy").restore(scene, "d2j")
    assert restored.seconds > 0
    better = score_scene(restored, scene, "d2j", columns=False).psnr
    assert better > score_scene(Restored(scene.counts["d2j"]), scene, "d2j").psnr + 1
    stabilised = methods.DENOISERS["tv_chambolle"]
    assert methods.detector_terms(stabilised, "d2j") == {"read_out": 0.25}
    assert methods.detector_terms(stabilised, "d2") == {}
    assert methods.detector_terms(methods.DENOISERS["gaussian"], "d2j") == {}


def test_numbers_that_json_does_not_have(folder):
    (scene, _) = read_scenes(folder)
    summary = summarise([score_scene(Restored(2 * scene.clean), scene, "d2")])
    assert strict_json({"a": [1.0, float("nan")], "b": {"c": np.float64("inf")}}) == {
        "a": [1.0, None],
        "b": {"c": None},
    }
    json.dumps(strict_json(summary), allow_nan=False)
    assert [number(v, 1) for v in (None, float("nan"), float("inf"), 2.04)] == [
        "–",
        "–",
        "∞",
        "2.0",
    ]
