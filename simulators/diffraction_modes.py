"""Diffraction as it is recorded: SAED of a plane wave, nanobeam patterns, PACBED."""

from __future__ import annotations

from typing import Any

import numpy as np

from simulators.imaging import cbed, cbed_sum, checked_positions, diffraction, mean_cbed
from simulators.multislice import prepare, through
from simulators.optics import Optics, plane_wave
from simulators.patterns import Patterns, patterns
from simulators.potential import Potential


def saed(
    potential: Potential,
    energy: float,
    *,
    tilt: Any = (0.0, 0.0),
    crop: str | float = "valid",
) -> Patterns:
    """Selected-area diffraction of a plane wave; the full pattern sums to 1 (less what is cut off).

    Every pixel of a periodic specimen's pattern is one spot or dark; `spots.find_spots` indexes it.

    Parameters
    ----------
    tilt : (x, y)
        mrad.
    crop
        See `patterns.patterns`.
    """
    grid = potential.grid
    wave = plane_wave(grid, dtype=potential.slices.dtype)
    exit_wave = through(wave, prepare(potential, energy, tilt=tilt))
    return patterns(
        diffraction(exit_wave / (grid.shape[0] * grid.shape[1])), grid, float(energy), crop=crop
    )


def nanobeam(
    potential: Potential,
    optics: Optics,
    positions: Any,
    *,
    crop: str | float = "valid",
    **options: Any,
) -> Patterns:
    """Patterns [..., qy, qx] of a narrow probe at positions (x, y) [..., 2].

    With a semiangle below half the Bragg angle the discs do not overlap, and `spots.find_spots`
    with this radius gives the intensity of each. Options go to `imaging.cbed`.
    """
    shape = np.shape(positions)[:-1]
    made = cbed(potential, optics, checked_positions(positions).reshape(-1, 2), **options)
    made = made.reshape(*shape, *made.shape[-2:])
    return patterns(made, potential.grid, float(optics.energy), crop=crop)


def pacbed(
    potential: Potential,
    optics: Optics,
    positions: Any = None,
    *,
    step: str = "first",
    order: int = 1,
    batch: int | None = None,
    crop: str | float = "valid",
    validate: bool = True,
) -> Patterns:
    """The position-averaged pattern, added up batch by batch: one pattern of memory, any scan.

    Parameters
    ----------
    positions : float [..., 2], optional
        Probe positions (x, y) in Å. Without them the mean over the whole periodic cell, from one
        wave a beam (`imaging.mean_cbed`).
    step, order : see `multislice.multislice`.
    batch : int, optional
        Probes computed together; as many as fit into the cache if not given.
    """
    grid, energy = potential.grid, float(optics.energy)
    options: dict[str, Any] = {"step": step, "order": order, "batch": batch, "validate": validate}
    if positions is None:
        return patterns(mean_cbed(potential, optics, **options), grid, energy, crop=crop)
    mean = cbed_sum(potential, optics, checked_positions(positions).reshape(-1, 2), **options)
    return patterns(mean / (np.size(positions) // 2), grid, energy, crop=crop)
