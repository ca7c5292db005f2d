"""Networks that restore pictures: wiring, reach, what each is defined by."""

from __future__ import annotations

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from restorers import made, noise, result, shapes

from emjax.networks.mcnn import Branches
from emjax.networks.nafnet import NAFBlock
from emjax.networks.rdn import doublings
from emjax.networks.restormer import ChannelAttention
from emjax.networks.unet3d import activation_bytes


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Networks run once here: to compile them takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_restorers_start_from_the_picture():
    x = noise(1, 6, 6, 1)
    for name in ("dncnn", "nafnet", "rdn"):
        apply, params = made(name)
        silent = jax.tree.map(jnp.zeros_like, params)
        np.testing.assert_array_equal(apply(silent, x), x)
    apply, params = made("dncnn", residual=False)
    np.testing.assert_array_equal(apply(jax.tree.map(jnp.zeros_like, params), x), 0 * x)


def test_magnified():
    assert result("rdn", (1, 5, 6, 1), factor=4).shape == (1, 20, 24, 1)
    assert result("rrdb", (1, 4, 5, 6, 1), factor=2, ndim=3).shape == (1, 8, 10, 12, 1)
    assert [doublings(n) for n in (1, 2, 8)] == [0, 1, 3]


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_unet_plus_plus_has_all_its_nodes_and_wires(levels):
    width = 4
    params = shapes("unet_plus_plus", widths=(width,) * levels)
    nodes = {
        (int(i), int(j)): node["first"]["kernel"].shape[2]
        for j, diagonal in params["nodes"].items()
        for i, node in diagonal.items()
    }
    assert len(nodes) == levels * (levels + 1) // 2
    assert all(i + j < levels for i, j in nodes)
    # node (i, j) sees j nodes of its level and one from below
    assert all(seen == (j + 1) * width for (_, j), seen in nodes.items() if j)
    assert nodes[0, 0] == 1
    assert len(params["leave"]) == levels - 1


def test_heads_of_unet_plus_plus():
    args = {"widths": (4, 4, 4), "outputs": 2}
    x = noise(1, 8, 8, 1)
    apply, params = made("unet_plus_plus", heads="stacked", **args)
    heads = apply(params, x)
    assert heads.shape == (1, 8, 8, 4)
    mean = made("unet_plus_plus", **args)[0](params, x)
    np.testing.assert_allclose(mean, (heads[..., :2] + heads[..., 2:]) / 2, atol=1e-6)
    last = made("unet_plus_plus", heads="last", **args)[0](params, x)
    np.testing.assert_allclose(last, heads[..., 2:], atol=1e-6)
    pruned = made("unet_plus_plus", depth=1, **args)[0]
    np.testing.assert_allclose(pruned(params, x), heads[..., :2], atol=1e-6)
    gradient = jax.grad(lambda p: pruned(p, x).sum())(params)
    unused = [gradient["nodes"]["2"], gradient["nodes"]["1"]["1"], gradient["nodes"]["0"]["2"]]
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(unused)), "what is pruned is not run"


def test_the_memory_of_the_3d_unet_is_what_its_convolutions_give():
    def bytes_of(shape, params):
        kept = 0
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            part, level = path[0].key, path[1].key
            if path[-1].key == "kernel":
                level = 0 if part == "leave" else int(level)
                kept += 4 * leaf.shape[-1] * math.prod(n // 2**level for n in shape)
        return kept

    for widths, shape in (((8, 16, 32), (4, 8, 12)), ((4, 6), (6, 2, 4))):
        params = shapes("unet3d", widths=widths, outputs=2)
        assert activation_bytes(shape, widths, outputs=2) == bytes_of(shape, params)
    published = activation_bytes((64,) * 3, (64, 128, 256, 512), outputs=3)
    assert published / 2**30 == pytest.approx(0.46, abs=0.005)
    assert activation_bytes((32,) * 3) / 2**20 == pytest.approx(7.1, abs=0.05)


def test_volumes_of_a_batch_and_all_axes_alike():
    apply, params = made("unet3d", widths=(4, 6), normalise=False)
    x = noise(2, 4, 6, 8, 1)
    y = apply(params, x)
    np.testing.assert_allclose(apply(params, x[1:]), y[1:], atol=1e-5)
    # kernels turned with the volume give the turned result: no axis is special
    axes = (2, 0, 1)
    turned = jax.tree.map(lambda p: p.transpose(*axes, 3, 4) if p.ndim == 5 else p, params)
    moved = apply(turned, x.transpose(0, *(1 + a for a in axes), 4))
    np.testing.assert_allclose(moved, y.transpose(0, *(1 + a for a in axes), 4), atol=1e-5)


def test_the_long_connections_of_fusionnet_are_summed():
    params = shapes("fusionnet", widths=(4, 6, 8))
    seen = {i: block["enter"]["layer"]["kernel"].shape[2] for i, block in params["up"].items()}
    assert seen == {"0": 4, "1": 6}, "a concatenation would see twice as many channels"
    assert all(len(block["residual"]) == 3 for block in params["down"].values())


def test_mcnn_looks_through_several_windows_and_answers_at_every_level():
    args = {"widths": (6, 6, 12), "sizes": (3, 5, 7), "outputs": 2}
    block = shapes("mcnn", **args)["down"]["0"]
    assert [k["kernel"].shape for k in block["first"].values()] == [
        (size, size, 1, 2) for size in (3, 5, 7)
    ]
    apply, params = made("mcnn", coarse=True, **args)
    y = apply(params, noise(1, 9, 8, 1))
    assert y.shape == (1, 9, 8, 4)
    coarse = np.asarray(y[0, :8, :, 2:])
    np.testing.assert_array_equal(coarse[::2, ::2], coarse[1::2, 1::2])
    assert not np.allclose(y[0, :8:2, ::2, :2], y[0, 1:8:2, 1::2, :2])
    alone, fine = made("mcnn", **args)
    fine = {**params, "leave": {"0": params["leave"]["0"]}}
    np.testing.assert_allclose(alone(fine, noise(1, 9, 8, 1)), y[..., :2], atol=1e-6)


def test_mcnn_normalises_each_channel():
    """Not groups of channels: what one channel holds does not scale another."""
    block = Branches(
        2, 4, (3, 5), normalise=True, ndim=2, dtype=None, precision=None, rngs=nnx.Rngs(0)
    )
    loud = 3 + noise(1, 6, 6, 4) * jnp.array([1.0, 1.0, 30.0, 1.0]).reshape(1, 1, 1, 4)
    y = np.asarray(block.norms[0](loud))[0].reshape(36, 4)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(0), 1, atol=0.01)


def test_dncnn_reaches_as_far_as_it_is_deep():
    depth = 3
    apply, params = made("dncnn", depth=depth, width=8)
    x = noise(1, 15, 15, 1)
    seen = jax.grad(lambda x: apply(params, x)[0, 7, 7, 0])(x)[0, ..., 0]
    y, column = np.nonzero(np.asarray(seen))
    assert max(abs(y - 7).max(), abs(column - 7).max()) == depth


def test_dense_blocks_see_all_before_them():
    params = shapes("rdn", width=8, growth=4, layers=3, blocks=2)
    layers = params["blocks"]["0"]["layers"]
    assert [layers[str(i)]["kernel"].shape[2] for i in range(3)] == [8, 12, 16]
    assert params["blocks"]["0"]["fuse"]["kernel"].shape == (1, 1, 20, 8)
    assert params["gather"]["kernel"].shape == (1, 1, 16, 8), "of all blocks' results"
    inner = shapes("rrdb", width=8, growth=4, blocks=1)["blocks"]["0"]["blocks"]
    assert len(inner) == 3, "three dense blocks within a residual"


def test_blocks_of_nafnet_start_as_nothing_and_have_no_activation():
    block = NAFBlock(4, ndim=2, dtype=None, precision=None, rngs=nnx.Rngs(jax.random.key(0)))
    assert not np.any(block.beta[...])
    assert not np.any(block.gamma[...])
    x = noise(1, 6, 6, 4)
    np.testing.assert_array_equal(jax.jit(lambda x: block(x))(x), x)
    apply, params = made("nafnet", width=4, encoder=(1,), decoder=(1,))
    x = noise(1, 6, 6, 1)
    # without the branches it is linear but for its offsets, which start at 0
    np.testing.assert_allclose(apply(params, 3 * x), 3 * apply(params, x), atol=1e-5)
    names = str(jax.make_jaxpr(apply)(params, x))
    assert not any(word in names for word in (" max ", "tanh", "logistic", "erf"))


@pytest.mark.parametrize(("attention", "same"), [(True, False), (False, True)])
def test_tiles_of_nafnet_need_attention_off(attention, same):
    args = {"width": 4, "encoder": (1,), "decoder": (1,), "attention": attention}
    apply, params = made("nafnet", **args)
    params = jax.tree.map(lambda p: p + 0.2, params)  # branches that do something
    x = noise(1, 32, 8, 1)
    whole, tile = apply(params, x), apply(params, x[:, :20])
    difference = np.abs(whole[:, :8] - tile[:, :8]).max() / np.abs(whole).max()
    assert (difference < 1e-6) == same


def test_attention_of_restormer_is_between_channels():
    how = {"ndim": 2, "dtype": None, "precision": None, "rngs": nnx.Rngs(jax.random.key(0))}
    layer = ChannelAttention(6, 2, **how)
    delta = np.zeros((3, 3, 1, 18), np.float32)
    delta[1, 1] = 1.0
    layer.look.kernel[...] = jnp.asarray(delta)  # without it, places do not matter
    x = noise(1, 4, 5, 6)
    order = np.random.default_rng(2).permutation(20)
    shuffled = x.reshape(1, 20, 6)[:, order].reshape(x.shape)
    run = jax.jit(lambda x: layer(x))
    expected = run(x).reshape(1, 20, 6)[:, order].reshape(x.shape)
    np.testing.assert_allclose(run(shuffled), expected, atol=1e-5)
    # by hand: per head softmax of cosines of channels
    mixed = np.asarray(x.reshape(20, 6) @ layer.mix.kernel[0, 0])
    q, k, v = np.split(mixed, 3, axis=1)
    parts = []
    for head in (slice(0, 3), slice(3, 6)):
        a, b = (m[:, head] / np.sqrt((m[:, head] ** 2).sum(0) + 1e-3) for m in (q, k))
        weights = np.exp(a.T @ b)
        parts.append(v[:, head] @ (weights / weights.sum(1, keepdims=True)).T)
    by_hand = np.concatenate(parts, axis=1) @ np.asarray(layer.leave.kernel[0, 0])
    np.testing.assert_allclose(run(x).reshape(20, 6), by_hand, atol=1e-5)


def test_ptychonn_has_two_heads_on_one_encoder():
    apply, params = made("ptychonn", widths=(4,), outputs=4)
    x = noise(1, 8, 8, 1)

    def heads(params):
        y = apply(params, 100 * x)
        return y[..., :2].sum(), y[..., 2:].sum()

    amplitude, phase = jax.jit(jax.jacrev(heads))(params)
    changes = {
        (head, name): any(np.any(leaf) for leaf in jax.tree.leaves(gradient[name]))
        for head, gradient in (("amplitude", amplitude), ("phase", phase))
        for name in ("encoder", "amplitude", "phase")
    }
    separate = {("amplitude", "phase"), ("phase", "amplitude")}
    assert {pair for pair, changed in changes.items() if not changed} == separate
    loud = jax.tree.map(lambda p: 3 * p, params)
    y = apply(loud, 100 * x)
    assert np.abs(y[..., 2:]).max() <= math.pi + 1e-6
    assert np.abs(y[..., :2]).max() > 10
    bounded = made("ptychonn", widths=(4,), outputs=4, amplitude="sigmoid")[0](loud, 100 * x)
    assert bounded[..., :2].min() >= 0
    assert bounded[..., :2].max() <= 1


def test_half_precision_is_near_and_returns_single():
    for name, args in (("unet", {"widths": (4,)}), ("dncnn", {"depth": 2})):
        apply, params = made(name, **args)
        half, _ = made(name, dtype=jnp.bfloat16, **args)
        x = noise(1, 8, 8, 1)
        full, rough = apply(params, x), half(params, x)
        assert rough.dtype == jnp.float32
        assert 0 < np.abs(full - rough).max() < 0.05 * np.abs(full).max(), name


def test_the_unet_takes_volumes():
    apply, params = made("unet", ndim=3, widths=(4, 6), stem=2)
    assert params["enter"]["kernel"].shape == (3, 3, 3, 8, 4)
    y = apply(params, noise(1, 5, 6, 7, 1))
    assert y.shape == (1, 5, 6, 7, 1)
    assert np.isfinite(y).all()
