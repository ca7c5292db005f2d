"""Denoisers out of noisy images alone: the objectives are `mse` on cleverly drawn batches.

A function of this file turns noisy images into a batch with ``image``, ``target`` and (where only
some pixels count) ``weight``; call it in the function that draws batches, and train with
``supervised(apply, mse)``:

>>> import jax
>>> from emjax.losses import mse, supervised
>>> noisy = jax.random.normal(jax.random.key(0), (2, 16, 16, 1))
>>> batch = noise2void_batch(jax.random.key(1), noisy)
>>> value, _ = supervised(lambda params, x: params * x, mse)(0.0, batch)

All need noise of mean zero: the expected noisy image is the clean one. Rescaling a target by its
own minimum and maximum, or clipping it at 0, breaks that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def noise2noise_batch(
    first: jax.Array, second: jax.Array, *, both_ways: bool = True
) -> dict[str, jax.Array]:
    """Two noisy images of the same thing: predict one from the other (Lehtinen et al., ICML 2018).

    Parameters
    ----------
    first, second : [b, y, x, c], of one signal with independent noise, aligned (two frames, odd
        and even detector frames, or `split_counts`).
    both_ways : each is the target once; the batch is twice as large.
    """
    if first.shape != second.shape:
        raise ValueError(f"the two images differ in shape: {first.shape} and {second.shape}")
    if not both_ways:
        return {"image": first, "target": second}
    return {
        "image": jnp.concatenate([first, second]),
        "target": jnp.concatenate([second, first]),
    }


def split_counts(
    key: jax.Array, counts: jax.Array, share: float = 0.5
) -> tuple[jax.Array, jax.Array]:
    """Two independent images out of one: each electron goes to the first with probability `share`.

    Of Poisson counts of rate λ the parts are independent and Poisson, with rates share·λ and
    (1 - share)·λ (thinning): Noise2Noise from a single exposure. It does not hold for read-out
    noise, a gain, or a detector that spreads an electron over pixels.

    Parameters
    ----------
    key : random key.
    counts : whole numbers ≥ 0, any shape.
    share : of the first, 0 to 1.

    Returns
    -------
    first, second : float32; their sum is `counts`. Divide by `share` and 1 - `share` to compare.
    """
    counts = jnp.asarray(counts, jnp.float32)
    first = jax.random.binomial(key, counts, jnp.full_like(counts, share))
    return first, counts - first


def noise2void_batch(
    key: jax.Array,
    noisy: jax.Array,
    *,
    spacing: int = 8,
    radius: int = 2,
    line: str | None = None,
    extent: int = 5,
) -> dict[str, jax.Array]:
    """Pixels hidden behind a neighbour's value, and to be told (Krull, Buchholz & Jug, CVPR 2019).

    Noise must be independent from pixel to pixel. Where it is not along a line (scan lines,
    read-out rows), `line` hides the pixels beside it too (structN2V: Broaddus et al., ISBI 2020).

    Parameters
    ----------
    key : random key.
    noisy : [b, y, x, c], at least 2 × 2 pixels.
    spacing : one pixel in each box of spacing × spacing is hidden (stratified sampling), in all
        channels.
    radius : a hidden pixel is replaced by one that is drawn from the window of 2 radius + 1
        pixels around it, itself excluded (and with `line` its whole line).
    line : "x" or "y", the axis along which noise is correlated.
    extent : pixels on each side along the line that are hidden with it.

    Returns
    -------
    dict
        ``image`` with the hidden pixels replaced, ``target`` the noisy image, ``weight`` [b, y, x]
        1 at the hidden pixels (with `line`, in their centres alone).
    """
    if line not in (None, "x", "y"):
        raise ValueError(f"line {line!r}: choose x, y or None")
    if noisy.ndim != 4 or min(noisy.shape[1:3]) < 2:
        raise ValueError(f"images are [b, y, x, c] of 2 pixels and more, not {noisy.shape}")
    b, h, w, _ = noisy.shape
    where, pick = jax.random.split(key)
    mask = _stratified(where, (b, h, w), spacing)
    hidden = mask
    if line is not None:
        axis = 2 if line == "x" else 1
        for shift in range(1, extent + 1):
            hidden = hidden | _shifted(mask, shift, axis) | _shifted(mask, -shift, axis)
    rows, columns = _neighbour(pick, (b, h, w), radius, line)
    other = noisy[jnp.arange(b)[:, None, None], rows, columns]
    image = jnp.where(hidden[..., None], other, noisy)
    return {"image": image, "target": noisy, "weight": mask.astype(jnp.float32)}


def noise2self_batch(key: jax.Array, noisy: jax.Array, *, width: int = 4) -> dict[str, jax.Array]:
    """One of width² grids of pixels is hidden and predicted from the rest (Batson & Royer 2019).

    Hidden pixels show the mean of their eight neighbours (those at the sides count twice). The
    function "hide, apply, read the hidden pixels" does not depend on the pixels that it predicts,
    whatever the network is; `noise2self_denoise` is that function for all pixels.

    Parameters
    ----------
    key : random key of the grid.
    noisy : [b, y, x, c], noise independent from pixel to pixel.
    width : distance of the hidden pixels, at least 2.

    Returns
    -------
    dict : ``image``, ``target``, ``weight`` [b, y, x], as of `noise2void_batch`.
    """
    which = jax.random.randint(key, (), 0, _checked_width(width) ** 2)
    image, mask = _grid_hidden(noisy, which, width)
    weight = jnp.broadcast_to(mask[None].astype(jnp.float32), noisy.shape[:3])
    return {"image": image, "target": noisy, "weight": weight}


def noise2self_denoise(
    apply: Callable[[Any, jax.Array], jax.Array], *, width: int = 4
) -> Callable[[Any, jax.Array], jax.Array]:
    """``(params, noisy) -> image`` in which no pixel depends on its own noisy value.

    The network runs width² times, each time with another grid hidden. Its output has the shape of
    its input.
    """
    _checked_width(width)

    def denoise(params: Any, noisy: jax.Array) -> jax.Array:
        def add(total: jax.Array, which: jax.Array) -> tuple[jax.Array, None]:
            image, mask = _grid_hidden(noisy, which, width)
            made = apply(params, image).astype(total.dtype)
            return total + jnp.where(mask[None, :, :, None], made, 0), None

        start = jnp.zeros(noisy.shape, jnp.float32)
        return jax.lax.scan(add, start, jnp.arange(width**2))[0]

    return denoise


def _stratified(key: jax.Array, shape: tuple[int, int, int], spacing: int) -> jax.Array:
    """One true pixel in each box (none where it falls beyond the image), bool [b, y, x]."""
    b, h, w = shape
    if spacing < 2:
        raise ValueError(f"a spacing of {spacing} hides the whole image; it must be at least 2")
    boxes = (b, -(-h // spacing), -(-w // spacing))
    offset = jax.random.randint(key, (2, *boxes), 0, spacing)
    offset = jnp.repeat(jnp.repeat(offset, spacing, 2), spacing, 3)[:, :, :h, :w]
    y, x = np.indices((h, w)) % spacing
    return (offset[0] == y[None]) & (offset[1] == x[None])


def _neighbour(
    key: jax.Array, shape: tuple[int, int, int], radius: int, line: str | None
) -> tuple[jax.Array, jax.Array]:
    """Row and column of a random neighbour of every pixel, inside of the image, never itself."""
    _, h, w = shape
    y, x = np.indices((h, w))
    top, left = np.maximum(y - radius, 0), np.maximum(x - radius, 0)
    high = np.minimum(y + radius, h - 1) - top + 1
    wide = np.minimum(x + radius, w - 1) - left + 1
    u = jax.random.uniform(key, (3, *shape))

    def choose(u: jax.Array, n: np.ndarray) -> jax.Array:
        """0 … n - 1 with equal probability."""
        n = jnp.broadcast_to(jnp.asarray(n)[None], shape)
        return jnp.minimum((u * n).astype(jnp.int32), n - 1)

    def skip(chosen: jax.Array, own: np.ndarray) -> jax.Array:
        """Leave out one's own place."""
        return chosen + (chosen >= own[None])

    if line == "x":
        row, column = skip(choose(u[0], high - 1), y - top), choose(u[1], wide)
    elif line == "y":
        row, column = choose(u[0], high), skip(choose(u[1], wide - 1), x - left)
    else:
        flat = skip(choose(u[2], high * wide - 1), (y - top) * wide + x - left)
        row, column = flat // wide[None], flat % wide[None]
    return row + top[None], column + left[None]


def _shifted(mask: jax.Array, shift: int, axis: int) -> jax.Array:
    """Moved along an axis; what comes in from outside is false."""
    n = mask.shape[axis]
    if abs(shift) >= n:
        return jnp.zeros_like(mask)
    pad = [(0, 0)] * mask.ndim
    pad[axis] = (max(shift, 0), max(-shift, 0))
    start = max(-shift, 0)
    return jax.lax.slice_in_dim(jnp.pad(mask, pad), start, start + n, axis=axis)


def _grid_hidden(noisy: jax.Array, which: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    """The image with one grid replaced by the mean of its neighbours, and that grid [y, x]."""
    h, w = noisy.shape[1:3]
    y, x = np.indices((h, w)) % width
    mask = jnp.asarray(y * width + x) == which
    # "reflect": beyond the edge lies the second pixel, never the pixel itself
    padded = jnp.pad(noisy, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    mean = jnp.zeros_like(noisy)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            if (dy, dx) != (1, 1):
                share = (2 if 1 in (dy, dx) else 1) / 12
                mean = mean + share * padded[:, dy : dy + h, dx : dx + w]
    return jnp.where(mask[None, :, :, None], mean, noisy), mask


def _checked_width(width: int) -> int:
    if width < 2:
        raise ValueError(f"a grid of width {width} hides the whole image; it must be at least 2")
    return width
