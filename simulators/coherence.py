"""Partial coherence as explicit sums: what the envelopes of `ctf.py` approximate.

A microscope adds intensities over the defocus distribution (energy spread), over the directions of
the illumination (imaging) and over the points of the source (probes). All three are Gaussians, so
a sum over the nodes of Gauss and Hermite converges with a handful of terms. Envelopes multiply
amplitudes instead; they are exact where the image is linear in the scattered wave (weak objects).

Where they fail, as the largest error over the range of the image (200 kV, Cs = 1.2 mm, Scherzer
focus, 14 mrad aperture; test_coherence.py):

| Si[110]             | 1 ‰ of V, 1.9 Å | 1.9 Å | 13 Å | 25 Å | 50 Å |
|---------------------|-----------------|-------|------|------|------|
| Δ = 60 Å            | < 0.01 %        | 0.6 % | 4 %  | 7 %  | 13 % |
| β = 0.2 mrad        | 0.9 %           | 0.9 % | 1 %  | 2 %  | 2 %  |

The angular envelope also assumes that χ is straight over the cone: its error for weak objects is
of second order in β (0.07 % at 0.05 mrad, 0.3 % at 0.1 mrad).

Widths are 1/e half-widths, as in `Optics`; the source size is a full width at half maximum.

Ishizuka, Ultramicroscopy 5, 55 (1980): the transmission cross-coefficient, which these sums are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from simulators.aberrations import is_zero, ray_displacement
from simulators.backend import is_concrete
from simulators.electron import wavelength
from simulators.grid import Grid
from simulators.linear import FWHM
from simulators.optics import Optics, aperture_function
from simulators.tree import replace

T = TypeVar("T")

MAX_TILT_NODES = 14
"""Directions of illumination per axis beyond which explicit sums are refused."""


def gauss_nodes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights [n] with Σ w f(x) ≈ ∫ f(x) exp(-x²) dx / √π, exact for degree 2n - 1.

    >>> x, w = gauss_nodes(5)
    >>> round(float((w * x**2).sum()), 12)
    0.5
    """
    if n < 1:
        raise ValueError(f"a sum over a distribution needs at least one node, got {n}")
    x, w = np.polynomial.hermite.hermgauss(int(n))
    return x, w / np.sqrt(np.pi)


def gauss_nodes_2d(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes (x, y) [n², 2] and weights [n²] of a round Gaussian exp(-x² - y²)/π."""
    x, w = gauss_nodes(n)
    points = np.stack(np.meshgrid(x, x, indexing="xy"), axis=-1).reshape(-1, 2)
    return points, np.outer(w, w).ravel()


def nodes_for(phase: float) -> int:
    """Nodes that average exp(i·phase·x) over exp(-x²) to 1e-3 (fitted up to 20 rad).

    >>> [nodes_for(a) for a in (0.0, 1.0, 5.0, 10.0)]
    [3, 4, 12, 28]
    """
    return int(np.ceil(2.5 + 1.2 * phase + 0.135 * phase**2))


def over_focus(function: Callable[[Optics], T], optics: Optics, *, nodes: int = 7) -> T:
    """Σ w function(optics at another defocus): any intensities over the focal spread.

    Parameters
    ----------
    function : callable
        From an `Optics` (with `focal_spread` 0) to an array or a tree of arrays: a `cbed`, a
        `stem`, an image.
    optics : Optics
        `focal_spread` Δ: defoci are distributed as exp(-(δ/Δ)²).
    nodes : int
        Each costs one evaluation; 2·nodes - 1 is the degree in δ that is exact.
    """
    lens = replace(optics, focal_spread=0.0)
    if is_zero(optics.focal_spread):
        return function(lens)
    offsets, weights = gauss_nodes(nodes)
    total: Any = None
    # a loop of few known lenses, each with phases in float64 (see backend.py)
    for offset, weight in zip(offsets, weights, strict=True):
        C10 = optics.C10 + float(offset) * optics.focal_spread
        one = jax.tree.map(lambda a, w=float(weight): w * a, function(replace(lens, C10=C10)))
        total = one if total is None else jax.tree.map(lambda a, b: a + b, total, one)
    return total


def over_source(
    function: Callable[[Any], T], positions: Any, source_size: Any, *, nodes: int = 3
) -> T:
    """Σ w function(positions + offset): any intensities over a Gaussian source.

    For images on a regular raster `linear.blur` is the same and costs nothing; diffraction patterns
    at single positions need this.

    Parameters
    ----------
    positions : float [..., 2]
        (x, y) in Å.
    source_size : float
        Full width at half maximum in Å.
    nodes : int
        Per direction; nodes² evaluations.
    """
    offsets, weights = gauss_nodes_2d(nodes)
    sigma = source_size / FWHM
    total: Any = None
    for offset, weight in zip(offsets, weights, strict=True):
        moved = positions + np.sqrt(2.0) * sigma * offset.reshape(
            (1,) * (positions.ndim - 1) + (2,)
        )
        one = jax.tree.map(lambda a, w=float(weight): w * a, function(moved))
        total = one if total is None else jax.tree.map(lambda a, b: a + b, total, one)
    return total


def illumination_tilts(
    optics: Optics, grid: Grid, nodes: int | None = None
) -> tuple[Any, np.ndarray]:
    """Directions of the illumination about the beam.

    Parameters
    ----------
    nodes : int, optional
        Per direction; as many as the steepest aberrations in the aperture need if not given (5
        where the lens is traced).

    Returns
    -------
    float [t, 2], float [t]
        Angles (x, y) in mrad, and weights; (0, 0) alone without a spread.

    Raises
    ------
    ValueError
        More than `MAX_TILT_NODES` nodes would be needed.
    """
    if is_zero(optics.angular_spread):
        return np.zeros((1, 2)), np.ones(1)
    if nodes is None:
        nodes = 5
        if is_concrete(optics):
            slope = (
                np.hypot(*ray_displacement(optics, grid)) * 2 * np.pi / wavelength(optics.energy)
            )
            phase = 1e-3 * float(optics.angular_spread) * slope[_seen(optics, grid)].max(initial=0)
            nodes = nodes_for(float(phase))
            if nodes > MAX_TILT_NODES:
                raise ValueError(
                    f"an angular spread of {optics.angular_spread:g} mrad turns the phase at the "
                    f"rim of the aperture by {phase:.0f} rad, which takes {nodes}² directions: use "
                    "a smaller semiangle (what lies beyond is not transferred) or give tilt_nodes"
                )
    points, weights = gauss_nodes_2d(nodes)
    kept = weights > 1e-4 * weights.max()  # the corners of the square of nodes carry nothing
    return points[kept] * optics.angular_spread, weights[kept] / weights[kept].sum()


def focus_offsets(optics: Optics, grid: Grid, nodes: int | None = None) -> tuple[Any, np.ndarray]:
    """Changes of C10 [f] in Å over the focal spread, and weights [f]; 0 alone without a spread.

    As many as the aperture needs if `nodes` is not given (7 where the lens is traced).
    """
    if is_zero(optics.focal_spread):
        return np.zeros(1), np.ones(1)
    if nodes is None:
        nodes = 7
        if is_concrete(optics):
            k2 = grid.k2()[_seen(optics, grid)].max(initial=0)
            phase = np.pi * wavelength(float(optics.energy)) * k2 * float(optics.focal_spread)
            nodes = nodes_for(float(phase))
    offsets, weights = gauss_nodes(nodes)
    return offsets * optics.focal_spread, weights


def _seen(optics: Optics, grid: Grid) -> np.ndarray:
    """Frequencies that reach the image."""
    return (np.abs(aperture_function(optics, grid)) > 0) & (grid.antialias_mask() > 0)


def coherent(optics: Optics) -> Optics:
    """The same lens with one energy and one direction."""
    return replace(optics, focal_spread=0.0, angular_spread=0.0)
