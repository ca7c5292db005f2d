"""Many updates in one call, without a word to the host between them.

The batch of update i is drawn on the device from ``fold_in(key, i)``: a run can be stopped and
resumed anywhere and sees the same batches. `emjax.training.fit` calls the step, with progress,
evaluation and checkpoints; a script may as well call it by itself::

    state = init_state(params, tx)
    step = make_step(loss, draw, tx)
    state, history = step(state, key, 100)      # 100 updates; `state` is donated

All devices that jax has work together: the weights are on each, the batch is split among them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from emjax import gradients, memory, sharding, streamed
from emjax.checkpoints import named_leaves
from emjax.schedules import as_partial, draw_at

Params = Any
Loss = Callable[[Params, Any], tuple[jax.Array, Mapping[str, jax.Array]]]
History = dict[str, Any]


class NonFiniteError(ValueError):
    """A loss or gradient became NaN or infinite; names the update and the culprit."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "ema", "opt_state", "step"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that an update changes."""

    params: Params
    """The weights that are trained."""
    ema: Params
    """Their moving average: evaluate and save these."""
    opt_state: Any
    """The optimiser's state."""
    step: jax.Array
    """Number of updates made, int32 scalar."""


def init_state(params: Params, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first update. Copies `params`, which a step may then not consume."""
    # own buffers each (a donated buffer is gone) and no weak types (another compilation)
    state = TrainState(params, params, tx.init(params), jnp.int32(0))
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.asarray(x).dtype, copy=True), state)


def make_step(
    loss: Loss,
    draw: Callable[..., Any] | None,
    tx: optax.GradientTransformation,
    *,
    ema_decay: float = 0.999,
    loop: str = "auto",
    accumulate: int = 1,
    remat: bool = False,
    stream: Callable[[int], Any] | None = None,
    devices: Sequence[jax.Device] | None = None,
    shared: Sequence[str] = (),
) -> Step:
    """Make ``step(state, key, n) -> (state, history)``: n updates without asking the host.

    Parameters
    ----------
    loss
        ``(params, batch) -> (scalar, metrics)``; metrics is a dict of scalars.
    draw
        ``key -> batch``, any pytree of arrays; runs inside the compiled update. Large arrays that
        it needs belong into a `jax.tree_util.Partial`: they are then arguments of the compiled
        update, and not constants in it. With a `stream`: ``(key, streamed) -> batch``, or None for
        the streamed batch as it is.
    tx
        An optax transformation (`emjax.optim.optimizer`).
    ema_decay
        Decay d of the moving average; update t = 0, 1 … uses min(d, (1 + t) / (10 + t)), so that
        the first weights are soon forgotten.
    loop
        "scan": all n updates in one `lax.scan`. "host": one compiled update, dispatched n times.
        "auto": "host" on the CPU, where XLA takes its fast convolutions only outside of loops
        (jax#12868: the gradient of a 3×3 convolution is 15 to 40 times slower in a scan), and
        "scan" elsewhere. The updates are the same.
    accumulate
        Cut each batch into so many parts and add up their gradients: the memory of a part for the
        update of the whole (`emjax.gradients.value_and_grad`).
    remat
        Compute normalisations and activations again on the way back, instead of keeping them:
        less memory, a little more time, the same gradient.
    stream
        ``i -> pytree of NumPy arrays``: real data of update i, read on the host (in advance, if
        `stream` has a thread for it), always the same for the same i. Updates are then dispatched
        one by one. An attribute ``names(i) -> list of str`` tells where each image comes from.
        Where several processes train together, each reads the whole batch and sends its own part
        to its devices: the files are read as often as there are processes.
    devices
        Default: all, those of other processes included. Their number must divide the batch, or
        each computes all of it.
    shared
        Names of what belongs to no single image, such as ``("table", "model/codebook")``: whole on
        every device and in every part of an accumulated batch. What is not named is cut among them
        where its first axis is as long as the batch, be it by chance.

    Returns
    -------
    Step
        Consumes (donates) the state. `n` is static: with "scan" each new n compiles once. History
        holds arrays of shape (n,): ``loss``, ``grad_norm`` (before clipping), the metrics, and for
        `check_finite` ``finite`` (bool), ``bad_gradient`` and ``bad_batch`` (index of the first
        leaf with a NaN or infinity, or -1). An update that is not finite is not made, and those
        after it neither: the state is the last good one and its step counts the updates made.
    """
    return Step(
        loss,
        draw,
        tx,
        ema_decay=ema_decay,
        loop=loop,
        accumulate=accumulate,
        remat=remat,
        stream=stream,
        devices=devices,
        shared=shared,
    )


class Step:
    """n updates, compiled; made by `make_step`."""

    def __init__(
        self,
        loss: Loss,
        draw: Callable[..., Any] | None,
        tx: optax.GradientTransformation,
        *,
        ema_decay: float,
        loop: str,
        accumulate: int,
        remat: bool,
        stream: Callable[[int], Any] | None,
        devices: Sequence[jax.Device] | None,
        shared: Sequence[str] = (),
    ) -> None:
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay {ema_decay} must lie in [0, 1)")
        if loop not in ("auto", "host", "scan"):
            raise ValueError(f"loop {loop!r}: choose auto, host or scan")
        if draw is None and stream is None:
            raise ValueError("without a draw function a stream must give the batches")
        if stream is not None and loop == "scan":
            raise ValueError("a stream gives batches one by one: leave out loop='scan'")
        cpu = jax.default_backend() == "cpu"
        if loop == "auto":
            loop = "host" if cpu or stream is not None else "scan"
        self._loop, self._stream, self._accumulate = loop, stream, accumulate
        self._shared = (shared,) if isinstance(shared, str) else tuple(shared)
        self.mesh = sharding.data_mesh(devices)
        self._draw = as_partial(draw or _as_it_is)
        if self.mesh is not None:
            self._draw = sharding.replicate(self._draw, self.mesh)
        options = {"accumulate": accumulate, "remat": remat, "unroll": cpu}
        grad = gradients.value_and_grad(loss, **options, shared=self._shared)
        options = {"grad": grad, "tx": tx, "decay": ema_decay, "mesh": self.mesh}
        update = functools.partial(_update, **options, shared=self._shared)

        def scan(state: TrainState, key: jax.Array, given: tuple, n: int) -> tuple:
            return jax.lax.scan(lambda s, _: update(s, key, given), state, length=n)

        everywhere = None if self.mesh is None else sharding.everywhere(self.mesh)
        out: dict[str, Any] = {} if everywhere is None else {"out_shardings": everywhere}
        self._update = jax.jit(update, donate_argnums=0, **out)
        self._scan = jax.jit(scan, static_argnames="n", donate_argnums=0, **out)
        self._compiled: dict[Any, Any] = {}

    def __call__(self, state: TrainState, key: jax.Array, n: int) -> tuple[TrainState, History]:
        return self.compile(state, key, n)(state, key)

    def compile(
        self, state: TrainState, key: jax.Array, n: int
    ) -> Callable[[TrainState, jax.Array], tuple[TrainState, History]]:
        """Compile without running (once); the result takes ``(state, key)``."""
        kind = self._kind(state, key, n)
        if kind not in self._compiled:
            given = (self._draw, *self._streamed(int(state.step)))
            with self._on_mesh(), self.explaining(state, key, n):
                args = (*self._abstract((state, key)), given)
                lowered = (
                    self._scan.lower(*args, n=n)
                    if self._loop == "scan"
                    else self._update.lower(*args)
                )
                self._compiled[kind] = lowered.compile()
        compiled = self._compiled[kind]

        def run(state: TrainState, key: jax.Array) -> tuple[TrainState, History]:
            with self.explaining(state, key, n):
                if self.mesh is not None:
                    state, key = sharding.replicate((state, key), self.mesh)
                if self._loop == "scan":
                    return compiled(state, key, (self._draw,))
                return self._repeat(compiled, state, key, n)

        return run

    def batch_names(self, key: jax.Array) -> list[str]:
        """Paths of the batch's leaves, in the order that ``bad_batch`` counts."""
        return list(named_leaves(self._batch(key)))

    def bad_sources(self, i: int) -> str:
        """Which images of the stream's batch i are not finite, by name if the stream knows them."""
        return "" if self._stream is None else streamed.bad_images(self._stream, i)

    @contextlib.contextmanager
    def explaining(self, state: TrainState, key: jax.Array, n: int) -> Iterator[None]:
        """Where the device's memory runs out, tell which batch would fit."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, memory.OutOfMemoryError) or not memory.is_out_of_memory(error):
                raise
            device = jax.local_devices()[0] if self.mesh is None else self.mesh.local_devices[0]
            raise memory.explained(
                error,
                self._compiled.get(self._kind(state, key, n)),
                batch=sharding.batch_size(self._batch(key), self._shared),
                weights=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.params)),
                device=device,
                accumulate=self._accumulate,
            ) from error

    def _kind(self, state: TrainState, key: jax.Array, n: int) -> Any:
        leaves, tree = jax.tree.flatten((state, key))
        return tree, tuple((x.shape, x.dtype) for x in leaves), n if self._loop == "scan" else 0

    def _abstract(self, tree: Any) -> Any:
        if self.mesh is None:
            return tree
        place = sharding.everywhere(self.mesh)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    def _on_mesh(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def _batch(self, key: jax.Array) -> Any:
        given = () if self._stream is None else (streamed.read_batch(self._stream, 0),)
        return jax.eval_shape(functools.partial(draw_at, self._draw), key, jnp.int32(0), *given)

    def _streamed(self, i: int) -> tuple:
        """What the stream gives for update i, and i."""
        if self._stream is None:
            return ()
        batch, number = streamed.read_batch(self._stream, i), np.int32(i)
        if self.mesh is None:
            return batch, number
        placed = sharding.place_batch(batch, self.mesh, self._shared)
        return placed, sharding.replicate(number, self.mesh)

    def _repeat(
        self, update: Callable, state: TrainState, key: jax.Array, n: int
    ) -> tuple[TrainState, History]:
        first = int(state.step) if self._stream is not None else 0
        rows = []
        for i in range(first, first + n):  # dispatch only: nothing waits for a result
            state, row = update(state, key, (self._draw, *self._streamed(i)))
            rows.append(row)
        rows = jax.device_get(rows)
        return state, {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _as_it_is(key: jax.Array, given: Any) -> Any:
    return given


def _update(
    state: TrainState,
    key: jax.Array,
    given: tuple,
    *,
    grad: gradients.Gradient,
    tx: optax.GradientTransformation,
    decay: float,
    mesh: jax.sharding.Mesh | None,
    shared: tuple[str, ...],
) -> tuple[TrainState, History]:
    draw, *read = given
    number = read.pop() if read else state.step  # of the update, for which was read
    batch = draw_at(draw, key, state.step, *read)
    sharding.check_shared(batch, shared)
    if mesh is not None:
        batch = sharding.split_over_devices(batch, mesh, shared)
    (loss, metrics), grads = grad(state.params, batch)
    for name, value in metrics.items():
        if jnp.shape(value):
            raise ValueError(f"metric {name!r} of the loss has shape {value.shape}; take its mean")
    squares = jnp.stack([jnp.sum(jnp.square(jnp.abs(g))) for g in jax.tree.leaves(grads)])
    finite = jnp.isfinite(loss) & jnp.all(jnp.isfinite(squares))
    finite &= state.step == number  # none after one that was not made

    tx = optax.with_extra_args_support(tx)
    updates, opt_state = tx.update(grads, state.opt_state, state.params, value=loss)
    params = optax.apply_updates(state.params, updates)
    t = state.step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + t) / (10 + t))
    ema = jax.tree.map(
        lambda old, new: (d * old + (1 - d) * new).astype(old.dtype), state.ema, params
    )
    new = TrainState(params, ema, opt_state, state.step + 1)
    new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
    history = {
        **metrics,
        "loss": loss,
        "grad_norm": jnp.sqrt(jnp.sum(squares)),
        "finite": finite,
        "bad_gradient": _first_bad(squares),
        "bad_batch": _first_bad(jnp.array([_all_finite(x) for x in jax.tree.leaves(batch)])),
    }
    return new, history


def _all_finite(x: jax.Array) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jnp.inexact):  # counts, labels, random keys
        return jnp.array(True)
    return jnp.all(jnp.isfinite(x))


def _first_bad(values: jax.Array) -> jax.Array:
    """Index of the first entry that is False or not finite, or -1."""
    good = values if values.dtype == bool else jnp.isfinite(values)
    return jnp.where(jnp.all(good), -1, jnp.argmin(good)).astype(jnp.int32)


def check_finite(
    history: Mapping[str, Any],
    first: int,
    params: Params,
    batch_names: Callable[[], list[str]] = list,
) -> None:
    """Look through the history of one call of a step.

    Parameters
    ----------
    history
        What the step returned.
    first
        Number of the call's first update.
    params
        For the names of the gradient's leaves.
    batch_names
        Called in case of need.

    Raises
    ------
    NonFiniteError
        Names the update, and the first of: a leaf of the batch, the loss, a leaf of the gradient.
    """
    finite = np.asarray(history["finite"])
    if finite.all():
        return
    i = int(np.argmin(finite))
    value = float(history["loss"][i])
    batch, leaf = int(history["bad_batch"][i]), int(history["bad_gradient"][i])
    names = list(named_leaves(params))
    if batch >= 0:
        culprit = f"the batch: {batch_names()[batch]} holds NaN or infinity"
    elif not np.isfinite(value):
        culprit = f"the loss is {value}"
    else:
        culprit = f"the loss is {value:.6g}, but its gradient is not finite"
    if leaf >= 0:
        culprit += f" (first gradient that is NaN or infinite: {names[leaf]})"
    before = ", ".join(f"{float(v):.4g}" for v in np.asarray(history["loss"])[max(i - 5, 0) : i])
    raise NonFiniteError(
        f"update {first + i} is not finite: {culprit}."
        + (f" Losses before it: {before}." if before else "")
    )
