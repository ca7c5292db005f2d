"""Images of another kind are told from those of a training, whatever their gain and offset."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from noisy_scans import field, record
from scipy.ndimage import gaussian_filter

from emjax.analysis.foreign_images import KINDS, foreign_image
from emjax.analysis.out_of_distribution import (
    NAMES,
    Reference,
    fit_reference,
    judge,
    statistics,
)
from emjax.metrics.confusion import roc_auc

SIDE = 96


def lattice(rng: np.random.Generator) -> np.ndarray:
    """An annular image: a random lattice of columns, uneven thickness, noise of counting."""
    spacing = rng.uniform(9, 22)
    large = field(2 * SIDE, spacing=spacing, width=spacing * rng.uniform(0.16, 0.26))
    y, x = rng.integers(0, SIDE, 2)
    image = large[y : y + SIDE, x : x + SIDE]
    image = image.T if rng.random() < 0.5 else image
    thick = gaussian_filter(rng.normal(size=image.shape), 30)
    image = image * np.exp(0.3 * thick / thick.std()) + rng.uniform(0, 0.5)
    dose = np.exp(rng.uniform(np.log(3), np.log(100))) / image.max()
    return record(rng, dose * image, readout=rng.uniform(0, 0.5))


def cryo(rng: np.random.Generator) -> np.ndarray:
    """Round particles, dark and faint, in the noise of a camera."""
    image = np.zeros((SIDE, SIDE))
    y, x = np.mgrid[:SIDE, :SIDE]
    for _ in range(8):
        r = np.hypot(y - rng.uniform(0, SIDE), x - rng.uniform(0, SIDE))
        image -= np.exp(-((r / 11) ** 6))
    return image + gaussian_filter(rng.normal(size=image.shape), 0.5)


def beads(rng: np.random.Generator) -> np.ndarray:
    """Spheres in secondary electrons, bright at their rims, on a rough ground."""
    image = 0.2 + 0.05 * gaussian_filter(rng.normal(size=(SIDE, SIDE)), 2)
    y, x = np.mgrid[:SIDE, :SIDE]
    for _ in range(25):
        size = rng.uniform(5, 18)
        r = np.hypot(y - rng.uniform(0, SIDE), x - rng.uniform(0, SIDE)) / size
        inside = r < 1
        image[inside] = 0.4 + 0.15 / np.sqrt(1.05 - r[inside] ** 2)
    return record(rng, 60 * image)


def pattern(rng: np.random.Generator) -> np.ndarray:
    """Convergent-beam discs, decaying from the middle."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    gap, radius = rng.uniform(14, 22), rng.uniform(4, 6.5)
    image = np.zeros((SIDE, SIDE))
    for i in range(-4, 5):
        for j in range(-4, 5):
            r = np.hypot(y - gap * i, x - gap * j)
            image += np.exp(-np.hypot(i, j)) * (r < radius) * (1 + 0.3 * np.cos(y / 2 + i))
    return record(rng, 400 * gaussian_filter(image, 0.7) + 1)


def natural(rng: np.random.Generator) -> np.ndarray:
    """A part of a photograph that comes with scikit-image."""
    from PIL import Image
    from skimage import data

    name = rng.choice(
        ["astronaut", "camera", "coins", "coffee", "chelsea", "moon", "motorcycle_left"]
    )
    file = Path(os.path.dirname(data.__file__)) / f"{name}.png"
    if not file.is_file():
        pytest.skip(f"this scikit-image comes without {name}.png")
    photo = np.asarray(Image.open(file).convert("L"), float)
    y, x = (rng.integers(0, n - SIDE) for n in photo.shape)
    return photo[y : y + SIDE, x : x + SIDE]


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = np.random.default_rng(0)
    return fit_reference([lattice(rng) for _ in range(150)], tile=SIDE, count=200)


@pytest.fixture(scope="module")
def own(reference) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.array([judge(reference, lattice(rng)).score for _ in range(40)])


@pytest.mark.parametrize("kind", [cryo, beads, pattern, natural])
def test_the_wrong_kind_is_told_from_annular_images(reference, own, kind):
    rng = np.random.default_rng(2)
    scores = np.array([judge(reference, kind(rng)).score for _ in range(25)])
    truth = np.r_[np.zeros(len(own)), np.ones(len(scores))]
    assert roc_auc(np.r_[own, scores], truth) >= 0.95
    assert np.mean(own > reference.limit) <= 0.1


def test_gain_and_offset_do_not_count():
    image = lattice(np.random.default_rng(3))
    np.testing.assert_allclose(statistics(3.7e4 * image - 1e5), statistics(image), atol=1e-6)
    assert len(statistics(image)) == len(NAMES)
    assert np.isfinite(statistics(field(SIDE))).all(), "without any noise"
    assert np.isfinite(statistics(np.eye(SIDE))).all()


def test_it_lies_in_a_model_file(reference):
    text = json.dumps(reference.as_meta())
    assert len(text) < 16_000  # all of it is an attribute of the file, which holds 64 kB
    again = Reference.from_meta(json.loads(text))
    image = lattice(np.random.default_rng(4))
    before, after = judge(reference, image), judge(again, image)
    assert after.score == pytest.approx(before.score, abs=1e-3)
    assert after.foreign == before.foreign
    with pytest.raises(ValueError, match="other statistics"):
        Reference.from_meta({**reference.as_meta(), "statistics": ["mean"]})


def test_tiles_are_spread_over_large_images(reference):
    image = np.tile(lattice(np.random.default_rng(5)), (5, 3))
    assert judge(reference, image).tiles == 12
    assert judge(reference, image, most=4).tiles == 4
    image[: 4 * SIDE, :] = 0.0  # nothing there
    found = judge(reference, image)
    assert 0 < found.tiles < 12
    assert judge(reference, image[-64:, :64]).tiles == 1, "smaller than a tile"


def test_foreign_images():
    rng = np.random.default_rng(0)
    for kind in KINDS:
        image = kind(rng, 64)
        assert image.shape == (64, 64)
        assert np.isfinite(image).all()
        assert image.std() > 0
    first, again = (foreign_image(np.random.default_rng(1), 64) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_what_cannot_be_judged(reference):
    with pytest.raises(ValueError, match="at least 64 px"):
        judge(reference, np.eye(40))
    with pytest.raises(ValueError, match="not finite"):
        judge(reference, np.full((SIDE, SIDE), np.nan))
    with pytest.raises(ValueError, match="constant wherever"):
        judge(reference, np.zeros((SIDE, SIDE)))
    with pytest.raises(ValueError, match="constant or not finite"):
        statistics(np.ones((SIDE, SIDE)))
    with pytest.raises(ValueError, match="3 usable images are too few"):
        fit_reference([np.random.default_rng(0).normal(size=(64, 64))] * 3, tile=64, count=2)
