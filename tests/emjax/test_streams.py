"""Real images in the training: which, from where, how they are mixed; what is wrong with them."""

from __future__ import annotations

import threading
import time

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tifffile

from emjax.data.streams import (
    Prefetch,
    StreamError,
    counts,
    crops,
    labelled,
    mix,
    open_images,
)


def picture(seed, shape=(20, 24)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """Three TIFFs, one of them a stack of two; and something that is not an image."""
    for number in (2, 0):
        tifffile.imwrite(tmp_path / f"frame{number}.tif", picture(number))
    stack = np.stack([picture(10), picture(11)])
    tifffile.imwrite(tmp_path / "stack.tif", stack, imagej=True)
    (tmp_path / "notes.txt").write_text("fine weather")
    return tmp_path


@pytest.fixture
def stack(tmp_path):
    """An HDF5 file of six images with their numbers in every pixel."""
    path = tmp_path / "images.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.arange(6.0)[:, None, None] + np.zeros((6, 16, 18))
        file["other/thing"] = np.arange(3)
    return path


def test_a_folder_of_files(folder):
    images = open_images(folder)
    names = [name.rpartition("/")[2] for name in images.names]
    assert names == ["frame0.tif", "frame2.tif", "stack.tif[0]", "stack.tif[1]"]
    assert set(images.shapes) == {(20, 24, 1)}
    for j, seed in enumerate((0, 2, 10, 11)):
        np.testing.assert_array_equal(images.read(j)[..., 0], picture(seed))
    assert len(open_images(folder, pattern="frame*")) == 2


def test_an_hdf5_file(stack, tmp_path):
    images = open_images(stack)
    assert len(images) == 6
    assert images.shapes[0] == (16, 18, 1)
    assert images.names[4].endswith("images.h5[4]")
    assert (images.read(4) == 4).all()
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a/first"], file["b/second"] = np.zeros((2, 8, 8, 3)), np.ones((2, 8, 8, 3))
    with pytest.raises(StreamError, match=r"a/first, b/second: choose one with dataset="):
        open_images(tmp_path / "two.h5")
    assert open_images(tmp_path / "two.h5", dataset="b/second").read(1).shape == (8, 8, 3)


def test_batches_depend_on_the_step_alone(stack):
    stream = crops(open_images(stack), batch=5, patch=8, seed=3)
    first, again = stream(7), crops(open_images(stack), batch=5, patch=8, seed=3)(7)
    np.testing.assert_array_equal(first["image"], again["image"])
    assert first["image"].shape == (5, 8, 8, 1)
    assert first["image"].dtype == np.float32
    numbers = [int(name[-2]) for name in stream.names(7)]
    assert first["image"][:, 0, 0, 0].tolist() == numbers
    seen = {int(name[-2]) for i in range(20) for name in stream.names(i)}
    assert seen == set(range(6))
    assert not np.array_equal(stream(8)["image"], first["image"])


def test_crops_reach_every_place(tmp_path):
    y, x = np.mgrid[:20, :24].astype(np.float32)
    np.save(tmp_path / "ramp.npy", 100 * y + x)
    stream = crops(open_images(tmp_path), batch=400, patch=17)
    corner = stream(0)["image"][:, 0, 0, 0].astype(int)
    assert {(c // 100, c % 100) for c in corner.tolist()} == {
        (i, j) for i in range(4) for j in range(8)
    }


def test_only_so_much_is_kept_in_memory(stack):
    images = open_images(stack)
    size = images.read(0).nbytes
    stream = crops(images, batch=50, cache=2 * size)
    stream(0)
    assert stream._kept == 2 * size
    assert len(stream._cache) == 2


def test_crops_are_prepared(stack):
    stream = crops(open_images(stack), batch=3, prepare=lambda a: a / 2, name="noisy")
    assert stream(0)["noisy"].shape == (3, 16, 18, 1)
    assert stream(0)["noisy"].max() <= 2.5


def test_a_data_set_in_shards():
    class Data:
        def __len__(self):
            return 10

        def read(self, indices):
            return {"image": np.asarray(indices, float)[:, None], "label": np.asarray(indices)}

        def name(self, index):
            return f"data[{index}]"

    stream = labelled(Data(), batch=5, seed=1, fields=["label"])
    rounds = [np.concatenate([stream(2 * r)["label"], stream(2 * r + 1)["label"]]) for r in (0, 1)]
    for order in rounds:
        assert sorted(order) == list(range(10))
    assert not np.array_equal(rounds[0], rounds[1])
    assert list(stream(0)) == ["label"]
    assert stream.names(3) == [f"data[{i}]" for i in stream(3)["label"]]
    with pytest.raises(StreamError, match="a batch of 11 from a data set of 10"):
        labelled(Data(), batch=11)


class Slow:
    """A stream that notes who reads what when."""

    def __init__(self, bad=-1):
        self.read, self.threads, self.bad = [], set(), bad

    def __call__(self, i):
        self.read.append(i)
        self.threads.add(threading.current_thread().name)
        if i == self.bad:
            raise StreamError(f"batch {i} is bad")
        return {"image": np.full(2, i)}

    def names(self, i):
        return [f"a{i}", f"b{i}"]


def test_a_thread_reads_ahead():
    slow = Slow()
    with Prefetch(slow, depth=2) as stream:
        assert stream(0)["image"][0] == 0
        for _ in range(200):
            if len(slow.read) == 3:
                break
            time.sleep(0.01)
        assert slow.read == [0, 1, 2], "two more than were asked for"
        assert [stream(i)["image"][0] for i in (1, 2, 9, 3)] == [1, 2, 9, 3]
        assert stream.names(4) == ["a4", "b4"]
    assert threading.current_thread().name not in slow.threads


def test_an_error_comes_with_its_own_batch():
    with Prefetch(Slow(bad=2), depth=3) as stream:
        assert [stream(i)["image"][0] for i in (0, 1)] == [0, 1]
        with pytest.raises(StreamError, match="batch 2 is bad"):
            stream(2)
        assert stream(3)["image"][0] == 3


def test_counts_of_a_mixture():
    assert counts(0.5, 16) == (8, 8)
    assert counts(0.0, 4) == (0, 4)
    assert counts(1.0, 4) == (4, 0)
    assert counts(0.3, 10) == (3, 7)
    assert counts(1 / 3, 4) == (2, 3)
    with pytest.raises(StreamError, match="from 0 to 1"):
        counts(1.5, 4)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.1, 1.0])
def test_any_ratio_is_met_on_average(share):
    batch = 4
    real, simulated = counts(share, batch)

    def draw(key):
        return {"image": jnp.zeros((simulated, 3)), "label": jnp.ones((simulated,), jnp.int32)}

    mixed = mix(draw, share, batch)
    streamed = {"image": np.ones((real, 3), np.float32)}
    keys = jax.random.split(jax.random.key(0), 4000)
    found = jax.vmap(lambda key: mixed(key, streamed))(keys)
    assert found["image"].shape == (4000, batch, 3)
    assert found["label"].dtype == jnp.int32
    np.testing.assert_array_equal(found["image"][..., 0], found["real"])
    np.testing.assert_array_equal(found["label"], 1 - found["real"])
    # the one place that is drawn has a standard deviation of at most 1/2 of an image
    assert float(found["real"].mean()) == pytest.approx(share, abs=4 * 0.5 / batch / 4000**0.5)


def test_what_cannot_be_mixed():
    def draw(key):
        return {"image": jnp.zeros((2, 8, 8))}

    key = jax.random.key(0)
    good = np.zeros((2, 8, 8), np.float32)
    assert mix(draw, 0.5, 4, flag=None)(key, {"image": good}).keys() == {"image"}
    for streamed, message in [
        ({"image": good[:1]}, "2 real images a batch are needed"),
        ({"image": good[:, :4]}, r"image is \(4, 8\) in real and \(8, 8\) in simulated"),
        ({"noisy": good}, "real images have noisy, which the simulated ones lack"),
    ]:
        with pytest.raises(StreamError, match=message):
            mix(draw, 0.5, 4)(key, streamed)
    with pytest.raises(StreamError, match="3 simulated images a batch are needed"):
        mix(draw, 0.25, 4)(key, {"image": good[:1]})


def test_a_step_takes_the_mixture(stack):
    from emjax.training_step import init_state, make_step

    def draw(key):
        return {"image": jnp.full((3, 8, 8, 1), 2.0)}

    def loss(params, batch):
        assert batch["image"].shape == (4, 8, 8, 1)
        return jnp.square(params["mean"] - batch["image"].mean()), {"real": batch["real"].mean()}

    tx = optax.sgd(0.1)
    step = make_step(
        loss,
        mix(draw, 0.25, 4),
        tx,
        stream=Prefetch(crops(open_images(stack), batch=1, patch=8)),
    )
    state, history = step(init_state({"mean": jnp.zeros(())}, tx), jax.random.key(0), 4)
    assert np.asarray(history["real"]).tolist() == [0.25] * 4
    assert int(state.step) == 4


def test_an_empty_folder(tmp_path):
    with pytest.raises(StreamError, match=r"holds no image \(it holds nothing\)"):
        open_images(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(StreamError, match=r"that matches \*.tif \(it holds notes.txt\)"):
        open_images(tmp_path, pattern="*.tif")
    with pytest.raises(StreamError, match="no file or folder"):
        open_images(tmp_path / "nowhere")


def test_mixed_shapes(folder):
    tifffile.imwrite(folder / "wide.tif", picture(0, (20, 30)))
    with pytest.raises(StreamError, match=r"several sizes: .*frame0.tif is 20 x 24 .*wide.tif is"):
        crops(open_images(folder), batch=1)
    assert crops(open_images(folder), batch=9, patch=20)(0)["image"].shape == (9, 20, 20, 1)
    with pytest.raises(StreamError, match=r"frame0.tif is 20 x 24 .* smaller than the crops of 21"):
        crops(open_images(folder), batch=1, patch=21)
    with pytest.raises(StreamError, match="at least one is needed"):
        crops(open_images(folder), batch=0)


def test_mixed_pixel_sizes(tmp_path):
    for name, step in (("a", 0.1), ("b", 0.1004), ("c", 0.2)):
        np.savez(tmp_path / f"{name}.npz", image=picture(1), pixel_A=step)
    images = open_images(tmp_path)
    with pytest.raises(StreamError, match=r"a\.npz has 0.1 Å and .*c\.npz has 0.2 Å"):
        images.check()
    open_images(tmp_path, sampling=0.1).check()
    with pytest.raises(StreamError, match="not a pixel size"):
        open_images(tmp_path, sampling=-1)


def test_files_with_and_without_a_pixel_size(tmp_path):
    np.savez(tmp_path / "a.npz", image=picture(1), pixel_A=0.1)
    np.savez(tmp_path / "b.npz", image=picture(2), pixel_A=0.1)
    np.save(tmp_path / "plain.npy", picture(3))
    np.save(tmp_path / "plain2.npy", picture(4))
    message = r"a\.npz states its pixel size, and .*plain\.npy does not \(nor do 1 more\)"
    with pytest.warns(UserWarning, match=message):
        open_images(tmp_path).check()
    np.save(tmp_path / "wide.npy", picture(4, (20, 30)))
    message = r"a\.npz states .* and .*wide\.npy does not .* It is 20 x 30 pixels and the other 20"
    with pytest.raises(StreamError, match=message):
        open_images(tmp_path)
    assert len(open_images(tmp_path, sampling=0.1)) == 5, "what is stated for all is not asked"
    assert len(open_images(tmp_path, pattern="*.npy")) == 3, "none is calibrated"


def test_pixel_sizes_of_hdf5_files(tmp_path):
    from emjax.data.export import images, write_export

    for name, step in (("a", 0.1), ("b", 0.2)):
        write_export(tmp_path / f"{name}.h5", images(np.stack([picture(1), picture(2)]), step))
    assert open_images(tmp_path / "a.h5").read(1).shape == (20, 24, 1)
    with pytest.raises(StreamError, match=r"a\.h5\[0\] has 0.1 Å and .*b\.h5\[0\] has 0.2 Å"):
        open_images(tmp_path).check()


def test_values_that_are_not_finite_name_the_file(folder, tmp_path):
    bad = picture(5)
    bad[3, 4] = np.nan
    tifffile.imwrite(folder / "frame1.tif", bad)
    with pytest.raises(StreamError, match=r"frame1\.tif"):
        open_images(folder).check()
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["images"] = np.stack([picture(0), bad])
    images, steps = open_images(tmp_path / "bad.h5"), []
    with pytest.raises(StreamError, match=r"bad.h5\[1\] is not finite \(first at pixel y 3, x 4\)"):
        images.check(lambda *a: steps.append(a))
    assert steps == [(1, 2)]


def test_a_file_that_is_no_image(tmp_path):
    (tmp_path / "broken.tif").write_bytes(b"II*\0 and no more")
    with pytest.raises(StreamError, match=r"cannot read .*broken\.tif"):
        open_images(tmp_path)
