"""Smooth displacement fields that are known exactly: imposed on positions, read off as labels."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from simulators.tree import pytree


@pytree
class StrainField:
    """``u(X) = G (X - c) + sum_j a_j sin(k_j · (X - c) + phase_j)`` in the plane of the image.

    X is where a point is in the unstrained crystal, ``r = X + u(X)`` where it comes to lie.

    Attributes
    ----------
    uniform : float [2, 2]
        G, the uniform part of the displacement gradient ∂u_i/∂X_j.
    amplitude : float [m, 2]
        a_j, Å.
    wave : float [m, 2]
        k_j, rad/Å.
    phase : float [m]
        rad.
    centre : float [2]
        c, Å.
    """

    uniform: Any
    amplitude: Any
    wave: Any
    phase: Any
    centre: Any

    def displacement(self, points: Any) -> jax.Array:
        """u [n, 2] in Å at points X [n, 2] (a third coordinate is ignored)."""
        gap = points[:, :2] - self.centre[None]
        angle = gap @ self.wave.T + self.phase[None]
        return gap @ self.uniform.T + jnp.sin(angle) @ self.amplitude

    def gradient(self, points: Any) -> jax.Array:
        """∂u_i/∂X_j [n, 2, 2] at points X [n, 2], exact."""
        gap = points[:, :2] - self.centre[None]
        slope = jnp.cos(gap @ self.wave.T + self.phase[None])
        outer = self.amplitude[:, :, None] * self.wave[:, None, :]
        return self.uniform[None] + jnp.einsum("nm,mij->nij", slope, outer)

    def reference(self, points: Any, *, steps: int = 30) -> jax.Array:
        """X [n, 2] of points r [n, 2] in the strained crystal, for strain maps on pixels.

        Fixed-point iteration; converges by the factor of the largest strain in each step.
        """

        def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return points[:, :2] - self.displacement(x), None

        return jax.lax.scan(step, jnp.asarray(points[:, :2]), None, length=steps)[0]


def strain_of(gradient: Any) -> Any:
    """Small strain, the symmetric part [..., 2, 2] of a displacement gradient."""
    return (gradient + jnp.swapaxes(gradient, -1, -2)) / 2


def rotation_of(gradient: Any) -> Any:
    """Local rotation [...] in rad from +x towards +y, of small gradients."""
    return (gradient[..., 1, 0] - gradient[..., 0, 1]) / 2


def random_strain(
    key: jax.Array, extent: tuple[float, float], size: Any, *, modes: int = 3, shortest: float = 8.0
) -> StrainField:
    """A random smooth field whose gradient has a norm of at most `size` everywhere.

    Parameters
    ----------
    key : random key.
    extent : (y, x)
        Of the scene, Å; u is small at its middle.
    size : float
        Largest Frobenius norm of ∂u/∂X.
    modes : int
        Waves besides the uniform part.
    shortest : float
        Of the wavelengths, Å.
    """
    k_share, k_uniform, k_wave, k_phase = jax.random.split(key, 4)
    share = jax.random.uniform(k_share, (modes + 2,), minval=0.05)
    share = share / share.sum()  # the last part is not used: the bound is not always reached
    uniform = jax.random.normal(k_uniform, (2, 2))
    uniform = size * share[0] * uniform / jnp.linalg.norm(uniform)
    longest = max(2 * max(extent), 1.5 * shortest)
    length, turn, lean = jax.random.uniform(k_wave, (3, modes))
    k = 2 * math.pi / (shortest * (longest / shortest) ** length)
    wave = k[:, None] * jnp.stack([jnp.cos(2 * math.pi * turn), jnp.sin(2 * math.pi * turn)], 1)
    way = jnp.stack([jnp.cos(2 * math.pi * lean), jnp.sin(2 * math.pi * lean)], 1)
    amplitude = (size * share[1:-1] / k)[:, None] * way
    phase = jax.random.uniform(k_phase, (modes,), maxval=2 * math.pi)
    return StrainField(uniform, amplitude, wave, phase, jnp.asarray([extent[1] / 2, extent[0] / 2]))


def largest_shift(extent: tuple[float, float], size: float, *, shortest: float = 8.0) -> float:
    """Bound of |u| in Å over a box (y, x) for fields of `random_strain`."""
    longest = max(2 * max(extent), 1.5 * shortest)
    return size * max(0.5 * math.hypot(*extent), longest / (2 * math.pi))
