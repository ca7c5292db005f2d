"""Real images for the training: read from files in advance, in batches that depend on the step.

A stream is what `emjax.training_step.make_step` takes as `stream`: ``stream(i) -> dict of NumPy
arrays`` is the batch of update i, always the same for the same i (so that a run can be stopped and
resumed anywhere), and ``stream.names(i)`` tells where each of its images comes from::

    images = open_images("frames/")                       # a folder of TIFFs, or an HDF5 file
    real, simulated = counts(0.25, 16)                    # a quarter of each batch is real
    stream = Prefetch(crops(images, batch=real, patch=64, seed=0))
    step = make_step(loss, mix(draw, 0.25, 16), tx, stream=stream)     # draw makes `simulated`

Of several processes that train together, each reads every batch whole and keeps the part of its own
devices: all must see the same files, and a shared disk gives each file to each of them. Give the
data set a copy on every node, or simulate more and read less, where the disk is what one waits for.

Nothing is repaired silently: an empty folder, images of several sizes or pixel sizes and values
that are not finite are errors that name the files.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from emjax.data.image_files import Images, StreamError, open_images

__all__ = [
    "Crops",
    "Images",
    "Prefetch",
    "Stream",
    "StreamError",
    "counts",
    "crops",
    "labelled",
    "mix",
    "open_images",
]


class Stream(Protocol):
    """The batches of the updates."""

    def __call__(self, i: int) -> Any: ...

    def names(self, i: int) -> list[str]: ...


class Crops:
    """Random square crops of random images. Made by `crops`."""

    def __init__(
        self,
        images: Images,
        *,
        batch: int,
        patch: int | None,
        seed: int,
        prepare: Callable[[np.ndarray], Any] | None,
        name: str,
        cache: int,
    ) -> None:
        self.images, self.batch, self.patch = images, batch, patch
        self._seed, self._prepare, self._name = seed, prepare, name
        self._cache, self._kept, self._room = OrderedDict(), 0, cache
        self._lock = threading.Lock()

    def __call__(self, i: int) -> dict[str, np.ndarray]:
        """Batch i."""
        return {self._name: np.stack([self._cut(j, places) for j, places in self._chosen(i)])}

    def names(self, i: int) -> list[str]:
        """Files of batch i."""
        return [self.images.names[j] for j, _ in self._chosen(i)]

    def _chosen(self, i: int) -> list[tuple[int, np.ndarray]]:
        random = np.random.default_rng((self._seed, i))
        return list(
            zip(
                random.integers(len(self.images), size=self.batch).tolist(),
                random.random((self.batch, 2)),
                strict=True,
            )
        )

    def _cut(self, j: int, places: np.ndarray) -> np.ndarray:
        image = self._image(j)
        if self.patch is not None:
            spare = np.array(image.shape[:2]) - self.patch + 1
            y, x = (places * spare).astype(int)
            image = image[y : y + self.patch, x : x + self.patch]
        return image if self._prepare is None else np.asarray(self._prepare(image), np.float32)

    def _image(self, j: int) -> np.ndarray:
        with self._lock:
            if j in self._cache:
                self._cache.move_to_end(j)
                return self._cache[j]
        image = self.images.read(j)
        with self._lock:
            if image.nbytes <= self._room and j not in self._cache:
                self._cache[j] = image
                self._kept += image.nbytes
                while self._kept > self._room:
                    self._kept -= self._cache.popitem(last=False)[1].nbytes
        return image


def crops(
    images: Images,
    *,
    batch: int,
    patch: int | None = None,
    seed: int = 0,
    prepare: Callable[[np.ndarray], Any] | None = None,
    name: str = "image",
    cache: int = 2**30,
) -> Crops:
    """A stream of random crops.

    Parameters
    ----------
    images
        Of `open_images`.
    batch
        Images in a batch.
    patch
        Side of the crops [px]; None: whole images, which must be of one size.
    seed
        Batch i depends on it and on i.
    prepare
        Of every crop [y, x, c] -> [y, x, k], on the host: scaling, for example.
    name
        Of the array in the batch.
    cache
        Bytes of images that are kept in memory.

    Raises
    ------
    StreamError
        Images smaller than the crops, of several sizes where whole ones are asked for, or with
        several numbers of channels; no image in a batch.
    """
    if batch < 1:
        raise StreamError(f"a batch of {batch} images: at least one is needed")
    first = images.shapes[0]
    for shape, file in zip(images.shapes, images.names, strict=True):
        if shape[2] != first[2] or (patch is None and shape != first):
            what = "channels" if shape[2] != first[2] else "sizes"
            raise StreamError(
                f"the images have several {what}: {images.names[0]} is {_size(first)} and {file} "
                f"is {_size(shape)}. "
                + ("Sort them." if what == "channels" else "Sort them, or give a patch to cut.")
            )
        if patch is not None and min(shape[:2]) < patch:
            raise StreamError(
                f"{file} is {_size(shape)}, smaller than the crops of {patch} pixels: leave it out "
                "or make the crops smaller"
            )
    return Crops(
        images, batch=batch, patch=patch, seed=seed, prepare=prepare, name=name, cache=cache
    )


def labelled(data: Any, *, batch: int, seed: int = 0, fields: Sequence[str] = ()) -> Stream:
    """A stream of a data set in shards (`emjax.dataset.open_dataset`).

    Every image comes once in ``len(data) // batch`` updates, in an order that differs from one
    round to the next. `fields`: names of the arrays to read; none: all.
    """
    return _Labelled(data, batch, seed, tuple(fields))


class _Labelled:
    def __init__(self, data: Any, batch: int, seed: int, fields: tuple[str, ...]) -> None:
        if not 1 <= batch <= len(data):
            raise StreamError(f"a batch of {batch} from a data set of {len(data)} images")
        self._data, self._batch, self._seed, self._fields = data, batch, seed, fields

    def __call__(self, i: int) -> dict[str, np.ndarray]:
        found = self._data.read(self._indices(i))
        return {name: found[name] for name in self._fields or found}

    def names(self, i: int) -> list[str]:
        return [self._data.name(j) for j in self._indices(i).tolist()]

    def _indices(self, i: int) -> np.ndarray:
        per_round = len(self._data) // self._batch
        turn, step = divmod(i, per_round)
        order = np.random.default_rng((self._seed, turn)).permutation(len(self._data))
        return order[step * self._batch : (step + 1) * self._batch]


class Prefetch:
    """A stream that a thread reads ahead: batch i + 1 is ready when update i ends.

    Parameters
    ----------
    stream
        Any stream.
    depth
        Batches in advance.

    The batches are those of `stream`, and so are its errors, which come when the batch is asked
    for. `close` (or a ``with`` block) ends the thread.
    """

    def __init__(self, stream: Stream, depth: int = 2) -> None:
        if depth < 1:
            raise StreamError(f"depth {depth}: read at least one batch in advance")
        self._stream, self._depth = stream, depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="emjax-stream")
        self._ahead: dict[int, Future] = {}

    def __call__(self, i: int) -> Any:
        """Batch i."""
        wanted = range(i, i + self._depth + 1)
        for j in [j for j in self._ahead if j not in wanted]:  # after a jump, as at a restart
            self._ahead.pop(j).cancel()
        for j in wanted:
            if j not in self._ahead:
                self._ahead[j] = self._pool.submit(self._stream, j)
        return self._ahead.pop(i).result()

    def names(self, i: int) -> list[str]:
        """Of the stream."""
        return self._stream.names(i)

    def close(self) -> None:
        """End the thread; batches that were not asked for are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def counts(share: float, batch: int) -> tuple[int, int]:
    """(real, simulated) images that `mix` needs for a batch in which `share` are real.

    >>> counts(0.25, 16), counts(0.01, 16)
    ((4, 12), (1, 16))
    """
    if not 0 <= share <= 1 or batch < 1:
        raise StreamError(f"a share of {share} in a batch of {batch}: choose from 0 to 1")
    exact = share * batch
    whole = round(exact) if math.isclose(exact, round(exact), abs_tol=1e-6) else None
    low, high = (whole, whole) if whole is not None else (math.floor(exact), math.ceil(exact))
    return high, batch - low


def mix(
    draw: Callable[[Any], dict[str, Any]], share: float, batch: int, *, flag: str | None = "real"
) -> Callable[[Any, dict[str, Any]], dict[str, Any]]:
    """Simulated and real images in one batch, at any ratio.

    Parameters
    ----------
    draw
        ``key -> batch`` of simulated images; runs on the device. It makes as many as the second
        number of `counts`.
    share
        Part of the images that is real, on average; where it is no whole number of images, one
        place in the batch is drawn for one or the other.
    batch
        Images in the mixed batch.
    flag
        Name of an array [b] float32 that is 1 for the real ones; None: none.

    Returns
    -------
    ``(key, streamed) -> batch`` for `make_step`: the arrays that both have, real ones first. What
    simulated images alone have (labels) is 0 for the real ones.

    Raises
    ------
    StreamError
        When it is called: other numbers of images than `counts` says; arrays of other shapes;
        arrays that the simulated images do not have.
    """
    real, simulated = counts(share, batch)
    fraction = share * batch - (batch - simulated)

    def mixed(draw: Any, key: Any, streamed: dict[str, Any], step: Any = None) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        k_draw, k_choice = jax.random.split(key)
        drawn = draw(k_draw, step=step) if takes_step(draw) else draw(k_draw)
        _check_mixed(drawn, streamed, simulated, real)
        # the place that may be either: the last real image or the first simulated one
        either = real + simulated - batch
        take = jax.random.uniform(k_choice) < fraction
        result = {}
        for name, made in drawn.items():
            found = streamed.get(name)
            found = jnp.zeros((real, *made.shape[1:]), made.dtype) if found is None else found
            parts = [found[: real - either], made[either:]]
            if either:
                parts.insert(1, jnp.where(take, found[-1:], made[:1]))
            result[name] = jnp.concatenate([part.astype(made.dtype) for part in parts])
        if flag is not None:
            marks = [jnp.ones(real - either), jnp.zeros(simulated - either)]
            if either:
                marks.insert(1, take[None].astype(jnp.float32))
            result[flag] = jnp.concatenate(marks)
        return result

    from jax.tree_util import Partial

    from emjax.schedules import takes_step

    # the arrays of a Partial stay arguments of the compiled step
    return Partial(mixed, draw) if isinstance(draw, Partial) else functools.partial(mixed, draw)


def _check_mixed(drawn: dict, streamed: dict, simulated: int, real: int) -> None:
    unknown = sorted(set(streamed) - set(drawn))
    if unknown:
        raise StreamError(
            f"the real images have {', '.join(unknown)}, which the simulated ones lack: "
            f"those have {', '.join(drawn)}"
        )
    for kind, arrays, number in (("simulated", drawn, simulated), ("real", streamed, real)):
        for name, array in arrays.items():
            if len(array) != number:
                raise StreamError(
                    f"{number} {kind} images a batch are needed (see counts), not {len(array)}"
                )
            if array.shape[1:] != drawn[name].shape[1:]:
                raise StreamError(
                    f"{name} is {array.shape[1:]} in real and {drawn[name].shape[1:]} in simulated "
                    "images: crop and prepare the real ones alike"
                )


def _size(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]} x {shape[1]} pixels, {shape[2]} channel{'s' * (shape[2] > 1)}"
