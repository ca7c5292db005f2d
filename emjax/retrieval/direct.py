"""Direct ptychography on a regular raster: single sideband and Wigner distribution deconvolution.

For a weak object the pattern is linear in it. At the scan's frequency Q each detector pixel k has

    G(k, Q) = o(Q) P*(k) P(k - Q) + o*(-Q) P(k) P*(k + Q),      o the transform of T - 1,

the overlaps of the disc with the two discs scattered by ±Q (Rodenburg, McCallum & Nellist,
Ultramicroscopy 48, 304 (1993); Pennycook et al., Ultramicroscopy 151, 160 (2015)). `ssb` solves
this by least squares over all pixels, so that aberrations need no separate correction and triple
overlaps are not thrown away, and finds frequencies beyond the scan's own where their aliases meet
the disc elsewhere. `wdd` divides the whole data set by the probe's Wigner distribution and needs no
weak object (Rodenburg & Bates, Phil. Trans. R. Soc. A 339, 521 (1992)). How much of the data the
linear model explains is the likelihood by which `geometry` finds the lens and the scan.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emjax.retrieval.centre_of_mass import raster_of
from emjax.retrieval.parallax import (
    Views,
    band_of,
    image_of,
    scan_spectra,
    semiangle_of,
    views_of,
)
from emjax.retrieval.scan_data import ScanData, ScanError
from simulators.aberrations import ABERRATIONS, aberrations_at
from simulators.electron import wavelength
from simulators.optics import Optics
from simulators.tree import replace

MEMORY = 4e9
"""Bytes that `wdd` may take for the spectrum of all patterns."""

Lens = tuple[float, float, float, tuple[tuple[str, float], ...]]
"""What of the lens is known before tracing: energy, semiangle, pixel, higher aberrations."""


def lens_parts(optics: Optics, pixel: float) -> tuple[Lens, np.ndarray]:
    """The lens as something to compile with, and (C10, C12 cos 2φ12, C12 sin 2φ12) in Å.

    Raises
    ------
    ScanError : no semiangle, an annular aperture or a pupil.
    """
    if optics.pupil is not None or optics.inner_semiangle is not None:
        raise ScanError("direct methods take a round aperture: optics without pupil and inner edge")
    higher = []
    for name, (order, symmetry) in ABERRATIONS.items():
        if order > 1 and float(getattr(optics, name)) != 0:
            higher.append((name, float(getattr(optics, name))))
            if symmetry:
                higher.append(("phi" + name[1:], float(getattr(optics, "phi" + name[1:]))))
    twice = 2 * float(optics.phi12)
    c12 = float(optics.C12)
    quadratic = np.array([float(optics.C10), c12 * np.cos(twice), c12 * np.sin(twice)])
    return (float(optics.energy), semiangle_of(optics), float(pixel), tuple(higher)), quadratic


def probe_at(lens: Lens, quadratic: Any, w: jax.Array) -> jax.Array:
    """Fourier coefficients of the probe at any complex frequencies kx + i ky; 1 in the middle."""
    energy, semiangle, pixel, higher = lens
    optics = replace(Optics(energy=energy), **dict(higher))
    lam = wavelength(energy)
    square = w * w
    size2 = jnp.square(w.real) + jnp.square(w.imag)
    low = quadratic[0] * size2 + quadratic[1] * square.real + quadratic[2] * square.imag
    turns = 0.5 * lam * low + (aberrations_at(optics, w)[0] if higher else 0.0)
    edge = (semiangle * 1e-3 / lam - jnp.sqrt(size2 + 1e-12)) / pixel
    disc = jnp.clip(edge + 0.5, 0.0, 1.0)
    angle = -2 * jnp.pi * (turns - jnp.round(turns))
    return jax.lax.complex(disc * jnp.cos(angle), disc * jnp.sin(angle))


def overlaps(lens: Lens, quadratic: Any, k: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """P*(k) P(k - q) and P(k) P*(k + q) [m, f] of complex k [m] and q [f]."""
    here = probe_at(lens, quadratic, k)[:, None]
    minus = probe_at(lens, quadratic, k[:, None] - q[None])
    plus = probe_at(lens, quadratic, k[:, None] + q[None])
    return here.conj() * minus, here * plus.conj()


@functools.partial(jax.jit, static_argnames=("lens",))
def _sums(lens: Lens, quadratic: jax.Array, k: jax.Array, q: jax.Array, g: jax.Array) -> jax.Array:
    """Of some pixels: both sides of the normal equations [5, f], for o(q) and o*(-q)."""
    a, b = overlaps(lens, quadratic, k, q)
    pairs = ((a, g), (b, g), (a, a), (b, b), (a, b))
    return jnp.stack([(left.conj() * right).sum(0) for left, right in pairs])


def _weak_phase(
    lens: Lens, at: jax.Array, k: jax.Array, q: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Σ_k Γ* g and Σ_k |Γ|² [f]: their quotient is the transform of the phase."""
    turn = jnp.exp(-at[4]) * jax.lax.complex(jnp.cos(at[3]), jnp.sin(at[3]))
    a, b = overlaps(lens, at[:3], k, q * turn)
    kernel = 1j * (a - b)
    return (kernel.conj() * g).sum(0), jnp.square(jnp.abs(kernel)).sum(0)


weak_phase = functools.partial(jax.jit, static_argnames=("lens",))(_weak_phase)


@functools.partial(jax.jit, static_argnames=("lens",))
def explained(
    lens: Lens, at: jax.Array, k: jax.Array, q: jax.Array, g: jax.Array, floor: float
) -> jax.Array:
    """Σ_q |Σ_k g Γ*|² / Σ_k |Γ|²: what a weak phase object explains of g, for lens and scan `at`.

    Parameters
    ----------
    at : [p, 5]
        C10, C12 cos 2φ12, C12 sin 2φ12 in Å; rotation in rad; logarithm of the scan's stretch.
    k : complex [m], already mirrored where the detector is; q : complex [f] of the scan.
    g : complex [m, f]
    floor : added to Σ |Γ|², in units of the number of pixels.
    """

    def one(at: jax.Array) -> jax.Array:
        total, square = _weak_phase(lens, at, k, q, g)
        return (jnp.square(jnp.abs(total)) / (square + floor * len(k))).sum()

    return jax.lax.map(one, at)


_probe_at = functools.partial(jax.jit, static_argnames=("lens",))(probe_at)


def relative(views: Views, lens: Lens) -> np.ndarray:
    """The images in units of the disc, as bright as it is with the object."""
    w = jnp.asarray(views.k[:, 0] + 1j * views.k[:, 1], jnp.complex64)
    disc = np.square(np.abs(np.asarray(_probe_at(lens, jnp.zeros(3), w))))
    level = float((views.images.mean(axis=(1, 2)) * disc).sum() / np.square(disc).sum())
    return views.images / np.float32(level)


def ssb(
    data: ScanData,
    optics: Optics,
    scan_shape: tuple[int, int] | None = None,
    *,
    absorption: bool = False,
    upsample: int = 1,
    floor: float = 0.01,
    centre: tuple[float, float] = (0.0, 0.0),
    binning: int = 1,
    periodic: bool = False,
) -> np.ndarray:
    """Single-sideband ptychography: the phase [rows · upsample, columns · upsample] in rad.

    The scan has to lie as the detector does (`with_geometry`). Exact for a weak object on a
    periodic scan, with noise of equal variance over the disc.

    Parameters
    ----------
    optics : of the probe, with all its aberrations.
    absorption : whether the object absorbs too. The answer is then the complex transmission,
        relative to its mean; without aberrations the phase is lost where all three discs overlap.
    upsample : finer than the scan by this factor.
    floor : of the pixels' number, added to the denominator: frequencies that the lens hardly
        transfers are damped instead of amplified.
    centre, binning : as of `views_of`.
    periodic : whether the scan is whole periods; otherwise it is continued, fading to its mean.

    Raises
    ------
    ScanError : a scan that is no raster; optics without a round aperture.
    """
    raster = raster_of(data, scan_shape)
    pixel = binning * float(np.sqrt(np.prod(data.angle_step))) * 1e-3 / wavelength(data.energy)
    lens, quadratic = lens_parts(replace(optics, energy=data.energy), pixel)
    limit = lens[1] + 0.5 * binning * max(data.angle_step)
    views = views_of(data, raster, limit, centre=centre, binning=binning)
    images = relative(views, lens)
    first = scan_spectra(images[:1], periodic)
    edge = 1e-3 * lens[1] / wavelength(data.energy) + 0.5 * pixel
    band = band_of(raster, first.shape[1:], 2 * edge, upsample)
    q = jnp.asarray(band.q[:, 0] + 1j * band.q[:, 1], jnp.complex64)
    k = views.k[:, 0] + 1j * views.k[:, 1]
    sums: Any = 0.0
    chunk = 16
    for start in range(0, len(k), chunk):
        part = scan_spectra(images[start : start + chunk], periodic)
        g = part.reshape(len(part), -1)[:, band.source]
        missing = chunk - len(part)  # filled with pixels far outside the aperture
        g = np.pad(g, ((0, missing), (0, 0)))
        at = np.pad(k[start : start + chunk], (0, missing), constant_values=1e3 * edge)
        sums = sums + _sums(lens, jnp.asarray(quadratic, jnp.float32), at.astype("c8"), q, g)
    one, other, aa, bb, ab = np.asarray(sums, np.complex128)
    damping = floor * np.count_nonzero(np.hypot(*views.k.T) < edge)
    shape = (raster.shape[0] * upsample, raster.shape[1] * upsample)
    if not absorption:
        kernel = (aa + bb - 2 * ab).real  # |1j (a - b)|²
        values = -1j * (one - other) / np.maximum(kernel + damping, 1e-9)
        return image_of(values, band, shape).real
    aa, bb = aa.real + damping, bb.real + damping
    determinant = aa * bb - np.abs(ab) ** 2
    values = (bb * one - ab * other) / np.maximum(determinant, 1e-9)
    return 1 + image_of(values, band, shape)


def wdd(
    data: ScanData,
    optics: Optics,
    scan_shape: tuple[int, int] | None = None,
    *,
    floor: float = 0.01,
    limit: float | None = None,
    centre: tuple[float, float] = (0.0, 0.0),
    periodic: bool = False,
) -> np.ndarray:
    """Wigner distribution deconvolution: complex transmission [rows, columns], 1 in the mean.

    Parameters
    ----------
    optics : of the probe. The scan has to lie as the detector does (`with_geometry`).
    floor : of the Wiener filter, in units of the strongest value at each frequency of the scan.
    limit : mrad; the detector is cut there. Twice the semiangle if not given.
    centre : (x, y) of the disc in mrad; whole pixels are taken off.
    periodic : as of `ssb`.

    Raises
    ------
    ScanError : a scan that is no raster; data too large for it.
    """
    raster = raster_of(data, scan_shape)
    steps = np.array(data.angle_step)
    pixel = float(np.sqrt(steps.prod())) * 1e-3 / wavelength(data.energy)
    lens, quadratic = lens_parts(replace(optics, energy=data.energy), pixel)
    limit = 2 * lens[1] if limit is None else limit
    shape = data.counts.shape[-2:]
    half = [min(int(np.ceil(limit / s)), (n - 1) // 2) for s, n in zip(steps, shape, strict=True)]
    index = [np.fft.ifftshift(np.arange(-h, h + 1)) for h in half]
    size = tuple(len(i) for i in index)
    needed = 8 * data.n * size[0] * size[1] * (1 if periodic else (1 + MARGIN_AREA))
    if needed > MEMORY:
        raise ScanError(
            f"the spectrum of {data.n} patterns of {size[0]} × {size[1]} pixels needs "
            f"{needed / 1e9:.1f} GB: lower limit ({limit:.3g} mrad), bin the patterns, or use ssb"
        )
    move = np.round(np.array(centre[::-1]) / steps).astype(int)
    rows, columns = ((i + m) % n for i, m, n in zip(index, move, shape, strict=True))
    patterns = np.asarray(data.counts)[:, rows][:, :, columns].astype(np.float32)
    if data.mask is not None:
        patterns *= np.asarray(data.mask)[rows][:, columns]
    images = np.moveaxis(patterns, 0, -1).reshape(-1, *raster.shape) / data.mean_electrons()
    mean = images.mean(axis=(1, 2))
    spectra = scan_spectra(images, periodic)
    edge = 1e-3 * lens[1] / wavelength(data.energy)
    band = band_of(raster, spectra.shape[1:], 2 * edge)
    g = spectra.reshape(len(spectra), -1)[:, band.source].T
    per = 1e-3 / wavelength(data.energy) * steps
    ky, kx = (i * p for i, p in zip(index, per, strict=True))
    w = kx[None, :] + 1j * ky[:, None]
    places = [np.fft.fftfreq(n, p) for n, p in zip(size, per, strict=True)]
    waves = _deconvolved(
        lens,
        jnp.asarray(quadratic, jnp.float32),
        jnp.asarray(w, jnp.complex64),
        (jnp.asarray(places[1], jnp.float32), jnp.asarray(places[0], jnp.float32)),
        jnp.asarray(np.concatenate([[[0.0, 0.0]], band.q]), jnp.float32),
        jnp.asarray(np.concatenate([mean[None], g]).reshape(-1, *size), jnp.complex64),
        floor,
    )
    found = np.asarray(waves, np.complex128)
    return 1 + image_of(found[1:] / found[0].real, band, raster.shape)


MARGIN_AREA = 1.25
"""How much larger a continued scan is, as an area."""


@functools.partial(jax.jit, static_argnames=("lens",))
def _deconvolved(
    lens: Lens,
    quadratic: jax.Array,
    w: jax.Array,
    places: tuple[jax.Array, jax.Array],
    q: jax.Array,
    g: jax.Array,
    floor: float,
) -> jax.Array:
    """T(q) T*(0) [f] from the spectra g [f, ky, kx] at the scan's frequencies q [f, 2] (x, y)."""
    here = probe_at(lens, quadratic, w)

    def one(item: tuple[jax.Array, jax.Array]) -> jax.Array:
        q, g = item
        there = probe_at(lens, quadratic, w + jax.lax.complex(q[0], q[1]))
        wigner = jnp.fft.ifft2(here * there.conj())
        strength = jnp.square(jnp.abs(wigner))
        damped = strength + floor * strength.max() + 1e-30
        found = jnp.fft.ifft2(g) * wigner.conj() / damped / (strength / damped).mean()
        turn_y, turn_x = (-2 * jnp.pi * q[c] * places[c] for c in (1, 0))
        ramp_y, ramp_x = (jax.lax.complex(jnp.cos(t), jnp.sin(t)) for t in (turn_y, turn_x))
        return jnp.einsum("yx,y,x->", found, ramp_y, ramp_x)

    return jax.lax.map(one, (q, g))
