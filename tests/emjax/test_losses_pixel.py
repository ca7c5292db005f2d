"""Pixel losses by hand, Poisson and Anscombe by their expectations, capped losses."""

from __future__ import annotations

import doctest
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import poisson

import emjax.losses
import emjax.losses.self_supervised
from emjax.losses import (
    anscombe,
    average,
    boundary,
    cap_spikes,
    capped,
    charbonnier,
    gradient,
    huber,
    init_moments,
    inverse_anscombe,
    mae,
    mse,
    multiscale,
    poisson_nll,
    sigmoid_cross_entropy,
    supervised,
)


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Losses run once here: to compile them takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


RNG = np.random.default_rng(0)
P, T = RNG.normal(size=(2, 2, 5, 4, 3)).astype(np.float32)
W = RNG.uniform(size=(2, 5, 4)).astype(np.float32)
D = P - T

BY_HAND = {
    mse: D**2,
    mae: np.abs(D),
    huber: np.where(np.abs(D) < 1, D**2 / 2, np.abs(D) - 0.5),
    charbonnier: np.sqrt(D**2 + 1e-6) - 1e-3,
}


@pytest.mark.parametrize("loss", BY_HAND, ids=lambda f: f.__name__)
def test_by_hand(loss):
    expected, loss = BY_HAND[loss], jax.jit(loss)
    assert float(loss(P, T)) == pytest.approx(expected.mean(), rel=1e-5)
    weighted = (expected * W[..., None]).sum() / (3 * W.sum())
    for weight in (W, W[..., None], np.repeat(W[..., None], 3, axis=3)):
        assert float(loss(P, T, weight)) == pytest.approx(weighted, rel=1e-5)
    assert float(loss(P, T, np.array([0, 1.0]))) == pytest.approx(expected[1].mean(), rel=1e-5)
    assert float(loss(T, T)) == pytest.approx(0, abs=1e-9)
    assert np.isfinite(jax.grad(loss)(jnp.asarray(T), T)).all()
    assert loss(P.astype(jnp.bfloat16), T).dtype == jnp.float32


def test_huber_is_steep_as_delta():
    big = jnp.array([100.0, -100.0])
    slope = jax.grad(lambda p: 2 * huber(p, jnp.zeros(2), delta=0.3))(big)
    np.testing.assert_allclose(slope, [0.3, -0.3], rtol=1e-6)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 5, 4, 3\), the target \(2, 5, 4\).*channels last"):
        mse(P, T[..., 0])
    with pytest.raises(ValueError, match="does not belong to values of shape"):
        mse(P, T, W[:, :3])


def test_pixels_without_weight_do_not_count_whatever_they_are():
    values = jnp.array([1.0, jnp.nan, 3.0])
    assert float(average(values, jnp.array([1.0, 0.0, 1.0]))) == 2
    assert float(average(values, jnp.zeros(3))) == 0


@pytest.mark.parametrize(
    "loss",
    [
        *BY_HAND,
        poisson_nll,
        partial(gradient, power=2),
        multiscale(mse),
        sigmoid_cross_entropy,
        boundary,
    ],
)
def test_a_pixel_without_weight_may_be_nan(loss):
    """Dead pixels: NaN in the target must not come back as a gradient of NaN (0 times NaN)."""
    prediction, target = jnp.asarray(np.abs(P)), jnp.asarray(np.abs(T))
    weight = jnp.ones((2, 5, 4)).at[0, 1, 2].set(0)
    slope = jax.jit(jax.value_and_grad(loss))
    value, gradients = slope(prediction, target, weight)
    spoilt = slope(prediction, target.at[0, 1, 2].set(jnp.nan), weight)
    assert float(spoilt[0]) == pytest.approx(float(value), rel=1e-6)
    np.testing.assert_allclose(spoilt[1], gradients, rtol=1e-5, atol=1e-7)
    assert not np.any(gradients[0, 1, 2])


def test_a_network_and_a_batch():
    loss = supervised(lambda p, x: p * x, mae, inputs="noisy", target="clean")
    batch = {"noisy": jnp.ones((1, 4, 4, 1)), "clean": jnp.zeros((1, 4, 4, 1))}
    assert float(loss(3.0, batch)[0]) == 3
    batch["weight"] = jnp.zeros((1, 4, 4))
    assert float(loss(3.0, batch)[0]) == 0
    with pytest.raises(KeyError, match="no 'clean'; it has noisy, weight"):
        loss(3.0, {"noisy": batch["noisy"], "weight": batch["weight"]})


def test_examples():
    for module in (emjax.losses, emjax.losses.self_supervised):
        assert doctest.testmod(module).failed == 0


# ---------------------------------------------------------------- counts


def test_poisson_nll():
    counts = jnp.array([0.0, 1, 4, 30])
    rates = jnp.array([0.2, 3, 4, 20])
    expected = -poisson.logpmf(np.asarray(counts), np.asarray(rates)).mean()
    assert float(poisson_nll(rates, counts)) == pytest.approx(expected, rel=1e-5)
    assert float(poisson_nll(jnp.log(rates), counts, log_rate=True)) == pytest.approx(
        expected, rel=1e-5
    )
    np.testing.assert_allclose(jax.grad(poisson_nll)(counts + 1e-3, counts), 0, atol=0.26)
    np.testing.assert_allclose(jax.grad(poisson_nll)(rates, counts), (1 - counts / rates) / 4)


def test_a_rate_below_zero_comes_back():
    slope = jax.grad(lambda r: poisson_nll(r, jnp.array([2.0])))(jnp.array([-1.0]))
    assert np.isfinite(slope).all()
    assert slope < -1e5
    # far below, too: -100 + (1e-6 + 100) is 0 in float32, and its logarithm infinite
    for counts in (0.0, 2.0):
        value, slope = jax.value_and_grad(poisson_nll)(jnp.array([-100.0]), jnp.array([counts]))
        expected = -poisson.logpmf(counts, 1e-6)
        assert float(value) == pytest.approx(expected, rel=1e-5, abs=2e-6)
        assert float(slope[0]) == pytest.approx(1 - counts / 1e-6, rel=1e-5)


@pytest.mark.parametrize("rate", [5.0, 20.0, 100.0])
def test_anscombe_makes_the_variance_one(rate):
    n = np.arange(400)
    p = poisson.pmf(n, rate)
    t = np.asarray(anscombe(jnp.asarray(n, jnp.float32)), float)
    assert p @ t**2 - (p @ t) ** 2 == pytest.approx(1, abs=0.03)


def test_the_exact_inverse_of_the_expected_transform_is_the_rate():
    """The obvious inverse is wrong by 1/4 count and more; the exact one is not."""
    rates = np.concatenate([np.linspace(0, 5, 60), np.geomspace(5, 400, 60)])
    n = np.arange(1000)
    mean = jnp.asarray(poisson.pmf(n, rates[:, None]) @ (2 * np.sqrt(n + 0.375)), jnp.float32)
    exact, closed, obvious = (
        np.asarray(inverse_anscombe(mean, method=m), float) - rates
        for m in ("exact", "closed", "algebraic")
    )
    assert np.abs(exact).max() < 1e-4, "counts, also beyond the table"
    assert np.abs(closed).max() < 0.03
    assert obvious[-1] == pytest.approx(-0.25, abs=0.02)
    assert np.abs(obvious).max() > 0.24
    with pytest.raises(ValueError, match="choose exact, closed or algebraic"):
        inverse_anscombe(mean, method="best")


def test_gain_offset_and_read_out_noise():
    """Generalised: variance 1, and back to the recorded units without bias (by a large sample)."""
    gain, offset, sigma, rate = 2.5, 100.0, 3.0, 12.0
    rng = np.random.default_rng(1)
    x = gain * rng.poisson(rate, 400_000) + rng.normal(offset, sigma, 400_000)
    forward = jax.jit(lambda x: anscombe(x, gain=gain, offset=offset, sigma=sigma))
    t = np.asarray(forward(jnp.asarray(x, jnp.float32)), float)
    assert t.var() == pytest.approx(1, abs=0.02)
    back = inverse_anscombe(jnp.float32(t.mean()), gain=gain, offset=offset, sigma=sigma)
    assert float(back) == pytest.approx(gain * rate + offset, abs=0.05)
    assert np.isnan(anscombe(jnp.array([jnp.nan]))).all(), "NaN is no low value"
    back = inverse_anscombe(np.array([2, 10]))  # whole numbers have a table of floats all the same
    assert float(back[1]) == pytest.approx(25 - 0.125, abs=1e-3)
    low = anscombe(jnp.array([-50.0]))
    assert float(low[0]) == 0
    assert np.isfinite(jax.grad(lambda v: anscombe(v).sum())(jnp.array([-50.0, 0.0]))).all()


# ---------------------------------------------------------------- capped losses


def test_a_spike_is_scaled_down_to_the_threshold():
    moments = init_moments(mean=2.0, square=5.0)  # σ = 1: threshold 5
    value, slope = jax.value_and_grad(lambda x: capped(x**2, moments)[0])(10.0)
    assert float(value) == pytest.approx(5)
    assert float(slope) == pytest.approx(5 / 100 * 20), "the slope of the loss, times T / L"
    value, slope = jax.value_and_grad(lambda x: capped(x**2, moments)[0])(2.0)
    assert (float(value), float(slope)) == (4, 4)
    each, _ = capped(jnp.array([1.0, 4.9, 50.0]), moments)
    np.testing.assert_allclose(each, [1, 4.9, 5], rtol=1e-6)


def test_losses_below_zero_are_not_turned_round():
    """A threshold below 0 divided by the loss would be a negative scale: uphill."""
    moments = init_moments(mean=-5.0, square=25.25)  # σ = 0.5: threshold -3.5
    for x in (10.0, -1.0):
        value, slope = jax.value_and_grad(lambda x: capped(x, moments)[0])(x)
        assert (float(value), float(slope)) == (x, 1.0)


def test_running_moments():
    moments, cap = init_moments(), jax.jit(capped, static_argnames=("decay", "warmup"))
    losses = np.random.default_rng(2).gamma(4.0, size=300).astype(np.float32)
    for x in losses[:99]:
        value, moments = cap(x, moments, decay=0.95)
        assert value == x, "warm-up"
    _, after = cap(1e6, moments, decay=0.95)
    assert after.mean > 1e3, "the last of the warm-up is not capped"
    share = 0.95 ** np.arange(98, -1, -1)
    expected = (share * losses[:99]).sum() / share.sum()
    assert float(moments.mean / moments.weight) == pytest.approx(expected, rel=1e-4)
    _, moments = cap(3.0, moments, decay=0.95)
    top, after = cap(1e6, moments, decay=0.95)
    assert top < 20
    assert float(after.mean / after.weight) < 6, "a spike does not lift the threshold"
    unchanged = cap(jnp.nan, moments)[1]
    assert float(unchanged.mean) == float(moments.mean)
    with pytest.raises(ValueError, match="both"):
        init_moments(mean=1.0)
    with pytest.raises(ValueError, match="below the square"):
        init_moments(mean=2.0, square=1.0)


def test_capped_in_the_optimiser_is_capped_in_the_loss():
    tx = optax.chain(cap_spikes(warmup=3, decay=0.9), optax.sgd(0.1))
    plain, moments = optax.sgd(0.1), init_moments()
    w = v = jnp.array([1.0, 2.0])
    state, other = tx.init(w), plain.init(v)
    scales = [1.0, 1.1, 0.9, 1.0, 30.0, 1.0]
    for scale in scales:
        value, slope = jax.value_and_grad(lambda w, s=scale: s * (w**2).sum())(w)
        change, state = tx.update(slope, state, w, value=value)
        w = optax.apply_updates(w, change)

        def loss(v, moments=moments, s=scale):
            return capped(s * (v**2).sum(), moments, warmup=3, decay=0.9)

        slope, moments = jax.grad(loss, has_aux=True)(v)
        change, other = plain.update(slope, other, v)
        v = optax.apply_updates(v, change)
    np.testing.assert_allclose(w, v, rtol=1e-5)
    assert np.abs(w).max() < 1, "the spike would have thrown it away"
    with pytest.raises(ValueError, match="value=loss"):
        tx.update(slope, state, w)
