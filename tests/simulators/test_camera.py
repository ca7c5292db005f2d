"""MTF, NTF and DQE of the camera, its fixed pattern and bad pixels, and its likelihood."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from simulators.camera import Camera, draw_camera
from simulators.mtf import Falloff, Table, dqe, filtered, frequencies, noise_power, radial
from simulators.tree import replace

MTF = Falloff(half=0.6, power=2.0, floor=0.1)
DQE = Falloff(half=0.8, power=1.5, floor=0.05, zero=0.85)


def frames(camera, rate, n, seed=0):
    """Independent exposures [n, ny, nx]."""
    keys = jax.random.split(jax.random.key(seed), n)
    return jax.jit(jax.vmap(camera.sample, in_axes=(0, None)))(keys, rate)


def test_curves():
    q = jnp.asarray([0.0, 0.3, 0.6, 1e9])
    np.testing.assert_allclose(MTF(q), [1.0, 0.82, 0.55, 0.1], rtol=1e-6)
    np.testing.assert_allclose(DQE(jnp.zeros(1)), 0.85)
    table = Table(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.6, 0.3]))
    np.testing.assert_allclose(table(jnp.asarray([0.25, 0.75, 3.0])), [0.8, 0.45, 0.3], rtol=1e-6)
    gradient = jax.grad(lambda p: Falloff(0.6, p)(jnp.asarray([0.0, 0.3])).sum())(2.0)
    assert np.isfinite(gradient)
    with pytest.raises(ValueError, match="as many values as q"):
        Table(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="must increase"):
        Table(np.array([0.0, 1.0, 0.5]), np.zeros(3))


def test_a_transfer_function_acts_on_waves():
    ny, nx = 20, 30
    y, x = np.mgrid[:ny, :nx]
    wave = 3.0 + np.cos(2 * np.pi * (4 * x / nx + 3 * y / ny))
    q = 2 * np.hypot(4 / nx, 3 / ny)
    seen = filtered(jnp.asarray(wave, jnp.float32), MTF)
    expected = 3.0 + float(MTF(jnp.asarray(q))) * (wave - 3.0)
    np.testing.assert_allclose(seen, expected, atol=1e-5)
    with pytest.raises(ValueError, match="acts on images"):
        filtered(jnp.zeros(5), MTF)


def test_noise_power_of_white_noise_and_its_rings():
    white = 1.7 * jax.random.normal(jax.random.key(1), (200, 24, 32))
    q, power = radial(noise_power(white), 32, bins=6)
    np.testing.assert_allclose(power, 1.7**2, rtol=0.03)
    assert (np.diff(q) > 0).all()
    with pytest.raises(ValueError, match="two frames"):
        noise_power(white[:1])
    with pytest.raises(ValueError, match="too many"):
        radial(np.ones((4, 3)), 4, bins=16)


@pytest.mark.parametrize("curve", [DQE, None, Falloff(half=1.0, floor=1.0)])
def test_mtf_and_dqe_come_out_as_asked(curve):
    """Noise spectrum within 3 % of the target in every ring; DQE = MTF²/(NNPS · rate)."""
    rate, shape = 40.0, (32, 48)
    camera = Camera(mtf=MTF, dqe=curve, gain=3.0, offset=7.0)
    electrons = (frames(camera, jnp.full(shape, rate), 500) - 7.0) / 3.0
    assert float(electrons.mean()) == pytest.approx(rate, rel=1e-3)
    power = noise_power(electrons)
    q = jnp.asarray(frequencies(shape))
    target = MTF(q) ** 2 if curve is None else curve(q)
    _, measured = radial(dqe(MTF(q), power, rate), 48, bins=5)
    _, asked = radial(target, 48, bins=5)
    np.testing.assert_allclose(measured, asked, rtol=0.03)
    _, nnps = radial(power / rate**2, 48, bins=5)
    _, wanted = radial(MTF(q) ** 2 / (target * rate), 48, bins=5)
    np.testing.assert_allclose(nnps, wanted, rtol=0.03)


def test_the_mean_is_the_blurred_scene():
    rng = np.random.default_rng(0)
    scene = filtered(jnp.asarray(rng.uniform(50, 500, (16, 24)), jnp.float32), Falloff(0.3))
    camera = Camera(mtf=MTF, dqe=DQE, gain=2.0, offset=5.0, readout=1.0)
    seen = frames(camera, scene, 1200).mean(axis=0)
    np.testing.assert_allclose(seen, camera.expected(scene), rtol=0.015)
    np.testing.assert_allclose(
        camera.expected(scene), 5 + 2 * np.asarray(filtered(scene, MTF)), rtol=1e-5
    )


def test_without_an_mtf_four_moments_are_poissons():
    camera = Camera(gain=2.5, offset=11.0, readout=1.3)
    grey = camera.sample(jax.random.key(2), jnp.full((1000, 1000), 6.0))
    data = (np.asarray(grey, float) - 11.0) / 2.5 - 6.0
    v, k = 6.0 + 1.3**2, 6.0
    variance = {1: v, 2: k + 2 * v**2, 3: k + 15 * k * v + 9 * k**2 + 6 * v**3}
    assert abs(data.mean()) <= 3 * np.sqrt(variance[1] / 1e6)
    assert abs((data**2).mean() - v) <= 3 * np.sqrt(variance[2] / 1e6)
    sixth = k + 15 * k * v + 10 * k**2 + 15 * v**3
    assert abs((data**3).mean() - k) <= 3 * np.sqrt((sixth - k**2) / 1e6)
    eighth = k + 28 * k * v + 56 * k * k + 35 * k * k + 210 * k * v**2 + 280 * k**2 * v + 105 * v**4
    fourth = k + 3 * v**2
    assert abs((data**4).mean() - fourth) <= 3 * np.sqrt((eighth - fourth**2) / 1e6)


def test_a_drawn_camera_keeps_its_pattern():
    camera = draw_camera(
        jax.random.key(3), (100, 150), gain_spread=0.03, column_spread=0.04, offset_spread=2.0,
        dead=0.01, hot=0.02, hot_electrons=50.0, gain=4.0, readout=0.5, bits=14, offset=100.0,
    )  # fmt: skip
    gain = np.asarray(camera.gain_map)
    assert gain.mean() == pytest.approx(1.0, abs=0.01)
    columns = gain.mean(axis=0)
    assert columns.std() == pytest.approx(0.04, rel=0.15)
    assert (gain - columns).std() == pytest.approx(0.03, rel=0.03)
    assert np.asarray(camera.offset_map).std() == pytest.approx(2.0, rel=0.03)
    assert np.asarray(camera.dead).mean() == pytest.approx(0.01, rel=0.3)
    hot = np.asarray(camera.hot)
    assert (hot > 0).mean() == pytest.approx(0.02, rel=0.25)
    assert hot[hot > 0].mean() == pytest.approx(50.0, rel=0.2)
    mean = np.asarray(frames(camera, jnp.full((100, 150), 30.0), 30)).mean(axis=0)
    expected = np.asarray(camera.expected(jnp.full((100, 150), 30.0)))
    error = 4 * np.sqrt(30.0 + hot + 0.25) * gain / np.sqrt(30)
    assert (np.abs(mean - expected) < 5.5 * error).all(), "dead, hot and gain are where they were"
    dead = np.asarray(camera.dead) > 0
    np.testing.assert_allclose(expected[dead], 100 + np.asarray(camera.offset_map)[dead], rtol=1e-5)
    again = draw_camera(jax.random.key(3), (100, 150), gain_spread=0.03, column_spread=0.04)
    np.testing.assert_array_equal(again.gain_map, gain)


def test_whole_numbers_within_the_converters_range():
    camera = Camera(gain=10.0, offset=20.0, readout=5.0, bits=8)
    grey = np.asarray(camera.sample(jax.random.key(4), jnp.asarray([[0.0, 5.0, 1000.0]] * 300)))
    np.testing.assert_array_equal(grey, np.round(grey))
    assert grey.min() == 0
    assert (grey[:, 2] == 255).all()


def test_the_likelihood_of_a_counting_camera_is_exact(x64):
    rate = jnp.asarray(np.random.default_rng(1).uniform(2, 30, (6, 8)))
    camera = Camera(mtf=MTF, readout=0.001, dead=jnp.zeros((6, 8)).at[2, 3].set(1.0))
    counts = camera.sample(jax.random.key(5), rate)
    whole = np.round(counts)
    log = stats.poisson.logpmf(whole, filtered(rate, MTF))
    log = log + stats.norm.logpdf(counts, whole, 0.01)  # a quiet camera counts as 0.01 electrons
    log[2, 3] = 0.0
    assert float(camera.log_likelihood(counts, rate)) == pytest.approx(log.sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("curve", "bits"), [(None, None), (None, 12), (DQE, 12), (Falloff(half=1.0, floor=1.0), None)]
)
def test_the_likelihood_is_largest_at_the_truth(curve, bits):
    camera = draw_camera(
        jax.random.key(6), (40, 40), dead=0.02, hot=0.02, mtf=MTF, dqe=curve, gain=3.0,
        offset=30.0, readout=1.0, bits=bits,
    )  # fmt: skip
    rng = np.random.default_rng(2)
    rate = filtered(jnp.asarray(rng.uniform(5, 80, (40, 40)), jnp.float32), Falloff(0.3))
    counts = frames(camera, rate, 4)

    @jax.jit
    def total(scale):
        each = jax.vmap(camera.log_likelihood, in_axes=(0, None))(counts, scale * rate)
        return each.sum()

    values = [float(total(s)) for s in (0.94, 0.96, 0.98, 1.0, 1.02, 1.04, 1.06)]
    assert np.argmax(values) in (2, 3, 4)


def test_the_likelihood_of_a_camera_with_a_dqe_finds_its_gain():
    camera = Camera(mtf=MTF, dqe=DQE, gain=3.0, offset=30.0, readout=0.5)
    rate = jnp.full((48, 48), 40.0)
    counts = frames(camera, rate, 4)

    @jax.jit
    def total(gain):
        other = replace(camera, gain=gain)
        return jax.vmap(other.log_likelihood, in_axes=(0, None))(counts, rate * 3.0 / gain).sum()

    # the mean image is the same for all of these: only the noise tells the gain
    gains = np.array([2.0, 2.5, 2.8, 3.0, 3.2, 3.5, 4.0])
    assert abs(gains[np.argmax([float(total(g)) for g in gains])] - 3.0) <= 0.2


@pytest.mark.parametrize("curve", [None, DQE])
def test_gradient_to_the_rate_and_to_the_camera(curve, x64):
    camera = draw_camera(
        jax.random.key(7), (8, 10), dead=0.05, hot=0.05, mtf=MTF, dqe=curve, gain=3.0, offset=9.0,
        readout=1.0,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    rate, way = jnp.asarray(rng.uniform(5, 60, (8, 10))), jnp.asarray(rng.normal(size=(8, 10)))
    counts = camera.sample(jax.random.key(8), rate)
    if curve is not None:  # bad pixels are filled in by what is expected, without a gradient
        camera = replace(camera, dead=None, hot=None)

    @jax.jit
    def objective(step):
        changed = camera
        if curve is None:
            gain, readout = 3.0 * (1 + step[1]), 1.0 + step[2]
            half = replace(MTF, half=0.6 + step[3])
            changed = replace(camera, gain=gain, readout=readout, mtf=half)
        return changed.log_likelihood(counts, rate + 1 + step[0] * way)

    gradient, h = jax.grad(objective)(jnp.zeros(4)), 1e-5
    for i in range(4 if curve is None else 1):
        step = jnp.zeros(4).at[i].set(h)
        numeric = (objective(step) - objective(-step)) / (2 * h)
        assert float(gradient[i]) == pytest.approx(float(numeric), rel=1e-6)


def test_cameras_that_cannot_be():
    with pytest.raises(ValueError, match="needs an MTF"):
        Camera(dqe=DQE)
    with pytest.raises(ValueError, match="1 to 24 bits"):
        Camera(bits=40)
    with pytest.raises(ValueError, match="pixels but the image is"):
        draw_camera(jax.random.key(9), (4, 5)).sample(jax.random.key(0), jnp.ones((5, 4)))
    with pytest.raises(ValueError, match="at least one pixel"):
        draw_camera(jax.random.key(9), (0, 5))


def test_a_stack_of_exposures_by_one_camera():
    camera = draw_camera(jax.random.key(10), (12, 14), dead=0.1, mtf=MTF, dqe=DQE)
    rate = jnp.full((3, 2, 12, 14), 20.0)
    grey = jax.jit(camera.sample)(jax.random.key(11), rate)
    assert grey.shape == rate.shape
    assert not np.array_equal(grey[0, 0], grey[1, 0])
    dead = np.asarray(camera.dead) > 0
    assert (np.asarray(grey)[..., dead] == 0).all()
    assert np.isfinite(jax.jit(camera.log_likelihood)(grey, rate))
