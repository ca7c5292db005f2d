"""bfloat16 arithmetic around float32 weights.

Weights, gradients, the optimiser's state and the loss stay float32; the network alone computes
with 8 bits of mantissa, in half the memory and at several times the speed of float32 on the matrix
units of GPUs and TPUs (Kalamkar et al. 2019, arXiv:1905.12322). bfloat16 has float32's exponent, so
that gradients do not underflow and the loss is not scaled (float16 would need that, Micikevicius et
al. 2018). On a CPU it is usually slower than float32.

Networks of `emjax.networks` take ``dtype="bfloat16"`` themselves; `mixed` does it for any network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Apply = Callable[[Any, jax.Array], Any]


def mixed(apply: Apply, dtype: Any = jnp.bfloat16) -> Apply:
    """The network in another precision, for the same float32 weights and with float32 results.

    Parameters
    ----------
    apply
        ``(params, x) -> y``; `y` may be a pytree.
    dtype
        bfloat16, or float32 (which changes nothing). The gradient of a conversion is the conversion
        back: gradients are float32.

    Raises
    ------
    ValueError
        float16, whose range is too small for gradients without a scaled loss; or no float type.
    """
    dtype = jnp.dtype(dtype)
    if dtype not in (jnp.bfloat16, jnp.float32):
        raise ValueError(f"dtype {dtype}: choose bfloat16 or float32 (float16 would underflow)")

    def lower(params: Any, x: jax.Array) -> Any:
        return convert(apply(convert(params, dtype), convert(x, dtype)), jnp.float32)

    return lower


def convert(tree: Any, dtype: Any) -> Any:
    """Floating-point leaves in another width; integers, booleans and random keys as they are."""

    def one(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype) if floating else leaf

    return jax.tree.map(one, tree)
