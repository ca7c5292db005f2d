"""Model files: found by name, verified at load, refused with a reason."""

from __future__ import annotations

import subprocess
import sys
import types

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emjax
from emjax import models
from emjax.h5_files import CheckpointError
from emjax.models import describe_model, fingerprint, load_model, save_model, shipped_models

EXAMPLE = np.random.default_rng(0).normal(size=(1, 8, 8, 2)).astype(np.float32)


def tiny(key, *, width=4, classes=2):
    """A network: two dense layers on each pixel."""
    one, two = jax.random.split(key)
    params = {
        "first": {"kernel": jax.random.normal(one, (2, width)), "bias": jnp.zeros(width)},
        "last": {"kernel": jax.random.normal(two, (width, classes)) / width},
    }
    return apply, params


def apply(params, x):
    first = params["first"]
    y = jnp.tanh(x @ first["kernel"] + first["bias"].reshape(1, 1, 1, -1))
    return y @ params["last"]["kernel"]


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """`emjax.networks` with the tiny network alone."""

    def build(name, key, **args):
        return fake.NETWORKS[name](key, **args)

    fake = types.ModuleType("emjax.networks")
    fake.NETWORKS, fake.build = {"tiny": tiny}, build
    fake.pure = lambda module: (lambda p, x: x @ p["w"], {"w": module.w[...]})
    monkeypatch.setitem(sys.modules, "emjax.networks", fake)
    monkeypatch.setattr(emjax, "networks", fake, raising=False)
    return fake


@pytest.fixture
def model_file(tmp_path):
    return save(tmp_path / "model.h5")


def save(path, network="tiny", params=None, **kwargs):
    params = tiny(jax.random.key(5))[1] if params is None else params
    save_model(
        path,
        network=network,
        network_args={"width": 4},
        params=params,
        meta={"classes": ("C", "Si"), "sampling": np.float32(0.125)},
        example=EXAMPLE,
        **kwargs,
    )
    return path


def test_a_model_gives_what_it_gave(model_file, tmp_path):
    model = load_model(model_file)
    params = tiny(jax.random.key(5))[1]
    jax.tree.map(np.testing.assert_array_equal, model.params, params)
    x = np.random.default_rng(1).normal(size=(3, 5, 4, 2)).astype(np.float32)
    np.testing.assert_allclose(model.apply(model.params, x), apply(params, x), rtol=1e-5)
    assert model.meta["classes"] == ["C", "Si"]
    assert model.meta["sampling"] == 0.125
    assert model.meta["network"] == "tiny"
    assert model.meta["network_args"] == {"width": 4}
    assert model.meta["emjax"] == emjax.__version__
    assert describe_model(model_file) == model.meta
    assert [file.name for file in tmp_path.iterdir()] == ["model.h5"]


def test_half_precision_storage(tmp_path):
    model = load_model(save(tmp_path / "half.h5", dtype="float16"))
    kernel = model.params["first"]["kernel"]
    assert kernel.dtype == jnp.float32
    full = tiny(jax.random.key(5))[1]["first"]["kernel"]
    np.testing.assert_array_equal(kernel, full.astype(jnp.float16).astype(jnp.float32))
    with h5py.File(tmp_path / "half.h5") as file:
        assert file["params/first/kernel"].dtype == np.float16


def test_a_changed_result_is_refused(model_file, registry):
    def other(key, **args):
        return (lambda p, x: 1.01 * apply(p, x)), tiny(key, **args)[1]

    registry.NETWORKS["tiny"] = other
    with pytest.raises(CheckpointError) as caught:
        load_model(model_file)
    message = str(caught.value)
    assert "does not reproduce its stored output" in message
    assert "differs by 0.01 of the largest value (0.001 is allowed)" in message
    assert f"written by emjax {emjax.__version__} with jax {jax.__version__}" in message
    assert "train again" in message

    registry.NETWORKS["tiny"] = lambda key, **a: (
        lambda p, x: jnp.nan * apply(p, x),
        tiny(key, **a)[1],
    )
    with pytest.raises(CheckpointError, match="differs by nan"):
        load_model(model_file)
    registry.NETWORKS["tiny"] = lambda key, **a: (
        lambda p, x: apply(p, x)[:, ::2],
        tiny(key, **a)[1],
    )
    with pytest.raises(CheckpointError, match=r"\(1, 8, 8, 2\) .* it is \(1, 4, 8, 2\)"):
        load_model(model_file)


def test_another_architecture_is_refused(model_file, registry):
    registry.NETWORKS["tiny"] = lambda key, **a: (apply, tiny(key, width=6)[1])
    with pytest.raises(CheckpointError) as caught:
        load_model(model_file)
    assert "first/kernel has shape (2, 4), not (2, 6)" in str(caught.value)
    assert "does not fit tiny of this emjax" in str(caught.value)
    registry.NETWORKS["tiny"] = lambda key: (apply, tiny(key)[1])
    with pytest.raises(CheckpointError, match=r"cannot be built here: .*unexpected keyword.*width"):
        load_model(model_file)
    del registry.NETWORKS["tiny"]
    with pytest.raises(CheckpointError, match="needs the network tiny with"):
        load_model(model_file)


def test_damaged_and_foreign_files_are_refused(model_file, tmp_path):
    data = model_file.read_bytes()
    model_file.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_model(model_file)
    model_file.write_text("not a model")
    with pytest.raises(CheckpointError, match="is not an HDF5 file, so not a model of emjax"):
        load_model(model_file)
    save(model_file)
    with h5py.File(model_file, "r+") as file:
        file.attrs["schema"] = 7
    with pytest.raises(CheckpointError, match="has model schema 7, written by emjax"):
        load_model(model_file)
    save(model_file)
    with h5py.File(model_file, "r+") as file:
        del file["example"]
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(model_file)


def test_a_checkpoint_is_not_a_model(tmp_path):
    from emjax.checkpoints import save_checkpoint

    save_checkpoint(tmp_path / "checkpoint.h5", {"a": jnp.ones(2)}, meta={})
    with pytest.raises(CheckpointError, match="not an emjax-model file but an emjax-checkpoint"):
        load_model(tmp_path / "checkpoint.h5")


def test_where_models_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shelf = tmp_path / "weights"
    shelf.mkdir()
    monkeypatch.setattr(models, "WEIGHTS", shelf)
    save(shelf / "locate_atoms.h5")
    (tmp_path / "runs" / "night").mkdir(parents=True)
    save(tmp_path / "runs" / "night" / "model.h5")
    assert list(shipped_models()) == ["locate_atoms"]
    assert load_model("locate_atoms").meta["path"] == str(shelf / "locate_atoms.h5")
    assert load_model("runs/night").meta["path"] == "runs/night/model.h5"
    assert load_model("night").meta["path"] == "runs/night/model.h5"
    with pytest.raises(CheckpointError, match=r"'locate_atom': .* Did you mean: locate_atoms"):
        load_model("locate_atom")
    with pytest.raises(CheckpointError, match="There are: locate_atoms, runs/night"):
        load_model("xyz")
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "config.json").write_text("{}")
    for name in ("half", "runs/half"):
        with pytest.raises(CheckpointError, match="its training did not end"):
            load_model(name)
    (tmp_path / "data").mkdir()
    with pytest.raises(CheckpointError, match="is not a run"):
        load_model("data")


def test_a_network_in_a_users_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp\n"
        "def Mine(key, *, width):\n"
        "    return (lambda p, x: x @ p['w']), {'w': jnp.ones((2, width))}\n"
    )
    path = save(tmp_path / "model.h5", network="mine.py:Mine", params={"w": 3 * np.ones((2, 4))})
    np.testing.assert_allclose(load_model(path).params["w"], 3.0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    load_model(path)  # the file lies beside the model
    (tmp_path / "mine.py").rename(tmp_path / "yours.py")
    with pytest.raises(CheckpointError, match=r"there is no file mine\.py"):
        load_model(path)


def test_a_module_in_a_users_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from flax import nnx\n"
        "class Mine(nnx.Module):\n"
        "    def __init__(self, width, *, rngs):\n"
        "        self.w = nnx.Param(nnx.initializers.normal()(rngs.params(), (2, width)))\n"
    )
    path = save(tmp_path / "model.h5", network=f"{file}:Mine", params={"w": np.ones((2, 4))})
    np.testing.assert_allclose(load_model(path).params["w"], 1.0)


def test_what_cannot_be_saved(tmp_path):
    path = tmp_path / "model.h5"
    with pytest.raises(ValueError, match=r"not those of tiny .* first/kernel has shape \(2, 9\)"):
        save(path, params=tiny(jax.random.key(0), width=9)[1])
    bad = jax.tree.map(lambda p: p * jnp.nan, tiny(jax.random.key(0))[1])
    with pytest.raises(ValueError, match="not finite; it was not saved"):
        save(path, params=bad)
    with pytest.raises(ValueError, match="choose float32 or float16"):
        save(path, dtype="int8")
    monkey = EXAMPLE[0, 0, 0]
    with pytest.raises(ValueError, match=r"example must be finite and \[b, .z,. y, x, c\]"):
        save_model(path, network="tiny", network_args={}, params={}, meta={}, example=monkey)
    assert not list(tmp_path.iterdir())


def test_the_fingerprint_is_of_paths_and_shapes():
    params = tiny(jax.random.key(0))[1]
    half = jax.tree.map(lambda p: (2 * p).astype(jnp.float16), params)
    assert fingerprint(params) == fingerprint(half)
    assert fingerprint(params) != fingerprint(tiny(jax.random.key(0), width=5)[1])
    assert fingerprint(params) != fingerprint({"body": params})


def test_listing_models_imports_no_jax():
    code = "import sys, emjax.models as m; m.shipped_models(); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
