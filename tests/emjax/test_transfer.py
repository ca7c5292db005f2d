"""Weights in another network: what fits is taken, what is frozen stays, what files hold."""

from __future__ import annotations

import doctest

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax import transfer as module
from emjax.checkpoints import load_checkpoint, save_checkpoint
from emjax.h5_files import CheckpointError
from emjax.models import Model, save_model
from emjax.training_step import init_state
from emjax.transfer import freeze, load_weights, replace_head, select, transfer


def network(seed=0, classes=2, width=3):
    rng = np.random.default_rng(seed)

    def layer(a, b):
        return {
            "kernel": jnp.asarray(rng.normal(size=(a, b)), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=b), jnp.float32),
        }

    return {
        "encoder": {"0": layer(2, width), "1": layer(width, width)},
        "decoder": layer(width, width),
        "head": layer(width, classes),
    }


OLD, NEW = network(1), network(2, classes=5)


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_what_fits_is_taken_over():
    params, report = transfer(OLD, NEW)
    assert same(params["encoder"], OLD["encoder"])
    assert same(params["head"], NEW["head"])
    assert set(report.other_shape) == {"head/kernel", "head/bias"}
    assert len(report.copied) == 6
    assert "6 arrays of weights were taken over; 2 have another shape" in str(report)
    params, report = transfer(Model(print, OLD, {}), NEW, only=["encoder/1", "*/bias"])
    assert same(params["encoder"]["1"], OLD["encoder"]["1"])
    assert same(params["decoder"]["kernel"], NEW["decoder"]["kernel"])
    assert same(params["decoder"]["bias"], OLD["decoder"]["bias"])
    assert "decoder/kernel" in report.missing
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), NEW)
    assert transfer(OLD, half)[0]["decoder"]["bias"].dtype == jnp.bfloat16


def test_other_names():
    old = {"backbone": {"stem": OLD["encoder"]}, "encoder2": OLD["decoder"]}
    params, report = transfer(old, NEW, rename={"backbone/stem": "encoder"})
    assert same(params["encoder"], OLD["encoder"])
    assert set(report.unused) == {"encoder2/kernel", "encoder2/bias"}
    with pytest.raises(
        ValueError, match=r"no weight of the old network fits .*backbone/stem.*rename"
    ):
        transfer(old, NEW)


def test_patterns():
    assert select(OLD, "encoder/0") == ["encoder/0/bias", "encoder/0/kernel"]
    assert len(select(OLD, ["*/bias"])) == 4
    assert len(select(OLD, "encoder/[01]/")) == 4
    assert select(OLD, ["head", "decoder/bias"]) == ["decoder/bias", "head/bias", "head/kernel"]
    with pytest.raises(ValueError, match=r"'encodr'. Did you mean encoder"):
        select(OLD, "encodr")
    with pytest.raises(ValueError, match=r"'zzz'. There are: decoder, encoder, head"):
        select(OLD, ["head", "zzz"])


def test_a_new_head():
    params = replace_head(OLD, NEW, "head")
    assert same(params["head"], NEW["head"])
    for part in ("encoder", "decoder"):
        assert same(params[part], OLD[part])
    with pytest.raises(ValueError, match=r"6 arrays outside of the head head .* encoder/0|decoder"):
        replace_head(network(width=4), NEW | {"encoder": NEW["encoder"]}, "head")
    with pytest.raises(ValueError, match="everything lies in the head"):
        replace_head(OLD, NEW, "*")


def test_frozen_weights_stay_as_they_are(tmp_path):
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.5))
    frozen = freeze(tx, OLD, ["encoder", "decoder/bias"])
    state = init_state(OLD, frozen)
    grads = jax.tree.map(jnp.ones_like, OLD)
    update = jax.jit(frozen.update)
    params, opt_state = OLD, state.opt_state
    for _ in range(3):
        updates, opt_state = update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
    assert same(params["encoder"], OLD["encoder"])
    assert same(params["decoder"]["bias"], OLD["decoder"]["bias"])
    # the others move as if the frozen ones were not there: clipping, decay and all
    part = {"decoder": {"kernel": OLD["decoder"]["kernel"]}, "head": OLD["head"]}
    alone, alone_state = part, tx.init(part)
    for _ in range(3):
        updates, alone_state = tx.update(jax.tree.map(jnp.ones_like, part), alone_state, alone)
        alone = optax.apply_updates(alone, updates)
    np.testing.assert_allclose(params["head"]["kernel"], alone["head"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(params["decoder"]["kernel"], alone["decoder"]["kernel"], rtol=1e-6)
    moments = sum(x.size for x in jax.tree.leaves(opt_state) if x.ndim)
    assert moments == 2 * sum(x.size for x in jax.tree.leaves(part)), "no moments of frozen ones"
    save_checkpoint(tmp_path / "c.h5", state, meta={})
    assert same(load_checkpoint(tmp_path / "c.h5", state)[0], state)
    with pytest.raises(ValueError, match="nothing is left to train"):
        freeze(tx, OLD, "*")


def test_weights_of_files(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import jax.numpy as jnp\n"
        "def make(key, n=2):\n"
        "    return lambda p, x: x * p['a/b']['w'].sum(), {'a/b': {'w': jnp.arange(1.0, n + 1)}}\n"
    )
    path, weights = tmp_path / "model.h5", {"a/b": {"w": np.array([0.5, 0.25], np.float32)}}
    example = np.ones((1, 4, 4, 1), np.float32)
    save_model(
        path,
        network=f"{file}:make",
        network_args={},
        params=weights,
        meta={},
        example=example,
        dtype="float16",
    )
    file.unlink()  # the architecture is gone; its weights are not
    loaded = load_weights(path)
    assert loaded["a/b"]["w"].dtype == np.float32
    assert same(loaded, weights)
    assert same(transfer(path, {"a/b": {"w": jnp.zeros(2)}})[0], weights)

    checkpoint = tmp_path / "checkpoint.h5"
    state = init_state(OLD, optax.sgd(0.1))
    save_checkpoint(checkpoint, {"state": state, "key": jax.random.key(0)}, meta={})
    assert same(load_weights(checkpoint), OLD)
    save_checkpoint(checkpoint, {"other": jnp.zeros(1)}, meta={})
    with pytest.raises(CheckpointError, match="not of a training"):
        load_weights(checkpoint)


def test_files_that_are_none(tmp_path):
    with pytest.raises(CheckpointError, match="no trained network 'nothing'"):
        load_weights("nothing")
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(CheckpointError, match=r"foreign\.h5"):
        load_weights(foreign)
    text = tmp_path / "text.h5"
    text.write_text("no HDF5")
    with pytest.raises(CheckpointError, match=r"text\.h5"):
        load_weights(text)


def test_shipped_weights_are_found_by_name():
    weights = load_weights("locate_atoms")
    assert len(jax.tree.leaves(weights)) > 10
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(weights))


def test_examples():
    assert doctest.testmod(module).failed == 0
