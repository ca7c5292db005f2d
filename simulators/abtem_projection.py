"""abTEM 1.0.11's projected potentials, to rounding: its numbers, not its code.

Infinite: every atom becomes a bilinear delta on four pixels, whose transform is multiplied by the
scattering factor and divided by a sinc. The result depends on where an atom lies between pixels.
The finite projections by quadrature and by Gaussians are in abtem_finite.py.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms, rows
from simulators.backend import is_concrete
from simulators.deposit import ROWS_AT_ONCE
from simulators.grid import Grid
from simulators.projection import (
    is_traced,
    known_slices,
    row_tables,
    rows_by_slice,
    stands_still,
    traced_slices,
)
from simulators.scattering import projected_scattering_factor
from simulators.slicing import wrap


def half_plane(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """k² and the sinc that abTEM divides by, [ny, nx // 2 + 1]."""
    ny, nx = grid.shape
    ky = np.fft.fftfreq(ny, grid.sampling[0])[:, None]
    kx = np.fft.rfftfreq(nx, grid.sampling[1])[None, :]
    # |(kx dx, ky dy)| without π: part of its numbers, not of the physics
    w = np.hypot(ky * grid.sampling[0], kx * grid.sampling[1])
    return ky**2 + kx**2, np.where(w == 0, 1.0, np.sin(w) / np.where(w == 0, 1.0, w))


def bilinear(points: tuple[Any, Any], weight: Any, grid: Grid, dtype: Any) -> Any:
    """Periodic points (y [m], x [m]) spread over the four pixels around each, [ny, nx]."""
    if is_concrete(points, weight):
        return jnp.asarray(bilinear_known(points, weight, grid), dtype)

    def add(total: Any, some: tuple) -> tuple[Any, None]:
        (y, x), weight = some
        hats = [_hats(p, n, s) for p, n, s in zip((y, x), grid.shape, grid.extent, strict=True)]
        weighted = (hats[0] * weight[:, None]).astype(dtype)
        product = jnp.matmul(weighted.T, hats[1].astype(dtype), precision=jax.lax.Precision.HIGHEST)
        return total + product, None

    m = weight.shape[0]
    pieces = -(-m // ROWS_AT_ONCE)
    size = -(-m // pieces)
    leaves = jax.tree_util.tree_map(
        lambda a: jnp.pad(jnp.asarray(a), (0, pieces * size - m)).reshape(pieces, size),
        (points, weight),
    )
    return jax.lax.scan(jax.checkpoint(add), jnp.zeros(grid.shape, dtype), leaves)[0]


def bilinear_known(points: tuple[Any, Any], weight: Any, grid: Grid) -> np.ndarray:
    """As `bilinear` for NumPy arrays, in float64."""
    ny, nx = grid.shape
    pixels, parts = [], []
    for x, n, length in zip(points, grid.shape, grid.extent, strict=True):
        place = wrap(x, length) / length * n
        lower = np.floor(place).astype(int)
        part = place - lower
        pixels.append((lower % n, (lower + 1) % n))
        parts.append((1 - part, part))
    flat = [pixels[0][i] * nx + pixels[1][j] for i in range(2) for j in range(2)]
    share = [parts[0][i] * parts[1][j] * weight for i in range(2) for j in range(2)]
    total = np.bincount(np.concatenate(flat), np.concatenate(share), ny * nx)
    return total.reshape(ny, nx)


def _hats(x: Any, n: int, length: float) -> Any:
    """Bilinear weights [m, n] of periodic points."""
    pixel = (wrap(x, length) / length * n)[:, None]
    distance = pixel - np.arange(n)[None]
    distance = distance - n * jnp.round(distance / n)
    return jnp.maximum(0.0, 1.0 - jnp.abs(distance))


def infinite(
    atoms: Atoms, grid: Grid, index: Any, nz: int, parametrization: Any, dtype: Any
) -> jax.Array:
    """Projected potentials [nz, ny, nx] in V Å; `index` is the slice of each atom."""
    k2, sinc = half_plane(grid)
    area = grid.sampling[0] * grid.sampling[1]
    factors = {
        z: jnp.asarray(projected_scattering_factor(z, k2, parametrization) / (area * sinc), dtype)
        for z in atoms.elements
    }
    still = stands_still(atoms)

    def spectrum(part: Atoms, weight: Any, element: int) -> Any:
        points = (part.positions[:, 1], part.positions[:, 0])
        result = jnp.fft.rfft2(bilinear(points, weight, grid, dtype)) * factors[element]
        if still:
            return result
        return result * jnp.asarray(_common_damping(part.sigma, weight, k2), dtype)

    def finish(total: Any) -> Any:
        return jnp.fft.irfft2(total, s=grid.shape)

    zero = jnp.zeros(k2.shape, np.complex128 if dtype == np.float64 else np.complex64)
    if not is_traced(atoms):
        atoms = jax.tree_util.tree_map(np.asarray, atoms)
        found = rows_by_slice(atoms, np.asarray(index), nz)

        def known(i: int) -> Any:
            total = zero
            for element, lists in found.items():
                if len(lists[i]):
                    part = rows(atoms, lambda leaf, which=lists[i]: leaf[which])
                    total = total + spectrum(part, part.occupancy, element)
            return finish(total)

        return known_slices(known, nz)

    def traced(xs: tuple) -> Any:
        i, chosen = xs
        total = zero
        for element in atoms.elements:
            which, valid = chosen[element]
            part = rows(atoms, lambda leaf, which=which: jnp.asarray(leaf)[which])
            weight = jnp.where(valid & (part.numbers == element), part.occupancy, 0.0)
            if is_traced(index):
                weight = jnp.where(jnp.asarray(index)[which] == i, weight, 0.0)
            total = total + spectrum(part, weight, element)
        return finish(total)

    return traced_slices(traced, (jnp.arange(nz), row_tables(atoms, index, nz)), nz)


def _common_damping(sigma: Any, weight: Any, k2: np.ndarray) -> Any:
    """exp(-2π²σ²k²) with the element's mean σ²: abTEM smears an element, not an atom."""
    xp = np if is_concrete(sigma, weight) else jnp
    mean = (weight * sigma**2).sum() / xp.maximum(weight.sum(), 1e-30)
    return xp.exp(-2 * np.pi**2 * mean * k2)


def finite(*arguments: Any) -> Any:
    from simulators.abtem_finite import finite as make

    return make(*arguments)


def finite_gaussian(*arguments: Any) -> Any:
    from simulators.abtem_finite import finite_gaussian as make

    return make(*arguments)
