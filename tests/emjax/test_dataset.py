"""Data sets in shards: the same images however they are divided, interrupted or begun again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.dataset import (
    DatasetError,
    open_dataset,
    parse_task,
    plan_dataset,
    slurm_script,
    verify_dataset,
    write_dataset,
)
from emjax.h5_files import CheckpointError


@dataclass(frozen=True)
class Blobs:
    """A recipe whose compilation takes no time."""

    size: int = 6
    bad: int = -1

    def build(self):
        def draw(key):
            image = jnp.exp(jax.random.normal(key, (self.size, self.size + 1, 1)))
            place = jax.random.randint(key, (), 0, 9)
            image = jnp.where((self.bad >= 0) & (place > 4), jnp.nan, image)
            return {"image": image, "place": place}

        return draw


def plan(count=37, shards=1, seed=5, block=8, **config):
    numbers = {"count": count, "shards": shards, "seed": seed, "block": block}
    return plan_dataset("blobs", Blobs(**config), **numbers)


def everything(folder):
    data = open_dataset(folder)
    return data.read(np.arange(len(data)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    write_dataset(folder, plan())
    return folder


@pytest.mark.parametrize(("shards", "jobs"), [(37, 1), (5, 2), (9, 4), (3, 7)])
def test_any_division_gives_the_same_bits(whole, tmp_path, shards, jobs):
    for job in reversed(range(1, jobs + 1)):
        written = write_dataset(tmp_path, plan(shards=shards), task=(job, jobs))
        assert len(written) == len(range(job - 1, shards, jobs))
    assert open_dataset(tmp_path).digest() == open_dataset(whole).digest()
    for name, values in everything(tmp_path).items():
        np.testing.assert_array_equal(values, everything(whole)[name])


def test_image_i_is_what_the_recipe_draws_from_its_own_key(whole):
    data, key = open_dataset(whole), jax.random.key(5)
    for i in (0, 20, 36):
        wanted = Blobs().build()(jax.random.fold_in(key, i))
        np.testing.assert_allclose(data[i]["image"], wanted["image"], rtol=1e-6)
        assert data[i]["place"] == wanted["place"]
    images = everything(whole)["image"]
    assert images.shape == (37, 6, 7, 1)
    assert len({image.tobytes() for image in images}) == 37, "no two alike"


def test_more_images_or_another_seed(whole, tmp_path):
    write_dataset(tmp_path / "more", plan(count=60, shards=4))
    np.testing.assert_array_equal(
        everything(tmp_path / "more")["image"][:37], everything(whole)["image"]
    )
    write_dataset(tmp_path / "other", plan(seed=6))
    pair = [everything(folder)["image"] for folder in (tmp_path / "other", whole)]
    assert not (pair[0] == pair[1]).all(axis=(1, 2, 3)).any()


def test_reading_in_any_order(whole, tmp_path):
    write_dataset(tmp_path, plan(shards=5))
    data, indices = open_dataset(tmp_path), np.array([30, 2, 2, 36, 7, 0])
    np.testing.assert_array_equal(data.read(indices)["image"], everything(whole)["image"][indices])
    np.testing.assert_array_equal(data[-1]["image"], everything(whole)["image"][36])
    assert data.name(3).endswith("[3]")
    with pytest.raises(IndexError, match="image 37 of a data set of 37"):
        data[37]


def test_what_is_whole_is_kept_and_the_rest_is_written(tmp_path, whole):
    paths = write_dataset(tmp_path, plan(shards=4))
    assert write_dataset(tmp_path, plan(shards=4)) == []
    times = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    with paths[2].open("r+b") as file:
        file.seek(-20, 2)
        file.write(b"scratch")
    assert verify_dataset(tmp_path) == [
        f"{paths[1].name} is missing",
        f"{paths[2].name} is damaged: its SHA-256 is not the one that was noted",
    ]
    with pytest.raises(DatasetError, match=r"lacks 1 of 4 shards \(shard-00001-of-00004.h5\)"):
        open_dataset(tmp_path)
    steps = []
    again = write_dataset(tmp_path, plan(shards=4), progress=lambda *a: steps.append(a))
    assert again == paths[1:3]
    assert steps[-1] == (37, 37)
    assert [p.stat().st_mtime_ns == t for p, t in zip(paths, times, strict=True)] == [
        True,
        False,
        False,
        True,
    ]
    assert verify_dataset(tmp_path) == []
    assert open_dataset(tmp_path).digest() == open_dataset(whole).digest()


def test_an_interrupted_job_leaves_no_half_shard(tmp_path):
    def stop(done, of):
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, plan(shards=3), progress=stop)
    first = "shard-00000-of-00003.h5"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["dataset.json", first, f"{first}.sha256"]
    assert len(write_dataset(tmp_path, plan(shards=3))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed: 5 there, 6 now"),
        ({"count": 38}, "count: 37 there, 38 now"),
        ({"size": 7}, r"config.size: 6 there, 7 now\n  fields.image.shape"),
    ],
)
def test_another_data_set_in_the_folder_is_refused(tmp_path, change, message):
    write_dataset(tmp_path, plan())
    with pytest.raises(DatasetError, match=message):
        write_dataset(tmp_path, plan(**change))


def test_images_that_are_not_finite_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"image of image \d+ is not finite"):
        write_dataset(tmp_path, plan(bad=1))
    assert [path.name for path in tmp_path.iterdir()] == ["dataset.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "at least one image"),
        ({"shards": 0}, "--shards 0"),
        ({"shards": 38}, "from 1 to the number of images, 37"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_numbers_that_make_no_data_set(options, message):
    with pytest.raises(DatasetError, match=message):
        plan(**options)


def test_tasks():
    assert parse_task("3/20") == (3, 20)
    for text in ("0/3", "4/3", "3", "a/b", "1/"):
        with pytest.raises(DatasetError, match="i/n with i from 1 to n"):
            parse_task(text)


@pytest.mark.parametrize("task", [(0, 2), (3, 2), (1, 0)])
def test_tasks_of_scripts(tmp_path, task):
    with pytest.raises(DatasetError, match=r"give \(i, n\) with i from 1 to n"):
        write_dataset(tmp_path, plan(), task=task)


def test_a_recipe_is_its_file_s_content_wherever_it_lies(tmp_path):
    def mine(folder, text):
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / "mine.py"
        path.write_text(text)
        return plan_dataset(f"{path}:Blobs", Blobs(), count=4)

    first = mine("a", "x = 1")
    write_dataset(tmp_path / "data", first)
    assert open_dataset(tmp_path / "data").manifest["code"] == first.code
    assert len(first.code) == 64
    assert write_dataset(tmp_path / "data", mine("b", "x = 1")) == []
    with pytest.raises(DatasetError, match=f"code: {first.code} there"):
        write_dataset(tmp_path / "data", mine("a", "x = 2"))
    with pytest.raises(DatasetError, match=r"there is no file .*gone\.py"):
        plan_dataset("gone.py:Blobs", Blobs(), count=4)


def test_another_processor_is_refused(tmp_path, monkeypatch):
    write_dataset(tmp_path, plan())
    monkeypatch.setattr("emjax.dataset.processor", lambda: "Other CPU")
    with pytest.raises(
        DatasetError, match=r"processor: .* there, Other CPU now\n.*bits may differ"
    ):
        write_dataset(tmp_path, plan())


def test_what_is_not_a_data_set(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset\.json"):
        open_dataset(tmp_path)
    write_dataset(tmp_path, plan())
    manifest = json.loads((tmp_path / "dataset.json").read_text())
    for change, message in [({"schema": 99}, "schema 99"), ({"format": "x"}, "not the manifest")]:
        (tmp_path / "dataset.json").write_text(json.dumps(manifest | change))
        with pytest.raises(DatasetError, match=message):
            open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    (tmp_path / "shard-00000-of-00001.h5").write_bytes(b"not HDF5")
    with pytest.raises(CheckpointError, match="not an HDF5 file"):
        open_dataset(tmp_path)[0]


def test_the_job_script():
    text = slurm_script("emjax dataset blobs", tasks=40, name="blobs", log="job-%a.log")
    assert text.startswith("#!/bin/bash\n")
    assert "#SBATCH --array=1-40\n" in text
    assert 'srun emjax dataset blobs --task "$SLURM_ARRAY_TASK_ID/40"' in text


def test_names_in_the_job_script_are_quoted():
    text = slurm_script("emjax dataset blobs", tasks=4, name="a b", log="/a b/job-%a.log")
    assert "#SBATCH --job-name='a b'\n" in text
    assert "#SBATCH --output='/a b/job-%a.log'\n" in text


def test_shards_are_plain_hdf5(whole):
    import h5py

    with h5py.File(whole / "shard-00000-of-00001.h5") as file:
        assert file["data/image"].shape == (37, 6, 7, 1)
        assert file["index"][()].tolist() == list(range(37))
        assert json.loads(file.attrs["meta"])["seed"] == 5
    line = (whole / "shard-00000-of-00001.h5.sha256").read_text()
    assert line.split()[1] == "shard-00000-of-00001.h5"


def test_equal_shards_are_equal_files(whole, tmp_path):
    write_dataset(tmp_path, replace(plan()))
    name = "shard-00000-of-00001.h5"
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
