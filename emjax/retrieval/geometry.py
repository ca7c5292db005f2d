"""What a scan tells of its own geometry, before the first iteration.

The bright-field disc checks the detector's calibration. The curl of the centre of mass and the
shifts of the virtual bright-field images say how the scan is turned against the detector, whether
it is mirrored, and what the defocus is; both start a fit in which the lens and the scan have to
explain as much of the data as a weak phase object can (`direct.explained`): every overlap of discs
takes part, so that it works in focus and out of it.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from emjax.retrieval.centre_of_mass import (
    Disc,
    bright_field,
    centre_of_mass,
    orientations,
    raster_of,
)
from emjax.retrieval.direct import explained, lens_parts, relative, weak_phase
from emjax.retrieval.parallax import (
    Band,
    band_of,
    fit_shifts,
    image_of,
    in_parts,
    lens_of,
    scan_spectra,
    semiangle_of,
    strongest,
    views_of,
)
from emjax.retrieval.scan_data import ScanData, check_geometry
from simulators.electron import wavelength
from simulators.measurements import rotate_vectors
from simulators.optics import Optics
from simulators.tree import replace

PIXELS = 350
"""Bright-field pixels in a fit, at most: the detector is binned to this."""

FREQUENCIES = 300
"""Frequencies of the scan in a fit, the strongest ones."""


@dataclass(frozen=True)
class Geometry:
    """What was found.

    Attributes
    ----------
    defocus : Å
        -C10, so that overfocus is negative; against the middle of a thick specimen.
    rotation : rad
        Turns the scan's vectors into the detector's axes, from +x towards +y.
    flip : bool
        Whether the detector's y axis has to be mirrored (first).
    C12, phi12 : Å, rad
        Twofold astigmatism, in the axes of the (mirrored) detector.
    disc : Disc
        Radius and centre of the bright-field disc, in mrad with the angle_step that was given.
    scale : float
        Semiangle over the disc's radius: what `angle_step` should be multiplied by.
    stretch : float
        What the scan's steps should be multiplied by; 1 where it was not fitted.
    curl : float
        Share of curl in the centre of mass: 0 for a thin object without noise, 0.5 for noise.
    significance : float
        Power that the fit explains, over that of views mistaken for each other; below 2 the data
        hardly tell anything.
    skewness : float
        Of the phase image; its sign decides between the two geometries half a turn apart.
    """

    defocus: float
    rotation: float
    flip: bool
    C12: float
    phi12: float
    disc: Disc
    scale: float
    stretch: float
    curl: float
    significance: float
    skewness: float

    def __str__(self) -> str:
        x, y = self.disc.centre
        return (
            f"defocus {self.defocus:.1f} Å, astigmatism {self.C12:.1f} Å at "
            f"{np.degrees(self.phi12):.0f}°, scan turned by {np.degrees(self.rotation):.1f}°"
            f"{', detector mirrored' if self.flip else ''}; disc of {self.disc.radius:.2f} mrad at "
            f"({x:.2f}, {y:.2f}) mrad, angle_step right times {self.scale:.3f}"
        )


def estimate_geometry(
    data: ScanData,
    scan_shape: tuple[int, int] | None,
    optics: Optics,
    *,
    astigmatism: bool = True,
    stretch: bool = False,
    flips: tuple[bool, ...] = (False, True),
    largest_defocus: float | None = None,
    periodic: bool = False,
) -> Geometry:
    """Defocus, astigmatism, rotation, mirror and the disc, from the counts.

    Parameters
    ----------
    scan_shape : (rows, columns), or `None`: found in the positions.
    optics : the semiangle is believed, aberrations above second order are kept; defocus and
        astigmatism are a start among others.
    astigmatism, stretch : whether twofold astigmatism and a common factor of the scan's steps are
        fitted too.
    flips : which mirrors are possible.
    largest_defocus : Å, of either sign; where the disc's edge moves by half the scanned field if
        not given.
    periodic : whether the scan is whole periods.

    Raises
    ------
    ScanError : a scan that is no raster, or a disc that the detector clips.

    Warns
    -----
    UserWarning
        Data that do not tell (too few electrons, no object); a disc that does not fit the
        semiangle.
    """
    semiangle = semiangle_of(optics)
    raster = raster_of(data, scan_shape)
    check_geometry(data, semiangle)
    disc = bright_field(data)
    lam = wavelength(data.energy)
    reach = 2e-3 * semiangle / lam
    field = centre_of_mass(data, raster, descan="plane")
    turns = [o for o in orientations(field, raster, band=reach) if o.flip in flips]

    scale = semiangle / disc.radius  # the semiangle is believed, not angle_step
    area = np.pi * disc.radius**2 / np.prod(data.angle_step)
    binning = max(1, int(np.ceil(np.sqrt(area / PIXELS))))
    pixel = binning * float(np.sqrt(np.prod(data.angle_step)))
    views = views_of(data, raster, disc.radius + pixel / 2, centre=disc.centre, binning=binning)
    views = replace(views, k=views.k * scale)
    own = replace(optics, energy=data.energy)
    lens, nominal = lens_parts(own, scale * views.pixel)
    images = relative(views, lens)
    spectra = scan_spectra(images, periodic, window=True)
    band = strongest(band_of(raster, spectra.shape[1:], reach), spectra, FREQUENCIES)
    fit = _Fit(lens, views.k, band, spectra)

    extent = min(n * s for n, s in zip(raster.shape, raster.sampling, strict=True))
    edge = 1e-3 * semiangle
    largest = extent / 2 if largest_defocus is None else largest_defocus * edge
    defoci = np.arange(0.0, largest / edge, 0.2 / (reach * edge))
    defoci = np.concatenate([nominal[:1], -defoci[:0:-1], defoci])
    rough, candidates = fit.thinned(), []
    for flip in flips:
        angles = [0.0, *(turn.rotation for turn in turns if turn.flip == flip)]
        tried = [_at(c10, angle) for angle in angles for c10 in defoci]
        matrix, _ = fit_shifts(views, spectra, band, data.energy, largest=largest, flip=flip)
        angle, found, lens2 = lens_of(matrix, data.energy)
        if found == flip:  # the same shifts are those of the opposite lens, half a turn away
            tried += [np.array([*lens2, angle, 0.0]), np.array([*-lens2, angle + np.pi, 0.0])]
        for at in _best(rough(np.array(tried), flip), np.array(tried), 3):
            candidates.append(rough.polish(flip, at, astigmatism, stretch))
    candidates.sort(key=lambda c: -c[0])
    polished = [fit.polish(f, at, astigmatism, stretch, 0.3) for _, f, at in candidates[:2]]
    value, flip, at = max(polished, key=lambda c: c[0])
    skewness = _skewness(fit, flip, at, raster)
    if skewness < 0:  # the same patterns with the opposite lens, half a turn and a negative phase
        at = np.array([*-at[:3], at[3] + np.pi, at[4]])
    significance = value / max(fit.of_chance(at, flip), 1e-30)
    if significance < 2:
        warnings.warn(
            "the scan hardly tells its geometry (views in any other order fit nearly as well): "
            "give defocus and rotation, or take more electrons",
            stacklevel=2,
        )
    return Geometry(
        float(-at[0]),
        float((at[3] + np.pi) % (2 * np.pi) - np.pi),
        flip,
        float(np.hypot(at[1], at[2])),
        float(0.5 * np.arctan2(at[2], at[1])),
        disc,
        scale,
        float(np.exp(at[4])),
        min((o.curl for o in turns if o.flip == flip), default=0.5),
        significance,
        abs(skewness),
    )


class _Fit:
    """The power that lenses and scans explain."""

    def __init__(self, lens: Any, k: np.ndarray, band: Band, spectra: np.ndarray) -> None:
        self.lens, self.band = lens, band
        self.k = {f: jnp.asarray(k[:, 0] + (-1j if f else 1j) * k[:, 1], "c8") for f in (0, 1)}
        self.q = jnp.asarray(band.q[:, 0] + 1j * band.q[:, 1], jnp.complex64)
        self.g = jnp.asarray(spectra.reshape(len(spectra), -1)[:, band.source])

    def __call__(self, at: np.ndarray, flip: bool) -> np.ndarray:
        k = self.k[int(flip)]
        return in_parts(lambda a: explained(self.lens, a, k, self.q, self.g, 0.01), at)

    def of_chance(self, at: np.ndarray, flip: bool, times: int = 4) -> float:
        """The same in the mean over views that are mistaken for each other."""
        rng, other, values = np.random.default_rng(0), copy.copy(self), []
        for _ in range(times):
            other.g = self.g[rng.permutation(len(self.g))]
            values.append(other(at[None], flip)[0])
        return float(np.mean(values))

    def thinned(self) -> _Fit:
        """The same with a quarter of the data: every second view, the stronger frequencies."""
        few, less = copy.copy(self), max(1, len(self.band.q) // 2)
        few.k = {flip: k[::2] for flip, k in self.k.items()}
        few.q, few.g = self.q[:less], self.g[::2, :less]
        return few

    def polish(
        self, flip: bool, at: np.ndarray, astigmatism: bool, stretch: bool, share: float = 1.0
    ) -> tuple[float, bool, np.ndarray]:
        """The best parameters near `at`; `share` is the size of the simplex at first."""
        free = np.array([True, astigmatism, astigmatism, True, stretch])
        edge = self.lens[1] * 1e-3
        high = float(np.linalg.norm(self.band.q, axis=1).max())
        shift = 0.15 / (high * edge)
        sizes = np.array([shift, shift, shift, 0.1, 0.03])
        at = np.where(free, at, 0.0)

        def there(x: np.ndarray) -> np.ndarray:
            moved = at.copy()
            moved[free] += x * sizes[free]
            return moved

        def loss(x: np.ndarray) -> float:
            return -float(np.log(self(there(x)[None], flip)[0] + 1e-30))

        zero = np.zeros(free.sum())
        simplex = share * np.vstack([zero, np.eye(len(zero))])
        options = {"initial_simplex": simplex, "xatol": 0.03 * share, "fatol": 1e-4}
        best = minimize(loss, zero, method="Nelder-Mead", options={**options, "maxiter": 200})
        return float(np.exp(-best.fun)), flip, there(best.x)


def _at(c10: float, rotation: float) -> np.ndarray:
    return np.array([c10, 0.0, 0.0, rotation, 0.0])


def _best(values: np.ndarray, at: np.ndarray, most: int) -> list[np.ndarray]:
    """The parameters of highest values, no two with nearly the same defocus and rotation."""
    chosen: list[np.ndarray] = []
    for i in np.argsort(-values):
        apart = [
            abs(at[i, 0] - c[0]) > 0.15 * abs(c[0]) + 10 or abs(np.sin(at[i, 3] - c[3])) > 0.2
            for c in chosen
        ]
        if all(apart):
            chosen.append(at[i])
        if len(chosen) == most:
            break
    return chosen


def _skewness(fit: _Fit, flip: bool, at: np.ndarray, raster: Any) -> float:
    """Of the phase image that this geometry makes."""
    k, at = fit.k[int(flip)], jnp.asarray(at, jnp.float32)
    total, square = weak_phase(fit.lens, at, k, fit.q, fit.g)
    values = np.asarray(total / (square + 0.1 * len(k)))
    image = image_of(values, fit.band, raster.shape).real  # half of the frequencies: half of it
    return float(((image - image.mean()) ** 3).mean() / max(image.std(), 1e-12) ** 3)


def with_geometry(
    data: ScanData, optics: Optics, found: Geometry, *, thickness: float = 0.0
) -> tuple[ScanData, Optics]:
    """The scan put right, and the optics that were found; for reconstruction of any kind.

    Patterns are moved by whole pixels to the disc's centre and mirrored where they have to be, the
    positions are turned into the detector's axes; `angle_step` stays as it is.

    Parameters
    ----------
    thickness : Å
        Of the specimen: the optics are then those at its entrance, where multislice begins.
    """
    counts, mask = np.asarray(data.counts), data.mask
    steps = np.array(data.angle_step)
    move = tuple(int(m) for m in -np.round(np.array(found.disc.centre[::-1]) / steps))

    def put_right(patterns: np.ndarray) -> np.ndarray:
        if move != (0, 0):
            patterns = np.roll(patterns, move, axis=(-2, -1))
        if found.flip:  # zero frequency stays the first row
            patterns = np.roll(patterns[..., ::-1, :], 1, axis=-2)
        return np.ascontiguousarray(patterns)

    turned = rotate_vectors(np.asarray(data.positions, float) * found.stretch, found.rotation)
    data = replace(
        data,
        counts=put_right(counts),
        positions=turned.astype(np.float32),
        mask=None if mask is None else put_right(np.asarray(mask)),
    )
    c10 = -found.defocus - 0.5 * thickness
    return data, replace(optics, C10=c10, C12=found.C12, phi12=found.phi12)
