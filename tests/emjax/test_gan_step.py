"""Alternating updates: those of a plain loop, what stops them, and games that are won."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax.adversarial import cycle_losses, gan_losses
from emjax.gan_step import init_gan_state, make_gan_step
from emjax.runs import Run
from emjax.training import NonFiniteError, check_finite, fit


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """To compile takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def linear(params, x):
    return params["a"] * x + params["b"]


def draw(key):
    noise, real = jax.random.split(key)
    return {
        "input": jax.random.normal(noise, (8, 1, 1, 1)),
        "target": 3 + 0.5 * jax.random.normal(real, (8, 1, 1, 1)),
    }


def quadratic(params, x):
    return params["u"] * x + params["v"] * jnp.square(x)


def players():
    return (
        {"a": jnp.float32(1.0), "b": jnp.float32(0.0)},
        {"u": jnp.float32(0.1), "v": jnp.float32(-0.2)},
    )


LOSSES = gan_losses(linear, quadratic, kind="wgan", pixel=0.1)
TX, CRITIC_TX = optax.adam(1e-2), optax.sgd(1e-2)


@pytest.mark.parametrize(("loop", "n_critic"), [("host", 1), ("host", 3), ("scan", 3)])
def test_updates_are_those_of_a_plain_loop(loop, n_critic):
    key, decay = jax.random.key(3), 0.5
    step = make_gan_step(
        *LOSSES, draw, TX, CRITIC_TX, n_critic=n_critic, ema_decay=decay, loop=loop
    )
    state, history = step(init_gan_state(*players(), TX, CRITIC_TX), key, 4)
    generate, criticise = (
        jax.jit(jax.value_and_grad(loss, argnums=1, has_aux=True)) for loss in LOSSES
    )
    g, c = players()
    ema, opt, critic_opt = g, TX.init(g), CRITIC_TX.init(c)
    for i in range(4):
        here, values = jax.random.fold_in(key, i), []
        for k in range(n_critic):
            noise, batch = jax.random.split(jax.random.fold_in(here, k))
            (value, _), slopes = criticise(noise, c, g, draw(batch))
            updates, critic_opt = CRITIC_TX.update(slopes, critic_opt, c)
            c = optax.apply_updates(c, updates)
            values.append(value)
        noise, batch = jax.random.split(jax.random.fold_in(here, n_critic))
        (value, metrics), slopes = generate(noise, g, c, draw(batch))
        updates, opt = TX.update(slopes, opt, g)
        g = optax.apply_updates(g, updates)
        d = min(decay, (1 + i) / (10 + i))
        ema = jax.tree.map(lambda a, b, d=d: d * a + (1 - d) * b, ema, g)
        np.testing.assert_allclose(history["loss"][i], value, rtol=1e-5)
        np.testing.assert_allclose(history["pixel"][i], metrics["pixel"], rtol=1e-5)
        np.testing.assert_allclose(history["critic_loss"][i], np.mean(values), rtol=1e-4)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(same, state.params, {"generator": g, "critic": c})
    jax.tree.map(same, state.ema, ema)
    assert int(state.step) == 4
    names = {"adversarial", "critic_margin", "critic_penalty", "grad_norm", "critic_grad_norm"}
    assert names < set(history)
    assert history["finite"].all()


def test_interrupted_or_not():
    key, step = jax.random.key(1), make_gan_step(*LOSSES, draw, TX, n_critic=2)
    whole, _ = step(init_gan_state(*players(), TX), key, 5)
    state = init_gan_state(*players(), TX)
    for n in (2, 3):
        state, _ = step(state, key, n)
    jax.tree.map(np.testing.assert_array_equal, state, whole)


@pytest.mark.parametrize("who", ["generator", "critic"])
def test_the_player_that_breaks_is_named(who):
    def broken(loss, mine):
        def run(key, params, other, batch):
            value, metrics = loss(key, params, other, batch)
            first = jax.tree.leaves(params)[0]  # a root has no finite slope at 0
            return value + (jnp.sqrt(0.0 * first**2) if mine == who else 0.0), metrics

        return run

    step = make_gan_step(broken(LOSSES[0], "generator"), broken(LOSSES[1], "critic"), draw, TX)
    state, history = step(init_gan_state(*players(), TX), jax.random.key(0), 2)
    jax.tree.map(np.testing.assert_array_equal, state, init_gan_state(*players(), TX))
    with pytest.raises(NonFiniteError, match=f"update 0 .*{who}/"):
        check_finite(history, 0, state.params, lambda: step.batch_names(jax.random.key(0)))


def test_a_bad_batch_is_named():
    bad = lambda key: {**draw(key), "target": jnp.full((8, 1, 1, 1), jnp.nan)}  # noqa: E731
    step = make_gan_step(*LOSSES, bad, TX)
    state, history = step(init_gan_state(*players(), TX), jax.random.key(0), 1)
    with pytest.raises(NonFiniteError, match="the batch: target holds NaN"):
        check_finite(history, 0, state.params, lambda: step.batch_names(jax.random.key(0)))


def test_settings():
    with pytest.raises(ValueError, match="n_critic 0: the critic needs"):
        make_gan_step(*LOSSES, draw, TX, n_critic=0)
    vector = lambda *a: (LOSSES[0](*a)[0], {"scores": jnp.zeros(3)})  # noqa: E731
    with pytest.raises(ValueError, match=r"metric 'scores' of a loss has shape \(3,\)"):
        make_gan_step(vector, LOSSES[1], draw, TX)(
            init_gan_state(*players(), TX), jax.random.key(0), 1
        )


def perceptron(params, x):
    h = jnp.tanh(x @ params["in"] + params["at"].reshape(1, 1, 1, -1))
    return h @ params["out"]


def test_a_wasserstein_generator_finds_mean_and_spread(tmp_path):
    rng = np.random.default_rng(0)
    critic = {
        "in": jnp.array(rng.normal(size=(1, 16)), jnp.float32),
        "at": jnp.array(rng.normal(size=16), jnp.float32),
        "out": jnp.array(rng.normal(size=(16, 1)) / 4, jnp.float32),
    }

    def many(key):
        noise, real = jax.random.split(key)
        return {
            "input": jax.random.normal(noise, (64, 1, 1, 1)),
            "target": 1 + 0.5 * jax.random.normal(real, (64, 1, 1, 1)),
        }

    generator = {"a": jnp.float32(1.0), "b": jnp.float32(0.0)}
    tx, critic_tx = optax.adam(5e-3, b1=0.0, b2=0.9), optax.adam(3e-2, b1=0.0, b2=0.9)
    losses = gan_losses(linear, perceptron, kind="wgan", penalty=0.1)
    step = make_gan_step(*losses, many, tx, critic_tx, n_critic=5, ema_decay=0.98)
    run = Run(tmp_path)
    state = fit(
        run,
        init_gan_state(generator, critic, tx, critic_tx),
        step,
        jax.random.key(0),
        steps=400,
        chunk=100,
        images_per_step=64,
        evaluate=lambda ema: {"mean": ema["b"]},
    )
    assert float(state.ema["b"]) == pytest.approx(1.0, abs=0.15)
    assert abs(float(state.ema["a"])) == pytest.approx(0.5, abs=0.15)
    metrics = run.metrics()
    assert metrics["val_mean"][-1] == pytest.approx(float(state.ema["b"]), abs=1e-4)
    assert abs(metrics["critic_margin"][-1]) < abs(metrics["critic_margin"][0])


def test_two_generators_learn_the_way_there_and_back():
    """Sets that differ by a shift, without pairs: least squares and cycles."""

    def unpaired(key):
        a, b = jax.random.split(key)
        return {
            "source": jax.random.normal(a, (32, 1, 1, 1)),
            "target": 2 + jax.random.normal(b, (32, 1, 1, 1)),
        }

    critic = lambda p, x: p["u"] * jnp.tanh(x - 1) + p["v"]  # noqa: E731
    generators = {w: {"a": jnp.float32(1), "b": jnp.float32(0)} for w in ("there", "back")}
    critics = {s: {"u": jnp.float32(0), "v": jnp.float32(0)} for s in ("source", "target")}
    tx = optax.adam(2e-2, b1=0.5)
    losses = cycle_losses(linear, critic, cycle=0.2)  # more of it, and all moves slowly together
    step = make_gan_step(*losses, unpaired, tx, ema_decay=0.98)
    state, _ = step(init_gan_state(generators, critics, tx), jax.random.key(0), 250)
    there, back = state.ema["there"], state.ema["back"]
    assert float(there["b"]) == pytest.approx(2.0, abs=0.5)
    assert float(there["a"] * back["b"] + there["b"]) == pytest.approx(0.0, abs=0.15)
    assert float(there["a"] * back["a"]) == pytest.approx(1.0, abs=0.1)
