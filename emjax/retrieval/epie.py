"""ePIE and rPIE: the object and the probe take turns in pulling the waves to the counts.

Extended ptychographic iterative engine: Maiden & Rodenburg, Ultramicroscopy 109, 1256 (2009).
Regularised: Maiden, Johnson & Li, Optica 4, 736 (2017). Multislice: Maiden, Humphry & Rodenburg,
JOSA A 29, 1606 (2012). Mixed modes: Thibault & Menzel, Nature 494, 68 (2013).

With one pattern a batch these are the published engines. Patterns of one batch are updated
together: their numerators and their weights |probe|² add up, so that where windows overlap no
pixel takes more than one full step.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from emjax.retrieval.epoch_loop import Counted, Watch, batches_of, cosine, loop, on_device, only
from emjax.retrieval.gradient import OBJECT_AND_PROBE, History
from emjax.retrieval.likelihoods import Misfit, misfit_of
from emjax.retrieval.ptychography import Frame, Unknowns
from emjax.retrieval.scan_data import ScanData
from emjax.retrieval.wave_pass import (
    as_pair,
    backward,
    detected,
    forward,
    intensity,
    on_probe,
    spread,
)
from simulators.tree import pytree, replace


@pytree
class Steps:
    """Numbers of an epoch; none of them compiles anything anew."""

    transmission: Any
    probe: Any
    alpha: Any


def epie(
    data: ScanData,
    frame: Frame,
    unknowns: Unknowns,
    key: jax.Array,
    *,
    epochs: int = 12,
    batch: int = 16,
    likelihood: str | Misfit = "amplitude",
    free: Unknowns = OBJECT_AND_PROBE,
    object_step: float | None = None,
    probe_step: float = 0.5,
    alpha: float = 1.0,
    end: float = 0.05,
    watch: Watch | None = None,
) -> tuple[Unknowns, History]:
    """Extended ptychographic iterative engine.

    Parameters
    ----------
    data, frame, unknowns, key, epochs, free, watch : as in `gradient.reconstruct`; transmission
        and probe can be free.
    batch : patterns updated together.
    likelihood : of the residual that pulls a wave. "amplitude" is the published projection.
    object_step : share of the full step; without it 1 / slices, because every slice takes the
        whole residual.
    probe_step : share of the full step.
    alpha : weights are (1 - α) |wave|² + α max |wave|²: 1 is ePIE, less is rPIE.
    end : steps fall along a cosine to this share, which averages the noise of the counts.

    Returns
    -------
    unknowns, history : `History.misfit` is per electron, of the waves before their update.

    Raises
    ------
    ValueError : leaves that cannot be fitted, an `alpha` outside (0, 1].
    FloatingPointError : the misfit is not finite.
    """
    only("ePIE", free, "transmission", "probe")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha}: it has to be in (0, 1]; 1 is ePIE")
    slices = unknowns.transmission.shape[1]
    full = 1.0 / slices if object_step is None else object_step
    misfit, scan = misfit_of(likelihood), on_device(data, frame)

    def run(unknowns: Unknowns, epoch: int) -> tuple[Unknowns, jax.Array]:
        share = cosine(epoch, epochs, end)
        steps = Steps(
            full * share * float(free.transmission), probe_step * share * float(free.probe), alpha
        )
        order = jax.random.fold_in(key, epoch)
        return _epoch(unknowns, order, scan, frame, steps, batch=batch, misfit=misfit)

    return loop(run, jax.tree.map(jnp.array, unknowns), epochs, watch)


def rpie(
    data: ScanData,
    frame: Frame,
    unknowns: Unknowns,
    key: jax.Array,
    *,
    alpha: float = 0.25,
    **settings: Any,
) -> tuple[Unknowns, History]:
    """Regularised ePIE: dim parts of the object catch up. Settings as in `epie`."""
    return epie(data, frame, unknowns, key, alpha=alpha, **settings)


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
        pull = (jnp.conj(waves.incident) * behind).sum(axis=2)
        light = intensity(waves.incident) * real[None, :, None, None]
        pull, light = (spread(w, waves.corner, frame.shape) for w in (pull, light))
        change = steps.transmission * pull / _between(light, steps.alpha)
        seen = (intensity(waves.patches[0][:, None]) * real[:, None, None]).sum(axis=0)
        moved = steps.probe * at_probe / _between(seen, steps.alpha)[None, None]
        return replace(
            unknowns,
            transmission=unknowns.transmission + as_pair(change),
            probe=unknowns.probe + on_probe(unknowns, frame, waves.offset, moved),
        ), value

    steps_of = batches_of(jax.random.permutation(key, n), batch)
    unknowns, values = jax.lax.scan(update, unknowns, steps_of)
    return unknowns, values.sum() * scan.per_electron / n


def _between(weight: jax.Array, alpha: jax.Array) -> jax.Array:
    """(1 - α) weight + α its maximum, slice by slice; never zero."""
    highest = weight.max(axis=(-2, -1), keepdims=True)
    return (1 - alpha) * weight + alpha * highest + 1e-12
