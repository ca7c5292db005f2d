"""The run-time check of array annotations: it must see a wrong shape and ignore plain types."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

pytest.importorskip("beartype", reason="the array checks need beartype (extra `dev`)")

from array_checks import check_arrays, mentions_array
from jaxtyping import Float, TypeCheckError, jaxtyped

Points = Float[np.ndarray, "n 2"]


@jaxtyped(typechecker=check_arrays)
def scale(points: Points, factor: float, weights: Float[np.ndarray, " n"] | None = None) -> Points:
    return points * factor


def test_a_matching_call_passes_and_plain_types_are_left_alone():
    np.testing.assert_array_equal(scale(np.ones((3, 2)), 2), 2 * np.ones((3, 2)))
    np.testing.assert_array_equal(scale(np.ones((3, 2)), np.float32(2), np.ones(3)), 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: scale(np.ones((3, 3)), 2),
        lambda: scale(np.ones((3, 2)), 2, np.ones(4)),
        lambda: scale(np.ones((3, 2), int), 2),
    ],
    ids=["columns", "rows disagree", "integers"],
)
def test_a_wrong_array_is_refused(call):
    with pytest.raises(TypeCheckError, match="scale"):
        call()


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (Points, True),
        (Points | None, True),
        (tuple[Points, int], True),
        (tuple[int, int], False),
        (float | None, False),
    ],
)
def test_mentions_array(hint, expected):
    assert mentions_array(hint) is expected


@pytest.mark.skipif(os.environ.get("EMJAX_TYPECHECK") == "0", reason="switched off by the user")
def test_the_packages_are_imported_through_the_hook():
    finders = [type(finder).__module__ for finder in sys.meta_path]
    assert any(name.startswith("jaxtyping") for name in finders)
