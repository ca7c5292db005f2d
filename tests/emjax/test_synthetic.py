"""Training images and their labels: one small compiled draw, whose conditions are arguments."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, maximum_filter

from emjax.config import SceneConfig
from emjax.data.synthetic import OTHER, class_table, make_draw
from simulators.specimens import MATERIALS

CLASSES = ("C", "S", "Mo", "Se", "W", OTHER)
BATCH, PATCH = 6, 48
EASY = SceneConfig(
    patch=PATCH,
    **dict.fromkeys(("defocus", "C12", "C21", "C23", "C30"), 0.0),
    **dict.fromkeys(("readout", "jitter", "line_gain", "shear", "background", "pedestal"), 0.0),
    **dict.fromkeys(("vacancies", "damage", "substitutions", "boundary", "edge", "generic"), 0.0),
    **dict.fromkeys(("gain", "gain_layer"), 0.0),
    source_size=(0.7, 1.15),
    contrast_layer=(1.0, 1.0),
)
"""MoS2 as it is in textbooks."""


@jax.jit
def _drawn(key: jax.Array, changes: dict) -> dict[str, jax.Array]:
    return make_draw(replace(EASY, **changes), {"mos2": MATERIALS["mos2"]}, CLASSES, BATCH)(key)


@functools.cache
def drawn(
    seed: int = 0,
    *,
    dose: float = 1e4,
    jitter: float = 0.0,
    generic: float = 0.0,
    vacancies: float = 0.0,
) -> dict:
    """A batch; what is given is traced, so that everything here is one compilation."""
    changes = {"dose": (dose, dose), "jitter": jitter, "generic": generic, "vacancies": vacancies}
    return {k: np.asarray(v) for k, v in _drawn(jax.random.key(seed), changes).items()}


def places(picture: np.ndarray, least: float, border: int = 5) -> np.ndarray:
    """Maxima (y, x) [n, 2] of a smooth picture, by a parabola through three pixels each way."""
    peak = (picture == maximum_filter(picture, 5)) & (picture > least)
    peak[:border] = peak[-border:] = peak[:, :border] = peak[:, -border:] = False
    found = []
    for y, x in np.argwhere(peak):
        lines = picture[y - 1 : y + 2, x], picture[y, x - 1 : x + 2]
        found.append(
            [
                at + 0.5 * (a - c) / (a - 2 * b + c)
                for at, (a, b, c) in zip((y, x), lines, strict=True)
            ]
        )
    return np.reshape(found, (-1, 2))


def labels_of(heat: np.ndarray) -> np.ndarray:
    """Places of the columns: a logarithm makes a parabola of a Gaussian."""
    return places(np.log(np.maximum(heat, 1e-6)), np.log(0.7))


def offsets(batch: dict, labels: dict | None = None) -> np.ndarray:
    """From every label (of the same or of another batch) to the nearest maximum of the image."""
    result = []
    for image, heat in zip(batch["image"], (labels or batch)["heat"], strict=True):
        spots = places(gaussian_filter(image[..., 0], 1.2), -np.inf, border=2)
        gaps = spots[None] - labels_of(heat)[:, None]
        nearest = np.hypot(*gaps.transpose(2, 0, 1)).argmin(axis=1)
        result.append(gaps[np.arange(len(nearest)), nearest])
    return np.concatenate(result)


def test_shapes_and_ranges():
    batch = drawn()
    assert {name: a.shape for name, a in batch.items()} == {
        "image": (BATCH, PATCH, PATCH, 2),
        "heat": (BATCH, PATCH, PATCH),
        "vacant": (BATCH, PATCH, PATCH),
        "species": (BATCH, PATCH, PATCH, len(CLASSES)),
    }
    for array in batch.values():
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    assert batch["heat"].min() >= 0
    assert batch["heat"].max() <= 1
    assert batch["species"].min() >= 0
    assert batch["species"].sum(-1).max() <= 1 + 1e-5


def test_every_column_has_height_1_between_pixels():
    sigma = EASY.width / EASY.sampling
    lowest = np.exp(-0.5 * 0.5 / sigma**2)  # half a pixel away in x and in y
    for heat in drawn()["heat"]:
        peak = (heat == maximum_filter(heat, 5)) & (heat > 0.3)
        tops = heat[5:-5, 5:-5][peak[5:-5, 5:-5]]
        assert len(tops) > 10
        assert tops.min() > lowest - 1e-3


def test_on_a_column_the_species_is_known():
    batch = drawn()
    on = batch["heat"] > 0.6
    np.testing.assert_allclose(batch["species"][on].sum(-1), 1, atol=1e-5)
    assert batch["species"][on].max(-1).mean() > 0.99
    far = batch["heat"] < 1e-9
    assert not batch["species"][far].any() or batch["species"][far].max() < 1e-2


def test_one_crystal_gives_its_own_classes():
    total = drawn()["species"].sum((0, 1, 2))
    assert total[CLASSES.index("C")] == total[CLASSES.index(OTHER)] == 0
    mo, s = (total[CLASSES.index(name)] for name in ("Mo", "S"))
    assert mo == pytest.approx(s, rel=0.2), "as many columns of one as of the other"


def test_a_site_holds_a_column_or_is_vacant():
    whole, damaged = drawn(), drawn(vacancies=0.6)
    assert not whole["vacant"].any()
    lost = (whole["heat"] > 0.9) & (damaged["heat"] < 0.1)
    assert lost.sum() > 20
    assert damaged["vacant"][lost].min() > 0.7
    assert damaged["vacant"][whole["heat"] < 0.01].max() < 0.1, "no vacancy between sites"
    # where one of two sulphurs is missing the other is still a column
    assert damaged["vacant"][damaged["heat"] > 0.95].max() < 0.05


def test_unnamed_crystals_are_other():
    batch = drawn(generic=1.0)
    total = batch["species"].sum((0, 1, 2))
    assert total[CLASSES.index(OTHER)] > 0
    assert not total[:-1].any()
    assert (batch["heat"] > 0.9).any(axis=(1, 2)).all()


def test_columns_are_the_bright_places():
    batch = drawn()
    for image, heat in zip(batch["image"], batch["heat"], strict=True):
        assert np.corrcoef(image[..., 0].ravel(), heat.ravel())[0, 1] > 0.6
        assert np.corrcoef(image[..., 1].ravel(), heat.ravel())[0, 1] > 0.6
        on, between = image[heat > 0.8], image[heat < 0.05]
        assert (on.mean(0) > between.mean(0) + 3 * between.std(0)).all()


def test_labels_lie_on_the_maxima():
    off = np.concatenate([offsets(drawn(seed)) for seed in range(3)])
    assert len(off) > 200
    assert np.abs(off.mean(0)).max() < 0.03, "pixels: no systematic shift"
    assert np.median(np.hypot(*off.T)) < 0.06
    assert np.quantile(np.hypot(*off.T), 0.95) < 0.4


def test_molybdenum_is_brighter_than_two_sulphurs():
    batch = drawn()
    on = batch["heat"] > 0.8
    kind = batch["species"].argmax(-1)
    for image, here, k in zip(batch["image"], on, kind, strict=True):
        mo, s = (image[here & (k == CLASSES.index(name)), 0] for name in ("Mo", "S"))
        assert mo.mean() > s.mean()


def test_labels_follow_the_lines():
    """The same scenes with and without line errors: labels move with what is seen."""
    own, old = [], []
    for seed in range(4):
        still, moved = drawn(seed), drawn(seed, jitter=0.4)
        own.append(np.hypot(*offsets(moved).T))
        old.append(np.hypot(*offsets(moved, still).T))
    own, old = (np.quantile(np.concatenate(x), 0.75) for x in (own, old))
    print(f"maximum to label: {own:.2f} px; to that of the undisplaced scene: {old:.2f} px")
    assert old > 0.4
    assert own < 0.6 * old


def test_the_key_decides():
    again = drawn.__wrapped__(vacancies=0.6)
    other = drawn(2, vacancies=0.6)
    for name, array in drawn(vacancies=0.6).items():
        np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(array, other[name])
        assert len({a.tobytes() for a in array}) == BATCH, "no two images alike"


def test_dose_raises_the_signal_above_the_noise():
    clean = drawn(3, dose=1e7)["image"][..., 0]
    similar = []
    for dose in (3.0, 30.0, 3000.0):
        noisy = drawn(3, dose=dose)["image"][..., 0]
        similar.append(np.corrcoef(clean.ravel(), noisy.ravel())[0, 1])
    assert similar == sorted(similar)
    assert similar[0] < 0.8
    assert similar[2] > 0.98


def test_classes_of_the_elements():
    materials = {name: MATERIALS[name] for name in ("mos2", "srtio3")}
    table = class_table(materials, ("Mo", "S", "Sr", "Ti", "W", "Se", OTHER))
    assert table.shape == (3, 99)
    for row in table[:2]:
        named = [42, 16, 38, 22, 74, 34]
        assert [row[z] for z in named] == [0, 1, 2, 3, 4, 5]
        assert (np.delete(row, named) == -1).all(), "O, and whatever is no class"
    assert (table[2, 9:] == 6).all()
    assert (table[2, :9] == -1).all(), "columns as light as O cannot be seen beside others"


def test_classes_that_cannot_be():
    with pytest.raises(ValueError, match="classes need 'other'"):
        class_table(MATERIALS, ("C", "Si"))
    with pytest.raises(ValueError, match="'Carbon' is no element"):
        class_table(MATERIALS, ("Carbon", OTHER))
    with pytest.raises(ValueError, match="graphene has columns of Si, which the classes"):
        class_table({"graphene": MATERIALS["graphene"]}, ("C", OTHER))


@pytest.mark.parametrize(
    ("scene", "options", "message"),
    [
        (SceneConfig(patch=128), {}, r"a patch of 25.6 Å does not fit into 96 pixels of 0.17 Å"),
        (SceneConfig(pixel=(0.1, 0.3)), {}, "use a smaller patch or coarser pixels"),
        (EASY, {"batch": 0}, "a batch of at least one image"),
        (EASY, {"materials": {}}, "at least one material"),
        (EASY, {"engine": "lienar"}, "no engine 'lienar': choose from linear, prism"),
    ],
)
def test_what_cannot_be_drawn(scene, options, message):
    given = {"materials": {"mos2": MATERIALS["mos2"]}, "classes": CLASSES, "batch": 2} | options
    with pytest.raises(ValueError, match=message):
        make_draw(scene, **given)
