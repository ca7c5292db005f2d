"""Stop where a held-out metric no longer gets better.

`patience` makes what `emjax.training.fit` takes as `stop`::

    fit(..., evaluate=evaluate, evaluate_every=500, stop=patience("val_loss", evaluations=5))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence


def patience(
    metric: str = "val_loss",
    *,
    evaluations: int = 5,
    least: float = 0.0,
    higher_is_better: bool = False,
    after: int = 0,
) -> Callable[[Mapping[str, Sequence[float]]], str | None]:
    """``columns of metrics -> reason to stop, or None``.

    It looks at the whole history and remembers nothing, so that a resumed training stops where an
    uninterrupted one does.

    Parameters
    ----------
    metric
        Column; rows without a value (NaN) were not evaluated.
    evaluations
        Stop after so many evaluations in a row that are not better than the best before them.
    least
        By how much a value must be better to count, in the metric's units.
    higher_is_better
        For scores; otherwise for losses.
    after
        Not before this step.

    Raises
    ------
    ValueError
        No evaluations, a negative `least`; when called: the metric is not in the table (names
        those that are).
    """
    if evaluations < 1 or least < 0:
        raise ValueError(
            f"patience for {evaluations} evaluations and improvements of {least}: at least 1 and 0"
        )

    def reason(columns: Mapping[str, Sequence[float]]) -> str | None:
        if metric not in columns:
            known = ", ".join(name for name in columns if name.startswith("val_")) or "none yet"
            raise ValueError(f"there is no metric {metric!r} to stop by; evaluated are: {known}")
        sign = -1.0 if higher_is_better else 1.0
        best, best_step, waited, step = math.inf, 0, 0, 0
        for step, value in zip(columns["step"], columns[metric], strict=True):
            if math.isnan(value):
                continue
            if sign * value < best - least or best == math.inf:
                best, best_step, waited = sign * value, int(step), 0
            else:
                waited += 1
        if waited < evaluations or step < after:
            return None
        return f"{metric} has not been better than {sign * best:.6g} since step {best_step}"

    return reason
