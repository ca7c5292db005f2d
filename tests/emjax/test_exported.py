"""Networks as programs: they run without their code, and refuse what they are not made for."""

from __future__ import annotations

from types import SimpleNamespace

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from emjax import exported
from emjax.exported import export_model, load_exported
from emjax.h5_files import CheckpointError
from emjax.inference import InferenceError, Tiling, predict

pytest.importorskip("flatbuffers", reason="exported networks need it: pip install flatbuffers")


def network(scale=1.5):
    """Halves, doubles and adds: sizes must be even."""

    def apply(params, x):
        b, y, x_, c = x.shape
        small = x.reshape(b, y // 2, 2, x_ // 2, 2, c).mean((2, 4))
        large = jnp.repeat(jnp.repeat(small, 2, 1), 2, 2)
        weight, bias = (leaf.reshape(1, 1, 1, 3) for leaf in (params["a"]["w"], params["b"]))
        return weight * (x - large) + bias

    params = {"a": {"w": np.full(3, scale, np.float32)}, "b": np.arange(3, dtype=np.float16)}
    return SimpleNamespace(apply=apply, params=params, meta={"classes": ["Si", "C"]})


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "net.emx"
    export_model(file, network(), noise(1, 16, 12, 3), any_size=2, meta={"sampling": 0.1})
    return file


def test_a_program_gives_what_the_network_gives(path):
    model = load_exported(path)
    assert model.meta["classes"] == ["Si", "C"]
    assert model.meta["sampling"] == 0.1
    assert model.meta["input"] == ["b", "2*y", "2*x", 3]
    assert model.meta["channels"] == 3
    assert model.meta["platforms"] == ["cpu", "cuda", "rocm", "tpu"]
    for shape in ((1, 16, 12, 3), (5, 8, 30, 3)):
        x = noise(*shape)
        wanted = network().apply(network().params, x)
        np.testing.assert_allclose(model.apply(model.params, x), wanted, atol=1e-6)


def test_predict_pads_and_tiles_to_what_the_program_takes(path, tmp_path):
    model, image = load_exported(path), noise(2, 31, 45, 3)
    found = predict(model, image)
    assert found.shape == image.shape
    padded = np.pad(image, [(0, 0), (0, 1), (0, 1), (0, 0)], mode="edge")
    wanted = network().apply(network().params, padded)[:, :31, :45]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    export_model(tmp_path / "fixed.emx", network(), noise(1, 16, 16, 3))
    fixed = load_exported(tmp_path / "fixed.emx")
    tiling = Tiling(halo=2, blend=4)
    even = predict(fixed, noise(16, 16, 3), axes="yxc", tiling=tiling)
    wanted = network().apply(network().params, noise(1, 16, 16, 3))[0]
    np.testing.assert_allclose(even, wanted, atol=1e-6)
    assert predict(fixed, noise(10, 45, 3), axes="yxc", tiling=tiling).shape == (10, 45, 3)
    with pytest.raises(InferenceError, match="images of 1 channel: it takes 3"):
        predict(fixed, noise(16, 16))


def test_images_of_other_sizes_are_refused(path, tmp_path):
    model = load_exported(path)
    for shape in ((1, 15, 12, 3), (1, 16, 12, 2), (16, 12, 3)):
        with pytest.raises(ValueError, match=r"takes images \[b, 2\*y, 2\*x, 3\], not"):
            model.apply(model.params, noise(*shape))


def test_a_unet_of_any_size(tmp_path):
    from emjax import networks

    apply, params = networks.build("unet", jax.random.key(0), inputs=1, outputs=2, widths=(4, 4))
    made = SimpleNamespace(apply=apply, params=params)
    export_model(tmp_path / "unet.emx", made, noise(1, 16, 16, 1), any_size=4)
    model = load_exported(tmp_path / "unet.emx")
    x = noise(2, 12, 20, 1)
    np.testing.assert_allclose(model.apply(model.params, x), apply(params, x), atol=1e-5)


def test_other_and_damaged_files_are_refused(path, tmp_path):
    from emjax.checkpoints import save_checkpoint

    with pytest.raises(CheckpointError, match=r"there is no exported .*nothing\.emx"):
        load_exported(tmp_path / "nothing.emx")
    (tmp_path / "text.emx").write_text("weights")
    with pytest.raises(CheckpointError, match="not an HDF5 file"):
        load_exported(tmp_path / "text.emx")
    save_checkpoint(tmp_path / "check.h5", {"a": np.zeros(2)}, meta={})
    with pytest.raises(CheckpointError, match="not an emjax-exported file but an emjax-checkpoint"):
        load_exported(tmp_path / "check.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(CheckpointError, match="an HDF5 file of another program"):
        load_exported(tmp_path / "other.h5")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_exported(path)


def change(path, **attributes):
    with h5py.File(path, "r+") as file:
        file.attrs.update(attributes)


def test_a_file_of_another_schema(path):
    change(path, schema=99, emjax="9.9")
    with pytest.raises(CheckpointError, match=r"schema 99, written by emjax 9\.9; .* schema 1"):
        load_exported(path)


def test_changed_weights_are_refused(path):
    with h5py.File(path, "r+") as file:
        file["params/0"][0] = 7
    with pytest.raises(CheckpointError, match="changed or damaged"):
        load_exported(path)


def test_another_output_is_refused(path):
    with h5py.File(path, "r+") as file:
        file["example/output"][...] = file["example/output"][...] * 1.01
    with pytest.raises(CheckpointError, match=r"does not reproduce its stored output: .* by 0.0"):
        load_exported(path)


def test_a_program_that_this_jax_cannot_read(path, monkeypatch):
    def refuse(*args):
        raise ValueError("The serialization version 99 is not supported")

    monkeypatch.setattr(export, "deserialize", refuse)
    change(path, jax="99.0")
    with pytest.raises(CheckpointError, match=r"version 99 .*Install jax 99.0, or export"):
        load_exported(path)


def test_a_program_for_other_devices(tmp_path):
    file = tmp_path / "gpu.emx"
    export_model(file, network(), noise(1, 4, 4, 3), platforms=("cpu", "cuda"))
    change(file, platforms='["cuda"]')
    with pytest.raises(CheckpointError, match="made for cuda, but jax runs on cpu here"):
        load_exported(file)


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        (noise(4, 4, 3), {}, "finite and"),
        (np.full((1, 4, 4, 3), np.nan), {}, "finite and"),
        (noise(1, 4, 5, 3), {"any_size": 2}, "must be a multiple of it"),
        (noise(1, 4, 4, 3), {"platforms": ("abacus",)}, "choose from cpu, cuda, rocm, tpu"),
        (noise(1, 5, 5, 3), {"any_size": 1}, "cannot be exported for images"),
    ],
)
def test_what_cannot_be_exported(tmp_path, example, options, message):
    with pytest.raises(ValueError, match=message):
        export_model(tmp_path / "x.emx", network(), example, **options)
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_not_finite_is_not_exported(tmp_path):
    with pytest.raises(ValueError, match="it was not exported"):
        export_model(tmp_path / "x.emx", network(np.inf), noise(1, 4, 4, 3))


def test_without_flatbuffers_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match="pip install flatbuffers"):
        exported.load_exported(tmp_path / "x.emx")
