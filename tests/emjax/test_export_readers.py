"""Other programs open our files: RosettaSciIO always, HyperSpy and py4DSTEM where installed."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from emjax.data.export import Axis, images, patterns, potential, to_hyperspy, waves, write_export

STEPS = [("scan_y", 0.5, 0.0), ("scan_x", 0.7, 0.0), ("ky", 0.1, -0.4), ("kx", 0.2, -1.0)]


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def scan(**about):
    return patterns(some(3, 4, 8, 10), (0.1, 0.2), scan_sampling=(0.5, 0.7), title="scan", **about)


@contextlib.contextmanager
def their_warnings() -> Iterator[None]:
    """Other programs may warn of what they like, and print it."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def by_rosettasciio(path, plugin: str, **options) -> dict:
    with their_warnings():
        found = importlib.import_module(f"rsciio.{plugin}").file_reader(str(path), **options)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("plugin", ["hspy", "emd"])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_scan_in_rosettasciio(tmp_path, plugin, lazy):
    made = scan()
    path = write_export(tmp_path / "x.h5", made)
    found = by_rosettasciio(path, plugin, lazy=lazy)
    np.testing.assert_array_equal(np.asarray(found["data"]), made.data)
    assert [a["name"] for a in found["axes"]] == [name for name, *_ in STEPS]
    assert [a["scale"] for a in found["axes"]] == pytest.approx([step for _, step, _ in STEPS])
    assert [a["offset"] for a in found["axes"]] == pytest.approx([first for *_, first in STEPS])
    units = [a["units"].replace(" ", "") for a in found["axes"]]
    assert units == ["Å", "Å", "1/Å", "1/Å"]
    assert found["metadata"]["General"]["title"] == "scan"
    if plugin == "hspy":
        assert [a["navigate"] for a in found["axes"]] == [True, True, False, False]


@pytest.mark.parametrize("plugin", ["hspy", "emd"])
def test_other_arrays_in_rosettasciio(tmp_path, plugin):
    wave = waves(some(24, 40) + 1j, (0.2, 0.1), title="wave")
    found = by_rosettasciio(write_export(tmp_path / "w.h5", wave), plugin)
    np.testing.assert_array_equal(found["data"], wave.data)
    one = potential(some(1, 24, 40), (0.2, 0.1), 2.5)
    found = by_rosettasciio(write_export(tmp_path / "p.h5", one), plugin)
    assert [a["scale"] for a in found["axes"]] == pytest.approx([2.5, 0.2, 0.1])


def test_hyperspys_metadata(tmp_path):
    made = scan(energy=80e3, seed=3, parameters={"optics": {"C10": -30.0}})
    found = by_rosettasciio(write_export(tmp_path / "x.hspy", made, date=True), "hspy")
    about = found["metadata"]
    assert about["Acquisition_instrument"]["TEM"]["beam_energy"] == 80.0, "in keV"
    assert about["Signal"]["quantity"] == "intensity (fraction of the dose)"
    assert len(about["General"]["date"]) == 10
    origin = found["original_metadata"]["emjax"]
    assert (origin["seed"], origin["parameters"]) == ("3", '{"optics": {"C10": -30.0}}')
    large = scan(parameters={"positions": some(9999, 3)})
    found = by_rosettasciio(write_export(tmp_path / "x.hspy", large), "hspy")
    assert "too long: see /emd" in found["original_metadata"]["emjax"]["parameters"]


def test_unequal_steps_are_an_axis_of_their_own(tmp_path):
    made = images(some(3, 24, 40), (0.2, 0.1), stack=[Axis.of("thickness", [10, 20, 40], "Å")])
    found = by_rosettasciio(write_export(tmp_path / "x.hspy", made), "hspy")
    np.testing.assert_array_equal(found["axes"][0]["axis"], [10, 20, 40])
    assert found["axes"][0]["_type"] == "DataAxis"


def test_in_hyperspy(tmp_path):
    with their_warnings():
        hs = pytest.importorskip("hyperspy.api")
    made = scan(energy=80e3)
    with their_warnings():
        loaded = hs.load(str(write_export(tmp_path / "x.hspy", made)))
        direct = to_hyperspy(made)
    for signal in (loaded, direct):
        assert type(signal).__name__ == "Signal2D"
        assert signal.axes_manager.navigation_shape == (4, 3)
        assert signal.axes_manager.signal_shape == (10, 8), "HyperSpy counts x first"
        for axis, (name, step, first) in zip(signal.axes_manager._axes, STEPS, strict=True):
            assert (axis.name, axis.scale, axis.offset) == (name, step, pytest.approx(first))
        np.testing.assert_array_equal(signal.data, made.data)
        assert signal.metadata.Acquisition_instrument.TEM.beam_energy == 80.0
        central = signal.inav[1, 2].isig[0.0, 0.0].data  # by coordinates: zero frequency
        assert central == made.data[2, 1, 4, 5]
    with their_warnings():
        profile = some_profile()
        assert type(to_hyperspy(profile)).__name__ == "Signal1D"
        assert type(to_hyperspy(waves(some(8, 9) + 1j, 0.1))).__name__ == "ComplexSignal2D"
        series = to_hyperspy(
            images(some(3, 24, 40), 0.1, stack=[Axis.of("thickness", [10, 20, 40], "Å")])
        )
    np.testing.assert_array_equal(series.axes_manager["thickness"].axis, [10, 20, 40])


def some_profile():
    from emjax.data.export import Export

    axes = (Axis("scan_x", 0.5, "Å", navigate=True), Axis("angle", 2.0, "mrad"))
    return Export(some(4, 50), axes, "profiles")


def test_without_hyperspy_the_message_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "hyperspy":
            raise ModuleNotFoundError("No module named 'hyperspy'", name="hyperspy")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModuleNotFoundError, match=r"pip install hyperspy.*without it"):
        to_hyperspy(scan())


def test_in_py4dstem(tmp_path):
    with their_warnings():
        py4dstem = pytest.importorskip("py4DSTEM")
    made = patterns(some(3, 4, 8, 10), 0.1, scan_sampling=0.5)
    path = str(write_export(tmp_path / "x.h5", made))
    with their_warnings():
        cube = py4dstem.read(path)
        ring = cube.get_virtual_image(
            mode="annular", geometry=((0, 0), (1.5, 3.5)), centered=True, name="ring"
        )
    assert type(cube).__name__ == "DataCube"
    np.testing.assert_array_equal(cube.data, made.data)
    assert cube.calibration.get_Q_pixel_size() == pytest.approx(0.1)
    assert cube.calibration.get_Q_pixel_units() == "A^-1"
    assert cube.calibration.get_R_pixel_size() == pytest.approx(0.5)
    assert cube.calibration.get_origin_mean() == (4, 5)
    ky, kx = (axis.coordinates(n) for axis, n in zip(made.axes[2:], (8, 10), strict=True))
    k = np.hypot(ky[:, None], kx[None, :])
    expected = (made.data * ((k > 0.15) & (k < 0.35))).sum((-2, -1))
    np.testing.assert_allclose(ring.data, expected, rtol=1e-5)
    with their_warnings():
        unequal = py4dstem.read(str(write_export(tmp_path / "y.h5", scan())))
    assert unequal.calibration.get_Q_pixel_units() == "pixels", "it has one size for both axes"


def test_in_emdfile(tmp_path):
    with their_warnings():
        emdfile = pytest.importorskip("emdfile")
    made = potential(some(3, 24, 40), (0.2, 0.1), [1.0, 2.5, 0.5])
    with their_warnings():
        array = emdfile.read(str(write_export(tmp_path / "x.emd", made)))
    np.testing.assert_array_equal(array.data, made.data)
    assert tuple(array.dim_names) == ("z", "y", "x")
    np.testing.assert_allclose(array.dims[0], [0, 1, 3.5])
    np.testing.assert_allclose(array.dims[2], 0.1 * np.arange(40), atol=1e-12)
    assert tuple(array.dim_units) == ("A", "A", "A")
    assert array.units == "V·Å"
