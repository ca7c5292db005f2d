"""Depositing points on a periodic grid by structure factors: a product of two thin matrices.

The structure factor of points r_j with weights w_j is Σ w_j exp(-2πi k·r_j). On a grid it splits
into one row per axis and point, so that a sum over points is a matrix product: exact, smooth in the
positions, without a scatter. The rows are cosines and sines of h = 0 … n/2 only: one real product
then holds all four quadrants of the plane, half the arithmetic of complex rows. A row of cosines
and sines is itself the product of √n coarse and √n fine phases.

Quadrants are [2, hy, 2, hx]: (cosine, sine) in y, frequency in y, (cosine, sine) in x, frequency in
x, with hy = ny // 2 + 1. A factor that is even in kx and ky multiplies them as [hy, hx].
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import is_concrete
from simulators.grid import Grid

ROWS_AT_ONCE = 512
"""Points in one matrix product: what bounds the working memory (see `working_memory`)."""

BUCKETS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Known points are padded to one of these numbers, so that few matrix shapes are compiled."""


def halves(grid: Grid) -> tuple[int, int]:
    """Frequencies from 0 to Nyquist in y and x."""
    return grid.shape[0] // 2 + 1, grid.shape[1] // 2 + 1


def quarter_k(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """ky [hy, 1] and kx [1, hx] of the quadrants, 1/Å."""
    (hy, hx), (ly, lx) = halves(grid), grid.extent
    return np.arange(hy)[:, None] / ly, np.arange(hx)[None, :] / lx


def empty(grid: Grid, dtype: Any) -> jax.Array:
    """Quadrants with nothing in them."""
    hy, hx = halves(grid)
    return jnp.zeros((2, hy, 2, hx), dtype)


def working_memory(grid: Grid, itemsize: int) -> int:
    """Bytes that a deposit needs beside its result: rows of ROWS_AT_ONCE points, four planes."""
    ny, nx = grid.shape
    return itemsize * (3 * ROWS_AT_ONCE * (ny + nx) + 4 * ny * nx)


def _phases(fraction: Any, n: int, dtype: Any) -> tuple[Any, Any]:
    """exp(-2πi h x / L) for coarse steps of h and for the fine ones between, complex [m, ~√h]."""
    xp = np if is_concrete(fraction) else jnp
    count = n // 2 + 1
    block = int(np.ceil(np.sqrt(count)))

    def turned(index: np.ndarray) -> Any:
        turns = fraction[:, None] * xp.asarray(index, fraction.dtype)[None]
        turns = turns - xp.round(turns)
        return xp.asarray(xp.exp(-2j * np.pi * turns), dtype)

    return turned(block * np.arange(-(-count // block))), turned(np.arange(block))


def _rows(phases: tuple, width: Any, n: int, length: float, count: int) -> Any:
    """cos and sin of 2πh x / L times exp(-t (h/L)²), [m, 2 count]."""
    coarse, fine = phases
    ramp = (coarse[:, :, None] * fine[:, None, :]).reshape(len(coarse), -1)[:, :count]
    cosine, sine = ramp.real, -ramp.imag
    if n % 2 == 0 and count == n // 2 + 1:  # the Nyquist term of a real function is a cosine
        sine = sine.at[:, -1].set(0.0)
    if width is not None:
        k2 = jnp.asarray((np.arange(count) / length) ** 2, cosine.dtype)
        damping = jnp.exp(-width[:, None] * k2[None])
        cosine, sine = cosine * damping, sine * damping
    return jnp.concatenate([cosine, sine], axis=1)


@functools.partial(jax.jit, static_argnames=("counts",))
def _add(
    total: Any,
    phases: tuple,
    weight: Any,
    width: Any,
    factor: Any,
    odd: Any,
    grid: Grid,
    counts: tuple[int, int],
) -> Any:
    """`total` and the points of one matrix product."""
    (ny, nx), (ly, lx), (cy, cx) = grid.shape, grid.extent, counts
    wide_y, wide_x = (None, None) if width is None else width
    rows_y = _rows(phases[0], wide_y, ny, ly, cy) * weight[:, None]
    rows_x = _rows(phases[1], wide_x, nx, lx, cx)
    product = jnp.matmul(rows_y.T, rows_x, precision=jax.lax.Precision.HIGHEST)
    product = product.reshape(2, cy, 2, cx)
    if factor is None:
        return total.at[:, :cy, :, :cx].add(product)
    result = product * factor[None, :, None, :]
    if odd is not None:  # a factor odd in kx and in ky swaps cosines and sines in both
        sign = jnp.asarray([[-1.0, 1.0], [1.0, -1.0]], product.dtype)[:, None, :, None]
        result = result + sign * product[::-1, :, ::-1, :] * odd[None, :, None, :]
    return total + result


def deposit(
    total: jax.Array,
    points: tuple[Any, Any],
    weight: Any,
    grid: Grid,
    *,
    width: tuple[Any, Any] | None = None,
    factor: Any = None,
    odd: Any = None,
    counts: tuple[int, int] | None = None,
) -> jax.Array:
    """Add Σ_j w_j exp(-2πi k·r_j) exp(-t_y ky² - t_x kx²) · factor to the quadrants.

    Parameters
    ----------
    total : float [2, hy, 2, hx]
    points : (y [m], x [m])
        Å.
    weight : float [m]
    width : (t_y [m], t_x [m]), optional
        Gaussian damping of each point, Å² (2π²σ² for a thermal σ).
    factor : float [hy, hx], optional
        Even in kx and ky.
    odd : float [hy, hx], optional
        A part of the factor that is odd in both (anisotropic thermal motion).
    counts : (int, int), optional
        Frequencies of y and x that are not negligible, for wide Gaussians; without a factor.
    """
    counts = halves(grid) if counts is None else counts
    matrix = np.complex128 if total.dtype == np.float64 else np.complex64
    fractions = tuple(x / length for x, length in zip(points, grid.extent, strict=True))
    leaves = (fractions, weight, width)

    def add(total: Any, some: tuple) -> Any:
        fractions, weight, width = some
        phases = tuple(_phases(f, n, matrix) for f, n in zip(fractions, grid.shape, strict=True))
        weight, width = jax.tree_util.tree_map(
            lambda a: jnp.asarray(a, total.dtype), (weight, width)
        )
        return _add(total, phases, weight, width, factor, odd, grid, counts)

    m = weight.shape[0]
    if is_concrete(leaves):
        for start in range(0, m, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, m)
            size = next((b for b in BUCKETS if b >= stop - start), stop - start)
            total = add(total, _part(leaves, start, stop, size))
        return total
    if m <= ROWS_AT_ONCE:
        return add(total, leaves)
    pieces = -(-m // ROWS_AT_ONCE)
    padded = _part(leaves, 0, m, pieces * ROWS_AT_ONCE)
    stacked = jax.tree_util.tree_map(lambda a: jnp.asarray(a).reshape(pieces, -1), padded)

    @jax.checkpoint
    def step(total: Any, some: tuple) -> tuple[Any, None]:
        return add(total, some), None

    return jax.lax.scan(step, total, stacked)[0]


def _part(leaves: Any, start: int, stop: int, size: int) -> Any:
    """Rows start to stop of every leaf, filled up to `size` with zeros."""
    short = size - (stop - start)
    xp = np if is_concrete(leaves) else jnp
    return jax.tree_util.tree_map(lambda a: xp.pad(a[start:stop], (0, short)), leaves)


@jax.jit
def image(total: jax.Array, grid: Grid) -> jax.Array:
    """The real image [ny, nx] whose spectrum the quadrants hold."""
    ny, nx = grid.shape
    cc, cs, sc, ss = total[0, :, 0], total[0, :, 1], total[1, :, 0], total[1, :, 1]
    up = jax.lax.complex(cc - ss, -(cs + sc))
    down = jax.lax.complex(cc + ss, sc - cs)
    spectrum = jnp.concatenate([up[: (ny + 1) // 2], down[1 : ny // 2 + 1][::-1]])
    return jnp.fft.irfft2(spectrum, s=(ny, nx))
