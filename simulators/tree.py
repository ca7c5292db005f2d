"""Frozen dataclasses as JAX pytrees.

``jax.tree_util.register_dataclass`` rebuilds through ``__init__``, which runs the checks of
``__post_init__`` on whatever JAX puts into the leaves (tracers, ``None``, sharding specs). Here the
object is rebuilt with ``object.__new__``: checks run once, where a person made the object.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(default: Any = dataclasses.MISSING, **kwargs: Any) -> Any:
    """A field that is part of the tree's structure: hashable, known while tracing."""
    metadata = {**kwargs.pop("metadata", {}), "static": True}
    if default is not dataclasses.MISSING:
        kwargs["default"] = default
    return dataclasses.field(metadata=metadata, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and a pytree; fields made by `static` are not leaves."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    leaves = tuple(f.name for f in fields if not f.metadata.get("static"))
    fixed = tuple(f.name for f in fields if f.metadata.get("static"))

    def flatten_with_keys(obj: Any) -> tuple:
        children = tuple((jax.tree_util.GetAttrKey(n), getattr(obj, n)) for n in leaves)
        return children, tuple(getattr(obj, n) for n in fixed)

    def flatten(obj: Any) -> tuple:
        return tuple(getattr(obj, n) for n in leaves), tuple(getattr(obj, n) for n in fixed)

    def unflatten(aux: tuple, children: tuple) -> Any:
        obj = object.__new__(cls)
        for name, value in zip(leaves, children, strict=True):
            object.__setattr__(obj, name, value)
        for name, value in zip(fixed, aux, strict=True):
            object.__setattr__(obj, name, value)
        return obj

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def replace(obj: T, **changes: Any) -> T:
    """`dataclasses.replace` that does not run `__post_init__` (works on tracers)."""
    new = object.__new__(type(obj))
    for field in dataclasses.fields(obj):  # type: ignore[arg-type]
        object.__setattr__(new, field.name, changes.pop(field.name, getattr(obj, field.name)))
    if changes:
        raise TypeError(f"{type(obj).__name__} has no field {sorted(changes)[0]!r}")
    return new
