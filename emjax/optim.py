"""The optimiser of every experiment: AdamW, warm-up and cosine decay, clipped gradients."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from emjax.config import OptimConfig


class OptimError(ValueError):
    """Settings of an optimiser that cannot work together."""


def schedule(config: OptimConfig) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Learning rate of update i = 0, 1 …: linear up to the peak, then half a cosine down.

    The first update already moves (1 / warmup of the peak), and update `steps` - 1 is the last one
    above the final rate, whatever stops the training earlier.

    Raises
    ------
    OptimError
        No steps, a warm-up as long as the training, or a rate or fraction out of range.
    """
    if config.steps < 1:
        raise OptimError(f"--optim.steps {config.steps}: at least one update is needed")
    if not 0 <= config.warmup < config.steps:
        raise OptimError(
            f"--optim.warmup {config.warmup} must lie below --optim.steps {config.steps}: "
            f"about a twentieth of the steps ({config.steps // 20}) works well"
        )
    if not (config.learning_rate > 0 and 0 <= config.final <= 1):
        raise OptimError(
            f"--optim.learning-rate {config.learning_rate} must be positive and "
            f"--optim.final {config.final} a fraction between 0 and 1"
        )

    def learning_rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rise = (step + 1) / max(config.warmup, 1)
        part = jnp.clip((step - config.warmup) / (config.steps - config.warmup), 0, 1)
        fall = config.final + (1 - config.final) * 0.5 * (1 + jnp.cos(jnp.pi * part))
        return config.learning_rate * jnp.minimum(rise, fall)

    return learning_rate


def optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019) on globally clipped gradients.

    Weight decay acts on kernels alone, not on biases and the scales of normalisations (arrays of
    one dimension). `config.clip` = 0 switches clipping off.

    Raises
    ------
    OptimError
        See `schedule`.
    """
    if config.clip < 0 or config.weight_decay < 0:
        raise OptimError("--optim.clip and --optim.weight-decay must not be negative")
    adamw = optax.adamw(
        schedule(config),
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), adamw) if config.clip else adamw
