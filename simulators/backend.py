"""Which array module computes a number, and to which precision.

Phases such as 2πk·r or πλΔz k² reach hundreds of radians, where float32 keeps only four or five
digits. Numbers that are known before tracing (Python floats, NumPy arrays) are therefore computed
in NumPy float64 and cast at the end; tracers and JAX arrays are computed by JAX in their own
precision. A simulator called with a plain energy gives float64-exact propagators in a float32 run;
the same function under `jax.grad` with respect to that energy still works.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_concrete(*values: Any) -> bool:
    """True when every leaf is a Python number or a NumPy array (nothing of JAX's)."""
    return not any(isinstance(v, jax.Array) for v in jax.tree_util.tree_leaves(values))


def is_number(value: Any) -> bool:
    """True for one known real number, whatever its type; not for what is traced."""
    if isinstance(value, (jax.core.Tracer, bool, str)) or value is None:
        return False
    return np.ndim(value) == 0 and np.isrealobj(value)


def known(tree: Any) -> Any:
    """The tree with JAX arrays that are not traced as NumPy arrays, single numbers as floats.

    Values that a user computed with JAX are then checked, and computed with, like any others.
    """

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            leaf = np.asarray(leaf)
            return leaf.item() if leaf.ndim == 0 else leaf
        return leaf

    return jax.tree_util.tree_map(one, tree)


def array_module(*values: Any) -> ModuleType:
    """`numpy` for concrete values, `jax.numpy` otherwise."""
    return np if is_concrete(*values) else jnp


def real_dtype(dtype: Any = None) -> Any:
    """The real dtype of a computation: `dtype`, or JAX's default float."""
    if dtype is None:
        return jnp.zeros(()).dtype
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        dtype = np.dtype(f"f{dtype.itemsize // 2}")
    if dtype == np.float64 and not jax.config.jax_enable_x64:
        raise ValueError(
            "float64 was asked for but JAX runs in float32: set jax.config.update("
            "'jax_enable_x64', True) or JAX_ENABLE_X64=1 before the first computation"
        )
    return dtype


def real_of(array: Any) -> Any:
    """Real dtype of an array's numbers; `array.real` would copy them."""
    return np.zeros((), array.dtype).real.dtype


def complex_dtype(dtype: Any = None) -> Any:
    """The complex dtype that goes with `real_dtype(dtype)`."""
    return np.dtype(np.complex128 if real_dtype(dtype) == np.float64 else np.complex64)
