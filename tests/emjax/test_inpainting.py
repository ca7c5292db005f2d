"""Completing partial scans: the filling, equivariance, losses, the diffusion posterior, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax.data.scan_masks import make_bank, make_plan
from emjax.data.synthetic_partial import make_partial_scans
from emjax.diffusion import amplitudes
from emjax.networks import count, network_class, pure
from emjax.networks.partial_conv import PartialConvNet
from emjax.networks.two_stage import TwoStage
from emjax.restoration import inpainting as ip
from emjax.restoration.inpainting_diffusion import posterior_samples
from emjax.restoration.inpainting_methods import SIZES, network_of

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def quick_compilation():
    with jax.disable_jit(False):
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


def scan(side=16, coverage=0.2, seed=0):
    y, x = np.mgrid[:side, :side]
    image = (20 + 8 * np.sin(x / 2 + seed) * np.cos(y / 3))[None, ..., None].astype(np.float32)
    mask = make_plan("random_pixels", (side, side), coverage, seed=seed).mask
    return image, mask[None, ..., None].astype(np.float32)


def test_filling_keeps_what_was_measured_and_is_exact_for_constants():
    image, mask = scan(13)
    filled = np.asarray(ip.fill(np.where(mask > 0, image, np.nan), mask))
    np.testing.assert_allclose(filled[mask > 0], image[mask > 0], rtol=1e-6)
    assert filled.min() >= image[mask > 0].min() - 1e-4
    assert filled.max() <= image[mask > 0].max() + 1e-4
    np.testing.assert_allclose(ip.fill(0 * image + 3, mask), 3, rtol=1e-6)
    one = np.zeros_like(mask)
    one[0, 4, 5] = 1
    np.testing.assert_allclose(ip.fill(image, one), image[0, 4, 5, 0], rtol=1e-6)


@pytest.mark.parametrize("network", ["partial", "two_stage"])
def test_other_units_of_intensity_give_the_same_picture_in_them(network):
    made = {
        "partial": lambda k: pure(PartialConvNet, k, widths=(8, 8), sizes=(5, 3)),
        "two_stage": lambda k: pure(TwoStage, k, width=8, inner=8, blocks=1, shrink=1),
    }
    apply, params = made[network](jax.random.key(0))
    image, mask = scan()
    seen = np.asarray(ip.restore(apply, params, image, mask))
    other = np.asarray(ip.restore(apply, params, 300 * image - 1000, mask))
    np.testing.assert_allclose(other, 300 * seen - 1000, rtol=1e-5, atol=0.05)
    hidden = np.asarray(ip.restore(apply, params, np.where(mask > 0, image, 1e6), mask))
    np.testing.assert_array_equal(hidden, seen)  # what was not measured has no effect
    flat = np.asarray(ip.restore(apply, params, 0 * image + 5, mask))
    np.testing.assert_allclose(flat, 5, rtol=1e-3)


def test_the_outer_stage_sees_the_inner_one_and_the_trainer_is_left_out_on_demand():
    x = jnp.asarray(RNG.normal(size=(1, 11, 14, 2)), jnp.float32)
    apply, params = pure(TwoStage, jax.random.key(0), width=8, inner=8, blocks=1)
    y = apply(params, x)
    assert y.shape == (1, 11, 14, 2)
    coarse = np.asarray(y[..., 1])
    np.testing.assert_array_equal(coarse[:, :10:2], coarse[:, 1:10:2])  # half the resolution
    slope = jax.grad(lambda p: jnp.square(apply(p, x)[..., 0]).sum())(params)
    assert np.abs(slope["enter"]["kernel"]).max() > 0, "the picture depends on the inner stage"
    assert np.abs(slope["trainer"]["kernel"]).max() == 0
    plain, own = pure(TwoStage, jax.random.key(0), width=8, inner=8, blocks=1, coarse=False)
    assert plain(own, x).shape[-1] == 1
    with pytest.raises(ValueError, match="widths"):
        pure(TwoStage, jax.random.key(0), width=0)


def test_loss_is_the_error_of_pictures_from_minus_one_to_one():
    image, mask = scan()
    batch = {"values": image * mask, "mask": mask, "rate": image}
    loss = ip.pixel_loss(lambda params, x: jnp.zeros_like(x[..., :1]))
    value, metrics = loss({}, batch)
    filled = np.asarray(ip.fill(image, mask))
    wanted = np.sqrt(np.mean((2 * (filled - image) / np.ptp(image)) ** 2))
    assert float(metrics["rms"]) == pytest.approx(wanted, rel=1e-3)
    twice, _ = ip.pixel_loss(lambda params, x: jnp.zeros_like(x))({}, batch)
    assert float(twice) == pytest.approx(2 * float(value), rel=1e-6), "the coarse picture counts"


def test_the_critics_see_pictures_in_one_unit_and_teach_the_generator():
    image, mask = scan()
    batch = {"values": image * mask, "mask": mask, "rate": image}
    shift = lambda params, x: params["a"] + jnp.zeros_like(x[..., :1])  # noqa: E731
    brightness = lambda params, x: params["w"] * x  # noqa: E731
    generator, critic = ip.adversarial_losses(shift, brightness, weight=2.0, pixel=10.0)
    a, w = {"a": jnp.float32(0.3)}, {"w": jnp.float32(0.5)}
    value, metrics = generator(jax.random.key(0), a, w, batch)
    plain, _ = ip.pixel_loss(shift)(a, batch)
    assert float(value) == pytest.approx(10 * float(plain) + 2 * float(metrics["adversarial"]))
    scaled = {"values": 50 * batch["values"], "mask": mask, "rate": 50 * image}
    np.testing.assert_allclose(generator(jax.random.key(0), a, w, scaled)[0], value, rtol=1e-4)
    assert float(critic(jax.random.key(0), w, a, batch)[0]) > 0


def test_spikes_are_capped_with_and_without_a_loss():
    tx = ip.spikes_capped(optax.sgd(1.0))
    weights = {"w": jnp.ones(3)}
    state = tx.init(weights)
    update = jax.jit(lambda g, s: tx.update(g, s, weights))
    for k in range(110):
        _, state = update({"w": jnp.full(3, 1.0 + 0.01 * (k % 5))}, state)
    spike, _ = update({"w": jnp.full(3, 100.0)}, state)
    assert 0.9 < -float(spike["w"][0]) < 1.5
    told, _ = tx.update({"w": jnp.full(3, 1.0)}, state, weights, value=jnp.float32(1.0))
    assert float(told["w"][0]) == pytest.approx(-1.0)


def test_blur_is_the_published_one():
    point = np.zeros((9, 9))
    point[4, 4] = 1
    out = ip.blurred(point)
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 2.5) ** 2)
    np.testing.assert_allclose(out[2:7, 2:7], np.outer(weights, weights) / weights.sum() ** 2)
    assert out.sum() == pytest.approx(1)
    assert (out > 0).sum() == 25
    np.testing.assert_allclose(ip.blurred(np.full((2, 5, 7), 3.0)), 3)
    np.testing.assert_allclose(ip.blurred(jnp.asarray(point)), out, rtol=1e-5, atol=1e-7)


def test_partial_scans_are_measured_where_and_as_long_as_the_plan_says():
    bank = make_bank(("spiral", "random_pixels"), (16, 16), (0.2, 0.6), 6) * 4

    def draw(key):
        return {"rate": jnp.full((64, 16, 16, 1), 9.0), "readout": jnp.full(64, 2.0)}

    scans = make_partial_scans(draw, bank)
    drawn = jax.tree.map(np.asarray, jax.jit(lambda f, k: f(k))(scans, jax.random.key(0)))
    mask = drawn["mask"] > 0
    assert (drawn["values"][~mask] == 0).all()
    assert (drawn["dwell"] > 0)[mask].all()
    pull = (drawn["values"] - 9) * drawn["dwell"] / np.sqrt(9 * drawn["dwell"] + 4)
    assert pull[mask].std() == pytest.approx(1, abs=0.03)
    assert abs(pull[mask].mean()) < 0.03
    turned = {m.tobytes() for m in mask}
    assert len(turned) > 20, "turned and mirrored"
    with pytest.raises(ValueError, match=r"\(16, 16\) and scan plans \(8, 16\)"):
        make_partial_scans(draw, bank[:, :8])(jax.random.key(0))
    with pytest.raises(ValueError, match="none of them empty"):
        make_partial_scans(draw, 0 * bank)


def gaussian_prior(params, x):
    """The exact denoiser's velocity for independent pixels of unit variance: no training needed."""
    alpha, sigma = amplitudes(x[..., 1:])
    clean = alpha * x[..., :1]
    return (alpha * x[..., :1] - clean) / sigma


def test_diffusion_keeps_to_the_measurement_and_is_free_elsewhere():
    # of independent pixels nothing is known where nothing was measured: the mean stays
    values = 400 + 60 * RNG.normal(size=(1, 8, 8, 1))
    dwell = np.ones((1, 8, 8, 1))
    dwell[0, ::2, 1::2] = 0.0
    drawn = np.asarray(
        posterior_samples(
            *(jax.random.key(0), gaussian_prior, {}, values * (dwell > 0), 100 * dwell),
            samples=24,
            steps=12,
        )
    )
    assert drawn.shape == (24, 1, 8, 8, 1)
    known = (dwell > 0)[0]
    error = drawn.mean(0)[0] - values[0]
    assert np.abs(error[known]).max() < 8  # noise √(400 / 100) = 2
    spread = drawn.std(0)[0]
    assert spread[known].max() < 5
    assert spread[~known].mean() == pytest.approx(values[0][known].std(), rel=0.25)
    with pytest.raises(ValueError, match="coverage of a scan is zero"):
        posterior_samples(jax.random.key(0), gaussian_prior, {}, values, 0 * dwell)
    with pytest.raises(ValueError, match="must both be"):
        posterior_samples(jax.random.key(0), gaussian_prior, {}, values, dwell[:, :4])


def test_users_arrays_are_checked():
    image, mask = RNG.normal(size=(6, 7)), np.ones((6, 7), bool)
    values, known = ip.check_scan(image, mask)
    assert values.shape == known.shape == (1, 6, 7)
    assert values.dtype == np.float32
    hole = mask.copy()
    hole[0, 0] = False
    assert ip.check_scan(np.where(hole, image, np.nan), hole)[0][0, 0, 0] == 0
    assert ip.check_scan(np.stack([image] * 3), mask)[1].shape == (3, 6, 7)
    for wrong, says in (
        ((image, mask.T), r"\(6, 7\) and its scan mask \(7, 6\)"),
        ((image, 0 * mask), "coverage is zero"),
        ((image, 0.5 * mask), "beside 0 and 1"),
        ((np.where(hole, image, np.nan), mask), r"NaN or infinite, the first at \(0, 0\)"),
        ((np.stack([image] * 2), np.stack([mask, 0 * mask])), "coverage of picture 1"),
    ):
        with pytest.raises(ValueError, match=says):
            ip.check_scan(*wrong)


@pytest.mark.parametrize("method", SIZES["cpu"])
def test_networks_for_two_cores_are_small(method):
    name, args = network_of(method, "cpu")
    made = {"two_stage": TwoStage}.get(name) or network_class(name)
    shapes = jax.eval_shape(lambda key: pure(made, key, **args)[1], jax.random.key(0))
    assert 40_000 < count(shapes) < 100_000
    with pytest.raises(ValueError, match="--size huge"):
        network_of(method, "huge")
    with pytest.raises(ValueError, match="not a JSON object"):
        network_of(method, "cpu", "[1]")
    assert network_of(method, "cpu", '{"inputs": 3}')[1]["inputs"] == 3
