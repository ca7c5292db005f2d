"""Controls: what must fail, if a method works for the reason that is given for it.

Noise2Noise needs targets whose noise has mean zero; Noise2Void needs noise that is independent from
pixel to pixel. Each control breaks that one condition and leaves the rest as it was. The functions
take ``draw(key) -> batch`` and give another; they run inside `jit`, and the arrays of a
`jax.tree_util.Partial` stay arguments of the program.

>>> control = CONTROLS["noise2void_rows"]
>>> control.objective, control.reference.__name__
('noise2void', 'independent')
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emjax.metrics.statistics import Interval, bootstrap_interval
from emjax.schedules import as_partial, takes_step

Draw = Callable[..., dict[str, Any]]
BIASES = ("clipped", "saturated", "offset")


def unchanged(draw: Draw) -> Draw:
    """`draw` itself."""
    return draw


def biased_targets(draw: Draw, *, how: str = "clipped", level: float = 0.3) -> Draw:
    """Noise2Noise targets whose noise has another mean than zero, as ``targets`` of the batch.

    Parameters
    ----------
    draw : of ``counts`` [b, y, x, 2], with ``peak`` [b] or ``rate``.
    how
        "clipped": a black level set too high, max(n - level · peak, 0). "saturated": the detector
        ends at level · peak. "offset": level · peak is added; an affine fit takes that back, so it
        shows in the raw PSNR alone.
    level : in units of the brightest pixel's rate.

    Raises
    ------
    ValueError : an unknown `how`.
    """
    if how not in BIASES:
        raise ValueError(f"bias {how!r}: choose one of {', '.join(BIASES)}")
    return jax.tree_util.Partial(_changed, _Biased(how, level), as_partial(draw))


def row_correlated(draw: Draw, *, length: float = 4.0) -> Draw:
    """New noise of the same size, but correlated along the rows (the fast axis of a scan).

    The counts become rate + √(rate + readout²) · g, with g normal of variance 1 and a correlation
    of exp(-d / length) of pixels d apart in a row; rows stay independent. Distortions of the scan
    are gone, so compare with `independent`.

    Parameters
    ----------
    draw : of ``counts`` [b, y, x, copies], ``rate`` and, where there is some, ``readout`` [b].
    length : in pixels; 0 for none.

    Raises
    ------
    ValueError : a negative length.
    """
    if length < 0:
        raise ValueError(f"a correlation length is 0 pixels or more, got {length}")
    return jax.tree_util.Partial(_changed, _Correlated(length), as_partial(draw))


def independent(draw: Draw) -> Draw:
    """The same noise without correlation: what `row_correlated` is compared with."""
    return row_correlated(draw, length=0.0)


@dataclass(frozen=True)
class Control:
    """Train the same objective on two kinds of batches; the second must be worse."""

    objective: str
    """Name in `emjax.objectives.OBJECTIVES`."""
    reference: Callable[[Draw], Draw]
    """Batches on which it works."""
    spoilt: Callable[[Draw], Draw]
    """Batches on which it must fail."""
    claim: str
    """What the table says about it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the objective."""


CONTROLS: dict[str, Control] = {
    "noise2noise_biased": Control(
        "noise2noise",
        unchanged,
        biased_targets,
        "Noise2Noise learns the mean of its targets: noise of another mean than zero spoils it",
    ),
    "noise2void_rows": Control(
        "noise2void",
        independent,
        row_correlated,
        "Noise2Void keeps noise that a pixel shares with its neighbours in the row",
    ),
    "noise2void_rows_hidden": Control(
        "noise2void",
        independent,
        row_correlated,
        "hiding the row's neighbours too (structN2V) wins back a part",
        {"line": "x"},
    ),
}
"""Controls by name."""


def loss_of_psnr(reference: Sequence[float], spoilt: Sequence[float]) -> Interval:
    """How many dB the control costs: mean of the paired differences, with its 95 % interval.

    Parameters
    ----------
    reference, spoilt : PSNR of the same test images, restored by the one and the other network.

    Returns
    -------
    (dB, low, high) : the control has failed, as it must, where low is above 0.

    Raises
    ------
    ValueError : lists of different lengths.
    """
    a, b = np.asarray(reference, float), np.asarray(spoilt, float)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} scores and {b.size}: the same images in the same order")
    return bootstrap_interval(a - b)


def _changed(
    change: Callable[[jax.Array, dict], dict],
    draw: Draw,
    key: jax.Array,
    *streamed: Any,
    step: jax.Array | None = None,
) -> dict[str, Any]:
    more = {"step": step} if takes_step(draw) else {}
    batch = dict(draw(key, *streamed, **more))
    return batch | change(jax.random.fold_in(key, 0x636F6E74), batch)


# pytrees without leaves: a Partial of a functools.partial would hide that it takes the step


@functools.partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("how", "level"))
@dataclass(frozen=True)
class _Biased:
    how: str
    level: float

    def __call__(self, key: jax.Array, batch: dict) -> dict[str, jax.Array]:
        counts = batch["counts"]
        peak = batch["peak"] if "peak" in batch else batch["rate"].max((1, 2, 3))
        limit = self.level * peak.reshape(-1, 1, 1, 1)
        if self.how == "clipped":
            return {"targets": jnp.maximum(counts - limit, 0.0)}
        if self.how == "saturated":
            return {"targets": jnp.minimum(counts, limit)}
        return {"targets": counts + limit}


@functools.partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("length",))
@dataclass(frozen=True)
class _Correlated:
    length: float

    def __call__(self, key: jax.Array, batch: dict) -> dict[str, jax.Array]:
        rate = batch["rate"]
        b, h, w, copies = batch["counts"].shape
        readout = jnp.broadcast_to(jnp.asarray(batch.get("readout", 0.0)), (b,))
        # an exponential that looks back: its correlation is an exponential, too
        weights = np.exp(-np.arange(math.ceil(6 * self.length) + 1) / max(self.length, 1e-6))
        weights /= np.sqrt(np.square(weights).sum())
        reach = len(weights) - 1
        back = np.zeros((w + reach, w), np.float32)
        for x in range(w):
            back[x : x + reach + 1, x] = weights[::-1]
        white = jax.random.normal(key, (b, h, copies, w + reach))
        noise = jnp.moveaxis(jnp.matmul(white, jnp.asarray(back), precision="highest"), 2, 3)
        size = jnp.sqrt(rate + jnp.square(readout).reshape(b, 1, 1, 1))
        return {"counts": rate + size * noise}
