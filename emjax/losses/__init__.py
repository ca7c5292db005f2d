"""Losses, one family a file.

Two kinds of functions are called losses here. The elementary ones compare arrays,
``(prediction, target, weight=None) -> scalar`` (``mse``, ``dice``, ``ssim_loss`` …). A training
step takes ``(params, batch) -> (scalar, metrics)``; `supervised` makes one out of a network and an
elementary loss, `emjax.schedules.weighted` one out of several whose weights change with the step:

>>> import jax.numpy as jnp
>>> loss = supervised(lambda params, x: params * x, mae)
>>> value, metrics = loss(2.0, {"image": jnp.ones((1, 4, 4, 1)), "target": jnp.ones((1, 4, 4, 1))})
>>> float(value)
1.0

===================  ==============================================================================
`basics`             means with weights, `supervised`
`pixel`              squares, absolute values, Huber, Charbonnier, Poisson
`anscombe`           counts to constant variance and back without bias
`alrc`               losses that are capped where they jump (ALRC)
`segmentation`       cross-entropy, focal, Dice, Tversky
`boundary`           distance to an outline
`structure`          gradients, Fourier, several scales, SSIM
`self_supervised`    N2N, N2V, N2S: batches out of noisy images alone
`probabilistic`      PN2V and its noise models
`positive_unlabelled`  some positives and no negatives (Topaz)
`columns`            atom columns
`places`             features that a restorer has moved
===================  ==============================================================================
"""

from emjax.losses.alrc import cap_spikes, capped, init_moments
from emjax.losses.anscombe import anscombe, inverse_anscombe
from emjax.losses.basics import Loss, average, supervised
from emjax.losses.boundary import boundary, signed_distance
from emjax.losses.columns import binary_cross_entropy, binary_entropy, column_loss
from emjax.losses.pixel import charbonnier, huber, mae, mse, poisson_nll
from emjax.losses.positive_unlabelled import ge_binomial, nonnegative_pu, positive_negative
from emjax.losses.probabilistic import (
    fit_histogram,
    fit_mixture,
    posterior_mean,
    probabilistic_noise2void,
)
from emjax.losses.segmentation import (
    binary_focal,
    check_labels,
    cross_entropy,
    dice,
    focal,
    sigmoid_cross_entropy,
    tversky,
)
from emjax.losses.self_supervised import (
    noise2noise_batch,
    noise2self_batch,
    noise2self_denoise,
    noise2void_batch,
    split_counts,
)
from emjax.losses.structure import fourier, gradient, multiscale, ssim_loss

__all__ = [
    "Loss",
    "anscombe",
    "average",
    "binary_cross_entropy",
    "binary_entropy",
    "binary_focal",
    "boundary",
    "cap_spikes",
    "capped",
    "charbonnier",
    "check_labels",
    "column_loss",
    "cross_entropy",
    "dice",
    "fit_histogram",
    "fit_mixture",
    "focal",
    "fourier",
    "ge_binomial",
    "gradient",
    "huber",
    "init_moments",
    "inverse_anscombe",
    "mae",
    "mse",
    "multiscale",
    "noise2noise_batch",
    "noise2self_batch",
    "noise2self_denoise",
    "noise2void_batch",
    "nonnegative_pu",
    "poisson_nll",
    "positive_negative",
    "posterior_mean",
    "probabilistic_noise2void",
    "sigmoid_cross_entropy",
    "signed_distance",
    "split_counts",
    "ssim_loss",
    "supervised",
    "tversky",
]
