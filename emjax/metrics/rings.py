"""Sums over rings (2-D) or shells (3-D) of equal spatial frequency."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from emjax.metrics.arrays import Array, numbers, same_shape

__all__ = ["RingCurve", "Rings", "ring_sum", "rings_of", "transforms"]


class RingCurve(NamedTuple):
    """One number per ring.

    Attributes
    ----------
    frequency : [r] centre of each ring, cycles per unit of the sampling (1/Å); without the zero
        frequency, up to the smaller Nyquist frequency.
    value : [r]
    count : [r] Fourier pixels of the ring; both of each Friedel pair are counted.
    """

    frequency: np.ndarray
    value: Any
    count: np.ndarray


class Rings(NamedTuple):
    """Which Fourier pixels belong to which ring: `index` [pixels], 0 for none."""

    frequency: np.ndarray
    count: np.ndarray
    index: np.ndarray
    members: np.ndarray
    """[rings, largest count] flat positions, padded with the number of pixels"""


@lru_cache(maxsize=16)
def rings_of(shape: tuple[int, ...], sampling: tuple[float, ...]) -> Rings:
    """Rings one frequency step wide (the coarsest axis'), by nearest ring.

    Raises
    ------
    ValueError : fewer than 4 pixels along an axis, sampling that does not fit or is not positive.
    """
    if len(shape) not in (1, 2, 3) or min(shape) < 4:
        raise ValueError(f"an image of {shape} pixels: at least 4 along each of 1 to 3 axes.")
    if len(sampling) != len(shape) or min(sampling) <= 0:
        raise ValueError(f"sampling {sampling} for {len(shape)} axes: one positive size per axis.")
    axes = [np.fft.fftfreq(n, d) for n, d in zip(shape, sampling, strict=True)]
    k = np.sqrt(sum(g**2 for g in np.meshgrid(*axes, indexing="ij")))
    step = max(1 / (n * d) for n, d in zip(shape, sampling, strict=True))
    last = int(np.floor(min(0.5 / d for d in sampling) / step + 1e-9))
    index = np.rint(k / step).astype(int).reshape(-1)
    index[index > last] = 0
    count = np.bincount(index, minlength=last + 1)[1:]
    members = np.full((last, count.max()), index.size)
    order = np.argsort(index, kind="stable")
    order = order[index[order] > 0]
    ring = index[order] - 1
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    members[ring, np.arange(order.size) - start[ring]] = order
    return Rings(step * np.arange(1, last + 1), count, index, members)


def ring_sum(xp: Any, values: Any, rings: Rings) -> Any:
    """[..., rings] sums of values [..., *shape flattened]."""
    if xp is np:
        flat = values.reshape(-1, values.shape[-1])
        n = len(rings.count) + 1
        sums = [np.bincount(rings.index, weights=row, minlength=n)[1:] for row in flat]
        return np.stack(sums).reshape(*values.shape[:-1], n - 1)
    # a gather by rings that are known beforehand: scattering into a few sums is slow on a GPU
    pad = xp.concatenate([values, xp.zeros((*values.shape[:-1], 1), values.dtype)], axis=-1)
    return xp.take(pad, xp.asarray(rings.members.astype(np.int32)), axis=-1).sum(-1)


def transforms(
    image: Array,
    other: Array,
    sampling: float | tuple[float, ...],
    ndim: int,
    window: str | None,
) -> tuple[Any, Any, Any, Rings]:
    """(module, both Fourier transforms [..., pixels] without the means, their rings)."""
    same_shape(image, other, ("image", "other"))
    if window not in ("hann", None):
        raise ValueError(f'window {window!r}: expected "hann" or None.')
    if np.ndim(image) < ndim:
        raise ValueError(f"an image of {np.ndim(image)} axes with ndim={ndim}.")
    shape = tuple(np.shape(image)[np.ndim(image) - ndim :])
    sizes = np.atleast_1d(np.asarray(sampling, float))
    sizes = np.repeat(sizes, ndim) if sizes.size == 1 else sizes
    rings = rings_of(shape, tuple(float(v) for v in sizes))
    xp, a, b = numbers(image, other, names=("image", "other"))
    axes = tuple(range(-ndim, 0))
    taper = 1.0
    if window == "hann":  # edges that do not fit together would look like detail
        taper = xp.asarray(_hann(shape), a.real.dtype).reshape((1,) * (a.ndim - ndim) + shape)

    def transform(x: Any) -> Any:
        # twice: what float32 leaves of a mean, the window would spread into the first ring
        for _ in range(2):
            x = x - x.mean(axis=axes, keepdims=True)
        x = xp.fft.fftn(x * taper, axes=axes)
        return x.reshape(*x.shape[: x.ndim - ndim], -1)

    return xp, transform(a), transform(b), rings


def _hann(shape: tuple[int, ...]) -> np.ndarray:
    out = np.ones(())
    for n in shape:
        out = out[..., None] * (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n))
    return out
