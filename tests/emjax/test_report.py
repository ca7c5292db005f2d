"""The report: one self-contained page, the right figures on it, and the same page made again."""

import base64
import html.parser
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from emjax import report_svg
from emjax.report import (
    Card,
    Curve,
    Example,
    Panel,
    Points,
    ReportError,
    Section,
    Table,
    load_report,
    rerender,
    training_curves,
    write_report,
)
from emjax.report_page import format_column


class Page(html.parser.HTMLParser):
    """Text, tags and open tags of a page."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def images(self):
        return [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(a["src"].partition(",")[2]))))
            for tag, a in self.tags
            if tag == "img"
        ]


@dataclass(frozen=True)
class Config:
    seed: int = 0
    note: str = "a <b> & c"


def picture(ny=32, nx=32, seed=0):
    return np.random.default_rng(seed).normal(size=(ny, nx)).astype(np.float32)


def example(caption="graphene"):
    xy = np.array([[3.0, 4.0], [10.0, 20.0]])
    image = picture()
    marked = Panel("Prediction", image, 0.2, [Points(xy, "C"), (xy[:0], "Si")])
    residual = Panel("Residual", image - 0.5, 0.2, cmap="residual")
    return Example(caption, [Panel("Noisy", image, 0.2), marked, residual], "dose 20 e")


def write(folder, **changes):
    table = Table(
        "Scores",
        ["Method", "F1", "Images"],
        [
            ["Hard part"],
            ["U-Net", (0.913, 0.897, 0.928), 240],
            ["Laplacian of Gaussian", (0.747, 0.722, 0.771), 240],
        ],
        better={"F1": "high"},
        highlight=[0],
    )
    curve = Curve("F1 over dose", {"U-Net": ([1, 10, 100], [0.5, 0.9, 0.95])}, log_x=True)
    contents = {
        "title": "Atom <columns>",
        "summary": ["It works & it is fast."],
        "cards": [Card("F1", (0.913, 0.897, 0.928), "classical 0.747")],
        "sections": [Section("Results", [table, curve]), Section("Examples", [example()])],
        "config": Config(),
        "env": {"jax": "0.10.1", "command": "emjax run x", "git": {"commit": "abc"}},
    }
    return write_report(folder, **(contents | changes))


def test_the_page_loads_nothing_and_runs_nothing(tmp_path):
    source = write(tmp_path / "run").read_text("utf-8")
    page = Page(source)
    assert page.open == []  # well formed
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed"}
    links = [a[key] for _, a in page.tags for key in ("src", "href") if key in a]
    assert links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert "http:" not in source
    assert "https:" not in source
    assert "@import" not in source
    assert "url(" not in source


def test_the_page_says_what_it_was_given(tmp_path):
    path = write(tmp_path / "my_run")
    page = Page(path.read_text("utf-8"))
    assert path == tmp_path / "my_run" / "report.html"
    for words in (
        "Atom <columns>",  # escaped, and back
        "my_run",
        "It works & it is fast.",
        "0.913",
        "0.897 – 0.928",
        "Hard part",
        "Laplacian of Gaussian",
        "graphene",
        "dose 20 e",
        "1 Å",  # the scale bar of a picture 6.4 Å wide
        "a <b> & c",
        "git.commit",
        "emjax run x",
    ):
        assert words in page.text, words
    assert len(page.images()) == 3
    assert not list(path.parent.glob("*.part"))


def test_best_number_and_own_row_stand_out(tmp_path):
    source = write(tmp_path).read_text("utf-8")
    assert len(re.findall(r'class="num best"', source)) == 1
    assert re.search(r'<tr class="ours">\s*<td class="">U-Net</td>', source)


def test_panels_of_one_colour_map_share_a_window(tmp_path):
    dark, bright = np.full((8, 8), 1.0), np.full((8, 8), 3.0)
    own = Panel("own", dark, window=(0.0, 1.0))
    row = Example("row", [Panel("a", dark), Panel("b", bright), own])
    path = write(tmp_path, sections=[Section("S", [row])])
    shown = [int(image.max()) for image in Page(path.read_text("utf-8")).images()]
    assert shown == [0, 255, 255]


def test_residuals_are_symmetric_about_zero(tmp_path):
    image = np.array([[-4.0, 0.0, 1.0]])
    path = write(
        tmp_path, sections=[Section("S", [Example("r", [Panel("r", image, cmap="residual")])])]
    )
    source = path.read_text("utf-8")
    low, high = re.search(
        r'class="window"><span>(.*?)</span>.*?<span>(.*?)</span></div>', source
    ).groups()
    assert low == "−" + high
    middle = np.asarray(Image.open(io.BytesIO(_png(source))).convert("RGB"))[0, 1]
    assert middle.min() > 235


def test_marks_lie_on_their_pixels(tmp_path):
    source = write(tmp_path).read_text("utf-8")
    path = re.search(
        r'<svg viewBox="0 0 32 32".*?<path id="m1"[^>]* d="(.*?)"', source, re.S
    ).group(1)
    # pixel i AT i, and the picture's first pixel spans 0 to 1
    assert path.startswith("M3.50 4.50m")
    assert "M10.50 20.50m" in path
    assert 'preserveAspectRatio="none"' in source
    # a use takes no style from the page's sheet: without these, rings are filled and thick
    assert '<path id="m1" fill="none" vector-effect="non-scaling-stroke"' in source


def test_large_pictures_are_reduced_until_the_page_fits(tmp_path):
    rows = [Example(f"row {i}", [Panel("a", picture(600, 300, i), 0.1)]) for i in range(6)]
    path = write(tmp_path, sections=[Section("S", rows)], max_bytes=250_000)
    page = Page(path.read_text("utf-8"))
    assert path.stat().st_size <= 250_000
    sides = {image.shape for image in page.images()}
    assert len(sides) == 1
    assert max(sides.pop()) < 512
    assert re.search(r"averaged down to \d+ on this page", page.text)
    assert load_report(tmp_path).sections[0].items[0].panels[0].image.shape == (600, 300)


def test_rendering_again_gives_the_same_page(tmp_path):
    path = write(tmp_path)
    first = path.read_text("utf-8")
    path.unlink()
    assert rerender(tmp_path) == path
    assert path.read_text("utf-8") == first


def test_contents_survive_the_files(tmp_path):
    table = Table("T", ["a", "b"], [["x", math.nan], ["y", np.float32(2.5)]])
    write(tmp_path, sections=[Section("S", [table, example()])])
    report = load_report(tmp_path)
    back, row = report.sections[0].items
    assert math.isnan(back.rows[0][1])
    assert back.rows[1] == ["y", 2.5]
    assert row.panels[1].points[0].label == "C"
    np.testing.assert_array_equal(row.panels[0].image, picture())
    json.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=pytest.fail)


def test_a_run_folder_gives_config_environment_and_command(tmp_path):
    settings = {
        "experiment": "locate_atoms",
        "preset": "cpu",
        "config": {"optics": {"energy": 6e4}},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "env.json").write_text(json.dumps({"command": "emjax run locate_atoms"}))
    text = Page(write(tmp_path, config=None, env=None).read_text("utf-8")).text
    assert "Repeat this run emjax run locate_atoms" in text
    assert "optics.energy 60000.0" in text
    assert "preset cpu" in text


def test_an_empty_report_is_still_a_page(tmp_path):
    page = Page(write_report(tmp_path, title="Nothing yet").read_text("utf-8"))
    assert page.open == []
    assert "Nothing yet" in page.text


def test_several_commands_under_their_headings(tmp_path):
    commands = {"Repeat": "emjax run x --seed 1", "Use": "emjax predict x image.dm4"}
    text = Page(write(tmp_path, command=commands).read_text("utf-8")).text
    assert "Repeat emjax run x --seed 1 Use emjax predict x image.dm4" in text


def test_segmentations_phases_and_colours(tmp_path):
    labels = np.array([[0, 1], [2, 1]])
    row = Example(
        "kinds",
        [
            Panel("classes", labels, 2.0, cmap="labels", classes=["support", "particle"]),
            Panel("phase", np.zeros((4, 4)), cmap="phase"),
            Panel("colours", np.zeros((4, 4, 3), np.uint8)),
            Panel("diffraction", np.ones((4, 4)), 0.01, unit="1/Å", cmap="viridis"),
            Panel("broken", np.array([[1.0, np.nan]])),
        ],
    )
    page = Page(write(tmp_path, sections=[Section("S", [row])]).read_text("utf-8"))
    assert "support particle" in page.text
    assert "−3.14" in page.text
    assert "0.01 1/Å" in page.text
    assert "1 pixel is not finite (magenta)" in page.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Panel("p", np.zeros((2, 4, 4))), r"'p' needs an image \[y, x\].*\(2, 4, 4\)"),
        (lambda: Panel("p", np.zeros((0, 4))), r"needs an image"),
        (lambda: Panel("p", np.ones((4, 4), complex)), r"complex: show np.abs"),
        (lambda: Panel("p", np.ones((4, 4)), points=[(np.ones((3, 3)), "C")]), r"give \[n, 2\]"),
        (lambda: Panel("p", np.ones((4, 4)), cmap="jet"), r"'jet'.*choose from gray"),
        (lambda: Panel("p", np.ones((4, 4)), sampling=-1.0), r"'p'.*pixel size.*-1"),
        (lambda: Panel("p", np.ones((4, 4)), window=(1, 1)), r"window \(1, 1\)"),
        (lambda: Panel("p", np.ones((4, 4)), points=[([], "C", "", "star")]), r"marker 'star'"),
        (lambda: Table("t", ["a", "b"], [[1, 2, 3]]), r"row 0 of the table 't' has 3 cells for 2"),
        (lambda: Table("t", ["a"], [], better={"b": "high"}), r"name one of the columns \['a'\]"),
        (lambda: Curve("c", {"l": ([1, 2], [1])}), r"'l' of 'c' needs .*lengths \[2, 1\]"),
        (lambda: Curve("c", {}, kind="bars"), r"kind 'bars'.*line, points, steps"),
        (lambda: training_curves({"loss": [1.0]}), r"no column 'step'"),
    ],
)
def test_contents_that_cannot_be_shown_say_so_at_once(make, message):
    with pytest.raises(ReportError, match=message):
        make()


def test_saved_reports_that_cannot_be_read(tmp_path):
    with pytest.raises(ReportError, match=r"no report\.json in .*run that has finished"):
        rerender(tmp_path)
    path = write(tmp_path)
    page, saved = path.read_bytes(), (tmp_path / "report.json").read_text("utf-8")

    (tmp_path / "report.json").write_text(saved[: len(saved) // 2], "utf-8")
    with pytest.raises(ReportError, match=r"damaged.*--resume"):
        rerender(tmp_path)
    (tmp_path / "report.json").write_text(saved.replace('"format": 1', '"format": 99'), "utf-8")
    with pytest.raises(ReportError, match="format 99, this emjax reads format 1"):
        rerender(tmp_path)
    (tmp_path / "report.json").write_text(saved.replace('"Points"', '"Pointz"'), "utf-8")
    with pytest.raises(ReportError, match="damaged"):
        rerender(tmp_path)
    (tmp_path / "report.json").write_text(re.sub('stamp": "..', 'stamp": "zz', saved), "utf-8")
    with pytest.raises(ReportError, match="not of one report"):
        rerender(tmp_path)

    (tmp_path / "report.json").write_text(saved, "utf-8")
    store = (tmp_path / "report.npz").read_bytes()
    (tmp_path / "report.npz").write_bytes(store[: len(store) // 2])
    with pytest.raises(ReportError, match="damaged"):
        rerender(tmp_path)
    assert path.read_bytes() == page  # the old page is untouched by all this


def test_training_curves_pair_training_with_held_out_values():
    nan = math.nan
    curves = training_curves(
        {
            "step": [0, 1, 2, 3],
            "loss": [1.0, 0.1, 0.02, nan],
            "val_loss": [1.1, nan, 0.03, nan],
            "val_f1": [0.5, nan, 0.9, nan],
            "seconds": [1, 2, 3, 4],
            "finite": [1, 1, 1, 1],
        }
    )
    assert [c.title for c in curves] == ["Loss", "F1, held-out"]
    loss = curves[0]
    assert list(loss.lines) == ["training", "held-out"]
    assert loss.log_y
    assert not curves[1].log_y
    np.testing.assert_array_equal(loss.lines["held-out"][0], [0, 2])


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        ([(0.968, 0.961, 0.975), 0.5, None], ["0.968", "0.500", "–"]),
        ([(30.123, 29.9, 30.4), (28.0, 27.6, 28.4)], ["30.12", "28.00"]),
        ([240, 12_000, 3], ["240", "12\u202f000", "3"]),
        ([1e-6, 1e3], ["10⁻⁶", "1000"]),
        ([0.1234, 0.5678], ["0.123", "0.568"]),
        ([math.nan, -0.25, math.inf, True], ["–", "−0.250", "∞", "yes"]),
        (["text", 3.0], ["text", "3.00"]),
        ([0.0], ["0"]),
    ],
)
def test_numbers_of_a_column(cells, texts):
    assert format_column(cells) == texts


def test_ticks():
    assert report_svg.linear_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert report_svg.linear_ticks(-3, 17) == [0, 5, 10, 15]
    assert report_svg.linear_ticks(2, 2) == [2]
    assert report_svg.log_ticks(0.5, 2000)[0] == [1, 10, 100, 1000]
    assert report_svg.log_ticks(2, 60)[0] == pytest.approx([2, 5, 10, 20, 50])
    assert report_svg.log_ticks(2, 8)[0] == pytest.approx([2, 3, 4, 5, 6, 7, 8])
    assert len(report_svg.log_ticks(1e-12, 1e12)[0]) < 9


def test_curves_keep_spikes_and_leave_out_what_an_axis_cannot_show():
    y = np.ones(10_000)
    y[4321], y[77] = 50.0, np.nan
    svg = report_svg.curve_svg(Curve("loss", {"a": (np.arange(10_000), y)}, "step", log_y=True))
    assert len(svg) < 12_000
    heights = [float(v) for v in re.findall(r"[ML]\S+ ([\d.]+)", svg.split('class="line')[1])]
    assert max(heights) - min(heights) > 0.8 * (report_svg.HEIGHT - report_svg.TOP - 42)
    assert "nan" not in svg
    nothing = Curve("loss", {"a": ([1, 2], [-1.0, np.nan])}, log_y=True)
    assert "No finite values" in report_svg.curve_svg(nothing)
    assert "circle" in report_svg.curve_svg(Curve("one", {"a": ([3], [2.0])}))
    steps = Curve("h", {"a": ([0, 1, 2], [1, 5, 2])}, kind="steps")
    path = report_svg.curve_svg(steps).split('class="line c0" d="')[1].split('"')[0]
    assert path.count(" ") == 6  # two corners a value


def test_text_in_drawings_is_escaped():
    curve = Curve("a<b", {"l": ([0, 1], [0, 1])}, x_label="<x>", y_label="y & z")
    svg = report_svg.curve_svg(curve)
    assert "&lt;x&gt;" in svg
    assert "y &amp; z" in svg
    assert "<x>" not in svg


def test_importing_the_report_is_light():
    slow = "jax flax optax matplotlib skimage scipy PIL jinja2"
    code = f"import sys, emjax.report; print([m for m in {slow.split()} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _png(source):
    return base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", source).group(1))
