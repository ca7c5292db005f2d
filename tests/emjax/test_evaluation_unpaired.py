"""The judge of training without pairs: similarity of frames does not win without the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from emjax.evaluation import unpaired as ev
from emjax.evaluation.unpaired_report import summary, write_unpaired_report
from emjax.runs import Run


def series(seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    phase = rng.uniform(0, 6, (3, 2))
    clean = np.stack([(2 + np.sin(y / 1.3 + a) + np.sin(x / 1.3 + b)) / 4 for a, b in phase])
    counts = rng.poisson(20 * clean[:, None], (3, 3, 32, 32)).astype(np.float32)
    return ev.Series(counts, clean)


def smoothed(sigma):
    return lambda counts: np.stack([gaussian_filter(c, sigma) for c in counts])


@pytest.fixture(scope="module")
def result():
    networks = {"Noise2Atom": smoothed(8.0), "Noise2Void": smoothed(1.0)}
    return ev.judge(networks, series(0), series(1), quick=True)


def test_smoothing_wins_by_similarity_of_frames_and_fails(result):
    own, n2v = result.scored["Noise2Atom"], result.scored["Noise2Void"]
    assert own.mean("css")[0] > n2v.mean("css")[0]
    assert own.mean("ssim")[0] < n2v.mean("ssim")[0]
    assert own.mean("residual")[0] > 0.2 > n2v.mean("residual")[0]
    assert result.verdict == {"css": True, "psnr": False, "ssim": False}
    said = " ".join(summary(result))
    assert "Not met: PSNR, SSIM" in said
    assert "CSS rewards smoothing" in said


def test_what_equals_the_truth_passes():
    test = series(1)
    truth = np.broadcast_to(test.clean[:, None], test.counts.shape).reshape(-1, 32, 32)
    networks = {"Noise2Atom": lambda counts: 5 * truth + 2, "Noise2Void": smoothed(1.0)}
    result = ev.judge(networks, series(0), test, quick=True)
    assert all(result.verdict.values())
    own = result.scored["Noise2Atom"]
    assert own.mean("ssim")[0] == pytest.approx(1)
    assert abs(own.mean("residual")[0]) < 0.05
    assert "All conditions are met" in " ".join(summary(result))


def test_the_filter_is_tuned_on_validation_series(result):
    psnr = {name: s.mean("psnr")[0] for name, s in result.scored.items()}
    assert psnr["gaussian"] > psnr["noisy"] + 3
    assert result.scored["gaussian"].setting.startswith("sigma")


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="for counts"):
        ev.score("small", np.zeros((3, 3, 8, 8)), series(0))


def test_the_report_is_written(result, tmp_path):
    run = Run(tmp_path)
    run.log(1, loss=1.0)
    run.log(2, loss=0.5)
    write_unpaired_report(run, {"seed": 0}, result)
    assert (tmp_path / "report.html").is_file()
    assert '"verdict"' in (tmp_path / "results.json").read_text()
