"""Every entry of `NETWORKS` through one battery, at a size that trains in a second."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax.models import load_model, save_model
from emjax.networks import NETWORKS, build, count

ARGS = {"unet": {"inputs": 2, "outputs": 2, "widths": (8, 8)}}
"""Small versions, two channels in and out; a network that is not named here is made as it is."""

SIDE, BATCH = 16, 3
INPUTS = {
    "zeros": np.zeros((BATCH, SIDE, SIDE, 2), np.float32),
    "constant": np.full((BATCH, SIDE, SIDE, 2), 3.0, np.float32),
    "noise": np.random.default_rng(0).normal(size=(BATCH, SIDE, SIDE, 2)).astype(np.float32),
}

names = pytest.mark.parametrize("name", NETWORKS)


@functools.cache
def network(name):
    """(apply, compiled apply, params)."""
    apply, params = build(name, jax.random.key(0), **ARGS.get(name, {}))
    return apply, jax.jit(apply), params


@names
def test_images_in_images_out(name):
    _, apply, params = network(name)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert count(params) > 0
    for x in INPUTS.values():
        y = apply(params, x)
        assert y.shape[:3] == x.shape[:3]
        assert y.dtype == jnp.float32
        assert np.isfinite(y).all()


@names
def test_compiled_or_not(name):
    apply, compiled, params = network(name)
    x = INPUTS["noise"]
    np.testing.assert_allclose(compiled(params, x), apply(params, x), rtol=1e-5, atol=1e-5)


@names
def test_batches_are_loops(name):
    apply, compiled, params = network(name)
    x = INPUTS["noise"]
    together = compiled(params, x)
    for i in range(BATCH):
        alone = compiled(params, np.stack([x[i]] * BATCH))
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-5, atol=1e-5)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), params)
    mapped = jax.jit(jax.vmap(apply, in_axes=(0, None)))(several, x)
    half = compiled(jax.tree.map(lambda leaf: 0.5 * leaf, params), x)
    np.testing.assert_allclose(mapped[0], together, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mapped[1], half, rtol=1e-4, atol=1e-4)


@names
def test_gradients_are_finite_on_anything(name):
    apply, _, params = network(name)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradients(params, x):
        return jnp.square(apply(params, x) - 1.0).mean()

    for kind, x in INPUTS.items():
        for leaf in jax.tree.leaves(gradients(params, x)):
            assert np.isfinite(leaf).all(), kind
            assert np.abs(leaf).max() < 1e3, f"vacuum must not be amplified: {kind}"


@names
def test_one_batch_can_be_learnt_by_heart(name):
    apply, _, params = network(name)
    x = INPUTS["noise"][:1, :8, :8]
    target = (
        np.random.default_rng(1)
        .normal(size=jax.eval_shape(apply, params, x).shape)
        .astype(np.float32)
    )
    tx = optax.adam(1e-2)

    def loss(params):
        return jnp.square(apply(params, x) - target).mean()

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, tx.init(params)), length=200)[1]

    history = np.asarray(train(params))
    assert np.isfinite(history).all()
    assert history[-5:].mean() < 0.1 * history[0]


@names
def test_saved_and_loaded(name, tmp_path):
    _, apply, params = network(name)
    path, args = tmp_path / "model.h5", ARGS.get(name, {})
    x = INPUTS["noise"]
    save_model(path, network=name, network_args=args, params=params, meta={}, example=x)
    model = load_model(path)
    np.testing.assert_allclose(model.apply(model.params, x), apply(params, x), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, model.params, params)
