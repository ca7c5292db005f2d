"""Convolutions in the form that a CPU computes fast; parameters are those of `flax.nnx`.

XLA's CPU backend has one fast convolution: dense, two-dimensional, outside of loops. The others
fall back to plain loops, and each is the same sum in another order (two cores, float32):

| convolution | XLA's | here |
|---|---|---|
| depthwise 3×3, 8 × 64² × 32 | 22 ms, gradient 29 | 0.4 ms, gradient 2 |
| 3×3×3, 32³, 16 to 16 channels | 17 ms, gradient 54 | 3.6 ms, gradient 7 |
| transposed 2×2 with stride 2, to 8 × 64² × 32 | 0.5 ms, gradient 21 | 0.5 ms, gradient 6 |

The dense 3×3 convolution stays XLA's: as nine matrix products it is 2 to 10 times slower. On other
backends nothing changes but the transposed one. `python -m benchmarks.networks` measures networks.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


class Conv(nnx.Conv):
    """`flax.nnx.Conv` with the same parameters and result to rounding."""

    def __call__(self, x: jax.Array, out_sharding: Any = None) -> jax.Array:
        form = _form(self) if jax.default_backend() == "cpu" and out_sharding is None else None
        if form is None:
            return super().__call__(x, out_sharding)
        x, kernel, bias = _promoted(self, x)
        y = form(x, kernel)
        return y if bias is None else y + _aligned(bias, y)


class ConvTranspose(nnx.ConvTranspose):
    """`flax.nnx.ConvTranspose`; where windows do not overlap it is a matrix product."""

    def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        size, strides = tuple(self.kernel_size), _each(self.strides, len(self.kernel_size))
        plain = not args and not kwargs and self.mask is None and not self.transpose_kernel
        simple = plain and size == strides and self.padding == "SAME"
        if not simple or any(d != 1 for d in _each(self.kernel_dilation, len(size))):
            return super().__call__(x, *args, **kwargs)
        n = len(size)
        x, kernel, bias = _promoted(self, x)
        kernel = jnp.flip(kernel, tuple(range(n)))  # as a convolution of the dilated input has it
        kernel = jnp.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1)
        y = _windows_open(jnp.dot(x, kernel, precision=self.precision), size)
        return y if bias is None else y + _aligned(bias, y)


def _windows_open(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """[b, y, x, sy·sx·c] -> [b, y·sy, x·sx, c]."""
    b, *shape, _ = x.shape
    n = len(size)
    x = x.reshape(b, *shape, *size, -1)
    order = [axis for i in range(n) for axis in (1 + i, 1 + n + i)]
    x = x.transpose(0, *order, 2 * n + 1)
    return x.reshape(b, *(m * s for m, s in zip(shape, size, strict=True)), x.shape[-1])


def _form(layer: nnx.Conv) -> Any:
    """A function of (x, kernel) for this layer on a CPU, or None where XLA's is as good."""
    size = tuple(layer.kernel_size)
    n = len(size)
    strides, dilation = _each(layer.strides, n), _each(layer.kernel_dilation, n)
    same = (
        layer.padding == "SAME"
        and layer.mask is None
        and _each(layer.input_dilation, n) == (1,) * n
    )
    if not same or max(size) == 1:
        return None
    groups = layer.feature_group_count
    if groups > 1 and groups == layer.in_features == layer.out_features and n in (2, 3):
        return functools.partial(depthwise, strides=strides, dilation=dilation)
    if n == 3 and groups == 1 and strides == (1, 1, 1):
        return functools.partial(volume, dilation=dilation, precision=layer.precision)
    return None


def volume(
    x: jax.Array, kernel: jax.Array, *, dilation: tuple[int, ...] = (1, 1, 1), precision: Any = None
) -> jax.Array:
    """A three-dimensional convolution as a two-dimensional one of neighbouring planes.

    Parameters
    ----------
    x : [b, z, y, x, c]
    kernel : [kz, ky, kx, c, k]
    dilation : of the three axes.

    Returns
    -------
    [b, z, y, x, k]; zeros are beyond the edges.
    """
    b, depth, *plane, c = x.shape
    taps, step = kernel.shape[0], dilation[0]
    low, high = _margins(taps, step)
    padded = jnp.pad(x, ((0, 0), (low, high), *[(0, 0)] * 3))
    planes = [padded[:, i * step : i * step + depth] for i in range(taps)]
    together = jnp.concatenate(planes, axis=-1).reshape(b * depth, *plane, taps * c)
    flat = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], taps * c, kernel.shape[-1])
    y = jax.lax.conv_general_dilated(
        together,
        flat,
        (1, 1),
        "SAME",
        rhs_dilation=dilation[1:],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )
    return y.reshape(b, depth, *plane, -1)


def depthwise(
    x: jax.Array, kernel: jax.Array, *, strides: tuple[int, ...], dilation: tuple[int, ...]
) -> jax.Array:
    """One small kernel for each channel: a sum of shifted pictures times numbers.

    Parameters
    ----------
    x : [b, (z,) y, x, c]
    kernel : [(kz,) ky, kx, 1, c]
    strides, dilation : of the spatial axes.
    """
    if kernel.ndim == 5:  # planes of a volume, one after the other
        low, high = _margins(kernel.shape[0], dilation[0])
        padded = jnp.pad(x, ((0, 0), (low, high), *[(0, 0)] * 3))
        b, depth, *plane, c = x.shape
        total: Any = 0
        for i in range(kernel.shape[0]):
            part = padded[:, i * dilation[0] : i * dilation[0] + depth]
            total = total + _depthwise(
                part.reshape(b * depth, *plane, c), kernel[i, :, :, 0], dilation[1:]
            )
        y = total.reshape(x.shape)
    else:
        y = _depthwise(x, kernel[:, :, 0], dilation)
    for axis, (step, taps, d) in enumerate(zip(strides, kernel.shape, dilation, strict=False), 1):
        if step > 1:
            n = x.shape[axis]
            short = max((-(-n // step) - 1) * step + (taps - 1) * d + 1 - n, 0) // 2
            first = _margins(taps, d)[0] - short  # where "SAME" with a stride begins
            y = jax.lax.slice_in_dim(y, first, None, step, axis)
    return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x: jax.Array, kernel: jax.Array, dilation: tuple[int, int]) -> jax.Array:
    """[b, y, x, c] and [ky, kx, c]."""
    total: Any = 0
    for (i, j), part in _shifted(x, kernel.shape[:2], dilation):
        total = total + part * kernel[i, j][None, None, None]
    return total


def _forward(x: jax.Array, kernel: jax.Array, dilation: tuple[int, int]) -> tuple:
    return _depthwise(x, kernel, dilation), (x, kernel)


def _backward(dilation: tuple[int, int], kept: tuple, g: jax.Array) -> tuple:
    x, kernel = kept
    size = kernel.shape[:2]
    flipped = jnp.flip(kernel, (0, 1))
    if any(n % 2 == 0 for n in size):  # "SAME" of an even kernel is not symmetric
        margins = [_margins(n, d)[::-1] for n, d in zip(size, dilation, strict=True)]
        into: Any = 0
        for (i, j), part in _shifted(g, size, dilation, margins):
            into = into + part * flipped[i, j][None, None, None]
    else:
        into = _depthwise(g, flipped, dilation)
    # row by row, so that what is added up stays in the cache: 10 times faster than 9 reductions
    (top, bottom), (left, right) = (_margins(n, d) for n, d in zip(size, dilation, strict=True))
    padded = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    _, height, width, c = x.shape
    reach = (size[0] - 1) * dilation[0] + 1

    def row(total: jax.Array, y: jax.Array) -> tuple[jax.Array, None]:
        rows = jax.lax.dynamic_slice_in_dim(padded, y, reach, 1)
        mine = jax.lax.dynamic_index_in_dim(g, y, 1, keepdims=False)
        taps = [
            (rows[:, i * dilation[0], j * dilation[1] : j * dilation[1] + width] * mine).sum(0)
            for i in range(size[0])
            for j in range(size[1])
        ]
        return total + jnp.stack(taps), None

    # a sum over all rows in half precision would lose one of its three digits
    wide = jnp.promote_types(g.dtype, jnp.float32)
    empty = jnp.zeros((size[0] * size[1], width, c), wide)
    total = jax.lax.scan(row, empty, jnp.arange(height))[0].sum(axis=1)
    return into, total.reshape(kernel.shape).astype(kernel.dtype)


_depthwise.defvjp(_forward, _backward)


def _shifted(
    x: jax.Array, size: tuple[int, ...], dilation: tuple[int, int], margins: Any = None
) -> list[tuple[tuple[int, int], jax.Array]]:
    """The picture as each tap of a kernel sees it."""
    margins = margins or [_margins(n, d) for n, d in zip(size, dilation, strict=True)]
    padded = jnp.pad(x, ((0, 0), *margins, (0, 0)))
    _, height, width, _ = x.shape
    found = []
    for i in range(size[0]):
        for j in range(size[1]):
            y, z = i * dilation[0], j * dilation[1]
            found.append(((i, j), padded[:, y : y + height, z : z + width]))
    return found


def _margins(taps: int, dilation: int) -> tuple[int, int]:
    """Pixels that "SAME" adds before and behind, without a stride."""
    whole = (taps - 1) * dilation
    return whole // 2, whole - whole // 2


def _promoted(layer: Any, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Input, kernel and bias in the type that the layer computes in."""
    kernel = layer.kernel[...]
    bias = None if layer.bias is None else layer.bias[...]
    dtype = layer.dtype or jnp.result_type(x, kernel)
    return x.astype(dtype), kernel.astype(dtype), None if bias is None else bias.astype(dtype)


def _each(value: Any, n: int) -> tuple[int, ...]:
    if value is None:
        return (1,) * n
    return (int(value),) * n if isinstance(value, int) else tuple(int(v) for v in value)


def _aligned(bias: jax.Array, y: jax.Array) -> jax.Array:
    return bias.reshape((1,) * (y.ndim - 1) + (-1,))
