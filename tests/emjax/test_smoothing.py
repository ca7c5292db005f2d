"""Gaussian filters as matrices."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from emjax.smoothing import gaussian_matrix


def test_the_same_as_a_filter_with_nothing_outside():
    image = np.random.default_rng(0).normal(size=(40, 50))
    found = gaussian_matrix(40, 2.0) @ image @ gaussian_matrix(50, 2.0).T
    expected = gaussian_filter(image, 2.0, mode="constant", truncate=8)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert abs(gaussian_matrix(64, 3.0)[32].sum() - 1) < 1e-4
