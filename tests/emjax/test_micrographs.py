"""Every kind of file is written, read back, and compared: pixels, pixel size in Å, unit, frames.

What RosettaSciIO can only read is written byte by byte by `micrograph_files`. All pixels here are
oblong (2 Å high, 3 Å wide) and all images too, so that no exchange of x and y goes unseen. The bad
input is in test_micrograph_errors.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

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
from emjax.data.micrograph_units import angstrom_per, kind_of_unit, stored_pixel_size
from emjax.data.micrographs import Micrograph, read_micrograph, require_sampling

STEPS = (2.0, 3.0)  # Å, (y, x)
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32"]


def check(micrograph: Micrograph, image: np.ndarray, units: str, steps=STEPS) -> None:
    assert micrograph.image.dtype == np.float32
    assert micrograph.image.dtype.isnative
    assert micrograph.image.flags.c_contiguous
    np.testing.assert_array_equal(micrograph.image, image)
    assert micrograph.sampling == pytest.approx(steps, rel=1e-6)
    assert micrograph.units == units
    assert micrograph.metadata["calibration"] == "file"
    json.dumps(micrograph.metadata)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("dtype", [*INTEGERS, "float32", "float64"])
def test_digital_micrograph(tmp_path, version, dtype):
    image = counts(dtype)
    path = write_dm(tmp_path / f"a.dm{version}", image, (0.2, 0.3), "nm", version=version)
    micrograph = read_micrograph(path)
    check(micrograph, image, "nm")
    assert micrograph.metadata["format"] == "DigitalMicrograph"
    assert micrograph.source == str(path)


@pytest.mark.parametrize("version", [3, 4])
def test_digital_micrograph_stack_units_and_no_thumbnail(tmp_path, version):
    frames = counts("float32", frames=4)
    path = write_dm(tmp_path / "movie.dm4", frames, (1.0, 0.2, 0.3), "nm", version=version)
    check(read_micrograph(path, frame=2), frames[2], "nm")
    check(read_micrograph(path, frame=-1), frames[3], "nm")
    assert read_micrograph(path, frame=-1).source == f"{path}[3]"
    path = write_dm(tmp_path / "b.dm3", counts(), (2e-4, 3e-4), "µm", thumbnail=False)
    check(read_micrograph(path), counts(), "µm")


@pytest.mark.parametrize("version", [0x210, 0x220])  # 32- and 64-bit offsets
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_tia_series(tmp_path, version, dtype):
    frames = counts(dtype, frames=3)
    path = write_ser(tmp_path / "a_1.ser", frames[:1], (2e-10, 3e-10), version=version)
    check(read_micrograph(path), frames[0][::-1], "nm")  # TIA stores the lowest row first
    path = write_ser(tmp_path / "s_1.ser", frames, (2e-10, 3e-10), version=version)
    check(read_micrograph(path, frame=1), frames[1][::-1], "nm")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "float32"])
def test_mrc(tmp_path, order, dtype):
    frames = (counts("int32", frames=3) * (4 if dtype == "uint8" else 1)).clip(0, 255).astype(dtype)
    path = write_mrc(tmp_path / "a.mrc", frames[:1], STEPS, order=order)
    check(read_micrograph(path), frames[0], "Å")
    path = write_mrc(tmp_path / "a.mrcs", frames, STEPS, order=order, extended=1024)
    check(read_micrograph(path, frame=2), frames[2], "Å")


def test_mrc_without_a_cell_has_no_calibration(tmp_path):
    path = write_mrc(tmp_path / "a.map", counts("float32", frames=1), None)
    assert read_micrograph(path).sampling is None


WRITTEN = [
    ("hspy", "hspy", "HyperSpy"),
    ("hspy", "hdf5", "HyperSpy"),
    ("emd", "emd", "EMD"),
    ("nexus", "nxs", "NeXus"),
    ("tiff", "tif", "TIFF (microscope)"),
    ("ripple", "rpl", "Ripple"),
    ("semper", "unf", "Semper"),
    ("digitalsurf", "sur", "DigitalSurf"),
]


@pytest.mark.parametrize(("module", "extension", "name"), WRITTEN)
def test_what_rosettasciio_writes(tmp_path, module, extension, name):
    image = counts({"semper": "float32", "digitalsurf": "int16"}.get(module, "uint16"))
    path = write_rsciio(module, tmp_path / f"a.{extension}", signal(image))
    micrograph = read_micrograph(path)
    check(micrograph, image, "nm")
    assert micrograph.metadata["format"] == name


@pytest.mark.parametrize(("module", "extension", "name"), WRITTEN[:6])
@pytest.mark.parametrize("lazy", [False, True])
def test_stacks_that_rosettasciio_writes(tmp_path, monkeypatch, module, extension, name, lazy):
    if lazy:  # as a file that is too large to be read for one frame
        monkeypatch.setattr(micrograph_formats, "LAZY_BYTES", 0)
    frames = counts(frames=5)
    path = write_rsciio(module, tmp_path / f"a.{extension}", signal(frames))
    check(read_micrograph(path, frame=3), frames[3], "nm")


def test_panta_rhei_compressed_members_are_read_even_when_large(tmp_path, monkeypatch):
    frames = counts(frames=5)
    path = write_rsciio("pantarhei", tmp_path / "a.prz", signal(frames))
    monkeypatch.setattr(micrograph_formats, "LAZY_BYTES", 0)
    np.testing.assert_array_equal(read_micrograph(path, frame=3).image, frames[3])


def test_velox_detectors_stacks_and_units(tmp_path):
    haadf, bf = counts(seed=1), counts(seed=2)
    images = {"HAADF": haadf[..., None], "BF": bf[..., None]}
    path = write_velox(tmp_path / "a.emd", images, (2e-10, 3e-10))
    for dataset, image in (("HAADF", haadf), ("BF", bf), ("1", bf), (0, haadf)):
        micrograph = read_micrograph(path, dataset=dataset)
        check(micrograph, image, "nm")
        assert micrograph.metadata["format"] == "Velox EMD"
    assert read_micrograph(path, dataset="BF").source == f"{path}::BF"
    frames = counts(frames=4)
    path = write_velox(tmp_path / "s.emd", {"HAADF": np.moveaxis(frames, 0, -1)}, (2e-11, 3e-11))
    check(read_micrograph(path, frame=1), frames[1], "pm", (0.2, 0.3))


def test_py4dstem_virtual_image_beside_its_datacube(tmp_path):
    path = tmp_path / "a.h5"

    def array(root, name, data, steps, units):
        group = root.create_group(name)
        group.attrs["emd_group_type"] = "array"
        group["data"] = data
        for i, (step, unit) in enumerate(zip(steps, units, strict=True)):
            group[f"dim{i}"] = np.array([0.0, step])
            group[f"dim{i}"].attrs.update({"name": f"axis {i}", "units": unit})

    with h5py.File(path, "w") as file:
        file.attrs.update({"emd_group_type": "file", "version_major": 1, "version_minor": 0})
        root = file.create_group("root")
        root.attrs["emd_group_type"] = "root"
        cube = np.zeros((24, 40, 16, 16), np.uint8)
        array(root, "datacube", cube, (2, 3, 0.1, 0.1), ("A", "A", "A^-1", "A^-1"))
        array(root, "adf", counts(), STEPS, ("A", "A"))
        array(root, "dp_mean", counts(seed=1), (0.1, 0.1), ("A^-1", "A^-1"))
    check(read_micrograph(path), counts(), "Å")  # the only image that is not a diffraction pattern
    check(read_micrograph(path, dataset="adf"), counts(), "Å")
    check(read_micrograph(path, dataset="root/adf/data"), counts(), "Å")


def test_plain_tiff(tmp_path):
    path, image = tmp_path / "a.tif", counts()
    tifffile.imwrite(path, image, resolution=(72, 72), resolutionunit=2)
    assert read_micrograph(path).sampling is None  # a printer's resolution
    tifffile.imwrite(path, image, resolution=(1e8 / 3, 1e8 / 2), resolutionunit=3)
    check(read_micrograph(path), image, "µm")
    tifffile.imwrite(path, image, metadata={"pixel_size": [0.2, 0.3], "units": "nm"})
    check(read_micrograph(path), image, "nm")


@pytest.mark.parametrize(
    ("unit", "factor"), [("nm", 10), ("micron", 1e4), ("\\u00B5m", 1e4), ("pm", 0.01)]
)
def test_imagej_tiff(tmp_path, unit, factor):
    path, frames = tmp_path / "a.tif", counts(frames=4)
    options = {"imagej": True, "resolution": (factor / 3, factor / 2), "metadata": {"unit": unit}}
    tifffile.imwrite(path, frames[0], **options)
    check(read_micrograph(path), frames[0], unit)
    tifffile.imwrite(path, frames, **options)
    check(read_micrograph(path, frame=3), frames[3], unit)
    tifffile.imwrite(path, frames[0], imagej=True, resolution=(72, 72))
    assert read_micrograph(path).sampling is None


def test_fei_tiff(tmp_path):
    text = "[Scan]\r\nPixelWidth=3e-10\r\nPixelHeight=2e-10\r\n"
    tags = [(34682, "s", 0, text, True)]
    tifffile.imwrite(tmp_path / "a.tif", counts(), extratags=tags, resolution=(72, 72))
    check(read_micrograph(tmp_path / "a.tif"), counts(), "m")


def test_ome_tiff_big_endian(tmp_path):
    path, frames = tmp_path / "a.ome.tif", counts(frames=4)
    sizes = {"PhysicalSizeX": 0.3, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.2}
    metadata = {"axes": "TYX", "PhysicalSizeYUnit": "nm", **sizes}
    tifffile.imwrite(path, frames, ome=True, byteorder=">", metadata=metadata)
    check(read_micrograph(path, frame=2), frames[2], "nm")


@pytest.mark.parametrize("dtype", [*INTEGERS, "uint64", "float16", "float32", "float64", "bool"])
def test_tiff_types_orders_and_compression(tmp_path, dtype):
    path = tmp_path / "a.tif"
    frames = counts("int32", frames=3) > 50 if dtype == "bool" else counts(dtype, frames=3)
    for order in "<>":
        tifffile.imwrite(path, frames, byteorder=order, photometric="minisblack")
        np.testing.assert_array_equal(read_micrograph(path, frame=1).image, frames[1])
    tifffile.imwrite(path, frames, compression="zlib", photometric="minisblack", bigtiff=True)
    np.testing.assert_array_equal(read_micrograph(path, frame=1).image, frames[1])


def test_tiff_compressed_with_lzw_needs_no_further_package(tmp_path):
    Image.fromarray(counts("uint8")).save(tmp_path / "a.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_micrograph(tmp_path / "a.tif").image, counts("uint8"))


def test_tiff_with_pages_of_two_shapes(tmp_path):
    path, image = tmp_path / "a.tif", counts()
    with tifffile.TiffWriter(path) as writer:
        writer.write(image)
        writer.write(image[:20])
    np.testing.assert_array_equal(read_micrograph(path, dataset=1).image, image[:20])
    np.testing.assert_array_equal(read_micrograph(path, dataset="series 0").image, image)


def test_stack_of_three_frames_is_not_taken_for_colours(tmp_path):
    frames = counts("uint8", frames=3)
    with warnings.catch_warnings():  # tifffile announces that this default will change
        warnings.simplefilter("ignore", DeprecationWarning)
        tifffile.imwrite(tmp_path / "a.tif", frames)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "a.tif", frame=2).image, frames[2])


def test_pictures_grey_colour_and_alpha(tmp_path):
    grey = counts("uint8")
    for name, picture in {
        "grey.png": Image.fromarray(grey),
        "grey_as_rgb.png": Image.fromarray(np.dstack([grey] * 3)),
        "with_alpha.png": Image.fromarray(np.dstack([grey] * 3 + [np.full_like(grey, 255)])),
        "deep.png": Image.fromarray(counts("uint16") * 300),
        "grey.bmp": Image.fromarray(grey),
        "palette.gif": Image.fromarray(grey),
    }.items():
        picture.save(tmp_path / name)
        micrograph = read_micrograph(tmp_path / name)
        factor = 300 if name == "deep.png" else 1
        np.testing.assert_array_equal(micrograph.image, grey.astype(int) * factor, err_msg=name)
        assert micrograph.sampling is None
    Image.fromarray(grey).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_micrograph(tmp_path / "a.jpg").image - grey).max() <= 4


def test_colours_become_luminance(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    expected = colours @ np.array([0.299, 0.587, 0.114])
    Image.fromarray(colours).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    np.savez(tmp_path / "a.npz", image=colours)
    for name in ("a.png", "a.tif", "a.npz"):
        micrograph = read_micrograph(tmp_path / name)
        np.testing.assert_allclose(micrograph.image, expected, rtol=1e-5, err_msg=name)


def test_moving_pictures_and_colour_stacks_take_a_frame(tmp_path):
    frames = [Image.fromarray(counts("uint8", seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(
        read_micrograph(tmp_path / "a.gif", frame=2).image, counts("uint8", seed=2)
    )


@pytest.mark.parametrize(
    ("calibration", "units", "steps"),
    [
        ({"pixel_nm": 0.2}, "nm", (2.0, 2.0)),
        ({"pixel_A": (2.0, 3.0)}, "A", STEPS),
        ({"pixel_pm": 200}, "pm", (2.0, 2.0)),
        ({"voxel_A": np.float32(2)}, "A", (2.0, 2.0)),
        ({"pixel_size_um": 2e-4}, "um", (2.0, 2.0)),
        ({"sampling": (2.0, 3.0)}, "Å", STEPS),
        ({"pixel_size": 0.2, "units": "nm"}, "nm", (2.0, 2.0)),
    ],
)
def test_npz_calibrations(tmp_path, calibration, units, steps):
    path = tmp_path / "a.npz"
    np.savez(path, image=counts(">f4"), model=counts(), xy=np.zeros((140, 2)), **calibration)
    check(read_micrograph(path), counts(), units, steps)
    check(read_micrograph(path, dataset="model"), counts(), units, steps)


def test_npz_only_image_masks_and_stack(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, scan=counts(), mask=counts() > 50, coordinates=np.zeros((9, 2)))
    np.testing.assert_array_equal(read_micrograph(path).image, counts())
    np.testing.assert_array_equal(read_micrograph(path, dataset="mask").image, counts() > 50)
    np.savez(path, frames=counts(frames=5), mean=counts())
    np.testing.assert_array_equal(read_micrograph(path, frame=4).image, counts(frames=5)[4])


@pytest.mark.parametrize("dtype", [">u2", "<i8", ">f8", "float16"])
def test_npy(tmp_path, dtype):
    np.save(tmp_path / "a.npy", counts(dtype)[None, :, None])
    np.testing.assert_array_equal(read_micrograph(tmp_path / "a.npy").image, counts())


def test_plain_hdf5(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["scan/haadf"] = counts()
        file["scan/bf"] = counts(seed=1)
        file["scan/stack"] = counts(frames=3)
        file["scan"].attrs["pixel_nm"] = 0.2
        file["scan/bf"].attrs.update({"pixel_size": [2.0, 3.0], "units": "Å"})
        file["link"] = h5py.SoftLink("/scan/bf")
        file["title"] = "graphene"
    check(read_micrograph(path, dataset="scan/haadf"), counts(), "nm", (2.0, 2.0))
    check(read_micrograph(path, dataset="/scan/bf"), counts(seed=1), "Å")
    check(read_micrograph(path, dataset="link"), counts(seed=1), "Å")
    check(read_micrograph(path, frame=1), counts(frames=3)[1], "nm", (2.0, 2.0))


def test_matlab_file_is_transposed_back(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["image"] = counts().T
        file["image"].attrs["MATLAB_class"] = np.bytes_("uint16")
        file["pixel_A"] = [[2.0]]
    check(read_micrograph(tmp_path / "a.mat"), counts(), "A", (2.0, 2.0))


def test_content_goes_before_the_extension(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", counts())
    (tmp_path / "a.png").write_bytes((tmp_path / "a.tif").read_bytes())
    (tmp_path / "a.dat").write_bytes((tmp_path / "a.tif").read_bytes())
    for name in ("a.png", "a.dat"):
        np.testing.assert_array_equal(read_micrograph(str(tmp_path / name)).image, counts())


def test_sampling_argument_goes_before_the_file(tmp_path):
    path = write_dm(tmp_path / "a.dm3", counts(), (0.2, 0.3), "nm")
    micrograph = read_micrograph(path, sampling=0.5)
    assert micrograph.sampling == (0.5, 0.5)
    assert micrograph.metadata["calibration"] == "argument"
    assert micrograph.units == "nm"
    assert require_sampling(read_micrograph(path, sampling=(0.5, 0.6))) == (0.5, 0.6)
    path = write_dm(tmp_path / "b.dm3", counts(), (0.2, 0.3), "1/nm")  # a wrong label
    assert read_micrograph(path, sampling=0.5).sampling == (0.5, 0.5)


def test_negative_steps_are_lengths(tmp_path):
    path = write_rsciio("hspy", tmp_path / "a.hspy", signal(counts(), (-0.2, 0.3)))
    check(read_micrograph(path), counts(), "nm")


def test_units():
    lengths = {"Angstrom": 1, "Å": 1, "\u212b": 1, "μm": 1e4, "µm/px": 1e4, "meters": 1e10}
    assert {u: angstrom_per(u) for u in lengths} == lengths
    for unit in ("1/nm", "1 / nm", "nm^-1", "Å⁻¹", "mrad", "1/meters", "nm**-1"):
        assert kind_of_unit(unit) == "reciprocal", unit
    for unit in (None, "", "px", "<undefined>", b"pixels"):
        assert kind_of_unit(unit) == "none", unit
    assert [kind_of_unit(u) for u in ("eV", "s", "angle")] == ["energy", "other", "other"]
    assert stored_pixel_size({"pixel_nm": -1.0, "pixel_A": "text", "label": 3}) is None


def test_reading_imports_no_jax(tmp_path):
    np.savez(tmp_path / "a.npz", image=counts(), pixel_nm=0.02)
    code = (
        "import sys; from emjax.data.micrographs import read_micrograph;"
        f"print(read_micrograph({str(tmp_path / 'a.npz')!r}).sampling[0]);"
        "print({'jax', 'matplotlib', 'skimage', 'scipy', 'rsciio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.2", "set()"]


def test_real_images(shared):
    folder = Path(shared) / "data" / "real"
    sto = read_micrograph(folder / "stem_crystals" / "sto_haadf.npz")
    assert sto.image.shape == (768, 768)
    assert sto.sampling == pytest.approx((0.100127, 0.100127))
    frame = read_micrograph(folder / "stem_graphene" / "frames.npz", dataset="Si_2nm")
    assert frame.image.shape == (256, 256)
    assert frame.sampling is None
