"""From one pixel size to another, without folding back what the new one cannot hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def resampled_shape(
    shape: Sequence[int], old: Sequence[float], new: Sequence[float]
) -> tuple[int, int]:
    """Pixels (y, x) that an image has after `resample`."""
    sizes = (max(1, round(n * a / b)) for n, a, b in zip(shape, old, new, strict=True))
    return tuple(sizes)  # type: ignore[return-value]


def resample(image: Any, old: Sequence[float], new: Sequence[float]) -> jax.Array:
    """The image on pixels of another size.

    Parameters
    ----------
    image : [y, x].
    old, new : (y, x) Å per pixel; pixel i lies AT i times this in both.

    Returns
    -------
    float32, of `resampled_shape`. Cubic, with the kernel widened where pixels become larger.
    """
    if any(not 0 < v < np.inf for v in (*old, *new)):
        raise ValueError(f"pixel sizes must be positive Å, got {tuple(old)} and {tuple(new)}")
    image = jnp.asarray(image, jnp.float32)
    if image.ndim != 2:
        raise ValueError(f"an image has the axes [y, x], not the shape {image.shape}")
    shape = resampled_shape(image.shape, old, new)
    if shape == image.shape and np.allclose(old, new, rtol=1e-6):
        return image
    scale = jnp.asarray([a / b for a, b in zip(old, new, strict=True)], jnp.float32)
    return scaled(image, shape, scale, jnp.zeros(2, jnp.float32))


def scaled(image: jax.Array, shape: tuple[int, int], scale: Any, translation: Any) -> jax.Array:
    """Pixel i (y, x) of the image comes to i · scale + translation; both may be traced."""
    # scale_and_translate counts from the corner of pixel 0, we from its centre
    return jax.image.scale_and_translate(
        image,
        shape,
        (0, 1),
        jnp.asarray(scale),
        jnp.asarray(translation) + 0.5 - 0.5 * jnp.asarray(scale),
        method="cubic",
        antialias=True,
    )
