"""Critics of adversarial networks: they score images, in patches, at several scales, or as a whole.

Patches: Isola et al., CVPR 2017 (pix2pix); scales: Wang et al., CVPR 2018 (pix2pixHD), for partial
scans Ede, Sci. Rep. 2020. Scores are logits without bound: `emjax.adversarial` has the losses.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from emjax.networks.gan_generators import instance_norm
from emjax.networks.layers import avg_pool, check_channels, conv, dense, global_pool, resize


def _leaky(x: jax.Array) -> jax.Array:
    return nnx.leaky_relu(x, 0.2)


class PatchCritic(nnx.Module):
    """Image to a map of scores, each of which sees one patch.

    ``inputs=3, widths=(64, 128, 256, 512), normalise=True`` is the published critic of 70 x 70
    patches (2,764,737 parameters); of a conditional one, which is shown the generator's input and
    output, ``inputs=6`` (2,767,809).

    Parameters
    ----------
    inputs : channels; of a conditional critic those of both images together.
    widths : channels of the layers; all but the last halve the resolution.
    normalise : instance normalisation of the layers between (the published one). Then a score
        depends on the whole image. Off for the gradient penalty, which is of each image alone but
        for each patch too.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        widths: Sequence[int] = (16, 24, 32),
        *,
        normalise: bool = False,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"a critic needs widths ({widths}) of at least 1")
        self.inputs, self.ndim, self.normalise = inputs, ndim, normalise
        how = {"ndim": ndim, "dtype": dtype, "precision": precision, "rngs": rngs}
        steps = [2] * (len(widths) - 1) + [1]
        pairs = itertools.pairwise((inputs, *widths))
        self.layers = nnx.List(
            [conv(a, b, 4, strides=s, **how) for (a, b), s in zip(pairs, steps, strict=True)]
        )
        self.leave = conv(widths[-1], 1, 4, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> scores [b, (z/s,) y/s, x/s, 1]."""
        check_channels(x, self.inputs, "this critic", self.ndim)
        for k, layer in enumerate(self.layers):
            x = layer(x)
            x = _leaky(instance_norm(x) if k and self.normalise else x)
        return self.leave(x).astype(jnp.float32)


class MultiScaleCritic(nnx.Module):
    """Patch critics of the image and of smaller and smaller versions of it.

    Parameters
    ----------
    inputs, widths, normalise, ndim, dtype, precision : of each `PatchCritic`.
    scales : critics; each sees an image of half the resolution of the one before.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        widths: Sequence[int] = (16, 24),
        *,
        scales: int = 3,
        normalise: bool = False,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if scales < 1:
            raise ValueError(f"scales {scales}: at least one critic is needed")
        more = {"normalise": normalise, "ndim": ndim, "dtype": dtype, "precision": precision}
        self.critics = nnx.List(
            [PatchCritic(inputs, widths, **more, rngs=rngs) for _ in range(scales)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> scores [b, (z/s,) y/s, x/s, scales], finest first.

        Maps of coarser scales are repeated to the size of the finest: a mean over all scores
        weighs the scales equally.
        """
        maps = []
        for k, critic in enumerate(self.critics):
            x = avg_pool(x) if k else x
            maps.append(critic(x))
        shape = maps[0].shape[1:-1]
        return jnp.concatenate([resize(m, shape, "nearest") for m in maps], axis=-1)


class ImageCritic(nnx.Module):
    """Image of any size to one score: the critic of Wasserstein GANs (Gulrajani et al. 2017).

    No normalisation: with a gradient penalty the score of an image must not depend on others.

    Parameters
    ----------
    inputs : channels.
    widths : channels of the layers; each halves the resolution.
    ndim : 2 for images [b, y, x, c], 3 for volumes [b, z, y, x, c].
    dtype, precision : of the computation; None takes those of JAX. The output is float32.
    rngs : keys of the initial weights.
    """

    def __init__(
        self,
        inputs: int = 1,
        widths: Sequence[int] = (16, 24, 32),
        *,
        ndim: int = 2,
        dtype: Any = None,
        precision: Any = None,
        rngs: nnx.Rngs,
    ) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"a critic needs widths ({widths}) of at least 1")
        self.inputs, self.ndim = inputs, ndim
        how = {"dtype": dtype, "precision": precision, "rngs": rngs}
        pairs = itertools.pairwise((inputs, *widths))
        self.layers = nnx.List([conv(a, b, 4, strides=2, ndim=ndim, **how) for a, b in pairs])
        self.leave = dense(widths[-1], 1, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[b, (z,) y, x, inputs] -> scores [b, 1]."""
        check_channels(x, self.inputs, "this critic", self.ndim)
        for layer in self.layers:
            x = _leaky(layer(x))
        return self.leave(global_pool(x)).astype(jnp.float32)
