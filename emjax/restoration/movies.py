"""Denoising of movies by what they are made of: noisy frames, each with a few before and after.

A blind-spot network says what a frame's pixel may be, from all around it in space and time; the
posterior with the pixel's own counts is that of single images (`emjax.objectives`, "blindspot").
No clean image is needed, so that a movie may train the network that restores it.

>>> window(0, 8, 5).tolist(), window(4, 8, 5).tolist(), window(6, 8, 5).tolist()
([2, 1, 0, 1, 2], [2, 3, 4, 5, 6], [4, 5, 6, 7, 4])
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from emjax.losses import noise2self_denoise
from emjax.objectives import Objective, build
from emjax.objectives.base import image_scale

Apply = Callable[[Any, jax.Array], jax.Array]
NAMES = ("video", "single")
"""Networks of `movie_loss`: of all frames, and of single frames."""
TOGETHER = 4
"""Frames that are restored at once."""


def window(time: Any, length: int, frames: int) -> Any:
    """Indices [frames] of the frames about one; beyond either end, those of its other side.

    So the frame itself, to which the network is blind, is in no other place than the middle
    (mirrored at the movie's end it would be, and the network would copy its noise).

    Raises
    ------
    ValueError : an even number of frames, or a movie shorter than that.
    """
    check_frames(length, frames)
    index = time + np.arange(frames) - frames // 2
    outside = (index < 0) | (index >= length)
    xp = jnp if isinstance(index, jax.Array) else np
    return xp.where(outside, 2 * time - index, index)


def check_frames(length: int, frames: int) -> None:
    """Raises ValueError where so many frames are no window of a movie of this length."""
    if frames < 1 or frames % 2 == 0:
        raise ValueError(f"{frames} frames have no middle one: choose 1, 3, 5, …")
    if length < frames:
        raise ValueError(
            f"a movie of {length} frames is shorter than the {frames} that the network looks at: "
            "give a longer movie, or train a network of fewer frames"
        )


def middle(frames: jax.Array) -> jax.Array:
    """The middle one [b, y, x, 1] of frames [b, y, x, k]."""
    half = frames.shape[-1] // 2
    return frames[..., half : half + 1]


def movie_objective(
    apply: Apply,
    frames: jax.Array,
    *,
    others: jax.Array | bool = True,
    readout: float = 0.0,
    prior: str = "gamma",
) -> Objective:
    """The blind-spot objective of the middle one of `frames` [b, y, x, k].

    The network sees the frames less their common mean, over their common spread: two numbers that
    know the hidden pixel by a share of one in many thousand.

    Parameters
    ----------
    apply : ``(params, x[b, y, x, k]) -> [b, y, x, 2]``, blind to the pixel in the middle frame.
    frames : counts in electrons.
    others : whether it sees the other frames; if not, they are blank, and count for nothing.
    readout : read-out noise in electrons where neither batch nor call tells it.
    prior : "gamma" (exact) or "gaussian" (faster): see `emjax.objectives.likelihood.blindspot`.
    """
    others = jnp.asarray(others)
    scale = image_scale(jnp.where(others, frames, middle(frames)))
    count = frames.shape[-1]
    visible = others | (jnp.arange(count) == count // 2)
    seen = jnp.where(visible[None, None, None], (frames - scale[0]) / scale[1], 0)
    return build(
        "blindspot",
        lambda params, own: apply(params, seen),
        scaling=lambda own: scale,
        readout=readout,
        prior=prior,
    )


def movie_loss(
    apply: Apply, *, prior: str = "gamma"
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """Losses of two networks, one of all frames and one of single frames, on the same frames.

    Two sets of weights of one architecture, trained side by side: the comparison is of what they
    see, and of nothing else.

    Parameters
    ----------
    apply, prior : of `movie_objective`.

    Returns
    -------
    loss : ``({"video": params, "single": params}, batch) -> (sum, {"video": …, "single": …})`` for
        batches with ``frames`` [b, y, x, k] and, where it is known, ``readout`` [b].
    """

    def loss(params: Any, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, dict]:
        seen = {**batch, "counts": middle(batch["frames"])}
        values = {}
        # written out: in a loop, XLA's convolutions on the CPU are ten times as slow
        for name, others in zip(NAMES, (True, False), strict=True):
            objective = movie_objective(apply, batch["frames"], others=others, prior=prior)
            values[name] = objective.loss(params[name], seen)[0]
        return values["video"] + values["single"], values

    return loss


def movie_restorer(
    apply: Apply, frames: int, *, prior: str = "gamma"
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """``restore(params, counts[t, y, x], readout=0, others=True) -> (image, variance)`` [t, y, x].

    In electrons (and their square); the variance is that of the noise-free value. Compiled for
    each shape; `others` as in `movie_objective`.

    Raises
    ------
    ValueError : counts that are not [t, y, x], or fewer frames than the network looks at.
    """

    @jax.jit
    def some(params: Any, counts: jax.Array, times: jax.Array, readout: jax.Array, others: Any):
        index = jax.vmap(lambda t: window(t, len(counts), frames))(times)
        seen = jnp.moveaxis(counts[index], 1, -1)
        objective = movie_objective(apply, seen, others=others, prior=prior)
        mean, variance = objective.posterior(params, middle(seen), readout)
        return mean[..., 0], variance[..., 0]

    def restore(
        params: Any, counts: Any, readout: Any = 0.0, others: bool = True
    ) -> tuple[jax.Array, jax.Array]:
        counts = jnp.asarray(counts, jnp.float32)
        if counts.ndim != 3:
            raise ValueError(f"a movie is [t, y, x], not of shape {counts.shape}")
        length = len(counts)
        check_frames(length, frames)
        few = min(TOGETHER, length)
        # the last ones are done twice where the frames are no whole number of parts
        starts = [*range(0, length - few, few), length - few]
        parts = []
        for start, after in zip(starts, [*starts[1:], length], strict=True):
            times = jnp.arange(start, start + few)
            made = some(params, counts, times, jnp.float32(readout), jnp.asarray(others))
            parts.append([x[: after - start] for x in made])
        image, variance = (jnp.concatenate(part) for part in zip(*parts, strict=True))
        return image, variance

    return restore


# ---------------------------------------------------------------- networks without a blind spot


def is_blind(apply: Apply, params: Any, frames: int, *, side: int = 16) -> bool:
    """Whether a pixel of the result does not depend on that pixel of the middle frame.

    Tried on noise, with a few pixels changed, each in an image of its own.

    Parameters
    ----------
    apply, params : network ``(params, x[b, y, x, frames]) -> [b, y, x, k]``.
    side : pixels of the images.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(side, side, frames)).astype(np.float32)
    places = rng.integers(0, side, (12, 2))
    images = np.stack([x] * (len(places) + 1))
    own = np.arange(len(places)), *places.T
    images[(*own, frames // 2)] += 3.0
    made = np.asarray(jax.jit(apply)(params, jnp.asarray(images)))
    leak = np.abs((made[:-1] - made[-1:])[own]).max()
    return bool(leak <= 1e-4 * np.abs(made).max())


def blinded(apply: Apply) -> Apply:
    """Any network of frames with a blind spot in the middle one (Noise2Self: Batson & Royer 2019).

    It runs four times, each time with another quarter of the middle frame's pixels replaced by the
    mean of their neighbours, and is read at these.
    """

    def blind(params: Any, x: jax.Array) -> jax.Array:
        half = x.shape[-1] // 2

        def run(params: Any, own: jax.Array) -> jax.Array:
            return apply(params, x.at[..., half].set(own[..., 0]))

        outputs = jax.eval_shape(apply, params, x).shape[-1]
        # as many copies as the network has outputs: the shape of what comes back
        return noise2self_denoise(run, width=2)(params, jnp.repeat(middle(x), outputs, axis=-1))

    return blind


# ---------------------------------------------------------------- batches


def recorded_windows(
    counts: Any, readout: Any, frames: int, patch: int, batch: int, *, turned: bool = False
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """``draw(key) -> {"frames": [b, y, x, frames], "readout": [b]}`` cut from recorded movies.

    Parameters
    ----------
    counts : movies [m, t, y, x] in electrons.
    readout : read-out noise [m] of each, in electrons.
    frames, patch, batch : how many frames of how many pixels a side, and of these how many.
    turned : also mirrored, turned by quarters, and backwards in time, at random, so that it takes
        longer to learn the noise by heart.

    Raises
    ------
    ValueError : movies of another shape, or smaller than what is to be cut from them.
    """
    counts = jnp.asarray(counts, jnp.float32)
    if counts.ndim != 4:
        raise ValueError(f"movies are [m, t, y, x], not of shape {counts.shape}")
    check_frames(counts.shape[1], frames)
    if patch > min(counts.shape[2:]):
        raise ValueError(f"frames of {counts.shape[2:]} pixels do not hold a patch of {patch}")
    noise = jnp.broadcast_to(jnp.asarray(readout, jnp.float32), counts.shape[:1])
    # arrays of a Partial are arguments of the compiled update, not constants in it
    return Partial(functools.partial(_cut, frames, patch, batch, turned), counts, noise)


def _cut(
    frames: int,
    patch: int,
    batch: int,
    turned: bool,
    counts: jax.Array,
    readout: jax.Array,
    key: jax.Array,
) -> dict[str, jax.Array]:
    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        if turned:
            key, k_turn = jax.random.split(key)
        limits = jnp.asarray([*counts.shape[:2], *(n - patch + 1 for n in counts.shape[2:])])
        movie, time, y, x = jax.random.randint(key, (4,), 0, limits)
        index = window(time, counts.shape[1], frames)
        cut = jax.vmap(
            lambda t: jax.lax.dynamic_slice(counts, (movie, t, y, x), (1, 1, patch, patch))
        )(index)
        cut = cut[:, 0, 0]
        if turned:
            back, over, aside, swap = jax.random.bernoulli(k_turn, shape=(4,))
            for do, axis in ((back, 0), (over, 1), (aside, 2)):
                cut = jnp.where(do, jnp.flip(cut, axis), cut)
            cut = jnp.where(swap, cut.swapaxes(1, 2), cut)
        return jnp.moveaxis(cut, 0, -1), readout[movie]

    cut, noise = jax.vmap(one)(jax.random.split(key, batch))
    return {"frames": cut, "readout": noise}


def drawn_windows(draw: Callable[[jax.Array], Mapping[str, jax.Array]]) -> Callable[..., dict]:
    """The same of movies [b, t, y, x] that are drawn each time, all of whose frames are taken."""

    def windows(key: jax.Array) -> dict[str, jax.Array]:
        batch = draw(key)
        return {"frames": jnp.moveaxis(batch["counts"], 1, -1), "readout": batch["readout"]}

    return windows
