"""A trained restorer on an image: counts in, image and its standard deviation out.

>>> restorer = load_restorer("restore_stem")                                  # doctest: +SKIP
>>> image, sigma = restorer(counts)                                           # doctest: +SKIP

The network sees the image with its mean removed and divided by its standard deviation, and its
result is put back into the units of the input. So the whole is equivariant: a·x + b gives
a·f(x) + b for a > 0, whatever the gain and the offset of the detector were.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import jax

    from emjax.models import Model

TASK = "restoration"
"""`meta["task"]` of the models that are restorers."""
SMALLEST = 16
"""Pixels a side of an image that can be restored."""
OF_ELECTRONS = ("blindspot", "pn2v", "pn2v_bootstrap")
"""Objectives whose restorers need images in electrons and are not equivariant."""


class RestorationError(ValueError):
    """An image that cannot be restored, or a model that does not restore; says what to do."""


class Restored(NamedTuple):
    """A restored image [y, x] and the standard deviation of its error, in units of the input."""

    image: np.ndarray
    sigma: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Restorer:
    """``restorer(counts [y, x]) -> Restored``; see `load_restorer`."""

    model: Model
    tile: int = 768
    """Larger images are restored in tiles of so many pixels."""

    @property
    def meta(self) -> dict[str, Any]:
        """What is known of the network (`Model.meta`)."""
        return self.model.meta

    @functools.cached_property
    def sure(self) -> bool:
        """Whether it says how sure it is."""
        import jax

        some = jax.ShapeDtypeStruct((1, 32, 32, 1), np.float32)
        posterior = _objective(self.model, "none").posterior
        return jax.eval_shape(posterior, self.model.params, some)[1] is not None

    def __call__(
        self,
        counts: np.ndarray,
        *,
        readout: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Restored:
        """Restore one image.

        Parameters
        ----------
        counts : [y, x], finite; in any unit and with any offset. Of networks that were trained by
            an objective that knows electrons (`OF_ELECTRONS`): in electrons.
        readout : standard deviation of the read-out noise in electrons, for those alone.
        progress : called with (tiles done, of), for large images.

        Raises
        ------
        RestorationError : not two axes, too small, not finite (says where).
        """
        from emjax.inference import Tiling, predict

        image = checked(counts)
        mean, scale = float(image.mean()), float(image.std())
        if scale <= 1e-12 * max(abs(mean), 1e-300):  # nothing to restore
            flat = np.zeros(image.shape, np.float32) if self.sure else None
            return Restored(image.astype(np.float32), flat)
        if self.meta["objective"] in OF_ELECTRONS:
            # what they do with counts is not linear: no tiles, and no other unit
            run = _compiled(self.model, "image")
            found = run(self.model.params, np.float32(image)[None, ..., None], readout)[0]
            mean, scale = 0.0, 1.0
        else:
            unit = ((image - mean) / scale).astype(np.float32)
            tiling = Tiling(tile=self.tile, halo=96, blend=64, align=32, batch=1)
            alone = _Alone(_compiled(self.model, "none"), self.model.params)
            found = predict(alone, unit[..., None], axes="yxc", tiling=tiling, progress=progress)
        found = np.asarray(found, np.float64)
        restored = (found[..., 0] * scale + mean).astype(np.float32)
        if found.shape[-1] == 1:
            return Restored(restored, None)
        factor = float(self.meta.get("spread", 1.0))
        return Restored(restored, (found[..., 1] * scale * factor).astype(np.float32))


class _Alone(NamedTuple):
    """What `emjax.inference.predict` takes."""

    apply: Callable[..., Any]
    params: Any


def _objective(model: Model, scaling: str) -> Any:
    return _build(model.apply, model.meta["objective"], _options(model), scaling)


def _options(model: Model) -> str:
    """Of the objective, as JSON, with the noise model that was fitted, if one was."""
    options = {**model.meta.get("objective_args", {}), "noise": model.meta.get("noise")}
    return json.dumps({k: v for k, v in options.items() if v is not None}, sort_keys=True)


def _build(apply: Callable, objective: str, options: str, scaling: str) -> Any:
    from emjax.objectives import build
    from emjax.objectives.training import noise_from_meta

    told = json.loads(options)
    if "noise" in told:
        told["noise"] = noise_from_meta(told["noise"])
    return build(objective, apply, **told, scaling=scaling)


def _compiled(model: Model, scaling: str) -> Callable[..., Any]:
    """``(params, x[b, y, x, 1]) -> [b, y, x, 1 or 2]``; kept, so that a series compiles once."""
    return _compile(model.apply, model.meta["objective"], _options(model), scaling)


@functools.lru_cache(maxsize=8)
def _compile(apply: Callable, objective: str, options: str, scaling: str) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    posterior = _build(apply, objective, options, scaling).posterior

    def run(params: Any, x: jax.Array, readout: Any = None) -> jax.Array:
        image, variance = posterior(params, x, readout)
        if variance is None:
            return image
        return jnp.concatenate([image, jnp.sqrt(variance)], axis=-1)

    return jax.jit(run)


def load_restorer(source: str | os.PathLike) -> Restorer:
    """A restorer from a model file, a run's folder or the name of a shipped network.

    Raises
    ------
    CheckpointError : as `emjax.models.load_model`; the stored test pair is verified.
    RestorationError : a network of another task, or trained by an unknown objective.
    """
    from emjax.models import load_model

    model = load_model(source)
    if model.meta.get("task") != TASK:
        raise RestorationError(
            f"{model.meta.get('path', source)} is a network for "
            f"{model.meta.get('task', 'an unknown task')!r}, not a restorer: give one that "
            "`emjax run denoise_stem` has trained"
        )
    try:
        _objective(model, "none")
    except ValueError as error:
        raise RestorationError(f"{model.meta.get('path', source)}: {error}") from error
    return Restorer(model)


def checked(counts: np.ndarray) -> np.ndarray:
    """The image [y, x] in float64. Raises as `Restorer`."""
    image = np.asarray(counts)
    if image.ndim != 2 or min(image.shape) < SMALLEST:
        raise RestorationError(
            f"the image has shape {image.shape}: restorers take one image (y, x) of at least "
            f"{SMALLEST} pixels a side"
        )
    if np.iscomplexobj(image):
        raise RestorationError("the image is complex: restore its real part, modulus or phase")
    image = image.astype(np.float64)
    if not np.isfinite(image).all():
        y, x = np.argwhere(~np.isfinite(image))[0]
        raise RestorationError(
            f"{np.count_nonzero(~np.isfinite(image))} pixels are NaN or infinite, the first at row "
            f"{y}, column {x}: fill them first (emjax.baselines.restoration.FILLERS)"
        )
    return image
