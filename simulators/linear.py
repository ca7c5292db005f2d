"""The linear, incoherent model of annular dark-field images of thin specimens.

    I(r) = Σ_atoms σ_element · |ψ_probe(r_atom - r)|²      [fraction of the dose]

with σ the cross-section of an atom for scattering into the detector's ring, that of a phase object
(`phase_cross_section`) or in the first Born approximation (`cross_section`, σ = γ²λ² ∫ |f(k)|² 2πk
dk), which is too large for heavy atoms (Pennycook & Jesson, Ultramicroscopy 37, 14 (1991), for the
incoherent picture). It is some thousand times faster than multislice and right for one or two atoms
in projection; it knows no channelling, so for thick crystals in a zone axis its column intensities
are wrong (`tests/simulators/test_linear_validity.py` measures both).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms
from simulators.electron import interaction_constant, mass_correction, wavelength
from simulators.grid import Grid
from simulators.optics import Optics, probe_coefficients
from simulators.scattering import projected_scattering_factor, scattering_factor

FWHM = 2 * np.sqrt(2 * np.log(2))
"""Full width at half maximum of a Gaussian of σ = 1."""


def _check_ring(inner: float, outer: float | None) -> None:
    if outer is None or not 0 <= inner < outer:
        raise ValueError(f"the ring needs 0 <= inner < outer [mrad], got {inner} and {outer}")


@functools.cache
def cross_section(
    element: int, energy: float, inner: float, outer: float, parametrization: str = "lobato"
) -> float:
    """Born cross-section [Å²] of an atom for scattering between two angles [mrad].

    Raises
    ------
    ValueError
        Angles that make no ring, an unknown element or parametrization.
    """
    _check_ring(inner, outer)
    lam = wavelength(float(energy))
    k = np.linspace(inner, outer, 400) * 1e-3 / lam
    f2 = scattering_factor(element, k**2, parametrization) ** 2
    integral = np.trapezoid(f2 * 2 * np.pi * k, k)
    return float(mass_correction(float(energy)) ** 2 * lam**2 * integral)


@functools.cache
def phase_cross_section(
    element: int, energy: float, inner: float, outer: float, parametrization: str = "lobato"
) -> float:
    """Cross-section [Å²] of an atom as a phase object: what Born overestimates of heavy atoms.

    σ = ∫ |FT(exp(iσ_e V) - 1)|² d²k over the ring, on a grid of 0.02 Å; the eikonal approximation
    (Glauber 1959; Kirkland 2010, eq. 5.18). At 80 keV and 90 to 200 mrad it gives 0.60 of Born's
    for W, 0.81 for Mo, 0.97 for S and 0.995 for C, so that the contrast between elements is that of
    multislice to 5 %. The grid makes it right to 0.5 %.

    Raises
    ------
    ValueError
        Angles that make no ring, an unknown element or parametrization.
    """
    _check_ring(inner, outer)
    n, pixel = 512, 0.02
    grid = Grid((n, n), (pixel, pixel))
    factor = projected_scattering_factor(element, np.asarray(grid.k2()), parametrization)
    v = np.fft.ifft2(factor).real / pixel**2
    wave = np.exp(1j * float(interaction_constant(float(energy))) * v) - 1
    amplitude = np.fft.fft2(wave) * pixel**2
    theta = wavelength(float(energy)) * np.sqrt(np.asarray(grid.k2())) * 1e3
    ring = (theta >= inner) & (theta < outer)
    return float((np.abs(amplitude[ring]) ** 2).sum() / (n * pixel) ** 2)


@functools.cache
def cross_section_table(
    energy: float, inner: float, outer: float, highest: int = 98, *, born: bool = False
) -> np.ndarray:
    """Cross-sections [Å²] by atomic number, [highest + 1], 0 at 0: to look up traced numbers."""
    one = cross_section if born else phase_cross_section
    elements = range(1, highest + 1)
    return np.array([0.0, *(one(z, energy, inner, outer) for z in elements)])


def transfer(optics: Optics, grid: Grid) -> jax.Array:
    """Fourier transform of |ψ_probe(-r)|² with the source size, [ny, nx//2 + 1]; 1 at k = 0.

    A point that the probe is scanned over shows the probe point-reflected, which coma makes
    visible. The probe is formed on a grid twice as fine, so that its intensity, which has twice the
    band width of its amplitude, does not fold back.
    """
    (ny, nx), (dy, dx) = grid.shape, grid.sampling
    fine = Grid((2 * ny, 2 * nx), (dy / 2, dx / 2))
    wave = jnp.fft.ifft2(jnp.asarray(probe_coefficients(optics, fine)))
    spectrum = jnp.fft.rfft2(jnp.abs(wave) ** 2) * (4 * ny * nx)
    low = jnp.concatenate([spectrum[: (ny + 1) // 2], spectrum[2 * ny - ny // 2 :]])
    rows = low[:, : nx // 2 + 1]
    ky, kx = np.fft.fftfreq(ny, dy), np.fft.rfftfreq(nx, dx)
    k2 = jnp.asarray(ky[:, None] ** 2 + kx[None, :] ** 2, rows.real.dtype)
    return jnp.conj(rows) * jnp.exp(-2 * np.pi**2 * (optics.source_size / FWHM) ** 2 * k2)


def spectrum(
    xy: jax.Array, weights: jax.Array, grid: Grid, *, sigma: jax.Array | None = None
) -> jax.Array:
    """Structure factor Σ w exp(-2πi k·r) exp(-2π²σ²k²) / pixel area, [ny, nx//2 + 1]."""
    (ny, nx), (ly, lx) = grid.shape, grid.extent
    dtype = weights.dtype

    def ramp(x: jax.Array, length: float, index: np.ndarray) -> jax.Array:
        turns = (x / length)[:, None] * jnp.asarray(index, dtype)[None]
        phase = -2 * np.pi * (turns - jnp.round(turns))
        wave = jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
        if sigma is None:
            return wave
        k2 = jnp.asarray((index / length) ** 2, dtype)[None]
        return wave * jnp.exp(-2 * np.pi**2 * sigma[:, None] ** 2 * k2)

    rows_y = ramp(xy[:, 1], ly, np.fft.fftfreq(ny, 1 / ny)) * weights[:, None]
    rows_x = ramp(xy[:, 0], lx, np.arange(nx // 2 + 1))
    return jnp.matmul(rows_y.T, rows_x) / (grid.sampling[0] * grid.sampling[1])


def sample_lines(
    image_spectrum: jax.Array, grid: Grid, shift: jax.Array | None = None
) -> jax.Array:
    """The image [ny, nx] of a spectrum, each line recorded where the scan really was.

    Parameters
    ----------
    image_spectrum : complex [ny, nx//2 + 1]
        As from `spectrum` times `transfer`.
    shift : float [ny, 2], optional
        Displacement (x, y) in Å of every line: line i shows the specimen at y_i + shift_y and
        x + shift_x. Exact for a band-limited image (a non-uniform transform over the lines).
    """
    ny, nx = grid.shape
    if shift is None:
        return jnp.fft.irfft2(image_spectrum, s=grid.shape)
    ly, lx = grid.extent
    line = jnp.arange(ny) / ny + shift[:, 1] / ly
    turns = line[:, None] * jnp.asarray(np.fft.fftfreq(ny, 1 / ny), line.dtype)[None]
    phase = 2 * np.pi * (turns - jnp.round(turns))
    rows = jax.lax.complex(jnp.cos(phase), jnp.sin(phase)) @ image_spectrum / ny
    turns = (shift[:, 0] / lx)[:, None] * jnp.arange(nx // 2 + 1)[None]
    phase = 2 * np.pi * turns
    return jnp.fft.irfft(rows * jax.lax.complex(jnp.cos(phase), jnp.sin(phase)), n=nx, axis=1)


def cross_sections(
    atoms: Atoms,
    energy: float,
    inner: float,
    outer: float,
    parametrization: str = "lobato",
    *,
    born: bool = False,
) -> jax.Array:
    """σ · occupancy [n] in Å² of every atom; 0 in padding rows. Phase objects, or Born's."""
    one = cross_section if born else phase_cross_section
    total = jnp.zeros(atoms.numbers.shape)
    for element in atoms.elements:
        sigma = one(element, float(energy), inner, outer, parametrization)
        total = jnp.where(jnp.asarray(atoms.numbers) == element, sigma, total)
    return total * jnp.asarray(atoms.occupancy)


def incoherent(
    atoms: Atoms,
    optics: Optics,
    grid: Grid,
    *,
    inner: float,
    outer: float,
    shift: jax.Array | None = None,
    born: bool = False,
) -> jax.Array:
    """ADF image [ny, nx] as a fraction of the dose, one pixel of the grid a scan position.

    Steps above λ / (4 · semiangle) do not resolve the probe: a real scan aliases there, while this
    image is low-passed.

    Parameters
    ----------
    atoms : Atoms
        Periodic in the grid's extent.
    inner, outer : float
        Detector angles [mrad].
    shift : float [ny, 2], optional
        Line displacements, see `sample_lines`.
    born : bool
        Cross-sections in Born's approximation instead of those of phase objects.
    """
    weights = cross_sections(atoms, float(optics.energy), inner, outer, born=born)
    xy, sigma = jnp.asarray(atoms.positions)[:, :2], jnp.asarray(atoms.sigma)
    factor = spectrum(xy.astype(weights.dtype), weights, grid, sigma=sigma.astype(weights.dtype))
    return sample_lines(factor * transfer(optics, grid), grid, shift)


def blur(image: Any, grid: Grid, source_size: float) -> jax.Array:
    """An image [ny, nx] (periodic) seen with a Gaussian source of this FWHM [Å]."""
    ky, kx = (
        np.fft.fftfreq(grid.shape[0], grid.sampling[0]),
        np.fft.rfftfreq(grid.shape[1], grid.sampling[1]),
    )
    k2 = ky[:, None] ** 2 + kx[None, :] ** 2
    damping = np.exp(-2 * np.pi**2 * (source_size / FWHM) ** 2 * k2)
    spectrum_ = jnp.fft.rfft2(jnp.asarray(image))
    return jnp.fft.irfft2(spectrum_ * jnp.asarray(damping, spectrum_.real.dtype), s=grid.shape)
