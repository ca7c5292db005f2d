"""Frozen phonons: snapshots of the thermal motion.

Loane, Xu & Silcox, Acta Cryst. A 47, 267 (1991).

An electron passes in a time in which atoms stand still, so an image is the mean over snapshots of
displaced atoms. A Debye–Waller factor in the potential gives the elastic part alone: right for low
angles, but an annular dark-field detector sees mostly what it leaves out.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from simulators.atoms import Atoms
from simulators.backend import is_concrete
from simulators.tree import replace


def snapshot(key: jax.Array, atoms: Atoms) -> Atoms:
    """One configuration: every atom displaced by its own `sigma`, which is then 0.

    Parameters
    ----------
    key : random key; map over several with `vmap`, and average the intensities.
    atoms : Atoms
        sigma is the standard deviation in each direction, Å.
    """
    noise = jax.random.normal(key, jnp.shape(atoms.positions))
    if is_concrete(atoms):
        shift = np.asarray(noise, float) * np.asarray(atoms.sigma)[:, None]
        return replace(atoms, positions=atoms.positions + shift, sigma=np.zeros_like(atoms.sigma))
    shift = noise * jnp.asarray(atoms.sigma)[:, None]
    return replace(atoms, positions=atoms.positions + shift, sigma=jnp.zeros_like(atoms.sigma))
