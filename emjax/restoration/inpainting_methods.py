"""Three ways of learning to complete partial scans, each as a state and a step of a training.

- ``partial``: a U-Net of partial convolutions, squared error, freak batches capped (ALRC);
- ``gan``: two generators in a row against critics of three scales, squared error beside;
- ``diffusion``: a prior of clean pictures; the scan comes in when a picture is completed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from emjax.config import OptimConfig
from emjax.diffusion import diffusion_loss
from emjax.evaluation.inpainting import Restorer, network_restorer
from emjax.gan_step import init_gan_state, make_gan_step
from emjax.networks import build
from emjax.optim import optimizer
from emjax.restoration.inpainting import adversarial_losses, pixel_loss, spikes_capped
from emjax.restoration.inpainting_diffusion import clean_draw, diffusion_restorer
from emjax.training import Step, TrainState, init_state, make_step

Draw = Callable[[jax.Array], dict[str, jax.Array]]

METHODS = {"partial": "partial_conv", "gan": "two_stage", "diffusion": "diffusion_unet"}
"""The network of each method."""

SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "small": {
        "partial": {"widths": [8, 12], "sizes": [5, 3]},
        "gan": {"width": 8, "inner": 8, "blocks": 1},
        "diffusion": {"widths": [8]},
    },
    "cpu": {
        "partial": {"widths": [24, 32, 40, 40], "sizes": [5, 3, 3, 3]},
        "gan": {"width": 16, "inner": 28, "blocks": 3},
        "diffusion": {"widths": [12, 16, 20]},
    },
    "gpu": {
        "partial": {"widths": [64, 128, 192, 256, 256], "sizes": [7, 5, 3, 3, 3]},
        "gan": {"width": 64, "inner": 256, "blocks": 11},
        "diffusion": {"widths": [64, 128, 192, 192], "blocks": 2},
    },
}
"""Arguments of the networks: for a test, below 100,000 weights, and for a graphics processor."""

CRITICS = {"small": (8,), "cpu": (12, 24), "gpu": (64, 128, 256)}
"""Channels of each of the three critics."""
CRITIC_RATE = 2e-4
"""Learning rate of the critics: the generator must be able to follow."""


def network_of(
    method: str, size: str, given: str = "", *, network: str = ""
) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a method's network.

    Parameters
    ----------
    method : of `METHODS`.
    size : of `SIZES`.
    given : JSON of further arguments, which come last.
    network : another one of two channels (the picture, nearest values where nothing was measured;
        and the mask), by name or as path/to/file.py:Name.

    Raises
    ------
    ValueError : an unknown method or size, or `given` is no JSON object.
    """
    if method not in METHODS:
        raise ValueError(f"--method {method}: choose one of {', '.join(METHODS)}")
    if size not in SIZES:
        raise ValueError(f"--size {size}: choose one of {', '.join(SIZES)}")
    try:
        own = dict(json.loads(given or "{}"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"--network-args {given!r} is not a JSON object ({error})") from error
    pictures = {"inputs": 2, "outputs": 1}
    if network:
        return network, {**pictures, **own}
    return METHODS[method], {**pictures, **SIZES[size][method], **own}


def make_training(
    key: jax.Array,
    method: str,
    apply: Callable,
    params: Any,
    *,
    scans: Draw,
    scenes: Draw,
    optim: OptimConfig,
    size: str = "cpu",
    adversarial: float = 1.0,
) -> tuple[TrainState, Step]:
    """State and step for `emjax.training.fit`.

    Parameters
    ----------
    key : of the critics' weights.
    method, size : as in `network_of`.
    apply, params : the method's network.
    scans : partial scans (`data.synthetic_partial`), for partial and gan.
    scenes : draws with ``rate``, for diffusion.
    optim : of the network.
    adversarial : weight of the critics' opinion; the squared error has 200.
    """
    tx = optimizer(optim)
    if method == "diffusion":
        step = make_step(diffusion_loss(apply), clean_draw(scenes), tx, ema_decay=optim.ema)
        return init_state(params, tx), step
    tx = spikes_capped(tx)
    if method == "partial":
        step = make_step(pixel_loss(apply), scans, tx, ema_decay=optim.ema)
        return init_state(params, tx), step
    critic, opponent = build("multi_scale_critic", key, inputs=1, widths=CRITICS[size], scales=3)
    losses = adversarial_losses(apply, critic, weight=adversarial)
    critic_tx = optimizer(replace(optim, learning_rate=CRITIC_RATE))
    step = make_gan_step(*losses, scans, tx, critic_tx, ema_decay=optim.ema)
    return init_gan_state(params, opponent, tx, critic_tx), step


def make_restorer(
    method: str, apply: Callable, params: Any, *, batch: int = 16, quick: bool = False
) -> Restorer:
    """The trained network as `emjax.evaluation.inpainting` judges it.

    `quick`: diffusion takes few steps and draws one picture of each scan.
    """
    if method != "diffusion":
        return network_restorer(apply, params, batch=batch)
    how = {"steps": 3, "samples": 1, "solves": 1} if quick else {}
    return diffusion_restorer(apply, params, batch=batch, **how)
