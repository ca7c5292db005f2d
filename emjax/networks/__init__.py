"""Networks: one architecture a file, all with one signature.

A network is ``(apply, params)``: ``apply(params, x[b, y, x, c]) -> y[b, y, x, k]`` is a pure
function and `params` a nested dict of arrays. `build` makes one by name:

>>> import jax
>>> apply, params = build("unet", jax.random.key(0), inputs=2, outputs=1, widths=(8, 8))
>>> apply(params, jax.numpy.zeros((1, 30, 21, 2))).shape
(1, 30, 21, 1)

To add one: write ``emjax/networks/NAME.py`` with a class of `flax.nnx.Module` (arguments by name,
`rngs` last), and its line in `NETWORKS`. The contract tests pick it up.
"""

from __future__ import annotations

import difflib
from typing import Any

import jax

from emjax.networks.pure import Apply, count, pure
from emjax.networks.unet import UNet

__all__ = ["NETWORKS", "Apply", "build", "count", "pure"]

NETWORKS: dict[str, Any] = {"unet": UNet}
"""Architectures by name."""


def build(name: str, key: jax.Array, **args: Any) -> tuple[Apply, dict[str, Any]]:
    """``(apply, params)`` of a registered architecture.

    Parameters
    ----------
    name : of `NETWORKS`.
    key : random key of the initial weights.
    **args : of the architecture.

    Raises
    ------
    ValueError : an unknown name (suggests some) or an argument that the architecture does not have.
    """
    if name not in NETWORKS:
        close = difflib.get_close_matches(name, NETWORKS, n=3, cutoff=0.4)
        known = ", ".join(close or sorted(NETWORKS))
        hint = f"Did you mean {known}?" if close else f"There are: {known}."
        raise ValueError(f"there is no network {name!r}. {hint} Your own is path/to/file.py:Name")
    try:
        return pure(NETWORKS[name], key, **args)
    except TypeError as error:
        raise ValueError(f"the network {name!r} cannot be made with {args}: {error}") from error
