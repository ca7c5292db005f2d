"""LSQML: preconditioned directions, and for every pattern the steps along them that fit best.

Odstrčil, Menzel & Guizar-Sicairos, Optics Express 26, 3108 (2018). Object and probe get the
directions of ePIE, divided by their own illumination. How far to go is a least-squares problem of
each pattern: which steps along the directions take its waves nearest to what the counts ask for.
With several slices all of them share one step, found with the waves' first-order change through
the whole stack.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from emjax.retrieval.epoch_loop import Counted, Watch, batches_of, cosine, loop, on_device, only
from emjax.retrieval.gradient import OBJECT_AND_PROBE, History
from emjax.retrieval.likelihoods import FLOOR, Misfit, misfit_of
from emjax.retrieval.ptychography import Frame, Unknowns, probes
from emjax.retrieval.scan_data import ScanData
from emjax.retrieval.wave_pass import (
    WavePass,
    as_pair,
    backward,
    cut,
    detected,
    forward,
    intensity,
    on_probe,
    spread,
    tangent,
)
from simulators.tree import pytree, replace

RIDGE = 0.1
"""Added to weights and normal equations, in units of their largest or mean: the paper's damping."""


@pytree
class Steps:
    """Shares of the best steps in an epoch; none of them compiles anything anew."""

    transmission: Any
    probe: Any
    shifts: Any


def lsqml(
    data: ScanData,
    frame: Frame,
    unknowns: Unknowns,
    key: jax.Array,
    *,
    epochs: int = 12,
    batch: int = 32,
    likelihood: str | Misfit = "amplitude",
    free: Unknowns = OBJECT_AND_PROBE,
    object_step: float = 1.0,
    probe_step: float = 1.0,
    shift_step: float = 1.0,
    shifts_from: int = 3,
    end: float = 0.05,
    watch: Watch | None = None,
) -> tuple[Unknowns, History]:
    """Least squares for the steps of a maximum-likelihood gradient.

    Parameters
    ----------
    data, frame, unknowns, key, epochs, free, watch : as in `gradient.reconstruct`; transmission,
        probe and shifts can be free.
    batch : patterns that share a direction.
    likelihood : of the residual. "amplitude" is the projection of ePIE.
    object_step, probe_step, shift_step : shares of the best steps.
    shifts_from : positions stay in the epochs before this one.
    end : steps fall along a cosine to this share, which averages the noise of the counts.

    Returns
    -------
    unknowns, history : `History.misfit` is per electron, of the waves before their update.

    Raises
    ------
    ValueError : leaves that cannot be fitted.
    FloatingPointError : the misfit is not finite.
    """
    only("LSQML", free, "transmission", "probe", "shifts")
    misfit, scan = misfit_of(likelihood), on_device(data, frame)

    def run(unknowns: Unknowns, epoch: int) -> tuple[Unknowns, jax.Array]:
        share = cosine(epoch, epochs, end)
        steps = Steps(
            object_step * share * float(free.transmission),
            probe_step * share * float(free.probe),
            shift_step * share * float(bool(free.shifts) and epoch >= shifts_from),
        )
        order = jax.random.fold_in(key, epoch)
        return _epoch(unknowns, order, scan, frame, steps, batch=batch, misfit=misfit)

    return loop(run, jax.tree.map(jnp.array, unknowns), epochs, watch)


@functools.partial(jax.jit, static_argnames=("batch", "misfit"), donate_argnums=0)
def _epoch(
    unknowns: Unknowns,
    key: jax.Array,
    scan: Counted,
    frame: Frame,
    steps: Steps,
    *,
    batch: int,
    misfit: Misfit,
) -> tuple[Unknowns, jax.Array]:
    n = scan.counts.shape[0]

    def update(unknowns: Unknowns, step: tuple) -> tuple[Unknowns, jax.Array]:
        index, real = step
        weight = real[:, None, None] * scan.mask[None]
        waves = forward(unknowns, frame, scan.positions[index] + unknowns.shifts[index])
        value, residual = detected(waves.exit, scan.counts[index], weight, misfit)
        behind, at_probe = backward(waves, residual)

        # directions: what all patterns of the batch ask for, over how well they know it
        pull = (jnp.conj(waves.incident) * behind).sum(axis=2)
        light = intensity(waves.incident) * real[None, :, None, None]
        pull, lit = (spread(w, waves.corner, frame.shape) for w in (pull, light))
        lit += RIDGE * lit.max(axis=(1, 2), keepdims=True)
        to = jnp.where(steps.transmission > 0, 1.0, 0.0) * pull / lit
        seen = (intensity(waves.patches[0][:, None]) * real[:, None, None]).sum(axis=0)
        seen += RIDGE * seen.max()
        way = on_probe(unknowns, frame, waves.offset, at_probe / seen[None, None])
        way *= jnp.where(steps.probe > 0, 1.0, 0.0)

        # steps of every pattern
        patches = cut(to, waves.corner, frame.grid.shape)
        wave = probes(replace(unknowns, probe=way), frame, waves.offset)
        ways = [tangent(waves, patches, None), tangent(waves, None, wave)]
        asked = [_product(w, residual) for w in ways]
        best = jnp.clip(_least_squares(asked, ways, real), 0.0, 2.0) * real[None]

        # of a pixel: the mean of its patterns' steps, weighted with their light
        share = spread(best[0][None, :, None, None] * light, waves.corner, frame.shape) / lit
        moved = jax.lax.cond(
            steps.shifts > 0,
            lambda: steps.shifts * _shifts(unknowns, frame, waves, residual, real),
            lambda: jnp.zeros_like(waves.offset),
        )
        return replace(
            unknowns,
            transmission=unknowns.transmission + as_pair(steps.transmission * share * to),
            probe=unknowns.probe + steps.probe * best[1].sum() / real.sum() * way,
            shifts=unknowns.shifts.at[index].add(moved),
        ), value

    steps_of = batches_of(jax.random.permutation(key, n), batch)
    unknowns, values = jax.lax.scan(update, unknowns, steps_of)
    return unknowns, values.sum() * scan.per_electron / n


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Real scalar product of waves [b, ...], pattern by pattern."""
    return (a.real * b.real + a.imag * b.imag).sum(axis=tuple(range(1, a.ndim)))


def _least_squares(asked: list[jax.Array], effects: list[jax.Array], real: jax.Array) -> jax.Array:
    """Steps [2, b] along two directions that come nearest.

    Parameters
    ----------
    asked : products [b] of each direction's change of the waves with their residual
    effects : what each direction does, [b, ...]
    """
    aa, ab, bb = (_product(effects[i], effects[j]) for i, j in ((0, 0), (0, 1), (1, 1)))
    mean = [RIDGE * (g * real).sum() / real.sum() + 1e-12 for g in (aa, bb)]
    aa, bb = aa + mean[0], bb + mean[1]
    ar, br = asked
    return jnp.stack([bb * ar - ab * br, aa * br - ab * ar]) / (aa * bb - ab * ab)[None]


def _shifts(
    unknowns: Unknowns, frame: Frame, waves: WavePass, residual: jax.Array, real: jax.Array
) -> jax.Array:
    """Best shift of every pattern [b, 2], (x, y) in Å, at most a tenth of a pixel.

    Most of what a shift does to a wave is a phase ramp on the detector, which nobody sees. So its
    effect is counted in amplitudes of the detector, not in waves.
    """
    here = jnp.fft.fft2(waves.exit, norm="ortho")
    strength = jnp.sqrt(intensity(here) + FLOOR)

    def along(axis: int) -> tuple[jax.Array, jax.Array]:
        unit = jnp.zeros_like(waves.offset).at[:, axis].set(1.0)
        _, wave = jax.jvp(lambda o: probes(unknowns, frame, o), (waves.offset,), (unit,))
        wave = tangent(waves, None, wave)
        there = jnp.fft.fft2(wave, norm="ortho")
        seen = (here.real * there.real + here.imag * there.imag).sum(axis=1) / strength
        return _product(wave, residual), seen

    (ay, sy), (ax, sx) = along(0), along(1)
    best = jnp.clip(_least_squares([ay, ax], [sy, sx], real), -0.1, 0.1) * real[None]
    return (best.T * jnp.asarray(np.array(frame.grid.sampling, np.float32))[None])[:, ::-1]
