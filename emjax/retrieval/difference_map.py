"""Difference map and RAAR: all exit waves at once, between two sets.

One set holds the waves that have the measured counts, the other those that are one probe times one
object (the overlap). Difference map: Thibault, Dierolf, Bunk, Menzel & Pfeiffer, Ultramicroscopy
109, 338 (2009). Relaxed averaged alternating reflections: Luke, Inverse Problems 21, 37 (2005).
Both keep a wave for every pattern and mode, and know a single slice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from emjax.retrieval.epoch_loop import Counted, Watch, batches_of, loop, on_device, only
from emjax.retrieval.gradient import OBJECT_AND_PROBE, History
from emjax.retrieval.likelihoods import Misfit, misfit_of
from emjax.retrieval.ptychography import Frame, Unknowns, exit_waves
from emjax.retrieval.scan_data import ScanData
from emjax.retrieval.wave_pass import (
    as_pair,
    detected,
    forward,
    intensity,
    on_probe,
    spread,
)
from simulators.memory import check_memory
from simulators.tree import pytree, replace

RIDGE = 1e-3
"""Least illumination that may change the object, in units of the largest."""

State = tuple[Unknowns, jax.Array]
"""Unknowns, and the waves complex [batches, batch, modes, y, x]."""


@pytree
class Steps:
    """Numbers of an epoch; none of them compiles anything anew."""

    transmission: Any
    probe: Any
    beta: Any
    relax: Any


def difference_map(
    data: ScanData,
    frame: Frame,
    unknowns: Unknowns,
    key: jax.Array | None = None,
    *,
    epochs: int = 30,
    batch: int = 32,
    likelihood: str | Misfit = "amplitude",
    free: Unknowns = OBJECT_AND_PROBE,
    probe_from: int = 2,
    relax: float = 0.3,
    watch: Watch | None = None,
) -> tuple[Unknowns, History]:
    """Difference map: x + M(2 O(x) - x) - O(x), with overlap O and measured counts M.

    Parameters
    ----------
    data, frame, unknowns, epochs, free, watch : as in `gradient.reconstruct`; transmission and
        probe can be free.
    key : not used: all patterns count alike in every epoch.
    batch : patterns computed together; the result does not depend on it.
    likelihood : of the projection on the counts; "amplitude" is the published one.
    probe_from : the probe stays in the epochs before this one.
    relax : share of the way to the counts that is not gone. With noise no wave is in both sets, and
        without it the map wanders.

    Returns
    -------
    unknowns, history : `History.misfit` is per electron, of probe times object in
        the middle of an epoch.

    Raises
    ------
    ValueError : several slices, or leaves that cannot be fitted.
    MemoryError : more waves than memory.
    FloatingPointError : the misfit is not finite.
    """
    steps = Steps(float(free.transmission), float(free.probe), 1.0, relax)
    only("the difference map", free, "transmission", "probe")
    misfit = misfit_of(likelihood)
    return _fit(_map_epoch, data, frame, unknowns, epochs, batch, misfit, steps, probe_from, watch)


def raar(
    data: ScanData,
    frame: Frame,
    unknowns: Unknowns,
    key: jax.Array | None = None,
    *,
    epochs: int = 30,
    batch: int = 32,
    likelihood: str | Misfit = "amplitude",
    free: Unknowns = OBJECT_AND_PROBE,
    probe_from: int = 2,
    beta: float = 0.75,
    watch: Watch | None = None,
) -> tuple[Unknowns, History]:
    """RAAR: β (x + O(2 M(x) - x) - M(x)) + (1 - β) M(x), with overlap O and measured counts M.

    Settings as in `difference_map`; `beta` in (0, 1]: 1 is a difference map with the sets in the
    other order, less stays nearer to the counts.

    Raises
    ------
    ValueError : several slices, leaves that cannot be fitted, a `beta` outside (0, 1].
    MemoryError, FloatingPointError : as `difference_map`.
    """
    if not 0 < beta <= 1:
        raise ValueError(f"beta is {beta}: it has to be in (0, 1]")
    only("RAAR", free, "transmission", "probe")
    steps = Steps(float(free.transmission), float(free.probe), beta, 0.0)
    misfit = misfit_of(likelihood)
    return _fit(_raar_epoch, data, frame, unknowns, epochs, batch, misfit, steps, probe_from, watch)


def _fit(
    epoch_of: Callable[..., tuple[State, jax.Array]],
    data: ScanData,
    frame: Frame,
    unknowns: Unknowns,
    epochs: int,
    batch: int,
    misfit: Misfit,
    steps: Steps,
    probe_from: int,
    watch: Watch | None,
) -> tuple[Unknowns, History]:
    slices, modes = unknowns.transmission.shape[1], unknowns.probe.shape[1]
    if slices > 1:
        raise ValueError(
            f"the overlap of difference map and RAAR is of a single slice, not {slices}: use "
            '"epie", "lsqml" or "gradient"'
        )
    scan = on_device(data, frame)
    index, _ = batches_of(jnp.arange(data.n), batch)
    ny, nx = frame.grid.shape
    check_memory(
        3 * 8 * index.size * modes * ny * nx,
        f"the exit waves of {data.n} patterns of {ny} × {nx} pixels in {modes} modes, three times,",
        'take fewer patterns, or an engine that keeps no waves ("epie", "lsqml", "gradient")',
    )
    unknowns = jax.tree.map(jnp.array, unknowns)
    waves = _first(unknowns, scan, frame, index)

    def run(state: State, epoch: int) -> tuple[State, jax.Array]:
        now = replace(steps, probe=steps.probe * float(epoch >= probe_from))
        return epoch_of(state, scan, frame, now, batch=batch, misfit=misfit)

    (found, _), history = loop(run, (unknowns, waves), epochs, watch, lambda state: state[0])
    return found, history


@jax.jit
def _first(unknowns: Unknowns, scan: Counted, frame: Frame, index: jax.Array) -> jax.Array:
    def of(index: jax.Array) -> jax.Array:
        return exit_waves(unknowns, frame, scan.positions[index] + unknowns.shifts[index])

    return jax.lax.map(of, index)


def _overlap(
    unknowns: Unknowns, scan: Counted, frame: Frame, steps: Steps, waves: jax.Array, batch: int
) -> Unknowns:
    """Object, then probe, whose products are nearest to waves [batches, batch, modes, y, x]."""
    index, real = batches_of(jnp.arange(scan.counts.shape[0]), batch)

    def at(unknowns: Unknowns, index: jax.Array) -> Any:
        return forward(unknowns, frame, scan.positions[index] + unknowns.shifts[index])

    def object_sums(sums: tuple, step: tuple) -> tuple[tuple, None]:
        index, real, wave = step
        here = at(unknowns, index)
        probe = here.incident[0]
        pull = (jnp.conj(probe) * (wave - here.exit)).sum(axis=1) * real[:, None, None]
        light = intensity(probe) * real[:, None, None]
        added = (spread(w[None], here.corner, frame.shape) for w in (pull, light))
        return tuple(s + a for s, a in zip(sums, added, strict=True)), None

    zeros = jnp.zeros((1, *frame.shape))
    (pull, light), _ = jax.lax.scan(object_sums, (zeros + 0j, zeros), (index, real, waves))
    change = steps.transmission * pull / (light + RIDGE * light.max())
    unknowns = replace(unknowns, transmission=unknowns.transmission + as_pair(change))

    def probe_sums(sums: tuple, step: tuple) -> tuple[tuple, None]:
        index, real, wave = step
        here = at(unknowns, index)
        patch = here.patches[0]
        pull = jnp.conj(patch)[:, None] * (wave - here.exit) * real[:, None, None, None]
        seen = (intensity(patch[:, None]) * real[:, None, None]).sum(axis=0)
        return (sums[0] + on_probe(unknowns, frame, here.offset, pull), sums[1] + seen), None

    def fitted() -> jax.Array:
        start = jnp.zeros_like(unknowns.probe), jnp.zeros(frame.grid.shape)
        (pull, seen), _ = jax.lax.scan(probe_sums, start, (index, real, waves))
        return unknowns.probe + pull / seen.max()  # exact where the object does not absorb

    probe = jax.lax.cond(steps.probe > 0, fitted, lambda: unknowns.probe)
    return replace(unknowns, probe=probe)


def _over(
    function: Callable[..., Any], scan: Counted, batch: int, *waves: jax.Array
) -> tuple[Any, jax.Array]:
    """function(index, real, *waves) -> new waves and misfit, batch by batch; and the mean."""
    n = scan.counts.shape[0]
    index, real = batches_of(jnp.arange(n), batch)
    made, values = jax.lax.map(lambda step: function(*step), (index, real, *waves))
    return made, values.sum() * scan.per_electron / n


@functools.partial(jax.jit, static_argnames=("batch", "misfit"), donate_argnums=0)
def _map_epoch(
    state: State, scan: Counted, frame: Frame, steps: Steps, *, batch: int, misfit: Misfit
) -> tuple[State, jax.Array]:
    unknowns, waves = state

    def moved(index: jax.Array, real: jax.Array, wave: jax.Array) -> tuple[jax.Array, jax.Array]:
        weight, counts = real[:, None, None] * scan.mask[None], scan.counts[index]
        shared = exit_waves(unknowns, frame, scan.positions[index] + unknowns.shifts[index])
        value, _ = detected(shared, counts, weight, misfit)
        reflected = 2 * shared - wave
        _, residual = detected(reflected, counts, weight, misfit)
        return wave + reflected + (1 - steps.relax) * residual - shared, value

    waves, value = _over(moved, scan, batch, waves)
    return (_overlap(unknowns, scan, frame, steps, waves, batch), waves), value


@functools.partial(jax.jit, static_argnames=("batch", "misfit"), donate_argnums=0)
def _raar_epoch(
    state: State, scan: Counted, frame: Frame, steps: Steps, *, batch: int, misfit: Misfit
) -> tuple[State, jax.Array]:
    unknowns, waves = state

    def weight(real: jax.Array) -> jax.Array:
        return real[:, None, None] * scan.mask[None]

    def measured(index: jax.Array, real: jax.Array, wave: jax.Array) -> tuple:
        value, residual = detected(wave, scan.counts[index], weight(real), misfit)
        return wave + residual, value

    counted, _ = _over(measured, scan, batch, waves)
    unknowns = _overlap(unknowns, scan, frame, steps, 2 * counted - waves, batch)

    def moved(index: jax.Array, real: jax.Array, wave: jax.Array, counted: jax.Array) -> tuple:
        shared = exit_waves(unknowns, frame, scan.positions[index] + unknowns.shifts[index])
        value, _ = detected(shared, scan.counts[index], weight(real), misfit)
        return steps.beta * (wave + shared - counted) + (1 - steps.beta) * counted, value

    waves, value = _over(moved, scan, batch, waves, counted)
    return (unknowns, waves), value
