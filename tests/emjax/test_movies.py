"""Movies: blind windows, restoring from noise alone, drift that is found, changes that are kept."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.ndimage import gaussian_filter

from emjax.baselines import movies as classical
from emjax.data.movie_scene import MovieScene
from emjax.data.synthetic_movies import make_movies
from emjax.evaluation import movies as ev
from emjax.evaluation.movies_report import summary, write_movies_report
from emjax.networks import build
from emjax.restoration import movies
from emjax.runs import Run
from simulators.specimens import MATERIALS

SCENE = MovieScene(patch=32, frames=6, pixel=(0.2, 0.25), dose=(20.0, 20.0), readout=0.0, dark=0.0)


def textured(drift, side=48, dose=20.0, seed=0):
    """Random blobs that move by `drift` (x, y), bright enough to find: (counts, rate)."""
    rng = np.random.default_rng(seed)
    blobs = gaussian_filter(rng.random((side, side)), 2, mode="wrap")
    blobs = (blobs - blobs.min()) / np.ptp(blobs)
    k = np.fft.fftfreq(side)
    turns = [k[None, :] * x + k[:, None] * y for x, y in drift]
    form = np.fft.fft2(blobs)
    rate = np.stack([np.fft.ifft2(form * np.exp(-2j * np.pi * t)).real for t in turns])
    rate = dose * np.clip(rate, 0, 1)
    return rng.poisson(rate).astype(float), rate


# ---------------------------------------------------------------- windows and batches


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_a_frame_is_in_its_window_once_and_in_the_middle(frames):
    for t in range(7):
        index = movies.window(t, 7, frames)
        assert index[frames // 2] == t
        assert (index == t).sum() == 1
        assert index.min() >= 0
        assert index.max() < 7


def test_movies_that_are_too_short():
    with pytest.raises(ValueError, match="4 frames is shorter than the 5"):
        movies.window(0, 4, 5)
    with pytest.raises(ValueError, match="2 frames have no middle one"):
        movies.window(0, 4, 2)
    restore = movies.movie_restorer(lambda params, x: x, 3)
    with pytest.raises(ValueError, match="2 frames is shorter"):
        restore(None, np.ones((2, 8, 8)))
    with pytest.raises(ValueError, match=r"\[t, y, x\], not of shape"):
        restore(None, np.ones((8, 8)))


def test_recorded_windows_are_pieces_of_the_movies():
    counts = np.arange(2 * 5 * 9 * 8, dtype=np.float32).reshape(2, 5, 9, 8)
    draw = jax.jit(movies.recorded_windows(counts, [0.1, 0.2], 3, 4, 64))
    batch = draw(jax.random.key(0))
    frames = np.asarray(batch["frames"])
    assert frames.shape == (64, 4, 4, 3)
    first = frames[:, 0, 0, 1].astype(int)
    movie, time, y, x = np.unravel_index(first, counts.shape)
    np.testing.assert_allclose(batch["readout"], np.where(movie, 0.2, 0.1), rtol=1e-6)
    for axis, n in ((movie, 2), (time, 5), (y, 6), (x, 5)):
        assert set(axis) == set(range(n))
    for i in range(64):
        inside = counts[movie[i], :, y[i] : y[i] + 4, x[i] : x[i] + 4]
        np.testing.assert_array_equal(
            frames[i], np.moveaxis(inside[movies.window(time[i], 5, 3)], 0, -1)
        )
    whole = movies.recorded_windows(counts[:1, :3, :4, :4], 0.0, 3, 4, 64, turned=True)
    turned = np.asarray(jax.jit(whole)(jax.random.key(0))["frames"])
    assert len({cut.tobytes() for cut in turned}) > 16, "eight ways in space, two in time"
    for cut in turned:
        assert set(np.diff(cut[0, 0])) in ({72}, {-72}, {72, -72}), "time"
        ways = {abs(cut[0, 1, 1] - cut[0, 0, 1]), abs(cut[1, 0, 1] - cut[0, 0, 1])}
        assert ways == {1, 8}, "neighbours stay neighbours"
    with pytest.raises(ValueError, match="do not hold a patch of 9"):
        movies.recorded_windows(counts, 0.0, 3, 9, 1)


def test_single_frames_see_nothing_of_the_others():
    frames = jnp.asarray(np.random.default_rng(0).poisson(5.0, (1, 6, 6, 3)), jnp.float32)
    other = frames.at[..., 0].multiply(3.0)

    def apply(params, x):
        return params * jnp.stack([x.sum(-1), x[..., 0] - x[..., 2]], -1)

    def restored(x, others):
        objective = movies.movie_objective(apply, x, others=others, prior="gaussian")
        return np.asarray(objective.restore(0.3, movies.middle(x)))

    np.testing.assert_array_equal(restored(frames, False), restored(other, False))
    assert np.abs(restored(frames, True) - restored(other, True)).max() > 0.1


def test_a_network_without_a_blind_spot_is_given_one():
    def apply(params, x):
        near = sum(jnp.roll(x, (dy, dx), (1, 2)) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
        return params * jnp.stack([near.sum(-1), jnp.tanh(near[..., 0] - near[..., 1])], -1)

    assert not movies.is_blind(apply, 0.3, 3)
    blind = movies.blinded(apply)
    assert movies.is_blind(blind, 0.3, 3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 7, 3)), jnp.float32)
    jacobian = jax.jacrev(lambda x: blind(0.3, x).reshape(42, 2))(x).reshape(42, 2, 42, 3)
    own = np.abs(np.asarray(jacobian)[np.arange(42), :, np.arange(42)])
    np.testing.assert_array_equal(own[..., 1], 0.0)
    assert (own[..., [0, 2]] > 0).any(1).all(), "the other frames are seen as before"
    # a quarter of a constant frame is what it was: nothing is hidden that could be told
    even = jnp.ones((1, 6, 6, 3))
    np.testing.assert_allclose(blind(0.3, even), apply(0.3, even), rtol=1e-5)
    # the network that has a blind spot keeps its own
    args = {"inputs": 3, "frames": 3, "width": 3, "levels": 1, "outputs": 2}
    assert movies.is_blind(*build("blind_video", jax.random.key(0), **args), 3)


def test_every_frame_is_restored_once_and_from_its_own_window():
    """Parts of a few frames at a time, the last one smaller."""
    level = 900.0 + 100.0 * np.arange(6)[:, None, None]
    counts = np.random.default_rng(0).poisson(level, (6, 5, 4)).astype(np.float32)

    def apply(params, x):
        mean = params * (x[..., 0] + x[..., 2])
        return jnp.stack([mean, jnp.full_like(mean, -8.0)], -1)  # sure of itself

    image, _ = movies.movie_restorer(apply, 3, prior="gaussian")(0.5, counts)
    assert movies.TOGETHER < len(counts) < 2 * movies.TOGETHER
    before_after = [(1, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 4)]
    expected = np.stack([(counts[a] + counts[b]) / 2 for a, b in before_after])
    # rates are positive by a softplus, which shows below some standard deviations alone
    np.testing.assert_allclose(image, expected, rtol=0.005)


def test_training_on_the_noisy_movie_restores_it():
    """A network of two weights: how much to believe the frames before and after."""
    still = np.zeros((8, 2))
    counts, rate = textured(still, side=24, dose=20.0)

    def apply(params, x):
        mean = params["gain"] * (x[..., 0] + x[..., 2]) / 2
        return jnp.stack([mean, jnp.broadcast_to(params["spread"], mean.shape)], -1)

    start = {"gain": jnp.float32(0.0), "spread": jnp.float32(0.0)}
    params = {"video": start, "single": start}
    loss = movies.movie_loss(apply, prior="gaussian")
    draw = movies.recorded_windows(counts[None], [0.0], 3, 24, 8)

    tx = optax.adam(0.05)

    @jax.jit
    def step(params, state, key):
        (_, values), grad = jax.value_and_grad(loss, has_aux=True)(params, draw(key))
        updates, state = tx.update(grad, state)
        return optax.apply_updates(params, updates), state, values

    state = tx.init(params)
    for i in range(120):
        params, state, values = step(params, state, jax.random.key(i))
    assert values["video"] < values["single"]
    assert float(params["video"]["gain"]) > 0.5
    assert float(params["single"]["gain"]) == 0.0
    restore = movies.movie_restorer(apply, 3, prior="gaussian")
    image, variance = restore(params["video"], counts)
    assert image.shape == variance.shape == counts.shape
    assert (variance > 0).all()
    error = np.square(np.asarray(image) - rate).mean()
    assert error < 0.6 * np.square(counts - rate).mean()
    # as sure as it says it is
    assert np.asarray(variance).mean() == pytest.approx(error, rel=0.3)


# ---------------------------------------------------------------- simulated movies


@pytest.fixture(scope="module")
def drawn():
    scene = replace(SCENE, hop=0.5, flicker=0.0, generic=0.0, background=0.0, pedestal=0.0)
    draw = make_movies(scene, {"wse2": MATERIALS["wse2"]}, 6)
    batch = jax.jit(draw, compiler_options=ev.QUICKLY_COMPILED)(jax.random.key(0))
    return jax.tree.map(np.asarray, batch)


def test_counts_have_the_dose_and_the_noise_of_electrons(drawn):
    counts, rate = drawn["counts"], drawn["rate"]
    assert counts.shape == rate.shape == (6, 6, 32, 32)
    np.testing.assert_allclose(drawn["peak"], 20.0, rtol=1e-5)
    np.testing.assert_allclose(rate.max((1, 2, 3)), drawn["peak"], rtol=1e-5)
    pull = (counts - rate)[rate > 1] / np.sqrt(rate[rate > 1])
    assert abs(pull.mean()) < 0.03
    assert pull.std() == pytest.approx(1, abs=0.03)


def test_drift_is_what_moves_the_specimen(drawn):
    """Undone, nothing but what hops and gets lost is left of the changes."""
    np.testing.assert_array_equal(drawn["drift"][:, 3], 0.0)
    for rate, drift in zip(drawn["rate"] / 20, drawn["drift"], strict=True):
        aligned = classical.drift_corrected(rate, sigma=0.0, tau=1e-3, drift=drift)
        np.testing.assert_allclose(aligned[:, 4:-4, 4:-4], rate[:, 4:-4, 4:-4], atol=0.05)
    moved = np.linalg.norm(np.ptp(drawn["drift"], axis=1), axis=-1)
    assert moved.max() > 1


def test_changes_are_at_the_sites(drawn):
    slopes = []
    for rate, drift, sites in zip(drawn["rate"] / 20, drawn["drift"], drawn["sites"], strict=True):
        assert ev.change_slope(rate, rate, sites) == pytest.approx(1)
        smeared = classical.drift_corrected(rate, sigma=0.0, tau=1e9, drift=drift)
        slopes.append(ev.change_slope(smeared, rate, sites))
        assert ev.change_slope(np.broadcast_to(rate[:1], rate.shape), rate, sites + 0) < 0.9
    assert np.nanmean(slopes) < 0.3, "the average of all frames smears changes"


def test_noise_is_not_called_smearing(drawn):
    movies = ev.Movies(**{k: np.asarray(drawn[k], float) for k in drawn})
    found = ev.score("noisy", movies.counts, movies).mean("slope")
    assert found[0] == pytest.approx(1, abs=0.1)
    dimmer = ev.score("dim", 0.5 * movies.rate, movies)
    assert dimmer.mean("slope")[0] == pytest.approx(0.5)
    assert dimmer.mean("psnr")[0] > 80


def test_movies_that_cannot_be():
    with pytest.raises(ValueError, match="at least one material"):
        make_movies(SCENE, {}, 1)


# ---------------------------------------------------------------- classical methods


def test_drift_is_found_and_averaging_along_it_helps():
    t = np.arange(8)
    drift = np.stack([0.7 * (t - 4), 0.4 * np.sin(t) - 0.4 * np.sin(4)], 1)
    counts, rate = textured(drift, dose=8.0)
    found = classical.find_drift(counts)
    away = found - drift  # less the error of the middle frame, which all of them have
    assert np.linalg.norm(away - away.mean(0), axis=1).mean() < 0.25
    np.testing.assert_allclose(classical.find_drift(rate), drift, atol=0.12)

    inner = (slice(None), slice(4, -4), slice(4, -4))

    def error(image):
        return np.square((image - rate)[inner]).mean()

    average = classical.drift_corrected(counts, sigma=0.0, tau=1e9, drift=drift)
    still = classical.drift_corrected(counts, sigma=0.0, tau=1e9, drift=0 * drift)
    assert error(average) < 0.3 * error(counts)
    assert error(average) < 0.7 * error(still)


def test_tuning_takes_the_better_setting():
    counts, rate = textured(np.zeros((6, 2)), side=24, dose=4.0)
    grid = {"sigma": (0.5, 1.0), "tau": (0.0, 3.0)}
    best = classical.tune_movies("space_time", [counts], [rate / 4], ev.movie_psnr, grid=grid)
    assert best["tau"] == 3.0
    with pytest.raises(ValueError, match="choose space_time, drift_corrected"):
        classical.tune_movies("median", [counts], [rate], ev.movie_psnr)
    with pytest.raises(ValueError, match="1 noisy and 0 clean"):
        classical.tune_movies("space_time", [counts], [], ev.movie_psnr)


def test_bad_movies():
    with pytest.raises(ValueError, match="frame 1 of the movie"):
        classical.space_time(np.stack([np.ones((4, 4)), np.full((4, 4), np.nan)]))
    with pytest.raises(ValueError, match=r"not of shape \(4, 4\)"):
        classical.find_drift(np.ones((4, 4)))
    with pytest.raises(ValueError, match=r"drift is \[t, 2\]"):
        classical.drift_corrected(np.ones((3, 4, 4)), drift=np.zeros((2, 2)))


# ---------------------------------------------------------------- the judge


def recorded(seed):
    both = [textured(np.zeros((4, 2)), side=24, dose=10.0, seed=10 * seed + i) for i in range(2)]
    counts, rate = (np.stack(part) for part in zip(*both, strict=True))
    peak = rate.max((1, 2, 3))
    sites = np.broadcast_to([[12.0, 12.0]], (2, 4, 1, 2))
    return ev.Movies(counts, rate, peak, np.zeros(2), np.zeros((2, 4, 2)), sites)


def test_the_judge_and_its_report(tmp_path):
    validation, test = recorded(0), recorded(1)
    truth = dict(zip(test.counts.sum((1, 2, 3)), test.rate, strict=True))

    def perfect(counts, readout):
        return truth[counts.sum()], np.ones_like(counts)

    def smoothed(counts, readout):
        return gaussian_filter(counts, (0, 1, 1)), np.full_like(counts, 1e-8)

    networks = {"video": perfect, "single": smoothed}
    result = ev.judge(networks, validation, test, quick=True)
    scored = result.scored
    assert scored["video"].mean("psnr")[0] > 80
    assert scored["video"].mean("ssim")[0] == pytest.approx(1)
    assert scored["noisy"].mean("psnr")[0] < scored["space_time"].mean("psnr")[0]
    assert result.rival in ("space_time", "drift_corrected")
    numbers = ev.numbers(result)
    assert numbers["single_frames"] == "single"
    assert numbers["against"]["single"]["psnr"][1] > 0
    best = scored[ev.BEST_GAUSSIAN].over(scored["space_time"], "psnr")
    assert best[0] >= 0, "tuned on the truth it is no worse"
    assert numbers["coverage_90"]["video"][0] == 1
    assert numbers["coverage_90"]["single"][0] < 0.1
    assert np.isnan(numbers["methods"]["video"]["slope"][0]), "nothing changes in these movies"

    run = Run(tmp_path)
    write_movies_report(run, {"seed": 0}, result)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    said = " ".join(summary(result))
    assert "Against the best classical method" in said
    with pytest.raises(ValueError, match="gave movies"):
        ev.score("video", test.counts[:1], test)
