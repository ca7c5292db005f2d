"""The exact scattering matrix: one multislice per beam of the aperture, images of any probe after.

    ψ_r(q) = Σ_b c_b exp(-2πi k_b·r) S_b(q)      (Ophus, Adv. Struct. Chem. Imaging 3, 13 (2017))

A detector sees Σ_q D(q) |ψ_r(q)|², so all that an image needs of S is its Gram matrix over the
detector, G_bb' = Σ_q D S_b S*_b'. The image is then a Fourier series over k_b - k_b', for any
aberrations within the aperture and at any positions, at once. At interpolation 1 the result is that
of multislice; it pays where the aperture holds fewer beams than there are positions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import is_concrete
from simulators.batches import batch_size, count_devices, gathered, mapped
from simulators.detectors import Detector, detector_matrix
from simulators.electron import wavelength
from simulators.grid import Grid
from simulators.multislice import Slab, prepare, through
from simulators.optics import Optics, probe_coefficients
from simulators.potential import Potential
from simulators.series import Series
from simulators.tree import pytree, static


@pytree
class Gram:
    """What detectors can know of a specimen through one aperture.

    Attributes
    ----------
    matrices : complex [detectors, beams, beams]
    beams : int [beams, 2]
        Diffraction orders (y, x) of the beams.
    grid : Grid, static
    energy : float, static
        eV.
    tilt : (x, y), static
        mrad.
    """

    matrices: Any
    beams: Any
    grid: Grid = static()
    energy: float = static()
    tilt: tuple[float, float] = static()


def beams_in(grid: Grid, energy: float, semiangle: float) -> np.ndarray:
    """Orders (y, x) [beams, 2] of the plane waves in an aperture [mrad], soft edge included."""
    steps = [1e3 * wavelength(float(energy)) / length for length in grid.extent]
    orders = [np.rint(np.fft.fftfreq(n, 1 / n)).astype(int) for n in grid.shape]
    y, x = np.meshgrid(*orders, indexing="ij")
    inside = np.hypot(y * steps[0], x * steps[1]) < semiangle + max(steps)
    return np.stack([y[inside], x[inside]], axis=1)


def gram(
    potential: Potential,
    energy: float,
    semiangle: float,
    detectors: Sequence[Detector],
    *,
    tilt: tuple[float, float] = (0.0, 0.0),
    step: str = "first",
    order: int = 1,
    batch: int | None = None,
) -> Gram:
    """Send every beam of the aperture through the specimen.

    Parameters
    ----------
    potential : Potential
    energy : float
        eV.
    semiangle : float
        mrad; probes of this and of smaller apertures can be formed afterwards.
    detectors : sequence of Detector
    tilt : (x, y)
        Beam tilt in mrad.
    step, order
        See `multislice.multislice`.
    batch : int, optional
        Beams computed together; as many as fit into the cache if not given.

    Notes
    -----
    Memory: 8 bytes (complex64) for every beam and pixel of the detectors together, and
    8 · beams² bytes per detector.
    """
    grid = potential.grid
    beams = beams_in(grid, energy, semiangle)
    weights = detector_matrix(detectors, grid, float(energy))
    seen = np.flatnonzero(weights.any(axis=0))
    slab = prepare(potential, energy, tilt=tilt, step=step, order=order)
    spectra = scattered(slab, beams, seen, batch=batch)
    matrices = gram_matrices(gathered(spectra), weights[:, seen])
    return Gram(matrices, beams, grid, float(energy), (float(tilt[0]), float(tilt[1])))


def beam_wave(order: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """exp(2πi k·r) / N [ny, nx] of a diffraction order (y, x): its Fourier transform is one 1."""
    rows = []
    for n, h in zip(shape, order, strict=True):
        # turns as whole numbers modulo n: no digit is lost far from the origin
        turns = (jnp.arange(n) * h % n).astype(np.finfo(dtype).dtype) / n
        rows.append(jnp.exp(2j * np.pi * turns).astype(dtype))
    return rows[0][:, None] * rows[1][None, :] / (shape[0] * shape[1])


def scattered(
    slab: Slab,
    beams: np.ndarray,
    seen: np.ndarray,
    *,
    batch: int | None = None,
    forget: bool = False,
) -> jax.Array:
    """What every beam scatters into the diffraction pixels that are looked at.

    Parameters
    ----------
    slab : Slab
        Of `multislice.prepare`.
    beams : int [beams, 2]
        Diffraction orders (y, x).
    seen : int [pixels]
        Flat indices of diffraction pixels, FFT order.
    batch : int, optional
        Beams computed together; as many as fit into the cache if not given.
    forget : bool
        See `batches.mapped`.

    Returns
    -------
    complex [beams, pixels]
        S_b(q) for a beam of amplitude 1.
    """
    size = batch_size(batch, slab.mask.size, slab.mask.dtype.itemsize)
    devices = count_devices(slab)
    return _scattered(slab, jnp.asarray(beams), jnp.asarray(seen), size, devices, forget)


@functools.partial(jax.jit, static_argnames=("batch", "devices", "forget"))
def _scattered(
    slab: Slab, beams: jax.Array, seen: jax.Array, batch: int, devices: int, forget: bool
) -> jax.Array:
    def one(order: jax.Array, shared: tuple[Slab, jax.Array]) -> jax.Array:
        slab, seen = shared
        wave = beam_wave(order, slab.mask.shape, slab.dtype)
        return jnp.fft.fft2(through(wave, slab)).ravel()[seen]

    return mapped(one, beams, (slab, seen), batch=batch, devices=devices, forget=forget)


def gram_matrices(spectra: jax.Array, weights: np.ndarray) -> jax.Array:
    """Σ_q D(q) S_b(q) S*_b'(q) of detectors that each use only their own pixels.

    Parameters
    ----------
    spectra : complex [beams, pixels]
    weights : float [detectors, pixels]
        Known; of any sign.

    Returns
    -------
    complex [detectors, beams, beams]
        Hermitian.
    """
    counts = np.maximum((weights != 0).sum(axis=1), 1)
    sizes = np.ceil(np.log2(counts)).astype(int)
    matrices: dict[int, jax.Array] = {}
    for size in np.unique(sizes):  # detectors of similar size together, each on its own pixels
        members = np.flatnonzero(sizes == size)
        width = int(counts[members].max())
        index = np.argsort(weights[members] == 0, axis=1, kind="stable")[:, :width]
        own = np.take_along_axis(weights[members], index, axis=1)
        made = _gram_matrices(spectra, jnp.asarray(index), jnp.asarray(own, spectra.real.dtype))
        matrices |= dict(zip(members.tolist(), made, strict=True))
    return jnp.stack([matrices[i] for i in range(len(weights))])


@jax.jit
def _gram_matrices(spectra: jax.Array, index: jax.Array, weights: jax.Array) -> jax.Array:
    """Three real products where the complex one has four: the imaginary part is antisymmetric."""

    def one(own: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, w = own
        s = spectra[:, index]
        both = jnp.concatenate([s.real, s.imag], axis=1)
        real = jnp.matmul(both * jnp.tile(w, 2)[None], both.T, precision="highest")
        half = jnp.matmul(s.imag * w[None], s.real.T, precision="highest")
        return jax.lax.complex(real, half - half.T)

    return jax.lax.map(one, (index, weights))


def image_series(matrices: Gram, optics: Optics) -> Series:
    """Images of all detectors for one probe, as Fourier series [detectors, my, mx].

    In NumPy, without compiling anything, where the matrices are NumPy arrays and the optics known.

    The source size is not in it (see `series.blurred`).

    Raises
    ------
    ValueError
        A probe with an aperture larger than the one that the beams fill, of another energy, or
        tilted otherwise (where these are known numbers).
    """
    grid = matrices.grid
    for name, asked, made in (
        ("energy", optics.energy, matrices.energy),
        ("tilt", optics.tilt, matrices.tilt),
    ):
        if is_concrete(asked) and not np.allclose(asked, made, rtol=1e-6):
            raise ValueError(
                f"the beams were computed for {name} = {made} but the probe has {asked}: "
                f"call gram with the probe's {name}"
            )
    ny, nx = grid.shape
    y, x = (np.asarray(matrices.beams)[:, axis] for axis in (0, 1))
    everything = probe_coefficients(optics, grid)
    if not (isinstance(matrices.matrices, np.ndarray) and isinstance(everything, np.ndarray)):
        everything = jnp.asarray(everything)
    c = everything[y % ny, x % nx].astype(matrices.matrices.dtype)
    outside = (abs(everything) ** 2).sum() - (abs(c) ** 2).sum()
    if not isinstance(outside, jax.core.Tracer) and float(outside) > 1e-3:
        raise ValueError(
            "the probe's aperture is larger than the one whose beams were computed: "
            f"{100 * float(outside):.1f} % of it lies outside. Call gram with a larger semiangle"
        )
    reach_y, reach_x = int(np.abs(y).max()), int(np.abs(x).max())
    # a position r multiplies beam b by exp(-2πi k_b·r): the order of a pair is b' - b
    row = y[None, :] - y[:, None] + 2 * reach_y
    column = x[None, :] - x[:, None] + 2 * reach_x
    pairs = matrices.matrices * (c[:, None] * c.conj()[None, :])[None]
    shape = (4 * reach_y + 1, 4 * reach_x + 1)
    if isinstance(pairs, np.ndarray):
        order = (row * shape[1] + column).ravel()
        sums = [
            np.bincount(order, part.ravel(), shape[0] * shape[1])
            for matrix in pairs
            for part in (matrix.real, matrix.imag)
        ]
        both = np.reshape(sums, (-1, 2, *shape))
        return Series((both[:, 0] + 1j * both[:, 1]).astype(pairs.dtype), grid.extent)
    flat = jnp.zeros((pairs.shape[0], shape[0] * shape[1]), pairs.dtype)
    flat = flat.at[:, (row * shape[1] + column).ravel()].add(pairs.reshape(pairs.shape[0], -1))
    return Series(flat.reshape(-1, *shape), grid.extent)
