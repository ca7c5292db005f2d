"""What an objective of a denoiser is, and the pieces that all of them share (see `objectives`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from emjax.schedules import as_partial, takes_step

Apply = Callable[[Any, jax.Array], jax.Array]
Batch = Mapping[str, jax.Array]
Scale = tuple[jax.Array, jax.Array]
"""Offset and factor [b, 1, 1, 1]: image = offset + factor · what the network sees."""

KINDS = ("psnr", "mse", "mae", "charbonnier", "huber")
UNITS = ("spread", "peak")


@dataclass(frozen=True)
class Objective:
    """One way to train a denoiser, and to use what was trained; made by `objectives.OBJECTIVES`."""

    name: str
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    """``(params, batch, key=None) -> (scalar, metrics)``, for `emjax.training.make_step`."""
    posterior: Callable[..., tuple[jax.Array, jax.Array | None]]
    """``(params, counts[b, y, x, 1], readout=None) -> (image, variance or None)``, both
    [b, y, x, 1] in the unit of the counts (and its square). The variance is that of the noise-free
    value, given the image."""
    outputs: int = 1
    """Channels that the network must have."""
    copies: int = 1
    """Recordings of each scene in a batch."""
    network: str = "any"
    """"blind_spot" where only such a network will do."""
    random: bool = False
    """Whether the loss needs random numbers: see `keyed`."""
    noise: Any = None
    """The noise model that was fitted, if one was."""
    advance: Callable[..., Objective] | None = None
    """``(key, params, counts) -> Objective`` of a second stage, to train on with the same weights
    (where there is one)."""

    def restore(
        self, params: Any, counts: jax.Array, readout: jax.Array | float | None = None
    ) -> jax.Array:
        """The denoised image [b, y, x, 1] of counts [b, y, x, 1].

        `readout`: standard deviation of the read-out noise in electrons, a number or [b]; used by
        the objectives that know of noise, others ignore it. None: the one that they were made with.
        """
        return self.posterior(params, counts, readout)[0]

    def keyed(self, draw: Callable[..., Batch]) -> Callable[..., dict[str, Any]]:
        """``draw`` with a random key of the loss in its batch, as ``key``.

        The arrays of a `jax.tree_util.Partial` stay arguments of the compiled update, and a draw
        that asks for its `step` or for streamed images gets them. Objectives that need no random
        numbers take such batches, too.
        """
        return jax.tree_util.Partial(_keyed, as_partial(draw))

    def score(self, params: Any, batch: Batch) -> dict[str, jax.Array]:
        """``psnr`` in dB after the best affine fit to ``rate``, whose maximum is the peak; in jit.

        Mean over the images of a batch with ``rate``: what to look at during training.
        """
        restored = self.restore(params, first_copy(batch["counts"]), batch.get("readout"))
        truth = batch["rate"]
        axes = (1, 2, 3)
        p = restored - restored.mean(axes, keepdims=True)
        t = truth - truth.mean(axes, keepdims=True)
        variance = jnp.square(p).mean(axes)
        slope = (p * t).mean(axes) / jnp.where(variance > 0, variance, 1)
        error = jnp.square(t).mean(axes) - slope**2 * variance
        floor = 1e-10 * jnp.square(truth.max(axes)) + 1e-20
        return {"psnr": jnp.mean(10 * jnp.log10(floor * 1e10 / jnp.maximum(error, floor)))}


def _keyed(
    draw: Callable[..., Any], key: jax.Array, *streamed: Any, step: jax.Array | None = None
) -> dict[str, Any]:
    more = {"step": step} if takes_step(draw) else {}
    return {**draw(key, *streamed, **more), "key": jax.random.fold_in(key, 0x6D61736B)}


def loss_key(batch: Batch, key: jax.Array | None, name: str) -> jax.Array:
    """The given key, or the batch's.

    Raises
    ------
    KeyError : there is neither.
    """
    if key is None and "key" not in batch:
        raise KeyError(
            f"{name} hides random pixels, but the batch holds no key: train with "
            "make_step(objective.loss, objective.keyed(draw), tx), or call loss(params, batch, key)"
        )
    return batch["key"] if key is None else key


# ---------------------------------------------------------------- units of the network


def image_scale(counts: jax.Array) -> Scale:
    """Mean and standard deviation of each image [b, y, x, c].

    A network between them gives f(a x + b) = a f(x) + b for every a > 0, whatever the network.
    Two numbers that know all pixels, the blind spot's too, by a share of one in their number.
    """
    axes = tuple(range(1, counts.ndim))
    offset = counts.mean(axes, keepdims=True)
    variance = jnp.square(counts - offset).mean(axes, keepdims=True)
    flat = variance <= 0
    return offset, jnp.where(flat, 1.0, jnp.sqrt(jnp.where(flat, 1.0, variance)))


def no_scale(counts: jax.Array) -> Scale:
    """Offset 0 and factor 1: for a network that takes and gives counts by itself."""
    shape = (counts.shape[0],) + (1,) * (counts.ndim - 1)
    return jnp.zeros(shape), jnp.ones(shape)


SCALINGS: dict[str, Callable[[jax.Array], Scale]] = {"image": image_scale, "none": no_scale}


def scaling_of(scaling: str | Callable[[jax.Array], Scale]) -> Callable[[jax.Array], Scale]:
    """A function of `SCALINGS` by name, or the function itself."""
    if callable(scaling):
        return scaling
    if scaling not in SCALINGS:
        raise ValueError(f"scaling {scaling!r}: choose {', '.join(SCALINGS)}, or give a function")
    return SCALINGS[scaling]


def run(
    apply: Apply, scaling: Callable[[jax.Array], Scale], params: Any, counts: jax.Array
) -> tuple[jax.Array, Scale]:
    """The network's own output for images in counts, and the scale that leads back."""
    offset, factor = scaling(counts)
    made = apply(params, (counts - offset) / factor)
    return made.astype(jnp.float32), (offset, factor)


def rate_of(made: jax.Array, scale: Scale) -> jax.Array:
    """Outputs as rates, which are positive: factor · softplus(y + offset / factor)."""
    offset, factor = scale
    return factor * jax.nn.softplus(made + offset / factor)


def check_outputs(made: jax.Array, wanted: int, name: str) -> jax.Array:
    """Raises ValueError where a network has another number of channels than its objective asks."""
    if made.shape[-1] != wanted:
        raise ValueError(
            f"{name} needs a network of {wanted} output channel(s), but this one gives "
            f"{made.shape[-1]}: build it with outputs={wanted} (objectives.needs tells)"
        )
    return made


def readout_of(
    batch: Batch | None, given: jax.Array | float | None, default: float, images: int
) -> jax.Array:
    """Read-out noise [b, 1, 1, 1] in electrons: the given one, the batch's, or the default."""
    value = given if given is not None else (batch or {}).get("readout", default)
    value = jnp.asarray(value, jnp.float32)
    return jnp.broadcast_to(value, (images,)).reshape(images, 1, 1, 1)


def first_copy(counts: jax.Array) -> jax.Array:
    """The first recording [b, y, x, 1].

    Raises
    ------
    ValueError : not [b, y, x, copies].
    """
    if counts.ndim != 4:
        raise ValueError(f"counts are [b, y, x, copies], not of shape {counts.shape}")
    return counts[..., :1]


def need(batch: Batch, *names: str, objective: str) -> None:
    """Raises KeyError where the batch lacks an array."""
    for name in names:
        if name not in batch:
            raise KeyError(
                f"{objective} needs {name!r} in the batch, which holds {', '.join(sorted(batch))}"
            )


# ---------------------------------------------------------------- pixel losses


def unit_of(batch: Batch, factor: jax.Array, unit: str) -> jax.Array:
    """What one grey level is, [b, 1, 1, 1]: how much images of different dose count.

    "spread": the standard deviation of what the network sees, shot noise in it, so that images of
    few electrons, whose error is large, do not drown the rest. "peak": the brightest pixel's rate
    (of ``peak``, or the maximum of ``rate``), the unit of PSNR.
    """
    if unit not in UNITS:
        raise ValueError(f"unit {unit!r}: choose {' or '.join(UNITS)}")
    if unit == "spread":
        return factor
    if "peak" in batch:
        peak = batch["peak"].reshape(-1, 1, 1, 1)
    elif "rate" in batch:
        peak = batch["rate"].max((1, 2, 3), keepdims=True)
    else:
        raise KeyError("unit='peak' needs 'peak' or 'rate' in the batch: choose unit='spread'")
    return jnp.maximum(peak, 1e-6)


def pixel_loss(
    kind: str, difference: jax.Array, weight: jax.Array | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A number for differences [b, y, x, 1] in units of a grey level; and their mean square.

    Parameters
    ----------
    kind
        "mse": mean square. "psnr": mean over the images of ln(mean square), which is PSNR but for
        a factor: images of all doses count alike, up to 50 dB. "huber": 1000 m of each image's
        mean square m below 0.001 and √(1000 m) above (Ede & Beanland, Ultramicroscopy 202 (2019)
        18).
        "mae", "charbonnier": absolute values; their minimum is the median, not the mean.
    weight : [b, y, x] ≥ 0.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind of loss {kind!r}: choose one of {', '.join(KINDS)}")

    def mean(values: jax.Array) -> jax.Array:
        if weight is None:
            return values.mean((1, 2, 3))
        w = weight[..., None]
        return (w * values).sum((1, 2, 3)) / jnp.maximum(w.sum((1, 2, 3)), 1e-6)

    square = mean(jnp.square(difference))
    if kind == "mse":
        value = square
    elif kind == "psnr":
        value = jnp.log(square + 1e-5)
    elif kind == "huber":
        large = 1000 * square
        small = large < 1
        value = jnp.where(small, large, jnp.sqrt(jnp.where(small, 1.0, large)))
    elif kind == "charbonnier":
        value = mean(jnp.sqrt(jnp.square(difference) + 1e-6) - 1e-3)
    else:
        value = mean(jnp.abs(difference))
    return value.mean(), {"mse": square.mean()}
