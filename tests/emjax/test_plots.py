"""Pictures: windows, scale bars, colours, and overlays that mark the right pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from emjax import plots

COLUMNS = np.dtype([("x", "f4"), ("y", "f4"), ("species", "i4")])


def columns(*rows):
    return np.array([tuple(row) for row in rows], COLUMNS)


@pytest.mark.parametrize(
    ("pixels", "sampling", "label", "length"),
    [
        (100, 0.2, "5 Å", 5.0),
        (256, 0.2, "1 nm", 10.0),
        (256, 0.01, "50 pm", 0.5),
        (512, 20.0, "200 nm", 2000.0),
        (1000, 100.0, "2 µm", 20000.0),
    ],
)
def test_scale_bar_is_a_round_length_below_a_third_of_the_width(pixels, sampling, label, length):
    fraction, text = plots.scale_bar(pixels, sampling)
    assert text == label
    assert fraction == pytest.approx(length / (pixels * sampling))
    assert 0.1 < fraction <= 0.3 + 1e-9


def test_scale_bar_in_other_units_and_wrong_sampling():
    assert plots.scale_bar(100, 0.05, "1/Å")[1] == "1 1/Å"
    with pytest.raises(ValueError, match="pixel size must be positive and finite, not 0"):
        plots.scale_bar(100, 0.0)
    with pytest.raises(ValueError, match="positive"):
        plots.nice_length(float("nan"))


def test_nice_length_at_its_steps():
    values = [0.99, 1, 1.99, 2, 4.99, 5, 9.99, 10, 0.001, 3e5]
    assert [plots.nice_length(v) for v in values] == [0.5, 1, 1, 2, 2, 5, 5, 10, 0.001, 2e5]


def test_display_window_ignores_hot_and_broken_pixels():
    image = np.linspace(0, 1, 10_000).reshape(100, 100)
    image[0, 0], image[0, 1], image[0, 2] = 1e6, np.nan, -np.inf
    low, high = plots.display_window([image])
    assert low == pytest.approx(0.003, abs=0.002)
    assert high == pytest.approx(0.997, abs=0.002)


def test_display_window_of_constant_sparse_and_empty_pictures():
    assert plots.display_window([np.full((4, 4), 3.0)]) == (2.5, 3.5)
    sparse = np.zeros((100, 100))
    sparse[3, 4] = 7
    assert plots.display_window([sparse]) == (0.0, 7.0)
    assert plots.display_window([np.full((2, 2), np.nan)]) == (0.0, 1.0)
    assert plots.symmetric_window([np.zeros((3, 3))]) == (-1.0, 1.0)


def test_symmetric_window_shows_zero_in_the_neutral_colour():
    low, high = plots.symmetric_window([np.array([[-2.0, 0.5]] * 50)])
    assert low == -high == pytest.approx(-2.0)
    shown = plots.picture(np.zeros((1, 1)), (low, high), "residual").convert("RGB")
    assert min(shown.getpixel((0, 0))) > 235  # white


def test_picture_clips_to_its_window_and_marks_broken_pixels():
    image = np.array([[-1.0, 0.0, 0.5, 1.0, 9.0]])
    assert np.asarray(plots.picture(image, (0, 1))).tolist() == [[0, 0, 128, 255, 255]]
    broken = plots.picture(np.array([[0.0, np.nan, np.inf]]), (0, 1))
    assert np.asarray(broken)[0].tolist() == [[0, 0, 0], [255, 0, 255], [255, 0, 255]]


def test_palettes():
    assert plots.palette("labels")[0].tolist() != plots.palette("labels")[1].tolist()
    for cmap in plots.CMAPS:
        assert plots.palette(cmap).shape == (256, 3)
    with pytest.raises(ValueError, match=r"unknown colour map 'jet'.*gray.*residual.*labels"):
        plots.palette("jet")


def test_png_of_a_coloured_picture_reads_back():
    image = np.arange(256, dtype=float).reshape(16, 16)
    png = plots.png_bytes(plots.picture(image, (0, 255), "magma"))
    back = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    np.testing.assert_array_equal(back.reshape(256, 3), plots.palette("magma"))


def test_shrink_averages_pictures_but_picks_classes():
    image = np.kron(np.array([[0.0, 1.0], [2.0, 3.0]]), np.ones((8, 8)))
    np.testing.assert_allclose(plots.shrink(image, 2), [[0, 1], [2, 3]])
    checks = np.indices((16, 16)).sum(axis=0) % 2 * 5
    assert set(np.unique(plots.shrink(checks, 4, labels=True))) <= {0, 5}
    assert plots.shrink(image, 16) is image
    assert plots.shrink(np.zeros((100, 40)), 50).shape == (50, 20)


def test_marker_radius_keeps_neighbours_apart():
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2) * 8.0
    assert plots.marker_radius(grid, 200) == pytest.approx(0.33 * 8)
    assert plots.marker_radius(np.zeros((0, 2)), 90) == pytest.approx(1.5)
    assert plots.marker_radius(np.zeros((5, 2)), 90) == pytest.approx(1.5)  # all on one place


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_overlay_marks_columns_in_their_colours(tmp_path):
    image = np.zeros((50, 100), np.float32)
    found = columns((20, 10, 0), (70, 30, 1))
    path = plots.overlay_png(tmp_path / "overlay.png", image, 0.2, found, ["C", "Si"])
    picture = read(path).astype(int)
    zoom = picture.shape[1] // 100
    assert picture.shape[1] == 1000
    assert picture.shape[0] > 50 * zoom  # the legend lies below
    for x, y, species in found.tolist():
        colour = plots.species_colour(species)
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        hits = np.argwhere((np.abs(picture[: 50 * zoom] - rgb) < 3).all(axis=-1))
        centre = (hits.min(axis=0) + hits.max(axis=0)) / 2
        # pixel i AT i: the middle of the zoomed pixel
        expected = np.array([y + 0.5, x + 0.5]) * zoom - 0.5
        np.testing.assert_allclose(centre, expected, atol=1.0)
    assert not list(tmp_path.glob("*.part"))


def test_overlay_without_calibration_columns_or_classes(tmp_path):
    image = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    plain = plots.overlay_png(tmp_path / "a.png", image, None)
    assert read(plain).shape == (1000, 1000, 3)
    none = plots.overlay_png(tmp_path / "b.png", image, 0.1, columns()[:0], ["C"])
    assert read(none).shape[0] > 1000  # the legend says "C 0"
    bare = np.zeros(1, [("x", "f4"), ("y", "f4")])
    assert read(plots.overlay_png(tmp_path / "c.png", image, 0.1, bare)).shape[0] == 1000
    unknown = plots.overlay_png(tmp_path / "d.png", image, 0.1, columns((3, 3, 4)), ["C"])
    assert unknown.is_file()  # classes without a name are numbered


def test_overlay_draws_pixels_that_are_not_square_as_long_as_they_are(tmp_path):
    path = plots.overlay_png(tmp_path / "a.png", np.eye(50, dtype=np.float32), (0.1, 0.2))
    assert read(path).shape == (500, 1000, 3)


def test_overlay_reduces_huge_pictures(tmp_path):
    path = plots.overlay_png(tmp_path / "a.png", np.zeros((8, 5000), np.float32), None)
    assert read(path).shape[1] == 4096


def test_overlay_of_a_stack_says_what_it_needs(tmp_path):
    with pytest.raises(ValueError, match=r"axes \[y, x\], not the shape \(2, 8, 8\)"):
        plots.overlay_png(tmp_path / "a.png", np.zeros((2, 8, 8)), 0.1)
    assert not list(tmp_path.iterdir())
