"""A network of several frames: blind to the pixel in the middle one, and only there."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.networks.blind_spot import BlindSpotNet
from emjax.networks.blind_video import BlindVideoNet
from emjax.networks.pure import count, pure


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Networks run once here: to compile them takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def noise(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("shape", "ahead"), [((8, 8), 3), ((6, 9), 0)])
def test_only_the_middle_frame_has_a_blind_spot(shape, ahead):
    args = {"inputs": 3, "frames": 3, "width": 4, "levels": 1, "ahead": ahead}
    apply, params = pure(BlindVideoNet, jax.random.key(0), **args)
    jacobian = jax.jit(jax.jacrev(lambda x: apply(params, x).reshape(-1)))(noise(1, *shape, 3))
    size = shape[0] * shape[1]
    seen = np.abs(np.asarray(jacobian)).reshape(size, size, 3)
    own = np.diagonal(seen).T
    np.testing.assert_array_equal(own[:, 1], 0.0)
    # relu may hide one or another by accident
    assert (own[:, [0, 2]] > 0).mean() > 0.95
    y, x = np.indices(shape).reshape(2, -1)
    near = np.maximum(abs(y[:, None] - y), abs(x[:, None] - x)) == 1
    assert (seen[near] > 0).mean() > 0.95


def test_how_far_ahead_it_looks():
    args = {"inputs": 3, "frames": 3, "width": 6, "levels": 1, "directions": ("up",)}
    for ahead in (0, 2):
        apply, params = pure(BlindVideoNet, jax.random.key(0), ahead=ahead, **args)

        def row(x, apply=apply, params=params):
            return apply(params, x)[:, 6].sum()

        seen = np.abs(np.asarray(jax.jit(jax.grad(row))(noise(1, 12, 4, 3)))).sum((0, 2)) > 0
        assert np.flatnonzero(seen[:, 1]).max() == 5, "the middle frame: rows above"
        assert np.flatnonzero(seen[:, 0]).max() == np.flatnonzero(seen[:, 2]).max() == 6 + ahead


def test_of_a_single_frame_it_is_the_blind_spot_network():
    args = {"inputs": 1, "outputs": 2, "width": 3, "levels": 1}
    apply, params = pure(BlindVideoNet, jax.random.key(0), frames=1, **args)
    plain, same = pure(BlindSpotNet, jax.random.key(0), **args)
    jax.tree.map(np.testing.assert_array_equal, params, same)
    x = noise(1, 7, 6, 1)
    np.testing.assert_array_equal(apply(params, x), plain(params, x))


def test_frames_cost_weights_at_the_entrance_only():
    def size(**args):
        return count(jax.eval_shape(lambda: pure(BlindVideoNet, jax.random.key(0), **args)[1]))

    # two layers see the frames: the entering one, and the finest of the decoder
    assert size() - size(inputs=1, frames=1) == 4 * 9 * (12 + 24)
    assert size(ahead=9) == size()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"frames": 4, "inputs": 4}, "4 frames have no middle one"),
        ({"frames": 3, "inputs": 4}, "4 channels are not 3 frames"),
        ({"ahead": -1}, "number of rows, not -1"),
    ],
    ids=str,
)
def test_networks_that_cannot_be(args, sentence):
    with pytest.raises(ValueError, match=sentence):
        pure(BlindVideoNet, jax.random.key(0), **args)
