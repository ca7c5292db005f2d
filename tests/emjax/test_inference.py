"""numpy in, numpy out: any axes and sizes, in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
import types
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from emjax.inference import InferenceError, Tiling, memory_of, predict

SMALL = Tiling(tile=64, halo=4, blend=16, batch=3)


def toy(function, channels=None):
    """A network without weights but one, which refuses other numbers of channels."""

    def apply(params, x):
        if channels is not None and x.shape[-1] != channels:
            raise ValueError(f"expected {channels} channels, got {x.shape[-1]}")
        return function(params["gain"] * x)

    return SimpleNamespace(apply=apply, params={"gain": np.float32(2)}, meta={})


DOUBLE = toy(lambda x: x, 1)
TWO = toy(lambda x: jnp.concatenate([x, -x], -1), 1)
CLASSES = toy(lambda x: jnp.stack([x.mean((1, 2, 3)), x.max((1, 2, 3)), x.min((1, 2, 3))], -1))


def noise(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((20, 31), None),
        ((100, 131), None),
        ((4, 20, 31), None),
        ((2, 70, 90), None),
        ((3, 2, 16, 17), "abyx"),
        ((2, 1, 2, 9, 8), "tabyx"),
        ((5, 20, 31, 1), None),
        ((20, 31, 1), "yxc"),
    ],
)
def test_every_kind_of_array_keeps_its_shape(shape, axes):
    array = noise(*shape)
    found = predict(DOUBLE, array, axes=axes, tiling=SMALL)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 2 * array, rtol=1e-5)


def test_channels_come_last():
    array = noise(3, 2, 16, 17)
    found = predict(TWO, array, axes="abyx")
    assert found.shape == (3, 2, 16, 17, 2)
    np.testing.assert_allclose(found[..., 1], -2 * array, rtol=1e-6)
    assert predict(TWO, noise(100, 90), tiling=SMALL).shape == (100, 90, 2)


def test_volumes_go_through_three_dimensional_networks():
    shapes = []

    def look(x):
        shapes.append(x.shape)
        return x

    found = predict(toy(look, 1), noise(2, 5, 8, 9), axes="nzyx")
    assert found.shape == (2, 5, 8, 9)
    assert shapes[-1] == (2, 5, 8, 9, 1)


def test_a_classifier_sees_whole_pictures():
    array = noise(3, 2, 100, 90)
    found = predict(CLASSES, array, axes="abyx", tiling=SMALL)
    assert found.shape == (3, 2, 3)
    np.testing.assert_allclose(found[..., 1], 2 * array.max((2, 3)), rtol=1e-6)


def test_numbers_of_any_kind_are_taken():
    array = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30)
    np.testing.assert_array_equal(predict(DOUBLE, array), 2 * array)
    np.testing.assert_array_equal(predict(DOUBLE, array.tolist()), 2 * array)
    np.testing.assert_array_equal(predict(DOUBLE, array.astype(">i4").T), 2 * array.T)


def test_one_compilation_for_a_series():
    shapes = []

    def look(x):
        shapes.append(x.shape)
        return x

    model, steps = toy(look, 1), []
    predict(model, noise(7, 20, 30), tiling=SMALL, progress=lambda *a: steps.append(a))
    predict(model, noise(5, 20, 30), tiling=SMALL)
    traced = [shape for shape in shapes if shape[0] != 1]  # the check of the channels has one
    assert traced == [(3, 20, 30, 1)]
    assert steps == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize("size", [(470, 470), (300, 200)])
def test_the_default_tiles_give_the_result_of_the_whole_up_to_the_edges(size):
    """Also where the picture ends between two strides of the network."""
    import jax

    from emjax import networks

    unet, params = networks.build("unet", jax.random.key(1), inputs=1, outputs=1, widths=(4, 6))
    params = jax.tree.map(lambda w: w + 0.1 * jnp.sin(jnp.arange(w.size).reshape(w.shape)), params)
    shapes = []

    def apply(params, x):
        shapes.append(x.shape)
        return unet(params, x)

    image, model = noise(*size), SimpleNamespace(apply=apply, params=params)
    whole = predict(model, image, tiling=Tiling(tile=512))
    shapes.clear()
    found = predict(model, image)
    error = np.abs(found - whole).max() / np.ptp(whole)
    print(f"{size}: {error:.2g} of the range")
    assert error < 5e-4
    assert len({shape for shape in shapes if shape[0] != 1}) == 1, "compiled once"


def test_networks_of_one_size():
    """What does not fit is named: the size, not the channels."""

    def fixed(*wanted, result):
        def apply(params, x):
            if x.shape[1:] != wanted:
                raise ValueError(f"takes {wanted}")
            return result(x)

        return SimpleNamespace(apply=apply, params={})

    classes = fixed(80, 90, 1, result=lambda x: x.mean((1, 2)))
    assert predict(classes, noise(3, 80, 90), tiling=SMALL).shape == (3, 1)
    with pytest.raises(InferenceError, match=r"images \[70, 90, 1\]: takes \(80, 90, 1\)") as info:
        predict(classes, noise(70, 90))
    assert "channels" not in str(info.value)
    small = predict(classes, noise(40, 45), prepare=lambda p: np.resize(p, (80, 90, 1)))
    assert small.shape == (1,)
    tiles, image = fixed(64, 64, 1, result=lambda x: x), noise(75, 101)
    np.testing.assert_allclose(predict(tiles, image, tiling=SMALL), image, atol=1e-6)


def test_pictures_are_prepared():
    found = predict(
        toy(lambda x: x[..., :1] - x[..., 1:], 2),
        noise(4, 20, 30),
        prepare=lambda picture: np.concatenate([picture, 3 * picture], -1),
    )
    np.testing.assert_allclose(found, -4 * noise(4, 20, 30), rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "axes", "message"),
    [
        (np.zeros((8, 8, 2)), "yxc", r"images of 2 channels: expected 1 channels, got 2"),
        (np.zeros((2, 2, 8, 8, 1, 1)), None, "name its axes"),
        (np.zeros((8, 8)), "xy", r"axes 'xy' of an array \(8, 8\)"),
        (np.zeros((8, 8)), "nyx", "one letter each"),
        (np.zeros((8, 8, 8)), "yxn", "those that count pictures first"),
        (np.zeros((8, 8, 8, 8)), "nnyx", "one letter each"),
        (np.zeros(8), None, "name its axes"),
        (np.zeros((0, 8, 8)), None, r"\(0, 8, 8\) is empty"),
        (np.zeros((8, 8), complex), None, "real numbers are needed"),
    ],
)
def test_arrays_that_do_not_fit(array, axes, message):
    with pytest.raises(InferenceError, match=message):
        predict(DOUBLE, array, axes=axes)


def test_values_that_are_not_finite_are_placed():
    array = noise(3, 2, 16, 17)
    array[2, 1, 5, 6] = np.nan
    with pytest.raises(InferenceError, match=r"not finite at \[2, 1\] \(first at pixel \[5, 6\]"):
        predict(DOUBLE, array, axes="abyx")
    bad = toy(lambda x: jnp.where(x > 1e3, jnp.inf, x), 1)
    with pytest.raises(InferenceError, match=r"result is not finite at \[1\]"):
        predict(bad, np.stack([np.ones((8, 8)), np.full((8, 8), 1e4)]))


def test_a_large_image_in_bounded_memory():
    """4096 x 4096 pixels: the result, and no more than some tiles besides."""
    image = np.broadcast_to(np.float32(1), (4096, 4096))
    tiling = Tiling(tile=512, halo=32, blend=64, batch=2)
    predict(DOUBLE, noise(512, 512), tiling=tiling)  # compiled outside of the measurement
    tracemalloc.start()
    found = predict(DOUBLE, image, tiling=tiling)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (4096, 4096)
    np.testing.assert_allclose(found[::97, ::89], 2, rtol=1e-6)
    print(f"{peak / 2**20:.0f} MiB, of which the result {found.nbytes / 2**20:.0f}")
    assert peak < 1.2 * memory_of((4096, 4096), 1, tiling)
    assert peak < found.nbytes + 20 * 2**20


PEAK = """
import re
import jax, numpy as np
from types import SimpleNamespace
from emjax.inference import Tiling, predict

def apply(params, x):
    for w in params:
        x = jax.nn.relu(jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
    return x[..., :1]

def peak():
    text = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", text)[1]) / 1024

params = [np.full((3, 3, 1 if i == 0 else 24, 24), 0.01, np.float32) for i in range(3)]
model = SimpleNamespace(apply=apply, params=params)
small = Tiling(tile=128, halo=8, blend=32, batch=2)
predict(model, np.ones((200, 200), np.float32), tiling=small)
image = np.ones((1024, 1024), np.float32)
start = peak()
predict(model, image, tiling=small)
tiled = peak()
predict(model, image, tiling=Tiling(tile=1024))
print(start, tiled, peak())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux tells the peak")
def test_the_memory_of_the_process_grows_by_the_result_alone():
    """Everything that is held, XLA's buffers too; the same image in one tile shows it is seen."""
    command = [sys.executable, "-c", PEAK]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    start, tiled, whole = map(float, done.stdout.split())
    print(f"{start:.0f} MiB before, {tiled - start:.0f} more in tiles, {whole - start:.0f} as one")
    result = 4 * 1024**2 / 2**20
    assert tiled - start < result + 32
    assert whole - start > result + 96, "one layer of the whole has 96 MiB"


def test_no_seams_of_a_network_that_looks_at_its_whole_tile():
    """A U-Net with an offset that each tile has of its own: no border is seen in the result."""
    import jax

    from emjax import networks

    unet, params = networks.build("unet", jax.random.key(0), inputs=1, outputs=1, widths=(4, 8))

    def apply(params, x):
        return unet(params, x) - unet(params, x).mean((1, 2), keepdims=True)

    y, x = np.mgrid[:330, :300] / 40
    image = np.sin(6 * y) * np.cos(7 * x) + 0.2 * np.sin(y / 2)
    whole = predict(SimpleNamespace(apply=unet, params=params), image, tiling=Tiling(tile=512))

    def seam(blend):
        """Largest step between neighbouring pixels that the network did not make."""
        tiling = Tiling(tile=192, halo=16, blend=blend, align=4, batch=2)
        found = predict(SimpleNamespace(apply=apply, params=params), image, tiling=tiling)
        steps = [np.abs(np.diff(found - whole, axis=axis))[8:-8, 8:-8].max() for axis in (0, 1)]
        return max(steps) / np.ptp(found)

    cut, faded = seam(0), seam(76)
    print(f"seams: {cut:.2g} of the range cut, {faded:.2g} faded")
    assert cut > 5e-3
    assert faded < 1e-3


def test_the_shape_of_a_libertem_udf(monkeypatch):
    """The part of LiberTEM's protocol that is used, played by hand."""
    from emjax import inference_libertem as lt

    class UDF:
        def __init__(self, **params):
            self.params = SimpleNamespace(**params)

        def buffer(self, **kind):
            return kind

    module = types.ModuleType("libertem.udf")
    module.UDF = UDF
    monkeypatch.setitem(sys.modules, "libertem", types.ModuleType("libertem"))
    monkeypatch.setitem(sys.modules, "libertem.udf", module)
    monkeypatch.setattr(lt, "load", lambda source: {"maps": TWO, "classes": CLASSES}[source])
    scan = noise(5, 6, 8, 9)
    for name, shape in (("maps", (8, 9, 2)), ("classes", (3,))):
        udf = lt.network_udf(name, batch=4)
        udf.meta = SimpleNamespace(dataset_shape=SimpleNamespace(sig=(8, 9)))
        assert udf.get_preferred_input_dtype() == np.float32
        assert udf.get_result_buffers()["result"] == {
            "kind": "nav",
            "dtype": "float32",
            "extra_shape": shape,
        }
        for part in (scan.reshape(-1, 8, 9)[:11], scan.reshape(-1, 8, 9)[11:]):
            udf.results = SimpleNamespace(result=np.zeros((len(part), *shape), np.float32))
            udf.process_partition(part)
            wanted = predict(TWO if name == "maps" else CLASSES, part)
            np.testing.assert_allclose(udf.results.result, wanted, rtol=1e-6)


def test_without_libertem_the_message_says_how_to_get_it(monkeypatch):
    from emjax.inference_libertem import network_udf

    monkeypatch.setitem(sys.modules, "libertem", None)
    monkeypatch.setitem(sys.modules, "libertem.udf", None)
    with pytest.raises(ImportError, match="pip install libertem"):
        network_udf("locate_atoms")


WARM = """
import sys, time
import jax, numpy as np
from types import SimpleNamespace
from emjax.inference import Tiling, predict, use_compilation_cache
use_compilation_cache(sys.argv[1])
def apply(params, x):
    for w in params:
        x = jax.nn.relu(jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
    return x[..., :1]
params = [np.full((3, 3, 1 if i == 0 else 8, 8), 0.1, np.float32) for i in range(6)]
model, image = SimpleNamespace(apply=apply, params=params), np.ones((96, 96), np.float32)
jax.device_get(jax.numpy.zeros(3))
hits = []
jax.monitoring.register_event_listener(lambda name, **k: hits.append(name))
start = time.perf_counter()
predict(model, image, tiling=Tiling(batch=1))
print(time.perf_counter() - start, sum("cache_hits" in name for name in hits))
"""


def test_the_second_process_finds_the_compiled_network(tmp_path):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", WARM, str(tmp_path)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        seconds, hits = done.stdout.split()
        found.append((float(seconds), int(hits)))
    print(f"first call: {found[0][0]:.2f} s, in the next process {found[1][0]:.2f} s")
    assert [hits for _, hits in found] == [0, 1]
