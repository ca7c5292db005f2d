"""What is said of images whose restoration cannot be trusted, and nothing of good ones."""

from __future__ import annotations

import numpy as np
import pytest
from noisy_scans import field, record
from scipy.ndimage import gaussian_filter

from emjax.analysis.restoration_checks import concerns, reach_of


def counts(side: int = 128, dose: float = 30.0, **options) -> np.ndarray:
    return record(np.random.default_rng(0), dose * field(side), **options)


def said(image: np.ndarray, *words: str, **options) -> None:
    found = concerns(image, **options)
    assert len(found) == len(words), found
    for line, word in zip(found, words, strict=True):
        assert word in line


def test_a_good_recording():
    said(counts())
    said(counts(dose=2.0))
    said(5 * counts() + 100, sampling=(0.1, 0.1), trained=(0.07, 0.25))


def test_saturated():
    image = counts()
    said(np.minimum(image, 30), "saturated: 0.")
    said(np.maximum(image, 12), "dark end is cut off")


def test_processed():
    said(np.rint(50 * gaussian_filter(counts(), 1.2)), "filtered already")
    image = counts()
    around = sum(np.roll(image, s, a) for s in (-1, 1) for a in (0, 1))
    said(5 * image - around + 1000, "the image was sharpened (the highest frequencies have 1.2")
    said(counts() - 40, "are negative, down to -")


def test_a_scale_that_is_unknown():
    rng = np.random.default_rng(1)
    said(counts(readout=0.5) / 37 + rng.uniform(1, 2), "for a·image + b it gives a·result + b")


def test_small_and_of_other_pixels():
    said(counts(40), "40 × 40 pixels, fewer than the 61 a side", reach=30)
    fine, coarse = (0.01, 0.01), (0.9, 0.9)
    said(counts(), "trained on 0.07 to 0.25 Å: bin it", sampling=fine, trained=(0.07, 0.25))
    said(counts(), "columns are too close", sampling=coarse, trained=(0.07, 0.25))


@pytest.mark.parametrize("radius", [3, 7])
def test_the_reach_of_a_network(radius):
    import jax.numpy as jnp
    from jax import lax

    def boxes(params, x):
        kernel = jnp.ones((2 * radius + 1, 2 * radius + 1, 1, 1))
        numbers = ("NHWC", "HWIO", "NHWC")
        return params * lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers
        )

    assert reach_of(boxes, 2.0, side=32, share=0.999) == radius
