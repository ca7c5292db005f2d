"""Real micrographs with published columns: the file's rules, and how a network is judged on it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from column_images import render

from emjax.evaluation.real_frames import judge_frames, read_frames

SAMPLING = 0.125
"""Å per pixel of the frames made here: 24 Å over 192 pixels."""


def frame(seed: int = 0, n: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """An image [n, n] of a lattice and its columns (row, column), as published."""
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[:10, :10].reshape(2, -1)
    xy = (np.stack([i, j], axis=1) * 2.2 + rng.uniform(1.2, 1.8, 2)) / SAMPLING
    xy = xy[(xy < n - 1).all(1)]
    image = render(xy, 1.0, 0.42 / SAMPLING, 0.2, (n, n)) + 0.01 * rng.normal(size=(n, n))
    return image, xy[:, ::-1]


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        path = tmp_path / "frames.npz"
        np.savez(path, **arrays)
        return path

    return write


def test_the_pixel_size_follows_from_the_field_of_view_in_the_name(save):
    path = save(
        boundary_4nm=np.ones((512, 512), np.float16),
        wide_2nm=np.ones((100, 200)),
        fine_1_5nm=np.ones((30, 30)),
        fraction_2_4nm=np.ones((30, 60)),
        **{"dot_2.5nm": np.ones((50, 50))},
    )
    frames = read_frames(path)
    assert frames["boundary_4nm"][1] == pytest.approx(40 / 512)
    assert frames["wide_2nm"][1] == pytest.approx(0.1), "the field is that along x"
    assert frames["dot_2.5nm"][1] == pytest.approx(0.5)
    assert frames["fine_1_5nm"][1] == pytest.approx(50 / 30), "an underscore is no decimal point"
    for image, _, published in frames.values():
        assert image.dtype == np.float32
        assert published is None


def test_an_array_of_the_pixel_size_comes_first(save):
    path = save(a_4nm=np.ones((40, 40)), a_4nm_sampling=0.2, b=np.ones((8, 8)), b_sampling=0.31)
    frames = read_frames(path)
    assert list(frames) == ["a_4nm", "b"]
    assert frames["a_4nm"][1] == 0.2
    assert frames["b"][1] == pytest.approx(0.31)


def test_rows_and_columns_become_x_and_y(save):
    points = np.array([[3.0, 70.0], [5.5, 9.25]], np.float32)
    path = save(si_2nm=np.arange(80.0 * 90).reshape(80, 90), si_2nm_coords_network=points)
    ((image, _, published),) = read_frames(path).values()
    np.testing.assert_array_equal(published, [[70.0, 3.0], [9.25, 5.5]])
    assert published.dtype == float
    np.testing.assert_array_equal(image, np.arange(80.0 * 90).reshape(80, 90))


def test_what_is_no_image_is_left_out(save):
    path = save(a_2nm=np.ones((8, 8)), stack_2nm=np.ones((3, 8, 8)), note=np.array("hello"))
    assert list(read_frames(path)) == ["a_2nm"]


def test_a_frame_without_a_pixel_size(save):
    with pytest.raises(ValueError, match="'dimer' has no pixel size; add an array dimer_sampling"):
        read_frames(save(dimer=np.ones((8, 8))))


def test_a_file_without_images(save):
    with pytest.raises(ValueError, match=r"holds no image: arrays \['curve', 'x_coords_network'\]"):
        read_frames(save(curve=np.ones(8), x_coords_network=np.ones((5, 2))))


def test_files_that_are_no_npz(tmp_path):
    text = tmp_path / "frames.npz"
    text.write_text("row,column\n1,2\n")
    with pytest.raises(ValueError, match=r"frames\.npz is not an npz file of frames"):
        read_frames(text)
    array = tmp_path / "image.npy"
    np.save(array, np.ones((8, 8)))
    with pytest.raises(ValueError, match=r"image\.npy is not an npz file of frames"):
        read_frames(array)
    objects = tmp_path / "objects.npz"
    np.savez(objects, a_2nm=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(ValueError, match="is not an npz file of frames"):
        read_frames(objects)


def test_half_a_file(save):
    path = save(a_2nm=np.random.default_rng(0).normal(size=(60, 60)))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match="is not an npz file of frames"):
        read_frames(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        read_frames(tmp_path / "nothing.npz")


@pytest.fixture(scope="module")
def model():
    """A network that takes what is bright, at 0.2 Å per pixel, for a column."""
    import jax.numpy as jnp

    def apply(params, x):
        heat = 8 * (x[..., 1:] - params["level"])
        return jnp.concatenate([heat, jnp.zeros_like(heat)], axis=-1)

    meta = {
        "sampling": 0.2,
        "classes": ["any"],
        "min_distance_A": 1.0,
        "threshold": 0.5,
        "tile": 128,
    }
    return SimpleNamespace(apply=apply, params={"level": np.float32(0.6)}, meta=meta)


def test_a_network_is_judged_by_the_published_columns(save, model):
    (one, points), (two, _) = frame(0), frame(1)
    marked = {"a_sampling": SAMPLING, "a_coords_network": points}
    path = save(a=one, **marked, b=two, b_sampling=SAMPLING)
    good, unmarked = judge_frames(model, path)
    assert (good.name, unmarked.name) == ("a", "b")
    assert good.sampling == SAMPLING
    assert good.image.shape == one.shape
    assert good.strict.f1 == good.loose.f1 == 1
    assert good.strict.tp > 60
    assert good.strict.mean_distance * SAMPLING < 0.05
    assert len(unmarked.found.columns) > 60
    assert unmarked.published is unmarked.strict is unmarked.loose is None


def test_a_fifth_and_half_of_the_spacing(save, model):
    """Published columns 0.3 spacings off are found within half of it and not within a fifth."""
    image, points = frame(2)
    moved = points + np.array([0.0, 0.3 * 2.2 / SAMPLING])
    path = save(a=image, a_sampling=SAMPLING, a_coords_network=moved)
    (judged,) = judge_frames(model, path, margin=2.0)
    assert judged.strict.tp == 0
    assert judged.strict.fn > 30
    assert judged.loose.f1 > 0.85
    assert judged.loose.mean_distance * SAMPLING == pytest.approx(0.3 * 2.2, abs=0.03)


def test_columns_at_the_border_are_not_counted(save, model):
    image, points = frame(3)
    at_border = np.array([[2.0, 60.0], [60.0, 188.5], [189.0, 100.0]])
    path = save(a=image, a_sampling=SAMPLING, a_coords_network=np.concatenate([points, at_border]))
    (judged,) = judge_frames(model, path)
    assert judged.strict.fn == 0
    (strict,) = judge_frames(model, path, margin=0.0)
    assert strict.strict.fn == 3


def test_the_shared_frames_can_be_read(shared):
    path = shared / "data/real/stem_graphene/frames.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    frames = read_frames(path)
    assert frames["grain_boundary_4nm"][1] == pytest.approx(0.078125)
    image, sampling, published = frames["grain_boundary_4nm"]
    assert len(published) == 606
    # (x, y) it is: the image is brighter at the published places than beside them
    x, y = np.rint(published).astype(int).T
    inside = (np.minimum(x, y) > 0) & (np.maximum(x, y) < 511)
    step = round(0.7 / sampling)
    here = image[y[inside], x[inside]].mean()
    assert here > image[x[inside], y[inside]].mean()
    assert here > np.roll(image, step, 1)[y[inside], x[inside]].mean()
