"""The loss of column maps: where atom columns are, and of which species."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from emjax.losses.basics import Loss


def column_loss(
    apply: Callable[[Any, jax.Array], jax.Array],
    *,
    kind_weight: float = 0.5,
    peak_weight: float = 4.0,
) -> Loss:
    """Where columns are, and of which species.

    Parameters
    ----------
    apply : network ``(params, x[b, y, x, c]) -> logits [b, y, x, 1 + k]``.
    kind_weight : weight of the species.
    peak_weight : pixels on a site count 1 + peak_weight times as much as those between, whether a
        column is there or has gone: the network is to look, not to complete the lattice.

    Returns
    -------
    loss
        Of batches with ``image``, ``heat`` and ``vacant`` [b, y, x] and ``species`` [b, y, x, k] as
        `data.synthetic` draws them: binary cross-entropy with the heat map (the minimum is the
        expected heat map, so a column whose place is uncertain becomes low and broad), and
        cross-entropy of the species near the columns.

    Raises
    ------
    ValueError : when called, maps of another shape than the network's.
    """

    def loss(params: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = apply(params, batch["image"])
        heat, species = batch["heat"], batch["species"]
        shapes = (*logits.shape[:-1], logits.shape[-1] - 1), logits.shape[:-1], logits.shape[:-1]
        given = species.shape, heat.shape, batch["vacant"].shape
        if given != shapes:  # they would broadcast
            raise ValueError(
                f"species, heat and vacant have shapes {given}; a network that gives {logits.shape}"
                f" needs {shapes}"
            )
        place = binary_cross_entropy(logits[..., 0], heat)
        place = place - binary_entropy(heat)  # what is left is 0 for a perfect heat map
        place = (place * (1 + peak_weight * (heat + batch["vacant"]))).mean()
        kind = -(species * jax.nn.log_softmax(logits[..., 1:])).sum(-1)
        near = jnp.square(heat)
        kind = (kind * near).sum() / (near.sum() + 1)
        right = (logits[..., 1:].argmax(-1) == species.argmax(-1)) * near
        metrics = {"place": place, "kind": kind, "kind_right": right.sum() / (near.sum() + 1)}
        return place + kind_weight * kind, metrics

    return loss


def binary_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """-t ln σ(x) - (1 - t) ln(1 - σ(x)) for targets 0 to 1, in a form that does not overflow."""
    return jax.nn.softplus(logits) - target * logits


def binary_entropy(t: jax.Array) -> jax.Array:
    """-t ln t - (1 - t) ln(1 - t), 0 at both ends: the least that the cross-entropy can be."""
    return -(jax.scipy.special.xlogy(t, t) + jax.scipy.special.xlogy(1 - t, 1 - t))
