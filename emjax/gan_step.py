"""Alternating updates of a generator and its critic, compiled together.

Used as the step of `emjax.training.make_step` is, by `emjax.training.fit` too::

    losses = gan_losses(generator, critic, kind="wgan")
    state = init_gan_state(generator_params, critic_params, tx, critic_tx)
    step = make_gan_step(*losses, draw, tx, critic_tx, n_critic=5)
    state, history = step(state, key, 100)      # 100 updates of the generator, 500 of the critic
    state.ema                                   # the generator's averaged weights
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from emjax import sharding
from emjax.adversarial import AdversarialLoss
from emjax.schedules import takes_step
from emjax.training_step import (
    History,
    Params,
    Step,
    TrainState,
    _all_finite,
    _first_bad,
    init_state,
)


def init_gan_state(
    generator: Params,
    critic: Params,
    tx: optax.GradientTransformation,
    critic_tx: optax.GradientTransformation | None = None,
) -> TrainState:
    """The state before the first update.

    Parameters
    ----------
    generator, critic
        Weights; of several networks, a dict of theirs. They are copied.
    tx, critic_tx
        Optimisers of both; the critic's is the generator's, if it is not given.

    Returns
    -------
    TrainState
        `params` and `opt_state` have the keys ``generator`` and ``critic``; `ema` is the moving
        average of the generator's weights alone.
    """
    players = init_state(generator, tx), init_state(critic, critic_tx or tx)
    return TrainState(
        params={"generator": players[0].params, "critic": players[1].params},
        ema=players[0].ema,
        opt_state={"generator": players[0].opt_state, "critic": players[1].opt_state},
        step=players[0].step,
    )


def make_gan_step(
    generator_loss: AdversarialLoss,
    critic_loss: AdversarialLoss,
    draw: Callable[[jax.Array], Any],
    tx: optax.GradientTransformation,
    critic_tx: optax.GradientTransformation | None = None,
    *,
    n_critic: int = 1,
    ema_decay: float = 0.999,
    loop: str = "auto",
    devices: Sequence[jax.Device] | None = None,
) -> GanStep:
    """Make ``step(state, key, n) -> (state, history)``: n updates of the generator.

    Parameters
    ----------
    generator_loss, critic_loss
        ``(key, own params, the other's params, batch) -> (scalar, metrics)``, as
        `emjax.adversarial.gan_losses` and `cycle_losses` make them.
    draw
        ``key -> batch``. Each update draws a batch for each of the critic's updates and one for the
        generator's.
    tx, critic_tx
        Optimisers, as in `init_gan_state`.
    n_critic
        Updates of the critic before each of the generator: 5 is usual with a gradient penalty
        (a Wasserstein critic should be nearly converged), 1 with the other losses.
    ema_decay, loop, devices
        See `emjax.training.make_step`.

    Returns
    -------
    GanStep
        As a `Step`. History holds ``loss``, ``grad_norm`` and the metrics of the generator,
        ``critic_loss``, ``critic_grad_norm`` and ``critic_…`` (means over the critic's updates),
        and what `check_finite` needs. An update of which any part is not finite is not made.

    Raises
    ------
    ValueError
        n_critic below 1, or an argument that `make_step` refuses.
    """
    return GanStep(
        generator_loss,
        critic_loss,
        draw,
        tx,
        critic_tx or tx,
        n_critic=n_critic,
        ema_decay=ema_decay,
        loop=loop,
        devices=devices,
    )


class GanStep(Step):
    """n alternating updates, compiled; made by `make_gan_step`."""

    def __init__(
        self,
        generator_loss: AdversarialLoss,
        critic_loss: AdversarialLoss,
        draw: Callable[[jax.Array], Any],
        tx: optax.GradientTransformation,
        critic_tx: optax.GradientTransformation,
        *,
        n_critic: int,
        ema_decay: float,
        loop: str,
        devices: Sequence[jax.Device] | None,
    ) -> None:
        if n_critic < 1:
            raise ValueError(f"n_critic {n_critic}: the critic needs at least one update")
        # some transformations judge the loss itself (`cap_spikes`)
        tx, critic_tx = (optax.with_extra_args_support(t) for t in (tx, critic_tx))
        # sets up all but the update itself, whose gradient is replaced here
        super().__init__(
            _no_loss,
            draw,
            tx,
            ema_decay=ema_decay,
            loop=loop,
            accumulate=1,
            remat=False,
            stream=None,
            devices=devices,
        )
        update = functools.partial(
            _update,
            grad=jax.value_and_grad(generator_loss, argnums=1, has_aux=True),
            critic_grad=jax.value_and_grad(critic_loss, argnums=1, has_aux=True),
            tx=tx,
            critic_tx=critic_tx,
            n_critic=n_critic,
            unroll=self._loop == "host",  # loops are slow on the CPU: see make_step
            decay=ema_decay,
            mesh=self.mesh,
        )

        def scan(state: TrainState, key: jax.Array, given: tuple, n: int) -> tuple:
            return jax.lax.scan(lambda s, _: update(s, key, given), state, length=n)

        out: dict[str, Any] = (
            {} if self.mesh is None else {"out_shardings": sharding.everywhere(self.mesh)}
        )
        self._update = jax.jit(update, donate_argnums=0, **out)
        self._scan = jax.jit(scan, static_argnames="n", donate_argnums=0, **out)


def _no_loss(params: Params, batch: Any) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    raise NotImplementedError("a GanStep has two losses")


def _update(
    state: TrainState,
    key: jax.Array,
    given: tuple,
    *,
    grad: Callable,
    critic_grad: Callable,
    tx: optax.GradientTransformation,
    critic_tx: optax.GradientTransformation,
    n_critic: int,
    unroll: bool,
    decay: float,
    mesh: jax.sharding.Mesh | None,
) -> tuple[TrainState, History]:
    (draw,) = given
    here = jax.random.fold_in(key, state.step)
    generator = state.params["generator"]

    def drawn(i: jax.Array | int) -> tuple[jax.Array, Any, jax.Array]:
        noise, k = jax.random.split(jax.random.fold_in(here, i))
        batch = draw(k, step=state.step) if takes_step(draw) else draw(k)
        if mesh is not None:
            batch = sharding.split_over_devices(batch, mesh)
        leaves = jnp.array([_all_finite(x) for x in jax.tree.leaves(batch)])
        return noise, batch, leaves

    def improve(carry: tuple, i: jax.Array) -> tuple[tuple, tuple]:
        critic, opt_state = carry
        noise, batch, leaves = drawn(i)
        (loss, metrics), slopes = critic_grad(noise, critic, generator, batch)
        updates, opt_state = critic_tx.update(slopes, opt_state, critic, value=loss)
        squares = _squares(slopes)
        row = {"loss": loss, "grad_norm": jnp.sqrt(squares.sum()), **metrics}
        return (optax.apply_updates(critic, updates), opt_state), (row, squares, leaves)

    (critic, critic_opt), (rows, critic_squares, critic_leaves) = jax.lax.scan(
        improve,
        (state.params["critic"], state.opt_state["critic"]),
        jnp.arange(n_critic),
        unroll=n_critic if unroll else 1,
    )
    noise, batch, leaves = drawn(n_critic)
    (loss, metrics), slopes = grad(noise, generator, critic, batch)
    updates, opt_state = tx.update(slopes, state.opt_state["generator"], generator, value=loss)
    generator = optax.apply_updates(generator, updates)

    # in the order of the leaves of {"critic": …, "generator": …}
    own_squares = _squares(slopes)
    squares = jnp.concatenate([critic_squares.sum(0), own_squares])
    finite = jnp.isfinite(loss) & jnp.isfinite(rows["loss"]).all() & jnp.isfinite(squares).all()
    t = state.step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + t) / (10 + t))
    ema = jax.tree.map(
        lambda old, new: (d * old + (1 - d) * new).astype(old.dtype), state.ema, generator
    )
    new = TrainState(
        params={"generator": generator, "critic": critic},
        ema=ema,
        opt_state={"generator": opt_state, "critic": critic_opt},
        step=state.step + 1,
    )
    new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
    history = {
        **metrics,
        "loss": loss,
        "grad_norm": jnp.sqrt(own_squares.sum()),
        **{f"critic_{name}": value.mean(0) for name, value in rows.items()},
        "finite": finite,
        "bad_gradient": _first_bad(squares),
        "bad_batch": _first_bad(leaves & critic_leaves.all(0)),
    }
    for name, value in history.items():
        if jnp.shape(value):
            raise ValueError(f"metric {name!r} of a loss has shape {value.shape}; take its mean")
    return new, history


def _squares(slopes: Params) -> jax.Array:
    return jnp.stack([jnp.sum(jnp.square(jnp.abs(g))) for g in jax.tree.leaves(slopes)])
