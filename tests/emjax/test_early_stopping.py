"""When to stop, from the table of metrics alone."""

from __future__ import annotations

import math

import pytest

from emjax.early_stopping import patience

NAN = math.nan


def table(*values, name="val_loss"):
    return {"step": [10 * (i + 1) for i in range(len(values))], name: list(values)}


def test_it_stops_after_so_many_evaluations_that_are_not_better():
    stop = patience(evaluations=2)
    values = [3.0, 2.0, 2.5, 1.0, 1.5, 1.0, 0.5]
    reasons = [stop(table(*values[: n + 1])) for n in range(6)]
    assert reasons[:5] == [None] * 5
    assert reasons[5] == "val_loss has not been better than 1 since step 40"


def test_rows_without_a_value_do_not_count():
    stop = patience(evaluations=2)
    assert stop(table(1.0, NAN, NAN, NAN, 2.0)) is None
    assert stop(table(1.0, NAN, 2.0, NAN, 2.0))
    assert stop(table(NAN, NAN)) is None


def test_scores_small_steps_and_a_beginning():
    stop = patience("val_f1", evaluations=2, higher_is_better=True, least=0.1)
    assert stop(table(0.1, 0.3, 0.35, 0.41, name="val_f1")) is None
    reason = stop(table(0.1, 0.3, 0.35, 0.39, name="val_f1"))
    assert reason == "val_f1 has not been better than 0.3 since step 20"
    late = patience(evaluations=1, after=40)
    assert late(table(1.0, 2.0, 3.0)) is None
    assert late(table(1.0, 2.0, 3.0, 3.0))


def test_mistakes():
    with pytest.raises(ValueError, match="at least 1"):
        patience(evaluations=0)
    with pytest.raises(ValueError, match="no metric 'val_f1' to stop by; evaluated are: val_loss"):
        patience("val_f1")(table(1.0))
