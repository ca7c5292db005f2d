"""One formula for NumPy and for JAX: which of the two computes, and in what precision."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

__all__ = [
    "Array",
    "divide",
    "labels_of",
    "module_of",
    "numbers",
    "pair_table",
    "root",
    "same_shape",
    "square",
]

Array = Any
"""A NumPy array (or what becomes one): float64 reference; or a JAX array: in `jit`."""


def module_of(*values: Any) -> ModuleType:
    """`jax.numpy` when one of the values is JAX's, else `numpy`."""
    jax = sys.modules.get("jax")  # without it no value can be JAX's, and NumPy starts faster
    if jax is not None and any(isinstance(v, jax.Array) for v in values):
        return jax.numpy
    return np


def numbers(*values: Any, names: tuple[str, ...] = ("prediction", "truth")) -> tuple[Any, ...]:
    """(module, arrays …): the values as real or complex numbers of one precision.

    NumPy: float64 (complex128), and refused unless finite. JAX: at least its default float.

    Raises
    ------
    ValueError : NaN or infinity in a NumPy array.
    """
    xp = module_of(*values)
    if xp is np:
        arrays = [np.asarray(v) for v in values]
        kind = complex if any(a.dtype.kind == "c" for a in arrays) else float
        arrays = [a.astype(kind) for a in arrays]
        for array, name in zip(arrays, names, strict=False):
            bad = array.size - int(np.isfinite(array).sum())
            if bad:
                raise ValueError(
                    f"{name}: {bad} of {array.size} values are not finite. A metric of these would "
                    "mean nothing: mask or repair them first, and say how many they were."
                )
        return xp, *arrays
    values = tuple(xp.asarray(v) for v in values)
    dtype = xp.promote_types(xp.result_type(*values), xp.zeros(()).dtype)
    return xp, *(v.astype(dtype) for v in values)


def same_shape(a: Any, b: Any, names: tuple[str, str] = ("prediction", "truth")) -> None:
    """Raise ValueError unless both shapes are equal, with something in them.

    Broadcasting would hide a mistake, and the mean of nothing is no result.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(
            f"{names[0]} has shape {np.shape(a)} and {names[1]} {np.shape(b)}: they must be equal."
        )
    if np.size(a) == 0:
        raise ValueError(f"{names[0]} {np.shape(a)} is empty: at least one value is needed.")


def divide(xp: ModuleType, a: Any, b: Any, otherwise: float = float("nan")) -> Any:
    """a / b, and `otherwise` where b is 0; without warnings, and with finite gradients."""
    zero = b == 0
    value = xp.where(zero, otherwise, a / xp.where(zero, 1, b))
    return float(value) if xp is np and np.ndim(value) == 0 else value


def square(xp: ModuleType, values: Any) -> Any:
    """|values|², real; its gradient at 0 is 0, which that of a complex modulus is not."""
    return (values * xp.conj(values)).real


def root(xp: ModuleType, values: Any) -> Any:
    """Square root with gradient 0 at 0 instead of infinity; NaN stays NaN."""
    none = values <= 0
    return xp.where(none, 0.0, xp.sqrt(xp.where(none, 1.0, values)))


def labels_of(labels: Any, name: str, *, count: int | None = None, keep: Any = None) -> np.ndarray:
    """A NumPy label array, checked: whole numbers, and 0 <= label < count where `keep` is True.

    Raises
    ------
    ValueError : fractions, or labels outside the classes.
    """
    array = np.asarray(labels)
    if array.dtype.kind not in "biu":
        whole = np.isfinite(array) & (array == np.round(array))
        if not whole.all():
            raise ValueError(
                f"{name}: {int((~whole).sum())} of {array.size} labels are not whole numbers. "
                "Turn probabilities into labels first (argmax, or a threshold)."
            )
        array = array.astype(np.int64)
    array = array.astype(np.int64)
    if count is not None:
        wrong = (array < 0) | (array >= count)
        if keep is not None:
            wrong &= keep
        if wrong.any():
            raise ValueError(
                f"{name}: {int(wrong.sum())} labels lie outside the {count} classes (0 to "
                f"{count - 1}), for example {array[wrong].flat[0]}. Name the label to leave out "
                "with ignore=…, or raise the number of classes."
            )
    return array


def pair_table(xp: ModuleType, rows: Any, columns: Any, n_rows: int, n_columns: int) -> Any:
    """How often each pair of labels occurs: [n_rows, n_columns]; other labels count nowhere.

    In JAX a product of one-hot matrices: scattering into a table this small is slow on a GPU.
    Sums of ones are exact in float32 up to 2**24 pixels.
    """
    rows, columns = rows.reshape(-1), columns.reshape(-1)
    if xp is np:
        inside = (rows >= 0) & (rows < n_rows) & (columns >= 0) & (columns < n_columns)
        code = rows[inside] * n_columns + columns[inside]
        return np.bincount(code, minlength=n_rows * n_columns).reshape(n_rows, n_columns)
    if rows.size > 2**24:
        raise ValueError(
            f"{rows.size} pixels in one table: above {2**24} float32 cannot count. Add the tables "
            "of parts, or pass NumPy arrays."
        )
    dtype = xp.zeros(()).dtype
    one = (rows[None, :] == xp.arange(n_rows)[:, None]).astype(dtype)
    other = (columns[:, None] == xp.arange(n_columns)[None, :]).astype(dtype)
    return xp.matmul(one, other, precision="highest")
