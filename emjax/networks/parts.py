"""Several functions of one network: an encoder and a decoder that share a dict of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from emjax.networks.pure import _named, _numbered


def parts(
    module: Callable[..., nnx.Module], key: jax.Array, *names: str, **args: Any
) -> tuple[dict[str, Callable], dict[str, Any]]:
    """Methods of a module as pure functions: `networks.pure` for networks with more than one use.

    Parameters
    ----------
    module : class of `nnx.Module`.
    key : random key of the initial weights (the same as `networks.build` makes from it).
    *names : methods, ``"encode", "decode"``.
    **args : of the module.

    Returns
    -------
    functions : for each name, and for ``"apply"``, ``(params, *inputs) -> outputs``.
    params : nested dict of arrays.

    Raises
    ------
    ValueError : the module has no such method, or state besides its parameters.
    """
    made = module(**args, rngs=nnx.Rngs(key))
    for name in names:
        if not callable(getattr(made, name, None)):
            raise ValueError(f"{type(made).__name__} has no method {name!r}")
    graph, params, rest = nnx.split(made, nnx.Param, ...)
    if jax.tree.leaves(rest):
        raise ValueError(f"{type(made).__name__} keeps state besides its parameters")

    def function(name: str) -> Callable:
        def run(params: Any, *inputs: Any, **more: Any) -> Any:
            return getattr(nnx.merge(graph, _numbered(params), rest), name)(*inputs, **more)

        return run

    functions = {name: function(name) for name in names}
    return {**functions, "apply": function("__call__")}, _named(nnx.to_pure_dict(params))
