"""Shared layers, and networks that end in classes: what each one's definition promises."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from emjax.networks import count, layers, pure
from emjax.networks.densenet import DENSENET121, DenseBlock, DenseNet
from emjax.networks.mlp import MLP, pyramid
from emjax.networks.resnet import RESNET18, RESNET50, Block, ResNet
from emjax.networks.vgg import VGG, VGG16, VGGEncoder
from emjax.networks.vit import VIT_TINY, Attention, Layer, ViT, positions
from emjax.networks.xception import XCEPTION, SeparableConv, Xception


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Networks run once here: to compile them takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class RNGS:
    """Keys without the counter of `nnx.Rngs`, which makes long traces take quadratic time."""

    def params(self):
        return jax.random.key(0)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shapes(module, **args):
    """Parameters without numbers: nothing is allocated."""
    return jax.eval_shape(lambda: pure(module(**args, rngs=RNGS()))[1])


def filled(make, seed=0):
    """A module with weights from NumPy: JAX would compile a random generator for each shape."""
    graph, state = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(seed)

    def weights(leaf):
        fan = max(np.prod(leaf.shape[:-1]), 1)
        return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(fan), leaf.dtype)

    return nnx.merge(graph, jax.tree.map(weights, state))


def result_of(module, shape, **args):
    """Shape and type of the result, without computing it."""

    def run(x):
        apply, params = pure(module(**args, rngs=RNGS()))
        return apply(params, x)

    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(run, x)


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_layers_work_for_any_number_of_axes(ndim):
    def run(x):
        x, shape = layers.pad_to_multiple(x, 4)
        y = layers.conv(4, 8, ndim=ndim, strides=2, rngs=RNGS())(x)
        y = layers.norm(8, rngs=RNGS())(y)
        y = layers.conv(8, 8, ndim=ndim, dilation=2, groups=8, rngs=RNGS())(y)
        assert y.shape == (2, *(4,) * ndim, 8)
        y = layers.transposed(8, 4, ndim=ndim, rngs=RNGS())(y)
        assert layers.upsample(y, 3).shape == (2, *(24,) * ndim, 4)
        assert layers.resize(y, (5,) * ndim).shape == (2, *(5,) * ndim, 4)
        return layers.global_pool(layers.crop(x, shape)), layers.crop(y, shape)

    pooled, cropped = jax.eval_shape(run, jnp.zeros((2, *(6,) * ndim, 4)))
    assert (pooled.shape, cropped.shape) == ((2, 4), (2, *(6,) * ndim, 4))


def test_depth_and_space_in_three_dimensions():
    x = jnp.asarray(normal(1, 4, 2, 6, 3))
    deep = jax.jit(lambda x: layers.space_to_depth(x, 2))(x)
    assert deep.shape == (1, 2, 1, 3, 24)
    x, deep = np.asarray(x), np.asarray(deep)
    np.testing.assert_array_equal(deep[0, 1, 0, 2].reshape(2, 2, 2, 3), x[0, 2:, :, 4:])
    back, large = jax.jit(lambda x, deep: (layers.depth_to_space(deep, 2), layers.upsample(x)))(
        x, deep
    )
    np.testing.assert_array_equal(back, x)
    repeated = np.kron(x[0, ..., 0], np.ones((2, 2, 2)))
    np.testing.assert_array_equal(np.asarray(large)[0, ..., 0], repeated)


def test_pools():
    x = normal(2, 5, 4, 3)

    @jax.jit
    def pools(x):
        gradient = jax.grad(lambda x: layers.max_pool(x).sum())
        overlapping = layers.max_pool(x, 3, strides=2)
        flat = gradient(jnp.ones((1, 2, 2, 1)))
        return layers.max_pool(x), layers.avg_pool(x), overlapping, gradient(x[:, :4]), flat

    maxima, means, overlapping, gradient, flat = map(np.asarray, pools(x))
    assert maxima.shape == means.shape == overlapping.shape == (2, 3, 2, 3)
    window = x[:, 2:4, 2:4]
    np.testing.assert_array_equal(maxima[:, 1, 1], window.max(axis=(1, 2)))
    np.testing.assert_allclose(means[:, 1, 1], window.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_array_equal(maxima[:, 2, 0], x[:, 4, :2].max(axis=1), "the rest is a window")
    largest = x[:, :4] == np.kron(maxima[:, :2], np.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient != 0, largest)
    assert flat.sum() == 1, "equal values share"


def test_adaptive_pool():
    cases = [(7, 3), (2, 3), (6, 3), (5, 1)]
    pictures = [normal(1, n, n, 2) for n, _ in cases]

    @jax.jit
    def pools(pictures):
        return [layers.adaptive_pool(x, size) for x, (_, size) in zip(pictures, cases, strict=True)]

    text = str(jax.make_jaxpr(pools)(pictures))
    assert text.count("dot_general") == text.count("precision=(Precision.HIGHEST") > 0
    for (n, size), x, pooled in zip(cases, pictures, pools(pictures), strict=True):
        pooled = np.asarray(pooled)
        edges = [(i * n // size, -((i + 1) * n // -size)) for i in range(size)]
        for (i, (top, bottom)), (j, (left, right)) in itertools.product(enumerate(edges), repeat=2):
            mean = x[:, top:bottom, left:right].mean(axis=(1, 2))
            np.testing.assert_allclose(pooled[:, i, j], mean, atol=1e-6)


def test_normalisation():
    layer = filled(lambda: layers.norm(8, rngs=RNGS()))
    layer.scale[...], layer.bias[...] = jnp.ones(8), jnp.zeros(8)
    y = np.asarray(jax.jit(layer)(1e4 + normal(1, 16, 16, 8)))
    assert abs(y.mean()) < 1e-2
    assert y.std() == pytest.approx(1, abs=0.01), "counts have a mean above their spread"
    slope = jax.jit(jax.grad(lambda x: layer(x)[0, 0, 0, 0]))(jnp.zeros((1, 4, 4, 8)))
    assert np.abs(slope).max() < 1 / np.sqrt(layers.EPSILON), "vacuum is not amplified without end"
    groups = {}
    for channels in (64, 24, 7):
        made = nnx.eval_shape(lambda channels=channels: layers.norm(channels, rngs=RNGS()))
        groups[channels] = made.num_groups
    assert groups == {64: 8, 24: 6, 7: 1}, "four channels in a group at least"
    assert layers.norm(8, groups=0, rngs=RNGS()) is layers.identity


# ---------------------------------------------------------------- all of them


def layers_deep(params):
    """Kernels, without those of shortcuts."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [jax.tree_util.keystr(path) for path, _ in leaves]
    return sum("kernel" in path and "shortcut" not in path for path in paths)


@pytest.mark.parametrize(
    ("module", "args", "expected", "deep"),
    [
        (VGG, VGG16, 138_357_544, 16),
        (ResNet, RESNET18, 11_689_512, 18),
        (ResNet, RESNET50, 25_557_032, 50),
        (DenseNet, DENSENET121, 7_978_856, 121),
        (Xception, XCEPTION, 22_855_952, None),
        # without class token and learnt positions
        (ViT, VIT_TINY, 5_717_416 - 192 - 197 * 192, None),
    ],
)
def test_number_of_weights_and_layers_at_the_published_size(module, args, expected, deep):
    params = shapes(module, **args)
    assert count(params) == expected
    assert deep in (None, layers_deep(params))


CLASSIFIERS = [VGG, ResNet, DenseNet, Xception, ViT]


@pytest.mark.parametrize("module", CLASSIFIERS)
def test_any_size_and_wrong_channels(module):
    def run(*pictures):
        apply, params = pure(module(inputs=2, outputs=3, rngs=RNGS()))
        with pytest.raises(ValueError, match=r"takes arrays \[batch, y, x, 2 channel"):
            apply(params, pictures[0][..., :1])
        with pytest.raises(ValueError, match=r"not of shape \(2, 5, 2\)"):
            apply(params, pictures[0][:, :, 0])
        return [apply(params, picture) for picture in pictures]

    results = jax.eval_shape(run, jnp.zeros((2, 5, 30, 2)), jnp.zeros((2, 1, 1, 2)))
    assert all((y.shape, y.dtype) == ((2, 3), jnp.float32) for y in results)


@pytest.mark.parametrize("module", [MLP, *CLASSIFIERS])
def test_volumes_in_half_precision(module):
    args = {"dtype": jnp.bfloat16, "precision": "highest"}
    # widths of a transformer divide by twice the number of axes
    args |= {ViT: {"width": 36, "ndim": 3}, MLP: {"shape": (4, 5, 6)}}.get(module, {"ndim": 3})

    def run(x):
        apply, params = pure(module(**args, rngs=RNGS()))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
        return apply(params, x)

    program = jax.make_jaxpr(run)(jnp.zeros((1, 4, 5, 6, 1)))
    assert program.out_avals[0].dtype == jnp.float32
    used = set()
    for equation in program.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            assert equation.outvars[0].aval.dtype == jnp.bfloat16
            used.add(str(equation.params["precision"]))
    assert any("HIGHEST" in precision for precision in used)


@pytest.mark.parametrize(
    ("module", "args", "message"),
    [
        (VGG, {"depths": (1,)}, "one depth for each width"),
        (ResNet, {"widths": ()}, "one depth for each width"),
        (ResNet, {"kind": "fancy"}, "'basic' or 'bottleneck'"),
        (DenseNet, {"compression": 0}, "compression"),
        (ViT, {"width": 30}, "multiple"),
        (ViT, {"patch": 6}, "2, 4, 8"),
        (ViT, {"head": "tail"}, "'classes' or 'image'"),
        (MLP, {"widths": (0,)}, "empty"),
    ],
)
def test_networks_that_cannot_be(module, args, message):
    with pytest.raises(ValueError, match=message):
        shapes(module, **args)


# ---------------------------------------------------------------- one by one


def test_an_mlp_knows_places_and_a_convolutional_network_does_not():
    x = np.zeros((2, 16, 16, 1), np.float32)
    x[0, 6:9, 6:9, 0] = normal(3, 3)
    x[1] = np.roll(x[0], (2, 1), axis=(0, 1))
    first, moved = jax.jit(filled(lambda: MLP(shape=(16, 16), rngs=RNGS())))(x)
    assert abs(float((first - moved)[0])) > 1e-3
    small = filled(lambda: ResNet(widths=(4,), depths=(1,), groups=0, rngs=RNGS()))
    first, moved = jax.jit(small)(x)
    np.testing.assert_allclose(first, moved, atol=1e-5)


def test_mlp_sizes():
    assert count(shapes(MLP, shape=(100,), widths=(10, 15, 5))) == 1010 + 165 + 80 + 6
    assert pyramid(1000, 1, layers=2) == (100, 10)
    assert pyramid(256, 1, layers=3) == (64, 16, 4)
    with pytest.raises(ValueError, match=r"\[batch, 16, 16, 1\].*shape=\(8, 8\)"):
        result_of(MLP, (1, 8, 8, 1))


def test_an_mlp_without_hidden_layers_is_linear():
    args = {"shape": (4, 3), "inputs": 2, "outputs": 2, "widths": ()}
    apply, params = pure(filled(lambda: MLP(**args, rngs=RNGS())))
    x = normal(5, 4, 3, 2)
    kernel, bias = np.asarray(params["leave"]["kernel"]), np.asarray(params["leave"]["bias"])
    np.testing.assert_allclose(apply(params, x), x.reshape(5, 24) @ kernel + bias, atol=1e-5)


def test_vgg_has_tap_points():
    features = result_of(VGGEncoder, (1, 16, 12, 1))
    assert [f.shape for f in features] == [(1, 16, 12, 8), (1, 8, 6, 16), (1, 4, 3, 32)]


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_a_residual_block_starts_as_its_shortcut(kind):
    x = normal(1, 6, 6, 8)

    @jax.jit
    def run(x):
        blocks = [Block(8, 8, kind=kind, order=order, rngs=RNGS()) for order in ("post", "pre")]
        return [block(x) for block in blocks]

    post, pre = map(np.asarray, run(x))
    np.testing.assert_array_equal(post, np.maximum(x, 0))
    assert 0 < np.square(pre - x).mean() < 0.5 * np.square(x).mean()
    halved = jax.eval_shape(lambda x: Block(8, 12, kind=kind, strides=2, rngs=RNGS())(x), x)
    assert halved.shape == (1, 3, 3, 12)


@pytest.mark.parametrize("bottleneck", [0, 4])
def test_dense_blocks_grow_by_k_channels_a_layer(bottleneck):
    block = filled(lambda: DenseBlock(5, 3, 4, bottleneck=bottleneck, groups=0, rngs=RNGS()))
    x = jnp.asarray(normal(1, 4, 4, 5))
    y, new = jax.jit(lambda x: (block(x), block(x, new=True)))(x)
    assert y.shape[-1] == block.outputs == 5 + 4 * 3
    np.testing.assert_array_equal(y[..., :5], x, "what was there stays")
    np.testing.assert_array_equal(new, y[..., 5:])
    seen = [layer.convs[0].kernel.shape[-2] for layer in block.layers]
    assert seen == [5, 8, 11, 14], "each layer sees all before it"


def test_a_separable_convolution_is_one_of_rank_one():
    layer = filled(lambda: SeparableConv(4, 6, between=False, groups=0, rngs=RNGS()))
    x = jnp.asarray(normal(2, 7, 7, 4))
    kernel = jnp.einsum(
        "yxc,cd->yxcd", layer.depthwise.kernel[:, :, 0], layer.pointwise.kernel[0, 0]
    )
    full = filled(lambda: layers.conv(4, 6, rngs=RNGS()))
    full.kernel[...] = kernel
    full.bias[...] = layer.pointwise.bias[...]
    np.testing.assert_allclose(layer(x), full(x), atol=1e-5)
    kernels = layer.depthwise.kernel.size + layer.pointwise.kernel.size
    assert kernels == 9 * 4 + 4 * 6 < 9 * 4 * 6


# ---------------------------------------------------------------- transformer


def test_attention_by_hand():
    layer = filled(lambda: Attention(4, 2, dtype=None, precision="highest", rngs=RNGS()))
    x = normal(1, 3, 4)
    enter, leave = (
        [np.asarray(part.kernel), np.asarray(part.bias)[None]]
        for part in (layer.enter, layer.leave)
    )
    q, k, v = np.split(x[0] @ enter[0] + enter[1], 3, axis=-1)
    heads = []
    for h in (slice(0, 2), slice(2, 4)):
        weight = np.exp(q[:, h] @ k[:, h].T / np.sqrt(2))
        heads.append(weight / weight.sum(axis=1, keepdims=True) @ v[:, h])
    expected = np.concatenate(heads, axis=-1) @ leave[0] + leave[1]
    np.testing.assert_allclose(layer(jnp.asarray(x))[0], expected, atol=1e-5)


def test_tokens_have_no_order_but_their_positions():
    layer = filled(lambda: Layer(8, 2, dtype=None, precision="highest", rngs=RNGS()))
    x = jnp.asarray(normal(1, 5, 8))
    order = np.array([3, 1, 4, 0, 2])
    run = jax.jit(layer)
    np.testing.assert_allclose(np.asarray(run(x))[:, order], run(x[:, order]), atol=1e-5)
    assert sum(p.size for p in jax.tree.leaves(nnx.state(layer, nnx.Param))) == 12 * 64 + 13 * 8
    place = positions((4, 5), 12)
    assert place.shape == (4, 5, 12)
    np.testing.assert_allclose(np.square(place).sum(axis=-1), 6, rtol=1e-6)
    flat = place.reshape(20, 12)
    apart = np.abs(flat[:, None] - flat[None]).max(axis=-1)
    assert (apart + np.eye(20) > 0.01).all(), "no two places look the same"
    np.testing.assert_array_equal(positions((8, 9), 12)[:4, :5], place, "of any picture")


@pytest.mark.parametrize("stem", ["conv", "patch"])
def test_a_transformer_for_images(stem):
    for ndim, size in ((2, (7, 13)), (3, (3, 4, 5))):
        args = {"inputs": 2, "outputs": 3, "width": 24, "stem": stem, "head": "image"}
        result = result_of(ViT, (2, *size, 2), ndim=ndim, **args)
        assert result.shape == (2, *size, 3)
