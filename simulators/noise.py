"""Noise models: `sample(key, rate)` makes data, `log_likelihood(counts, rate)` fits them.

`rate` is the expected number of detected electrons per pixel. A model is a small pytree, so its
parameters can be drawn at random inside a compiled training step, or fitted. Models of what
happens before electrons are counted (the beam, the specimen's surface) turn a rate into a rate and
have no likelihood of their own; `Chain` puts them in front of one that counts.
"""

from __future__ import annotations

from typing import Any

import jax

from simulators.beam import BeamCurrent
from simulators.camera import Camera, draw_camera
from simulators.contamination import Contamination
from simulators.counting import (
    FAST_LIMIT,
    Anscombe,
    Gaussian,
    Poisson,
    PoissonGaussian,
    PoissonReadout,
    fast_poisson,
)
from simulators.impulses import SaltPepper, XRays
from simulators.tree import pytree

__all__ = [
    "FAST_LIMIT",
    "NOISE",
    "Anscombe",
    "BeamCurrent",
    "Camera",
    "Chain",
    "Contamination",
    "Gaussian",
    "Poisson",
    "PoissonGaussian",
    "PoissonReadout",
    "SaltPepper",
    "XRays",
    "draw_camera",
    "fast_poisson",
]


@pytree
class Chain:
    """Several models one after the other: contamination, then the beam, then the camera.

    Attributes
    ----------
    parts : tuple of models
        Each receives what the one before made; the last counts.
    """

    parts: tuple[Any, ...]

    def sample(self, key: jax.Array, rate: jax.Array) -> jax.Array:
        """Data like `rate`."""
        for k, part in zip(jax.random.split(key, len(self.parts)), self.parts, strict=True):
            rate = part.sample(k, rate)
        return rate


NOISE = {
    "poisson": Poisson,
    "gaussian": Gaussian,
    "poisson_readout": PoissonReadout,
    "poisson_gaussian": PoissonGaussian,
    "anscombe": Anscombe,
    "camera": Camera,
    "x_rays": XRays,
    "salt_pepper": SaltPepper,
    "beam_current": BeamCurrent,
    "contamination": Contamination,
}
"""Noise models by name; the contract tests go through all of them."""
