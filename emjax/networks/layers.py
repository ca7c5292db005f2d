"""Layers that several architectures share, channels last: [b, (z,) y, x, c].

Everything works for any number of spatial axes. `dtype` is the type of the computation (None: that
of the input); parameters are float32 always.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from emjax.networks.convolution import Conv, ConvTranspose

EPSILON = 1e-3
"""Added to variances: a constant crop (vacuum) must not be amplified 1000 times a layer."""

HE = nnx.initializers.he_normal()
"""Variance 2 / fan-in, for layers before a relu (He et al., ICCV 2015)."""

SMALL = nnx.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")
"""For the last layer of a residual branch: at first a block does little."""


def conv(
    inputs: int,
    outputs: int,
    size: int = 3,
    *,
    ndim: int = 2,
    strides: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    padding: str = "SAME",
    init: Any = None,
    dtype: Any = None,
    precision: Any = None,
    rngs: nnx.Rngs,
) -> Conv:
    """A convolution with the same size, stride and dilation along each of `ndim` axes.

    Parameters
    ----------
    inputs, outputs : channels; `groups` divides both (``groups=inputs``: depthwise).
    init : initialiser of the kernel; None takes LeCun's normal, variance 1 / fan-in.
    """
    more = {} if init is None else {"kernel_init": init}
    return Conv(
        inputs,
        outputs,
        (size,) * ndim,
        strides=strides,
        padding=padding,
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        precision=precision,
        rngs=rngs,
        **more,
    )


def transposed(
    inputs: int,
    outputs: int,
    size: int = 2,
    *,
    ndim: int = 2,
    strides: int = 2,
    bias: bool = True,
    init: Any = None,
    dtype: Any = None,
    precision: Any = None,
    rngs: nnx.Rngs,
) -> ConvTranspose:
    """A transposed convolution: `strides` times as large along each of `ndim` axes."""
    more: dict[str, Any] = {"dtype": dtype, "precision": precision, "use_bias": bias}
    if init is not None:
        more["kernel_init"] = init
    window, steps = (size,) * ndim, (strides,) * ndim
    return ConvTranspose(inputs, outputs, window, strides=steps, rngs=rngs, **more)


def dense(
    inputs: int,
    outputs: int,
    *,
    bias: bool = True,
    init: Any = None,
    dtype: Any = None,
    precision: Any = None,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """A fully connected layer over the last axis."""
    more = {} if init is None else {"kernel_init": init}
    return nnx.Linear(
        inputs, outputs, use_bias=bias, dtype=dtype, precision=precision, rngs=rngs, **more
    )


def norm(
    channels: int, *, groups: int = 8, scale: float = 1.0, dtype: Any = None, rngs: nnx.Rngs
) -> Callable[[jax.Array], jax.Array]:
    """Group normalisation (Wu & He, ECCV 2018), or nothing.

    Parameters
    ----------
    groups : the most there may be; as many are taken as divide `channels` and leave four channels
        each (a group of one channel would make a map of one pixel zero). 0: the identity.
    scale : of the result at first; 0 switches a residual branch off until it has learnt something.

    The variance is that of the differences, not of the squares: pictures of counts have a mean far
    above their spread.
    """
    if not groups:
        return identity
    most = min(groups, max(channels // 4, 1))
    fitting = max(g for g in range(1, most + 1) if channels % g == 0)
    start = nnx.initializers.constant(scale)
    how: dict[str, Any] = {"epsilon": EPSILON, "use_fast_variance": False, "scale_init": start}
    return nnx.GroupNorm(channels, num_groups=fitting, dtype=dtype, rngs=rngs, **how)


def identity(x: jax.Array) -> jax.Array:
    """Nothing, where a layer might be."""
    return x


def space_to_depth(x: jax.Array, factor: int) -> jax.Array:
    """[b, y, x, c] -> [b, y/f, x/f, f²c]: nothing is lost, convolutions become f² times cheaper."""
    n = x.ndim - 2
    x = _windows(x, factor)
    b, *small, c = x.shape
    return x.reshape(b, *small[:n], factor**n * c)


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
    """Inverse of `space_to_depth`."""
    b, *shape, c = x.shape
    n = len(shape)
    x = x.reshape(b, *shape, *(factor,) * n, c // factor**n)
    return _from_windows(x, factor)


def upsample(x: jax.Array, factor: int = 2) -> jax.Array:
    """Nearest neighbour."""
    b, *shape, c = x.shape
    n = len(shape)
    x = x.reshape(b, *shape, *(1,) * n, c)
    return _from_windows(jnp.broadcast_to(x, (b, *shape, *(factor,) * n, c)), factor)


def resize(x: jax.Array, shape: Sequence[int], method: str = "linear") -> jax.Array:
    """To spatial `shape`, linearly (bilinear, trilinear), without a blur where it shrinks."""
    whole = (x.shape[0], *shape, x.shape[-1])
    return x if x.shape == whole else jax.image.resize(x, whole, method, antialias=False)


def max_pool(x: jax.Array, size: int = 2, *, strides: int | None = None) -> jax.Array:
    """Maximum of windows of `size` pixels every `strides` (None: `size`, side by side).

    A rest at the lower, right edge is a smaller window, so that no picture shrinks to nothing.
    """
    if strides is None or strides == size:
        # not `max(axis=...)`: its gradient divides by the number of places that equal the maximum,
        # and there is none (0 / 0) where a compiler computes the picture twice and differently
        x, _ = pad_to_multiple(x, size)
        for axis in range(1, x.ndim - 1):
            parts = [jax.lax.slice_in_dim(x, i, None, size, axis) for i in range(size)]
            x = functools.reduce(jnp.maximum, parts)
        return x
    window, steps = (size,) * (x.ndim - 2), (strides,) * (x.ndim - 2)
    return nnx.max_pool(x, window, steps, padding="SAME")


def avg_pool(x: jax.Array, size: int = 2) -> jax.Array:
    """Mean of windows of `size` pixels, side by side; the lower, right edge is continued."""
    n = x.ndim - 2
    x, _ = pad_to_multiple(x, size)
    return _windows(x, size).mean(axis=tuple(range(1 + n, 1 + 2 * n)))


def global_pool(x: jax.Array) -> jax.Array:
    """[b, (z,) y, x, c] -> [b, c]: the mean over all pixels."""
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def adaptive_pool(x: jax.Array, size: int) -> jax.Array:
    """Mean over `size` windows along each spatial axis, whatever the picture's size.

    Window i of n pixels is [floor(i n / size), ceil((i + 1) n / size)): windows overlap where they
    do not fit, and repeat pixels where there are fewer than `size`.
    """
    for axis in range(1, x.ndim - 1):
        n = x.shape[axis]
        if n != size:
            mean = np.zeros((size, n), np.float32)
            for i in range(size):
                start, stop = i * n // size, -((i + 1) * n // -size)
                mean[i, start:stop] = 1 / (stop - start)
            weights = jnp.asarray(mean.T, x.dtype)
            x = jnp.matmul(jnp.moveaxis(x, axis, -1), weights, precision="highest")
            x = jnp.moveaxis(x, -1, axis)
    return x


def pad_to_multiple(x: jax.Array, multiple: int) -> tuple[jax.Array, tuple[int, ...]]:
    """Continue [b, y, x, c] at its lower and right edge to whole strides; and its own size."""
    shape = x.shape[1:-1]
    if any(n % multiple for n in shape):
        x = jnp.pad(x, ((0, 0), *((0, -n % multiple) for n in shape), (0, 0)), mode="edge")
    return x, shape


def crop(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """The upper, left part of spatial `shape`: undoes `pad_to_multiple`."""
    return x[(slice(None), *(slice(n) for n in shape))]


def check_channels(x: jax.Array, inputs: int, network: str, ndim: int | None = None) -> None:
    """Raise a ValueError that says what a network takes, where `x` is something else."""
    if x.shape[-1] != inputs or (ndim is not None and x.ndim != ndim + 2):
        axes = {1: "x", 2: "y, x", 3: "z, y, x"}.get(ndim or x.ndim - 2, "...")
        raise ValueError(
            f"{network} takes arrays [batch, {axes}, {inputs} channel(s)], not of shape {x.shape}"
        )


def _windows(x: jax.Array, size: int) -> jax.Array:
    """[b, y, x, c] -> [b, y/size, x/size, size, size, c]."""
    b, *shape, c = x.shape
    n = len(shape)
    x = x.reshape(b, *(k for m in shape for k in (m // size, size)), c)
    return x.transpose(0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1)


def _from_windows(x: jax.Array, size: int) -> jax.Array:
    """[b, y/size, x/size, size, size, c] -> [b, y, x, c]."""
    n = x.ndim // 2 - 1
    shape = x.shape[1 : 1 + n]
    order = [axis for i in range(n) for axis in (1 + i, 1 + n + i)]
    x = x.transpose(0, *order, 2 * n + 1)
    return x.reshape(x.shape[0], *(m * size for m in shape), x.shape[-1])
