"""Bad input to `read_micrograph`: each message says what was wrong, where, and what to do."""

from __future__ import annotations

import contextlib
import warnings

import h5py
import numpy as np
import pytest
import tifffile
from micrograph_files import (
    counts,
    signal,
    write_dm,
    write_mrc,
    write_rsciio,
    write_ser,
    write_velox,
)
from PIL import Image

from emjax.data import micrograph_formats
from emjax.data.micrographs import MicrographError, read_micrograph, require_sampling


def refused(path, *parts: str, **options) -> str:
    """The message of the MicrographError, which names the file and holds all `parts`."""
    with pytest.raises(MicrographError) as caught:
        read_micrograph(path, **options)
    message = str(caught.value)
    for part in (path.name, *parts):
        assert part in message, message
    return message


def test_missing_file_suggests_neighbours(tmp_path):
    (tmp_path / "HAADF_0012.dm4").write_bytes(b"x")
    refused(tmp_path / "haadf_0013.dm4", "does not exist", "Did you mean HAADF_0012.dm4?")
    assert "Did you mean" not in refused(tmp_path / "zz.tif", "does not exist")
    refused(tmp_path / "no" / "a.tif", "there is no folder")


def test_folder_empty_file_and_zarr_store(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tif").touch()
    refused(tmp_path / "data", "is a folder", "a.tif")
    refused(tmp_path / "data" / "a.tif", "is empty (0 bytes)")
    (tmp_path / "a.zspy").mkdir()
    refused(tmp_path / "a.zspy", "zarr < 3", "save it from HyperSpy as .hspy")


VENDORS = ["dm3", "dm4", "ser", "mrc", "velox.emd", "hspy", "emd", "nxs", "unf", "prz", "blo"]
KINDS = [*VENDORS, "png", "jpg", "bmp", "gif", "tif", "zip.tif", "npy", "npz", "h5"]


@pytest.mark.parametrize("extension", KINDS)
def test_a_text_file_is_no_image(tmp_path, extension):
    path = tmp_path / f"notes.{extension}"
    path.write_text("These are my notes of the session on Friday.\n" * 40)
    message = refused(path, "cannot read")
    if extension not in ("mrc", "blo", "prz", "unf"):
        assert "it begins with the text 'These are my notes of th'" in message
    if extension == "mrc":
        assert "it is not an MRC file" in message


@pytest.mark.parametrize("extension", ["csv", "pdf", "xyz", "raw"])
def test_unknown_extension_lists_what_is_read(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    path.write_bytes(b"%PDF-1.7\n" + bytes(range(200)))
    refused(path, f"no reader for .{extension}", "dm4", "export it as .tif", "pixel_nm")


def write_any(folder, kind):
    """A good file of each kind; noise, so that compression cannot hide a loss."""
    path = folder / f"good.{kind}"
    image = np.random.default_rng(0).integers(0, 60000, (64, 48), dtype=np.uint16)
    if kind in ("dm3", "dm4"):
        return write_dm(path, image, version=int(kind[2]))
    if kind == "ser":
        return write_ser(path, image[None])
    if kind == "mrc":
        return write_mrc(path, image[None])
    if kind == "velox.emd":
        return write_velox(path, {"HAADF": image[..., None]}, (2e-10, 3e-10))
    writers = {"hspy": "hspy", "emd": "emd", "nxs": "nexus", "unf": "semper", "prz": "pantarhei"}
    if kind in writers:
        return write_rsciio(writers[kind], path, signal(image.astype("float32")))
    if kind == "blo":
        frames = np.random.default_rng(0).integers(0, 255, (3, 4, 32, 32), dtype=np.uint8)
        data = signal(frames)
        for axis, unit in zip(data["axes"], ("nm", "nm", "cm", "cm"), strict=True):
            axis["units"] = unit
        return write_rsciio("blockfile", path, data)
    if kind in ("png", "jpg", "bmp", "gif"):
        Image.fromarray((image >> 8).astype(np.uint8)).save(path)
    elif kind == "tif":
        tifffile.imwrite(path, image)
    elif kind == "zip.tif":
        tifffile.imwrite(path, image, compression="zlib")
    elif kind == "npy":
        np.save(path, image)
    elif kind == "npz":
        np.savez_compressed(path, image=image)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["image"] = image
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1, 0.01])
def test_a_truncated_file_is_refused(tmp_path, kind, kept):
    path = write_any(tmp_path, kind)
    if kind != "blo":
        assert read_micrograph(path).image.shape == (64, 48)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    if kind == "blo":  # RosettaSciIO fills it with zeros
        refused(path, "it is 4-D" if kept > 0.4 else "cannot read")
        return
    message = refused(path, "cannot read")
    assert any(said in message for said in ("incomplete", "it begins with the bytes")), message
    assert "Copy it again" in message or "it begins with" in message


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_raises_nothing_else(tmp_path, kind):
    """Flipped bytes may give a wrong image (few formats have check sums), but never a crash."""
    path = write_any(tmp_path, kind)
    whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    random = np.random.default_rng(1)
    for _ in range(6):
        broken = whole.copy()
        where = random.integers(0, min(len(whole), 2000), 8)
        broken[where] = random.integers(0, 255, 8)
        path.write_bytes(broken.tobytes())
        with contextlib.suppress(MicrographError):
            read_micrograph(path)


def test_big_endian_digital_micrograph_is_refused(tmp_path):
    path = write_dm(tmp_path / "mac.dm3", counts())
    data = bytearray(path.read_bytes())
    data[8:12] = bytes(4)
    path.write_bytes(bytes(data))
    refused(path, "big-endian DigitalMicrograph", "export it as .tif")


@pytest.mark.parametrize("kind", ["dm4", "mrc", "hspy", "tif", "npz"])
def test_not_finite_pixels_are_counted_and_located(tmp_path, kind):
    image = counts("float32")
    image[3, 7], image[5, 1], image[9, 9] = np.nan, np.inf, -np.inf
    path = tmp_path / f"a.{kind}"
    if kind == "dm4":
        write_dm(path, image, version=4)
    elif kind == "mrc":
        write_mrc(path, image[None])
    elif kind == "hspy":
        write_rsciio("hspy", path, signal(image))
    elif kind == "tif":
        tifffile.imwrite(path, image)
    else:
        np.savez(path, image=image)
    refused(path, "3 of 960 pixels", "1 NaN, 2 infinite", "first at row 3, column 7", "Crop")


def test_constant_and_out_of_range_images(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.full((24, 40), 7, np.int16))
    refused(path, "is constant: every pixel is 7")
    np.save(path, counts("float64") * 1e300)
    refused(path, "beyond float32")
    np.save(path, 2**40 + counts("int64"))
    refused(path, "float32 cannot", "subtract the offset")


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((0, 5)), "it is empty (0 x 5)"),
        (np.arange(2048.0), "it is one-dimensional (2048)"),
        (np.ones((1, 512)), "it is one-dimensional (1 x 512)"),
        (np.ones((140, 2)), "it is too small for an image (140 x 2; at least 16 x 16"),
        (np.ones((32, 32), complex), "it is complex (32 x 32): save its modulus"),
        (np.full((32, 32), "Si"), "and not numbers"),
        (np.ones((4, 5, 32, 32), np.uint8), "it is 4-D (4 x 5 x 32 x 32), as 4D-STEM data are"),
    ],
)
def test_arrays_that_are_no_images(tmp_path, array, problem):
    np.save(tmp_path / "a.npy", array)
    refused(tmp_path / "a.npy", "is not a micrograph", problem)
    np.savez(tmp_path / "a.npz", thing=array, other=np.arange(9))
    refused(tmp_path / "a.npz", "holds no image")
    refused(tmp_path / "a.npz", problem, dataset="thing")


def test_pickled_objects_are_not_opened(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.array([{"a": 1}, None], dtype=object))
    refused(tmp_path / "a.npz", "holds no array")
    np.save(tmp_path / "a.npy", np.array([{"a": 1}, None], dtype=object))
    refused(tmp_path / "a.npy", "cannot read")


@pytest.mark.parametrize("kind", ["blo", "hspy", "emd", "nxs", "tif", "h5"])
@pytest.mark.parametrize("lazy", [False, True])
def test_4d_stem_says_what_to_do(tmp_path, monkeypatch, kind, lazy):
    if lazy:
        monkeypatch.setattr(micrograph_formats, "LAZY_BYTES", 0)
    path = tmp_path / f"scan.{kind}"
    data = np.random.default_rng(0).integers(0, 255, (3, 4, 24, 24), dtype=np.uint8)
    if kind == "blo":
        path = write_any(tmp_path, "blo")
    elif kind == "tif":
        tifffile.imwrite(path, data, photometric="minisblack")
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["datacube/data"] = data
    else:
        module = {"nxs": "nexus"}.get(kind, kind)
        write_rsciio(module, path, signal(data, (0.1, 0.1), "1/nm"))
    refused(
        path, "it is 4-D", "virtual bright- or dark-field detector", "save that as .tif or .npz"
    )


@pytest.mark.parametrize("units", ["1/nm", "1/Å", "mrad"])
def test_diffraction_patterns(tmp_path, units):
    say = ("is a diffraction pattern", units, "--sampling 0.1")
    if units != "mrad":
        refused(write_dm(tmp_path / "a.dm4", counts(), units=units, version=4), *say)
    else:
        path = write_rsciio("hspy", tmp_path / "a.hspy", signal(counts(), units=units))
        refused(path, *say)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts(), imagej=True, resolution=(10, 10), metadata={"unit": "1/nm"})
    refused(path, "is a diffraction pattern")
    velox = write_velox(tmp_path / "a.emd", {"Ceta": counts()[..., None]}, (2e8, 2e8), "1/m")
    refused(velox, "is a diffraction pattern")


def test_a_pixel_size_that_no_image_has(tmp_path):
    # TIA writes diffraction patterns in 1/m, and a lone .ser does not say so
    path = write_ser(tmp_path / "a_1.ser", counts()[None], (2e7, 2e7))
    refused(path, "which no image has", "diffraction pattern whose unit was lost")
    assert read_micrograph(path, sampling=1).sampling == (1.0, 1.0)


def test_spectra_and_spectrum_images(tmp_path):
    data = signal(counts(frames=20), units="eV")
    refused(write_rsciio("hspy", tmp_path / "a.hspy", data), "spectrum image", "energy window")
    data = signal(counts(frames=20))
    data["axes"][1]["navigate"] = True
    refused(
        write_rsciio("hspy", tmp_path / "b.hspy", data), "it is a spectrum image (20 x 24 x 40)"
    )


def test_several_images_are_listed(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["haadf"], file["bf"], file["energies"] = counts(), counts(), np.arange(9)
        file["note"] = "text"
    refused(path, "holds 2 images", "--dataset 'bf'", "  0: bf (24 x 40)", "  2: haadf (24 x 40)")
    refused(path, "no dataset 'haad'", "Did you mean 'haadf'?", dataset="haad")
    refused(path, "no dataset '7'", "It holds: bf, energies, haadf", dataset=7)
    refused(path, "does not hold numbers", dataset="note")
    refused(path, "it is one-dimensional (9)", dataset="energies")
    with h5py.File(path, "w") as file:
        file["note"] = "text"
    refused(path, "holds no array")
    np.savez(tmp_path / "a.npz", movie=counts(frames=5), mean=counts())
    refused(tmp_path / "a.npz", "holds 2 images", "movie (5 x 24 x 40)", "mean (24 x 40)")


def test_frames(tmp_path):
    np.save(tmp_path / "a.npy", counts(frames=5))
    say = "stack of 5 images of 24 x 40 pixels"
    refused(tmp_path / "a.npy", say, "choose one from 0 to 4 with --frame 0")
    for frame in (5, -6):
        refused(tmp_path / "a.npy", say, f"there is no frame {frame}", frame=frame)
    np.save(tmp_path / "b.npy", counts())
    refused(tmp_path / "b.npy", "holds one image: there is no frame 2", frame=2)
    assert read_micrograph(tmp_path / "b.npy", frame=0).source == str(tmp_path / "b.npy")
    for frame in (1.0, True, "1"):
        with pytest.raises(MicrographError, match="is not a whole number"):
            read_micrograph(tmp_path / "a.npy", frame=frame)


@pytest.mark.parametrize("sampling", [0, -0.1, float("nan"), float("inf"), "x", (1, 2, 3), []])
def test_impossible_sampling(tmp_path, sampling):
    with pytest.raises(MicrographError, match="is not a pixel size: give one positive number"):
        read_micrograph(tmp_path / "a.tif", sampling=sampling)


def test_required_sampling_says_how_to_give_it(tmp_path):
    Image.fromarray(counts("uint8")).save(tmp_path / "a.png")
    with pytest.raises(MicrographError, match=r"a\.png has no pixel size: .* --sampling 0\.1"):
        require_sampling(read_micrograph(tmp_path / "a.png"))
    path = write_dm(tmp_path / "a.dm3", counts(), units="furlong")
    with pytest.raises(MicrographError, match="in 'furlong', which is not a known length"):
        require_sampling(read_micrograph(path))


def test_compressions_and_modes_that_are_not_read(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, counts("uint8"))
    data = path.read_bytes()
    place = data.index(b"\x03\x01\x03\x00\x01\x00\x00\x00\x01\x00")  # tag 259: compression 1
    path.write_bytes(data[: place + 8] + b"\xc8\x88" + data[place + 10 :])  # 35016
    refused(path, "cannot read")
    mrc = write_mrc(tmp_path / "a.mrc", counts("float32", frames=1))
    data = bytearray(mrc.read_bytes())
    data[12:16] = (101).to_bytes(4, "little")
    mrc.write_bytes(bytes(data))
    refused(mrc, "MRC mode 101 is not read", "convert it")
    refused(write_mrc(tmp_path / "c.mrc", counts("complex64", frames=1)), "it is complex")


def test_missing_packages_and_companions_are_named(tmp_path):
    path = tmp_path / "a.mrcz"
    path.write_bytes(bytes(2000))
    pytest.importorskip("rsciio")
    try:
        import mrcz  # noqa: F401
    except ImportError:
        refused(path, "only with the package mrcz", "pip install mrcz")
    emi = tmp_path / "a.emi"
    emi.write_bytes(b"<ObjectInfo><Uuid>0</Uuid></ObjectInfo>" * 3)
    refused(emi, ".ser files, which must lie beside it")


def test_velox_file_that_rosettasciio_refuses_is_not_guessed_at(tmp_path):
    path = write_velox(tmp_path / "a.emd", {"HAADF": counts()[..., None]}, (2e-10, 3e-10))
    with h5py.File(path, "a") as file:
        del file["Data/Image/00000000000000000000000000000000/Metadata"]
    refused(path, "cannot read this Velox file", "--dataset", "/Data")


def test_readers_remarks_do_not_reach_the_user(tmp_path, capfd):
    path = write_rsciio("pantarhei", tmp_path / "a.prz", signal(counts()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_micrograph(path)
    assert capfd.readouterr() == ("", "")
