"""Arrays out of emjax and back: values, axes, units, the place of zero frequency, bad input."""

from __future__ import annotations

import dataclasses
import json

import h5py
import jax
import numpy as np
import pytest

import emjax
from emjax.data.export import (
    Axis,
    Export,
    ExportError,
    images,
    patterns,
    potential,
    read_export,
    waves,
    write_export,
)
from emjax.data.micrographs import read_micrograph


def some(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def there_and_back(tmp_path, export: Export, name: str = "x.h5", **options) -> Export:
    back = read_export(write_export(tmp_path / name, export, **options))
    assert not list(tmp_path.glob("*.part"))
    assert back.data.dtype == export.data.dtype
    np.testing.assert_array_equal(back.data, export.data)
    assert back.axes == export.axes
    assert back.written["emjax"] == emjax.__version__
    return back


@pytest.mark.parametrize("extension", ["h5", "hdf5", "hspy", "emd"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "bool"])
def test_an_image(tmp_path, extension, dtype):
    made = images(
        some(24, 40).astype(dtype), (0.2, 0.1), origin=(1.0, -2.0), title="HAADF", energy=60e3
    )
    back = there_and_back(tmp_path, made, f"x.{extension}")
    assert [(a.name, a.step, a.offset, a.units) for a in back.axes] == [
        ("y", 0.2, 1.0, "Å"),
        ("x", 0.1, -2.0, "Å"),
    ]
    assert back.sampling() == (0.2, 0.1)
    assert (back.kind, back.title, back.energy, back.seed) == ("images", "HAADF", 60e3, None)


def test_stacks_of_thicknesses_and_detectors(tmp_path):
    stack = [Axis.of("thickness", [10, 20, 40], "Å"), Axis.named("detector", ["BF", "HAADF"])]
    back = there_and_back(tmp_path, images(some(3, 2, 24, 40), (0.2, 0.1), stack=stack))
    assert back.axes[0].coordinates(3).tolist() == [10, 20, 40]
    assert back.axes[1].labels == ("BF", "HAADF")
    assert back.navigation == 2


def test_axes_that_are_not_described_are_counted(tmp_path):
    back = there_and_back(tmp_path, images(some(3, 24, 40), 0.2))
    assert (back.axes[0].name, back.axes[0].units, back.sampling()) == ("index", "", (0.2, 0.2))


@pytest.mark.parametrize("shape", [(8, 10), (7, 11), (8, 11)])
def test_zero_frequency_leaves_in_the_centre_and_comes_back_in_the_corner(tmp_path, shape):
    pattern = np.zeros(shape, np.float32)
    pattern[0, 0], pattern[1, 0], pattern[0, 2], pattern[0, -1] = 1, 2, 3, 4
    back = there_and_back(tmp_path, patterns(pattern, (0.1, 0.25)))
    ky, kx = (axis.coordinates(n) for axis, n in zip(back.axes, shape, strict=True))
    for value, where in ((1, (0, 0)), (2, (0.1, 0)), (3, (0, 0.5)), (4, (0, -0.25))):
        i, j = np.argwhere(back.data == value)[0]
        assert (ky[i], kx[j]) == pytest.approx(where, abs=1e-12)
    np.testing.assert_array_equal(back.in_corner(), pattern)
    centred = patterns(np.fft.fftshift(pattern), (0.1, 0.25), order="centre")
    np.testing.assert_array_equal(centred.data, back.data)


def test_four_dimensional_stem(tmp_path):
    counts = some(3, 4, 8, 10)
    made = patterns(counts, (0.1, 0.2), scan_sampling=(0.5, 0.7), seed=jax.random.key(5))
    back = there_and_back(tmp_path, made)
    assert [axis.name for axis in back.axes] == ["scan_y", "scan_x", "ky", "kx"]
    assert [axis.step for axis in back.axes] == [0.5, 0.7, 0.1, 0.2]
    assert back.seed == [0, 5]
    assert back.units == "fraction of the dose"
    np.testing.assert_array_equal(back.in_corner(), counts)
    np.testing.assert_array_equal(back.data[2, 1, 4, 5], counts[2, 1, 0, 0])
    series = patterns(
        some(2, 3, 4, 8, 10), 0.1, scan_sampling=0.5, stack=[Axis.of("thickness", [5, 9], "Å")]
    )
    assert there_and_back(tmp_path, series).axes[0].step == 4.0


def test_patterns_of_the_simulators(tmp_path):
    """They know their calibration; binned ones have no pixel at zero frequency."""
    from simulators.grid import Grid
    from simulators.patterns import binned
    from simulators.patterns import patterns as as_patterns

    grid = Grid((40, 28), (0.15, 0.2))
    full = as_patterns(some(3, *grid.shape), grid, 80e3, crop="full")
    back = there_and_back(tmp_path, patterns(full))
    assert (back.sampling(), back.energy) == (pytest.approx((1 / 6, 1 / 5.6)), 80e3)
    np.testing.assert_array_equal(np.fft.fftshift(back.in_corner(), axes=(-2, -1)), full.intensity)
    half = binned(full, 2)
    back = there_and_back(tmp_path, patterns(half))
    for axis, k in zip(back.axes[1:], half.frequencies(), strict=True):
        np.testing.assert_allclose(axis.coordinates(len(k)), k)
    with pytest.raises(ExportError, match="not at zero frequency: these patterns have no FFT"):
        back.in_corner()


@pytest.mark.parametrize("thickness", [2.0, [1.0, 2.5, 0.5]])
def test_a_potential(tmp_path, thickness):
    back = there_and_back(tmp_path, potential(some(3, 24, 40), (0.2, 0.1), thickness))
    assert back.parameters["slice_thickness"] == np.broadcast_to(thickness, 3).tolist()
    edges = np.cumsum([0.0, *back.parameters["slice_thickness"]])
    assert back.axes[0].coordinates(3) == pytest.approx(edges[:3])
    assert (back.quantity, back.units) == ("projected potential", "V·Å")


def test_one_thick_slice_keeps_its_thickness(tmp_path):
    back = there_and_back(tmp_path, potential(some(1, 24, 40), 0.2, 7.5))
    assert back.axes[0].step == 7.5


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_waves(tmp_path, dtype):
    made = waves(some(2, 24, 40).astype(dtype) * (1 + 2j), 0.2, energy=80e3)
    back = there_and_back(tmp_path, made, compression="gzip")
    assert back.kind == "waves"
    with pytest.raises(ExportError, match="a wave is complex, got float32"):
        waves(some(24, 40), 0.2)


def test_where_it_comes_from(tmp_path):
    @dataclasses.dataclass
    class Lens:
        C10: float = -30.0
        tilt: tuple = (1.0, 2.0)

    made = images(some(24, 40), 0.2, parameters={"optics": Lens(), "dose": np.float32(50)}, seed=7)
    back = there_and_back(tmp_path, made)
    assert back.parameters == {"optics": {"C10": -30.0, "tilt": [1.0, 2.0]}, "dose": 50.0}
    assert back.seed == 7
    assert "date" not in back.written, "equal data make equal files"
    same = write_export(tmp_path / "y.h5", made)
    assert same.read_bytes() == (tmp_path / "x.h5").read_bytes()
    assert "T" in there_and_back(tmp_path, made, date=True).written["date"]


def test_parameters_of_any_size(tmp_path):
    made = images(some(24, 40), 0.2, parameters={"positions": some(5000, 3)})
    assert len(there_and_back(tmp_path, made).parameters["positions"]) == 5000
    with pytest.raises(ExportError, match="cannot be written as JSON"):
        write_export(tmp_path / "y.h5", images(some(24, 40), 0.2, parameters={"f": some}))


def test_plain_hdf5_programs_find_the_array(tmp_path):
    path = write_export(tmp_path / "x.h5", images(some(24, 40), 0.2, title="a/b"))
    with h5py.File(path) as file:
        stored = file["emd/a-b/data"]
        assert stored.shape == (24, 40)
        assert file["Experiments/a-b/data"] == stored, "one array, two names"
        header = json.loads(file["emd/metadatabundle/emjax/header"][()])
    assert header["title"] == "a/b"


def test_our_own_reader_of_micrographs_knows_the_pixel_size(tmp_path):
    image = some(24, 40)
    for extension in ("h5", "hspy", "emd"):
        path = write_export(tmp_path / f"x.{extension}", images(image, (0.2, 0.1)))
        found = read_micrograph(path)
        np.testing.assert_array_equal(found.image, image)
        assert found.sampling == pytest.approx((0.2, 0.1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: images(some(24, 40), None), r"images without a calibration: give sampling in Å"),
        (lambda: patterns(some(24, 40), None), r"patterns without a calibration.*1/Å"),
        (lambda: images(some(24, 40), -0.1), "one positive number or a"),
        (lambda: images(some(24, 40), (0.1, float("nan"))), "one positive number or a"),
        (lambda: images(some(24, 40), "0.1 nm"), "one positive number or a"),
        (lambda: images(some(40), 0.1), r"images \[..., y, x\] need at least 2 axes"),
        (lambda: patterns(some(5, 8, 8), 0.1, scan_sampling=1.0), "need at least 4 axes"),
        (lambda: patterns(some(4, 8, 8), 0.1, order="middle"), "neither 'corner' nor 'centre'"),
        (
            lambda: images(some(3, 8, 8), 0.1, stack=[Axis("a"), Axis("b")]),
            r"1 axes in front, but stack describes 2 \(a, b\)",
        ),
        (
            lambda: images(some(3, 8, 8), 0.1, stack=[Axis.named("detector", ["BF"])]),
            "axis 'detector' has 1 values or labels, the array 3 entries",
        ),
        (lambda: images(some(0, 8, 8), 0.1), "holds nothing"),
        (lambda: potential(some(8, 8), 0.1, 1.0), r"slices \[z, y, x\], got .* \(8, 8\)"),
        (lambda: potential(some(3, 8, 8), 0.1, [1.0, 2.0]), "3 slices need one thickness or 3"),
        (lambda: potential(some(3, 8, 8), 0.1, 0.0), "positive thickness"),
        (lambda: Axis.of("t", [1, float("inf")]), "list of finite numbers"),
        (lambda: Export(some(8, 8), (Axis("y"),), "images"), r"1 axes \(y\) describe an array"),
        (
            lambda: Export(some(8, 8), (Axis("y"), Axis("t", navigate=True)), "images"),
            "stepped through come first",
        ),
    ],
)
def test_what_cannot_be_described_is_refused(make, message):
    with pytest.raises(ExportError, match=message):
        make()


def test_files_that_are_not_ours(tmp_path):
    with pytest.raises(ExportError, match="does not exist"):
        read_export(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(ExportError, match="is not an HDF5 file"):
        read_export(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = some(8, 8)
    with pytest.raises(ExportError, match=r"was not written by write_export: .*read_micrograph"):
        read_export(tmp_path / "other.h5")
    path = write_export(tmp_path / "x.h5", images(some(240, 400), 0.1))
    path.write_bytes(path.read_bytes()[:200_000])
    with pytest.raises(ExportError, match=r"damaged|not an HDF5 file"):
        read_export(path)


def test_a_file_of_a_later_emjax(tmp_path, monkeypatch):
    monkeypatch.setattr("emjax.data.export_layout.SCHEMA", 2)
    path = write_export(tmp_path / "x.h5", images(some(8, 8), 0.1))
    monkeypatch.undo()
    with pytest.raises(ExportError, match="has schema 2, written by emjax"):
        read_export(path)
