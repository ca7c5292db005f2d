"""Transfer learning: weights of one network in another, some of them frozen, with a new head.

>>> import jax.numpy as jnp
>>> old = {"encoder": {"kernel": jnp.ones((3, 3))}, "head": {"kernel": jnp.ones((3, 2))}}
>>> new = {"encoder": {"kernel": jnp.zeros((3, 3))}, "head": {"kernel": jnp.zeros((3, 5))}}
>>> params, report = transfer(old, new)
>>> report.copied, report.other_shape
(('encoder/kernel',), ('head/kernel',))

A weight is named by its path in the tree of parameters. A pattern stands for a path, or for all
that lies below: ``encoder``, ``encoder/0``, ``*/norm``, ``encoder/[01]`` (`fnmatch`; a ``*`` does
not stop at a slash).
"""

from __future__ import annotations

import difflib
import fnmatch
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import h5py
import jax
import numpy as np
import optax

from emjax.checkpoints import FORMAT as CHECKPOINT
from emjax.checkpoints import SCHEMA as CHECKPOINT_SCHEMA
from emjax.checkpoints import named_leaves, read_leaves
from emjax.h5_files import CheckpointError, datasets, reading
from emjax.models import FORMAT, SCHEMA, Model, find_model


@dataclass(frozen=True)
class Transferred:
    """What `transfer` did; paths are those of the new network."""

    copied: tuple[str, ...]
    """Taken from the old network."""
    other_shape: tuple[str, ...]
    """There, but of another shape: still new."""
    missing: tuple[str, ...]
    """Not in the old network (or not asked for): still new."""
    unused: tuple[str, ...]
    """Paths of the old network that found no place."""

    def __str__(self) -> str:
        words = [f"{len(self.copied)} arrays of weights were taken over"]
        for paths, what in (
            (self.other_shape, "have another shape and start anew"),
            (self.missing, "start anew"),
            (self.unused, "of the old network are not used"),
        ):
            if paths:
                more = ", …" if len(paths) > 3 else ""
                words.append(f"{len(paths)} {what} ({', '.join(paths[:3])}{more})")
        return "; ".join(words)


def transfer(
    source: Any,
    params: Any,
    *,
    only: str | Sequence[str] = "*",
    rename: Mapping[str, str] | None = None,
) -> tuple[Any, Transferred]:
    """Copy the weights that fit, by path and shape.

    Parameters
    ----------
    source
        The old network: parameters, a `Model`, or what `load_weights` takes (file, run, name).
    params
        Of the new network, freshly initialised.
    only
        Patterns of the new paths that are wanted.
    rename
        Beginning of an old path -> beginning of the new one (``{"encoder": "backbone"}``).

    Returns
    -------
    params, report
        New arrays where nothing was copied are those given; dtypes are those of `params`.

    Raises
    ------
    ValueError
        Nothing fits, or `only` stands for nothing.
    CheckpointError
        See `load_weights`.
    """
    if isinstance(source, Model):
        source = source.params
    elif isinstance(source, str | os.PathLike):
        source = load_weights(source)
    old = {_renamed(name, rename or {}): leaf for name, leaf in named_leaves(source).items()}
    new = named_leaves(params)
    chosen = set(select(params, only))
    copied, shapes, missing, leaves = [], [], [], []
    for name, leaf in new.items():
        if name not in chosen or name not in old:
            missing.append(name)
        elif np.shape(old[name]) != np.shape(leaf):
            shapes.append(name)
        else:
            copied.append(name)
            leaf = jax.numpy.asarray(old[name], leaf.dtype)
        leaves.append(leaf)
    if not copied:
        raise ValueError(
            f"no weight of the old network fits into the new one: it has {_some(old)}, the new "
            f"one {_some({n: new[n] for n in chosen})}. Different names can be told with `rename`"
        )
    unused = tuple(name for name in old if name not in copied)
    made = jax.tree.unflatten(jax.tree.structure(params), leaves)
    return made, Transferred(tuple(copied), tuple(shapes), tuple(missing), unused)


def replace_head(old: Any, new: Any, head: str | Sequence[str]) -> Any:
    """The old weights with those below `head` from a newly initialised network.

    Parameters
    ----------
    old : trained parameters, or whatever `transfer` takes.
    new : parameters of the same architecture with another head (number of classes).
    head : patterns of the paths that are new.

    Raises
    ------
    ValueError : a weight outside of the head does not fit; names it, so that a body is never
        random without notice.
    """
    fresh = set(select(new, head))
    body = [name for name in named_leaves(new) if name not in fresh]
    if not body:
        raise ValueError(f"everything lies in the head {head}: nothing would be taken over")
    params, report = transfer(old, new, only=body)
    lost = [name for name in body if name not in report.copied]
    if lost:
        raise ValueError(
            f"{len(lost)} arrays outside of the head {head} are not in the old network, or have "
            f"another shape there: {', '.join(lost[:5])}. Build the new network with the old "
            "one's arguments, or name them in `head`"
        )
    return params


def freeze(
    tx: optax.GradientTransformation, params: Any, patterns: str | Sequence[str]
) -> optax.GradientTransformation:
    """An optimiser that leaves some weights as they are.

    Frozen weights get no update of any kind (no weight decay), keep no moments, and do not enter
    the norm by which gradients are clipped.

    Parameters
    ----------
    tx : optimiser of the others.
    params : of the network, for the paths.
    patterns : what is frozen.

    Raises
    ------
    ValueError : a pattern stands for no weight (suggests some), or all are frozen.
    """
    frozen = set(select(params, patterns))
    if len(frozen) == len(named_leaves(params)):
        raise ValueError(f"{patterns} stands for all weights: nothing is left to train")

    def label(params: Any) -> Any:
        names = ["frozen" if name in frozen else "trained" for name in named_leaves(params)]
        return jax.tree.unflatten(jax.tree.structure(params), names)

    return optax.multi_transform({"trained": tx, "frozen": optax.set_to_zero()}, label)


def select(params: Any, patterns: str | Sequence[str]) -> list[str]:
    """Paths of the weights that patterns stand for, in the order of the tree.

    Raises
    ------
    ValueError : a pattern that stands for none.
    """
    names = list(named_leaves(params))
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in names if _matches(name, pattern)]
        if not found:
            beginnings = {"/".join(n.split("/")[: k + 1]) for n in names for k in range(3)}
            close = difflib.get_close_matches(pattern, sorted(beginnings), n=3, cutoff=0.5)
            tops = sorted({name.split("/")[0] for name in names})
            raise ValueError(
                f"no weight lies at {pattern!r}. "
                + (f"Did you mean {', '.join(close)}?" if close else f"There are: {_some(tops)}")
            )
        chosen.update(found)
    return [name for name in names if name in chosen]


def load_weights(source: str | os.PathLike) -> dict[str, Any]:
    """The weights of a file as they lie there, without building the network.

    `emjax.models.load_model` is for using a network; this reads weights whose architecture has
    changed since, or was never registered here.

    Parameters
    ----------
    source : a model's file, a run's folder, a shipped name (as for `load_model`), or a
        ``checkpoint.h5`` of a training (its averaged weights).

    Returns
    -------
    dict : nested, of float32 arrays.

    Raises
    ------
    CheckpointError : nothing of that name, a damaged or foreign file.
    """
    path = find_model(source)
    with h5py.File(path) if h5py.is_hdf5(path) else reading(path, FORMAT, SCHEMA) as file:
        kind = file.attrs.get("format")
    if kind == CHECKPOINT:
        with reading(path, CHECKPOINT, CHECKPOINT_SCHEMA) as file:
            for place in ("leaves/state/ema", "leaves/ema"):
                if place in file:
                    return _tree(file[place])
        raise CheckpointError(f"{path} is a checkpoint, but not of a training: it has no weights")
    with reading(path, FORMAT, SCHEMA) as file:
        return _tree(file["params"])


def _tree(group: h5py.Group) -> dict[str, Any]:
    """All leaves below a group, their checksums checked."""
    like: dict[str, Any] = {}
    for name, data in datasets(group).items():
        *folders, last = [unquote(part) for part in name.split("/")]
        inner = like
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = jax.ShapeDtypeStruct(data.shape, np.float32)
    return read_leaves(group, like, cast=True)


def _matches(name: str, pattern: str) -> bool:
    """The pattern stands for the path, or for a folder above it."""
    parts = name.split("/")
    above = ("/".join(parts[: k + 1]) for k in range(len(parts)))
    return any(fnmatch.fnmatchcase(part, pattern.rstrip("/")) for part in above)


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    for old, new in rename.items():
        if name == old or name.startswith(old.rstrip("/") + "/"):
            return new.rstrip("/") + name[len(old.rstrip("/")) :]
    return name


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
