"""Measurements on signals and patterns: centre of mass, its integration (iCOM), DPC and iDPC.

For a thin phase object exp(iφ) and a sharp probe the centre of mass is ∇φ / 2π [1/Å] (Ehrenfest;
Lazić, Bosch & Lazar, Ultramicroscopy 160, 265 (2016)), so 2π times its integral is the phase.
Vector fields are [..., 2] (x, y).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simulators.backend import array_module
from simulators.detector_maps import UNITS
from simulators.detectors import Segmented
from simulators.electron import wavelength
from simulators.patterns import Patterns


def centre_of_mass(p: Patterns, *, unit: str = "1/Å") -> Any:
    """Centre of mass (x, y) [..., 2] of each pattern, divided by the pattern's own sum.

    Parameters
    ----------
    p : Patterns
        Cropped as wanted: abTEM's number is that of the "valid" crop.
    unit : {"1/Å", "mrad"}
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {UNITS}, got {unit!r}")
    xp = array_module(p.intensity)
    ky, kx = p.frequencies() if unit == "1/Å" else p.angles()
    dtype = p.intensity.dtype
    along_x, along_y = p.intensity.sum(axis=-2), p.intensity.sum(axis=-1)
    moments = [
        (side * xp.asarray(np.expand_dims(k, tuple(range(side.ndim - 1))), dtype)).sum(axis=-1)
        for side, k in ((along_x, kx), (along_y, ky))
    ]
    return xp.stack(moments, axis=-1) / along_x.sum(axis=-1)[..., None]


def com_from_moments(moments: Any) -> Any:
    """Centre of mass (x, y) [..., 2] from the channels [3, ...] of a `CentreOfMass` detector."""
    if moments.shape[0] != 3:
        raise ValueError(
            f"the channels of CentreOfMass are kx, ky and the sum: expected 3 rows, got "
            f"{moments.shape[0]} (use detectors.split)"
        )
    xp = array_module(moments)
    return xp.stack([moments[0] / moments[2], moments[1] / moments[2]], axis=-1)


def rotate_vectors(field: Any, angle: Any) -> Any:
    """Vectors (x, y) [..., 2] turned by `angle` rad from +x towards +y."""
    xp = array_module(field, angle)
    c, s = xp.cos(angle), xp.sin(angle)
    x, y = field[..., 0], field[..., 1]
    return xp.stack([c * x - s * y, s * x + c * y], axis=-1)


def _gradient_spectrum(
    field: Any, sampling: float | tuple[float, float], periodic: bool
) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Spectra of both components and frequencies (ky [ny, 1], kx [1, nx])."""
    if field.ndim < 3 or field.shape[-1] != 2:
        raise ValueError(f"a vector field is [..., y, x, 2] (x, y), got shape {field.shape}")
    xp = array_module(field)
    dy, dx = (float(d) for d in np.broadcast_to(sampling, (2,)))
    if not (dy > 0 and dx > 0):
        raise ValueError(f"sampling must be positive Å per pixel, got {sampling}")
    x, y = field[..., 0], field[..., 1]
    if not periodic:
        # mirrored at its edges the image is periodic; a derivative changes sign in its mirror
        x = xp.concatenate([x, -x[..., :, ::-1]], axis=-1)
        x = xp.concatenate([x, x[..., ::-1, :]], axis=-2)
        y = xp.concatenate([y, y[..., :, ::-1]], axis=-1)
        y = xp.concatenate([y, -y[..., ::-1, :]], axis=-2)
    ky, kx = np.fft.fftfreq(x.shape[-2], dy)[:, None], np.fft.fftfreq(x.shape[-1], dx)[None, :]
    return xp.fft.fft2(x), xp.fft.fft2(y), ky, kx


def integrate_gradient(
    field: Any, sampling: float | tuple[float, float], *, periodic: bool = True
) -> Any:
    """The image whose gradient is `field`, in the sense of least squares; its minimum is 0.

    Fourier integration (Lazić et al. 2016, eq. 17). Of centres of mass in 1/Å it makes iCOM
    (abTEM's numbers), of `dpc` it makes iDPC; 2π times either is a phase in rad.

    Parameters
    ----------
    field : float [..., ny, nx, 2]
        (x, y), per Å.
    sampling : float or (y, x)
        Å between positions.
    periodic : bool
        True for a scan over whole periods. False mirrors the field at its edges, for a part cut out
        of something larger.
    """
    gx, gy, ky, kx = _gradient_spectrum(field, sampling, periodic)
    xp = array_module(field)
    k2 = ky**2 + kx**2
    k2[0, 0] = 1.0
    factors = [np.where(k2 > 0, -1j * k / (2 * np.pi * k2), 0) for k in (kx, ky)]
    lead = tuple(range(gx.ndim - 2))
    wx, wy = (xp.expand_dims(xp.asarray(w, gx.dtype), lead) for w in factors)
    image = xp.fft.ifft2(wx * gx + wy * gy).real
    image = image[..., : field.shape[-3], : field.shape[-2]]
    return image - image.min(axis=(-2, -1), keepdims=True)


def find_rotation(
    field: Any, sampling: float | tuple[float, float], *, periodic: bool = True
) -> Any:
    """Angle [rad] by which `rotate_vectors` turns a measured field into a gradient.

    It makes the curl least; of the two solutions half a turn apart it takes the one whose integral
    has a positive skewness (atoms attract electrons and are few).
    """
    gx, gy, ky, kx = _gradient_spectrum(field, sampling, periodic)
    xp = array_module(field)
    lead = tuple(range(gx.ndim - 2))
    ky, kx = (xp.expand_dims(xp.asarray(k, field.dtype), lead) for k in (ky, kx))
    curl, div = kx * gy - ky * gx, kx * gx + ky * gy
    # |cos a · curl + sin a · div|² is least
    difference = (xp.abs(curl) ** 2 - xp.abs(div) ** 2).sum()
    mixed = 2 * (curl * div.conj()).real.sum()
    angle = 0.5 * (xp.arctan2(mixed, difference) + np.pi)
    image = integrate_gradient(rotate_vectors(field, angle), sampling, periodic=periodic)
    skew = ((image - image.mean()) ** 3).sum()
    angle = xp.where(skew < 0, angle + np.pi, angle)
    return (angle + np.pi) % (2 * np.pi) - np.pi


def dpc_weights(detector: Segmented, semiangle: float) -> np.ndarray:
    """Weights [2, channels] in mrad that make the disc's shift (x, y) of the segments' signals.

    The shift is weights @ segments / sum of the segments. Each segment votes for the centroid of
    its part of the bright-field disc, and the votes are scaled so that a small shift of a uniform
    disc of `semiangle` [mrad] comes out right.

    Raises
    ------
    ValueError
        Segments that do not notice a shift of the disc, because its edge lies beyond them.
    """
    points = np.linspace(-1.1, 1.1, 881) * semiangle
    y, x = points[:, None], points[None, :]
    dark = detector.channels
    segment = detector.segment_at(
        *np.broadcast_arrays(y - detector.offset[1], x - detector.offset[0])
    )
    segment = np.where(segment < 0, dark, segment).ravel()

    def sums(weight: np.ndarray) -> np.ndarray:
        return np.bincount(segment, weight.ravel(), dark + 1)[:dark]

    def disc(dx: float, dy: float) -> np.ndarray:
        return sums((np.hypot(y - dy, x - dx) < semiangle).astype(float))

    inside = np.hypot(y, x) < semiangle
    still = disc(0.0, 0.0)
    votes = np.stack([sums(inside * v) for v in np.broadcast_arrays(x, y)])
    votes = votes / np.maximum(still, 1.0)
    small = 0.05 * semiangle
    response = np.stack(
        [disc(small, 0.0) - disc(-small, 0.0), disc(0.0, small) - disc(0.0, -small)], axis=1
    ) / (2 * small * max(still.sum(), 1.0))
    gain = votes @ response
    if abs(np.linalg.det(gain)) < 1e-3:
        raise ValueError(
            f"the segments from {detector.inner:g} to {detector.outer:g} mrad do not notice a "
            f"shift of a disc of {semiangle:g} mrad: let the outer angle be at least the semiangle "
            "and use three or more segments"
        )
    return np.linalg.solve(gain, votes)


def dpc(segments: Any, detector: Segmented, semiangle: float, energy: float) -> Any:
    """Differential phase contrast (x, y) [..., 2] in 1/Å from a segmented detector.

    An estimate of the centre of mass: exact for a small shift of the whole disc.

    Parameters
    ----------
    segments : float [channels, ...]
        Signals of `detector`.
    semiangle : float
        Of the probe, mrad.
    energy : float
        eV.
    """
    if segments.shape[0] != detector.channels:
        raise ValueError(
            f"the detector has {detector.channels} segments but the signal {segments.shape[0]} "
            "rows: pass its own part (detectors.split)"
        )
    xp = array_module(segments)
    weights = dpc_weights(detector, semiangle) * 1e-3 / wavelength(float(energy))
    options = {} if xp is np else {"precision": "highest"}
    field = xp.tensordot(xp.asarray(weights, segments.dtype), segments, axes=1, **options)
    return xp.moveaxis(field / segments.sum(axis=0)[None], 0, -1)


def icom(p: Patterns, sampling: float | tuple[float, float], *, periodic: bool = True) -> Any:
    """iCOM image [ny, nx] of patterns [ny, nx, qy, qx]; see `integrate_gradient`."""
    return integrate_gradient(centre_of_mass(p), sampling, periodic=periodic)


def idpc(
    segments: Any,
    detector: Segmented,
    semiangle: float,
    energy: float,
    sampling: float | tuple[float, float],
    *,
    rotation: Any = 0.0,
    periodic: bool = True,
) -> Any:
    """iDPC image [ny, nx] of segments [channels, ny, nx].

    Parameters
    ----------
    rotation : float
        By which the vectors are turned before the integration, rad (see `find_rotation`).
    """
    field = rotate_vectors(dpc(segments, detector, semiangle, energy), rotation)
    return integrate_gradient(field, sampling, periodic=periodic)
