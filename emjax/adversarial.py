"""Losses of generators and critics that are trained against each other.

A critic scores images with any real numbers (logits); all losses are means over scores, so that a
map of patches counts as much as one score. For `emjax.gan_step`, losses are
``(key, own params, the other's params, batch) -> (scalar, metrics)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from emjax.losses.pixel import mae

Apply = Callable[..., jax.Array]
AdversarialLoss = Callable[
    [jax.Array, Any, Any, Mapping[str, Any]], tuple[jax.Array, dict[str, jax.Array]]
]

KINDS = ("vanilla", "lsgan", "wgan", "hinge")
"""Goodfellow et al. 2014 (the generator's form that does not saturate), Mao et al. 2017, Arjovsky,
Chintala & Bottou 2017, Lim & Ye 2017."""


def critic_objective(kind: str, real: jax.Array, fake: jax.Array) -> jax.Array:
    """What a critic minimises.

    Parameters
    ----------
    kind : of `KINDS`. "vanilla": -ln σ(real) - ln(1 - σ(fake)); "lsgan": (real - 1)² + fake²;
        "wgan": fake - real; "hinge": max(0, 1 - real) + max(0, 1 + fake). Means over all scores.
    real, fake : scores of both sets, of any shape.

    >>> float(critic_objective("lsgan", jnp.array([0.5]), jnp.array([0.5])))
    0.5
    """
    _check_kind(kind)
    if kind == "vanilla":
        return jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()
    if kind == "lsgan":
        return jnp.square(real - 1).mean() + jnp.square(fake).mean()
    if kind == "wgan":
        return fake.mean() - real.mean()
    return jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()


def generator_objective(kind: str, fake: jax.Array) -> jax.Array:
    """What a generator minimises.

    "vanilla": -ln σ(fake), which has the fixed points of the minimax game but a slope where the
    critic is sure; "lsgan": (fake - 1)²; "wgan" and "hinge": -fake. Means over all scores.
    """
    _check_kind(kind)
    if kind == "vanilla":
        return jax.nn.softplus(-fake).mean()
    if kind == "lsgan":
        return jnp.square(fake - 1).mean()
    return -fake.mean()


def gradient_penalty(
    key: jax.Array, score: Callable[[jax.Array], jax.Array], real: jax.Array, fake: jax.Array
) -> jax.Array:
    """Mean of (‖∇ score‖ - 1)² at random places between real and generated images.

    Gulrajani et al., NeurIPS 2017: with it a critic measures the Wasserstein distance. The score of
    an image is the mean of its map. ``weight 10`` is usual.

    Parameters
    ----------
    key : random key of the places.
    score : ``images [b, …] -> scores [b, …]``, of each image by itself.
    real, fake : [b, …], of one shape.

    Raises
    ------
    ValueError : images of different shapes.
    """
    if real.shape != fake.shape:
        raise ValueError(
            f"real images {real.shape} and generated ones {fake.shape} differ in shape"
        )
    part = jax.random.uniform(key, (len(real), *(1,) * (real.ndim - 1)), real.dtype)
    squares = _squared_slopes(score, part * real + (1 - part) * fake)
    # a root has no slope at 0, where a critic that scores all images alike begins
    return jnp.square(jnp.sqrt(squares + 1e-12) - 1).mean()


def real_penalty(score: Callable[[jax.Array], jax.Array], real: jax.Array) -> jax.Array:
    """Mean of ½ ‖∇ score‖² at the real images (R1: Mescheder, Geiger & Nowozin, ICML 2018)."""
    return 0.5 * _squared_slopes(score, real).mean()


def cycle_consistency(
    there: Callable[[jax.Array], jax.Array],
    back: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    *,
    see: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> jax.Array:
    """Mean of |see(back(there(x))) - see(x)| (Zhu et al., ICCV 2017), pictures of one shape.

    `see` is what has to come back: for noisy images a low-pass filter, because no generator can
    bring back their noise (Wang, Henninen, Keller & Erni, Appl. Microsc. 2020).
    """
    return mae(see(back(there(x))), see(x))


def gan_losses(
    generator: Apply,
    critic: Apply,
    *,
    kind: str = "wgan",
    adversarial: float = 1.0,
    penalty: float | None = None,
    pixel: float = 0.0,
    conditional: bool = False,
) -> tuple[AdversarialLoss, AdversarialLoss]:
    """The generator's and the critic's loss.

    Parameters
    ----------
    generator, critic : ``(params, x) -> y``.
    kind : of `KINDS`.
    adversarial : weight of the critic's opinion in the generator's loss.
    penalty : weight of the `gradient_penalty` in the critic's loss; 0 leaves it out. None: 10 for
        "wgan", whose critic needs it, and 0 for the other kinds, as published.
    pixel : weight of the mean absolute difference from the target. Without a critic's opinion a
        mean of all answers is best; with it one answer, at a larger difference.
    conditional : the critic sees the input too, stacked with the image along the channels (Mirza &
        Osindero 2014, Isola et al. 2017): whether the output belongs to the input.

    Returns
    -------
    generator_loss, critic_loss : of batches with ``input`` (an image, or noise) and ``target``
        (real images; paired with the inputs where `conditional` or `pixel` is used).
    """
    _check_kind(kind)
    penalty = {"wgan": 10.0}.get(kind, 0.0) if penalty is None else penalty

    def score(params: Any, image: jax.Array, batch: Mapping[str, Any]) -> jax.Array:
        given = jnp.concatenate([batch["input"], image], axis=-1) if conditional else image
        return critic(params, given)

    def generator_loss(
        key: jax.Array, params: Any, critic_params: Any, batch: Mapping[str, Any]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        fake = generator(params, batch["input"])
        opinion = generator_objective(kind, score(critic_params, fake, batch))
        loss, metrics = adversarial * opinion, {"adversarial": opinion}
        if pixel:
            metrics["pixel"] = mae(fake, batch["target"])
            loss = loss + pixel * metrics["pixel"]
        return loss, metrics

    def critic_loss(
        key: jax.Array, params: Any, generator_params: Any, batch: Mapping[str, Any]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        real, fake = batch["target"], generator(generator_params, batch["input"])
        scores = score(params, real, batch), score(params, fake, batch)
        loss = critic_objective(kind, *scores)
        metrics = {"margin": scores[0].mean() - scores[1].mean()}
        if penalty:
            steep = gradient_penalty(key, lambda x: score(params, x, batch), real, fake)
            loss, metrics = loss + penalty * steep, {**metrics, "penalty": steep}
        return loss, metrics

    return generator_loss, critic_loss


def cycle_losses(
    generator: Apply,
    critic: Apply,
    *,
    kind: str = "lsgan",
    cycle: float = 10.0,
    identity: float = 0.0,
    penalty: float = 0.0,
    see: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> tuple[AdversarialLoss, AdversarialLoss]:
    """Two generators and two critics between two sets of images without pairs.

    Parameters
    ----------
    generator, critic : ``(params, x) -> y``; the parameters are ``{"there": …, "back": …}`` of both
        generators and ``{"source": …, "target": …}`` of both critics.
    kind, penalty : see `gan_losses`.
    cycle : weight of the `cycle_consistency`, in both directions.
    identity : weight of |there(target) - target| + |back(source) - source|, which keeps intensities
        (needs as many channels in both sets).
    see : what has to come back of the source images, see `cycle_consistency`.

    Returns
    -------
    generator_loss, critic_loss : of batches with ``source`` and ``target``.
    """
    _check_kind(kind)

    def generator_loss(
        key: jax.Array, params: Any, critics: Any, batch: Mapping[str, Any]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        source, target = batch["source"], batch["target"]
        there = lambda x: generator(params["there"], x)  # noqa: E731
        back = lambda x: generator(params["back"], x)  # noqa: E731
        fooled = generator_objective(kind, critic(critics["target"], there(source)))
        fooled = fooled + generator_objective(kind, critic(critics["source"], back(target)))
        closed = cycle_consistency(there, back, source, see=see)
        closed = closed + cycle_consistency(back, there, target)
        loss, metrics = fooled + cycle * closed, {"adversarial": fooled, "cycle": closed}
        if identity:
            same = mae(there(target), target) + mae(back(source), source)
            loss, metrics = loss + identity * same, {**metrics, "identity": same}
        return loss, metrics

    def critic_loss(
        key: jax.Array, params: Any, generators: Any, batch: Mapping[str, Any]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        loss, metrics = jnp.float32(0), {}
        for k, (way, other, side) in enumerate(
            (("there", "source", "target"), ("back", "target", "source"))
        ):
            real, fake = batch[side], generator(generators[way], batch[other])
            scores = critic(params[side], real), critic(params[side], fake)
            loss = loss + critic_objective(kind, *scores)
            metrics[f"{side}_margin"] = scores[0].mean() - scores[1].mean()
            if penalty:
                score = lambda x, side=side: critic(params[side], x)  # noqa: E731
                steep = gradient_penalty(jax.random.fold_in(key, k), score, real, fake)
                loss, metrics[f"{side}_penalty"] = loss + penalty * steep, steep
        return loss, metrics

    return generator_loss, critic_loss


def _squared_slopes(score: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    def total(x: jax.Array) -> jax.Array:
        scores = score(x)
        return scores.reshape(len(scores), -1).mean(1).sum()

    return jnp.square(jax.grad(total)(x)).reshape(len(x), -1).sum(1)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: choose one of {', '.join(KINDS)}")
