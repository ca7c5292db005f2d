"""From modules to pure functions, and what the U-Net is: size, reach, layers."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from emjax.models import build_network, load_model, network_args, save_model
from emjax.networks import build, count, pure
from emjax.networks.layers import (
    depth_to_space,
    pad_to_multiple,
    space_to_depth,
    upsample,
)
from emjax.networks.unet import UNet


class Plain(nnx.Module):
    """A list of layers, which NNX keys by integers."""

    def __init__(self, inputs: int = 2, *, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Conv(inputs, inputs, (3, 3), rngs=rngs) for _ in range(2)])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return x


class Normalised(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(x)


class Forgetful(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.drop(x)


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Networks run once here: to compile them takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


X = np.random.default_rng(0).normal(size=(2, 9, 7, 2)).astype(np.float32)

# ---------------------------------------------------------------- pure and build


def test_a_module_becomes_a_pure_function_of_a_nested_dict():
    apply, params = pure(Plain, jax.random.key(3), inputs=2)
    assert list(params) == ["layers"]
    assert sorted(params["layers"]) == ["0", "1"], "keys are strings: files need them"
    assert params["layers"]["0"]["kernel"].shape == (3, 3, 2, 2)
    assert count(params) == 2 * (9 * 4 + 2)
    module = Plain(rngs=nnx.Rngs(jax.random.key(3)))
    result = apply(params, X)
    np.testing.assert_array_equal(result, module(jnp.asarray(X)))
    np.testing.assert_allclose(jax.jit(apply)(params, X), result, atol=1e-6)
    twice = jax.tree.map(lambda p: 2 * p, params)
    assert not np.allclose(apply(twice, X), result), "the parameters given are used"
    np.testing.assert_array_equal(apply(params, X), result)


def test_keys_of_the_initial_weights():
    weights = [pure(Plain, jax.random.key(seed))[1]["layers"]["0"]["kernel"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.allclose(weights[0], weights[2])


def test_a_made_module_is_taken_as_it_is():
    module = Plain(rngs=nnx.Rngs(jax.random.key(1)))
    apply, params = pure(module)
    np.testing.assert_array_equal(apply(params, X), module(jnp.asarray(X)))


@pytest.mark.parametrize(("module", "kind"), [(Normalised, "BatchStat"), (Forgetful, "RngKey")])
def test_state_besides_parameters_is_refused(module, kind):
    with pytest.raises(ValueError, match=f"{module.__name__} keeps state .*{kind}.*GroupNorm"):
        pure(module, jax.random.key(0))


def shape_of(shape, **args):
    """Of the output of a U-Net for an input of this shape; nothing is computed."""

    def run(key, x):
        apply, params = build("unet", key, **args)
        return apply(params, x)

    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(run, jax.random.key(0), x).shape


def test_build_by_name():
    assert shape_of(X.shape, inputs=2, outputs=3, widths=(4,)) == (2, 9, 7, 3)
    with pytest.raises(ValueError, match=r"no network 'unnet'. Did you mean unet\b"):
        build("unnet", jax.random.key(0))
    with pytest.raises(ValueError, match=r"no network 'zzz'. There are: .*unet.*file\.py:Name"):
        build("zzz", jax.random.key(0))
    with pytest.raises(ValueError, match=r"'unet' cannot be made with .*'depth': 3.*'depth'"):
        build("unet", jax.random.key(0), depth=3)


def test_a_network_in_a_file_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from flax import nnx\n\n"
        "class Mine(nnx.Module):\n"
        "    def __init__(self, outputs=1, *, rngs):\n"
        "        self.layer = nnx.Conv(2, outputs, (3, 3), rngs=rngs)\n\n"
        "    def __call__(self, x):\n"
        "        return self.layer(x)\n"
    )
    apply, params = build_network(f"{file}:Mine", {"outputs": 3})
    path = tmp_path / "model.h5"
    save_model(
        path,
        network=f"{file}:Mine",
        network_args={"outputs": 3},
        params=params,
        meta={},
        example=X,
    )
    model = load_model(path)
    np.testing.assert_allclose(model.apply(model.params, X), apply(params, X), atol=1e-6)


# ---------------------------------------------------------------- layers


def test_space_to_depth_and_back():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    deep = space_to_depth(x, 2)
    assert deep.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(deep[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
    np.testing.assert_array_equal(depth_to_space(deep, 2), x)
    np.testing.assert_array_equal(space_to_depth(depth_to_space(deep, 2), 2), deep)


def test_upsample_repeats_pixels():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    expected = np.kron(np.asarray(x[0, ..., 0]), np.ones((2, 2)))
    np.testing.assert_array_equal(upsample(x)[0, ..., 0], expected)


def test_padding_continues_the_lower_and_right_edge():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    padded, size = pad_to_multiple(x, 4)
    assert (padded.shape, size) == ((1, 4, 8, 1), (3, 5))
    np.testing.assert_array_equal(padded[:, :3, :5], x)
    np.testing.assert_array_equal(padded[0, 3, :5, 0], x[0, 2, :, 0])
    np.testing.assert_array_equal(padded[0, :3, 7, 0], x[0, :, 4, 0])
    assert pad_to_multiple(padded, 4)[0] is padded


# ---------------------------------------------------------------- U-Net


def conv(a, b, size):
    return size**2 * a * b + b


def block(c):
    return 2 * conv(c, c, 3)


@pytest.mark.parametrize(
    ("inputs", "outputs", "widths", "stem", "blocks"),
    [(1, 1, (3,), 1, 1), (2, 3, (4, 6), 2, 2), (2, 5, (16, 24, 32), 2, 1)],
)
def test_number_of_weights(inputs, outputs, widths, stem, blocks):
    a, c = widths[0], stem**2
    expected = conv(inputs * c, a, 3) + conv(a, outputs * c, 1)
    expected += sum(blocks * block(w) for w in widths)
    for small, large in itertools.pairwise(widths):
        expected += conv(small, large, 2) + conv(large, small, 1)
        expected += conv(2 * small, small, 1) + block(small)
    module = functools.partial(
        UNet, inputs=inputs, outputs=outputs, widths=widths, stem=stem, blocks=blocks
    )
    params = jax.eval_shape(lambda key: pure(module, key)[1], jax.random.key(0))
    assert count(params) == expected


@functools.cache
def small_unet():
    """(apply, params) of stride 4."""
    apply, params = build("unet", jax.random.key(0), inputs=1, outputs=1, widths=(4, 6))
    return jax.jit(apply), params


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 30), (33, 7)])
def test_any_size_is_kept(size):
    args = {"inputs": 2, "outputs": 3, "widths": (4, 6)}
    assert shape_of((2, *size, 2), **args) == (2, *size, 3)
    assert shape_of((2, *size, 2), stem=1, **args) == (2, *size, 3)


def test_the_reach_is_bounded():
    apply, params = small_unet()
    # enter 1, two 3×3 convolutions a block, in pixels of the level; up to a stride of alignment
    stem = 2
    bound = stem * 1 + stem * 2 + 2 * stem * 2 + stem * 2 + 2 * stem - 1
    rng = np.random.default_rng(1)
    x, other = rng.normal(size=(2, 1, 64, 64, 1)).astype(np.float32)
    result = apply(params, x)
    y, column = np.indices((64, 64))
    for row in (30, 31, 32, 33):
        distance = np.maximum(np.abs(y - row), np.abs(column - 31))[None, ..., None]
        for reach, seen in ((bound, False), (bound // 2, True)):
            changed = apply(params, np.where(distance > reach, other, x))
            assert (abs(changed[0, row, 31, 0] - result[0, row, 31, 0]) > 1e-5) == seen


def test_tiles_agree_with_the_whole_beyond_the_reach():
    apply, params = small_unet()
    x = jax.random.normal(jax.random.key(2), (1, 96, 64, 1))
    whole, tile = apply(params, x), apply(params, x[:, 16:80])
    np.testing.assert_allclose(tile[:, 20:44], whole[:, 36:60], atol=1e-5)
    assert np.abs(tile[:, :4] - whole[:, 16:20]).max() > 1e-3, "but not at their edges"


def test_pictures_moved_by_the_stride_give_the_same_moved():
    apply, params = small_unet()
    x = jax.random.normal(jax.random.key(3), (1, 80, 80, 1))
    result = apply(params, x)
    moved = apply(params, jnp.roll(x, (4, 8), axis=(1, 2)))
    inner = slice(24, 44)
    np.testing.assert_allclose(moved[:, 28:48, 32:52], result[:, inner, inner], atol=1e-5)
    with_half = apply(params, jnp.roll(x, (2, 2), axis=(1, 2)))
    difference = np.abs(with_half[:, 26:46, 26:46] - result[:, inner, inner])
    assert difference.max() > 1e-3, "the stride is 4, not 2"


def test_pictures_of_a_batch_do_not_see_each_other():
    apply, params = small_unet()
    x = np.random.default_rng(4).normal(size=(3, 16, 16, 1)).astype(np.float32)
    together = apply(params, x)
    other = apply(params, np.stack([x[0], 100 + x[1], x[2]]))
    np.testing.assert_allclose(other[0], together[0], atol=1e-5)
    np.testing.assert_allclose(other[2], together[2], atol=1e-5)


@pytest.mark.parametrize(
    "args", [{"widths": ()}, {"widths": (4, 0)}, {"stem": 0}, {"blocks": 0}], ids=str
)
def test_networks_without_layers(args):
    with pytest.raises(ValueError, match=r"widths .* stem and blocks of at least 1"):
        build("unet", jax.random.key(0), **args)


def test_an_experiments_wishes_and_a_users_own_arguments(tmp_path):
    wanted = {"inputs": 2, "outputs": 3, "widths": [8, 8]}
    assert network_args("unet", **wanted) == wanted
    assert network_args("dncnn", '{"depth": 4}', **wanted) == {
        "inputs": 2,
        "outputs": 3,
        "depth": 4,
    }
    file = tmp_path / "mine.py"
    file.write_text(
        "from flax import nnx\n"
        "class Mine(nnx.Module):\n"
        "    def __init__(self, inputs, outputs, *, reach=3, rngs):\n"
        "        self.conv = nnx.Conv(inputs, outputs, (reach, reach), rngs=rngs)\n"
        "    def __call__(self, x):\n"
        "        return self.conv(x)\n"
    )
    args = network_args(f"{file}:Mine", '{"reach": 5}', **wanted)
    assert args == {"inputs": 2, "outputs": 3, "reach": 5}
    apply, params = build_network(f"{file}:Mine", args)
    assert params["conv"]["kernel"].shape == (5, 5, 2, 3)
    assert apply(params, X).shape == (*X.shape[:3], 3)
    for text, message in (("{", "is not JSON"), ("[1]", "must be a JSON object")):
        with pytest.raises(ValueError, match=message):
            network_args("unet", text)
