"""Cutting a cell into slices: thicknesses, and which atom lies in which slice."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from simulators.backend import is_concrete

THINNEST = 0.01
"""A slice thinner than this [Å] is a mistake in units, not a slice."""


def slice_thicknesses(depth: float, slice_thickness: Any) -> np.ndarray:
    """Thicknesses [nz]: ceil(depth / t) equal slices for a number t, or a checked sequence.

    Raises
    ------
    ValueError
        A thickness that is not positive or below a picometre, or a sequence that does not add up
        to the cell.
    """
    if np.ndim(slice_thickness) == 0:
        if not slice_thickness > 0:
            raise ValueError(f"slice_thickness must be positive Å, got {slice_thickness}")
        _check_thin(float(slice_thickness))
        n = max(1, int(np.ceil(depth / float(slice_thickness))))
        _check_thin(depth / n)
        return np.full(n, depth / n)
    thickness = np.asarray(slice_thickness, float)
    if thickness.ndim != 1 or not len(thickness) or not (thickness > 0).all():
        raise ValueError("slice_thickness takes one number or a list of positive thicknesses in Å")
    _check_thin(float(thickness.min()))
    if abs(thickness.sum() - depth) > 1e-6 * depth + 1e-9:
        raise ValueError(
            f"the slices add up to {thickness.sum():.6f} Å but the cell is {depth:.6f} Å deep"
        )
    return thickness


def _check_thin(thinnest: float) -> None:
    if thinnest < THINNEST:
        raise ValueError(
            f"a slice of {thinnest:g} Å is thinner than a picometre (0.01 Å): slice_thickness is "
            "in Å, 0.5 to 2 Å is usual"
        )


def wrap(x: Any, length: Any) -> Any:
    """x modulo length; within 1e-10 of either end it is 0."""
    xp = np if is_concrete(x, length) else jnp
    x = xp.mod(x, length)
    return xp.where((x < 1e-10) | (x > length - 1e-10), 0.0 * x, x)


def slice_index(z: Any, depth: Any, thickness: np.ndarray) -> Any:
    """Slice of each atom; one on an inner boundary belongs to the later slice."""
    xp = np if is_concrete(z, depth) else jnp
    edges = np.cumsum(thickness)[:-1] - 1e-12
    inside = wrap(z, depth)
    return xp.searchsorted(xp.asarray(edges, inside.dtype), inside, side="right")
