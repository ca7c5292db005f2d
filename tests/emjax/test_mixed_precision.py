"""bfloat16, batches in parts, intermediate results computed again: the same training for less."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax import sharding
from emjax.gradients import value_and_grad
from emjax.mixed_precision import convert, mixed
from emjax.networks import build
from emjax.training import init_state, make_step

TX = optax.sgd(0.1)
CONV = ("NHWC", "HWIO", "NHWC")


def init(key, width=4):
    keys = jax.random.split(key, 2)
    shapes = ((3, 3, 1, width), (3, 3, width, 1))
    return [
        {"w": jax.random.normal(k, s) / np.sqrt(9 * s[2]), "b": jnp.zeros((1, 1, 1, s[3]))}
        for k, s in zip(keys, shapes, strict=True)
    ]


def apply(p, x):
    first = x
    for i, layer in enumerate(p):
        x = jax.lax.conv_general_dilated(x, layer["w"], (1, 1), "SAME", dimension_numbers=CONV)
        x = x + layer["b"]
        x = jnp.tanh(x) if i < len(p) - 1 else x
    return first + x


def draw(key):
    a, b = jax.random.split(key)
    clean = jax.image.resize(jax.random.normal(a, (8, 3, 3, 1)), (8, 8, 8, 1), "linear")
    return {"x": clean + 0.5 * jax.random.normal(b, clean.shape), "y": clean}


def make_loss(apply):
    def loss(p, batch):
        error = apply(p, batch["x"]) - batch["y"]
        return jnp.mean(error**2), {"mae": jnp.mean(jnp.abs(error))}

    return loss


@pytest.fixture(autouse=True, scope="module")
def unoptimised() -> Iterator[None]:
    """Compilation takes most of the time here."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


LOSS = make_loss(apply)
HELD_OUT = draw(jax.random.key(99))

# ---------------------------------------------------------------- bfloat16


def test_weights_gradients_and_results_stay_float32():
    seen = []

    def watched(p, x):
        seen.append((p[0]["w"].dtype, x.dtype))
        return apply(p, x)

    params, tx = init(jax.random.key(0)), optax.adam(1e-2)
    half = mixed(watched)
    y = jax.jit(half)(params, HELD_OUT["x"])
    full = jax.jit(apply)(params, HELD_OUT["x"])
    assert y.dtype == jnp.float32
    assert seen == [(jnp.bfloat16, jnp.bfloat16)]
    difference = np.abs(y - full).max()
    assert 1e-4 < difference < 0.1, "8 bits of mantissa"
    grads = jax.eval_shape(jax.grad(lambda p: make_loss(half)(p, HELD_OUT)[0]), params)
    update = make_step(make_loss(half), draw, tx)._update
    args = init_state(params, tx), jax.random.key(1), (jax.tree_util.Partial(draw),)
    state, _ = jax.eval_shape(update, *args)
    for leaf in jax.tree.leaves((grads, state.params, state.ema, state.opt_state)):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    np.testing.assert_array_equal(jax.jit(mixed(apply, "float32"))(params, HELD_OUT["x"]), full)


def test_bfloat16_trains_as_well_as_float32_within_the_spread_of_seeds():
    tx = optax.adam(1e-2)
    ends = {}
    for name, network in (("float32", apply), ("bfloat16", mixed(apply))):
        step = make_step(make_loss(network), draw, tx)
        ends[name] = []
        for seed in range(3):
            state, _ = step(init_state(init(jax.random.key(seed)), tx), jax.random.key(seed), 100)
            ends[name].append(float(LOSS(state.ema, HELD_OUT)[0]))
    full, half = np.array(ends["float32"]), np.array(ends["bfloat16"])
    before = float(jnp.mean((HELD_OUT["x"] - HELD_OUT["y"]) ** 2))
    assert full.max() < 0.6 * before, "it has learnt to denoise"
    spread = full.std(ddof=1)
    assert abs(half.mean() - full.mean()) < 2 * spread, (full, half)


def test_the_network_s_own_dtype_does_the_same():
    args = {"inputs": 1, "outputs": 1, "widths": (4,), "stem": 1}
    plain, params = build("unet", jax.random.key(0), **args)
    x = HELD_OUT["x"][:1]
    half = jax.jit(mixed(plain))(params, x)
    difference = np.abs(half - jax.jit(plain)(params, x)).max()
    assert half.dtype == jnp.float32
    assert 0 < difference < 0.1 * np.abs(half).max()


def test_what_is_no_float_is_not_converted():
    tree = {"x": jnp.ones(2), "n": jnp.arange(2), "key": jax.random.key(0), "b": True}
    low = convert(tree, jnp.bfloat16)
    assert low["x"].dtype == jnp.bfloat16
    assert low["n"].dtype == jnp.int32
    assert low["key"] is tree["key"]
    assert low["b"] is True
    for wrong in ("float16", "int8"):
        with pytest.raises(ValueError, match="choose bfloat16 or float32"):
            mixed(apply, wrong)


# ---------------------------------------------------------------- accumulation, rematerialisation


def dense_draw(key):
    x = jax.random.normal(key, (8, 3))
    return {"x": x, "y": jnp.abs(x).sum(1)}


def dense(p, batch):
    error = jnp.tanh(batch["x"] @ p["a"]) @ p["b"] - batch["y"]
    return jnp.mean(error**2), {"mae": jnp.mean(jnp.abs(error))}


DENSE = {"a": jnp.eye(3), "b": jnp.ones(3)}


@pytest.mark.parametrize("loop", ["host", "scan"])
def test_a_batch_in_parts_gives_the_update_of_the_whole(loop):
    tx, key = optax.adam(1e-2), jax.random.key(3)
    whole, rows = make_step(dense, dense_draw, tx, loop=loop)(init_state(DENSE, tx), key, 5)
    step = make_step(dense, dense_draw, tx, loop=loop, accumulate=4)
    parts, other = step(init_state(DENSE, tx), key, 5)
    for name, value in whole.params.items():
        np.testing.assert_allclose(parts.params[name], value, atol=2e-6)
    for name in ("loss", "mae", "grad_norm"):
        np.testing.assert_allclose(other[name], rows[name], rtol=1e-5)


@pytest.mark.parametrize("unroll", [True, False])
def test_parts_of_labels_keys_and_weights(unroll):
    """What is as long as the batch is cut, all else goes to each part."""

    def loss(p, batch):
        assert batch["x"].shape == (2, 3)
        assert batch["label"].shape == batch["key"].shape == (2,)
        assert batch["weight"].shape == (5,)
        each = (batch["x"] @ p) * batch["label"] * batch["weight"].sum()
        return each.mean(), {}

    x = jnp.arange(18.0).reshape(6, 3)
    label = jnp.array([1.0, 0.0, 2.0, 1.0, 0.0, 3.0])
    keys = jax.random.split(jax.random.key(0), 6)
    batch = {"x": x, "label": label, "weight": jnp.ones(5), "key": keys}
    p = jnp.array([1.0, -1.0, 0.5])
    (value, _), grad = value_and_grad(loss, accumulate=3, unroll=unroll)(p, batch)
    np.testing.assert_allclose(value, np.mean((x @ p) * label * 5), rtol=1e-6)
    np.testing.assert_allclose(grad, np.mean(x * label[:, None] * 5, axis=0), rtol=1e-6)


@pytest.mark.parametrize("loop", ["host", "scan"])
def test_what_is_shared_is_not_cut_although_it_is_as_long_as_the_batch(loop):
    def loss(p, batch):
        assert batch["noise"]["table"].shape == (8,), "every image looks the table up"
        return dense(p, {"x": batch["x"], "y": batch["noise"]["table"][batch["kind"]]})

    def draw(key):
        x = jax.random.normal(key, (8, 3))
        return {"x": x, "kind": jnp.arange(8)[::-1], "noise": {"table": jnp.linspace(0, 1, 8)}}

    tx, key = optax.adam(1e-2), jax.random.key(3)
    whole, _ = make_step(loss, draw, tx, loop=loop)(init_state(DENSE, tx), key, 2)
    for names in (("noise/table",), "noise"):
        step = make_step(loss, draw, tx, loop=loop, accumulate=4, shared=names)
        parts, _ = step(init_state(DENSE, tx), key, 2)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), parts, whole)
    with pytest.raises(ValueError, match=r"shared='tables' names .* holds kind, noise/table, x"):
        make_step(loss, draw, tx, shared=["tables"])(init_state(DENSE, tx), key, 1)


def test_what_is_shared_does_not_count_for_the_size_of_the_batch_and_stays_whole():
    mesh = sharding.data_mesh(jax.devices()[:1])
    batch = {"x": np.zeros((4, 3)), "table": np.zeros((4, 2)), "a": np.zeros(6), "b": np.zeros(6)}
    assert sharding.batch_size(batch) == 6
    assert sharding.batch_size(batch, ["a", "b"]) == 4
    placed = sharding.place_batch(batch, mesh, ["table", "a", "b"])
    split = {name for name, leaf in placed.items() if leaf.sharding.spec}
    assert split == {"x"}


def test_batches_that_cannot_be_cut():
    step, state = make_step(dense, dense_draw, TX, accumulate=3), init_state(DENSE, TX)
    with pytest.raises(ValueError, match=r"batch of 8 cannot .* accumulate = 3 .* make it 6 or 9"):
        step(state, jax.random.key(0), 1)
    with pytest.raises(ValueError, match="accumulate 0 must be at least 1"):
        make_step(dense, dense_draw, TX, accumulate=0)


def test_what_is_computed_again_need_not_be_kept():
    """The way back holds the convolutions' results alone; each tanh appears twice."""
    params = init(jax.random.key(0), width=8)
    plain, again = value_and_grad(LOSS), value_and_grad(LOSS, remat=True)
    a, b = plain(params, HELD_OUT), jax.jit(again)(params, HELD_OUT)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), a, b)
    texts = [str(jax.make_jaxpr(f)(params, HELD_OUT)) for f in (plain, again)]
    assert texts[1].count("tanh") == 2 * texts[0].count("tanh")
    convolutions = [text.count("conv_general_dilated[") for text in texts]
    assert convolutions[0] == convolutions[1], "products are not computed twice"


@pytest.mark.parametrize("unroll", [True, False])
def test_parts_do_not_share_the_noise_of_one_key(unroll):
    """The mean of 32 numbers has a standard deviation of 1 / √32, in however many parts."""

    def loss(p, batch):
        return jnp.mean(p + jax.random.normal(batch["key"], batch["x"].shape)), {}

    def spread(accumulate):
        grad = value_and_grad(loss, accumulate=accumulate, unroll=unroll)
        one = lambda key: grad(0.0, {"x": jnp.zeros(32), "key": key})[0][0]  # noqa: E731
        return float(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 400)).std())

    for accumulate in (1, 8):
        assert spread(accumulate) == pytest.approx(32**-0.5, rel=0.15)
