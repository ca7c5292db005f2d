"""The judge of super-resolution: known images, tuned baselines, and what the report says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from emjax.evaluation import super_resolution as ev
from emjax.evaluation.super_resolution_report import summary, write_super_resolution_report
from emjax.runs import Run


@pytest.fixture(scope="module")
def scenes():
    """Discs, blurred, on larger pixels, noisy; one picture is empty."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :40]
    clean = np.full((5, 40, 40), 0.2) + 0.02 * np.sin(y / 3)
    for k in range(1, 5):
        for cy, cx in rng.uniform(8, 32, (2, 2)):
            clean[k][np.hypot(y - cy, x - cx) < 5.5] = 1.0
    mask = (clean > 0.5).astype(float)
    clean = np.stack([gaussian_filter(c, 0.8) for c in clean])
    coarse = np.stack([gaussian_filter(c, 1.5) for c in clean]).reshape(5, 20, 2, 20, 2)
    coarse = rng.poisson(60 * coarse.mean((2, 4))).astype(np.float32)
    ideal = 60 * clean.reshape(5, 20, 2, 20, 2).mean((2, 4)).astype(np.float32)
    return ev.Scenes(coarse, ideal, clean, mask)


@pytest.fixture(scope="module")
def result(scenes):
    truth = 7 * scenes.clean + 3
    networks = {
        "network, ideal": lambda coarse: truth + 0.3 * np.sin(np.arange(40)),
        "network, real": lambda coarse: truth,
    }
    return ev.judge(networks, scenes, scenes, quick=True)


def test_the_truth_in_another_unit_has_the_best_of_all_scores(result):
    own = result.scored["network, real"]
    assert own.mean("psnr")[0] > 100
    assert own.mean("ssim")[0] == pytest.approx(1)
    for name, best in (("spectrum", 0.0), ("edge", 0.0), ("invented", 0.0), ("lost", 0.0)):
        assert own.mean(name)[0] == pytest.approx(best, abs=0.02)
    worse = own.over(result.scored["network, ideal"], "psnr")
    assert worse[0] > worse[1] > 20, "paired interval"
    assert own.over(result.scored["bicubic"], "edge", ratio=True)[0] < 0.1


def test_an_empty_scene_has_no_edges_and_is_left_out(result):
    for scored in result.scored.values():
        assert np.isnan(scored.values["edge"][0])
        assert np.isfinite(scored.values["psnr"]).all()
        assert np.isfinite(scored.mean("edge")).all()


def test_classical_methods_are_tuned_and_help(result):
    psnr = {name: s.mean("psnr")[0] for name, s in result.scored.items()}
    assert psnr["bicubic + Gaussian, tuned"] >= psnr["bicubic"]
    assert {"bicubic", "Lanczos", "Richardson-Lucy, tuned", "Richardson-Lucy, default"} < set(psnr)
    assert set(result.parameters) == {"Gaussian", "Richardson-Lucy"}


def test_invented_objects_are_counted(scenes):
    fake = scenes.clean.copy()
    fake[1:, 2:7, 2:7] = 1.0
    touched = scenes.mask[1:, :9, :9].any((1, 2))
    scored = ev.score("fake", fake, scenes)
    assert (scored.values["invented"][1:][~touched] > 0).all()
    with pytest.raises(ValueError, match="gave images"):
        ev.score("small", fake[:, :8], scenes)


def test_the_report_says_what_it_is(result, tmp_path):
    lines = " ".join(summary(result))
    assert "proxy" in lines
    assert "Trained on averages of sharp images" in lines
    run = Run(tmp_path)
    run.log(1, loss=1.0)
    run.log(2, loss=0.5)
    write_super_resolution_report(run, {"seed": 0}, result)
    assert (tmp_path / "report.html").is_file()
    assert '"proxy"' in (tmp_path / "results.json").read_text()


def test_an_unknown_scene_is_refused():
    with pytest.raises(ValueError, match="particles, sections"):
        ev.make_phantoms(SimpleNamespace(scene="cats", patch=32), 1)
