"""Tilting the beam and tilting the specimen: two descriptions, one sign rule.

A beam tilt (tx, ty) in mrad is the direction of the incident wave, exp(2πi r·tan(t)/λ): it travels
towards +x as it goes down. Multislice carries the factor that this adds to the propagator and
leaves out the phase ramp itself, so diffraction patterns stay centred on the transmitted beam.

A specimen tilt (tx, ty) leans a column that stood along the beam: it moves towards +x as it goes
down, x → x + z tan(tx). Seen from the specimen the beam then comes from the other side, so

    wave below the leaning specimen (r) = wave below the upright one in a beam of -(tx, ty),
                                          at r - depth · tan(t)

which is exact for `leaning` atoms (a shear) and for rigidly `rotated` ones up to cos t: 0.5 % of
the depth at 100 mrad. Small tilts therefore cost nothing: `beam_tilt_for`. At the exact Bragg
condition of the reflection g the beam is tilted by -λg/2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simulators.atoms import Atoms
from simulators.backend import array_module, is_concrete
from simulators.electron import wavelength
from simulators.optics import check_tilt
from simulators.tree import replace


def beam_tilt_for(specimen_tilt: Any) -> tuple[Any, Any]:
    """The beam tilt (x, y) in mrad that acts as this tilt of the specimen.

    >>> beam_tilt_for((3.0, -2.0))
    (-3.0, 2.0)
    """
    check_tilt(specimen_tilt)
    return -specimen_tilt[0], -specimen_tilt[1]


def bragg_tilt(frequency: Any, energy: Any) -> tuple[Any, Any]:
    """The beam tilt (x, y) in mrad at which the reflection g is excited exactly.

    Parameters
    ----------
    frequency : (x, y)
        g in 1/Å, in the zone (no component along the beam).
    energy : float
        eV.

    >>> [round(float(t), 3) for t in bragg_tilt((0.25, 0.0), 100e3)]
    [-4.627, -0.0]
    """
    xp = array_module(frequency, energy)
    lam = wavelength(energy)
    return tuple(-1e3 * xp.arctan(0.5 * lam * g) for g in frequency)  # type: ignore[return-value]


def leaning(atoms: Atoms, tilt: Any) -> Atoms:
    """The specimen sheared by a tilt (x, y) in mrad: x → x + z tan(tx), the entrance stays.

    Keeps the period in x and y, so it holds for a crystal that fills the cell.
    """
    check_tilt(tilt)
    xp = array_module(atoms.positions, tilt)
    position = xp.asarray(atoms.positions)
    moved = [position[:, i] + position[:, 2] * xp.tan(tilt[i] * 1e-3) for i in (0, 1)]
    return replace(atoms, positions=xp.stack([*moved, position[:, 2]], axis=1))


def rotated(atoms: Atoms, tilt: Any, *, centre: Any = None) -> Atoms:
    """The specimen rotated rigidly by a tilt (x, y) in mrad, of any size.

    A finite specimen with vacuum around it: a crystal that fills its cell loses its period (use
    `leaning`, or cut the tilted crystal with `specimens`).

    Parameters
    ----------
    tilt : (x, y)
        A column along z leans towards +x and +y with depth, by these angles.
    centre : float [3], optional
        Å; what stays in place. The middle of the cell if not given.

    Raises
    ------
    ValueError
        Atoms that leave the cell (where the positions are known).
    """
    xp = array_module(atoms.positions, atoms.cell, tilt)
    position, cell = xp.asarray(atoms.positions), xp.asarray(atoms.cell)
    middle = cell / 2 if centre is None else xp.asarray(centre)
    # the new z axis; x stays in the plane of x and z
    down = xp.stack([xp.tan(tilt[0] * 1e-3), xp.tan(tilt[1] * 1e-3), 1.0 + 0.0 * tilt[0]])
    down = down / xp.sqrt((down**2).sum())
    across = xp.stack([down[2], 0.0 * down[0], -down[0]])
    across = across / xp.sqrt((across**2).sum())
    axes = xp.stack([across, xp.cross(down, across), down])  # rows: the images of x, y and z
    turned = (position - middle[None]) @ axes + middle[None]
    if is_concrete(turned, cell):
        used = np.asarray(atoms.occupancy) != 0
        outside = ((turned < -1e-9) | (turned > cell + 1e-9)).any(axis=1) & used
        if outside.any():
            raise ValueError(
                f"rotated by {float(tilt[0]):g}, {float(tilt[1]):g} mrad, {int(outside.sum())} of "
                f"{int(used.sum())} atoms leave the cell of {cell[0]:g} × {cell[1]:g} × "
                f"{cell[2]:g} Å: give it more vacuum"
            )
    return replace(atoms, positions=turned)
