"""What networks must not see: the pixel itself (blind spots), and what was not measured (holes)."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from emjax.networks.blind_spot import BlindSpotNet, UpwardUNet
from emjax.networks.partial_conv import PartialConv, PartialConvNet
from emjax.networks.pure import count, pure


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Networks run once here: to compile them takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def made(kind, **args):
    """(apply, compiled once per shape; params)"""
    apply, params = pure(kind, jax.random.key(0), **args)
    return jax.jit(apply), params


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def dependence(apply, params, x):
    """|d sum of out channels / d in| as [pixel out, pixel in], summed over the channels."""

    def flat(params, x):
        return apply(params, x).sum(-1).reshape(-1)

    jacobian = jax.jit(jax.jacrev(flat, argnums=1))(params, x)
    return np.abs(np.asarray(jacobian)).sum((1, -1)).reshape(x[0, ..., 0].size, -1)


HOW = {"dtype": None, "precision": None}

# ---------------------------------------------------------------- blind spot


def test_published_number_of_weights():
    def conv(a, b, size=3):
        return size**2 * a * b + b

    args = {"width": 48, "levels": 5, "inputs": 3, "outputs": 3}
    params = jax.eval_shape(lambda: pure(BlindSpotNet, jax.random.key(0), **args)[1])
    down = conv(3, 48) + 6 * conv(48, 48)
    up = conv(96, 96) + 3 * conv(144, 96) + conv(99, 96) + 5 * conv(96, 96)
    join = conv(384, 384, 1) + conv(384, 96, 1) + conv(96, 3, 1)
    assert count(params) == down + up + join == 1_268_547


@pytest.mark.parametrize("shape", [(8, 8), (7, 10)])
def test_a_pixel_does_not_see_itself_and_sees_all_around_it(shape):
    apply, params = made(BlindSpotNet, inputs=2, outputs=2, width=3, levels=1)
    seen = dependence(apply, params, noise(1, *shape, 2))
    np.testing.assert_array_equal(np.diagonal(seen), 0.0)
    height, width = shape
    y, x = np.indices(shape).reshape(2, -1)
    near = np.maximum(abs(y[:, None] - y), abs(x[:, None] - x)) == 1
    # relu may hide one or another by accident
    assert (seen[near] > 0).mean() > 0.98
    assert seen.shape == (height * width,) * 2


@pytest.mark.parametrize(
    ("directions", "blind"),
    [
        (("up", "down"), lambda dy, dx: dy == 0),
        (("left", "right"), lambda dy, dx: dx == 0),
        (("up",), lambda dy, dx: dy >= 0),
        (("right",), lambda dy, dx: dx <= 0),
    ],
    ids=["up-down", "left-right", "up", "right"],
)
def test_directions_widen_the_spot(directions, blind):
    apply, params = made(BlindSpotNet, width=3, levels=1, directions=directions)
    shape = (4, 6)
    seen = dependence(apply, params, noise(1, *shape, 1))
    y, x = np.indices(shape).reshape(2, -1)
    dy, dx = y - y[:, None], x - x[:, None]  # where a pixel in lies, seen from the one out
    assert not seen[blind(dy, dx)].any()
    near = (np.maximum(abs(dy), abs(dx)) == 1) & ~blind(dy, dx)
    assert (seen[near] > 0).mean() > 0.9


def test_the_upward_network_never_looks_down():
    apply, params = made(UpwardUNet, inputs=1, width=3, levels=2, **HOW)
    seen = dependence(apply, params, noise(1, 8, 4, 1))
    y = np.repeat(np.arange(8), 4)
    assert not seen[y[:, None] < y].any()
    own = seen[(y[:, None] == y) & np.eye(32, dtype=bool)]
    assert (own > 0).mean() > 0.9, "its own row it does see: it is moved afterwards"


def test_one_network_serves_all_directions():
    def size(**args):
        params = jax.eval_shape(lambda: pure(BlindSpotNet, jax.random.key(0), **args)[1])
        return count(params["half"])

    assert size() == size(directions=("up",))


def test_noise_cannot_be_copied_through_the_spot():
    """Of white noise, nothing but its mean can be predicted from the other pixels."""
    apply, params = made(BlindSpotNet, width=3, levels=1)

    def mean_change(x, eps):
        moved = apply(params, x + eps) - apply(params, x)
        return (moved * eps).mean() / jnp.square(eps).mean()

    x = jnp.zeros((4, 12, 12, 1))
    assert abs(float(mean_change(x, 1e-2 * noise(4, 12, 12, 1)))) < 0.1


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"levels": 0}, r"levels \(0\)"),
        ({"directions": ("up", "north")}, r"north.*choose some of \['up', 'right'"),
        ({"directions": ()}, "choose some of"),
        ({"directions": ("up", "up")}, "each once"),
    ],
    ids=str,
)
def test_blind_spot_networks_that_cannot_be(args, sentence):
    with pytest.raises(ValueError, match=sentence):
        pure(BlindSpotNet, jax.random.key(0), **args)


def test_wrong_channels():
    apply, params = made(BlindSpotNet, inputs=2, outputs=2, width=3, levels=1)
    with pytest.raises(ValueError, match=r"\[batch, y, x, 2 channel\(s\)\], not of shape"):
        apply(params, noise(1, 4, 4, 1))


# ---------------------------------------------------------------- partial convolutions


def partial(size=3, strides=1, inputs=1, outputs=1, **how):
    return PartialConv(
        inputs, outputs, size, strides=strides, rngs=nnx.Rngs(jax.random.key(0)), **HOW, **how
    )


def mask_of(shape, share, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random((1, *shape, 1)) < share, jnp.float32)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_partial_mean_is_the_mean_of_what_is_known(ndim):
    layer = partial(ndim=ndim)
    layer.layer.kernel[...] = jnp.full_like(layer.layer.kernel[...], 1 / 3**ndim)
    shape = (5, 6, 4)[:ndim]
    x, mask = noise(1, *shape, 1), mask_of(shape, 0.3)
    y, known = jax.jit(lambda x, mask: layer((x, mask)))(x, mask)
    padded = np.pad(np.asarray(x[0, ..., 0]), 1)
    there = np.pad(np.asarray(mask[0, ..., 0]), 1) > 0
    for place in np.ndindex(*shape):
        window = tuple(slice(i, i + 3) for i in place)
        values = padded[window][there[window]]
        assert known[0, *place, 0] == (values.size > 0)
        expected = values.mean() if values.size else 0.0
        np.testing.assert_allclose(y[0, *place, 0], expected, atol=1e-5)


def test_parts_with_masks_of_their_own_count_by_their_channels():
    layer = partial(inputs=3)
    layer.layer.kernel[...] = jnp.ones_like(layer.layer.kernel[...]) / 27
    one = jnp.ones((1, 4, 4, 1))
    y, known = layer((jnp.full((1, 4, 4, 1), 5.0), one), (jnp.full((1, 4, 4, 2), 7.0), 0 * one))
    np.testing.assert_allclose(y, 5.0, rtol=1e-6)
    np.testing.assert_array_equal(known, 1.0)
    y, _ = layer((jnp.full((1, 4, 4, 1), 5.0), one), (jnp.full((1, 4, 4, 2), 8.0), one))
    np.testing.assert_allclose(y, 7.0, rtol=1e-6)


def test_holes_close_from_their_edges():
    mask = jnp.ones((1, 11, 11, 1)).at[:, 2:9, 2:9].set(0)
    sizes = []
    for _ in range(4):
        _, mask = partial()((mask, mask))
        sizes.append(int((mask == 0).sum()))
    assert sizes == [25, 9, 1, 0]


def test_the_whole_is_an_ordinary_convolution_inside():
    layer = partial(size=3, inputs=2, outputs=3)
    x = noise(1, 7, 7, 2)
    y, _ = layer((x, jnp.ones((1, 7, 7, 1))))
    np.testing.assert_allclose(y[:, 1:-1, 1:-1], layer.layer(x)[:, 1:-1, 1:-1], atol=1e-5)


def test_what_is_unknown_has_no_effect():
    apply, params = made(PartialConvNet, inputs=3, widths=(4, 6), sizes=(3, 3))
    image, mask = noise(1, 9, 10, 2), mask_of((9, 10), 0.4)
    y = apply(params, jnp.concatenate([image, mask], axis=-1))
    assert y.shape == (1, 9, 10, 1)
    other = jnp.where(mask > 0, image, 1e6 * noise(1, 9, 10, 2, seed=5))
    np.testing.assert_array_equal(apply(params, jnp.concatenate([other, mask], axis=-1)), y)
    broken = jnp.where(mask > 0, image, jnp.nan)
    np.testing.assert_array_equal(apply(params, jnp.concatenate([broken, mask], axis=-1)), y)

    def total(image):
        return jnp.square(apply(params, jnp.concatenate([image, mask], axis=-1))).sum()

    gradient = jax.grad(total)(image)
    assert not np.any(np.where(mask > 0, 0.0, gradient))
    assert np.any(gradient)


def test_published_partial_network_and_errors():
    args = {
        "widths": (64, 128, 256, 512, 512, 512, 512, 512),
        "sizes": (7, 5, 5, 3, 3, 3, 3, 3),
        "normalise": True,
        "inputs": 4,
        "outputs": 3,
    }
    assert count(jax.eval_shape(lambda: pure(PartialConvNet, jax.random.key(0), **args)[1])) == (
        32_859_732
    )
    with pytest.raises(ValueError, match="the last is the mask"):
        pure(PartialConvNet, jax.random.key(0), inputs=1)
    with pytest.raises(ValueError, match="not of as many levels"):
        pure(PartialConvNet, jax.random.key(0), sizes=(3,))


def test_volumes_and_half_precision():
    apply, params = made(PartialConvNet, widths=(4,), sizes=(3,), ndim=3, dtype=jnp.bfloat16)
    x = jnp.concatenate([noise(1, 4, 5, 6, 1), mask_of((4, 5, 6), 0.5)], axis=-1)
    y = apply(params, x)
    assert y.shape == (1, 4, 5, 6, 1)
    assert y.dtype == jnp.float32
    assert np.isfinite(y).all()
