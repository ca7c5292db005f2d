"""The forms of convolutions for a CPU against XLA's own, values and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from emjax.networks.convolution import Conv, ConvTranspose, _form, depthwise
from emjax.networks.pure import pure


@pytest.fixture(autouse=True, scope="module")
def unoptimised():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


CASES = {
    "depthwise": ((7, 9), (4, 4, (3, 3)), {"feature_group_count": 4}),
    "depthwise, bias off": ((6, 8), (4, 4, (3, 3)), {"feature_group_count": 4, "use_bias": False}),
    "depthwise, 5 × 7": ((9, 11), (3, 3, (5, 7)), {"feature_group_count": 3}),
    "depthwise, even": ((7, 8), (3, 3, (2, 4)), {"feature_group_count": 3}),
    "depthwise, dilated": (
        (11, 9),
        (3, 3, (3, 3)),
        {"feature_group_count": 3, "kernel_dilation": 2},
    ),
    "depthwise, stride 2": ((8, 9), (3, 3, (3, 3)), {"feature_group_count": 3, "strides": 2}),
    "depthwise, stride 3": ((8, 10), (3, 3, (5, 5)), {"feature_group_count": 3, "strides": 3}),
    "depthwise volume": ((5, 6, 7), (3, 3, (3, 3, 3)), {"feature_group_count": 3}),
    "depthwise volume, stride": (
        (6, 5, 7),
        (2, 2, (3, 3, 3)),
        {"feature_group_count": 2, "strides": (2, 2, 2)},
    ),
    "volume": ((5, 6, 7), (2, 3, (3, 3, 3)), {}),
    "volume, dilated": ((7, 7, 8), (2, 3, (3, 3, 3)), {"kernel_dilation": (2, 2, 2)}),
    "volume, even": ((4, 6, 5), (2, 2, (2, 2, 2)), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_numbers_and_gradients(name):
    shape, args, options = CASES[name]
    key = jax.random.key(0)
    mine, params = pure(Conv(*args, **options, rngs=nnx.Rngs(key)))
    theirs, same = pure(nnx.Conv(*args, **options, rngs=nnx.Rngs(key)))
    assert jax.tree.structure(params) == jax.tree.structure(same)
    params = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
    x = jax.random.normal(jax.random.key(1), (2, *shape, args[0]))
    assert _form(Conv(*args, **options, rngs=nnx.Rngs(0))) is not None
    expected, pull = jax.vjp(theirs, params, x)
    found, own = jax.vjp(mine, params, x)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    g = jax.random.normal(jax.random.key(2), found.shape)
    for a, b in zip(jax.tree.leaves(own(g)), jax.tree.leaves(pull(g)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_what_xla_does_well_stays_as_it_is():
    for args, options in (
        ((4, 4, (3, 3)), {}),
        ((4, 8, (3, 3)), {"feature_group_count": 4}),
        ((4, 4, (1, 1)), {}),
        ((4, 4, (3, 3)), {"feature_group_count": 4, "padding": "VALID"}),
        ((2, 2, (3, 3, 3)), {"strides": 2}),
    ):
        assert _form(Conv(*args, **options, rngs=nnx.Rngs(0))) is None


@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_windows_side_by_side_are_a_matrix_product(shape, bias):
    size = (2,) * len(shape)
    args = {"in_features": 3, "out_features": 2, "kernel_size": size, "strides": size}
    layers = [
        kind(**args, use_bias=bias, rngs=nnx.Rngs(0)) for kind in (ConvTranspose, nnx.ConvTranspose)
    ]
    x = jax.random.normal(jax.random.key(1), (2, *shape, 3))
    np.testing.assert_allclose(layers[0](x), layers[1](x), atol=1e-5)
    wide = ConvTranspose(3, 2, (3,) * len(shape), strides=size, rngs=nnx.Rngs(0))
    plain = nnx.ConvTranspose(3, 2, (3,) * len(shape), strides=size, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(wide(x), plain(x), atol=1e-6)


def test_half_precision_in_and_out():
    layer = Conv(3, 3, (3, 3), feature_group_count=3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 6, 6, 3))
    assert layer(x).dtype == jnp.bfloat16
    gradient = jax.grad(lambda x: layer(x).astype(jnp.float32).sum())(x)
    assert gradient.dtype == jnp.float32


def test_half_precision_adds_its_rows_up_in_single():
    """The gradient of a kernel is a sum over all rows: in half precision it would lose them."""
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(1 + rng.normal(size=(1, 300, 8, 2)), jnp.bfloat16) for _ in "xg")

    def slope(dtype):
        def loss(kernel):
            y = depthwise(x.astype(dtype), kernel, strides=(1, 1), dilation=(1, 1))
            return (y * g.astype(dtype)).astype(jnp.float32).sum()

        return np.asarray(jax.jit(jax.grad(loss))(jnp.ones((3, 3, 1, 2), dtype)), float)

    full, half = slope(jnp.float32), slope(jnp.bfloat16)
    assert np.abs(half - full).max() < 0.005 * np.abs(full).max()
