"""Periodic images as Fourier series, read at any scan position.

A STEM image of a periodic specimen is band-limited to twice the aperture, so a few thousand
coefficients are all of it: rasters that are turned, drifting or distorted line by line are then two
thin matrices and one product, exact, and differentiable in every position.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import array_module, is_concrete
from simulators.linear import FWHM
from simulators.tree import pytree, static


@pytree
class Series:
    """I(r) = Re Σ_h F_h exp(2πi k_h·r).

    With NumPy coefficients `read_raster` computes in NumPy: single images of many shapes, of which
    none is worth a compilation.

    Attributes
    ----------
    coefficients : complex [..., my, mx]
        Orders -my//2 … my//2 in y and likewise in x (odd numbers of them).
    extent : (y, x), static
        Periods in Å.
    """

    coefficients: Any
    extent: tuple[float, float] = static()

    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """(ky, kx) in 1/Å of the coefficients, [my] and [mx]."""
        return tuple(
            (np.arange(n) - n // 2) / length
            for n, length in zip(self.coefficients.shape[-2:], self.extent, strict=True)
        )  # type: ignore[return-value]


def blurred(series: Series, source_size: Any) -> Series:
    """Seen with a Gaussian source of this full width at half maximum [Å]."""
    xp = array_module(series.coefficients, source_size)
    ky, kx = series.frequencies()
    k2 = xp.asarray(ky[:, None] ** 2 + kx[None, :] ** 2, series.coefficients.real.dtype)
    damping = xp.exp(-2 * np.pi**2 * (source_size / FWHM) ** 2 * k2)
    lead = tuple(range(series.coefficients.ndim - 2))
    return Series(series.coefficients * xp.expand_dims(damping, lead), series.extent)


def read_at(series: Series, positions: Any) -> jax.Array:
    """Values [..., p] at positions (x, y) [p, 2] in Å."""
    ky, kx = series.frequencies()
    row_y = _waves(positions[:, 1], ky, series)
    row_x = _waves(positions[:, 0], kx, series)
    half = jnp.einsum("py,...yx->...px", row_y, series.coefficients, precision="highest")
    return jnp.einsum("...px,px->...p", half, row_x, precision="highest").real


def read_axes(series: Series, y: Any, x: Any) -> jax.Array:
    """Values [..., ny, nx] on the raster of lines y [ny] and columns x [nx] in Å, axis by axis."""
    ky, kx = series.frequencies()
    rows, columns = _waves(y, ky, series), _waves(x, kx, series)
    half = jnp.einsum("...ab,xb->...ax", series.coefficients, columns, precision="highest")
    return jnp.einsum("ya,...ax->...yx", rows, half, precision="highest").real


def read_raster(
    series: Series,
    shape: tuple[int, int],
    sampling: Any,
    *,
    origin: Any = (0.0, 0.0),
    rotation: Any = 0.0,
    shift: Any = None,
) -> jax.Array:
    """The image [..., ny, nx] of a scan.

    Parameters
    ----------
    shape : (ny, nx)
    sampling : float
        Å per pixel.
    origin, rotation
        Of the raster, as in `scan.raster`.
    shift : float [ny, 2], optional
        Displacement (x, y) of every line in Å, as `scan.ScanDistortion` draws it.
    """
    ny, nx = shape
    ky, kx = series.frequencies()
    ky, kx = (k.ravel() for k in np.meshgrid(ky, kx, indexing="ij"))
    xp = np if is_concrete(sampling, origin, rotation, shift) else jnp
    c, s = xp.cos(rotation), xp.sin(rotation)
    along = (kx * c + ky * s) * sampling
    down = (-kx * s + ky * c) * sampling
    start = kx * origin[0] + ky * origin[1]
    lines = start[None] + np.arange(ny)[:, None] * down[None]
    if shift is not None:
        lines = lines + shift[:, :1] * kx[None] + shift[:, 1:] * ky[None]
    rows = _cis(lines, series)
    columns = _cis(np.arange(nx)[:, None] * along[None], series)
    weights = series.coefficients.reshape(*series.coefficients.shape[:-2], -1)
    if isinstance(rows, np.ndarray):  # as matrix products, which einsum does not make of it
        return ((weights[..., None, :] * rows) @ columns.T).real
    return jnp.einsum(
        "...k,yk,xk->...yx", weights, rows, columns, precision="highest", optimize="optimal"
    ).real


def _waves(x: Any, k: np.ndarray, series: Series) -> jax.Array:
    xp = np if is_concrete(x) else jnp
    return _cis(xp.asarray(x)[:, None] * k[None], series)


def _cis(turns: Any, series: Series) -> jax.Array:
    """exp(2πi turns), of turns reduced before they lose digits."""
    known = isinstance(turns, np.ndarray)
    phase = 2 * np.pi * (turns - (np if known else jnp).round(turns))
    if known and isinstance(series.coefficients, np.ndarray):
        return np.exp(1j * phase).astype(series.coefficients.dtype)
    phase = jnp.asarray(phase, series.coefficients.real.dtype)
    return jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
