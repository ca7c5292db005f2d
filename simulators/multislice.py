"""Multislice: transmit through a slice, propagate through its thickness, by `lax.scan`.

Cowley & Moodie, Acta Cryst. 10, 609 (1957); Kirkland (2010), chapter 6. With the default settings
the numbers are abTEM's: t = exp(iσV) computed on the full grid and then band-limited,
P = exp(-iπλΔz k²) with the same mask, transmission before propagation. Three settings are better
than that: `step="symmetric"` is of second order in the slice thickness at the same cost,
`order=2` adds the next term of the propagator, and a `Potential` with `oversample` > 1 computes
exp(iσV) on a finer grid, where its products do not fold back.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import array_module, complex_dtype, is_concrete, known, real_of
from simulators.electron import interaction_constant, wavelength
from simulators.grid import Grid
from simulators.memory import check_memory
from simulators.potential import Potential
from simulators.tree import pytree, replace, static

STEPS = ("first", "symmetric")
"""A slice's propagation stands behind its transmission (abTEM), or half before and half behind."""


def propagator_factors(
    grid: Grid, thickness: Any, energy: Any, tilt: Any = (0.0, 0.0)
) -> tuple[Any, Any]:
    """exp(-iπλΔz k²) exp(-2πiΔz (kx tan tx + ky tan ty)) as a row in y and a row in x.

    Parameters
    ----------
    thickness : float [...]
        Å.
    tilt : (x, y)
        mrad. The incident wave is not tilted, so diffraction patterns do not shift.

    Returns
    -------
    complex [..., ny], complex [..., nx]
        Their outer product is the propagator, without the antialias mask.
    """
    xp = array_module(thickness, energy, tilt)
    lam = wavelength(energy)
    ky, kx = grid.frequencies()
    thickness = xp.asarray(thickness)[..., None]
    rows = []
    for k, angle in ((ky, tilt[1]), (kx, tilt[0])):
        phase = np.pi * lam * k**2 + 2 * np.pi * k * xp.tan(angle * 1e-3)
        lead = tuple(range(thickness.ndim - 1))
        rows.append(xp.exp(-1j * thickness * xp.expand_dims(phase, lead)))
    return rows[0], rows[1]


def fresnel_propagator(grid: Grid, thickness: Any, energy: Any, tilt: Any = (0.0, 0.0)) -> Any:
    """The propagator [..., ny, nx] in FFT order, without the antialias mask."""
    rows_y, rows_x = propagator_factors(grid, thickness, energy, tilt)
    return rows_y[..., :, None] * rows_x[..., None, :]


def fourier_indices(n: int, m: int) -> np.ndarray:
    """Where the `m` lowest frequencies (FFT order) lie among `n`."""
    return np.fft.fftfreq(m, 1 / m).astype(int) % n


def transmission(
    potential: Potential,
    energy: Any,
    *,
    bandlimit: bool = True,
    bandlimit_potential: bool = False,
) -> jax.Array:
    """exp(iσV) on the waves' grid.

    Parameters
    ----------
    potential : Potential
        Slices on a grid `oversample` times finer than the waves': the exponential is taken there
        and its spectrum cropped. A complex potential absorbs with its imaginary part.
    energy : float
        eV.
    bandlimit : bool
        Multiply the spectrum by the antialias mask.
    bandlimit_potential : bool
        Multiply the potential's spectrum by the mask too, before the exponential.

    Returns
    -------
    complex [nz, ny, nx]
    """
    if bandlimit_potential:
        potential = bandlimited(potential)
    sigma = jnp.asarray(interaction_constant(energy), real_of(potential.slices))
    return _gratings(potential, sigma, bandlimit)


@functools.partial(jax.jit, static_argnames="bandlimit")  # fused, a third of the time
def _gratings(potential: Potential, sigma: jax.Array, bandlimit: bool) -> jax.Array:
    def grating(slices: jax.Array) -> jax.Array:
        phase = sigma * jnp.real(slices)
        wave = jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
        wave = wave.astype(complex_dtype(phase.dtype))
        return wave * jnp.exp(-sigma * jnp.imag(slices)) if jnp.iscomplexobj(slices) else wave

    return on_wave_grid(grating, potential, bandlimit=bandlimit)


def bandlimited(potential: Potential) -> Potential:
    """The potential without what lies beyond the antialias mask of the waves' grid."""
    slices, grid = _checked(potential), potential.grid
    fine = slices.shape[-2:]
    keep = np.ix_(*(fourier_indices(n, m) for n, m in zip(fine, grid.shape, strict=True)))
    mask = np.zeros(fine)
    mask[keep] = grid.antialias_mask()
    limited = jnp.fft.ifft2(jnp.fft.fft2(slices) * jnp.asarray(mask, real_of(slices))[None])
    return replace(potential, slices=limited if jnp.iscomplexobj(slices) else limited.real)


def on_wave_grid(
    function: Callable[[jax.Array], jax.Array], potential: Potential, *, bandlimit: bool = True
) -> jax.Array:
    """A complex function of the slices, seen on the waves' grid, with or without the mask."""
    grid, slices = potential.grid, _checked(potential)
    mask = jnp.asarray(grid.antialias_mask(), real_of(slices)) if bandlimit else None
    if slices.shape[-2:] != grid.shape:  # slice by slice: the finer complex stack is never whole
        return jax.lax.map(lambda one: _cropped(function(one), grid, mask), slices)
    if mask is None:
        return function(slices)
    return jax.lax.map(lambda one: jnp.fft.ifft2(jnp.fft.fft2(function(one)) * mask), slices)


def _checked(potential: Potential) -> jax.Array:
    """The slices, once their shape is what the grid and the oversampling say."""
    fine = int(getattr(potential, "oversample", 1))
    expected = tuple(n * fine for n in potential.grid.shape)
    if tuple(potential.slices.shape[-2:]) != expected:
        raise ValueError(
            f"the slices are {tuple(potential.slices.shape[-2:])} pixels (y, x); a grid of "
            f"{potential.grid.shape} oversampled {fine} times needs {expected}"
        )
    return potential.slices


def _cropped(wave: jax.Array, grid: Grid, mask: jax.Array | None) -> jax.Array:
    """One slice on the finer grid seen on the waves' grid: low frequencies only."""
    spectrum = wave
    for axis in (1, 0):  # rows are cropped before columns are transformed
        keep = fourier_indices(wave.shape[axis], grid.shape[axis])
        spectrum = jnp.take(jnp.fft.fft(spectrum, axis=axis), keep, axis=axis)
    if mask is not None:
        spectrum = spectrum * mask
    return jnp.fft.ifft2(spectrum * (grid.shape[0] * grid.shape[1] / wave.size))


@pytree
class Slab:
    """A specimen made ready for waves of one energy: shared by every probe, made once.

    Attributes
    ----------
    transmission : complex [nz, ny, nx]
    rows_y, rows_x : complex [nz, ny], complex [nz, nx]
        Propagators as outer products; of half the thickness where the step is symmetric.
    mask : float [ny, nx]
        Antialias mask.
    quartic : float [nz] or None
        πλ³Δz/4 of the second-order propagator, likewise halved.
    grid : Grid, static
    step : {"first", "symmetric"}, static
    """

    transmission: Any
    rows_y: Any
    rows_x: Any
    mask: Any
    quartic: Any = None
    grid: Any = static(default=None)
    step: str = static(default="first")

    @property
    def n(self) -> int:
        """Number of slices."""
        return self.transmission.shape[0]

    @property
    def dtype(self) -> Any:
        """Complex dtype of the waves."""
        return self.transmission.dtype

    def part(self, start: int, stop: int) -> Slab:
        """Slices `start` to `stop`; parts one behind the other are the whole to rounding."""
        names = ("transmission", "rows_y", "rows_x", "quartic")
        leaves = {name: getattr(self, name) for name in names}
        leaves = {name: v if v is None else v[start:stop] for name, v in leaves.items()}
        return replace(self, **leaves)


def prepare(
    potential: Potential,
    energy: Any,
    *,
    tilt: Any = (0.0, 0.0),
    bandlimit: bool = True,
    bandlimit_potential: bool = False,
    step: str = "first",
    order: int = 1,
) -> Slab:
    """Transmission functions and propagators of all slices (see `multislice` for arguments)."""
    if step not in STEPS:
        raise ValueError(f"unknown step {step!r}: choose one of {', '.join(STEPS)}")
    if order not in (1, 2):
        raise ValueError(f"the propagator's order is 1 or 2, got {order!r}")
    thickness = potential.thickness
    if np.shape(thickness) != np.shape(potential.slices)[:1]:
        raise ValueError(
            f"{np.shape(potential.slices)[0]} slices but thicknesses of shape {np.shape(thickness)}"
        )
    ny, nx = potential.grid.shape
    check_memory(
        2 * real_of(potential.slices).itemsize * len(potential.slices) * ny * nx,
        f"the transmission functions of {len(potential.slices)} slices of {ny} × {nx} pixels",
        "use thicker slices, a coarser grid, or send the wave through the specimen in parts",
    )
    t = transmission(
        potential, energy, bandlimit=bandlimit, bandlimit_potential=bandlimit_potential
    )
    energy, tilt = known(energy), known(tilt)
    if is_concrete(energy, tilt) and not isinstance(thickness, jax.core.Tracer):
        thickness = np.asarray(thickness, float)
    thickness = thickness * (0.5 if step == "symmetric" else 1.0)
    rows_y, rows_x = propagator_factors(potential.grid, thickness, energy, tilt)
    mask = potential.grid.antialias_mask() if bandlimit else np.ones(potential.grid.shape)
    real = real_of(potential.slices)
    quartic = None
    if order == 2:
        quartic = jnp.asarray(np.pi / 4 * wavelength(energy) ** 3 * thickness, real)
    rows_y, rows_x = jnp.asarray(rows_y, t.dtype), jnp.asarray(rows_x, t.dtype)
    return Slab(t, rows_y, rows_x, jnp.asarray(mask, real), quartic, potential.grid, step)


def propagators(slab: Slab) -> tuple[Any, Any, Any]:
    """What stands between the transmissions of a slab.

    Returns
    -------
    enter : complex [ny, nx] or None
        Propagator before the first transmission, without the mask.
    rows : pytree of [nz, …]
        One entry per slice for `lax.scan`.
    plane : function
        Makes of one entry the propagator [ny, nx] behind that slice, with the mask.
    """
    k4 = None if slab.quartic is None else jnp.asarray(slab.grid.k2() ** 2, slab.mask.dtype)

    def bare(row_y: jax.Array, row_x: jax.Array, quartic: Any) -> jax.Array:
        product = row_y[:, None] * row_x[None, :]
        if quartic is None:
            return product
        return product * jax.lax.complex(jnp.cos(quartic * k4), -jnp.sin(quartic * k4))

    rows = (slab.rows_y, slab.rows_x, slab.quartic)
    enter = None
    if slab.step == "symmetric":  # the rest of this slice and the first half of the next at once
        enter = bare(*jax.tree.map(lambda r: r[0], rows))
        rows_y, rows_x = (
            r * jnp.concatenate([r[1:], jnp.ones_like(r[:1])]) for r in (slab.rows_y, slab.rows_x)
        )
        q = slab.quartic
        quartic = None if q is None else q + jnp.concatenate([q[1:], jnp.zeros_like(q[:1])])
        rows = (rows_y, rows_x, quartic)
    return enter, rows, lambda one: slab.mask * bare(*one)


@jax.jit
def through(wave: jax.Array, slab: Slab) -> jax.Array:
    """The wave [..., ny, nx] below the last slice of a prepared specimen.

    The propagation between two transmissions is one multiplication whatever the step. The mask
    acts behind every transmission and not on the wave that enters, so a specimen in parts is the
    same as in one.
    """
    wave = jnp.asarray(wave, slab.dtype)
    lead = tuple(range(wave.ndim - 2))
    enter, rows, plane = propagators(slab)

    def step(psi: jax.Array, one: tuple) -> tuple[jax.Array, None]:
        t, row = one
        spectrum = jnp.fft.fft2(psi * jnp.expand_dims(t, lead))
        return jnp.fft.ifft2(spectrum * jnp.expand_dims(plane(row), lead)), None

    if enter is not None:
        wave = jnp.fft.ifft2(jnp.fft.fft2(wave) * jnp.expand_dims(enter, lead))
    return jax.lax.scan(step, wave, (slab.transmission, rows))[0]


def thickness_series(wave: jax.Array, slab: Slab, planes: tuple[int, ...]) -> jax.Array:
    """The waves [planes, ..., ny, nx] below chosen slices, from one pass; -1 is the incident wave.

    Raises
    ------
    ValueError
        A plane that does not exist.
    """
    psi = jnp.asarray(wave, slab.dtype)
    taken, start = {-1: psi}, 0
    for plane in checked_planes(planes, slab.n):
        if plane >= 0:
            psi = through(psi, slab.part(start, plane + 1))
            taken[plane], start = psi, plane + 1
    return jnp.stack([taken[p] for p in planes])


def checked_planes(planes: tuple[int, ...], nz: int) -> list[int]:
    """Chosen slice indices, sorted, each once; raises for one that does not exist."""
    if not planes or min(planes) < -1 or max(planes) >= nz:
        raise ValueError(f"planes must be slice indices -1 to {nz - 1}, got {planes}")
    return sorted(set(planes))


def checked_wave(wave: jax.Array, potential: Potential) -> jax.Array:
    """The wave; raises where it is not on the potential's grid."""
    if tuple(wave.shape[-2:]) != potential.grid.shape:
        raise ValueError(
            f"the wave is {tuple(wave.shape[-2:])} pixels (y, x) but the potential is "
            f"{potential.grid.shape}"
        )
    return jnp.asarray(wave)


def multislice(
    wave: jax.Array,
    potential: Potential,
    energy: Any,
    *,
    tilt: Any = (0.0, 0.0),
    planes: tuple[int, ...] | None = None,
    bandlimit: bool = True,
    bandlimit_potential: bool = False,
    step: str = "first",
    order: int = 1,
) -> jax.Array:
    """The wave below the last slice, or below chosen ones.

    Parameters
    ----------
    wave : complex [..., ny, nx]
        Incident wave or waves, real space.
    potential : Potential
    energy : float
        eV.
    tilt : (x, y)
        Beam tilt in mrad. A small tilt of the specimen is the opposite number (`tilt.py`).
    planes : tuple of int, optional
        Indices of slices; the wave after each is returned on a new first axis; -1 is the incident
        wave.
    bandlimit : bool
        Antialias mask on transmission functions and propagators. Without it flux is conserved and
        scattering beyond the Nyquist frequency folds back.
    bandlimit_potential : bool
        Band-limit V before the exponential as well: columns between pixels then look alike to
        1e-3 at coarse sampling, but the mean converges later.
    step : {"first", "symmetric"}
        `first` transmits, then propagates by the slice's thickness (abTEM; the error falls with
        Δz). `symmetric` propagates by half of it before and half behind (the error falls with Δz²,
        at the cost of one propagation more).
    order : {1, 2}
        2 multiplies the propagator by exp(-iπλ³Δz k⁴/4).

    Returns
    -------
    complex [..., ny, nx] or [planes, ..., ny, nx]

    Raises
    ------
    ValueError
        A wave on another grid, a plane that does not exist.
    """
    wave = checked_wave(wave, potential)
    slab = prepare(
        potential,
        energy,
        tilt=tilt,
        bandlimit=bandlimit,
        bandlimit_potential=bandlimit_potential,
        step=step,
        order=order,
    )
    return through(wave, slab) if planes is None else thickness_series(wave, slab, planes)
