"""Denoising without pairs (Noise2Atom): noisy images here, clean pictures of spots there.

Wang, Henninen, Keller & Erni, Appl. Microsc. 50, 23 (2020): one generator cleans, a second one
goes back, a Wasserstein critic tells cleaned images from pictures of spots, and what goes round
must come back: exactly for the pictures, after a low-pass filter for noisy images, whose noise no
generator can restore. The published program's filter is not a Gaussian (its exponent holds `^`
where a square is meant); `low_pass` is one.

Both domains are brought to one unit: mean 0, and a standard deviation of 1 of what passes the
filter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike

from emjax.adversarial import (
    AdversarialLoss,
    Apply,
    critic_objective,
    generator_objective,
    gradient_penalty,
)
from emjax.losses.basics import average
from emjax.losses.self_supervised import noise2void_batch

__all__ = ["low_pass", "noise2atom_losses", "standardise", "unpaired_batches", "unpaired_restorer"]


def low_pass(image: jax.Array, sigma: float) -> jax.Array:
    """[b, y, x, c] smoothed by exp(-r²/(2 sigma²)), with weights that sum to 1 at the edges too."""

    def weights(n: int) -> jax.Array:
        away = jnp.arange(n)[:, None] - jnp.arange(n)[None]
        rows = jnp.exp(-0.5 * (away / sigma) ** 2)
        return rows / rows.sum(1, keepdims=True)

    _, ny, nx, _ = image.shape
    return jnp.einsum("rY,bYXc,sX->brsc", weights(ny), image, weights(nx))


def standardise(image: jax.Array, sigma: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(image in the common unit, mean, size) of [b, y, x, 1]; mean and size are [b, 1, 1, 1].

    ``size * result + mean`` is the image. The size of a constant image is 1.
    """
    mean = image.mean((1, 2, 3), keepdims=True)
    smooth = low_pass(image - mean, sigma)
    size = jnp.sqrt(jnp.square(smooth).mean((1, 2, 3), keepdims=True))
    size = jnp.where(size > 1e-6 * jnp.abs(mean) + 1e-30, size, 1.0)
    return (image - mean) / size, mean, size


def unpaired_batches(
    frames: ArrayLike,
    spots: Callable[[jax.Array], jax.Array],
    sigma: float,
    batch: int,
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """``draw(key) -> {"noisy", "clean"}`` of unrelated images in the common unit.

    Parameters
    ----------
    frames : [n, y, x, 1] noisy images with y = x; some are drawn, turned and mirrored at random.
    spots : ``draw(key)`` of pictures [b, y, x, 1].
    sigma : of the low-pass filter [px].
    batch : noisy images of a batch.

    Raises
    ------
    ValueError : frames that are not [n, y, y, 1].
    """
    frames = jnp.asarray(frames, jnp.float32)
    if frames.ndim != 4 or frames.shape[1] != frames.shape[2] or frames.shape[3] != 1:
        raise ValueError(f"frames {frames.shape}: [n, y, x, 1] with y = x are needed")

    def draw(frames: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        which, turn, there = jax.random.split(key, 3)
        noisy = frames[jax.random.randint(which, (batch,), 0, len(frames))]
        up, left, over = jax.random.bernoulli(turn, 0.5, (3,))
        noisy = jnp.where(up, noisy[:, ::-1], noisy)
        noisy = jnp.where(left, noisy[:, :, ::-1], noisy)
        noisy = jnp.where(over, noisy.swapaxes(1, 2), noisy)
        return {
            "noisy": standardise(noisy, sigma)[0],
            "clean": standardise(spots(there), sigma)[0],
        }

    # the frames are an argument of the compiled update, not a constant in it
    return Partial(draw, frames)


def unpaired_restorer(apply: Apply, sigma: float) -> Callable[[Any, jax.Array], jax.Array]:
    """``(params, counts [b, y, x, 1]) -> image`` in counts, for the parameters of one generator."""

    def restore(params: Any, counts: jax.Array) -> jax.Array:
        image, mean, size = standardise(counts, sigma)
        return size * _generate(apply, params, image, sigma) + mean

    return restore


def noise2atom_losses(
    apply: Apply,
    critic: Apply,
    *,
    sigma: float = 1.5,
    adversarial: float = 1.0,
    cycle: float = 10.0,
    anchor: float = 0.0,
    penalty: float = 10.0,
    compare: bool = True,
) -> tuple[AdversarialLoss, AdversarialLoss]:
    """Losses for `emjax.gan_step`.

    Parameters
    ----------
    apply, critic : ``(params, x) -> y``. The generators' parameters are ``{"clean", "back"}``, and
        ``"noise2void"`` with `compare`. Each network's output is added to its low-passed input.
    sigma : of the low-pass filter [px].
    adversarial, cycle : weights of the critic's opinion, and of both mean absolute differences
        after a round trip.
    anchor : weight of |low_pass(cleaned) - low_pass(noisy)|, which forbids to move columns or to
        exchange bright and dark ones, which round trips alone allow. 0 as published.
    penalty : weight of the critic's gradient penalty.
    compare : train Noise2Void on the same images in the same number of updates, for comparison.

    Returns
    -------
    generator_loss, critic_loss : of batches of `unpaired_batches`.
    """

    def generator_loss(
        key: jax.Array, params: Any, critic_params: Any, batch: Mapping[str, Any]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        noisy, clean = batch["noisy"], batch["clean"]
        cleaned = _generate(apply, params["clean"], noisy, sigma)
        fooled = generator_objective("wgan", critic(critic_params, cleaned))
        again = _generate(apply, params["back"], cleaned, sigma)
        closed = jnp.abs(low_pass(again - noisy, sigma)).mean()
        dirty = _generate(apply, params["back"], clean, sigma)
        closed = closed + jnp.abs(_generate(apply, params["clean"], dirty, sigma) - clean).mean()
        loss, metrics = adversarial * fooled + cycle * closed, {"opinion": fooled, "cycle": closed}
        if anchor:
            metrics["anchor"] = jnp.abs(low_pass(cleaned - noisy, sigma)).mean()
            loss = loss + anchor * metrics["anchor"]
        if compare:
            hidden = noise2void_batch(key, noisy)
            made = _generate(apply, params["noise2void"], hidden["image"], sigma)
            error = jnp.square(made - hidden["target"])
            metrics["noise2void"] = average(error, hidden["weight"])
            loss = loss + metrics["noise2void"]
        return loss, metrics

    def critic_loss(
        key: jax.Array, params: Any, generators: Any, batch: Mapping[str, Any]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        real = batch["clean"]
        fake = _generate(apply, generators["clean"], batch["noisy"], sigma)
        fake = jax.lax.stop_gradient(fake)
        scores = critic(params, real), critic(params, fake)
        loss = critic_objective("wgan", *scores)
        steep = gradient_penalty(key, lambda x: critic(params, x), real, fake)
        metrics = {"margin": scores[0].mean() - scores[1].mean(), "penalty": steep}
        return loss + penalty * steep, metrics

    return generator_loss, critic_loss


def _generate(apply: Apply, params: Any, image: jax.Array, sigma: float) -> jax.Array:
    return low_pass(image, sigma) + apply(params, image)
