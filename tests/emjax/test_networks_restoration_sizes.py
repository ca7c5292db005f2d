"""Networks that restore pictures: published sizes, any size of picture, types, errors."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from restorers import NAMES, result, shapes

from emjax.networks.convnext_unet import ConvNeXtEncoder
from emjax.networks.pure import count, pure

SHARED = {"inputs": 3, "outputs": 3}


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("unet_classic", {"widths": (64, 128, 256, 512, 1024), "outputs": 2}, 31_030_658),
        ("unet3d", {"widths": (64, 128, 256, 512), **SHARED}, 19_069_955 + 2 * 2336 + 896),
        ("unet_plus_plus", {"widths": (32, 64, 128, 256, 512)}, 9_041_700),
        ("fusionnet", {"widths": (64, 128, 256, 512, 1024), "normalise": True}, 78_529_729),
        ("dncnn", {"width": 64, "depth": 17, "normalise": True}, 556_032),
        ("ptychonn", {"widths": (32, 64, 128)}, 1_154_210),
        (
            "mcnn",
            {
                "widths": (64, 128, 256, 512),
                "sizes": (3, 5, 7, 9),
                "normalise": True,
                "coarse": True,
                **SHARED,
            },
            18_586_249,
        ),
    ],
)
def test_published_number_of_weights(name, args, expected):
    assert count(shapes(name, **args)) == expected


def more(params, *repeated):
    """Number of weights when each named block stands as often as said, and not once."""
    total = count(params)
    for path, times in repeated:
        block = functools.reduce(lambda tree, part: tree[part], path.split("/"), params)
        total += (times - 1) * count(block)
    return total


def test_published_number_of_weights_of_chains_of_equal_blocks():
    rdn = shapes("rdn", width=64, growth=64, blocks=1, layers=8, factor=2, **SHARED)
    fusion = 15 * 64 * 64  # of the 15 blocks more
    assert more(rdn, ("blocks/0", 16)) + fusion == 22_123_395
    rrdb = shapes("rrdb", width=64, growth=32, blocks=1, layers=4, factor=4, **SHARED)
    assert more(rrdb, ("blocks/0", 23)) == 16_697_987
    nafnet = shapes("nafnet", width=32, encoder=(1,) * 4, decoder=(1,) * 4, **SHARED)
    assert more(nafnet, ("down/3/0", 28)) == 17_111_907
    repeats = [("down/0/0", 2), ("down/1/0", 2), ("down/2/0", 4), ("down/3/0", 8)]
    repeats += [(f"up/{level}/0", 2) for level in range(4)]
    assert more(nafnet, *repeats, ("middle/0", 12)) == 29_159_715


def test_published_number_of_weights_of_restormer():
    args = {"width": 48, "blocks": (1,) * 4, "heads": (1, 2, 4, 8), "expansion": 2.66}
    restormer = shapes("restormer", refinement=1, **args, **SHARED)
    repeats = [(f"down/{level}/0", n) for level, n in enumerate((4, 6, 6, 8))]
    repeats += [(f"up/{level}/0", n) for level, n in enumerate((4, 6, 6))]
    assert more(restormer, *repeats, ("refine/0", 4)) == 26_126_644


def test_the_convnext_encoder_is_convnext_t_without_its_classifier():
    def make(key):
        how = {"dtype": None, "precision": None, "rngs": nnx.Rngs(key)}
        return pure(ConvNeXtEncoder(3, (96, 192, 384, 768), (1,) * 4, stem=4, **how))[1]

    encoder = jax.eval_shape(make, jax.random.key(0))
    repeats = [(f"levels/{level}/0", n) for level, n in enumerate((3, 3, 9, 3))]
    whole, classifier = 28_589_128, 2 * 768 + 768 * 1000 + 1000
    assert more(encoder, *repeats) == whole - classifier


@pytest.mark.parametrize("name", NAMES)
def test_default_networks_are_small(name):
    assert 5_000 < count(shapes(name)) < 100_000


@pytest.mark.parametrize("name", NAMES)
def test_any_size_images_and_volumes_and_types(name):
    more = {"ndim": 2} if name == "unet3d" else {}
    y = result(name, (2, 9, 7, 1), **more)
    assert y.shape == (2, 9, 7, 2 if name == "ptychonn" else 1)
    assert y.dtype == jnp.float32
    volumes = {"ndim": 3, "dtype": jnp.bfloat16, "precision": "highest", "outputs": 4}
    y = result(name, (2, 3, 10, 6, 1), **volumes)
    assert y.shape == (2, 3, 10, 6, 4)
    assert y.dtype == jnp.float32, "computed in half precision, returned in single"
    params = shapes(name, **volumes)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    with pytest.raises(
        ValueError, match=r"takes arrays \[batch, z, y, x, 1 channel\(s\)\], not of"
    ):
        result(name, (1, 4, 4, 4, 3), **volumes)
    with pytest.raises(ValueError, match=r"\[batch, y, x, 1 channel\(s\)\], not of shape"):
        result(name, (1, 8, 8, 8, 1), **more)


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("unet_classic", {"widths": ()}, "levels of at least 1 channels"),
        ("unet3d", {"widths": (1, 2)}, "levels of at least 2 channels"),
        ("unet_plus_plus", {"widths": (4,)}, "two levels or more"),
        ("unet_plus_plus", {"heads": "all"}, "'all'.*choose mean, last or stacked"),
        ("unet_plus_plus", {"depth": 3}, "depth 3 .* 1 … 2"),
        ("mcnn", {"widths": (8, 9)}, "divide among its 2 window size"),
        ("fusionnet", {"widths": (0,)}, "levels with channels"),
        ("dncnn", {"depth": 1}, "2 layers or more"),
        ("dncnn", {"outputs": 2, "residual": True}, "1 input channel.*residual=False"),
        ("rdn", {"factor": 3}, "factor 3: .* 1, 2, 4"),
        ("rdn", {"factor": 2, "residual": True}, "2 times as large"),
        ("rrdb", {"blocks": 0}, "at least 1"),
        ("rrdb", {"factor": 2, "residual": True}, "2 times as large"),
        ("nafnet", {"encoder": (1,)}, "as many levels"),
        ("restormer", {"heads": (1, 3)}, r"heads \(1, 3\) do not divide"),
        ("restormer", {"heads": (1,)}, "two levels or more"),
        ("convnext_unet", {"blocks": (1,)}, "as many levels"),
        ("ptychonn", {"outputs": 3}, "3 outputs do not divide"),
        ("ptychonn", {"amplitude": "relu"}, "'relu': choose linear or sigmoid"),
    ],
    ids=str,
)
def test_networks_that_cannot_be(name, args, sentence):
    with pytest.raises(ValueError, match=sentence):
        shapes(name, **args)
