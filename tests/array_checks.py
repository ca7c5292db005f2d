"""The run-time checker that `conftest` hands to jaxtyping: array annotations, and nothing else.

Only annotations that mention a jaxtyping array are checked. Plain Python types are pyright's work:
checked here they would refuse an int where a float is announced, and would hide the packages' own
messages about bad input, which tests read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def mentions_array(hint: Any) -> bool:
    """True where `hint` is a jaxtyping array or contains one (unions, tuples, lists …)."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(mentions_array(inner) for inner in get_args(hint))


def check_arrays(function: Callable) -> Callable:
    """`beartype`, with every annotation that does not mention an array widened to `Any`."""
    hints = function.__annotations__
    if not any(mentions_array(hint) for hint in hints.values()):
        return function
    function.__annotations__ = {
        name: hint if mentions_array(hint) else Any for name, hint in hints.items()
    }
    return beartype(function)
