"""`stem` and `cbed` from one multislice per plane wave of the aperture: exact, often much cheaper.

    ψ_r(q) = Σ_b c_b exp(-2πi k_b·r) S_b(q)

holds for every position r, so B plane waves are all that a scan needs. With a known probe not even
a Gram matrix of the S_b is needed: for one diffraction pixel q, ψ_r(q) over all positions r of the
period is a small Fourier transform of c_b S_b(q), band-limited to the aperture, so its square on a
raster of twice that is all of the image. The cost is one such transform a pixel (5 M log₂ M
operations, M ≈ 5 B raster points) where the Gram matrix costs 8 B² a pixel and detector.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.batches import count_devices, gathered, mapped, summed
from simulators.gram import beam_wave, scattered
from simulators.grid import Grid
from simulators.memory import as_text
from simulators.multislice import Slab, through
from simulators.optics import Optics, aperture_function
from simulators.series import Series, read_at, read_axes

METHODS = ("auto", "multislice", "prism")
"""How `stem` and `cbed` reach the same numbers."""

MATMUL_GAIN = 4.0
"""How many times faster an operation is in a matrix product than in a Fourier transform."""

PIXELS = 32
"""Diffraction pixels whose images are made together."""


def known_beams(optics: Optics, grid: Grid, coefficients: Any = None) -> np.ndarray | None:
    """Orders (y, x) [beams, 2] of the plane waves that a probe holds; `None` while tracing."""
    if coefficients is None:
        coefficients = aperture_function(optics, grid)
    if isinstance(coefficients, jax.core.Tracer) or optics.semiangle is None:
        return None
    inside = np.asarray(coefficients) != 0
    orders = [np.rint(np.fft.fftfreq(n, 1 / n)).astype(int) for n in grid.shape]
    y, x = np.meshgrid(*orders, indexing="ij")
    return np.stack([y[inside], x[inside]], axis=1)


def raster_shape(beams: np.ndarray) -> tuple[int, int]:
    """(y, x) of a raster over one period that holds all of an image, of a size good for FFTs."""
    from scipy.fft import next_fast_len

    return tuple(next_fast_len(4 * int(r) + 1) for r in np.abs(beams).max(axis=0))  # type: ignore[return-value]


def wave_cost(grid: Grid, slices: int) -> float:
    """Operations of one wave through the specimen: two transforms and two products a slice."""
    n = grid.shape[0] * grid.shape[1]
    return slices * (2 * transform_cost(n) + 12 * n)


def transform_cost(n: int) -> float:
    """Operations of a complex Fourier transform of n points."""
    return 5 * n * math.log2(max(n, 2))


def choose(
    method: str, beams: np.ndarray | None, by_beams: float, by_probes: float, need: int, memory: int
) -> bool:
    """Whether to go by beams: as `method` asks, or where that is cheaper and fits.

    Parameters
    ----------
    by_beams, by_probes : float
        Operations of either way.
    need, memory : int
        Bytes that the scattered beams take, and that they may take.

    Raises
    ------
    ValueError
        An unknown method, or "prism" where the beams are not known or do not fit.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    if method == "prism" and beams is None:
        raise ValueError(
            "method='prism' needs to know the plane waves of the aperture: pass energy and "
            "semiangle as numbers, or use method='multislice' to differentiate with respect to them"
        )
    if method == "prism" and need > memory:
        raise ValueError(
            f"the scattering matrix takes {as_text(need)} and memory={as_text(memory)}: use "
            "method='multislice', a larger memory=, smaller detectors or a coarser grid"
        )
    if method == "auto" and beams is not None:
        return by_beams < by_probes and need <= memory
    return method == "prism"


def stem_cost(
    grid: Grid, slices: int, beams: np.ndarray, positions: int, detectors: int, seen: int
) -> tuple[float, float, int]:
    """(operations by beams, operations by probes, bytes per real number of the former)."""
    once, n = wave_cost(grid, slices), grid.shape[0] * grid.shape[1]
    my, mx = raster_shape(beams)
    image = transform_cost(my * mx) + (4 + 2 * detectors) * my * mx
    read = 8 * positions * my * mx * detectors / MATMUL_GAIN
    by_beams = len(beams) * once + seen * image + read
    by_probes = positions * (once + transform_cost(n) + 2 * n * detectors)
    return by_beams, by_probes, 2 * (2 * len(beams) * seen + 4 * PIXELS * my * mx)


def cbed_cost(
    grid: Grid, slices: int, beams: np.ndarray, positions: int
) -> tuple[float, float, int]:
    """(operations by beams, operations by probes, bytes per real number of the former)."""
    once, n = wave_cost(grid, slices), grid.shape[0] * grid.shape[1]
    my, mx = band(grid)
    by_beams = len(beams) * once + 8 * positions * len(beams) * my * mx / MATMUL_GAIN
    return by_beams, positions * (once + transform_cost(n)), 4 * len(beams) * my * mx


def probe_series(
    spectra: jax.Array, c: Any, beams: np.ndarray, weights: Any, extent: tuple[float, float]
) -> Series:
    """Images of all detectors for one probe, as Fourier series [detectors, my, mx].

    Parameters
    ----------
    spectra : complex [beams, pixels]
        S_b(q) of `prism.scattered`.
    c : complex [beams]
        The probe's coefficients.
    beams : int [beams, 2]
        Orders (y, x).
    weights : float [detectors, pixels]
        Sensitivities.
    extent : (y, x)
        Period of the image [Å].
    """
    shape = raster_shape(beams)
    place = np.full(shape, len(beams))
    place[beams[:, 0] % shape[0], beams[:, 1] % shape[1]] = np.arange(len(beams))
    orders = tuple(np.arange(-2 * r, 2 * r + 1) for r in np.abs(beams).max(axis=0))
    images = _images(
        spectra,
        jnp.asarray(c, spectra.dtype),
        jnp.asarray(weights, spectra.real.dtype),
        jnp.asarray(place),
        count_devices(spectra),
    )
    f = jnp.fft.fft2(gathered(images)) / (shape[0] * shape[1])
    return Series(f[:, orders[0] % shape[0]][:, :, orders[1] % shape[1]], extent)


@functools.partial(jax.jit, static_argnames="devices")
def _images(
    spectra: jax.Array, c: jax.Array, weights: jax.Array, place: jax.Array, devices: int
) -> jax.Array:
    """Σ_q D(q) |ψ_r(q)|² [detectors, my, mx] at the points r of a raster over the period."""

    def some(part: tuple[jax.Array, jax.Array], place: jax.Array) -> jax.Array:
        amplitudes, w = part
        empty = jnp.zeros((amplitudes.shape[0], 1), amplitudes.dtype)
        wave = jnp.concatenate([amplitudes, empty], axis=1)[:, place]
        wave = jnp.fft.fft2(wave)
        intensity = (wave.real**2 + wave.imag**2).reshape(wave.shape[0], -1)
        return jnp.matmul(w.T, intensity, precision="highest")

    items = ((spectra * c[:, None]).T, weights.T)
    images = summed(some, items, place, batch=PIXELS, devices=devices)
    return images.reshape(-1, *place.shape)


def stem_by_beams(
    slab: Slab,
    grid: Grid,
    c: Any,
    beams: np.ndarray,
    weights: np.ndarray,
    positions: Any,
    *,
    batch: int,
    forget: bool,
) -> jax.Array:
    """Signals [detectors, ...] at positions [..., 2] (see `imaging.stem`).

    Parameters
    ----------
    c : complex [ny, nx]
        The probe's coefficients, FFT order.
    weights : float [detectors, ny·nx]
    """
    seen = np.flatnonzero(weights.any(axis=0))
    seen = seen if len(seen) else np.zeros(1, int)
    spectra = scattered(slab, beams, seen, batch=batch, forget=forget)
    own = c[beams[:, 0], beams[:, 1]]
    return read_scan(probe_series(spectra, own, beams, weights[:, seen], grid.extent), positions)


READ = 2**14
"""Positions read together."""


def read_scan(series: Series, positions: Any) -> jax.Array:
    """Values [..., *scan] at positions [*scan, 2]; along the axes of a raster as two products."""
    if np.ndim(positions) == 3 and not isinstance(positions, jax.core.Tracer):
        known = np.asarray(positions)
        x, y = known[:1, :, 0], known[:, :1, 1]
        if (known[..., 0] == x).all() and (known[..., 1] == y).all():
            return read_axes(series, y[:, 0], x[0])
        x, y = known[:, :1, 0], known[:1, :, 1]  # the fast axis is y
        if (known[..., 0] == x).all() and (known[..., 1] == y).all():
            return jnp.swapaxes(read_axes(series, y[0], x[:, 0]), -1, -2)
    flat = positions.reshape(-1, 2)
    blocks = [read_at(series, flat[i : i + READ]) for i in range(0, flat.shape[0], READ)]
    values = jnp.concatenate(blocks, axis=-1)
    return values.reshape(*values.shape[:-1], *np.shape(positions)[:-1])


def band(grid: Grid) -> tuple[int, int]:
    """(y, x) pixels of the smallest rectangle around zero frequency that holds the band limit."""
    inside = grid.antialias_mask() > 0
    reach = []
    for axis, n in enumerate(grid.shape):
        orders = np.abs(np.fft.fftfreq(n, 1 / n))[inside.any(axis=1 - axis)]
        reach.append(min(n, 2 * int(np.rint(orders.max())) + 1))
    return reach[0], reach[1]


def band_indices(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (FFT order) of that rectangle."""
    rows, columns = (
        np.arange(-(m // 2), m - m // 2) % n for m, n in zip(band(grid), grid.shape, strict=True)
    )
    return rows, columns


def cbed_by_beams(
    slab: Slab,
    grid: Grid,
    c: Any,
    beams: np.ndarray,
    ramps: tuple[Any, Any],
    *,
    batch: int,
    forget: bool,
) -> jax.Array:
    """Patterns [p, ny, nx], FFT order (see `imaging.cbed`).

    Parameters
    ----------
    c : complex [ny, nx]
        The probe's coefficients, FFT order.
    ramps : complex [p, ny], complex [p, nx]
        Of `optics.position_ramps`.
    """
    rows, columns = band_indices(grid)
    seen = (rows[:, None] * grid.shape[1] + columns[None, :]).ravel()
    spectra = scattered(slab, beams, seen, batch=batch, forget=forget)
    own = jnp.asarray(c[beams[:, 0], beams[:, 1]], slab.dtype)
    ramp_y, ramp_x = (jnp.asarray(r, slab.dtype)[:, beams[:, i]] for i, r in enumerate(ramps))
    devices = count_devices(spectra)
    return _patterns(spectra, own, ramp_y, ramp_x, grid, band(grid), devices)


@functools.partial(jax.jit, static_argnames=("grid", "kept", "devices"))
def _patterns(
    spectra: jax.Array,
    c: jax.Array,
    ramp_y: jax.Array,
    ramp_x: jax.Array,
    grid: Grid,
    kept: tuple[int, int],
    devices: int,
) -> jax.Array:
    def one(item: tuple[jax.Array, jax.Array], shared: tuple) -> jax.Array:
        spectra, c = shared
        wave = jnp.matmul(item[0] * item[1] * c, spectra, precision="highest")
        return (wave.real**2 + wave.imag**2).reshape(kept)

    patterns = mapped(one, (ramp_y, ramp_x), (spectra, c), batch=64, devices=devices)
    # the rectangle runs from the lowest frequency up: to FFT order on the whole grid
    margins = [
        (n // 2 - m // 2, n - n // 2 - m + m // 2) for m, n in zip(kept, grid.shape, strict=True)
    ]
    return jnp.fft.ifftshift(jnp.pad(patterns, ((0, 0), *margins)), axes=(-2, -1))


def mean_by_beams(slab: Slab, c: Any, beams: np.ndarray, *, batch: int) -> jax.Array:
    """Σ_b |c_b|² |S_b(q)|² [ny, nx]: patterns averaged over all positions of a period."""
    own = jnp.abs(jnp.asarray(c[beams[:, 0], beams[:, 1]], slab.dtype)) ** 2
    return _mean(slab, own, jnp.asarray(beams), batch, count_devices(slab))


@functools.partial(jax.jit, static_argnames=("batch", "devices"))
def _mean(slab: Slab, weights: jax.Array, beams: jax.Array, batch: int, devices: int) -> jax.Array:
    def some(part: tuple[jax.Array, jax.Array], slab: Slab) -> jax.Array:
        orders, w = part
        waves = jax.vmap(lambda order: beam_wave(order, slab.mask.shape, slab.dtype))(orders)
        spectra = jnp.fft.fft2(through(waves, slab))
        return jnp.einsum("b,byx->yx", w, jnp.abs(spectra) ** 2, precision="highest")

    return summed(some, (beams, weights), slab, batch=batch, devices=devices)
