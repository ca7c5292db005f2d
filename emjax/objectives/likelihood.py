"""Objectives that know how electrons are counted: blind-spot posteriors and probabilistic N2V.

Both learn, from noisy images alone, what a pixel may be given those around it (a prior), and then
weigh it with the pixel's own counts (the posterior). That takes images in electrons: gain and
offset calibrated (`emjax calibrate-noise`), and the read-out noise in the batch or as an option.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emjax.losses import average, fit_histogram, noise2void_batch
from emjax.losses.probabilistic import NoiseModel
from emjax.objectives import base
from emjax.objectives.base import Apply, Batch, Objective, Scale
from emjax.objectives.noise import POSTERIORS, fit_scaled_mixture, poisson_readout

PAIRS = 50_000
"""Pixels that a bootstrapped noise model is fitted to."""


def blindspot(
    apply: Apply,
    *,
    readout: float = 0.0,
    prior: str = "gamma",
    scaling: str | Callable[[jax.Array], Scale] = "image",
) -> Objective:
    """Laine, Karras, Lehtinen & Aila (NeurIPS 2019), with the noise of an electron counter.

    The network never sees a pixel itself and says, from its surroundings, what the rate may be:
    mean and spread of a prior. Training maximises the probability of the recorded counts, the
    restored image is the posterior mean with the counts, both in closed form.

    Parameters
    ----------
    apply : blind-spot network ``(params, x[b, y, x, 1]) -> [b, y, x, 2]``.
    readout : read-out noise in electrons where neither batch nor call tells it.
    prior : "gamma" (exact for Poisson counts with read-out noise) or "gaussian" (the paper's, with
        noise of variance mean + readout²).
    scaling : see `objectives`. Mean and spread of the image know the pixel by a share of one in
        their number; "none" is blind to the last bit.
    """
    if prior not in POSTERIORS:
        raise ValueError(f"prior {prior!r}: choose {' or '.join(POSTERIORS)}")
    form, scale, default = POSTERIORS[prior], base.scaling_of(scaling), readout

    def solve(params: Any, counts: jax.Array, sigma: jax.Array) -> tuple[jax.Array, ...]:
        made, (offset, factor) = base.run(apply, scale, params, counts)
        base.check_outputs(made, 2, "blindspot")
        mean = base.rate_of(made[..., :1], (offset, factor))
        # a spread that starts at a third of the image's own
        spread = factor * jax.nn.softplus(made[..., 1:] - 1.0)
        return form(counts, mean, jnp.square(spread) + 1e-6, sigma)

    def loss(params: Any, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, dict]:
        counts = base.first_copy(batch["counts"])
        sigma = base.readout_of(batch, None, default, len(counts))
        log, _, variance = solve(params, counts, sigma)
        return -log.mean(), {"sigma": jnp.sqrt(variance.mean())}

    def posterior(params: Any, counts: jax.Array, readout: Any = None) -> tuple:
        sigma = base.readout_of(None, readout, default, len(counts))
        _, mean, variance = solve(params, counts, sigma)
        return mean, variance

    return Objective("blindspot", loss, posterior, outputs=2, network="blind_spot")


def pn2v(
    apply: Apply,
    *,
    samples: int = 32,
    readout: float = 0.0,
    noise: NoiseModel | None = None,
    spacing: int = 8,
    radius: int = 2,
    scaling: str | Callable[[jax.Array], Scale] = "image",
) -> Objective:
    """Probabilistic Noise2Void with a known noise model (Krull et al., Front. Comput. Sci. 2020).

    The network gives samples of what a hidden pixel's rate may be; the noise model weighs them by
    the pixel's own counts. The restored image is their weighted mean. The variance is their spread:
    too small where few samples come near the counts (calibrate it, or use `blindspot`).

    Parameters
    ----------
    apply : network ``(params, x[b, y, x, 1]) -> [b, y, x, samples]``, of any kind.
    samples : 800 in the paper.
    readout : read-out noise in electrons where neither batch nor call tells it.
    noise : ``(observed, rate) -> ln p``, elementwise on arrays [b, y, x, 1] and [b, y, x, samples];
        None: Poisson with read-out noise, exact.
    spacing, radius : of the hidden pixels, see `emjax.losses.noise2void_batch`.
    scaling : see `objectives`.
    """
    scale, default = base.scaling_of(scaling), readout

    def log_density(observed: jax.Array, rate: jax.Array, sigma: jax.Array) -> jax.Array:
        return poisson_readout(observed, rate, sigma) if noise is None else noise(observed, rate)

    def rates(params: Any, image: jax.Array) -> jax.Array:
        made, back = base.run(apply, scale, params, image)
        return base.rate_of(base.check_outputs(made, samples, "pn2v"), back)

    def loss(params: Any, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, dict]:
        counts = base.first_copy(batch["counts"])
        key = base.loss_key(batch, key, "pn2v")
        hidden = noise2void_batch(key, counts, spacing=spacing, radius=radius)
        made = rates(params, hidden["image"])
        sigma = base.readout_of(batch, None, default, len(counts))
        logs = log_density(counts, made, sigma)
        value = math.log(samples) - jax.nn.logsumexp(logs, axis=-1)
        square = jnp.square(made.mean(-1) - counts[..., 0])
        return average(value, hidden["weight"]), {"prior_mse": average(square, hidden["weight"])}

    def posterior(params: Any, counts: jax.Array, readout: Any = None) -> tuple:
        made = rates(params, counts)
        sigma = base.readout_of(None, readout, default, len(counts))
        share = jax.nn.softmax(log_density(counts, made, sigma), axis=-1)
        mean = (share * made).sum(-1, keepdims=True)
        return mean, (share * jnp.square(made - mean)).sum(-1, keepdims=True)

    return Objective("pn2v", loss, posterior, outputs=samples, random=True, noise=noise)


def pn2v_bootstrap(
    apply: Apply,
    *,
    samples: int = 32,
    noise: NoiseModel | None = None,
    model: str = "mixture",
    fit: Mapping[str, Any] | None = None,
    **options: Any,
) -> Objective:
    """Probabilistic Noise2Void that finds the noise model itself (Prakash et al., ISBI 2020).

    Two stages with one set of weights. The first is Noise2Void, of the samples' mean. Then
    ``objective = objective.advance(key, params, counts)`` fits a noise model to pairs of noisy and
    so denoised pixels of the same images, and is the objective of the second stage, `pn2v`.

    Parameters
    ----------
    apply, samples, options : of `pn2v`.
    noise : a noise model of an earlier fit (`Objective.noise`): the second stage at once.
    model : "mixture" (Gaussians on the noise's own standard deviation) or "histogram" (for images
        of one dose).
    fit : options of `emjax.losses.fit_mixture` or `fit_histogram`.
    """
    if model not in ("mixture", "histogram"):
        raise ValueError(f"model {model!r}: choose mixture or histogram")
    if noise is not None:
        stage = pn2v(apply, samples=samples, noise=noise, **options)
        return replace(stage, name="pn2v_bootstrap")
    known = pn2v(apply, samples=samples, **options)
    scale = base.scaling_of(options.get("scaling", "image"))
    where = {name: options[name] for name in ("spacing", "radius") if name in options}

    def mean_rate(params: Any, image: jax.Array) -> tuple[jax.Array, Scale]:
        made, back = base.run(apply, scale, params, image)
        made = base.rate_of(base.check_outputs(made, samples, "pn2v_bootstrap"), back)
        return made.mean(-1, keepdims=True), back

    def loss(params: Any, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, dict]:
        counts = base.first_copy(batch["counts"])
        key = base.loss_key(batch, key, "pn2v_bootstrap")
        hidden = noise2void_batch(key, counts, **where)
        made, (_, factor) = mean_rate(params, hidden["image"])
        return base.pixel_loss("mse", (made - counts) / factor, hidden["weight"])

    def posterior(params: Any, counts: jax.Array, readout: Any = None) -> tuple:
        return mean_rate(params, counts)[0], None

    def advance(key: jax.Array, params: Any, counts: jax.Array) -> Objective:
        counts = base.first_copy(jnp.asarray(counts))
        signal = np.asarray(jax.jit(mean_rate)(params, counts)[0]).ravel()
        observed = np.asarray(counts).ravel()
        pick, start = jax.random.split(key)
        if observed.size > PAIRS:
            chosen = np.asarray(jax.random.choice(pick, observed.size, (PAIRS,), replace=False))
            signal, observed = signal[chosen], observed[chosen]
        settings = dict(fit or {})
        found: NoiseModel = (
            fit_scaled_mixture(start, signal, observed, **settings)
            if model == "mixture"
            else fit_histogram(signal, observed, **settings)
        )
        return pn2v_bootstrap(apply, samples=samples, noise=found, **options)

    return replace(
        known, name="pn2v_bootstrap", loss=loss, posterior=posterior, noise=None, advance=advance
    )
