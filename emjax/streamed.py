"""Batches that are read on the host: what is wrong with one is told with the update's number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def read_batch(stream: Callable[[int], Any], i: int) -> Any:
    """Batch i of a stream.

    Raises
    ------
    StreamError
        That of the stream, which names the file, with the update before it. Every other error is
        the stream's own, with the update as a note.
    """
    try:
        return stream(i)
    except Exception as error:
        from emjax.data.image_files import StreamError

        if isinstance(error, StreamError):
            raise StreamError(f"the batch of update {i}: {error}") from error
        error.add_note(f"while the batch of update {i} was read")
        raise


def bad_images(stream: Callable[[int], Any], i: int) -> str:
    """Which images of batch i are not finite, by name if the stream knows them; or ""."""
    names, bad = getattr(stream, "names", None), set()
    for leaf in map(np.asarray, jax.tree.leaves(read_batch(stream, i))):
        if leaf.ndim and np.issubdtype(leaf.dtype, np.inexact):
            images = np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
            bad |= set(np.flatnonzero(~images).tolist())
    found = names(i) if names and bad else []
    words = [str(found[k]) if k < len(found) else f"image {k}" for k in sorted(bad)]
    more = f" and {len(words) - 5} more" if len(words) > 5 else ""
    return f" (of the stream: {', '.join(words[:5])}{more})" if words else ""
