"""Super-resolution: from one coarse image to an image with more pixels.

Any image-to-image network serves: it works at the coarse resolution and gives factor² channels,
which become the pixels of the sharp image (Shi et al., CVPR 2016) and are added to the cubic
enlargement. Images are shifted and scaled to mean 0 and standard deviation 1 before and back
afterwards: the result follows any gain and offset of the detector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from emjax.adversarial import (
    AdversarialLoss,
    Apply,
    critic_objective,
    generator_objective,
    gradient_penalty,
)
from emjax.losses.pixel import charbonnier
from emjax.networks.layers import depth_to_space

__all__ = ["ARMS", "enlarge", "outputs_of", "super_resolution_losses", "training_pairs", "upscaler"]

ARMS = ("ideal", "real", "adversarial")
"""What a network may be trained on: averages of sharp images; recordings at low magnification;
these, with a critic's opinion."""
FLAT = 1e-6


def outputs_of(factor: int) -> int:
    """Channels that a network has to give."""
    return factor**2


def enlarge(image: jax.Array, factor: int, method: str = "cubic") -> jax.Array:
    """[b, y, x, c] -> [b, factor·y, factor·x, c]; "cubic" (Keys 1981), "lanczos3", "linear"."""
    b, y, x, c = image.shape
    return jax.image.resize(image, (b, factor * y, factor * x, c), method)


def upscaler(apply: Apply, factor: int) -> Callable[[Any, jax.Array], jax.Array]:
    """``(params, coarse [b, y, x, 1]) -> sharp [b, factor·y, factor·x, 1]`` in the same unit.

    Parameters
    ----------
    apply : a network of one channel in and factor² channels out.
    factor : how many times finer the pixels become, along each axis.

    Raises
    ------
    ValueError : a factor below 2, or (when called) a network of other channels.
    """
    if factor < 2:
        raise ValueError(f"a factor of {factor}: the image needs more pixels, 2 or more")

    def sharpen(params: Any, coarse: jax.Array) -> jax.Array:
        mean, size = level(coarse)
        return mean + size * _detail(apply, params, (coarse - mean) / size, factor)

    return sharpen


def level(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of each image [b, y, x, c]: [b, 1, 1, 1] each.

    The standard deviation of a constant image is 1, so that it stays one.
    """
    mean = image.mean((1, 2, 3), keepdims=True)
    spread = jnp.sqrt(jnp.square(image - mean).mean((1, 2, 3), keepdims=True))
    return mean, jnp.where(spread > FLAT * jnp.abs(mean) + 1e-30, spread, 1.0)


def training_pairs(batch: Mapping[str, jax.Array], kind: str) -> tuple[jax.Array, jax.Array]:
    """(input, target) in the network's units, of a batch of `make_low_resolution`.

    The target is the sharp image without noise, in electrons of the coarse one, minus the coarse
    image's mean and over its standard deviation.
    """
    coarse = batch[kind]
    mean, size = level(coarse)
    sharp = batch["clean"] * batch["dose"].reshape(-1, 1, 1, 1)
    return (coarse - mean) / size, (sharp - mean) / size


def super_resolution_losses(
    apply: Apply,
    critic: Apply,
    *,
    factor: int,
    arms: tuple[str, ...] = ARMS,
    adversarial: float = 0.01,
    penalty: float = 1.0,
) -> tuple[AdversarialLoss, AdversarialLoss]:
    """Losses for `emjax.gan_step` that train several networks side by side on the same scenes.

    Parameters
    ----------
    apply, critic : ``(params, x) -> y``; the generators' parameters are a dict by arm.
    factor : as in `upscaler`.
    arms : of `ARMS`. "ideal" and "real" minimise the Charbonnier difference from the truth;
        "adversarial" the same on "real" images and `adversarial` times the critic's objective
        (least squares). The critic sees the sharp image beside the enlarged coarse one.
    penalty : weight of the critic's gradient penalty.

    Returns
    -------
    generator_loss, critic_loss : of batches of `make_low_resolution`. Without the arm
        "adversarial" the critic's loss is zero, and its updates do nothing.

    Raises
    ------
    ValueError : no arm, or an unknown one.
    """
    if not arms or set(arms) - set(ARMS):
        raise ValueError(f"arms {arms}: choose one or more of {', '.join(ARMS)}")

    def score(params: Any, coarse: jax.Array, sharp: jax.Array) -> jax.Array:
        return critic(params, jnp.concatenate([enlarge(coarse, factor), sharp], axis=-1))

    def generator_loss(
        key: jax.Array, params: Any, critic_params: Any, batch: Mapping[str, Any]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss, metrics = jnp.float32(0), {}
        for arm in arms:
            coarse, target = training_pairs(batch, "ideal" if arm == "ideal" else "real")
            made = _detail(apply, params[arm], coarse, factor)
            metrics[arm] = charbonnier(made, target)
            loss = loss + metrics[arm]
            if arm == "adversarial":
                opinion = generator_objective("lsgan", score(critic_params, coarse, made))
                metrics["opinion"] = opinion
                loss = loss + adversarial * opinion
        return loss, metrics

    def critic_loss(
        key: jax.Array, params: Any, generators: Any, batch: Mapping[str, Any]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if "adversarial" not in arms:
            nothing = sum(0.0 * leaf.sum() for leaf in jax.tree.leaves(params))
            return jnp.asarray(nothing, jnp.float32), {}
        coarse, target = training_pairs(batch, "real")
        fake = jax.lax.stop_gradient(_detail(apply, generators["adversarial"], coarse, factor))
        real_scores, fake_scores = (score(params, coarse, x) for x in (target, fake))
        loss = critic_objective("lsgan", real_scores, fake_scores)
        metrics = {"margin": real_scores.mean() - fake_scores.mean()}
        if penalty:
            steep = gradient_penalty(key, lambda x: score(params, coarse, x), target, fake)
            loss, metrics["penalty"] = loss + penalty * steep, steep
        return loss, metrics

    return generator_loss, critic_loss


def _detail(apply: Apply, params: Any, coarse: jax.Array, factor: int) -> jax.Array:
    """The sharp image of a coarse one in the network's units."""
    made = apply(params, coarse)
    if made.shape[-1] != outputs_of(factor):
        raise ValueError(
            f"the network gives {made.shape[-1]} channels: {factor} times finer pixels need "
            f"outputs={outputs_of(factor)}"
        )
    return enlarge(coarse, factor) + depth_to_space(made, factor)
