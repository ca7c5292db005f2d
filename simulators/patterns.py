"""Diffraction patterns with axes: fftshifted, in 1/Å and mrad; crop, bin, resample, average.

`cbed` and `diffraction` give arrays in FFT order. `patterns(array, grid, energy)` puts the zero
frequency in the middle, crops as a pixelated detector does, and carries the axes along.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import array_module
from simulators.electron import wavelength
from simulators.grid import Grid
from simulators.pixelated import bin_pattern, crop_pattern, crop_shape, resample_axes, shifted
from simulators.tree import pytree, replace, static


@pytree
class Patterns:
    """Patterns whose pixel (i, j) lies AT k = first + (i, j) · sampling.

    Attributes
    ----------
    intensity : float [..., ny, nx]
        Per pixel.
    sampling : (y, x), static
        1/Å per pixel.
    first : (y, x), static
        k of pixel [0, 0] in 1/Å.
    energy : float, static
        eV; 1/Å times the wavelength is the scattering angle.
    """

    intensity: Any
    sampling: tuple[float, float] = static()
    first: tuple[float, float] = static()
    energy: float = static()

    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """(ky [ny], kx [nx]) in 1/Å."""
        shape = self.intensity.shape[-2:]
        y, x = (
            f + d * np.arange(n) for f, d, n in zip(self.first, self.sampling, shape, strict=True)
        )
        return y, x

    def angles(self) -> tuple[np.ndarray, np.ndarray]:
        """(y [ny], x [nx]) in mrad."""
        y, x = self.frequencies()
        return y * self.mrad, x * self.mrad

    @property
    def mrad(self) -> float:
        """mrad per 1/Å: the wavelength in mÅ."""
        return 1e3 * wavelength(self.energy)


def patterns(intensity: Any, grid: Grid, energy: float, *, crop: str | float = "valid") -> Patterns:
    """Patterns in FFT order as a pixelated detector shows them.

    Parameters
    ----------
    intensity : float [..., ny, nx]
        As of `cbed`.
    grid : Grid
        Of the waves.
    energy : float
        eV.
    crop : {"valid", "cutoff", "full"} or float
        The square inside the band limit, the one around it, everything, or an angle in mrad.

    Raises
    ------
    ValueError
        Patterns of another grid, a crop that does not fit.
    """
    if tuple(intensity.shape[-2:]) != grid.shape:
        raise ValueError(
            f"the patterns are {tuple(intensity.shape[-2:])} pixels (y, x) but the grid is "
            f"{grid.shape}"
        )
    cut = crop_pattern(shifted(intensity), crop_shape(grid, float(energy), crop))
    ky, kx = (1 / length for length in grid.extent)
    first = (-(cut.shape[-2] // 2) * ky, -(cut.shape[-1] // 2) * kx)
    return Patterns(cut, (ky, kx), first, float(energy))


def binned(p: Patterns, factor: int | tuple[int, int]) -> Patterns:
    """Sums over factor (y, x) pixels; see `pixelated.bin_pattern`."""
    factors = (factor, factor) if isinstance(factor, (int, np.integer)) else tuple(factor)
    zero = [-f / d for f, d in zip(p.first, p.sampling, strict=True)]
    if any(abs(z - n // 2) > 1e-6 for z, n in zip(zero, p.intensity.shape[-2:], strict=True)):
        raise ValueError("bin the patterns before they are resampled or binned otherwise")
    intensity, first = bin_pattern(p.intensity, (factors[0], factors[1]))
    return Patterns(
        intensity,
        (p.sampling[0] * factors[0], p.sampling[1] * factors[1]),
        (first[0] * p.sampling[0], first[1] * p.sampling[1]),
        p.energy,
    )


def resampled(
    p: Patterns,
    sampling: float | tuple[float, float],
    *,
    shape: tuple[int, int] | None = None,
    method: str = "smooth",
) -> Patterns:
    """Patterns on pixels of another size, with the zero frequency on pixel n // 2.

    Parameters
    ----------
    sampling : float or (y, x)
        mrad per pixel.
    shape : (ny, nx), optional
        Odd numbers that cover the pattern if not given: the sum is then that of the original.
    method : {"smooth", "area"}
        See `pixelated.resample_axes`.
    """
    steps = [float(s) / p.mrad for s in np.broadcast_to(sampling, (2,))]
    if not all(s > 0 for s in steps):
        raise ValueError(f"sampling must be positive mrad per pixel, got {sampling}")
    if shape is None:
        sides = []
        for f, d, n, s in zip(p.first, p.sampling, p.intensity.shape[-2:], steps, strict=True):
            reach = max(d / 2 - f, f + (n - 0.5) * d)  # outermost edge of a pixel
            sides.append(2 * math.ceil(reach / s - 0.5 - 1e-9) + 1)
        shape = (max(sides[0], 1), max(sides[1], 1))
    first = (-(shape[0] // 2) * steps[0], -(shape[1] // 2) * steps[1])
    intensity = resample_axes(
        p.intensity, p.first, p.sampling, shape, first, (steps[0], steps[1]), method=method
    )
    return Patterns(intensity, (steps[0], steps[1]), first, p.energy)


def position_average(p: Patterns, weights: Any = None) -> Patterns:
    """The PACBED pattern [ny, nx]: the mean over all positions, or one with `weights` [...]."""
    xp = array_module(p.intensity, weights)
    lead = p.intensity.ndim - 2
    if weights is None:
        return replace(p, intensity=p.intensity.mean(axis=tuple(range(lead))))
    weights = xp.asarray(weights, p.intensity.dtype)
    options = {} if xp is np else {"precision": "highest"}
    mean = xp.tensordot(weights / weights.sum(), p.intensity, axes=lead, **options)
    return replace(p, intensity=mean)


def ellipse_matrix(
    rotation: Any = 0.0, ellipticity: Any = 0.0, axis: Any = 0.0, scale: Any = 1.0, *, xp: Any = np
) -> Any:
    """[2, 2] that acts on k (x, y): stretch by 1 + e along `axis`, by 1 / (1 + e) across, rotate.

    Angles in rad, from +x towards +y.
    """

    def turn(angle: Any) -> Any:
        c, s = xp.cos(angle), xp.sin(angle)
        return xp.stack([xp.stack([c, -s]), xp.stack([s, c])])

    long, across = scale * (1 + ellipticity), scale / (1 + ellipticity)
    stretch = xp.stack([xp.stack([long, 0.0 * long]), xp.stack([0.0 * long, across])])
    axis, rotation = xp.asarray(axis) * 1.0, xp.asarray(rotation) * 1.0
    return turn(rotation) @ turn(axis) @ stretch @ turn(-axis)


def deformed(
    p: Patterns,
    *,
    rotation: Any = 0.0,
    ellipticity: Any = 0.0,
    axis: Any = 0.0,
    scale: Any = 1.0,
    shift: tuple[Any, Any] = (0.0, 0.0),
) -> Patterns:
    """What projector lenses do: rotate, make elliptic, magnify and shift, on the same pixels.

    Linear interpolation, differentiable in all arguments; intensities are per pixel, so that the
    sum stays while the pattern stays on the detector.

    Parameters
    ----------
    rotation : float
        rad, from +x towards +y.
    ellipticity, axis : float
        Stretch by 1 + e along `axis` [rad] and by 1 / (1 + e) across it.
    scale : float
        Magnification.
    shift : (x, y)
        mrad.
    """
    intensity = jnp.asarray(p.intensity)
    dtype = intensity.dtype
    numbers = (jnp.asarray(v, dtype) for v in (rotation, ellipticity, axis, scale))
    matrix = ellipse_matrix(*numbers, xp=jnp)
    det = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    ky, kx = (jnp.asarray(k, dtype) for k in p.frequencies())
    y, x = jnp.meshgrid(ky - shift[1] / p.mrad, kx - shift[0] / p.mrad, indexing="ij")
    # the inverse matrix: where each pixel's intensity comes from
    from_x = (matrix[1, 1] * x - matrix[0, 1] * y) / det
    from_y = (matrix[0, 0] * y - matrix[1, 0] * x) / det
    at = [(v - f) / d for v, f, d in zip((from_y, from_x), p.first, p.sampling, strict=True)]

    def one(image: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(image, at, order=1, mode="constant")

    shape = intensity.shape
    warped = jax.vmap(one)(intensity.reshape(-1, *shape[-2:])).reshape(shape) / det
    return replace(p, intensity=warped)


def radial_profile(
    p: Patterns,
    *,
    step: float | None = None,
    maximum: float | None = None,
    centre: Sequence[float] = (0.0, 0.0),
    ellipticity: float = 0.0,
    axis: float = 0.0,
) -> tuple[np.ndarray, Any]:
    """The azimuthal mean.

    Every pixel counts for the two nearest radii by its distance (linear weights), so the profile of
    an isotropic pattern has no steps.

    Parameters
    ----------
    step : float, optional
        mrad between radii; the larger pixel side if not given.
    maximum : float, optional
        mrad; the largest circle inside the pattern if not given.
    centre : (x, y)
        mrad.
    ellipticity, axis : float
        Of the pattern, as in `deformed`: the mean is taken over these ellipses.

    Returns
    -------
    angles : float [r]
        mrad, from 0.
    mean : [..., r]
        Mean intensity per pixel.

    Raises
    ------
    ValueError
        A step so small that a radius meets no pixel.
    """
    y, x = p.angles()
    width = max(p.sampling) * p.mrad if step is None else float(step)
    y, x = y - centre[1], x - centre[0]
    reach = min(-y[0], y[-1], -x[0], x[-1]) if maximum is None else maximum
    count = math.floor(reach / width + 1e-9) + 1
    if not width > 0 or count < 1:
        raise ValueError(f"no radius fits: step {width:g}, maximum {reach:g} mrad")
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    inverse = np.linalg.inv(ellipse_matrix(0.0, np.float64(ellipticity), axis))
    index, weight = _radial_table(np.hypot(*(points @ inverse.T).T) / width, count)
    if not (weight.sum(axis=1) > 0).all():
        empty = width * int(np.argmin(weight.sum(axis=1)))
        raise ValueError(
            f"no pixel lies near the radius of {empty:g} mrad: use a step of at least "
            f"{max(p.sampling) * p.mrad:.3g} mrad"
        )
    xp = array_module(p.intensity)
    flat = p.intensity.reshape(*p.intensity.shape[:-2], -1)
    options = {} if xp is np else {"precision": "highest"}
    weight = xp.asarray(weight / weight.sum(axis=1, keepdims=True), flat.dtype)
    mean = xp.einsum("...rm,rm->...r", flat[..., index], weight, **options)
    return width * np.arange(count), mean


def _radial_table(radius: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and linear weights [count, most pixels of a radius]: sums by gathering, no scatter."""
    low = np.floor(radius).astype(int)
    ring = np.concatenate([low, low + 1])
    weight = np.concatenate([1 - (radius - low), radius - low])
    pixel = np.tile(np.arange(len(radius)), 2)
    keep = (ring < count) & (weight > 0)
    order = np.argsort(ring[keep], kind="stable")
    ring, weight, pixel = (a[keep][order] for a in (ring, weight, pixel))
    sizes = np.bincount(ring, minlength=count)
    column = np.arange(len(ring)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    table = np.zeros((count, max(int(sizes.max()), 1)))
    index = np.zeros(table.shape, int)
    table[ring, column], index[ring, column] = weight, pixel
    return index, table
