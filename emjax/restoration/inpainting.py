"""Filling in what a partial scan left out, by a network.

The network is one of [image, mask] channels (`networks.partial_conv`, `networks.two_stage`, any
other): it sees the measured values, brought to mean 0 and variance 1, and between them a smooth
filling (`fill`), and says what is to be added to it. So a picture in other units of intensity comes
out in these units: restore(a v + b) = a restore(v) + b.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from emjax.adversarial import critic_objective, generator_objective
from emjax.losses.alrc import cap_spikes
from emjax.networks.layers import resize

Apply = Callable[[Any, jax.Array], jax.Array]
Batch = Mapping[str, jax.Array]

PIXEL = 200.0
"""Weight of the squared error beside a critic's opinion (Ede & Beanland, Sci. Rep. 2020)."""


def fill(values: jax.Array, mask: jax.Array) -> jax.Array:
    """A smooth picture through the measured pixels, whatever the gaps.

    Means over squares of 2, 4, 8 … pixels are taken until something was measured in each, and
    carried back by linear interpolation (pull-push: Gortler et al., SIGGRAPH 1996).

    Parameters
    ----------
    values, mask : [b, y, x, 1]; the mask 1 where measured, values elsewhere are ignored.

    Returns
    -------
    [b, y, x, 1], equal to the values where they were measured.
    """
    values, weight = jnp.where(mask > 0, values, 0.0), (mask > 0).astype(values.dtype)
    levels = [(values, weight)]
    while max(values.shape[1:3]) > 1:
        pads = [(0, 0), *((0, n % 2) for n in values.shape[1:3]), (0, 0)]
        total, share = (_sum_of_four(jnp.pad(a, pads)) for a in (values * weight, weight))
        values = total / jnp.where(share > 0, share, 1.0)
        weight = jnp.minimum(share, 1.0)
        levels.append((values, weight))
    result = values
    for values, weight in reversed(levels[:-1]):
        above = resize(result, (values.shape[1] + 1 & ~1, values.shape[2] + 1 & ~1))
        above = above[:, : values.shape[1], : values.shape[2]]
        result = weight * values + (1 - weight) * above
    return result


def standardise(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Filled picture with mean 0 and variance 1 of the measured pixels; that mean and deviation."""
    known = (mask > 0).astype(values.dtype)
    n = jnp.maximum(known.sum((1, 2, 3), keepdims=True), 1.0)
    values = jnp.where(mask > 0, values, 0.0)
    mean = values.sum((1, 2, 3), keepdims=True) / n
    variance = (jnp.square(values - mean) * known).sum((1, 2, 3), keepdims=True) / n
    # a picture of one grey has no scale of its own: one millionth of it, or 1
    tiny = 1e-6 * jnp.abs(mean)
    scale = jnp.sqrt(variance)
    scale = jnp.where(scale > tiny, scale, jnp.where(tiny > 0, tiny, 1.0))
    return fill((values - mean) / scale, mask), mean, scale


def restore(apply: Apply, params: Any, values: jax.Array, mask: jax.Array) -> jax.Array:
    """The whole picture [b, y, x, 1] in the units of the values; may run inside `jit`.

    Measured pixels are restored too: they hold noise.
    """
    filled, mean, scale = standardise(values, mask)
    seen = apply(params, jnp.concatenate([filled, (mask > 0).astype(filled.dtype)], axis=-1))
    return (filled + seen[..., :1]) * scale + mean


def check_scan(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and mask float32 [n, y, x] of a user's arrays, [y, x] or [n, y, x].

    Raises
    ------
    ValueError : a mask of another shape, or with values beside 0 and 1; a picture without any
        measured pixel (coverage zero); NaN in measured pixels.
    """
    values, mask = np.asarray(values), np.asarray(mask)
    if values.ndim not in (2, 3) or mask.shape not in (values.shape, values.shape[-2:]):
        raise ValueError(
            f"the picture has shape {values.shape} and its scan mask {mask.shape}: both must be "
            "[y, x], or the picture a stack [n, y, x] of such"
        )
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("the scan mask holds values beside 0 and 1: it says measured or not")
    mask = np.broadcast_to(mask.astype(bool), values.shape)
    empty = ~mask.any((-2, -1))
    if empty.any():
        which = f" of picture {int(np.argmax(empty))}" if values.ndim == 3 else ""
        raise ValueError(f"the coverage{which} is zero: no pixel was measured (1 = measured)")
    values = np.where(mask, values, 0)
    if not np.isfinite(values).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"a measured pixel is NaN or infinite, the first at {where}: unmask it")
    shape = (-1, *values.shape[-2:])
    return values.reshape(shape).astype(np.float32), mask.reshape(shape).astype(np.float32)


def pixel_loss(apply: Apply) -> Callable[[Any, Batch], tuple[jax.Array, dict[str, jax.Array]]]:
    """Mean squared error of the restored picture, in pictures whose intensities span -1 … 1.

    ``loss(params, batch)`` of batches as `data.synthetic_partial` draws them. A second channel of
    the output is taken for the same picture in coarse (`networks.two_stage`), at equal weight.
    """

    def loss(params: Any, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        squares = _squares(apply, params, batch)
        value = squares[0].mean()
        metrics = {"rms": jnp.sqrt(value)}
        return value + sum(s.mean() for s in squares[1:]), metrics

    return loss


def adversarial_losses(
    generator: Apply, critic: Apply, *, weight: float = 1.0, pixel: float = PIXEL
) -> tuple[Callable, Callable]:
    """Losses of both players for `emjax.gan_step` (least squares, Mao et al., ICCV 2017).

    The generator's squared error, times `pixel`, and the critic's opinion of its pictures, times
    `weight`; critics see pictures in units of the measured pixels' deviation.
    """
    plain = pixel_loss(generator)

    def pictures(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        _, mean, scale = standardise(batch["values"], batch["mask"])
        fake = restore(generator, params, batch["values"], batch["mask"])
        return tuple((p - mean) / scale for p in (fake, batch["rate"]))

    def generator_loss(
        key: jax.Array, params: Any, other: Any, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        value, metrics = plain(params, batch)
        opinion = generator_objective("lsgan", critic(other, pictures(params, batch)[0]))
        return pixel * value + weight * opinion, {**metrics, "adversarial": opinion}

    def critic_loss(
        key: jax.Array, params: Any, other: Any, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        fake, real = (critic(params, p) for p in pictures(other, batch))
        return critic_objective("lsgan", real, fake), {"margin": real.mean() - fake.mean()}

    return generator_loss, critic_loss


def spikes_capped(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimiser with `losses.alrc.cap_spikes` before it, for every kind of step.

    A step that does not tell its loss (``value=``) has the length of its gradient judged instead.
    """
    cap, tx = cap_spikes(), optax.with_extra_args_support(tx)

    def init(params: Any) -> Any:
        return cap.init(params), tx.init(params)

    def update(
        updates: Any, state: Any, params: Any = None, *, value: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        told = optax.tree.norm(updates) if value is None else value
        updates, first = cap.update(updates, state[0], params, value=told)
        more = extra if value is None else {"value": value, **extra}
        updates, second = tx.update(updates, state[1], params, **more)
        return updates, (first, second)

    return optax.GradientTransformationExtraArgs(init, update)


def blurred(image: Any) -> Any:
    """Weighted mean of 5 x 5 pixels, Gaussian of 2.5 pixels: [..., y, x], edges repeated.

    Partial scans are judged against such pictures (Ede & Beanland 2020), for noise and what is
    finer than a pixel cannot be known. Arrays of NumPy or JAX.
    """
    xp = jnp if isinstance(image, jax.Array) else np
    weights = np.exp(-0.5 * (np.arange(-2, 3) / 2.5) ** 2)
    weights = weights / weights.sum()
    for axis in (-2, -1):
        n = image.shape[axis]
        pads = [(0, 0)] * image.ndim
        pads[axis] = (2, 2)
        wide = xp.moveaxis(xp.pad(image, pads, mode="edge"), axis, -1)
        parts = [float(w) * wide[..., k : k + n] for k, w in enumerate(weights)]
        image = xp.moveaxis(sum(parts[1:], parts[0]), -1, axis)
    return image


def _squares(apply: Apply, params: Any, batch: Batch) -> list[jax.Array]:
    """Squared errors [b, y, x, 1] of each of the output's channels, of 2 for the whole range."""
    filled, mean, scale = standardise(batch["values"], batch["mask"])
    rate, known = batch["rate"], (batch["mask"] > 0).astype(filled.dtype)
    axes = (1, 2, 3)
    span = rate.max(axes, keepdims=True) - rate.min(axes, keepdims=True)
    # a picture with next to no contrast is not amplified, nor one that noise rules
    span = jnp.maximum(jnp.maximum(span, scale), 0.1 * rate.max(axes, keepdims=True))
    seen = apply(params, jnp.concatenate([filled, known], axis=-1))
    wanted = (rate - mean) / scale
    return [
        jnp.square((filled + seen[..., k : k + 1] - wanted) * (2 * scale / span))
        for k in range(seen.shape[-1])
    ]


def _sum_of_four(x: jax.Array) -> jax.Array:
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).sum((2, 4))
