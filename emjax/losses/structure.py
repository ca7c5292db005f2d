"""What single pixels do not tell: edges, spatial frequencies, several scales, local structure.

``(prediction, target, weight=None) -> scalar`` for arrays [b, y, x, c] or [b, z, y, x, c].
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from emjax.losses.basics import Elementary, alike, average, spread
from emjax.metrics.image_quality import ssim_map


def gradient(
    prediction: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    *,
    power: int = 1,
) -> jax.Array:
    """Mean of abs(∇prediction - ∇target)^power over the axes of space (Mathieu et al., ICLR 2016).

    Differences of neighbouring pixels: edges must be as steep as they are, and an offset of the
    whole image costs nothing. A difference weighs as much as the lesser of its two pixels.
    """
    prediction, target = alike(prediction, target, weight)
    axes = _space(prediction)
    error = prediction - target
    if weight is not None:
        weight = spread(weight, error.shape, error.dtype)
    total = jnp.zeros((), error.dtype)
    for axis in axes:
        size = jnp.abs(jnp.diff(error, axis=axis))
        both = None
        if weight is not None:
            first = jax.lax.slice_in_dim(weight, 0, weight.shape[axis] - 1, axis=axis)
            both = jnp.minimum(first, jax.lax.slice_in_dim(weight, 1, None, axis=axis))
        total = total + average(size**power, both)
    return total / len(axes)


def fourier(
    prediction: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    *,
    power: int = 1,
    emphasis: float = 0.0,
    epsilon: float = 1e-8,
) -> jax.Array:
    """Mean of abs(F(prediction) - F(target))^power over all spatial frequencies.

    With power 2 and no emphasis it is the mean squared error (Parseval); with power 1 a few strong
    reflections no longer outweigh the many weak ones (Fourier-space losses: Jiang et al., "Focal
    frequency loss", ICCV 2021).

    Parameters
    ----------
    prediction, target : [b, y, x, c] or [b, z, y, x, c].
    weight : of the pictures [b] alone: frequencies have no place.
    power : 1 or 2.
    emphasis : frequencies count in proportion to abs(k)^emphasis (scaled to a mean of 1; frequency
        0, the mean of the image, then does not count). A positive one is for fine detail, and
        amplifies noise in the target.
    epsilon : added to the squared amplitude below the root of power 1, whose slope at 0 would
        otherwise be undefined.

    Raises
    ------
    ValueError : another power, or a weight of pixels.
    """
    if power not in (1, 2):
        raise ValueError(f"power {power}: choose 1 or 2")
    if weight is not None and jnp.ndim(weight) != 1:
        raise ValueError(
            f"a weight of shape {jnp.shape(weight)}: frequencies have no place, so that pictures "
            "alone can be weighted [b]"
        )
    prediction, target = alike(prediction, target, weight)
    axes = _space(prediction)
    error = jnp.fft.fftn(prediction - target, axes=axes, norm="ortho")
    size = jnp.square(error.real) + jnp.square(error.imag)
    if power == 1:
        size = jnp.sqrt(size + epsilon) - np.sqrt(epsilon).astype(size.dtype)
    if emphasis:
        shape = tuple(prediction.shape[axis] for axis in axes)
        k = np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij")
        each = np.sqrt(sum(q**2 for q in k))
        each = np.where(each > 0, np.where(each > 0, each, 1) ** emphasis, 0)
        each = (each / max(each.mean(), 1e-12)).reshape(1, *shape, 1)
        size = size * jnp.broadcast_to(jnp.asarray(each, size.dtype), size.shape)
    return average(size, weight)


def multiscale(
    loss: Elementary, *, levels: int = 3, weights: Sequence[float] | None = None
) -> Elementary:
    """The weighted mean of a loss at full, half, quarter … resolution.

    Each level averages 2 × 2 (× 2) pixels of the one before, with an odd last row or column left
    out. With weights of pixels it is their weighted mean, and weighs as much as they do on average:
    a pixel without weight does not count at any level.

    Parameters
    ----------
    loss : elementary loss.
    levels : number of resolutions, the full one included.
    weights : of the levels, finest first; default: all the same.

    Raises
    ------
    ValueError : no level, or another number of weights; when called, an image too small.
    """
    shares = np.ones(levels) if weights is None else np.asarray(weights, float)
    if levels < 1 or shares.shape != (levels,) or not shares.sum() > 0:
        raise ValueError(f"{levels} levels need as many weights, not {weights}")
    shares = shares / shares.sum()

    def several(
        prediction: jax.Array, target: jax.Array, weight: jax.Array | None = None
    ) -> jax.Array:
        prediction, target = alike(prediction, target, weight)
        smallest = min(prediction.shape[axis] for axis in _space(prediction))
        if smallest < 2 ** (levels - 1):
            raise ValueError(f"{levels} levels need {2 ** (levels - 1)} pixels, not {smallest}")
        pixels = weight is not None and jnp.ndim(weight) > 1
        if pixels:
            weight = spread(weight, prediction.shape, prediction.dtype)
        total = jnp.zeros((), prediction.dtype)
        for level, share in enumerate(shares.tolist()):
            if level:
                if pixels:
                    prediction, target = weight * prediction, weight * target
                    weight = _halve(weight)
                prediction, target = _halve(prediction), _halve(target)
                if pixels:
                    total_weight = jnp.where(weight > 0, weight, 1)
                    prediction, target = prediction / total_weight, target / total_weight
            total = total + share * loss(prediction, target, weight)
        return total

    return several


def ssim_loss(
    prediction: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    *,
    data_range: float = 1.0,
    window: int = 11,
    sigma: float = 1.5,
) -> jax.Array:
    """1 - SSIM, the mean over Gaussian windows (`emjax.metrics.image_quality.ssim`): 0 to 2.

    Parameters
    ----------
    prediction, target : [b, y, x, c] or [b, z, y, x, c], at least `window` pixels a side.
    weight : of the pictures [b], or of the pixels (that at a window's centre counts).
    data_range : L, largest minus smallest possible value; C1 = (0.01 L)², C2 = (0.03 L)².
    window : pixels a side, odd; windows lie wholly inside of the image.
    sigma : standard deviation of the window's Gaussian weights in pixels.

    Raises
    ------
    ValueError : an even window, or one larger than the image.
    """
    prediction, target = alike(prediction, target)
    similarity = ssim_map(
        prediction,
        target,
        data_range=data_range,
        axes=_space(prediction),
        size=window,
        sigma=sigma,
    )
    if weight is not None and jnp.ndim(weight) > 1:
        half = window // 2
        weight = spread(weight, prediction.shape, prediction.dtype)
        for axis in _space(prediction):
            weight = jax.lax.slice_in_dim(weight, half, weight.shape[axis] - half, axis=axis)
    return average(1 - similarity, weight)


def _space(x: jax.Array) -> tuple[int, ...]:
    if x.ndim < 3:
        raise ValueError(f"images are [b, y, x, c] or [b, z, y, x, c]; the shape is {x.shape}")
    return tuple(range(1, x.ndim - 1))


def _halve(x: jax.Array) -> jax.Array:
    for axis in _space(x):
        n = x.shape[axis] // 2
        x = jax.lax.slice_in_dim(x, 0, 2 * n, axis=axis)
        x = x.reshape(*x.shape[:axis], n, 2, *x.shape[axis + 1 :]).mean(axis + 1)
    return x
