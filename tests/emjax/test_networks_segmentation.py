"""Networks from images to images of classes: wiring, shared parts, places, reach, sizes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from emjax.networks import count, layers, pure
from emjax.networks.deeplab import ASPP, DEEPLAB_V3_PLUS, DeepLab
from emjax.networks.densenet import DenseBlock, Transition
from emjax.networks.fc_densenet import FC_DENSENET103, FCDenseNet
from emjax.networks.fcn import FCN, FCN8, bilinear
from emjax.networks.resnet import Block
from emjax.networks.resunet import RESUNET, RESUNET_A, PyramidPooling, ResUNet
from emjax.networks.segnet import SEGNET, SegNet, pool_with_places, unpool
from emjax.networks.vgg import Stage, VGGEncoder
from emjax.networks.xception import XceptionBlock


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


MODULES = [FCN, SegNet, FCDenseNet, ResUNet, DeepLab]


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


def program(module, shape, **args):
    """What a network does to an input of this shape, without doing it."""

    def run(x):
        apply, params = pure(module(**args, rngs=RNGS()))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
        return apply(params, x)

    return jax.make_jaxpr(run)(jnp.zeros(shape))


# ---------------------------------------------------------------- all of them


def vgg16(inputs):
    """Weights of its 13 convolutions."""
    widths = [inputs, 64, 64, 128, 128, 256, 256, 256, *[512] * 6]
    return sum(9 * a * b + b for a, b in itertools.pairwise(widths))


def test_number_of_weights_at_the_published_size():
    fully = 49 * 512 * 4096 + 4096 + 4096**2 + 4096
    scores = sum(c * 21 + 21 for c in (4096, 512, 256)) + 2 * 16 * 21**2
    assert count(shapes(FCN, **FCN8)) == vgg16(3) + fully + scores == 134_376_863
    normalised = 2 * (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512)
    back = itertools.pairwise([512] * 6 + [256] * 3 + [128] * 2 + [64] * 2)
    mirrored = sum(9 * a * b + 3 * b for a, b in back) + 9 * 64 * 12 + 12
    assert count(shapes(SegNet, **SEGNET)) == vgg16(3) + normalised + mirrored == 29_449_932
    assert count(shapes(FCDenseNet, **FC_DENSENET103)) == 9_318_907
    assert count(shapes(DeepLab, **DEEPLAB_V3_PLUS)) == 41_055_413 - 256
    leaves = jax.tree.leaves(shapes(ResUNet, **RESUNET))
    assert sum(leaf.size for leaf in leaves if leaf.shape[:2] == (3, 3)) == 7_816_896


@pytest.mark.parametrize("module", MODULES)
def test_any_size_and_wrong_channels(module):
    def run(*pictures):
        apply, params = pure(module(inputs=2, outputs=3, rngs=RNGS()))
        with pytest.raises(ValueError, match=r"takes arrays \[batch, y, x, 2 channel"):
            apply(params, pictures[0][..., :1])
        return [apply(params, picture) for picture in pictures]

    pictures = [jnp.zeros((2, 5, 30, 2)), jnp.zeros((2, 1, 1, 2))]
    for x, y in zip(pictures, jax.eval_shape(run, *pictures), strict=True):
        assert (y.shape, y.dtype) == ((*x.shape[:3], 3), jnp.float32)


@pytest.mark.parametrize("module", MODULES)
def test_volumes_in_half_precision(module):
    made = program(module, (1, 3, 4, 5, 1), ndim=3, dtype=jnp.bfloat16, precision="highest")
    assert made.out_avals[0].shape[:4] == (1, 3, 4, 5)
    assert made.out_avals[0].dtype == jnp.float32
    convolutions = [e for e in made.eqns if e.primitive.name == "conv_general_dilated"]
    assert len(convolutions) > 4
    for equation in convolutions:
        assert equation.outvars[0].aval.dtype == jnp.bfloat16
        assert "HIGHEST" in str(equation.params["precision"])


@pytest.mark.parametrize(
    ("module", "args", "message"),
    [
        (FCN, {"stride": 3}, r"strides of 1, 2, .. 8, not 3"),
        (FCN, {"stride": 16}, r"strides of 1, 2, .. 8, not 16"),
        (SegNet, {"depths": (1,)}, "one depth for each width"),
        (FCDenseNet, {"growth": 0}, "of at least 1"),
        (ResUNet, {"dilations": ((1,),)}, "a tuple of dilations"),
        (DeepLab, {"tap": 5}, "entry block of DeepLab: 0 to 1"),
    ],
)
def test_networks_that_cannot_be(module, args, message):
    with pytest.raises(ValueError, match=message):
        shapes(module, **args)


def test_encoders_are_shared():
    def parts(module, kind):
        made = nnx.eval_shape(lambda: module(rngs=RNGS()))
        return sum(type(part) is kind for _, part in nnx.iter_modules(made))

    assert parts(FCN, VGGEncoder) == 1
    assert parts(FCN, Stage) == 3
    assert parts(SegNet, Stage) == 4
    assert parts(FCDenseNet, DenseBlock) == 5
    assert parts(FCDenseNet, Transition) == 2
    assert parts(ResUNet, Block) == 3
    assert parts(DeepLab, XceptionBlock) == 5


# ---------------------------------------------------------------- FCN


def test_scores_grow_by_interpolation():
    grow = layers.transposed(2, 2, 4, init=bilinear, bias=False, rngs=RNGS())
    x = jnp.asarray(normal(1, 6, 5, 2))
    inner = slice(2, -2)
    expected = layers.resize(x, (12, 10))
    np.testing.assert_allclose(grow(x)[:, inner, inner], expected[:, inner, inner], atol=1e-5)


@pytest.mark.parametrize(("stride", "levels"), [(8, ()), (4, (2,)), (2, (2, 1)), (1, (2, 1, 0))])
def test_scored_resolutions(stride, levels):
    network = filled(lambda: FCN(stride=stride, groups=0, rngs=RNGS()))
    assert network.scored == levels
    if stride == 8:  # nothing finer than the interpolation of 2 × 2 scores
        along = np.asarray(jax.jit(network)(normal(1, 16, 16, 1)))[0, :, 0, 0]
        assert np.abs(np.diff(along)).max() > 0
        np.testing.assert_allclose(np.diff(along[4:12], 2), 0, atol=1e-5)


# ---------------------------------------------------------------- SegNet


@pytest.mark.parametrize("shape", [(2, 6, 3), (2, 6, 4, 3), (1, 4, 2, 6, 2)])
def test_values_go_back_to_where_they_were_the_largest(shape):
    x = jnp.asarray(normal(*shape))
    maxima, places, pooled = jax.jit(lambda x: (*pool_with_places(x), layers.max_pool(x)))(x)
    np.testing.assert_array_equal(maxima, pooled)
    assert maxima.shape == places.shape
    put = jax.jit(unpool)
    back = np.asarray(put(maxima, places))
    there = back != 0
    np.testing.assert_array_equal(back[there], np.asarray(x)[there])
    assert there.sum() == maxima.size
    other = normal(*maxima.shape, seed=1)
    np.testing.assert_array_equal(np.asarray(put(other, places)) != 0, there)


def test_places_by_hand():
    @jax.jit
    def run(x):
        maxima, places = pool_with_places(x)
        put = unpool(jnp.full((1, 1, 2, 1), 7.0), places)
        return maxima, places, put, jax.grad(lambda x: pool_with_places(x)[0].sum())(x)

    x = np.array([[1, 2, 0, 0], [3, 0, 0, 0]], np.float32)[None, ..., None]
    maxima, places, put, gradient = (np.asarray(array)[0, ..., 0] for array in run(x))
    np.testing.assert_array_equal(maxima, [[3, 0]])
    np.testing.assert_array_equal(places, [[2, 0]], "the first of equal values")
    np.testing.assert_array_equal(put, [[0, 0, 7, 0], [7, 0, 0, 0]])
    np.testing.assert_array_equal(gradient, [[0, 0, 1, 0], [1, 0, 0, 0]])


def test_segnet_passes_places_alone():
    """The decoder's convolutions see the width below them: nothing is concatenated."""
    network = filled(lambda: SegNet(widths=(4, 6), depths=(1, 2), rngs=RNGS()))
    up = [[c.kernel.shape[2:] for c in stage.convs] for stage in network.up if stage is not None]
    assert up == [[(6, 6), (6, 4)]]
    assert jax.eval_shape(network, jnp.zeros((1, 8, 8, 1))).shape == (1, 8, 8, 2)


# ---------------------------------------------------------------- FC-DenseNet


def test_only_what_is_new_is_carried_up():
    args = {"growth": 3, "depths": (2, 4), "bottom": 5, "first": 6}
    network = nnx.eval_shape(lambda: FCDenseNet(**args, rngs=RNGS()))
    assert [block.outputs for block in network.down] == [12, 24]
    assert [grow.kernel.shape[2:] for grow in network.grow] == [(15, 15), (12, 12)]
    assert [block.inputs for block in network.up] == [15 + 24, 12 + 12]
    assert network.leave.kernel.shape[2:] == (24 + 6, 1)


# ---------------------------------------------------------------- ResUNet


def taps(function, size, channels):
    """Which pixels the middle pixel of the result depends on."""
    x = jnp.asarray(np.abs(normal(1, size, size, channels)))
    middle = size // 2

    @jax.jit
    @jax.grad
    def gradients(x):
        return jnp.square(function(x)[0, middle, middle]).sum()

    gradient = gradients(x)
    return np.argwhere(np.abs(gradient[0]).max(axis=-1) > 0) - middle


def test_dilated_branches_see_further():
    how = {"order": "pre", "groups": 0, "dilations": (1, 3)}
    block = filled(lambda: Block(16, 16, **how, rngs=RNGS()))
    assert len(block.branches) == 2
    seen = taps(block, 17, 16)
    near = {(y, x) for y in range(-2, 3) for x in range(-2, 3)}
    far = {(y, x) for y in range(-6, 7, 3) for x in range(-6, 7, 3)}
    assert {tuple(map(int, p)) for p in seen} == near | far


def test_resunet_a_has_pyramids_and_more_branches():
    small = {"widths": (8, 12), "inputs": 2}
    plain = count(shapes(ResUNet, **small))
    several = shapes(ResUNet, **small, dilations=((1, 3), (1, 2)), pyramid=(1, 2))
    assert count(several) > 1.9 * plain
    assert sorted(several["down"]["1"]["branches"]) == ["0", "1"]
    assert len(shapes(ResUNet, **RESUNET_A)["down"]["0"]["branches"]) == 4
    pool = filled(lambda: PyramidPooling(4, (1, 2), rngs=RNGS()))
    x = jnp.asarray(normal(1, 6, 6, 4))
    assert len(taps(pool, 6, 4)) == 36, "the mean of the picture"
    np.testing.assert_array_equal(pool.merge.kernel.shape[2:], (4 + 2 + 2, 4))
    assert jax.eval_shape(pool, x).shape == x.shape


# ---------------------------------------------------------------- DeepLab


def test_reach_of_atrous_convolutions():
    """1 + 8 pixels for each rate, at distances of the rate: by the gradient."""
    rates = (6, 12, 18)
    aspp = filled(lambda: ASPP(2, 16, rates, image=False, groups=0, rngs=RNGS()))
    seen = {tuple(map(int, p)) for p in taps(aspp, 41, 2)}
    assert seen == {(r * y, r * x) for r in rates for y in (-1, 0, 1) for x in (-1, 0, 1)}
    assert len(seen) == 25
    assert max(y for y, _ in seen) == 18
    whole = filled(lambda: ASPP(2, 16, (1,), groups=0, rngs=RNGS()))
    assert len(taps(whole, 9, 2)) == 81, "with the mean of the picture"


def test_deeplab_decodes_at_the_resolution_of_its_tap():
    coarse = {"stem_strides": 2, "tap": 1, "rates": (1,), "middle": 0}
    for args, side in (({}, 16), (coarse, 4)):
        made = program(DeepLab, (1, 16, 16, 1), skip=5, context=7, **args)
        joined = [
            e.outvars[0].aval.shape
            for e in made.eqns
            if e.primitive.name == "concatenate" and e.outvars[0].aval.shape[-1] == 12
        ]
        assert joined == [(1, side, side, 12)]
