"""Phantoms: what is drawn is what the settings say, and the truth fits to it."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from emjax.data.phantom_scenes import SectionScene, SEMScene, SpotScene
from emjax.data.synthetic_sections import make_sections
from emjax.data.synthetic_sem import make_sem
from emjax.data.synthetic_spots import make_spots


def drawn(draw, seed=0):
    return jax.tree.map(np.asarray, jax.jit(draw)(jax.random.key(seed)))


@pytest.fixture(scope="module")
def surfaces():
    return drawn(make_sem(SEMScene(radius=(4.0, 8.0)), 24, 48))


def test_gold_is_bright_and_its_edge_brighter(surfaces):
    clean, mask = surfaces["clean"][..., 0], surfaces["mask"] > 0.5
    assert clean.shape == mask.shape == (24, 48, 48)
    assert clean.min() >= 0
    assert clean.max() == pytest.approx(1)
    assert len({image.tobytes() for image in clean}) == 24, "no two images alike"
    assert 0.02 < mask.mean() < 0.6
    assert clean[mask].mean() > 2.5 * clean[~mask].mean()
    # inside the gold the outermost pixels are brighter than those four pixels further in
    from scipy.ndimage import distance_transform_edt

    depth = np.stack([distance_transform_edt(m) for m in mask])
    assert clean[(depth > 1.2) & (depth < 2.5)].mean() > 1.1 * clean[depth > 4].mean()


def test_bare_film_stays_dark(surfaces):
    bare = surfaces["mask"].sum((1, 2)) == 0
    assert (surfaces["clean"][bare] < 0.6).all()


def test_sections_are_dark_on_bright():
    batch = drawn(make_sections(SectionScene(), 8, 48))
    clean, mask = batch["clean"][..., 0], batch["mask"] > 0.5
    assert clean.shape == (8, 48, 48)
    np.testing.assert_allclose(clean.max((1, 2)), 1, rtol=1e-5)
    assert 0.02 < mask.mean() < 0.5
    assert clean[mask].mean() < 0.8 * clean[~mask].mean()


def test_spots_are_gaussians_of_the_width_asked_for():
    scene = SpotScene(
        spacing=(16.0, 16.0), aspect=(1.0, 1.0), angle=(90.0, 90.0), width=(0.125, 0.125),
        second=0.0, displacement=0.0, spread=0.0, vacancies=0.0,
    )  # fmt: skip
    images = drawn(make_spots(scene, 3, 32))[..., 0]
    for image in images:
        # a square lattice of period 16 px with sigma 2: the mean is 2 pi sigma² / 256 of the peak
        # (the highest pixel is at most half a pixel's diagonal off the peak: 6 %)
        assert image.max() == pytest.approx(1)
        assert image.mean() == pytest.approx(2 * np.pi * 4 / 256, rel=0.12)
        y, x = np.unravel_index(image[4:-4, 4:-4].argmax(), (24, 24))
        y, x = y + 4, x + 4
        # ln(f(0)² / (f(1) f(-1))) = 1 / sigma², wherever the pixels lie
        curve = 2 * np.log(image[y, x]) - np.log(image[y + 1, x]) - np.log(image[y - 1, x])
        assert curve == pytest.approx(1 / 4, rel=0.01)


def test_what_is_refused():
    with pytest.raises(ValueError, match="at least 1 of 8"):
        make_sem(SEMScene(), 1, 4)
    with pytest.raises(ValueError, match="radii above 0"):
        make_sem(dataclasses.replace(SEMScene(), radius=(0.0, 3.0)), 1, 32)
    with pytest.raises(ValueError, match="at least 1 of 16"):
        make_sections(SectionScene(), 0, 32)
    with pytest.raises(ValueError, match="widths above 0"):
        make_spots(SpotScene(width=(0.0, 0.2)), 1, 32)
