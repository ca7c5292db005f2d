"""Ways to train a denoiser of counts, by name.

An objective is made of a network, and says how to train it and how to use it:

>>> import jax, jax.numpy as jnp
>>> draw = lambda key: {"counts": jax.random.poisson(key, 9.0, (2, 16, 16, 1)).astype(jnp.float32)}
>>> needs("noise2void").outputs
1
>>> objective = OBJECTIVES["noise2void"](lambda params, x: params * x)
>>> value, metrics = objective.loss(0.5, objective.keyed(draw)(jax.random.key(0)))
>>> objective.restore(0.5, draw(jax.random.key(1))["counts"]).shape
(2, 16, 16, 1)

In a script: ``make_step(objective.loss, objective.keyed(draw), tx)``.

=================  =========================================================  ===================
name               learns from                                                 the network gives
=================  =========================================================  ===================
``supervised``     clean images (``rate``)                                     image (, its error)
``noise2noise``    a second recording of the scene (two ``copies``)            image
``noise2void``     the noisy image: some pixels hidden behind a neighbour      image
``noise2self``     the noisy image: a grid of pixels hidden                    image
``blindspot``      the noisy image, by a network with a blind spot; Poisson    mean and spread
``pn2v``           the noisy image and a noise model                           samples
``pn2v_bootstrap``  the noisy image, then the noise model fitted to it         samples
=================  =========================================================  ===================

Batches hold ``counts`` [b, y, x, copies] in electrons and, where they are known or asked for,
``rate`` [b, y, x, 1], ``peak`` [b] and ``readout`` [b] (`emjax.data.synthetic_columns`,
`synthetic_pairs`, or real images as a stream). All but `noise2noise` use the first copy.

Networks see images less their mean, over their standard deviation, and their answer is taken back
(``scaling="image"``): so f(a x + b) = a f(x) + b. Objectives of counts (`blindspot`, `pn2v`) know
the noise of an electron, and are not to be rescaled. A network that does this itself takes
``scaling="none"``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from emjax.losses import (
    noise2noise_batch,
    noise2self_batch,
    noise2self_denoise,
    noise2void_batch,
)
from emjax.losses.places import misplaced
from emjax.objectives import base
from emjax.objectives.base import Apply, Batch, Objective, Scale
from emjax.objectives.likelihood import blindspot, pn2v, pn2v_bootstrap

__all__ = ["OBJECTIVES", "Objective", "build", "needs"]

TAIL = 8.0
"""Degrees of freedom of the errors' distribution, where `sure` is learned beside the image."""
STILL = 1e-5
"""Pixels²: what features may move by without that it counts, where `places` is learned."""
Scaling = str | Callable[[jax.Array], Scale]


def supervised(
    apply: Apply,
    *,
    kind: str = "psnr",
    sure: bool = False,
    unit: str = "peak",
    places: float = 0.0,
    scaling: Scaling = "image",
) -> Objective:
    """From clean images.

    Parameters
    ----------
    apply
        Network ``(params, x[b, y, x, 1]) -> [b, y, x, 1]``; of two channels if it is `sure`.
    sure
        The second channel is the logarithm of the error's standard deviation. It learns from the
        errors by a likelihood that bears outliers (Student's), a tenth of the loss, and the image
        does not feel it.
    kind
        "psnr" (each image's own logarithm), "mse", "huber" (that of Ede & Beanland 2019), "mae",
        "charbonnier"; or "gaussian", the likelihood of both channels weighted by the standard
        deviation (β = 1/2; Seitzer et al., ICLR 2022).
    unit : "peak" or "spread", what errors are measured in (`objectives.base.unit_of`).
    places
        Weight of the logarithm of how far features were moved (`emjax.losses.places`): without it
        a network pulls columns onto the lattice, which the other terms hardly see.
    scaling : see the top of this file.
    """
    scale = base.scaling_of(scaling)
    sure = sure or kind == "gaussian"
    outputs = 2 if sure else 1

    def predict(params: Any, counts: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The image, the logarithm of its error (or what there is), and the factor."""
        made, (offset, factor) = base.run(apply, scale, params, counts)
        base.check_outputs(made, outputs, f"supervised ({kind})")
        # in units of the factor the error is a fifth at first, and within e^-8 … e^4 of it
        log = jnp.log(factor) + jnp.clip(made[..., -1:] - 1.6, -8.0, 4.0)
        return offset + factor * made[..., :1], log, factor

    def loss(params: Any, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, dict]:
        base.need(batch, "counts", "rate", objective="supervised")
        image, log, factor = predict(params, base.first_copy(batch["counts"]))
        level = base.unit_of(batch, factor, unit)
        difference = (image - batch["rate"]) / level
        extra, moved = jnp.zeros(()), {}
        if places:
            square = misplaced(difference, batch["rate"] / level)
            extra = places * jnp.log(square + STILL).mean()
            moved = {"moved": jnp.sqrt(square.mean())}
        if not sure:
            value, metrics = base.pixel_loss(kind, difference)
            return value + extra, {**metrics, **moved}
        log = log - jnp.log(level)
        square = jnp.square(difference)
        sigma = {"sigma": jnp.sqrt(jnp.exp(2 * log).mean())}
        if kind == "gaussian":
            value = log + 0.5 * square * jnp.exp(-2 * log)
            value = (jax.lax.stop_gradient(jnp.exp(log)) * value).mean()
            return value + extra, {"mse": square.mean(), **sigma, **moved}
        value, metrics = base.pixel_loss(kind, difference)
        # Student's: a pixel much worse than said must not outweigh all others
        ratio = jax.lax.stop_gradient(square) * jnp.exp(-2 * log)
        likely = log + 0.5 * (TAIL + 1) * jnp.log1p(ratio / TAIL)
        return value + extra + 0.1 * likely.mean(), {**metrics, **sigma, **moved}

    def posterior(params: Any, counts: jax.Array, readout: Any = None) -> tuple:
        image, log, _ = predict(params, counts)
        return image, jnp.exp(2 * log) if sure else None

    if kind != "gaussian" and kind not in base.KINDS:
        known = ", ".join((*base.KINDS, "gaussian"))
        raise ValueError(f"there is no kind of loss {kind!r}: choose one of {known}")
    return Objective("supervised", loss, posterior, outputs=outputs)


def noise2noise(
    apply: Apply,
    *,
    kind: str = "mse",
    unit: str = "spread",
    both_ways: bool = True,
    scaling: Scaling = "image",
) -> Objective:
    """From two recordings of each scene (Lehtinen et al., ICML 2018).

    With "mse" the gradient is that of clean targets in expectation, if the targets' noise has mean
    zero. A batch may hold ``targets`` [b, y, x, 2] instead of the counts (`evaluation.controls`
    spoils them on purpose). "psnr" would favour images whose noise happens to be small.
    """
    scale = base.scaling_of(scaling)

    def loss(params: Any, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, dict]:
        counts = batch["counts"]
        if counts.ndim != 4 or counts.shape[-1] < 2:
            raise ValueError(
                f"noise2noise needs two recordings of each scene, counts [b, y, x, 2], not "
                f"{counts.shape}: draw with copies=2 (objectives.needs tells)"
            )
        targets = batch.get("targets", counts)
        inputs = noise2noise_batch(counts[..., :1], counts[..., 1:2], both_ways=both_ways)
        targets = noise2noise_batch(targets[..., :1], targets[..., 1:2], both_ways=both_ways)
        made, (offset, factor) = base.run(apply, scale, params, inputs["image"])
        base.check_outputs(made, 1, "noise2noise")
        level = base.unit_of(batch, factor, unit)
        if len(level) < len(made):  # of the scene, which is there twice
            level = jnp.concatenate([level, level])
        return base.pixel_loss(kind, (offset + factor * made - targets["target"]) / level)

    return Objective("noise2noise", loss, _plain(apply, scale), copies=2)


def noise2void(
    apply: Apply,
    *,
    kind: str = "mse",
    spacing: int = 8,
    radius: int = 2,
    line: str | None = None,
    extent: int = 5,
    scaling: Scaling = "image",
) -> Objective:
    """From single noisy images (Krull, Buchholz & Jug, CVPR 2019).

    Some pixels show a neighbour's value, and the network tells theirs; noise must be independent
    from pixel to pixel. `line` ("x" or "y") hides whole stretches, for noise that is correlated
    along them (Broaddus et al., ISBI 2020). The other arguments are those of
    `emjax.losses.noise2void_batch`, and `kind` of `supervised`.
    """
    scale = base.scaling_of(scaling)
    how = {"spacing": spacing, "radius": radius, "line": line, "extent": extent}

    def loss(params: Any, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, dict]:
        counts = base.first_copy(batch["counts"])
        hidden = noise2void_batch(base.loss_key(batch, key, "noise2void"), counts, **how)
        return _hidden_loss(apply, scale, params, hidden, kind, "noise2void")

    return Objective("noise2void", loss, _plain(apply, scale), random=True)


def noise2self(
    apply: Apply,
    *,
    kind: str = "mse",
    width: int = 4,
    exact: bool = True,
    scaling: Scaling = "image",
) -> Objective:
    """From single noisy images (Batson & Royer, ICML 2019): one of width² grids is hidden.

    `exact`: restore with the function that was trained, which hides each grid in turn and reads it
    (width² runs of the network; no pixel of the image knows its own value). Off: one plain run.
    """
    scale = base.scaling_of(scaling)
    plain = _plain(apply, scale)

    def loss(params: Any, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, dict]:
        counts = base.first_copy(batch["counts"])
        hidden = noise2self_batch(base.loss_key(batch, key, "noise2self"), counts, width=width)
        return _hidden_loss(apply, scale, params, hidden, kind, "noise2self")

    # scaled after hiding: the mean and spread of the whole image would know the hidden pixels
    denoise = noise2self_denoise(lambda params, x: plain(params, x)[0], width=width)

    def posterior(params: Any, counts: jax.Array, readout: Any = None) -> tuple:
        return (denoise(params, counts), None) if exact else plain(params, counts)

    return Objective("noise2self", loss, posterior, random=True)


def _hidden_loss(
    apply: Apply, scale: Any, params: Any, hidden: Batch, kind: str, name: str
) -> tuple[jax.Array, dict]:
    """What the network makes of the visible pixels, against the hidden ones."""
    made, (offset, factor) = base.run(apply, scale, params, hidden["image"])
    base.check_outputs(made, 1, name)
    difference = (offset + factor * made - hidden["target"]) / factor
    return base.pixel_loss(kind, difference, hidden["weight"])


def _plain(apply: Apply, scale: Any) -> Callable[..., tuple[jax.Array, None]]:
    """The network applied once."""

    def posterior(params: Any, counts: jax.Array, readout: Any = None) -> tuple:
        made, (offset, factor) = base.run(apply, scale, params, counts)
        return offset + factor * made, None

    return posterior


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "supervised": supervised,
    "noise2noise": noise2noise,
    "noise2void": noise2void,
    "noise2self": noise2self,
    "blindspot": blindspot,
    "pn2v": pn2v,
    "pn2v_bootstrap": pn2v_bootstrap,
}
"""Objectives by name: ``OBJECTIVES[name](apply, **options) -> Objective``."""


def build(name: str, apply: Apply, **options: Any) -> Objective:
    """An objective by name, with a message for people where name or options are wrong.

    Raises
    ------
    ValueError : an unknown name (suggests some), or an option that the objective does not have.
    """
    if name not in OBJECTIVES:
        close = difflib.get_close_matches(name, OBJECTIVES, n=3, cutoff=0.4)
        hint = (
            f"did you mean {' or '.join(close)}?" if close else "there are " + ", ".join(OBJECTIVES)
        )
        raise ValueError(f"there is no objective {name!r}: {hint}")
    try:
        return OBJECTIVES[name](apply, **options)
    except TypeError as error:
        raise ValueError(
            f"the objective {name!r} cannot be made with {options}: {error}"
        ) from error


def needs(name: str, **options: Any) -> Objective:
    """What an objective asks for, before there is a network: its `outputs`, `copies`, `network`."""

    def no_network(params: Any, x: jax.Array) -> jax.Array:
        raise TypeError("this objective was made to look at; build it with a network to use it")

    return build(name, no_network, **options)
