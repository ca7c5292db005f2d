"""Every entry of `NETWORKS` through one battery, at a size that trains in a second."""

from __future__ import annotations

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax.models import load_model, save_model
from emjax.networks import NETWORKS, build, count, network_class

TWO = {"inputs": 2, "outputs": 2}
ARGS = {
    "unet": {**TWO, "widths": (8, 8)},
    "fourier_unet": {**TWO, "widths": (8, 8)},
    "unet_classic": {**TWO, "widths": (12, 16)},
    "unet3d": {**TWO, "widths": (12, 16), "ndim": 2},
    "unet_plus_plus": {**TWO, "widths": (8, 12)},
    "convnext_unet": {**TWO, "widths": (8, 12), "size": 5},
    "mcnn": {**TWO, "widths": (8, 8)},
    "fusionnet": {**TWO, "widths": (8, 8)},
    "dncnn": {**TWO, "width": 12, "depth": 4},
    "rdn": {**TWO, "width": 8, "blocks": 2, "layers": 2},
    "rrdb": {**TWO, "width": 12, "growth": 4, "blocks": 1},
    "nafnet": {**TWO, "width": 8, "encoder": (1,), "decoder": (1,)},
    "restormer": {**TWO, "width": 8},
    "ptychonn": {**TWO, "widths": (16,)},
    "two_stage": {**TWO, "width": 8, "inner": 8, "blocks": 1, "shrink": 1, "coarse": False},
    "partial_conv": {**TWO, "widths": (16, 24), "sizes": (5, 3)},
    "blind_spot": {**TWO, "width": 6, "levels": 1},
    "blind_video": {**TWO, "frames": 1, "width": 6, "levels": 1},
    "autoencoder": {**TWO, "widths": (8, 16), "code": 16},
    "cascade": {**TWO, "widths": (8, 16), "code": 16, "blocks": 2},
    "vae": {**TWO, "widths": (8, 16), "latent": 4, "size": (16, 16)},
    "rvae": {**TWO, "size": (16, 16), "hidden": (64, 64), "frequencies": 4},
    "resnet_generator": {**TWO, "widths": (8, 16), "blocks": 1},
    "diffusion_unet": {**TWO, "widths": (8,)},
    "patch_critic": {"inputs": 2, "widths": (8, 16)},
    "image_critic": {"inputs": 2, "widths": (8, 16)},
    "multi_scale_critic": {"inputs": 2, "widths": (8, 16), "scales": 1},
    "latent_generator": {
        **{"latent": 2, "outputs": 2, "widths": (16, 16), "start": (2, 2), "bounded": False}
    },
    "deeplab": {
        **{**TWO, "stem": (8, 12), "entry": (12, 12), "exit": ((12, 12, 16), (16, 16, 16))},
        **{"rates": (2, 3), "context": 12, "skip": 8},
    },
    "fc_densenet": {**TWO, "growth": 8, "depths": (1, 2), "bottom": 1},
}
"""Small versions, two channels in and out; a network that is not named here is made as it is."""

MAPS = ("patch_critic", "image_critic", "multi_scale_critic", "latent_generator")
"""Neither from image to image nor to classes."""

SIDE, BATCH = 16, 3
INPUTS = {
    "zeros": np.zeros((BATCH, SIDE, SIDE, 2), np.float32),
    "constant": np.full((BATCH, SIDE, SIDE, 2), 3.0, np.float32),
    "noise": np.random.default_rng(0).normal(size=(BATCH, SIDE, SIDE, 2)).astype(np.float32),
}

names = pytest.mark.parametrize("name", NETWORKS)


def args_of(name):
    return ARGS.get(name, TWO)


@functools.cache
def network(name):
    """(apply, params)."""
    return build(name, jax.random.key(0), **args_of(name))


@functools.cache
def compiled(name):
    """(params, x) -> output and the gradients of a loss of it: one program for several tests."""
    apply, _ = network(name)

    def loss(params, x):
        y = apply(params, x)
        return jnp.square(y - 1.0).mean(), y

    @jax.jit
    def run(params, x):
        gradients, y = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
        return y, gradients

    return run


@names
def test_images_in_images_or_classes_out(name):
    _, params = network(name)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert count(params) > 0
    for x in INPUTS.values():
        y, _ = compiled(name)(params, x)
        assert y.shape[0] == BATCH
        if name not in MAPS:
            assert y.shape in ((*x.shape[:3], 2), (BATCH, 2))
        assert y.dtype == jnp.float32
        assert np.isfinite(y).all()


@names
def test_gradients_are_finite_on_anything(name):
    _, params = network(name)
    for kind, x in INPUTS.items():
        for leaf in jax.tree.leaves(compiled(name)(params, x)[1]):
            assert np.isfinite(leaf).all(), kind
            assert np.abs(leaf).max() < 1e3, f"vacuum must not be amplified: {kind}"


@names
def test_compiled_or_not(name):
    apply, params = network(name)
    x = INPUTS["noise"]
    np.testing.assert_allclose(compiled(name)(params, x)[0], apply(params, x), rtol=1e-5, atol=1e-5)


@names
def test_batches_are_loops(name):
    apply, params = network(name)
    run, x = compiled(name), INPUTS["noise"]
    together, _ = run(params, x)
    for i in range(BATCH):
        alone, _ = run(params, np.stack([x[i]] * BATCH))
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-5, atol=1e-5)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), params)
    mapped = jax.jit(jax.vmap(apply, in_axes=(0, None)))(several, x)
    half, _ = run(jax.tree.map(lambda leaf: 0.5 * leaf, params), x)
    np.testing.assert_allclose(mapped[0], together, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mapped[1], half, rtol=1e-4, atol=1e-4)


@names
def test_one_batch_can_be_learnt_by_heart(name):
    apply, params = network(name)
    # an MLP knows one size; what a generator makes is larger than its noise
    side = {"mlp": SIDE, "latent_generator": 1}.get(name, SIDE // 2)
    x = INPUTS["noise"][:1, :side, :side]
    shape = jax.eval_shape(apply, params, x).shape
    target = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    tx = optax.adam(1e-2)

    @jax.jit
    def update(params, state):
        def loss(params):
            return jnp.square(apply(params, x) - target).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, history = tx.init(params), []
    for _ in range(200):
        params, state, value = update(params, state)
        history.append(value)
    history = np.asarray(history)
    assert np.isfinite(history).all()
    assert history[-5:].mean() < 0.1 * history[0]


@names
def test_saved_and_loaded(name, tmp_path):
    apply, params = network(name)
    path, args = tmp_path / "model.h5", args_of(name)
    x = INPUTS["noise"][:1]
    save_model(path, network=name, network_args=args, params=params, meta={}, example=x)
    model = load_model(path)
    np.testing.assert_allclose(model.apply(model.params, x), jax.jit(apply)(params, x), atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, model.params, params)


@names
def test_it_says_what_it_is_and_takes_a_precision(name):
    kind = network_class(name)
    parameters = inspect.signature(kind.__init__).parameters
    assert {"dtype", "precision", "rngs"} <= set(parameters)
    assert list(parameters)[-1] == "rngs"
    for word in parameters:
        assert word == "self" or word in kind.__doc__, f"the docstring says nothing of {word}"
