"""What the report of locate_atoms says in words: intervals only where images are enough for one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from emjax.evaluation import locate_report
from emjax.evaluation.columns import Row


def _result(images: int, quick: bool = False) -> SimpleNamespace:
    row = Row(
        "20 electrons",
        images,
        network=(0.972, 0.953, 0.986),
        classical=(0.948, 0.90, 0.97),
        default=(0.7, 0.6, 0.8),
        difference=(0.024, -0.018, 0.071),
        rmsd=0.08,
        rmsd_fitted=0.09,
        rmsd_classical=0.09,
    )
    return SimpleNamespace(quick=quick, totals={row.name: row}, real=[])


@pytest.mark.parametrize("images", [1, locate_report.FEW - 1])
def test_few_images_have_no_interval(images):
    (line,) = locate_report._summary(_result(images))
    assert "F1 0.972 within a fifth" in line
    assert "(difference +0.024)" in line
    assert locate_report._cards(_result(images))[0].note == "classical 0.948"


def test_enough_images_have_one():
    (line,) = locate_report._summary(_result(locate_report.FEW))
    assert "F1 0.972 [0.953, 0.986] within a fifth" in line
    assert "(difference +0.024 [-0.018, +0.071])" in line
    note = locate_report._cards(_result(locate_report.FEW))[0].note
    assert note == "classical 0.948; 95 % of ours [0.953, 0.986]"


def test_a_quick_run_says_first_that_its_figures_mean_nothing():
    assert "figures mean nothing" in locate_report._summary(_result(1, quick=True))[0]
