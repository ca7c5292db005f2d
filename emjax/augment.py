"""Symmetries of images: in the batches of a training, and at its end for a mean and a spread.

Images of crystals look as likely mirrored and rotated by 90° as they are; with scan distortions,
read-out directions or a fixed detector they do not: leave the symmetry out that is not there.

The eight transforms of the square (the dihedral group) are numbered 0 to 7: number k + 4 m mirrors
x where m = 1, and then turns by k · 90° as `numpy.rot90` does (from y towards x).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from emjax.schedules import as_partial, takes_step

Apply = Callable[[Any, jax.Array], jax.Array]
Undo = Callable[[jax.Array], jax.Array]
View = Callable[[jax.Array, jax.Array], tuple[jax.Array, Undo]]
"""``(key, x) -> (x seen otherwise, how to bring the output back)``."""

YX = (-3, -2)
"""Axes y and x of channels-last arrays."""


def dihedral(x: jax.Array, which: int | jax.Array, *, axes: tuple[int, int] = YX) -> jax.Array:
    """Transform number `which` of an image.

    Parameters
    ----------
    x : [..., y, x, c] (or y and x at `axes`).
    which : 0 to 7. A traced number needs y and x of one length.

    Raises
    ------
    ValueError : a number outside of 0 to 7; a traced one for an image that is not square.
    """
    if not isinstance(which, jax.Array):
        if not 0 <= which < 8:
            raise ValueError(f"there are the transforms 0 to 7 of a square, not {which}")
        return _turned(x, int(which), axes)
    if x.shape[axes[0]] != x.shape[axes[1]]:
        raise ValueError(
            f"images of {x.shape[axes[0]]} × {x.shape[axes[1]]} pixels change their shape when "
            "turned: cut squares, or use random_flips"
        )
    branches = [lambda x, k=k: _turned(x, k, axes) for k in range(8)]
    return jax.lax.switch(which, branches, x)


def inverse_dihedral(which: int | jax.Array) -> Any:
    """Number of the transform that undoes number `which`."""
    # a mirror image of a turn is its own inverse; turns are undone by turning back
    if isinstance(which, jax.Array):
        return jnp.where(which >= 4, which, (4 - which) % 4)
    return which if which >= 4 else (4 - which) % 4


def dihedral_points(points: jax.Array, which: int, *, shape: tuple[int, int]) -> jax.Array:
    """Positions (x, y) in pixels of what `dihedral` moved.

    Parameters
    ----------
    points : [..., 2], (x, y) in pixels; pixel i lies AT i.
    which : 0 to 7.
    shape : (y, x) pixels of the image before.
    """
    x, y = points[..., 0], points[..., 1]
    h, w = shape
    if which >= 4:
        x = w - 1 - x
    for _ in range(which % 4):  # rot90: the last column becomes the first row
        x, y, h, w = y, w - 1 - x, w, h
    return jnp.stack([x, y], axis=-1)


def random_dihedral(key: jax.Array, batch: Any, *, axes: tuple[int, int] = YX) -> Any:
    """Each image of a batch transformed by one of the eight at random.

    Parameters
    ----------
    key : random key.
    batch : array, or pytree of arrays (image, target, weight): arrays [b, ..., y, x, c] that have
        the batch's length and at least 3 axes. Entry i of all is transformed alike. Arrays
        [b, y, x] count as images without channels; others (numbers, points, arrays of another size
        than the largest image) stay.
    axes : y and x of those with channels.
    """
    number, size = _images(batch, axes)
    which = jax.random.randint(key, (number,), 0, 8)

    def move(leaf: jax.Array) -> jax.Array:
        if _image_size(leaf, axes) != (number, *size):
            return leaf
        place = (-2, -1) if leaf.ndim == 3 else axes
        return jax.vmap(lambda x, k: dihedral(x, k, axes=place))(leaf, which)

    return jax.tree.map(move, batch)


def random_flips(key: jax.Array, batch: Any, *, axes: tuple[int, int] = YX) -> Any:
    """Each image mirrored in y, x, both or neither; any shape. Otherwise as `random_dihedral`."""
    number, size = _images(batch, axes)
    flips = jax.random.bernoulli(key, 0.5, (2, number))

    def move(leaf: jax.Array) -> jax.Array:
        if _image_size(leaf, axes) != (number, *size):
            return leaf
        for flip, axis in zip(flips, (-2, -1) if leaf.ndim == 3 else axes, strict=True):
            each = flip.reshape((-1,) + (1,) * (leaf.ndim - 1))
            leaf = jnp.where(jnp.broadcast_to(each, leaf.shape), jnp.flip(leaf, axis), leaf)
        return leaf

    return jax.tree.map(move, batch)


def _image_size(leaf: Any, axes: tuple[int, int]) -> tuple[int, ...]:
    """(b, y, x) of an array of images, or () of another."""
    if jnp.ndim(leaf) < 3:
        return ()
    place = (-2, -1) if leaf.ndim == 3 else axes
    return leaf.shape[0], leaf.shape[place[0]], leaf.shape[place[1]]


def _images(batch: Any, axes: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Number and (y, x) of a batch's images: of its largest array with at least 3 axes.

    Arrays of other sizes are none of them (points [b, n, 2], spectra [b, n, c]) and stay.
    """
    leaves = [leaf for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf) >= 3]
    if not leaves:
        raise ValueError("the batch holds no images [b, y, x, c] or [b, y, x]")
    number, y, x = _image_size(max(leaves, key=lambda leaf: (leaf.ndim > 3, leaf.size)), axes)
    return number, (y, x)


def random_crop(key: jax.Array, batch: Any, size: tuple[int, int]) -> Any:
    """A window of `size` (y, x) at one random place of each image, the same for all arrays.

    Arrays are [b, y, x, ...] with one b, y and x; those with fewer axes stay.
    """
    leaves = [leaf for leaf in jax.tree.leaves(batch) if jnp.ndim(leaf) >= 3]
    if not leaves or any(leaf.shape[:3] != leaves[0].shape[:3] for leaf in leaves):
        raise ValueError(
            f"the images of a batch differ in size: {sorted({leaf.shape for leaf in leaves})}"
        )
    b, h, w = leaves[0].shape[:3]
    if not (0 < size[0] <= h and 0 < size[1] <= w):
        raise ValueError(f"a window of {size} pixels does not fit into images of ({h}, {w})")
    most = jnp.array([[h - size[0] + 1], [w - size[1] + 1]])
    corner = jax.random.randint(key, (2, b), 0, jnp.broadcast_to(most, (2, b)))

    def cut(leaf: jax.Array) -> jax.Array:
        if jnp.ndim(leaf) < 3:
            return leaf

        def one(x: jax.Array, at: jax.Array) -> jax.Array:
            start = (at[0], at[1]) + (0,) * (x.ndim - 2)
            return jax.lax.dynamic_slice(x, start, (*size, *x.shape[2:]))

        return jax.vmap(one)(leaf, corner.T)

    return jax.tree.map(cut, batch)


def augmented(
    draw: Callable[..., Any], *transforms: Callable[[jax.Array, Any], Any]
) -> Callable[..., Any]:
    """``draw`` followed by transforms ``(key, batch) -> batch``, each with a key of its own.

    The arrays of a `jax.tree_util.Partial` stay arguments of the compiled update.
    """
    # the step's number goes to `draw` if it asks for it
    function = _augmented_at if takes_step(draw) else _augmented
    return jax.tree_util.Partial(function, as_partial(draw), [as_partial(t) for t in transforms])


def _augmented(
    draw: Callable[..., Any], transforms: Sequence[Any], key: jax.Array, *streamed: Any, **more: Any
) -> Any:
    batch = draw(key, *streamed, **more)
    for i, transform in enumerate(transforms):
        # beside the keys that `draw` may split off
        batch = transform(jax.random.fold_in(key, 2**31 + i), batch)
    return batch


def _augmented_at(
    draw: Callable[..., Any], transforms: Sequence[Any], key: jax.Array, *streamed: Any, step: Any
) -> Any:
    return _augmented(draw, transforms, key, *streamed, step=step)


def symmetric(
    apply: Apply, *, which: Sequence[int] = tuple(range(8)), axes: tuple[int, int] = YX
) -> Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]:
    """A network that looks at an image in all eight ways: ``(params, x) -> (mean, spread)``.

    The mean moves with the image when that is mirrored or turned, exactly, whatever the network.
    The spread (standard deviation over the views) is large where the network is not sure which
    way round a thing is; it is a lower bound of the error, not an estimate of it.

    Parameters
    ----------
    apply : image to image, ``(params, x[b, y, x, c]) -> y[b, y, x, k]``, scalars in its channels
        (components of a vector would have to be turned too).
    which : numbers of the transforms; (0, 2, 4, 6) keep the shape of an oblong image, so that
        one program serves all.
    """

    def views(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        made = [
            dihedral(apply(params, dihedral(x, k, axes=axes)), inverse_dihedral(k), axes=axes)
            for k in which
        ]
        stack = jnp.stack(made)
        return stack.mean(0), stack.std(0)

    return views


def monte_carlo(
    apply: Apply, view: View, *, samples: int = 16
) -> Callable[[jax.Array, Any, jax.Array], tuple[jax.Array, jax.Array]]:
    """Test-time augmentation: ``(key, params, x) -> (mean, spread)`` over random views.

    Wang et al., Neurocomputing 2019: views drawn as the images themselves could have come out
    (turned, shifted, with other noise) show how much the result depends on that.

    Parameters
    ----------
    apply : ``(params, x) -> y``.
    view : ``(key, x) -> (x', undo)``; `random_view`, `noisy_view`, or one's own.
    samples : views; memory does not grow with them.
    """
    if samples < 2:
        raise ValueError(f"a spread needs at least 2 views, not {samples}")

    def views(key: jax.Array, params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def one(key: jax.Array) -> jax.Array:
            seen, undo = view(key, x)
            return undo(apply(params, seen))

        shape = jax.eval_shape(one, key)

        def add(carry: tuple[jax.Array, jax.Array], i: jax.Array) -> tuple[Any, None]:
            mean, squares = carry  # Welford: no difference of large numbers
            y = one(jax.random.fold_in(key, i)).astype(jnp.float32)
            change = y - mean
            mean = mean + change / (i + 1)
            return (mean, squares + change * (y - mean)), None

        zeros = jnp.zeros(shape.shape, jnp.float32)
        (mean, squares), _ = jax.lax.scan(add, (zeros, zeros), jnp.arange(samples))
        return mean, jnp.sqrt(squares / (samples - 1))

    return views


def random_view(*, shift: int = 0, turns: bool = True, axes: tuple[int, int] = YX) -> View:
    """One of the eight transforms (`turns`; square images) and a cyclic shift of up to `shift`."""

    def view(key: jax.Array, x: jax.Array) -> tuple[jax.Array, Undo]:
        a, b = jax.random.split(key)
        which = jax.random.randint(a, (), 0, 8) if turns else 0
        by = jax.random.randint(b, (2,), -shift, shift + 1)
        seen = jnp.roll(dihedral(x, which, axes=axes), by, axes)

        def undo(y: jax.Array) -> jax.Array:
            return dihedral(jnp.roll(y, -by, axes), inverse_dihedral(which), axes=axes)

        return seen, undo

    return view


def noisy_view(sample: Callable[[jax.Array, jax.Array], jax.Array]) -> View:
    """Views with other noise, drawn by ``sample(key, x)``; outputs stay where they are."""
    return lambda key, x: (sample(key, x), lambda y: y)


def _turned(x: jax.Array, which: int, axes: tuple[int, int]) -> jax.Array:
    if which >= 4:
        x = jnp.flip(x, axes[1])
    return jnp.rot90(x, which % 4, axes)
