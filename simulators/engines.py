"""Ways through the specimen, all with one signature, and where each of them holds.

    engine(wave, potential, energy, *, tilt, planes, bandlimit, bandlimit_potential, step, order)

| engine | what it is | holds where |
|---|---|---|
| `multislice` | transmission, propagation, slice by slice | forward scattering |
| `phase_object` | ψ exp(iσ∫V): every slice in one plane | λk²t ≪ 1: nothing spreads inside |
| `weak_phase` | ψ (1 + iσ∫V) | as above, and σ∫V ≪ 1 (error: half its square) |
| `born` | the term of `multislice` of first order in V | σ∫V ≪ 1, any thickness |
| `multislice_reversed` | the adjoint, from the exit wave back | the inverse without band limit |

Cowley & Moodie, Acta Cryst. 10, 609 (1957); Kirkland (2010), chapters 5 and 6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simulators.backend import is_concrete, real_of
from simulators.electron import interaction_constant
from simulators.multislice import (
    Slab,
    bandlimited,
    checked_planes,
    checked_wave,
    multislice,
    on_wave_grid,
    prepare,
    propagators,
    through,
    transmission,
)
from simulators.potential import Potential
from simulators.tree import replace


def phase_object(
    wave: jax.Array,
    potential: Potential,
    energy: Any,
    *,
    tilt: Any = (0.0, 0.0),
    planes: tuple[int, ...] | None = None,
    bandlimit: bool = True,
    bandlimit_potential: bool = False,
    step: str = "first",
    order: int = 1,
) -> jax.Array:
    """ψ exp(iσ∫V): the limit of `multislice` where waves do not spread within the specimen.

    The integral runs along the tilted beam. `order` has nothing to act on. Arguments, result and
    errors as of `multislice`.
    """
    options = {"bandlimit": bandlimit, "bandlimit_potential": bandlimit_potential}

    def one(incident: jax.Array, projected: Potential) -> jax.Array:
        return _times(incident, transmission(projected, energy, **options)[0])

    return _in_one_plane(one, wave, potential, tilt, planes, step)


def weak_phase(
    wave: jax.Array,
    potential: Potential,
    energy: Any,
    *,
    tilt: Any = (0.0, 0.0),
    planes: tuple[int, ...] | None = None,
    bandlimit: bool = True,
    bandlimit_potential: bool = False,
    step: str = "first",
    order: int = 1,
) -> jax.Array:
    """ψ (1 + iσ∫V): the phase object to first order. Arguments as of `phase_object`."""
    del bandlimit_potential  # the potential enters linearly: the mask acts once either way

    def one(incident: jax.Array, projected: Potential) -> jax.Array:
        return _times(incident, 1 + _linear(projected, energy, bandlimit)[0])

    return _in_one_plane(one, wave, potential, tilt, planes, step)


def born(
    wave: jax.Array,
    potential: Potential,
    energy: Any,
    *,
    tilt: Any = (0.0, 0.0),
    planes: tuple[int, ...] | None = None,
    bandlimit: bool = True,
    bandlimit_potential: bool = False,
    step: str = "first",
    order: int = 1,
) -> jax.Array:
    """The incident wave and what is scattered once, both propagated through the stack.

    ψ = P ψ₀ + Σ_i P_(i→exit) iσV_i P_(0→i) ψ₀, which is the Taylor expansion of `multislice` in the
    potential's strength up to the first order, to rounding. Arguments as of `multislice`.
    """
    limited = bandlimited(potential) if bandlimit_potential else potential
    slab = prepare(limited, energy, tilt=tilt, bandlimit=bandlimit, step=step, order=order)
    slab = replace(slab, transmission=_linear(limited, energy, bandlimit))

    wave = checked_wave(wave, potential).astype(slab.dtype)
    both = jnp.stack([wave, jnp.zeros_like(wave)])
    if planes is None:
        return _once(both, slab).sum(0)
    taken, start = {-1: both}, 0
    for plane in checked_planes(planes, slab.n):
        if plane >= 0:
            both = _once(both, slab.part(start, plane + 1))
            taken[plane], start = both, plane + 1
    return jnp.stack([taken[p].sum(0) for p in planes])


@jax.jit
def _once(both: jax.Array, slab: Slab) -> jax.Array:
    """The unscattered wave and the one scattered once, [2, ..., ny, nx], through a slab of iσV."""
    enter, rows, plane = propagators(slab)

    def one(waves: jax.Array, item: tuple) -> tuple[jax.Array, None]:
        scattering, row = item
        waves = jnp.stack([waves[0], waves[1] + _times(waves[0], scattering)])
        return jnp.fft.ifft2(_times(jnp.fft.fft2(waves), plane(row))), None

    if enter is not None:
        both = jnp.fft.ifft2(_times(jnp.fft.fft2(both), enter))
    return jax.lax.scan(one, both, (slab.transmission, rows))[0]


def multislice_reversed(
    wave: jax.Array,
    potential: Potential,
    energy: Any,
    *,
    tilt: Any = (0.0, 0.0),
    planes: tuple[int, ...] | None = None,
    bandlimit: bool = True,
    bandlimit_potential: bool = False,
    step: str = "first",
    order: int = 1,
) -> jax.Array:
    """The adjoint of `multislice`: from a wave below the last slice back up.

    Without the band limit multislice is unitary and this is its inverse; with it, what was
    scattered beyond the limit is lost. Arguments as of `multislice`.

    Returns
    -------
    complex [..., ny, nx] or [planes, ..., ny, nx]
        The wave above the first slice; with `planes`, the waves below those slices (-1: above the
        first), so that the numbers name the same places as in `multislice`.
    """
    options = {"tilt": tilt, "bandlimit": bandlimit, "bandlimit_potential": bandlimit_potential}
    slab = prepare(potential, energy, step=step, order=order, **options)
    wave = checked_wave(wave, potential).astype(slab.dtype)

    def back(psi: jax.Array, some: Slab) -> jax.Array:
        transpose = jax.linear_transpose(lambda incident: through(incident, some), psi)
        return transpose(psi.conj())[0].conj()

    if planes is None:
        return back(wave, slab)
    taken, end, psi = {slab.n - 1: wave}, slab.n, wave
    for plane in reversed(checked_planes(planes, slab.n)):
        if plane < slab.n - 1:
            psi = back(psi, slab.part(plane + 1, end))
            taken[plane], end = psi, plane + 1
    return jnp.stack([taken[p] for p in planes])


def _times(fields: jax.Array, plane: jax.Array) -> jax.Array:
    return fields * jnp.expand_dims(plane, tuple(range(fields.ndim - 2)))


def _linear(potential: Potential, energy: Any, bandlimit: bool) -> jax.Array:
    """iσV [nz, ny, nx] on the waves' grid."""
    sigma = jnp.asarray(interaction_constant(energy), real_of(potential.slices))
    return on_wave_grid(lambda v: 1j * sigma * v, potential, bandlimit=bandlimit)


def _in_one_plane(
    one: Callable[[jax.Array, Potential], jax.Array],
    wave: jax.Array,
    potential: Potential,
    tilt: Any,
    planes: tuple[int, ...] | None,
    step: str,
) -> jax.Array:
    """`one(incident, projected potential)` below the last slice or below chosen ones."""
    wave = checked_wave(wave, potential)
    nz = potential.slices.shape[0]
    straight = is_concrete(tilt) and not np.any(tilt)

    def below(plane: int) -> jax.Array:
        n = plane + 1
        if n == 0:
            return wave
        slices, thickness = potential.slices[:n], jnp.asarray(potential.thickness)[:n]
        incident = wave
        if not straight:
            # a feature of slice i leaves the specimen displaced by what lies below it
            total = thickness.sum()
            share = 0.5 if step == "symmetric" else 0.0
            left = total - jnp.cumsum(thickness) + (1 - share) * thickness
            slices = _shifted(slices, potential.grid.extent, left, tilt)
            moved = _shifted(wave.reshape(-1, *wave.shape[-2:]), potential.grid.extent, total, tilt)
            incident = moved.reshape(wave.shape)
        total_potential = replace(potential, slices=slices.sum(0, keepdims=True))
        return one(incident, replace(total_potential, thickness=thickness.sum()[None]))

    if planes is None:
        return below(nz - 1)
    waves = {plane: below(plane) for plane in checked_planes(planes, nz)}
    return jnp.stack([waves[p].astype(waves[max(waves)].dtype) for p in planes])


def _shifted(fields: jax.Array, extent: Any, distance: Any, tilt: Any) -> jax.Array:
    """Fields [n, y, x] displaced by distance · tan(tilt), periodic; real ones stay real."""
    spectrum = jnp.fft.fft2(fields)
    distance = jnp.broadcast_to(distance, fields.shape[:1])
    for axis, angle in ((1, tilt[1]), (2, tilt[0])):
        n = fields.shape[axis]
        k = jnp.asarray(np.fft.fftfreq(n, extent[axis - 1] / n), fields.real.dtype)
        phase = (
            -2 * jnp.pi * jnp.tan(jnp.asarray(angle * 1e-3, k.dtype)) * distance[:, None] * k[None]
        )
        ramp = jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
        spectrum = spectrum * jnp.expand_dims(ramp, 3 - axis)
    moved = jnp.fft.ifft2(spectrum)
    return moved if jnp.iscomplexobj(fields) else moved.real


ENGINES = {
    "multislice": multislice,
    "phase_object": phase_object,
    "weak_phase": weak_phase,
    "born": born,
    "multislice_reversed": multislice_reversed,
}
"""Wave in, wave out: `engine(wave, potential, energy, *, tilt, planes, …)`."""


def exit_wave(
    wave: jax.Array,
    potential: Potential,
    energy: Any,
    *,
    engine: Any = "multislice",
    **options: Any,
) -> jax.Array:
    """The wave below the specimen by an engine of `ENGINES` (a name or a function)."""
    if isinstance(engine, str):
        if engine not in ENGINES:
            raise ValueError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)}")
        engine = ENGINES[engine]
    return engine(wave, potential, energy, **options)
