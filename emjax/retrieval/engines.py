"""All engines of ptychography by name, and several of them one after the other.

Every engine is a function (data, frame, unknowns, key, *, epochs, batch, likelihood, free, watch,
…) -> (unknowns, history) over the same unknowns, so that any can go on where another ended. Which
fits what:

========== ============= ============================================ ===================
engine     slices        leaves                                       noise
========== ============= ============================================ ===================
gradient   any           all                                          Poisson, any other
lsqml      any           transmission, probe, shifts                  amplitude, any other
epie, rpie any           transmission, probe                          amplitude, any other
dm, raar   one           transmission, probe                          amplitude, any other
========== ============= ============================================ ===================
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from emjax.retrieval.difference_map import difference_map, raar
from emjax.retrieval.epie import epie, rpie
from emjax.retrieval.epoch_loop import Watch
from emjax.retrieval.gradient import History, reconstruct
from emjax.retrieval.lsqml import lsqml
from emjax.retrieval.ptychography import Frame, Unknowns
from emjax.retrieval.scan_data import ScanData

Engine = Callable[..., tuple[Unknowns, History]]

ENGINES: dict[str, Engine] = {
    "gradient": reconstruct,
    "epie": epie,
    "rpie": rpie,
    "lsqml": lsqml,
    "dm": difference_map,
    "raar": raar,
}
"""Engines by name."""


def engine_of(name: str | Engine) -> Engine:
    """By name, or the function itself.

    Raises
    ------
    ValueError : an unknown name (suggests some).
    """
    if callable(name):
        return name
    if name not in ENGINES:
        close = difflib.get_close_matches(name, ENGINES) or list(ENGINES)
        raise ValueError(f"there is no engine {name!r}: choose {' or '.join(close)}")
    return ENGINES[name]


def in_turn(
    data: ScanData,
    frame: Frame,
    unknowns: Unknowns,
    key: jax.Array,
    stages: Sequence[tuple[str | Engine, Mapping[str, Any]]],
    *,
    watch: Watch | None = None,
) -> tuple[Unknowns, History]:
    """Several engines, each from where the last one ended.

    Parameters
    ----------
    stages : (engine, its settings), as in ``[("lsqml", {"epochs": 3}), ("gradient", {})]``.
    watch : called after every epoch with (epoch, unknowns, history) of all stages so far; True
        stops everything.

    Returns
    -------
    unknowns, history : of all stages together. Misfits compare within a stage alone where the
        stages have different noise models.
    """
    total, stopped = History(), False
    named = [(engine_of(name), settings) for name, settings in stages]
    for number, (engine, settings) in enumerate(named):
        before = History(list(total.misfit), list(total.seconds))

        def look(epoch: int, unknowns: Unknowns, history: History, before: Any = before) -> bool:
            nonlocal stopped, total
            total = History(before.misfit + history.misfit, before.seconds + history.seconds)
            stopped = watch is not None and bool(watch(len(before.misfit) + epoch, unknowns, total))
            return stopped

        order = jax.random.fold_in(key, number)
        unknowns, _ = engine(data, frame, unknowns, order, **{**settings, "watch": look})
        if stopped:
            break
    return unknowns, total
