"""What object and probe must be, enforced between epochs: functions ``(unknowns) -> unknowns``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emjax.retrieval.ptychography import Unknowns
from simulators.tree import replace

Constraint = Callable[[Unknowns], Unknowns]


def all_of(parts: Sequence[Constraint]) -> Constraint:
    """One after the other."""

    def apply(u: Unknowns) -> Unknowns:
        for part in parts:
            u = part(u)
        return u

    return apply


def modulus_between(low: float = 0.0, high: float = 1.0) -> Constraint:
    """|T| is clipped."""

    def apply(u: Unknowns) -> Unknowns:
        size = jnp.sqrt(jnp.square(u.transmission).sum(0) + 1e-12)
        return replace(u, transmission=u.transmission * (jnp.clip(size, low, high) / size)[None])

    return apply


def positive_phase(strength: float = 1.0) -> Constraint:
    """Phases below that of the emptiest twentieth of a slice are moved there.

    For phases below π. The constant phase, which no pattern knows, is left as it is.
    """

    def apply(u: Unknowns) -> Unknowns:
        t = jax.lax.complex(u.transmission[0], u.transmission[1])
        mean = t.mean((-2, -1), keepdims=True)
        turn = jnp.exp(-1j * jnp.angle(mean))
        phase = jnp.angle(t * turn)
        floor = jnp.quantile(phase, 0.05, axis=(-2, -1), keepdims=True)
        phase += strength * jnp.maximum(floor - phase, 0)
        return _with(u, jnp.abs(t) * jnp.exp(1j * phase) / turn)

    return apply


def blurred(sigma: float) -> Constraint:
    """Slices convolved with a Gaussian of `sigma` pixels."""

    def apply(u: Unknowns) -> Unknowns:
        return _filtered(u, lambda ky, kx: jnp.exp(-2 * (np.pi * sigma) ** 2 * (ky**2 + kx**2)))

    return apply


def low_passed(cutoff: float) -> Constraint:
    """Slices without frequencies above `cutoff` cycles per pixel; smooth over a tenth of it."""

    def apply(u: Unknowns) -> Unknowns:
        def keep(ky: Any, kx: Any) -> Any:
            return jnp.clip((cutoff - jnp.hypot(ky, kx)) / (0.1 * cutoff) + 0.5, 0, 1)

        return _filtered(u, keep)

    return apply


def coupled_slices(strength: float = 1.0) -> Constraint:
    """No depth contrast where the missing wedge hides it (Chen et al., Science 372, 826, 2021).

    In the Fourier space of the object kz is damped by 1 - 2/π · atan(strength² kz² / k²), with kz
    in cycles per slice and k in cycles per pixel. Phases have to be below π.
    """

    def apply(u: Unknowns) -> Unknowns:
        nz, ny, nx = u.transmission.shape[1:]
        if nz == 1:
            return u
        kz, ky, kx = jnp.meshgrid(*(jnp.fft.fftfreq(n) for n in (nz, ny, nx)), indexing="ij")
        k2 = ky**2 + kx**2
        keep = 1 - 2 / np.pi * jnp.arctan2((strength * kz) ** 2, k2 + 1e-9)
        t = jax.lax.complex(u.transmission[0], u.transmission[1])
        return _with(u, jnp.fft.ifftn(jnp.fft.fftn(t) * keep))

    return apply


def same_slices() -> Constraint:
    """All slices are their mean: a crystal along the beam."""

    def apply(u: Unknowns) -> Unknowns:
        mean = u.transmission.mean(axis=1, keepdims=True)
        return replace(u, transmission=jnp.broadcast_to(mean, u.transmission.shape))

    return apply


def electrons(total: float) -> Constraint:
    """The probe holds so many electrons."""

    def apply(u: Unknowns) -> Unknowns:
        size = jnp.sqrt(total / (jnp.square(u.probe).sum() + 1e-12))
        return replace(u, probe=u.probe * size)

    return apply


def orthogonal_modes() -> Constraint:
    """Probe modes turned into orthogonal ones, the strongest first; no pattern changes."""

    def apply(u: Unknowns) -> Unknowns:
        if u.probe.shape[1] == 1:
            return u
        c = jax.lax.complex(u.probe[0], u.probe[1])
        flat = c.reshape(c.shape[0], -1)
        _, vectors = jnp.linalg.eigh(flat @ flat.conj().T)
        turned = (vectors.conj().T @ flat)[::-1].reshape(c.shape)
        return replace(u, probe=jnp.stack([turned.real, turned.imag]))

    return apply


def centred_shifts() -> Constraint:
    """Position corrections without their mean: the object does not wander."""

    def apply(u: Unknowns) -> Unknowns:
        return replace(u, shifts=u.shifts - u.shifts.mean(0, keepdims=True))

    return apply


def affine_shifts(positions: Any, strength: float = 1.0) -> Constraint:
    """Position corrections drawn to the affine map that is nearest to all of them together.

    Parameters
    ----------
    positions : float [n, 2], the scan's own.
    strength : 1 leaves nothing but the affine map.
    """
    at = np.asarray(positions, np.float64)
    at = np.concatenate([at - at.mean(0), np.ones((len(at), 1))], axis=1)
    project = jnp.asarray(at @ np.linalg.pinv(at), jnp.float32)

    def apply(u: Unknowns) -> Unknowns:
        return replace(u, shifts=u.shifts + strength * (project @ u.shifts - u.shifts))

    return apply


CONSTRAINTS: dict[str, Callable[..., Constraint]] = {
    "modulus_between": modulus_between,
    "positive_phase": positive_phase,
    "blurred": blurred,
    "low_passed": low_passed,
    "coupled_slices": coupled_slices,
    "same_slices": same_slices,
    "electrons": electrons,
    "orthogonal_modes": orthogonal_modes,
    "centred_shifts": centred_shifts,
    "affine_shifts": affine_shifts,
}
"""By name: ``CONSTRAINTS[name](…)``."""


def _with(u: Unknowns, t: jax.Array) -> Unknowns:
    return replace(u, transmission=jnp.stack([t.real, t.imag]))


def _filtered(u: Unknowns, keep: Callable[[Any, Any], Any]) -> Unknowns:
    """Deviations from 1 through a filter of frequencies in cycles per pixel."""
    t = jax.lax.complex(u.transmission[0], u.transmission[1]) - 1
    ky, kx = (np.fft.fftfreq(n) for n in t.shape[-2:])
    factor = jnp.asarray(keep(ky[:, None], kx[None]))[None]
    return _with(u, jnp.fft.ifft2(jnp.fft.fft2(t) * factor) + 1)
