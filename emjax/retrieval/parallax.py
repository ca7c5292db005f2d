"""Parallax, or tilt-corrected bright field: virtual images, their shifts, their aligned sum.

Every pixel k of the bright-field disc makes an image of its own, and sees the object along its own
direction: by reciprocity the images are moved by -∇χ(k) / 2π against each other. The moves of a
lens with defocus and twofold astigmatism are linear in k, and their matrix tells defocus,
astigmatism and how the scan is turned (Spoth, Nguyen, Muller & Kourkoutis, Microsc. Microanal.
23, 284 (2017); Varnavides et al., arXiv:2309.05250 (2023)). Summed in their right places the images
sample the object more finely than the scan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from scipy.optimize import minimize
from scipy.signal.windows import tukey

from emjax.retrieval.centre_of_mass import Raster, raster_of
from emjax.retrieval.scan_data import ScanData, ScanError
from simulators.aberrations import aberrations_at
from simulators.electron import wavelength
from simulators.optics import Optics

MARGIN = 0.5
"""A scan that is not periodic is continued by this share of its size, fading to its mean."""

LOW = 48
"""Frequencies with which shifts are looked for at first, at most."""


@dataclass(frozen=True)
class Views:
    """Virtual bright-field images.

    Attributes
    ----------
    k : float [m, 2]
        (x, y) of their detector pixels in 1/Å.
    images : float32 [m, rows, columns]
        Share of the electrons of a pattern in each pixel.
    raster : where they were taken
    pixel : 1/Å
        Size of a (binned) detector pixel.
    """

    k: np.ndarray
    images: np.ndarray
    raster: Raster
    pixel: float


def views_of(
    data: ScanData,
    raster: Raster,
    limit: float,
    *,
    centre: tuple[float, float] = (0.0, 0.0),
    binning: int = 1,
) -> Views:
    """The images of all detector pixels within `limit` mrad of the disc's centre.

    Parameters
    ----------
    centre : (x, y) in mrad from zero frequency, see `bright_field`.
    binning : pixels of the detector, along each axis, that are summed.
    """
    shape = data.counts.shape[-2:]
    index = np.stack(np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij"), -1)
    steps = np.array(data.angle_step)
    middle = np.array(centre[::-1]) / steps  # (y, x) pixels
    angle = (index - middle) * steps
    good = np.hypot(*np.moveaxis(angle, -1, 0)) <= limit + binning * steps.max()
    if data.mask is not None:
        good &= np.asarray(data.mask) > 0
    # bins are centred on the disc, and whole: pixels that the mask takes out make them incomplete
    cell = np.floor((index - np.round(middle)) / binning + 0.5).astype(int)[good]
    _, which, size = np.unique(cell, axis=0, return_inverse=True, return_counts=True)
    which = which.reshape(-1)
    at = np.stack([np.bincount(which, angle[good][:, a]) / size for a in (0, 1)], 1)
    whole = (size == binning**2) & (np.hypot(at[:, 0], at[:, 1]) <= limit)
    if np.count_nonzero(whole) < 6:
        raise ScanError(
            f"only {np.count_nonzero(whole)} detector pixels lie in a disc of {limit:.3g} mrad: "
            "check the semiangle and angle_step, or bin less"
        )
    order = np.argsort(which, kind="stable")
    edges = np.concatenate([[0], np.cumsum(size)])[:-1]
    columns = np.flatnonzero(good)[order]
    counts = np.asarray(data.counts).reshape(data.n, -1)
    electrons = data.mean_electrons()
    images = np.empty((np.count_nonzero(whole), data.n), np.float32)
    for part in np.array_split(np.arange(data.n), max(1, data.n // 256)):
        picked = counts[part[0] : part[-1] + 1][:, columns].astype(np.float32)
        images[:, part] = np.add.reduceat(picked, edges, axis=1)[:, whole].T / electrons
    k = at[whole][:, ::-1] * 1e-3 / wavelength(data.energy)
    pixel = binning * float(np.sqrt(np.prod(steps))) * 1e-3 / wavelength(data.energy)
    return Views(k, images.reshape(-1, *raster.shape), raster, pixel)


def scan_spectra(images: np.ndarray, periodic: bool, *, window: bool = False) -> np.ndarray:
    """Fourier transform [m, ny, nx] over the scan of images [m, rows, columns], without the mean.

    A scan that is not periodic is continued by its edges, which fade to the mean: the two sides of
    an image are then strangers to each other. With `window` its outer quarters fade instead: no
    image, but a better spectrum for fits. Divided by the number of scan points.
    """
    images = images - images.mean(axis=(1, 2), keepdims=True)
    number = images.shape[1] * images.shape[2]
    if window and not periodic:
        for axis in (1, 2):
            n = images.shape[axis]
            shape = [1, 1, 1]
            shape[axis] = n
            images = images * tukey(n + 2, 0.5)[1:-1].reshape(shape)
        shape = [scipy.fft.next_fast_len(int(np.ceil((1 + MARGIN) * n))) for n in images.shape[1:]]
        images = np.pad(
            images, [(0, 0), *((0, m - n) for m, n in zip(shape, images.shape[1:], strict=True))]
        )
    elif not periodic:
        for axis in (1, 2):
            n = images.shape[axis]
            more = scipy.fft.next_fast_len(n + int(np.ceil(MARGIN * n))) - n
            around = [(0, 0)] * 3
            around[axis] = (0, more)
            fade = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, more + 1) / (more + 1))
            share = np.concatenate([np.ones(n), fade])
            back = np.concatenate([np.zeros(n), fade[::-1]])
            first = np.take(images, [0], axis)
            shape = [1, 1, 1]
            shape[axis] = n + more
            images = np.pad(images, around, mode="edge") * share.reshape(shape).astype(np.float32)
            images = images + first * back.reshape(shape).astype(np.float32)
    return (scipy.fft.fft2(images.astype(np.float32), axes=(1, 2)) / number).astype(np.complex64)


@dataclass(frozen=True)
class Band:
    """Which frequencies of the object are looked for, and where the scan has them.

    Attributes
    ----------
    q : float [f, 2]
        (x, y) in 1/Å.
    source, target : int [f]
        Their flat index in a spectrum of the scan, and in the spectrum of the finer image.
    shape : of the finer image's spectrum
    """

    q: np.ndarray
    source: np.ndarray
    target: np.ndarray
    shape: tuple[int, int]


def band_of(raster: Raster, shape: tuple[int, int], limit: float, upsample: int = 1) -> Band:
    """Frequencies up to `limit` 1/Å, zero left out; those beyond the scan's own are its aliases."""
    if upsample < 1 or upsample != int(upsample):
        raise ValueError(f"upsample must be 1, 2, 3, …, got {upsample}")
    fine = (shape[0] * upsample, shape[1] * upsample)
    q = raster.frequencies(fine, upsample).reshape(-1, 2)
    rows, columns = (np.round(np.fft.fftfreq(n, 1 / n)).astype(int) for n in fine)
    source = (rows % shape[0])[:, None] * shape[1] + (columns % shape[1])[None]
    size = np.linalg.norm(q, axis=1)
    target = np.flatnonzero((size <= limit) & (size > 0))
    return Band(q[target], source.ravel()[target], target, fine)


def image_of(values: np.ndarray, band: Band, shape: tuple[int, int]) -> np.ndarray:
    """The complex image of `shape` (cut out of what was continued) of values [f] of the band."""
    spectrum = np.zeros(band.shape, np.complex128)
    spectrum.ravel()[band.target] = values
    return (np.fft.ifft2(spectrum) * spectrum.size)[: shape[0], : shape[1]]


def strongest(band: Band, spectra: np.ndarray, most: int) -> Band:
    """At most this many frequencies of a band, one of each pair ±q, those with most power."""
    half = (band.q[:, 1] > 0) | ((band.q[:, 1] == 0) & (band.q[:, 0] > 0))
    power = np.square(np.abs(spectra.reshape(len(spectra), -1))).sum(0)[band.source]
    order = np.argsort(np.where(half, -power, np.inf))[: min(most, np.count_nonzero(half))]
    return Band(band.q[order], band.source[order], band.target[order], band.shape)


def in_parts(
    function: Callable[[np.ndarray], jax.Array], items: np.ndarray, part: int = 32
) -> np.ndarray:
    """`function` of all items, or of one, by parts of one length: compiled for two lengths."""
    items = np.asarray(items, np.float32)
    if len(items) == 1:
        return np.asarray(function(items))
    starts = range(0, len(items), part)
    parts = [np.resize(items[i : i + part], (part, *items.shape[1:])) for i in starts]
    return np.concatenate([np.asarray(function(p)) for p in parts])[: len(items)]


@jax.jit
def _aligned(matrices: jax.Array, k: jax.Array, q: jax.Array, g: jax.Array) -> jax.Array:
    """Σ_q |Σ_k g exp(2πi q·Bk)|² of every matrix B, in units of Σ |g|²."""

    def one(matrix: jax.Array) -> jax.Array:
        turns = (k @ matrix.T) @ q.T
        phase = 2 * jnp.pi * (turns - jnp.round(turns))
        total = (g * jax.lax.complex(jnp.cos(phase), jnp.sin(phase))).sum(0)
        return jnp.square(jnp.abs(total)).sum() / jnp.square(jnp.abs(g)).sum()

    return jax.lax.map(one, matrices)


def turned(rotation: float, flip: bool, quadratic: np.ndarray, energy: float) -> np.ndarray:
    """The matrix B [2, 2] in Å² of shifts B k [Å] in the axes of the scan; inverse of `lens_of`.

    Parameters
    ----------
    rotation, flip : as in `Orientation`.
    quadratic : (C10, C12 cos 2φ12, C12 sin 2φ12) in Å.
    """
    c, s = np.cos(rotation), np.sin(rotation)
    lens = np.array(
        [[quadratic[0] + quadratic[1], quadratic[2]], [quadratic[2], quadratic[0] - quadratic[1]]]
    )
    mirror = np.diag([1.0, -1.0 if flip else 1.0])
    return -wavelength(energy) * np.array([[c, s], [-s, c]]) @ lens @ mirror


def lens_of(matrix: np.ndarray, energy: float) -> tuple[float, bool, np.ndarray]:
    """(rotation, flip, quadratic) of a matrix of shifts, with C10 ≥ 0.

    The same shifts are made with the opposite lens and half a turn more; see `estimate_geometry`.
    """
    flip = bool(np.linalg.det(matrix) < 0)
    (p, q), (r, t) = -matrix @ np.diag([1.0, -1.0 if flip else 1.0]) / wavelength(energy)
    rotation = float(np.arctan2(q - r, p + t))
    c, s = np.cos(rotation), np.sin(rotation)
    first, second = (p - t) / 2, (q + r) / 2
    quadratic = [np.hypot(p + t, q - r) / 2, c * first - s * second, s * first + c * second]
    return rotation, flip, np.array(quadratic)


def fit_shifts(
    views: Views,
    spectra: np.ndarray,
    band: Band,
    energy: float,
    *,
    largest: float,
    flip: bool | None = None,
    trials: int = 1500,
) -> tuple[np.ndarray, float]:
    """The matrix B of shifts that makes the aligned sum of all views strongest.

    First with low frequencies over lenses without astigmatism and all rotations, then with all
    frequencies and all four entries of B.

    Parameters
    ----------
    spectra, band : of `scan_spectra` and `band_of` (`strongest` of it is enough).
    largest : Å; shifts of the disc's edge are looked for up to this.
    flip : only these; both where it is `None`.
    trials : how many matrices are tried at first, at most; decides which frequencies are low.

    Returns
    -------
    matrix [2, 2] in Å², strength
        The latter is 1 for views that have nothing in common, and their number for equal ones.
    """
    g = spectra.reshape(len(spectra), -1)[:, band.source]
    edge, size = np.linalg.norm(views.k, axis=1).max(), np.linalg.norm(band.q, axis=1)
    flips = (False, True) if flip is None else (flip,)
    fine = 0.35  # turns between neighbouring trials at the highest frequency
    lowest = np.argsort(size)[:LOW]
    enough = fine / largest * np.sqrt(trials / (np.pi * len(flips)))
    low = float(np.clip(enough, size[lowest][min(7, len(lowest) - 1)], size[lowest][-1]))

    def strength(matrices: np.ndarray, upto: float, among: Any = slice(None)) -> np.ndarray:
        kept = g[:, among] * (size[among] <= upto).astype(np.float32)
        return in_parts(lambda m: _aligned(m, views.k, band.q[among], kept), matrices)

    rings = np.arange(0, int(largest * low / fine) + 2) * fine / low
    tried = [
        turned(t, f, np.array([shift / (wavelength(energy) * edge), 0, 0]), energy)
        for f in flips
        for shift in rings
        for t in np.linspace(-np.pi, np.pi, max(1, int(2 * np.pi * shift * low / fine)), False)
    ]
    best = np.array(tried)[np.argmax(strength(np.array(tried), low, lowest))]
    for upto in (low, min(2 * low, size.max()), size.max()):
        step = 0.2 / (upto * edge)
        simplex = best.ravel() + step * np.vstack([np.zeros(4), np.eye(4)])
        options = {"initial_simplex": simplex, "xatol": 0.01 * step, "fatol": 1e-5, "maxiter": 200}
        found = minimize(
            lambda b, upto=upto: -float(strength(b.reshape(1, 2, 2), upto)[0]),
            best.ravel(),
            method="Nelder-Mead",
            options=options,
        )
        best = found.x.reshape(2, 2)
    return best, -float(found.fun)


def pixel_shifts(
    views: Views, spectra: np.ndarray, band: Band, matrix: np.ndarray, rounds: int = 6
) -> np.ndarray:
    """Shift [m, 2] (x, y) in Å of every view by itself, against the aligned sum of all.

    Cross-correlation by Newton's method from the shifts of a matrix; what differs from them is
    noise, or aberrations of higher order.
    """
    g, q = spectra.reshape(len(spectra), -1)[:, band.source], band.q
    shifts = views.k @ matrix.T
    longest = 0.15 / np.linalg.norm(q, axis=1).max()
    for _ in range(rounds):
        moved = g * np.exp(2j * np.pi * shifts @ q.T)
        product = moved * (moved.sum(0) - moved).conj()
        slope = -2 * np.pi * product.imag @ q
        bend = -4 * np.pi**2 * np.einsum("mf,fa,fb->mab", product.real, q, q)
        bend -= (1e-3 * np.abs(bend).max() + 1e-30) * np.eye(2)
        step = -np.linalg.solve(bend, slope[..., None])[..., 0]
        length = np.linalg.norm(step, axis=1, keepdims=True)
        shifts = shifts + step * np.minimum(1, longest / np.maximum(length, 1e-30))
    return shifts


def parallax(
    data: ScanData,
    optics: Optics,
    scan_shape: tuple[int, int] | None = None,
    *,
    upsample: int = 1,
    correct: bool = True,
    centre: tuple[float, float] = (0.0, 0.0),
    binning: int = 1,
    periodic: bool = False,
) -> np.ndarray:
    """Tilt-corrected bright field [rows · upsample, columns · upsample].

    Parameters
    ----------
    optics : with the aberrations of the probe; the scan has to lie as the detector does
        (`with_geometry`).
    upsample : finer than the scan by this factor; works where the views' shifts differ by parts of
        a scan step, that is with defocus.
    correct : turn the sign of the frequencies that the lens transfers negatively, so that atoms are
        bright; otherwise the contrast of a bright-field image at this defocus.
    centre, binning : as of `views_of`.
    periodic : whether the scan is whole periods.
    """
    raster = raster_of(data, scan_shape)
    semiangle = semiangle_of(optics)
    pixel = max(data.angle_step) * binning
    inside = max(semiangle - 0.5 * pixel, 0.5 * semiangle)
    views = views_of(data, raster, inside, centre=centre, binning=binning)
    flat = views.images / views.images.mean(axis=(1, 2), keepdims=True)
    spectra = scan_spectra(flat, periodic)
    reach = 2e-3 * semiangle / wavelength(data.energy)
    band = band_of(raster, spectra.shape[1:], reach, upsample)
    w = views.k[:, 0] + 1j * views.k[:, 1]
    rays = np.asarray(aberrations_at(optics, w, gradient=True)[1])
    turns = np.stack([rays.real, rays.imag], 1)
    g = spectra.reshape(len(spectra), -1)
    total = np.zeros(len(band.q), complex)
    for part in np.array_split(np.arange(len(w)), max(1, len(w) // 32)):
        total += (g[part][:, band.source] * np.exp(-2j * np.pi * turns[part] @ band.q.T)).sum(0)
    if correct:
        at = band.q[:, 0] + 1j * band.q[:, 1]
        even = sum(np.asarray(aberrations_at(optics, sign * at)[0]) for sign in (1, -1)) / 2
        total = total * np.sign(np.sin(2 * np.pi * even))
    shape = (raster.shape[0] * upsample, raster.shape[1] * upsample)
    return image_of(total / len(w), band, shape).real


def semiangle_of(optics: Optics) -> float:
    """The semiangle in mrad.

    Raises
    ------
    ScanError : optics without one.
    """
    if optics.semiangle is None:
        raise ScanError("the optics need a semiangle [mrad]")
    return float(optics.semiangle)
