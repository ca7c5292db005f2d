"""Writing in pieces, and everything that can stop it: places, pieces, numbers, a full disk."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emjax.data.export import (
    Axis,
    ExportError,
    images,
    open_export,
    patterns,
    read_export,
    write_export,
)
from emjax.data.export_layout import chunks

SHAPE = (3, 5, 8, 10)


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def empty(*shape: int, dtype: str = "float32"):
    return patterns(jax.ShapeDtypeStruct(shape, dtype), (0.1, 0.2), scan_sampling=0.5)


def write_pieces(path, pieces) -> None:
    with open_export(path, empty(*SHAPE)) as out:
        for piece in pieces:
            out.append(piece)


@pytest.mark.parametrize("together", [1, 2, 5, 7, 15])
def test_pieces_of_any_length_make_the_same_file(tmp_path, together):
    counts = some(*SHAPE)
    with open_export(tmp_path / "pieces.h5", empty(*SHAPE)) as out:
        flat = counts.reshape(-1, *SHAPE[2:])
        for start in range(0, len(flat), together):
            out.append(jnp.asarray(flat[start : start + together]))
        assert out.done == out.total == 15
    back = read_export(tmp_path / "pieces.h5")
    np.testing.assert_array_equal(back.in_corner(), counts)
    whole = write_export(tmp_path / "whole.h5", patterns(counts, (0.1, 0.2), scan_sampling=0.5))
    np.testing.assert_array_equal(read_export(whole).data, back.data)
    assert read_export(whole).axes == back.axes


def test_rows_and_single_pictures(tmp_path):
    counts = some(*SHAPE)
    with open_export(tmp_path / "x.h5", empty(*SHAPE)) as out:
        out.append(counts[0, 0])
        out.append(counts[0, 1:])
        out.append(np.fft.fftshift(counts[1:], axes=(-2, -1)), order="centre")
    np.testing.assert_array_equal(read_export(tmp_path / "x.h5").in_corner(), counts)


def test_images_keep_their_order(tmp_path):
    frames = some(6, 8, 10)
    made = images(
        jax.ShapeDtypeStruct(frames.shape, "float32"), 0.1, stack=[Axis.of("time", range(6), "s")]
    )
    with open_export(tmp_path / "x.h5", made) as out:
        for frame in frames:
            out.append(frame)
    np.testing.assert_array_equal(read_export(tmp_path / "x.h5").data, frames)


def test_memory_stays_bounded(tmp_path):
    scan, piece = (40, 40, 64, 64), some(40, 64, 64)
    size = 4 * np.prod(scan)
    tracemalloc.start()
    with open_export(tmp_path / "x.h5", empty(*scan)) as out:
        for _ in range(40):
            out.append(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "x.h5").stat().st_size > size
    assert peak < 0.2 * size


def test_chunks_hold_whole_pictures_of_one_row():
    for shape in [(64, 64, 128, 128), (3, 5, 8, 10), (2, 4096, 4096)]:
        found = chunks(shape, len(shape) - 2, 4)
        assert found[:-3] == (1,) * (len(shape) - 3)
        assert 4 * np.prod(found) <= 2**21
        assert found[-2:] == shape[-2:] or found[-3] == 1


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([(15, 8, 10), (1, 8, 10)], "16 pictures for an array of 15"),
        ([(2, 8, 10)], "only 2 of 15 pictures were appended, so there is no file"),
        ([(8, 9)], r"a piece of shape \(8, 9\) does not fit into \(3, 5, 8, 10\): append"),
        ([(2, 4, 8, 10)], "whole rows"),
        ([(1, 3, 5, 8, 10)], "does not fit"),
        ([(10,)], "does not fit"),
    ],
)
def test_pieces_that_do_not_fit(tmp_path, pieces, message):
    with pytest.raises(ExportError, match=message):
        write_pieces(tmp_path / "x.h5", [np.zeros(piece, np.float32) for piece in pieces])
    assert not list(tmp_path.iterdir())


def test_numbers_that_do_not_fit(tmp_path):
    with (
        pytest.raises(ExportError, match="a piece of float64 does not fit into uint16"),
        open_export(tmp_path / "x.h5", empty(*SHAPE, dtype="uint16")) as out,
    ):
        out.append(np.zeros((8, 10)))
    with pytest.raises(ExportError, match="no numbers of type bfloat16: convert to float32"):
        write_export(tmp_path / "x.h5", images(np.zeros((8, 8), jnp.bfloat16), 0.1))
    with pytest.raises(ExportError, match="no numbers of type object"):
        write_export(tmp_path / "x.h5", images(np.zeros((8, 8), object), 0.1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39 + 0.0])
def test_values_that_are_not_finite(tmp_path, bad):
    counts = some(*SHAPE).astype("float64")
    counts[1, 2, 0, 0] = bad  # zero frequency: [4, 5] in the file
    with (
        pytest.raises(ExportError, match=r"1 values are not finite in float32, .* \[1, 2, 4, 5\]"),
        open_export(tmp_path / "x.h5", empty(*SHAPE)) as out,
    ):
        out.append(counts)
    image = some(8, 10)
    image[3, 7] = np.nan
    with pytest.raises(ExportError, match=r"the first at \[3, 7\]"):
        write_export(tmp_path / "x.h5", images(image, 0.1))
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_to(tmp_path):
    made = images(some(8, 10), 0.1)
    for name, message in {
        "x.tif": r"ends in '.tif': exports are HDF5 files that end in .h5, .hdf5, .hspy, .emd",
        "x": "ends in ''",
        "x.zspy": "zarr < 3",
        "none/x.h5": "there is no folder",
    }.items():
        with pytest.raises(ExportError, match=message):
            write_export(tmp_path / name, made)
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(ExportError, match="is a folder"):
        write_export(tmp_path / "folder.h5", made)
    with pytest.raises(ExportError, match="is none of None, 'gzip'"):
        write_export(tmp_path / "x.h5", made, compression="zip")
    with pytest.raises(ExportError, match="holds no values: write it in pieces with open_export"):
        write_export(tmp_path / "x.h5", empty(*SHAPE))


def test_too_little_room_is_known_before_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "emjax.data.export_stream.shutil.disk_usage", lambda _: SimpleNamespace(free=2_500_000)
    )
    with (
        pytest.raises(ExportError, match=r"needs 2.68 GB, but 2.5 MB are free .* Nothing was"),
        open_export(tmp_path / "x.h5", empty(64, 64, 512, 320)),
    ):
        raise AssertionError("it must not begin")
    write_export(tmp_path / "small.h5", images(some(8, 10), 0.1))


FULL = """
import resource, signal, sys
from types import SimpleNamespace
import numpy as np
from emjax.data import export, export_stream

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
counts = np.random.default_rng(0).random((1000, 100, 100), dtype="f4")
for size in (1, 24, 49, 52, 1000):
    try:
        made = export.patterns(counts[:size], 0.1)
        export.write_export(sys.argv[1], made, compression=sys.argv[2] or None)
        print("whole")
    except export.ExportError as error:
        print("refused" if "the disk filled up" in str(error) else error)
"""


@pytest.mark.parametrize("compression", ["", "gzip"])
def test_a_disk_that_fills_up_while_writing(tmp_path, compression):
    """A limit on the size of files stands for the disk: HDF5 meets it in the same way."""
    pytest.importorskip("resource")
    path = tmp_path / "x.h5"
    result = subprocess.run(
        [sys.executable, "-c", FULL, str(path), compression],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    found = result.stdout.split()
    assert (found[0], found[-1]) == ("whole", "refused")
    whole = [n for n, word in zip((1, 24, 49, 52, 1000), found, strict=True) if word == "whole"]
    assert read_export(path).shape[0] == whole[-1], "the last that was whole"
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


def test_an_interruption_leaves_the_old_file(tmp_path):
    write_export(tmp_path / "x.h5", patterns(some(*SHAPE), 0.1, scan_sampling=0.5))
    before = (tmp_path / "x.h5").read_bytes()

    def pieces():
        yield some(4, 8, 10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pieces(tmp_path / "x.h5", pieces())
    assert (tmp_path / "x.h5").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]
