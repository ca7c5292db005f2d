"""Noise, background and probe: what the truths are, what the classical methods do, the judge."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from emjax.baselines.sharpening import high_pass, lucy, rolling_ball, wiener_deconvolution
from emjax.data.sharp_scene import linear_scene
from emjax.data.synthetic_sharp import HEADS, WIDTH, make_sharp
from emjax.evaluation import sharpen as ev
from emjax.evaluation.sharpen_report import summary, write_sharpen_report
from emjax.restoration.sharpening import FLOOR, sharpen_loss, sharpener
from emjax.runs import Run
from simulators.specimens import MATERIALS

K = 56


def gaussian_transfer(sigma, k=K):
    squared = np.fft.fftfreq(k)[:, None] ** 2 + np.fft.rfftfreq(k)[None] ** 2
    return np.exp(-2 * (np.pi * sigma) ** 2 * squared)


def spots(places, width, n=40):
    """Gaussians of sum 1 at (x, y)."""
    y, x = np.mgrid[:n, :n]
    r2 = (x - places[:, :1, None]) ** 2 + (y - places[:, 1:, None]) ** 2
    return (np.exp(-0.5 * r2 / width**2) / (2 * np.pi * width**2)).sum(0)


PLACES = np.array([[x, y] for x in (10.0, 20.0, 30.0) for y in (8.0, 19.0, 31.0)])


@pytest.fixture(scope="module")
def drawn():
    scene = replace(linear_scene(24), amorphous=0.0, edge=0.0, lattice=1.0)
    draw = make_sharp(scene, {"wse2": MATERIALS["wse2"]}, 6)
    return jax.tree.map(np.asarray, jax.jit(draw)(jax.random.key(1)))


def test_the_clean_image_is_the_sharp_one_under_the_probe(drawn):
    k = drawn["probe"].shape[1]
    assert drawn["targets"].shape == (6, 24, 24, 3)
    clean, flat, sharp = np.moveaxis(drawn["targets"].astype(float), -1, 0)
    ground = clean - flat
    assert ground.min() > -1e-4
    # known in the middle only: what lies outside of the image shines in
    inner = slice(9, 15)
    for i in range(6):
        columns = np.zeros((k, k))
        before = (k - 24) // 2
        columns[before : before + 24, before : before + 24] = (sharp - ground)[i]
        wider = np.fft.rfft2(columns) * drawn["probe"][i] / gaussian_transfer(WIDTH, k)
        wider[np.abs(gaussian_transfer(WIDTH, k)) < 1e-3] = 0
        seen = np.fft.irfft2(wider, (k, k))[before : before + 24, before : before + 24]
        peak = drawn["peak"][i]
        np.testing.assert_allclose(seen[inner, inner], flat[i][inner, inner], atol=0.08 * peak)
    assert (sharp.max((1, 2)) > clean.max((1, 2))).all()


def test_sharp_targets_change_nothing_else():
    from emjax.data.synthetic_columns import make_scenes

    args = linear_scene(16), {"wse2": MATERIALS["wse2"]}, 2
    key = jax.random.key(5)
    plain, more = (jax.jit(make_scenes(*args, sharp=s))(key) for s in (None, 1.0))
    assert set(more) - set(plain) == {"flat", "sharp", "probe", "pixel"}
    for name, value in plain.items():
        np.testing.assert_allclose(value, more[name], rtol=1e-5, atol=1e-5)


def test_gain_and_offset_pass_through_and_the_loss_is_relative():
    def apply(params, x):
        return params * jnp.concatenate([jnp.tanh(x), x**2, jnp.cos(x)], -1)

    counts = jnp.asarray(np.random.default_rng(0).poisson(9, (2, 8, 8, 1)), jnp.float32)
    sharpen, one = sharpener(apply), jnp.float32(0.3)
    made = sharpen(one, counts)
    np.testing.assert_allclose(sharpen(one, 3 * counts + 50), 3 * made + 50, rtol=1e-4)
    loss = sharpen_loss(apply)
    right, metrics = loss(one, {"counts": counts, "targets": made})
    assert right == pytest.approx(np.log(FLOOR), abs=0.01)
    assert set(metrics) == {"dB0", "dB1", "dB2"}
    wrong = {"counts": counts, "targets": made + 1.0}
    assert loss(one, wrong)[0] > right + 3
    more = {"counts": 4 * counts, "targets": 4 * made + 4.0}
    np.testing.assert_allclose(loss(one, more)[0], loss(one, wrong)[0], rtol=1e-3)
    with pytest.raises(ValueError, match="outputs=3"):
        sharpener(lambda params, x: x)(one, counts)


@pytest.mark.parametrize("method", [lucy, wiener_deconvolution])
def test_deconvolution_of_a_known_probe_finds_the_sharp_image(method):
    sharp, seen = spots(PLACES, WIDTH), spots(PLACES, 2.4)
    probe = gaussian_transfer(2.4)
    if method is lucy:
        found = method(1000 * seen, probe, iterations=300) / 1000
    else:
        found = method(1000 * seen, probe, floor=1e-8, strength=0.0) / 1000
    assert np.corrcoef(found.ravel(), sharp.ravel())[0, 1] > 0.99
    assert np.corrcoef(seen.ravel(), sharp.ravel())[0, 1] < 0.85
    np.testing.assert_allclose(found.sum(), sharp.sum(), rtol=0.03)
    flat = method(np.full((40, 40), 7.0), probe)
    np.testing.assert_allclose(flat, 7, rtol=1e-6)
    with pytest.raises(ValueError, match="transfer function has shape"):
        method(np.ones((60, 60)), probe)


def test_backgrounds_are_removed():
    y, x = np.mgrid[:40, :40]
    columns, ground = 200 * spots(PLACES, 1.5), 5 + 0.1 * x + 0.05 * y
    for method, tall in ((high_pass, {}), (rolling_ball, {"height": 1.0})):
        kept = method(columns + ground, sigma=0.5, radius=None)
        np.testing.assert_allclose(kept, gaussian_filter(columns + ground, 0.5))
        found = method(columns + ground, sigma=0.5, radius=7.0, **tall)
        before, after = (np.corrcoef(v.ravel(), columns.ravel())[0, 1] for v in (kept, found))
        assert after > before


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    shift = rng.uniform(-1, 1, (4, 1, 2))
    clean = np.stack([spots(PLACES + s, 2.4) for s in shift])
    unit = clean.max()
    sharp = np.stack([spots(PLACES + s, WIDTH) for s in shift])
    flat, sharp = clean / unit, sharp / unit
    flat[3], sharp[3] = 0.0, 0.0  # nothing in the last
    ground = np.full((4, 40, 40), 0.2)
    truth = {"clean": flat + ground, "flat": flat, "sharp": sharp + ground}
    return ev.Scenes(truth, np.stack([gaussian_transfer(2.4)] * 4), np.full(4, 0.15))


def test_false_and_missed_columns_are_counted(scenes):
    sharp = scenes.truth["sharp"]
    right = ev.score(sharp, scenes, "sharp")
    np.testing.assert_array_equal(right.atoms[:, :2], 0)
    np.testing.assert_array_equal(right.atoms[:, 2], [9, 9, 9, 0])
    np.testing.assert_array_equal(right.atoms[:, 3], 9)
    assert (right.psnr > 100).all()
    assert len(right.psnr) == 3
    ghost = sharp.copy()
    ghost[[0, 3]] += spots(np.array([[15.0, 14.0]]), WIDTH) / spots(PLACES, 2.4).max()
    ghost[1] = gaussian_filter(ghost[1], 8)
    found = ev.score(ghost, scenes, "sharp")
    np.testing.assert_array_equal(found.atoms[:, 0], [1, 0, 0, 1])
    np.testing.assert_array_equal(found.atoms[:, 1], [0, 9, 0, 0])
    assert found.false_rate()[0] == pytest.approx(2 / 36)
    assert found.false_rate(~scenes.filled)[0] == pytest.approx(1 / 9)
    assert found.missed_rate()[0] == pytest.approx(9 / 27)
    with pytest.raises(ValueError, match="for a truth of"):
        ev.score(sharp[:, :8], scenes, "sharp")


def test_the_judge_and_its_report(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(ev, "hold_out", lambda *_: (scenes, scenes))

    def network(counts):
        return 20.0 * np.stack([scenes.truth[head] for head in HEADS], axis=-1)

    result = ev.judge(network, None, doses=(20.0,), tests=4, validation=4, quick=True)
    sharp = result.scored[20.0]["sharp"]
    assert set(sharp) == {"network", "Gaussian", "Richardson-Lucy", "Wiener deconvolution"}
    assert sharp["Richardson-Lucy"].psnr.mean() > sharp["Gaussian"].psnr.mean() + 1
    assert set(result.scored[20.0]["flat"]) == {
        *("network", "Gaussian", "Wiener", "high-pass", "rolling ball"),
    }
    assert result.gain(20.0, "sharp", "Gaussian")[1] > 20
    found = ev.numbers(result)["20 electrons"]["sharp"]["network"]
    assert found["false"][0] == found["false_empty"][0] == found["missed"][0] == 0
    assert "false atoms 0.00" in " ".join(summary(result))
    run = Run(tmp_path)
    run.log(1, loss=1.0)
    run.log(2, loss=0.5)
    write_sharpen_report(run, {"seed": 0}, result)
    assert (tmp_path / "report.html").is_file()
