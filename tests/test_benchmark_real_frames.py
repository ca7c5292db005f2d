"""The score of a frame against another recording of the same area."""

from __future__ import annotations

import numpy as np

from benchmarks.real_frames import _classical, tiles


def _recordings():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:192, :192]
    truth = np.sin(x / 5) * np.cos(y / 7)
    return truth, *(5 * truth + 3 + 2 * rng.normal(size=(2, 192, 192)))


def test_what_is_left_is_the_other_frames_noise():
    truth, a, b = _recordings()
    floor = 4 / b.var()
    assert abs(tiles(100 * truth - 7, b).mean() / floor - 1) < 0.03  # any gain and offset
    assert len(tiles(truth, b)) == 9
    assert tiles(a, b).mean() > 1.3 * floor
    np.testing.assert_allclose(tiles(np.full_like(b, 2.0), b).mean(), 1.0, rtol=1e-6)


def test_a_filter_is_tuned_on_the_very_pair():
    _, a, b = _recordings()
    assert tiles(_classical("gaussian", a, b), b).mean() < 0.9 * tiles(a, b).mean()
