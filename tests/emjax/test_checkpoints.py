"""Checkpoints: exact, whole or absent, and refused with a reason."""

from __future__ import annotations

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emjax import checkpoints
from emjax.checkpoints import CheckpointError, load_checkpoint, save_checkpoint


def params(width=8):
    return {
        "encoder": {"kernel": jnp.linspace(-1, 1, 3 * width).reshape(3, width)},
        "head": {"kernel": jnp.full((width, 1), 1 / 3), "bias": jnp.zeros(1)},
    }


def same(a, b):
    if isinstance(a, jax.Array) and jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
        assert jax.random.key_impl(a) == jax.random.key_impl(b)
        a, b = jax.random.key_data(a), jax.random.key_data(b)
    assert type(a) is type(b)
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def test_every_kind_of_leaf_comes_back_exactly(tmp_path):
    tree = {
        "params": params(),
        "opt": optax.adam(1e-3).init(params()),
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(1, impl="rbg"), 3),
        "bfloat16": jnp.array([1.5, -2.0, jnp.nan], jnp.bfloat16),
        "complex": jnp.array([[1 + 2j]]),
        "bool": jnp.array([True, False]),
        "empty": jnp.zeros((0, 3)),
        "numpy": np.arange(6, dtype=np.float64).reshape(2, 3).T,  # not contiguous
        "numbers": [3, 0.1, True, None, np.float64(2.5)],
        "a/b": {"": jnp.float32(1), ".": jnp.int32(2), "%2F": jnp.int8(3)},
        "a": {"b": jnp.float32(4)},
    }
    path = tmp_path / "checkpoint.h5"
    save_checkpoint(path, tree, meta={"step": np.int32(3), "names": ("x", "y")})
    loaded, meta = load_checkpoint(path, jax.tree.map(lambda x: x, tree))
    jax.tree.map(same, tree, loaded)
    assert meta == {"step": 3, "names": ["x", "y"]}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.h5"]
    with h5py.File(path) as file:  # legible in any viewer
        assert file["leaves/params/head/kernel"].shape == (8, 1)


def test_an_abstract_tree_is_enough_to_load(tmp_path):
    save_checkpoint(tmp_path / "c.h5", params(), meta={})
    like = jax.eval_shape(params)
    jax.tree.map(same, params(), load_checkpoint(tmp_path / "c.h5", like)[0])


def test_a_committed_array_comes_back_where_it_was(tmp_path):
    device = jax.devices()[0]
    tree = {"w": jax.device_put(jnp.ones(3), device)}
    save_checkpoint(tmp_path / "c.h5", tree, meta={})
    assert load_checkpoint(tmp_path / "c.h5", tree)[0]["w"].committed
    assert not load_checkpoint(tmp_path / "c.h5", {"w": jnp.ones(3)})[0]["w"].committed


def test_another_architecture_is_refused_by_leaf(tmp_path):
    path = tmp_path / "c.h5"
    save_checkpoint(path, params(), meta={})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, params(16))
    message = str(caught.value)
    assert "2 of its leaves do not fit" in message
    assert "encoder/kernel: float32[3,8] in the file, float32[3,16] expected" in message
    assert "head/bias" not in message
    assert "Use the settings that it was saved with" in message

    other = {"encoder": params()["encoder"], "heads": params()["head"]}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, other)
    message = str(caught.value)
    assert "missing: heads/kernel (there is head/kernel)" in message
    assert "not expected: head/bias" in message

    many = {f"layer{i}": jnp.zeros(1) for i in range(9)}
    with pytest.raises(CheckpointError, match="… and 7 more"):
        load_checkpoint(path, many)
    wider = jax.tree.map(lambda x: np.asarray(x, np.float64), params())
    with pytest.raises(CheckpointError, match=r"float32\[1\] in the file, float64\[1\] expected"):
        load_checkpoint(path, wider)


def test_another_schema_is_refused_with_the_version_that_wrote_it(tmp_path):
    path = tmp_path / "c.h5"
    save_checkpoint(path, params(), meta={})
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = 99
        file.attrs["emjax"] = "9.9.0"
    with pytest.raises(CheckpointError, match=r"schema 99, written by emjax 9.9.0; this emjax"):
        load_checkpoint(path, params())


def test_what_is_not_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "none.h5", params())
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(CheckpointError, match="is not an HDF5 file"):
        load_checkpoint(tmp_path / "text.h5", params())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = [1, 2]
    with pytest.raises(CheckpointError, match="an HDF5 file of another program"):
        load_checkpoint(tmp_path / "other.h5", params())


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "c.h5"
    save_checkpoint(path, {"w": jnp.ones((64, 64))}, meta={})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(CheckpointError, match="is truncated or damaged"):
        load_checkpoint(path, {"w": jnp.ones((64, 64))})


def test_a_flipped_bit_is_found(tmp_path):
    path = tmp_path / "c.h5"
    save_checkpoint(path, params(), meta={})
    with h5py.File(path, "r+") as file:
        file["leaves/head/kernel"][0, 0] += 1e-6
    with pytest.raises(CheckpointError, match="the checksum of head/kernel is wrong"):
        load_checkpoint(path, params())


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c.h5"
    save_checkpoint(path, params(), meta={"step": 1})
    with pytest.raises(TypeError, match="leaf name is a str, not an array or a number"):
        save_checkpoint(path, {"w": jnp.ones(3), "name": "unet"}, meta={})

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints, "write_leaves", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, params(), meta={"step": 2})
    assert load_checkpoint(path, params())[1] == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["c.h5"]
